"""Validation inputs as they would be if they had been prepared in another way."""

import math

import torch
from torch import Tensor


def other_preparations(training: Tensor, validation: Tensor) -> dict[str, Tensor]:
    """Validation inputs (M, ...) as they would be if they had been prepared otherwise, by what was done to
    them: what mistakes in preparing one of two sets amount to. The scale is taken from `training` inputs (N,
    ...)."""
    if not validation.is_floating_point() or not training.is_floating_point():
        return {}
    channels = (0, *range(2, validation.ndim))
    (mean, sd), (own_mean, own_sd) = (_scale(values, channels) for values in (training, validation))
    found = {"scaled as in training": (validation - own_mean) / own_sd.clamp_min(1e-12) * sd + mean}
    if validation.ndim == 4:
        found["upside down"] = validation.flip(2)
        if validation.shape[1] == 3:
            found["channels in reverse order"] = validation.flip(1)
        if validation.shape[2] == validation.shape[3]:
            found["rows and columns exchanged"] = validation.transpose(2, 3).contiguous()  # as `view` asks
    return found


def _scale(values: Tensor, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation over `dims`; `torch.std` over several takes four times as long."""
    mean = values.mean(dims, keepdim=True)
    count = values.numel() / mean.numel()
    return mean, torch.linalg.vector_norm(values - mean, dim=dims, keepdim=True) / math.sqrt(count)
