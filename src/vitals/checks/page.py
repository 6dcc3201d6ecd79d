"""What is said of the checks before learning: the table of verdicts on the terminal, and what loggers get."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from vitals.checks.budget import MARGIN, in_words
from vitals.checks.check import Row
from vitals.checks.training_setup import TrainingSetup
from vitals.findings import COLOURS, Finding, markdown, ranked, sentence
from vitals.measures.image_grid import image_grid
from vitals.terminal import terminal
from vitals.writers.writer import Writer

SHOWN = 64
"""Images in the grid."""


def print_page(
    rows: Sequence[Row], findings: Sequence[Finding], console: Console | None = None, notes: bool = False
) -> None:
    """A table of the checks made, and below it the findings of all of them, consequences lowered to notes,
    with their remedies; most important first. With `notes` what they note as well, for those who find it
    nowhere else."""
    console = console or terminal()
    table = Table(title="Before learning", title_justify="left")
    for column in ("check", "seen", "expected", "verdict"):
        table.add_column(column)
    for row in rows:
        verdict = f"[{COLOURS[row.verdict]}]{row.verdict}[/]"
        table.add_row(escape(row.name.replace("_", " ")), *map(escape, row.said), verdict)
    console.print(table)
    reasons = [f for row in rows if row.verdict == "skipped" and not row.whole for f in row.findings]
    for finding in [*(finding for finding in ranked(findings) if finding.alarming), *reasons]:
        colour = COLOURS[finding.level if finding.alarming else "skipped"]
        console.print(f"[{colour}]{escape(finding.cause)}[/]: {escape(sentence(finding))}", highlight=False)
    for finding in ranked(findings) if notes else ():
        if finding.level == "note" and finding.cause != "skipped":
            console.print(
                f"[{COLOURS['note']}]{finding.cause}[/]: {escape(finding.message)}", highlight=False
            )
    if text := want_of_time(rows):
        console.print(text, style="yellow", highlight=False, markup=False)


def want_of_time(rows: Sequence[Row]) -> str:
    """A line on what was left out or cut, what it would have taken, and which budget does; empty if nothing
    was."""
    short = [row for row in rows if row.whole]
    if not short:
        return ""
    said = [
        f"{row.name.replace('_', ' ')} {row.cut or 'left out'} ({'all' if row.cut else 'would take'} "
        f"about {in_words(row.whole)})"
        for row in short
    ]
    # Found out by trying where a check was stopped: twice as much may do.
    whole = sum(2 * row.whole if row.whole <= row.seconds else row.whole or row.seconds for row in rows)
    enough = 10 * math.ceil(MARGIN * whole / 10)
    return (
        f"For want of time: {', '.join(said)}. checks.budget={enough}, or diagnostics(budget={enough}), "
        "makes them all."
    )


def log_checks(
    writers: Sequence[Writer], rows: Sequence[Row], findings: Sequence[Finding], setup: TrainingSetup
) -> None:
    """Write what each check has to log, the images `checks/inputs` as the network gets them, the table
    `checks/verdicts`, and the text `findings`; those at level `fail` are alerts."""
    verdicts = [(row.name, *row.said, row.verdict) for row in rows]
    for writer in writers:
        for row in rows:
            if row.outcome is not None:
                row.check.log(writer, row.outcome, setup)
        if writer.pictures and are_images(setup.inputs):
            writer.image("checks/inputs", input_grid(setup.inputs), 0)
        writer.table("checks/verdicts", ("check", "seen", "expected", "verdict"), verdicts, 0)
        writer.text("findings", markdown(findings), 0)
        for finding in findings:
            if finding.level == "fail":
                writer.alert(finding.cause, sentence(finding))


def are_images(inputs: Any) -> bool:
    """Whether `inputs` are grey or colour images, (N, 1, H, W) or (N, 3, H, W)."""
    return isinstance(inputs, Tensor) and inputs.ndim == 4 and inputs.shape[1] in (1, 3)


def in_range(images: Tensor) -> Tensor:
    """`images` on a scale from 0 (their smallest value) to 1 (their largest), on the CPU; NaN is 0."""
    values = images.detach().float().cpu().nan_to_num(posinf=0.0, neginf=0.0)
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)


def input_grid(inputs: Tensor) -> Tensor:
    """The first images (N, C, H, W) as the network gets them, in one picture (3, H', W') from 0 to 1."""
    return image_grid(in_range(inputs[:SHOWN]), columns=8, fill=0.0)
