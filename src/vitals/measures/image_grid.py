"""Many small pictures in one, as an instrument shows them that does without torchvision."""

import math

import torch.nn.functional as F
from torch import Tensor


def image_grid(images: Tensor, columns: int, fill: float) -> Tensor:
    """Images (N, C, H, W), C = 1 or 3, row by row, at most `columns` side by side, each with a border of two
    pixels of the value `fill`, as are places that remain empty: (3, height, width)."""
    border, count = 2, len(images)
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    cells = F.pad(images.expand(-1, 3, -1, -1), (border, 0, border, 0), value=fill)
    cells = F.pad(cells, (0, 0) * 3 + (0, rows * columns - count), value=fill)
    grid = cells.unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
    return F.pad(grid, (0, border, 0, border), value=fill)
