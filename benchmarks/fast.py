"""Accuracy of an experiment for the time it is given: `python -m benchmarks.fast data.root=<images>`.

    python -m benchmarks.fast data.root=<images>     # fast_cpu, 90 seconds, 3 seeds
    python -m benchmarks.fast data.root=<images> trainer.max_time=00:00:10:00

Whole commands, one after the other, each with all cores; the test images are looked at once, at the end.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import ROOT, figure, print_where_and_when
from vitals.files import read_json

SHOWN = {
    "validation, %": ("metrics", "last/accuracy_val", 100),
    "test, %": ("metrics", "test/accuracy", 100),
    "training, s": ("training_seconds", "", 1),
    "optimizer steps": ("step", "", 1),
}
"""What of a run's status is shown: its key, a key within it, and a factor."""


def run(words: list[str], seed: int, folder: Path) -> dict[str, float]:
    """Train with these words; the figures of the run, and its seconds from start to end."""
    own = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *words, f"seed={seed}"]
    start = time.perf_counter()
    log = folder.with_suffix(".txt")
    with log.open("w") as output:
        ended = subprocess.run([*command, f"hydra.run.dir={folder}"], env=own, stdout=output, stderr=output)
    seconds = time.perf_counter() - start
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)} ended with code {ended.returncode}:\n{log.read_text()}")
    status = read_json(folder / "status.json")
    found = {}
    for name, (key, within, factor) in SHOWN.items():
        found[name] = factor * float(status[key][within] if within else status[key])
    return found | {"whole command, s": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="+", help="of the command line, data.root=<images> among them")
    parser.add_argument("--experiment", default="fast_cpu")
    parser.add_argument("--seeds", type=int, default=3, help="runs, with the seeds 0, 1, …")
    arguments = parser.parse_intermixed_args()
    words = [f"experiment={arguments.experiment}", "~callbacks.progress", *arguments.words]
    with tempfile.TemporaryDirectory() as place:
        runs = [run(words, seed, Path(place) / str(seed)) for seed in range(arguments.seeds)]
    print(" ".join(words))
    for name in runs[0]:
        print(f"  {name:<18} {figure([each[name] for each in runs], '.4g')}")
    print_where_and_when()


if __name__ == "__main__":
    main()
