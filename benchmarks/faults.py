"""Do to runs whatever can be done to them, and count what they did not survive: a table for docs/figures.md.

    python -m benchmarks.faults                       # the whole campaign, for hours
    python -m benchmarks.faults kills --kills 100     # runs killed anywhere, continued, and compared

| part | what | what must come of it |
| --- | --- | --- |
| `kills` | SIGKILL at every named place, in any optimizer step, at any time | every file as without it |
| `disk` | no room or no folder at every kind of write; read-only | a sentence; then it ends |
| `damage` | files of a folder, damaged in nine ways, and every command | no traceback |
| `hostile` | folders that would run something, or grow without end | nothing executed, no traceback |
| `fuzz` | command lines nobody would type | no traceback |
| `sweep` | a tenth of the jobs killed | all finished, and equal to the command run alone |
| `long` | a run of many epochs | as much memory, and as long an epoch, at its end |
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.machine import print_where_and_when
from benchmarks.unbreakable import damage, disk, hostile, kills, long, swept
from benchmarks.unbreakable.commands import Commands

Row = tuple[str, str, str]
"""What was done, how often, and what came of it."""


def say(words: str) -> None:
    print(words, flush=True)


def kill_rows(arguments: argparse.Namespace, folder: Path) -> list[Row]:
    every = list(kills.VARIANTS)
    chosen = [every[number] for number in arguments.variants or range(len(every))]
    killed = kills.campaign(arguments.kills, arguments.seed, folder, chosen, arguments.words, say)
    done = [kill for kill in killed if kill.happened]
    rows = []
    for variant in chosen:
        of_variant = [kill for kill in done if kill.variant == variant]
        equal = sum(not kill.unequal for kill in of_variant)
        rows.append((f"killed: {variant}", f"{len(of_variant)}", f"{equal} equal in every file"))
    equal = sum(not kill.unequal for kill in done)
    return [*rows, ("killed, all of them", f"{len(done)}", f"{equal} equal in every file")]


def disk_rows(arguments: argparse.Namespace, folder: Path) -> list[Row]:
    try:
        found = disk.troubles(Commands(), folder, say)
    except OSError as error:
        return [("no room on the disk", "0", str(error))]
    rows = []
    for kind, words in (
        ("fill", "no room at a write"),
        ("delete", "folder deleted"),
        ("read-only", "read-only"),
    ):
        of_kind = [trouble for trouble in found if trouble.kind == kind]
        good = sum(not trouble.wrong for trouble in of_kind)
        rows.append((words, f"{len(of_kind)}", f"{good} said in a sentence, and finished once there is room"))
    return rows


def damage_rows(arguments: argparse.Namespace, folder: Path) -> list[Row]:
    done = damage.damaged(Commands(), folder, arguments.damages, random.Random(arguments.seed), say)
    wrong = sum(bool(each.wrong) for each in done)
    return [("commands on damaged folders", f"{len(done)}", f"{wrong} tracebacks or hanging")]


def hostile_rows(arguments: argparse.Namespace, folder: Path) -> list[Row]:
    done = hostile.attempts(Commands(), folder, say)
    executed = sum(attempt.executed for attempt in done)
    wrong = sum(bool(attempt.wrong) for attempt in done)
    return [
        ("commands on hostile folders", f"{len(done)}", f"{executed} executed, {wrong} tracebacks or hanging")
    ]


def fuzz_rows(arguments: argparse.Namespace, folder: Path) -> list[Row]:
    from benchmarks.unbreakable import fuzz  # for which hypothesis must be there

    wrong = []

    def look(answer: fuzz.Answer) -> None:
        if answer.wrong:
            wrong.append(answer)
            say(f"{answer.words}: {answer.wrong}")

    done = fuzz.fuzzed(arguments.lines, arguments.seed, say=look)
    return [("fuzzed command lines", f"{done}", f"{len(wrong)} tracebacks")]


def sweep_rows(arguments: argparse.Namespace, folder: Path) -> list[Row]:
    chance, jobs = random.Random(arguments.seed), arguments.jobs
    sweep = swept.killed_sweep(Commands(), folder, jobs, 0.1, chance, say)
    killed = len(sweep.killed)
    unequal = len({words.partition(":")[0] for words in sweep.unequal})
    return [
        (
            f"jobs of a sweep, {killed} killed",
            f"{jobs}",
            f"{sweep.finished} finished, {sweep.rows} in its table",
        ),
        ("killed jobs", f"{killed}", f"{killed - unequal} equal to the command run alone"),
    ]


def long_rows(arguments: argparse.Namespace, folder: Path) -> list[Row]:
    run = long.long_run(Commands(), folder, arguments.epochs)
    memory = f"{run.early:,.0f} MiB in the second tenth, {run.late:,.0f} in the last"
    seconds = f"{run.early_seconds:.2f} s an epoch, then {run.late_seconds:.2f}"
    return [("epochs of one run", f"{run.epochs:,}", f"{memory}; {seconds}")]


PARTS: dict[str, Callable[[argparse.Namespace, Path], list[Row]]] = {
    "kills": kill_rows,
    "disk": disk_rows,
    "damage": damage_rows,
    "hostile": hostile_rows,
    "fuzz": fuzz_rows,
    "sweep": sweep_rows,
    "long": long_rows,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--variants", type=int, nargs="*", help="numbers of the variants that are killed")
    parser.add_argument("--words", nargs="*", default=[], help="further ones of every run that is killed")
    parser.add_argument("--damages", type=int, default=300, help="commands on damaged folders, at most")
    parser.add_argument("--lines", type=int, default=1000, help="of commands, fuzzed")
    parser.add_argument("--jobs", type=int, default=200, help="of the sweep")
    parser.add_argument("--epochs", type=int, default=1000, help="of the long run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="to work in, where what went wrong is kept")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(unknown)}: the parts are {', '.join(PARTS)}")
    folder = (arguments.folder or Path(tempfile.mkdtemp())).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    rows = []
    for part in arguments.parts or PARTS:
        shutil.rmtree(folder / part, ignore_errors=True)
        rows += PARTS[part](arguments, folder / part)
    table = Table("what", "how often", "what came of it")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    print_where_and_when()


if __name__ == "__main__":
    main()
