"""Signal and noise of gradients, against the gradients of single samples; noise of the loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from vitals.measures.gradient_noise import GradientNoise, gradient_noise, squared_norm
from vitals.monitors.learning_curves import WINDOW, loss_noise


def gradients_of_samples(weight: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
    """Of a half squared error of a linear model; (samples, features)."""
    return (inputs @ weight - targets)[:, None] * inputs


def test_estimates_from_halves_are_right_in_the_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.tensor([0.5, -1.0, 0.2])
    inputs = torch.randn(200_000, 3, generator=generator)
    targets = torch.randn(200_000, generator=generator)
    single = gradients_of_samples(weight, inputs, targets)
    signal = float(single.mean(0).square().sum())
    variance = float(single.var(0).sum())
    found = []
    for batch in single.view(-1, 20, 3)[:4000]:
        first, second = batch[:10].mean(0), batch[10:].mean(0)
        # in two tensors, as of two parameters
        norms = [float(squared_norm([half[:2], half[2:]])) for half in (first, second, batch.mean(0))]
        found.append(gradient_noise(*norms, samples=20))
    assert np.mean([each.variance for each in found]) == pytest.approx(variance, rel=0.05)
    assert np.mean([each.signal for each in found]) == pytest.approx(signal, rel=0.1)


def test_the_same_gradient_twice_is_all_signal_and_opposite_ones_all_noise() -> None:
    norm = float(squared_norm([torch.tensor([3.0, 4.0])]))
    same = gradient_noise(norm, norm, norm, samples=8)
    assert (same.signal, same.variance, same.scale) == (25.0, 0.0, 0.0)
    opposite = gradient_noise(norm, norm, 0.0, samples=8)
    assert (opposite.signal, opposite.variance, opposite.scale) == (-25.0, 200.0, math.inf)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_half_and_double_precision_do_not_fail(dtype: torch.dtype) -> None:
    gradients = [torch.full((100, 100), 400.0, dtype=dtype), torch.zeros(1)]
    assert float(squared_norm(gradients)) == pytest.approx(1.6e9, rel=1e-2)


def test_the_scale_is_noise_over_signal() -> None:
    assert GradientNoise(2.0, 10.0).scale == 5.0


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("shape", ["level", "falling"])
def test_noise_of_the_loss_is_found_whatever_its_course(share: float, shape: str) -> None:
    random = np.random.default_rng(0)
    steps = np.arange(2000)
    course = 2 * np.exp(-steps / 1500) if shape == "falling" else np.full(2000, 2.0)
    losses = (course * (1 + share * random.normal(size=2000))).tolist()
    assert loss_noise(losses) == pytest.approx(share, rel=0.1)


def test_a_smooth_curve_has_no_noise() -> None:
    assert loss_noise([2 - 0.001 * step for step in range(100)]) == pytest.approx(0, abs=1e-9)


def test_there_is_no_noise_of_a_short_or_broken_curve() -> None:
    curve = [1.0] * (2 * WINDOW)
    assert loss_noise(curve) == 0.0
    assert loss_noise(curve[1:]) is None
    assert loss_noise([*curve, math.nan]) is None
    assert loss_noise([-value for value in curve]) is None
