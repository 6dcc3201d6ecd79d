"""Validation inputs as they would be if they had been prepared in another way."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Preparation = Callable[[Tensor], Tensor]

GREY = 0.02
"""Mean difference of standardized channels up to which images are grey: 0 where one is read for all, 0.23
of CIFAR-10 (measured)."""

WHOLE, HALF = 0.85, (0.55, 0.7)
"""Share of the range of all images by which neighbouring pixels differ that is nearly all of it, and shares
that are about half of it."""
PIXELS = 2**21
"""Numbers that are looked at for that."""

AS_GREY = "one value for all channels, as in training"
"""What is tried where the training has grey images and validation has not."""


def other_preparations(
    training: Tensor, validation: Tensor, entering: Tensor | None = None
) -> dict[str, Preparation]:
    """What makes of some of the validation inputs (M, ...) what they would be if all had been prepared
    otherwise, by what was done to them: what mistakes in preparing one of two sets amount to. The scale is
    taken from `training` inputs (N, ...); `entering` are a few as the training has them, where these are
    prepared as validation is."""
    if not validation.is_floating_point() or not training.is_floating_point():
        return {}
    channels = (0, *range(2, validation.ndim))
    (mean, sd), (own_mean, own_sd) = (_scale(values, channels) for values in (training, validation))

    def plain(some: Tensor) -> Tensor:
        return (some - own_mean) / own_sd.clamp_min(1e-12)

    found: dict[str, Preparation] = {"scaled as in training": lambda some: plain(some) * sd + mean}
    if validation.ndim == 4:
        found["upside down"] = lambda some: some.flip(2)
        found["bright and dark exchanged"] = lambda some: 2 * own_mean - some
        if validation.shape[1] == 3:
            found["channels in reverse order"] = lambda some: some.flip(1)
            # Most of validation must have colours: a few photographs of many scans have them.
            shown = _colour(training if entering is None else entering).mean()
            if shown < GREY < _colour(validation).median():
                found[AS_GREY] = lambda some: plain(some).mean(1, keepdim=True) * sd + mean
        if validation.shape[2] == validation.shape[3]:  # in one piece, as `view` asks
            found["rows and columns exchanged"] = lambda some: some.transpose(2, 3).contiguous()
    return found


def _colour(images: Tensor) -> Tensor:
    """By how much the channels of each of `images` (N, C, H, W) differ but for their scale, (N,)."""
    mean, sd = _scale(images, (0, 2, 3))
    plain = (images - mean) / sd.clamp_min(1e-12)
    return (plain - plain[:, :1]).abs().mean((1, 2, 3))


def roughness(images: Tensor) -> Tensor:
    """By how much neighbouring pixels of each of `images` (N, channels, height, width) differ, root mean
    square, as a share of the standard deviation of all its pixels; (N,)."""
    differences = [images.diff(dim=dim).flatten(1).square().mean(1) for dim in (2, 3)]
    spread = images.flatten(1).var(1).clamp_min(1e-12)
    return (torch.stack(differences).mean(0) / spread).sqrt()


def leaps(images: Tensor) -> tuple[float, float]:
    """Which share of neighbouring pixels of `images` (N, channels, height, width) differ by nearly the whole
    range of their channel, and by half of it: of photographs next to none, and more by half of it. Those of
    which one is at an end of the range exactly, as where black is filled in beside white, do not count."""
    images = images[: max(1, PIXELS // images[0].numel())].float()
    low, high = (end(images, (0, 2, 3), keepdim=True) for end in (torch.amin, torch.amax))
    inside = ((images > low) & (images < high)).float()
    found = []
    for dim in (2, 3):
        count = images.shape[dim] - 1
        within = inside.narrow(dim, 0, count) * inside.narrow(dim, 1, count)
        found.append((images.diff(dim=dim).abs().div(high - low) * within).flatten())
    steps = torch.cat(found)
    whole, above, below = (float((steps > at).float().mean()) for at in (WHOLE, *HALF))
    return whole, above - below


def _scale(values: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over `dims`; `torch.std` over several takes four times as long."""
    mean = values.mean(dims, keepdim=True)
    count = values.numel() / mean.numel()
    return mean, torch.linalg.vector_norm(values - mean, dim=dims, keepdim=True) / math.sqrt(count)
