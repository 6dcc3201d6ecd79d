"""Double precision, wherever the numbers lie."""

from functools import cache

import torch
from torch import Tensor


@cache
def has_double(device: torch.device) -> bool:
    """Whether `device` has float64, which MPS has not."""
    try:
        torch.empty(0, dtype=torch.float64, device=device)
    except TypeError:
        return False
    return True


def double(values: Tensor) -> Tensor:
    """`values` as float64, on the host where their device has none."""
    return values.double() if has_double(values.device) else values.cpu().double()
