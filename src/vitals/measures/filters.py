"""First-layer filters: a picture of them, and whether they look like those of a network that has learned."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitals.measures.image_grid import image_grid
from vitals.measures.parametrized import as_made

SMALLEST_SMOOTH = 5
"""Kernels of fewer pixels a side have too few neighbours to tell smooth from noisy."""
ALIKE = 0.99
"""Cosine from which two filters count as duplicates."""
MOST_SHOWN = 64
MOST_COMPARED = 512


@dataclass(frozen=True)
class FilterStatistics:
    """Of the filters of one layer."""

    smoothness: float | None
    """Lag-1 spatial autocorrelation, from −1 to 1: about 0 for noise, 0.5 and more for blobs and edges; None
    for kernels of fewer than 5 pixels a side."""
    moved: float
    """1 − cosine to the starting weights, from 0 (not at all) to 2."""
    duplicates: float
    """Share of filters that have a twin among the others, up to sign."""
    dead: float
    """Share of filters whose weights are all but zero."""


def as_filters(module: nn.Module, image_shape: tuple[int, ...] | None) -> Tensor | None:
    """The weights of a first layer as small images, (filters, C, H, W) with C = 1 or 3.

    Args:
        module: a Conv2d on images, or a Linear layer on flattened ones.
        image_shape: (C, H, W) of what enters the network; None where that is not an image.

    Returns:
        None for any other module.
    """
    weight = as_made(module, "weight")
    if not isinstance(weight, Tensor):
        return None
    if isinstance(module, nn.Conv2d) and weight.shape[1] in (1, 3):
        return weight.detach()
    images = image_shape is not None and len(image_shape) == 3 and image_shape[0] in (1, 3)
    if isinstance(module, nn.Linear) and images and weight.shape[1] == math.prod(image_shape or ()):
        return weight.detach().view(-1, *(image_shape or ()))
    return None


@torch.no_grad()
def filter_statistics(filters: Tensor, start: Tensor) -> Tensor:
    """The fields of `FilterStatistics` in their order, NaN for a smoothness of None; (4,), on the device.

    Args:
        filters: (filters, C, H, W).
        start: the same before training.
    """
    flat = filters.float().flatten(1)
    norms = flat.norm(dim=1)
    dead = (norms < 1e-3 * norms.amax().clamp_min(1e-30)).float().mean()
    moved = 1 - F.cosine_similarity(flat.flatten(), start.float().flatten().to(flat.device), dim=0)
    some = F.normalize(flat[:MOST_COMPARED], dim=1)
    alike = (some @ some.T).abs().fill_diagonal_(0).amax(dim=1) > ALIKE
    duplicates = (alike & (norms[:MOST_COMPARED] > 0)).float().mean()
    smoothness = _smoothness(filters.float()) if min(filters.shape[-2:]) >= SMALLEST_SMOOTH else None
    missing = torch.full((), math.nan, device=flat.device)
    return torch.stack([missing if smoothness is None else smoothness, moved, duplicates, dead])


@torch.no_grad()
def filter_grid(filters: Tensor) -> Tensor:
    """A picture of the first 64 filters, each scaled to its own range, pixels 8 wide, those of more than 16 a
    side 1: enlarged, 64 of them take thirty times as long to draw as to measure; uint8, (3, height, width),
    on the device."""
    shown = filters[:MOST_SHOWN].float()
    low, high = shown.amin(dim=(1, 2, 3), keepdim=True), shown.amax(dim=(1, 2, 3), keepdim=True)
    scaled = (shown - low) / (high - low).clamp_min(1e-12)
    large = F.interpolate(scaled, scale_factor=8 if shown.shape[-1] <= 16 else 1, mode="nearest")
    grid = image_grid(large, columns=math.ceil(math.sqrt(len(shown))), fill=1.0)
    return (grid.nan_to_num() * 255).round().to(torch.uint8)


def _smoothness(filters: Tensor) -> Tensor:
    """Mean over filters and channels of the correlation between neighbouring pixels."""
    centred = filters - filters.mean(dim=(2, 3), keepdim=True)
    power = centred.square().mean(dim=(2, 3)).clamp_min(1e-30)
    across = (centred[..., :, 1:] * centred[..., :, :-1]).mean(dim=(2, 3))
    down = (centred[..., 1:, :] * centred[..., :-1, :]).mean(dim=(2, 3))
    return ((across + down) / 2 / power).mean()
