"""Filters: what is noise, what is smooth, what is a copy, and what their picture shows."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitals.measures.filters import FilterStatistics, as_filters, filter_grid, filter_statistics


def noise(count: int = 64, size: int = 7, channels: int = 3) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(count, channels, size, size)


def blurred(filters: Tensor) -> Tensor:
    kernel = torch.tensor([1.0, 2.0, 1.0])
    kernel = (kernel[:, None] * kernel / 16).expand(filters.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(filters, (1, 1, 1, 1), mode="reflect"), kernel, groups=filters.shape[1])


def figures(filters: Tensor, start: Tensor | None = None) -> FilterStatistics:
    return FilterStatistics(*filter_statistics(filters, filters if start is None else start).tolist())


def naive_smoothness(filters: Tensor) -> float:
    """Mean over filters and channels of the correlation of neighbours, by loops."""
    found = []
    for image in filters.double().flatten(0, 1):
        image = image - image.mean()
        pairs = [float((image[:, 1:] * image[:, :-1]).mean()), float((image[1:] * image[:-1]).mean())]
        found.append(sum(pairs) / 2 / float(image.square().mean()))
    return sum(found) / len(found)


def test_noise_is_not_smooth_and_a_blur_of_it_is() -> None:
    assert figures(noise()).smoothness == pytest.approx(-0.03, abs=0.06)
    assert figures(blurred(noise())).smoothness == pytest.approx(0.58, abs=0.1)
    for filters in (noise(), blurred(noise())):
        assert figures(filters).smoothness == pytest.approx(naive_smoothness(filters), abs=1e-5)


def test_smoothness_is_not_told_of_small_kernels() -> None:
    assert math.isnan(figures(noise(size=3)).smoothness or 0.0)
    assert not math.isnan(figures(noise(size=5)).smoothness or math.nan)


def test_moved_is_one_less_the_cosine() -> None:
    start = noise()
    assert figures(start).moved == pytest.approx(0, abs=1e-6)
    assert figures(3 * start, start).moved == pytest.approx(0, abs=1e-6)
    assert figures(-start, start).moved == pytest.approx(2)
    other = torch.randn_like(start)
    cosine = float((start * other).sum() / start.norm() / other.norm())
    assert figures(other, start).moved == pytest.approx(1 - cosine, rel=1e-5)


def test_duplicates_count_up_to_sign_and_scale_and_dead_filters_are_none() -> None:
    filters = noise(10)
    assert figures(filters).duplicates == 0
    filters[1] = filters[0]
    filters[3] = -2 * filters[2]
    filters[4] = filters[5] = 0
    found = figures(filters)
    assert found.duplicates == pytest.approx(0.4)
    assert found.dead == pytest.approx(0.2)
    assert figures(torch.zeros(4, 3, 5, 5)).dead == 1


def test_the_grid_shows_64_filters_each_in_its_own_range() -> None:
    filters = noise(70, 5)
    filters[1] *= 100
    grid = filter_grid(filters)
    side = 8 * (5 * 8 + 2) + 2
    assert (grid.shape, grid.dtype) == ((3, side, side), torch.uint8)
    for place in (0, 1, 9):
        row, column = divmod(place, 8)
        top, left = 2 + row * 42, 2 + column * 42
        shown = grid[:, top : top + 40 : 8, left : left + 40 : 8]
        one = filters[place]
        expected = ((one - one.min()) / (one.max() - one.min()) * 255).round()
        assert (shown - expected).abs().max() <= 1
    assert (grid[:, 0, :] == 255).all()


@pytest.mark.parametrize("shape", [(1, 1, 3, 3), (3, 1, 8, 8), (5, 3, 16, 16), (2, 3, 28, 28), (4, 3, 1, 5)])
def test_any_number_and_size_of_filters_makes_a_picture(shape: tuple[int, ...]) -> None:
    grid = filter_grid(torch.randn(shape))
    assert grid.shape[0] == 3
    assert max(grid.shape) < 800


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_filters_that_are_not_finite_make_a_picture_all_the_same(bad: float) -> None:
    filters = noise(4, 5)
    filters[1, 0, 0, 0] = bad
    assert filter_grid(filters).dtype == torch.uint8
    assert filter_statistics(filters, noise(4, 5)).shape == (4,)


def test_first_layers_that_look_at_images_have_filters() -> None:
    conv, linear = nn.Conv2d(3, 8, 5), nn.Linear(3 * 4 * 4, 6)
    assert as_filters(conv, None) is not None
    shown = as_filters(linear, (3, 4, 4))
    assert shown is not None
    assert torch.equal(shown[2, 1], linear.weight[2, 16:32].view(4, 4))
    assert as_filters(linear, (1, 4, 4)) is None
    assert as_filters(linear, (48,)) is None
    assert as_filters(nn.Conv2d(16, 8, 3), None) is None
    assert as_filters(nn.Conv1d(3, 8, 3), (3, 4, 4)) is None
    assert as_filters(nn.ReLU(), (3, 4, 4)) is None
