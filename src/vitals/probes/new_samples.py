"""What is known of training samples that were not trained on yet, and of validation at the same steps."""

import math
from typing import Any

import torch
from torch import Tensor

from vitals.probes.fixed_subset import FixedSubsets, reweighed

SHARE = 0.25
"""Of the batches of the first epoch, the last, that are looked at before they are trained on."""


class NewSamples:
    """Looks at batches of class numbers near the end of the first epoch.

    What an epoch shows it lifts, and by enough to hide that a third of the labels are wrong; what comes next
    in it is as new to the network as validation is.

    Args:
        batches: of the epoch; infinite where nobody knows, or where the last ones need not be like the
            others, then none is looked at.
        wanted: at most so many of them.
    """

    def __init__(self, batches: float, wanted: int) -> None:
        self.count = int(min(wanted, SHARE * batches)) if math.isfinite(batches) else 0
        self.first = batches - self.count
        self.training: list[tuple[Tensor, Tensor]] = []
        self.validation: list[tuple[Tensor, Tensor]] = []
        """Which of them are right (n,), and their labels (n,)."""

    def due(self, place: int) -> bool:
        """Whether the batch at `place` in the first epoch is to be looked at."""
        return place >= self.first and len(self.training) < self.count

    def look(self, subsets: FixedSubsets, batch: Any) -> dict[str, float]:
        """`accuracy` on `samples` of the training and `validation` on `validation_samples`, these as if
        classes were as common; nothing before the last batch, nor where samples are not drawn evenly or
        change from one epoch to the next."""
        if not (subsets.shown_as_they_are and subsets.step.class_numbers and subsets.validation is not None):
            self.count = 0
            return {}
        # Of each step some: weights that move fast know more at one step than at the next.
        part = slice(len(self.training), None, self.count)
        inputs, targets = (each[part] for each in subsets.validation)
        for seen, (x, y) in (
            (self.training, subsets.entering(batch)),
            (self.validation, (inputs, targets)),
        ):
            seen.append((subsets.which_right(x, y), y))
        if len(self.training) < self.count:
            return {}
        right, labels, validated, theirs = (
            torch.cat(parts).cpu()
            for seen in (self.training, self.validation)
            for parts in zip(*seen, strict=True)
        )
        classes = 1 + int(max(labels.max(), theirs.max()))
        shares, of, known = (
            torch.bincount(each.clamp_min(0), minlength=classes)
            for each in (labels, theirs, theirs[validated])
        )
        return {
            "accuracy": float(right.float().mean()),
            "samples": float(len(right)),
            "validation": float(reweighed(known, of, shares)),
            "validation_samples": float(len(theirs)),
        }
