"""Counts on the device against NumPy's."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from vitals.measures.histogram import MOST_VALUES, Histogram, histogram, sample


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e10])
def test_counts_and_moments_are_those_of_numpy(dtype: torch.dtype, scale: float) -> None:
    torch.manual_seed(0)
    values = scale * (torch.randn(40, 50).to(dtype) + 0.5)
    numbers = histogram(values).tolist()
    smallest, largest, total, squares, *counts = numbers
    exact = values.double().numpy()
    expected, limits = np.histogram(exact, 64)
    # Those of bfloat16 may lie on an edge, where rounding tells.
    assert np.abs(np.array(counts) - expected).sum() <= (2 if dtype != torch.bfloat16 else 80)
    assert sum(counts) == 2000
    assert (smallest, largest) == pytest.approx((exact.min(), exact.max()), rel=1e-6)
    assert (total, squares) == pytest.approx((exact.sum(), (exact**2).sum()), rel=1e-4)
    counted = Histogram.of(numbers)
    assert counted is not None
    assert counted.edges == pytest.approx(limits.tolist(), rel=1e-5, abs=1e-5 * scale)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_shows_in_the_limits_and_raises_nothing(bad: float) -> None:
    for values in (torch.tensor([1.0, bad, 2.0]), torch.full((9,), bad)):
        numbers = histogram(values).tolist()
        smallest, largest, *_ = numbers
        assert Histogram.of(numbers) is None
        assert not (math.isfinite(smallest) and math.isfinite(largest))


@pytest.mark.parametrize("value", [0.0, 1.0, -5.0, 1e-42, -3e38, 1e8])
def test_equal_values_lie_in_one_bin_of_some_width(value: float) -> None:
    numbers = histogram(torch.full((7,), value)).tolist()
    _, _, _, _, *counts = numbers
    assert counts == [7.0] + [0.0] * 63
    counted = Histogram.of(numbers)
    assert counted is not None
    limits = counted.edges
    assert len(limits) == 65
    assert all(low < high for low, high in pairwise(limits))


def test_values_that_differ_in_the_last_digit_are_told_apart() -> None:
    values = torch.tensor([1.0, 1.0 + 2**-23])
    assert histogram(values, bins=2).tolist()[4:] == [1.0, 1.0]


def test_of_large_tensors_evenly_spaced_values_are_taken() -> None:
    size = 3 * MOST_VALUES + 5
    taken = sample(torch.arange(size))
    assert len(taken) <= MOST_VALUES
    assert set(taken.diff().tolist()) == {4}
    assert taken[0] == 0
    assert taken[-1] > size - 5


def test_a_small_tensor_is_taken_whole_and_in_any_layout() -> None:
    values = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    layouts = (
        values,
        values.contiguous(memory_format=torch.channels_last),
        values.permute(1, 3, 0, 2),
        values[:, :, ::2],
        values.expand(2, 2, 3, 4, 5),
        torch.tensor(3.0),
    )
    for layout in layouts:
        assert sorted(sample(layout).tolist()) == sorted(layout.flatten().tolist())


def test_channels_last_is_read_in_the_order_of_memory() -> None:
    values = torch.arange(2 * 3 * 4 * 5.0).view(2, 4, 5, 3).permute(0, 3, 1, 2)
    taken = sample(values)
    assert taken.tolist() == list(range(120))
    assert taken.data_ptr() == values.data_ptr()  # no copy


def test_shares_of_a_sample_are_those_of_all() -> None:
    torch.manual_seed(0)
    values = torch.rand(8, 256, 512)
    counts = histogram(values, bins=8)[4:]
    assert (counts / counts.sum()).tolist() == pytest.approx([1 / 8] * 8, abs=3e-3)
