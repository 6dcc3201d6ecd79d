"""Are the whole numbers that a loss takes class numbers, or ranks, the actions of a policy, or names?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vitals.errors import UserError
from vitals.probes.random_states import seed_torch
from vitals.probes.rows import with_row
from vitals.probes.watched_step import WatchedStep

Kind = Literal["classes", "actions", "other"]
IGNORED = -100
"""torch's `ignore_index`."""
ROUNDING = 1e-3
"""Difference from one of shares that sum to it."""
PUSHED = 0.25
"""Share of the largest gradient of the output of a sample's number that a push away from it, and its spread
over the samples with that number, has at least where these are actions: returns differ by more than their
mean, weights of samples pull all the same way, and mixed labels push by 1/C where they pull by 1 - 1/C. Of
ranks some move with the others by as much: a softmax moves one against the sum of the others, to rounding."""


@dataclass(frozen=True)
class Code:
    """How rows (N, C) of numbers stand for classes: `on` in the column of a sample's class and `off` in all
    others, as one-hot labels, smoothed ones, and those of −1 and 1; of samples mixed of two, whose rows are
    shares that sum to one, as those of MixUp and CutMix, the class is that which has most of them."""

    on: float
    off: float
    mixed: bool = False

    @classmethod
    def of(cls, row: Tensor) -> Code | None:
        """That of `row`, whatever this is; None where it is none, as where a teacher has answered."""
        if row.ndim != 2 or row.shape[1] < 3 or not row.is_floating_point() or not len(row):
            return None
        shares = row.sort(1).values
        off = shares[0, 0]
        if not (shares[:, -1] > off).all() or not (shares[:, :-2] == off).all():
            return None
        if (shares[:, -1] == shares[0, -1]).all() and (shares[:, -2] == off).all():
            return cls(float(shares[0, -1]), float(off))
        if off < 0 or bool(((shares.sum(1) - 1).abs() > ROUNDING).any()):
            return None
        return cls(1.0 - (row.shape[1] - 1) * float(off), float(off), mixed=True)

    def rows(self, numbers: Tensor, like: Tensor) -> Tensor:
        """Rows as of `like` (N, C) for class numbers (N,)."""
        hot = torch.nn.functional.one_hot(numbers, like.shape[1]).bool()
        return torch.where(hot, self.on, self.off).to(like)


def kind_of_numbers(
    step: WatchedStep, outputs: Tensor, rows: Sequence[Tensor], place: int, value: float
) -> Kind:
    """What the numbers in one of `rows` are to the loss, which has this `value` of `outputs`."""
    row = rows[place]
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        return "other"
    if row.shape == outputs.shape and Code.of(row) is not None:
        if step.value(outputs, with_row(rows, place, row.roll(1, 1))) == value:
            return "other"
        return _kind_by_gradient(step, outputs, rows, row.argmax(1))
    if row.numel() != len(row):
        return "other"
    if row.is_floating_point() or row.dtype == torch.bool:
        return "other"
    classes, valid = outputs.shape[1], row[row != IGNORED]
    if not len(valid) or int(valid.min()) < 0 or int(valid.max()) >= classes:
        return "other"
    # Losses of embeddings mind which labels agree, but not what they are called.
    renamed = torch.where(row == IGNORED, row, (row + 1) % classes)
    if step.value(outputs, with_row(rows, place, renamed)) == value:
        return "other"
    return _kind_by_gradient(step, outputs, rows, row.reshape(-1))


def _kind_by_gradient(step: WatchedStep, outputs: Tensor, rows: Sequence[Tensor], numbers: Tensor) -> Kind:
    """The loss moves the output of a class against all others, and that of the same one alike in all samples:
    of ranks those below are moved together. What is pushed away in some samples alone is an action that
    turned out badly; a loss of the wrong sign pushes alike."""
    known = numbers != IGNORED
    try:
        with torch.enable_grad():
            mean = float(outputs.float().mean()) if outputs.aminmax()[0] >= 0 else 0.0
            alike = torch.full_like(outputs, mean).requires_grad_()
            seed_torch(0)
            (gradient,) = torch.autograd.grad(step.loss_of(alike, rows), alike, allow_unused=True)
    except (UserError, RuntimeError):  # there is none
        return "classes"
    if gradient is None:
        return "classes"
    classes, gradient = numbers[known].long(), gradient[known].float()
    own = gradient.gather(1, classes[:, None])[:, 0]
    others, least = gradient.sum(1) - own, PUSHED * float(own.abs().max())
    together = (own.abs() > least) & (others.abs() > least) & (own.sign() == others.sign())
    if bool(together.any()):
        return "other"
    even = (gradient - others[:, None] / (gradient.shape[1] - 1)).abs().scatter(1, classes[:, None], 0.0)
    pushed = (own > least) & (even.amax(1) < least)  # where another is pulled instead, labels are mixed
    spread = max((float(own[classes == one].std(correction=0)) for one in classes.unique()), default=0.0)
    return "actions" if bool(pushed.any()) and spread > least else "classes"
