"""A job's learning curve, read from its folder while it runs or after."""

from __future__ import annotations

import csv
import math
from pathlib import Path

SCORE = "accuracy/val"


def read_curve(folder: Path) -> list[dict[str, float]]:
    """The rows of `metrics.csv`, an epoch each; empty before the first.

    A cell that is empty or no number is left out of its row.
    """
    try:
        with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
            return [_numbers(row) for row in csv.DictReader(file)]
    except OSError:
        return []


def best_score(folder: Path, within: int | None = None) -> float | None:
    """The best validation accuracy of a job, up to epoch `within`; None where none is finite."""
    scores = [
        row[SCORE]
        for row in read_curve(folder)
        if SCORE in row and math.isfinite(row[SCORE]) and (within is None or row["epoch"] <= within)
    ]
    return max(scores, default=None)


def _numbers(row: dict[str, str]) -> dict[str, float]:
    numbers = {}
    for name, text in row.items():
        try:
            numbers[name] = float(text)
        except (TypeError, ValueError):
            continue
    return numbers
