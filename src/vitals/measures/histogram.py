"""Histograms counted where the tensor is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 64
MOST_VALUES = 2**18
"""Of a larger tensor evenly spaced values are counted: a quarter million gives every share to a tenth of a
percent."""


@dataclass(frozen=True)
class Range:
    """Where the bins of the next histogram lie, from what the one before has seen."""

    low: float
    high: float

    @classmethod
    def around(cls, smallest: float, largest: float) -> Range | None:
        """A tenth wider than from `smallest` to `largest` on each side; None where these are not finite."""
        if not (math.isfinite(smallest) and math.isfinite(largest)):
            return None
        margin = 0.1 * (largest - smallest) or 0.1 * abs(largest) or 1e-12
        return cls(smallest - margin, largest + margin)

    def edges(self, bins: int = BINS) -> list[float]:
        """The limits of the bins, `bins` + 1 numbers."""
        width = (self.high - self.low) / bins
        return [self.low + width * i for i in range(bins)] + [self.high]


def count(values: Tensor, where: Range, bins: int = BINS) -> Tensor:
    """How many of `values` lie in each bin; (`bins`,), float32, on the device of `values`.

    What lies outside is counted in the outermost bins, NaN nowhere. Of more than `MOST_VALUES` values evenly
    spaced ones are counted.
    """
    values = sample(values).float()
    return torch.histc(values.clamp(where.low, where.high), bins, where.low, where.high)


def sample(values: Tensor) -> Tensor:
    """At most `MOST_VALUES` of `values`, (n,), evenly spaced in memory."""
    flat = _flat(values.detach())
    step = -(-flat.numel() // MOST_VALUES)
    return flat[::step]


def _flat(values: Tensor) -> Tensor:
    """All values in the order of memory, without a copy where there is such an order."""
    if values.is_contiguous(memory_format=torch.contiguous_format):
        return values.view(-1)
    if values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last):
        return values.permute(0, 2, 3, 1).reshape(-1)
    return values.reshape(-1)
