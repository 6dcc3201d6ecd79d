"""Norms of many tensors at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of each of `tensors`, of any real precisions; (n,), float32, on the device of the
    first."""
    if not tensors:
        return torch.zeros(0)
    listed = list(tensors)
    try:  # half precision would overflow in the sum of squares
        return torch.stack(torch._foreach_norm(listed, 2, torch.float32))
    except RuntimeError:  # double cannot be summed in single, and some may lie on other devices
        found = torch._foreach_norm([tensor.double() for tensor in listed], 2)
        return torch.stack([norm.to(found[0].device) for norm in found]).float()
