"""Many small pictures in one, as an instrument shows them that does without torchvision."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def image_grid(images: Tensor, columns: int, fill: float) -> Tensor:
    """Pictures row by row, each with a border of two pixels.

    Args:
        images: (N, C, H, W), N ≥ 1, C = 1 (which is made 3) or 3.
        columns: the most to stand side by side.
        fill: value of the border, and of the places that remain empty.

    Returns:
        (3, height, width).
    """
    border, count = 2, len(images)
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    cells = F.pad(images.expand(-1, 3, -1, -1), (border, 0, border, 0), value=fill)
    cells = F.pad(cells, (0, 0) * 3 + (0, rows * columns - count), value=fill)
    grid = cells.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
    return F.pad(grid, (0, border, 0, border), value=fill)


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
