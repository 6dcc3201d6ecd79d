"""What several tools said of the same runs, side by side, and which cause a tool takes for which.

    python -m benchmarks.clinic.table results/*.json
    python -m benchmarks.clinic.table results/vitals-*.json --first-sight first/*.json --confusion vitals

The files are what `clinic.py --out` wrote. Those of the same tool and the same case file, such as of several
seeds or parts, are taken together. Prints Markdown, as it stands in README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # as the case files have it

from clinic import Outcome, score  # noqa: E402


@dataclass
class Results:
    """What one tool said of the runs of one case file."""

    tool: str
    program: str
    """Name of the case file."""
    version: str = ""
    measured: set[str] = field(default_factory=set)
    """On what, when and at which commit."""
    outcomes: list[Outcome] = field(default_factory=list)


def read(files: Iterable[Path]) -> list[Results]:
    """The results in the order of the files, those that belong together as one."""
    found: dict[tuple[str, str], Results] = {}
    for file in files:
        entry = json.loads(file.read_text())
        key = entry["tool"], entry["file"]
        results = found.setdefault(key, Results(*key, entry["version"]))
        results.measured.add(entry["measured"])
        results.outcomes += map(Outcome.read, entry["cases"])
    return list(found.values())


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table whose first row is its head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "| --- " * len(rows[0]) + "|", *lines[1:]])


def share(count: int, of: int) -> str:
    return f"{count} of {of}" if of else ""


def scores(results: Iterable[Results]) -> str:
    """A row for each tool, the one that names most first."""
    head = ["tool", "detected", "named", "anywhere", "wrong causes", "false alarms", "on twins", "overhead"]
    rows = []
    for each in results:
        total = score(each.outcomes)
        sick = total.sick
        row = [
            f"{each.tool} {each.version}".strip(),
            share(total.detected, sick),
            share(total.named, sick),
            share(total.anywhere, sick),
            f"{total.wrong_causes:.2f}" if sick else "",
            share(total.false_alarms, total.healthy),
            share(total.twin_alarms, total.twins),
            "" if total.overhead is None else f"{total.overhead:.1f}",
        ]
        rows.append(((-total.named, total.false_alarms), row))
    return markdown([head, *(row for _, row in sorted(rows, key=lambda row: row[0]))])


def confusion(outcomes: Sequence[Outcome]) -> str:
    """By the causes that a run has: what the tool named first, and how many times; what is right in bold."""
    first: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for outcome in [*outcomes, *(outcome.twin for outcome in outcomes if outcome.twin)]:
        first[tuple(outcome.causes)][next(iter(outcome.alarms()), "")] += 1
    rows = [["the run has", "runs", "the first alarm, and how many times"]]
    for causes, counts in sorted(first.items(), key=lambda entry: (not entry[0], entry[0])):
        told = []
        for cause, count in counts.most_common():
            right = cause in causes or not (causes or cause)
            text = f"{cause or 'none'} {count}"
            told.append(f"**{text}**" if right else text)
        rows.append([" or ".join(causes) or "no fault", str(counts.total()), ", ".join(told)])
    return markdown(rows)


def report(results: Sequence[Results], title: str, mistakes_of: str = "") -> str:
    """The tables of all programs, each with what it was measured on, and what one tool took for what."""
    parts = []
    for program in dict.fromkeys(each.program for each in results):
        of_it = [each for each in results if each.program == program]
        measured = sorted({line for each in of_it for line in each.measured})
        parts += [f"{title}, `{program}`:", scores(of_it), *(f"measured on {line}" for line in measured)]
    outcomes = [outcome for each in results if each.tool == mistakes_of for outcome in each.outcomes]
    return "\n\n".join([*parts, confusion(outcomes)] if outcomes else parts)


def main() -> None:
    parser = argparse.ArgumentParser(description="Lay the results of several tools side by side.")
    parser.add_argument("files", nargs="*", type=Path, help="what clinic.py --out wrote")
    parser.add_argument(
        "--first-sight",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="those from before the tool's rules were changed for these cases",
    )
    parser.add_argument(
        "--confusion", default="", metavar="TOOL", help="which cause this tool takes for which, as well"
    )
    arguments = parser.parse_args()
    if not (files := [*arguments.files, *arguments.first_sight]):
        parser.error("name at least one file that clinic.py --out wrote")
    for file in files:
        if not file.is_file():
            parser.error(f"{file} is not a file: name what clinic.py --out wrote")
    if arguments.first_sight:
        print(report(read(arguments.first_sight), "At first sight", arguments.confusion), end="\n\n")
    print(report(read(arguments.files), "With the rules as they are", arguments.confusion))


if __name__ == "__main__":
    main()
