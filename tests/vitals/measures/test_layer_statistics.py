"""The figures of a layer against NumPy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from vitals.measures.layer_outputs import Kind, LayerOutput
from vitals.measures.layer_statistics import MOST_VALUES, LayerStatistics, layer_statistics


def figures(
    values: Tensor, gradient: Tensor | None = None, channel_dim: int = 1, kind: Kind = "relu"
) -> LayerStatistics:
    row = layer_statistics(LayerOutput("a", values, channel_dim, kind), gradient)
    assert row.dtype == torch.float32
    return LayerStatistics(*row.tolist())


@pytest.mark.parametrize(
    ("shape", "channel_dim"), [((16, 5), 1), ((8, 6, 4, 4), 1), ((4, 7, 5), 2), ((4, 3, 2, 2, 3), 1)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_figures_are_those_of_numpy(shape: tuple[int, ...], channel_dim: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values, gradient = (torch.randn(shape) + 3).relu().to(dtype), torch.randn(shape).to(dtype)
    values.select(channel_dim, 1).zero_()
    found = figures(values, gradient, channel_dim)
    array, slopes = values.double().numpy(), gradient.double().numpy()
    channels = shape[channel_dim]
    expected = {
        "mean": array.mean(),
        "std": array.std(),
        "variance": np.mean([unit.var() for unit in array.reshape(len(array), -1).T]),
        "dead": 1 / channels,
        "saturated": 0.0,
        "gradient_variance": slopes.var(),
    }
    assert vars(found) == pytest.approx(expected, rel=1e-4)


def test_biases_do_not_hide_a_vanished_signal() -> None:
    found = figures(torch.linspace(-5, 5, 64).expand(32, 64))
    assert found.std > 2
    assert found.variance < 1e-12  # rounding


def test_a_large_mean_does_not_swallow_a_small_variance() -> None:
    torch.manual_seed(0)
    values = 1000 + 0.01 * torch.randn(64, 32)
    assert figures(values).variance == pytest.approx(float(values.double().var(0, correction=0).mean()), 1e-2)


def test_saturation_of_tanh_and_sigmoid_is_that_of_their_limits() -> None:
    values = torch.tensor([[-1.0, -0.98, 0.0, 0.5], [0.96, 0.98, 1.0, -0.96]])
    assert figures(values, kind="tanh").saturated == 0.5
    assert (
        figures(torch.tensor([[0.0, 0.02, 0.5, 0.04], [0.98, 1, 0.9, 0.1]]), kind="sigmoid").saturated == 0.5
    )
    assert figures(values, kind="relu").saturated == 0.0


def test_a_layer_that_the_loss_does_not_reach_has_no_gradient_anywhere() -> None:
    assert figures(torch.randn(4, 3), None).gradient_variance == 0.0


def test_large_maps_are_thinned_without_losing_samples_or_channels() -> None:
    torch.manual_seed(0)
    values = torch.randn(8, 16, 128, 128)
    assert values.numel() > 2 * MOST_VALUES
    values[:, 3] = 0
    found = figures(values, values)
    assert found.dead == pytest.approx(1 / 16)
    assert found.std == pytest.approx(float(values.std()), rel=0.01)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_said(bad: float) -> None:
    values = torch.ones(4, 3)
    values[1, 1] = bad
    assert math.isnan(figures(values).variance)
    assert not math.isfinite(figures(torch.ones(4, 3), values).gradient_variance)
