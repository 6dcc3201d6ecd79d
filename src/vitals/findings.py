"""Findings: what every check, monitor and rule says, in one record and one order of importance.

A check that passed speaks under a code of its own at level `ok`; one that could not run, under `skipped`.
"""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vitals.causes import CAUSES, StationKey
from vitals.errors import did_you_mean, listed
from vitals.files import text_of, write_json
from vitals.terminal import terminal

Level = Literal["ok", "note", "warn", "fail"]
NO_VERDICTS = ("skipped", "looks")
"""Causes that say nothing of the training itself."""
LEVELS: tuple[Level, ...] = get_args(Level)

COLOURS = {"ok": "green", "note": "cyan", "warn": "yellow", "fail": "red", "skipped": "dim"}
"""In the terminal."""
NARROW = 100
"""Columns of the terminal."""


@dataclass(frozen=True)
class Finding:
    """One thing that was seen, what it means and what to do about it."""

    cause: str
    """A code from `vitals.causes.CAUSES`."""
    level: Level
    message: str
    """One sentence saying what was seen."""
    remedy: str = ""
    """One sentence saying what to do; empty where nothing is to be done."""
    where: str = ""
    """The layer, parameter or quantity concerned."""
    value: float | None = None
    threshold: float | None = None
    step: int = 0
    """Optimizer steps taken when it was seen."""
    epoch: float = 0.0
    """Epochs, with their fraction, when it was seen."""
    check: str = ""
    """Name of the check that says it; empty where it was a monitor or a rule."""
    station: StationKey | Literal[""] = ""
    """Station of the course that it belongs to: that of its cause unless given. Empty for what was skipped
    and belongs to none."""
    setting: dict[str, float] | None = field(default=None, hash=False)
    """The values that the remedy names, each of which was tried: `lr`, of the fastest parameter group;
    `batch_size`, in samples; `weight_decay`. None where it names none."""
    exact: bool = False
    """Whether it says what the code does, read off the code at work, so that nothing else brings it about."""

    def __post_init__(self) -> None:
        if self.cause not in CAUSES:
            raise ValueError(f"unknown cause code '{self.cause}': {did_you_mean(self.cause, CAUSES)}")
        if self.level not in LEVELS:
            raise ValueError(f"unknown level '{self.level}': {did_you_mean(self.level, LEVELS)}")
        object.__setattr__(self, "station", self.station or CAUSES[self.cause].station)

    @property
    def alarming(self) -> bool:
        """Whether the finding says that something is wrong."""
        return self.level in ("warn", "fail")


def without_consequences(findings: Iterable[Finding]) -> list[Finding]:
    """The same findings in the same order, those that follow from another one lowered to notes; of two causes
    that may each follow from the other none."""
    findings = list(findings)
    alarms = {finding.cause for finding in findings if finding.alarming}
    return [_lowered(f, alarms) if f.alarming and not f.exact else f for f in findings]


def _lowered(finding: Finding, alarms: set[str]) -> Finding:
    cause = finding.cause
    roots = [
        root.code
        for root in CAUSES.values()
        if root.code in alarms and cause in root.brings and root.code not in CAUSES[cause].brings
    ]
    if not roots:
        return finding
    return consequence(finding, f"It follows from {roots[0]}.")


def consequence(finding: Finding, words: str) -> Finding:
    """The finding as a note, with `words` that say from what it follows; a remedy that names a value goes, as
    it would do nothing about that."""
    remedy = "" if finding.setting else finding.remedy
    message = f"{finding.message} {words}"
    return replace(finding, level="note", message=message, remedy=remedy, setting=None)


def ranked(findings: Iterable[Finding]) -> list[Finding]:
    """Most important first: by level, and within a level in the order given, but what a divergence has left,
    which stays an alarm where it is `exact`, behind what brings it."""
    findings = list(findings)
    brought = {(f.level, code) for f in findings if f.alarming for code in CAUSES[f.cause].brings}

    def place(finding: Finding) -> tuple[int, bool]:
        left = finding.exact and finding.step > 0 and CAUSES[finding.cause].of_divergence
        left = left and (finding.level, finding.cause) in brought
        return -LEVELS.index(finding.level), left

    return sorted(findings, key=place)


def worst_level(findings: Iterable[Finding]) -> Level:
    """The gravest level among `findings`; `ok` where there are none."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")


def print_findings(findings: Sequence[Finding], console: Console | None = None) -> None:
    """The alarms of a run, most important first, or one line where there is none: one table, or a paragraph
    each in a console of less than `NARROW` columns, where its cells would be a few words wide."""
    console = console or terminal()
    alarms = [finding for finding in ranked(findings) if finding.alarming]
    if not alarms:
        console.print(f"findings: [green]nothing is wrong[/]{escape(in_how_many(findings))}", highlight=False)
        return
    if console.width < NARROW:
        console.print("[italic]Findings[/]")
        for finding in alarms:
            head = f"[{COLOURS[finding.level]}]{finding.level}[/] [bold]{escape(finding.cause)}[/]"
            step = f", step {finding.step}" * bool(finding.step)
            console.print(f"{head}{step}: {escape(sentence(finding))}\n", highlight=False)
        return
    table = Table(title="Findings", title_justify="left")
    for column in ("verdict", "cause", "step", "seen", "remedy"):
        table.add_column(column, justify="right" if column == "step" else "left")
    for finding in alarms:
        verdict = f"[{COLOURS[finding.level]}]{finding.level}[/]"
        seen, remedy = escape(finding.message), escape(finding.remedy)
        table.add_row(verdict, escape(finding.cause), str(finding.step), seen, remedy)
    console.print(table)


def looks(measured: int, missing: Sequence[str]) -> Finding:
    """How many verdicts were measured, and the names of those that could not be."""
    said = f"{measured} verdicts were measured."
    if missing:
        said = f"{measured} verdicts were measured, {len(missing)} could not be: {', '.join(missing)}."
    return Finding("looks", "ok", said, value=float(measured), threshold=float(measured + len(missing)))


def in_how_many(findings: Iterable[Finding]) -> str:
    """The end of a sentence that says that nothing was found: in how many verdicts, where that is known."""
    of_all = next((finding for finding in findings if finding.cause == "looks"), None)
    if of_all is None or of_all.value is None or of_all.threshold is None:
        return ""
    missing = of_all.threshold - of_all.value
    return f" in {of_all.value:.0f} verdicts" + (f"; {missing:.0f} could not be measured" if missing else "")


def sentence(finding: Finding) -> str:
    """What was seen and what to do."""
    return f"{finding.message} {finding.remedy}".strip()


def markdown(findings: Sequence[Finding]) -> str:
    """The findings as a Markdown list, most important first, for the loggers: TensorBoard's card is narrow
    and would break the cells of a table within words."""
    return "\n".join(
        f"- **{finding.level}** &nbsp; **{finding.cause}**"
        + (f" ({_literally(finding.where)})" if finding.where else "")
        + (f", step {finding.step}" if finding.step else "")
        + f": {_literally(finding.message)}"
        + (f" *{_literally(finding.remedy)}*" if finding.remedy else "")
        for finding in ranked(findings)
    )


def _literally(text: str) -> str:
    return re.sub(r"([\\`*_<>\[\]])", r"\\\1", text)


def write_findings(findings: Iterable[Finding], path: Path) -> None:
    """Write `findings` to `path` as a JSON list, most important first. JSON has no NaN or infinity: such
    numbers are null, and the message still says them."""
    entries = [{key: _plain(value) for key, value in asdict(finding).items()} for finding in ranked(findings)]
    write_json(path, entries)


def read_findings(path: Path) -> list[Finding]:
    """The findings in the JSON file at `path`, in the order of the file; unknown keys are left out. Causes
    may be unknown here: a project's own are registered only where its checks and rules are imported.
    `OSError` if there is no such file, `ValueError` if it is damaged, or holds something else."""
    try:
        return [_finding(entry) for entry in json.loads(text_of(path))]
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError("it holds something else than findings") from error


def _finding(entry: dict[str, Any]) -> Finding:
    if entry["level"] not in LEVELS or not isinstance(entry["message"], str):
        raise ValueError("a finding in it has no level or no message")
    wrong = [key for key in KINDS if key in entry and not isinstance(entry[key], KINDS[key])]
    if wrong:
        raise ValueError(f"{listed(wrong)} of a finding in it cannot be that")
    known = {field.name: entry[field.name] for field in fields(Finding) if field.name in entry}
    return (Finding if entry["cause"] in CAUSES else _FromElsewhere)(**known)


KINDS = {
    **dict.fromkeys(("cause", "remedy", "where", "check", "station"), str),
    **dict.fromkeys(("value", "threshold"), float | int | None),
    "step": int,
    "epoch": float | int,
    "setting": dict | None,
    "exact": bool,
}
"""Of what is written of a finding."""


class _FromElsewhere(Finding):
    """Written by a process that knew its cause."""

    def __post_init__(self) -> None:
        pass


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
