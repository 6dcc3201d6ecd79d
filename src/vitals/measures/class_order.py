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
"""Correlation of the labels within a batch, and standard deviations above 0: batches of four of ten classes
have 0.15, of one class 1."""

STRETCHES, SELDOM, AWAY, EXPECTED = 4, 0.1, 0.25, 10.0
"""Parts of an epoch one after the other; share of what a class should have in one of them up to which it
hardly comes; share of the labels that are of such classes, in the mean over the parts; and labels that a
class should have in each, or chance may leave it out. 0.35 where four of ten classes come before the other
six, each part shuffled; 0 of samples that are shuffled (measured)."""


def class_order(
    batches: Sequence[Tensor], classes: int, shares: Tensor | None = None, alone: bool = False
) -> tuple[float, float]:
    """How much alike the labels of a batch are: 0 where each is drawn by itself, 1 where each batch has one
    class, below 0 where batches are balanced; and by how many standard deviations that is above 0.

    It is the correlation within batches that the counts of the classes show: their variance from batch to
    batch is 1 + (n − 1) ρ times that of n labels drawn by themselves. In what order a batch has its labels
    does not matter to its gradient, and is not looked at.

    Args:
        batches: class numbers (n,) of successive training batches; others are left out.
        classes: that there are.
        shares: of the classes (C,), where they are known; else those of the labels at hand.
        alone: whether a class without any other is all that there is, and in no order; else the others are
            taken to come later.
    """
    labels = [batch.flatten().long().cpu() for batch in batches]
    labels = [batch[(batch >= 0) & (batch < classes)] for batch in labels]
    windows: list[Tensor] = []
    waiting: list[Tensor] = []
    for batch in labels:
        waiting.append(batch)
        if sum(map(len, waiting)) >= WINDOW:
            windows.append(torch.cat(waiting))
            waiting = []
    seen = torch.cat(windows) if windows else torch.zeros(0, dtype=torch.long)
    if len(seen) < FEWEST_LABELS:
        return 0.0, 0.0
    if shares is None:
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


def is_sorted(alike: float, score: float) -> bool:
    """Whether what `class_order` gives, `alike` from 0 to 1 and a `score` in standard deviations, is an order
    that goes with the label."""
    return alike > ALIKE and score > ALIKE_SCORE


def classes_away(batches: Sequence[Tensor], classes: int) -> tuple[float, float]:
    """Share of the labels that are of classes which hardly come in a quarter of an epoch: the mean over the
    quarters, and the largest. A network forgets over such a stretch, however well batches are mixed."""
    labels = torch.cat([batch.flatten().long() for batch in batches]).cpu()
    labels = labels[(labels >= 0) & (labels < classes)]
    parts = labels.tensor_split(STRETCHES)
    counts = torch.stack([torch.bincount(part, minlength=classes) for part in parts]).double()
    shares = counts.sum(dim=0) / max(len(labels), 1)
    expected = shares * counts.sum(dim=1, keepdim=True)
    seldom = (counts < SELDOM * expected) & (expected >= EXPECTED)
    away = (seldom * shares).sum(dim=1)
    return float(away.mean()), float(away.max())


def not_shuffled(alike: float) -> Finding:
    """That batches follow an order that goes with the label; `alike` is their `class_order`."""
    seen = f"The labels within a batch are alike, {alike:.0%} of the way from shuffled to one class a batch."
    remedy = (
        "Give the training loader shuffle=True; shuffle the files of a stream before they are written, or "
        "give it a buffer as large as a few classes."
    )
    return Finding("data-not-shuffled", "warn", seen, remedy, "labels", alike, ALIKE)
