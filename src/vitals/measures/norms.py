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
    # Half precision would overflow in the sum of squares, and double cannot be summed in single.
    doubles = any(tensor.dtype == torch.float64 for tensor in tensors)
    found = torch._foreach_norm(list(tensors), 2, torch.float64 if doubles else torch.float32)
    if len({norm.device for norm in found}) > 1:
        found = tuple(norm.to(found[0].device) for norm in found)
    return torch.stack(found).float()
