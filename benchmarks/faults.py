"""Do to runs whatever can be done to them, and count what they did not survive: a table for the README.

    python -m benchmarks.faults                       # the whole campaign, for hours
    python -m benchmarks.faults kills --kills 100     # runs killed anywhere, continued, and compared

| part | what | what must come of it |
| --- | --- | --- |
| `kills` | SIGKILL at every named place, in any optimizer step, at any time | every file as without it |
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.unbreakable import kills

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


PARTS: dict[str, Callable[[argparse.Namespace, Path], list[Row]]] = {"kills": kill_rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--variants", type=int, nargs="*", help="numbers of the variants that are killed")
    parser.add_argument("--words", nargs="*", default=[], help="further ones of every run that is killed")
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
    versions = ", ".join(f"{name} {version(name)}" for name in ("vitals", "torch", "lightning"))
    machine = f"{os.cpu_count()} cores, Python {platform.python_version()}"
    where = f"{machine}, {versions}, {datetime.now(UTC):%d %B %Y}"
    table = Table("what", "how often", "what came of it", title=where, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


if __name__ == "__main__":
    main()
