"""The images that enter the network, as pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vitals.measures.image_grid import image_grid

SHOWN = 64
"""Images in the grid."""


def are_images(inputs: Any) -> bool:
    """Whether `inputs` are grey or colour images, (N, 1, H, W) or (N, 3, H, W)."""
    return isinstance(inputs, Tensor) and inputs.ndim == 4 and inputs.shape[1] in (1, 3)


def in_range(images: Tensor) -> Tensor:
    """`images` on a scale from 0 (their smallest value) to 1 (their largest), on the CPU; NaN is 0."""
    values = images.detach().float().cpu().nan_to_num(posinf=0.0, neginf=0.0)
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)


def input_grid(inputs: Tensor) -> Tensor:
    """The first images (N, C, H, W) as the network gets them, in one picture (3, H', W') from 0 to 1."""
    return image_grid(in_range(inputs[:SHOWN]), columns=8, fill=0.0)
