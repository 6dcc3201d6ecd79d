"""What a sweep says on the terminal when it has ended."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vitals.run_folder import shown
from vitals.sweeps.next_steps import Step
from vitals.sweeps.results import SweepResults
from vitals.sweeps.tables import SAID, TextTable, job_table, ordered, said, seed_table

COLOURS = {"finished": "green", "failed": "red", "interrupted": "yellow", "running": "cyan"}
ROWS = 30
DISPENSABLE = ("epoch", "minutes", "last")
"""Columns that a narrow terminal does without, the first to go first."""


def print_summary(
    results: SweepResults, steps: list[Step], shares: dict[str, float], console: Console | None = None
) -> None:
    """The tables, what the jobs said, importance, and what can be typed next.

    Args:
        results: of the sweep.
        steps: warnings and what to do about them.
        shares: importance by key.
        console: where to print; the terminal by default.
    """
    console = console or Console()
    _print_table(console, "Jobs", job_table(results).without(SAID))
    for job in [job for job in ordered(results)[:ROWS] if said(job)]:
        colour = COLOURS.get(job.status, "yellow")
        console.print(
            f"job {job.number} [{colour}]{job.status}[/]: {escape(said(job))}",
            soft_wrap=True,
            highlight=False,
        )
    if len(results.jobs) > ROWS:
        console.print(
            f"… the best {ROWS} of {len(results.jobs)}; all of them are in {results.folder.results.name}"
        )
    if (seeds := seed_table(results)) is not None:
        _print_table(console, "Over seeds: mean ± standard deviation", seeds)
    if shares:
        parts = [f"{key} {share:.0%}" for key, share in shares.items()]
        console.print(f"importance (share of the variance explained): {', '.join(parts)}", soft_wrap=True)
    for step in steps:
        mark = "[yellow]warning[/]: " if step.level == "warn" else ""
        console.print(f"{mark}{escape(step.text)}", soft_wrap=True, highlight=False)
        console.print(step.command, soft_wrap=True, highlight=False, markup=False)
    folder = shown(results.folder.path)
    console.print(f"table and pictures: {folder}/results.csv, {folder}/report.html", soft_wrap=True)


def _print_table(console: Console, title: str, content: TextTable) -> None:
    """Print the first rows, whole: what does not fit is folded, and where nothing limits it is not."""
    content = TextTable(content.columns, content.rows[:ROWS])
    for dispensable in DISPENSABLE:
        if _width(content) > console.width:
            content = content.without(dispensable)
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for column in content.columns:
        table.add_column(column.title, justify="right" if column.amount else "left", overflow="fold")
    for row in content.rows:
        table.add_row(*(f"[{COLOURS[cell]}]{cell}[/]" if cell in COLOURS else escape(cell) for cell in row))
    console.print(table)


def _width(content: TextTable) -> int:
    cells = [[column.title for column in content.columns], *content.rows]
    return sum(max(map(len, column)) + 2 for column in zip(*cells, strict=True))
