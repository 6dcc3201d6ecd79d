"""Histograms counted where the tensor is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 64
MOST_VALUES = 2**18
"""Of a larger tensor evenly spaced values are counted: a quarter million gives every share to a tenth of a
percent."""


@torch.no_grad()
def histogram(values: Tensor, bins: int = BINS) -> Tensor:
    """Smallest and largest value, sum, sum of squares, and how many values lie in each of `bins` bins of the
    same width between the smallest and the largest; (4 + `bins`,), float32, on the device of `values`.

    Of more than `MOST_VALUES` values evenly spaced ones are counted. Where one of them is NaN or infinite, so
    are the limits, and the counts mean nothing. Nothing is brought to the host to place the bins.
    """
    flat = sample(values).float()
    smallest, largest = flat.aminmax()
    share = (flat - smallest) / (largest - smallest).clamp_min(torch.finfo(torch.float32).tiny)
    # Of a NaN the place is any; histc is refused on a GPU where algorithms are to be deterministic.
    places = (bins * share).long().clamp_(0, bins - 1)
    counts = torch.zeros_like(share[:1]).expand(bins).index_add(0, places, torch.ones_like(share))
    return torch.cat([torch.stack([smallest, largest, flat.sum(), flat.square().sum()]), counts])


@dataclass(frozen=True)
class Histogram:
    """What `histogram` has counted, on the host: `Histogram.of(histogram(values).tolist())`."""

    smallest: float
    largest: float
    total: float
    squares: float
    """Sum of the squares of the values, as `total` is that of the values."""
    counts: list[int]

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Histogram | None:
        """None where a value was NaN or infinite, or there were none."""
        smallest, largest, total, squares, *counts = numbers
        known = math.isfinite(smallest) and math.isfinite(largest) and sum(counts) > 0
        return cls(smallest, largest, total, squares, [int(count) for count in counts]) if known else None

    @property
    def edges(self) -> list[float]:
        """The limits of the bins, one more than `counts`, rising; those of equal values go up to a little
        more."""
        width = (self.largest - self.smallest) / len(self.counts)
        width = width or max(1e-9 * abs(self.smallest), 1e-15)
        return [self.smallest + width * place for place in range(len(self.counts) + 1)]


def sample(values: Tensor) -> Tensor:
    """At most `MOST_VALUES` of `values`, (n,), evenly spaced in memory."""
    flat = _flat(values.detach())
    step = -(-flat.numel() // MOST_VALUES)
    return flat[::step]


def _flat(values: Tensor) -> Tensor:
    """All values in the order of memory, without a copy where there is such an order."""
    if values.is_contiguous(memory_format=torch.contiguous_format):
        return values.view(-1)
    if values.ndim == 2 and values.t().is_contiguous():  # as the gradient of a linear layer
        return values.t().view(-1)
    if values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last):
        return values.permute(0, 2, 3, 1).reshape(-1)
    return values.reshape(-1)
