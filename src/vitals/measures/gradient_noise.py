"""How much of a batch's gradient is noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GradientNoise:
    """Estimates from one batch, themselves noisy: average them over time before dividing."""

    signal: float
    """|G|², the squared norm of the true gradient; an unbiased estimate, which may be negative."""
    variance: float
    """tr(Σ), the variance of a single sample's gradient, summed over parameters."""

    @property
    def scale(self) -> float:
        """tr(Σ)/|G|²: the batch size at which noise and signal are equal; infinite without signal."""
        return self.variance / self.signal if self.signal > 0 else math.inf


@torch.no_grad()
def half_batch_norms(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Tensor:
    """Squared norms of two half batches' gradients and of their mean; (3,), float32, on the device."""
    names = [name for name in first if name in second]
    one, other = [first[name] for name in names], [second[name] for name in names]
    both = list(torch._foreach_add(one, other))
    return torch.stack([_squared_norm(one), _squared_norm(other), _squared_norm(both) / 4])


def gradient_noise(first: float, second: float, whole: float, samples: int) -> GradientNoise:
    """Signal and noise from the squared norms of `half_batch_norms`.

    McCandlish et al. 2018, "An Empirical Model of Large-Batch Training", appendix A.1.

    Args:
        first, second: squared norms of the mean gradients of two halves.
        whole: of the mean gradient of both.
        samples: in both halves together; even, 2 or more.
    """
    half = (first + second) / 2
    signal = 2 * whole - half
    variance = (half - whole) * samples
    return GradientNoise(signal, variance)


def _squared_norm(gradients: list[Tensor]) -> Tensor:
    return torch.stack(torch._foreach_norm(gradients, 2, torch.float32)).square().sum()
