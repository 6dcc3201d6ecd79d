"""Validation inputs as they would be if they had been prepared in another way."""

import torch
from torch import Tensor


def other_preparations(training: Tensor, validation: Tensor) -> dict[str, Tensor]:
    """Validation inputs (M, ...) as they would be if they had been prepared otherwise, by what was done to
    them: what mistakes in preparing one of two sets amount to.

    Args:
        training: inputs (N, ...), of which the scale is taken.
        validation: inputs.

    Returns:
        Inputs (M, ...) by what was done to them.
    """
    if not validation.is_floating_point() or not training.is_floating_point():
        return {}
    channels = (0, *range(2, validation.ndim))
    mean, sd = (
        [statistic(values, channels, keepdim=True) for values in (training, validation)]
        for statistic in (torch.mean, torch.std)
    )
    found = {"scaled as in training": (validation - mean[1]) / sd[1].clamp_min(1e-12) * sd[0] + mean[0]}
    if validation.ndim == 4:
        found["upside down"] = validation.flip(2)
        if validation.shape[1] == 3:
            found["channels in reverse order"] = validation.flip(1)
        if validation.shape[2] == validation.shape[3]:
            found["rows and columns exchanged"] = validation.transpose(2, 3).contiguous()  # as `view` asks
    return found
