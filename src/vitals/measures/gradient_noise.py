"""How much of a batch's gradient is noise."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from vitals.measures.norms import norms


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
def squared_norm(gradients: Iterable[Tensor]) -> Tensor:
    """Of all gradients together; a float32 scalar on the device."""
    return norms(list(gradients)).square().sum()


def gradient_noise(first: float, second: float, whole: float, samples: int) -> GradientNoise:
    """Signal and noise from the squared norms of three gradients: of the means over the `first` and the
    `second` half of so many `samples`, an even number, and over the `whole` (McCandlish et al. 2018, "An
    Empirical Model of Large-Batch Training", appendix A.1)."""
    half = (first + second) / 2
    signal = 2 * whole - half
    variance = (half - whole) * samples
    return GradientNoise(signal, variance)
