"""The page of verdicts of the checks before learning, on the terminal and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vitals.checks.suite import Row
from vitals.findings import Finding, ranked

COLOURS = {"ok": "green", "note": "cyan", "warn": "yellow", "fail": "red", "skipped": "dim"}


def print_page(rows: Sequence[Row], findings: Sequence[Finding], console: Console | None = None) -> None:
    """A table of the checks, and below it what was found, with its remedy; most important first.

    Args:
        rows: of the checks made.
        findings: of all of them, consequences lowered to notes.
        console: where to print; the terminal by default.
    """
    console = console or Console()
    table = Table(title="Before learning", title_justify="left")
    for column in ("check", "seen", "expected", "verdict"):
        table.add_column(column)
    for row in rows:
        verdict = f"[{COLOURS[row.verdict]}]{row.verdict}[/]"
        table.add_row(row.check.replace("_", " "), escape(row.seen), escape(row.expected), verdict)
    console.print(table)
    reasons = [finding for row in rows if row.verdict == "skipped" for finding in row.findings]
    for finding in [*(finding for finding in ranked(findings) if finding.alarming), *reasons]:
        colour = COLOURS[finding.level if finding.alarming else "skipped"]
        console.print(f"[{colour}]{finding.cause}[/]: {escape(sentence(finding))}", highlight=False)


def print_findings(findings: Sequence[Finding], console: Console | None = None) -> None:
    """The alarms of a run as one table, most important first, or one line where there is none."""
    console = console or Console()
    alarms = [finding for finding in ranked(findings) if finding.alarming]
    if not alarms:
        console.print("findings: [green]nothing is wrong[/]", highlight=False)
        return
    table = Table(title="Findings", title_justify="left")
    for column in ("verdict", "cause", "step", "seen", "remedy"):
        table.add_column(column, justify="right" if column == "step" else "left")
    for finding in alarms:
        verdict = f"[{COLOURS[finding.level]}]{finding.level}[/]"
        seen, remedy = escape(finding.message), escape(finding.remedy)
        table.add_row(verdict, finding.cause, str(finding.step), seen, remedy)
    console.print(table)


def sentence(finding: Finding) -> str:
    """What was seen and what to do."""
    return f"{finding.message} {finding.remedy}".strip()


def markdown(findings: Sequence[Finding]) -> str:
    """The findings as a Markdown list, most important first, for TensorBoard's text card.

    A list, as the card is narrow and would break the cells of a table within words.
    """
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
