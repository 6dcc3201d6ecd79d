"""Do training batches follow an order that goes with the label?"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vitals.findings import Finding

FEWEST_LABELS = 60
"""Below which nothing is said."""
WINDOW = 32
"""Labels of successive batches that are judged together, at least: within them the order does not matter."""

ALIKE, ALIKE_SCORE = 0.3, 5.0
"""Correlation of the labels within a batch, and standard deviations above 0."""

DRIFTING, DRIFT_SCORE = 0.05, 3.5
"""Correlation of the labels of a batch with those of the next, and by how many standard deviations it is
above 0."""


def class_order(batches: Sequence[Tensor], classes: int, alone: bool = False) -> tuple[float, float]:
    """How much alike the labels of a batch are: 0 where each is drawn by itself, 1 where each batch has one
    class, below 0 where batches are balanced; and by how many standard deviations that is above 0.

    It is the correlation within batches that the counts of the classes show: their variance from batch to
    batch is 1 + (n − 1) ρ times that of n labels drawn by themselves. In what order a batch has its labels
    does not matter to its gradient, and is not looked at.

    Args:
        batches: class numbers (n,) of successive training batches; others are left out.
        classes: that there are.
        alone: whether a class without any other is all that there is, and in no order; else the others are
            taken to come later.
    """
    windows = _windows(batches, classes)
    seen = torch.cat(windows) if windows else torch.zeros(0, dtype=torch.long)
    if len(seen) < FEWEST_LABELS:
        return 0.0, 0.0
    shares = torch.bincount(seen, minlength=classes).double() / len(seen)
    present = shares > 0
    if int(present.sum()) < 2:
        if len(windows) < 2 or classes < 2 or alone:
            return 0.0, 0.0
        shares, present = torch.full((classes,), 1 / classes).double(), torch.ones(classes, dtype=torch.bool)
    counts = torch.stack([torch.bincount(window, minlength=classes) for window in windows]).double()
    sizes = counts.sum(dim=1, keepdim=True)
    expected = (sizes * shares)[:, present]
    squares = ((counts[:, present] - expected).square() / expected).sum(dim=1)
    free = int(present.sum()) - 1
    correlation = float((squares / free - 1).mean() / (sizes.mean() - 1))
    error = math.sqrt(2 / (free * len(windows)))
    return correlation, float((squares / free - 1).mean()) / error


def class_drift(batches: Sequence[Tensor], classes: int) -> tuple[float, float]:
    """How much the labels of a batch are like those of the next, 0 where each is drawn by itself or each
    batch is, 1 where one class comes after the other; and by how many standard deviations that is above 0.
    Arguments as of `class_order`."""
    windows = _windows(batches, classes)
    if len(windows) < 2 or sum(map(len, windows)) < FEWEST_LABELS:
        return 0.0, 0.0
    counts = torch.stack([torch.bincount(window, minlength=classes) for window in windows]).double()
    counts = counts[:, counts.sum(dim=0) > 0]
    shares, sizes = counts.sum(dim=0) / counts.sum(), counts.sum(dim=1, keepdim=True)
    free = counts.shape[1] - 1
    if not free:
        return 0.0, 0.0
    apart = (counts - sizes * shares) / shares.sqrt() / sizes
    drift = float((apart[:-1] * apart[1:]).sum(dim=1).mean()) / free
    # By as much would batches drawn anew differ, of which each may be of a few classes.
    error = float((apart.T @ apart).norm()) / len(windows) / free / math.sqrt(len(windows) - 1)
    return drift, drift / error if error else 0.0


def _windows(batches: Sequence[Tensor], classes: int) -> list[Tensor]:
    """Class numbers (n,) on the CPU, of so many successive batches that there are `WINDOW` of them."""
    windows: list[Tensor] = []
    waiting: list[Tensor] = []
    for batch in batches:
        labels = batch.flatten().long().cpu()
        waiting.append(labels[(labels >= 0) & (labels < classes)])
        if sum(map(len, waiting)) >= WINDOW:
            windows.append(torch.cat(waiting))
            waiting = []
    return windows


def is_sorted(alike: float, score: float) -> bool:
    """Whether what `class_order` gives, `alike` from 0 to 1 and a `score` in standard deviations, is an order
    that goes with the label."""
    return alike > ALIKE and score > ALIKE_SCORE


def not_shuffled(alike: float, drift: bool = False) -> Finding:
    """That batches follow an order that goes with the label; `alike` is their `class_order`, or where
    `drift`, their `class_drift`."""
    seen = f"The labels within a batch are alike, {alike:.0%} of the way from shuffled to one class a batch."
    remedy = (
        "Give the training loader shuffle=True; shuffle the files of a stream before they are written, or "
        "give it a buffer as large as a few classes."
    )
    if drift:
        seen = (
            f"The labels of a batch are like those of the next, {alike:.0%} of the way from shuffled to one "
            f"class after the other: which classes come changes in the course of an epoch."
        )
        remedy = (
            "Shuffle over all samples, as shuffle=True does, not within files or parts that are read one "
            "after the other; give a stream a buffer as large as most classes."
        )
    limit = DRIFTING if drift else ALIKE
    return Finding("data-not-shuffled", "warn", seen, remedy, "labels", alike, limit, exact=drift)
