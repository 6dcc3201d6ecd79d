"""Do the remedies work? Every remedy that names a value is applied to the sick run, which then trains again.

    python -m benchmarks.clinic.remedies --data DIR
    python -m benchmarks.clinic.remedies --data DIR --cases benchmarks/clinic/rates.py

A remedy works if the run with it ends better than the sick one, and with at least nine tenths of the
validation accuracy of the run without the fault. The values are those under `setting` in `findings.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # case files import `clinic` as a module of its own

import clinic  # noqa: E402

from benchmarks.machine import print_where_and_when  # noqa: E402

CLOSE = 0.9
"""Share of the healthy run's accuracy."""


def accuracy(outcome: clinic.Outcome) -> float:
    return outcome.metrics.get("val/acc", math.nan)


def settings(folder: Path) -> list[tuple[str, dict[str, float]]]:
    """The different settings that remedies of the run name, each with its cause."""
    path = next(folder.rglob("findings.json"), None)
    entries = json.loads(path.read_text()) if path else []
    named = {json.dumps(entry["setting"]): entry["cause"] for entry in reversed(entries) if entry["setting"]}
    return [(cause, json.loads(setting)) for setting, cause in reversed(named.items())]


def main() -> None:
    parser = argparse.ArgumentParser(description="Apply every remedy that names a value, and train again.")
    parser.add_argument("--data", type=Path, required=True, help="the unpacked CIFAR-10 archive")
    parser.add_argument("--cases", default="dev", help="dev, or the path of a case file")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these cases only")
    parser.add_argument("--out", type=Path, help="write every trial here as JSON")
    arguments = parser.parse_args()
    file = HERE / "cases.py" if arguments.cases == "dev" else Path(arguments.cases).resolve()
    cases = [case for case in clinic.load_cases(file) if case.sick]
    clinic.load_images(arguments.data)
    trials: list[dict[str, Any]] = []
    for case in cases:
        if arguments.only and case.name not in arguments.only:
            continue

        def run(tool: str = "none", name: str = case.name, **more: Any) -> clinic.Outcome:
            job = clinic.Job(str(file), name, tool, None, str(arguments.data), **more)
            return clinic.run_in_process(job, (), clinic.TIME_LIMIT)

        with tempfile.TemporaryDirectory() as folder:
            sick = run("vitals", folder=folder)
            found = settings(Path(folder))
        healthy = run(twin=True) if found else None
        if healthy is None:
            print(f"{case.name:28} no remedy names a value", flush=True)
        for cause, setting in found:
            assert healthy is not None
            cured = run(setting=setting)
            before, after, meant = map(accuracy, (sick, cured, healthy))
            good = after > before and after >= CLOSE * meant
            trial = {"case": case.name, "cause": cause, "setting": setting, "works": good}
            trials.append(trial | {"sick": before, "cured": after, "healthy": meant})
            values = ", ".join(f"{name} {value:g}" for name, value in setting.items())
            print(
                f"{case.name:28} {cause:24} {values:24} sick {before:.3f}, cured {after:.3f}, "
                f"healthy {meant:.3f}  {'works' if good else 'FAILS'}",
                flush=True,
            )
    better = sum(trial["cured"] > trial["sick"] for trial in trials)
    works = sum(trial["works"] for trial in trials)
    print(
        f"\n{works} of {len(trials)} remedies that name a value bring the run within {1 - CLOSE:.0%} of the "
        f"healthy one's accuracy; {better} end better than the sick run"
    )
    print_where_and_when()
    if arguments.out:
        arguments.out.write_text(json.dumps(trials, indent=1))


if __name__ == "__main__":
    main()
