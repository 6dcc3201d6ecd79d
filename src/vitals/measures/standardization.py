"""Inputs as they would be with mean 0 and standard deviation 1 in each channel."""

import torch
from torch import Tensor


def standardized(inputs: Tensor) -> Tensor:
    """`inputs` (N, C, ...), C ≥ 1, by channel, and (N, D) as a whole; a constant channel becomes 0.

    Floats keep their type, whole numbers become float32.
    """
    values = inputs.float()
    dims = [0, *range(2, values.ndim)] if values.ndim > 2 else [0, 1]
    centred = values - values.mean(dims, keepdim=True)
    result = centred / centred.square().mean(dims, keepdim=True).sqrt().clamp_min(
        torch.finfo(torch.float32).tiny
    )
    return result.to(inputs.dtype) if inputs.is_floating_point() else result
