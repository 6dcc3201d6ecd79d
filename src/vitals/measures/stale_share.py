"""How much of an old gradient is left in a new one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def stale_share(new: Sequence[Tensor], fresh: Sequence[Tensor], old: Sequence[Tensor]) -> Tensor:
    """The multiple of `old` that comes nearest to `new` − `fresh`: 0 where gradients were cleared, 1 where
    the new one was added to the old; a scalar on the device.

    Args:
        new: gradients as the optimizer gets them, one for each parameter.
        fresh: those of the same batch alone, at the same weights.
        old: those that the optimizer got in the step before.
    """
    overlap = sum(((n - f) * o).sum(dtype=torch.float64) for n, f, o in zip(new, fresh, old, strict=True))
    size = sum(o.square().sum(dtype=torch.float64) for o in old)
    return torch.as_tensor(overlap / torch.as_tensor(size).clamp_min(1e-30))
