"""From the device to the host, once for everything that was measured."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_host(parts: Sequence[Tensor]) -> list[list[float]]:
    """The values of each part as a flat list, in a single transfer. Parts must be on one device."""
    if not parts:
        return []
    flat = torch.cat([part.detach().reshape(-1).float() for part in parts]).tolist()
    lists: list[list[float]] = []
    start = 0
    for part in parts:
        lists.append(flat[start : start + part.numel()])
        start += part.numel()
    return lists
