"""Which images are versions of others: mirrored, shifted, noisy."""

import torch
import torch.nn.functional as F
from torch import Tensor

NEAR, FAR, FAMILY = 0.3, 50, 8
"""Distance of an image to the nearest of others, over that to the 50th nearest, and of one of the first eight
over that to the next, below both of which it is a version of one."""
KIN, ASKED = 2**13, 500
"""Images that others may be versions of, and of those, that are compared."""
SKETCH = 8
"""Rows and columns to which an image is averaged for that."""


def sketches(row: Tensor) -> list[Tensor]:
    """Of images (N, C, H, W) their brightness in `SKETCH` rows and columns, of mean 0 and length 1 (N, 64);
    nothing of other rows."""
    if row.ndim != 4 or min(row.shape[2:]) < SKETCH:
        return []
    small = F.adaptive_avg_pool2d(row.detach().float().mean(1, keepdim=True), SKETCH).flatten(1)
    return [F.normalize(small - small.mean(1, keepdim=True)).cpu()]


def versions(training: list[Tensor], validation: list[Tensor]) -> tuple[int, int]:
    """How many images of `validation` are versions of one of the `training`, of how many."""
    if not validation or sum(map(len, training)) < 4 * FAR:
        return 0, 0
    known, asked = torch.cat(training)[:KIN], torch.cat(validation)[:ASKED]
    mirrored = asked.unflatten(1, (SKETCH, SKETCH)).flip(2).flatten(1)
    distances = torch.minimum(torch.cdist(asked, known), torch.cdist(mirrored, known)).clamp(min=1e-4)
    nearest = distances.topk(FAR, dim=1, largest=False).values
    leap = (nearest[:, :FAMILY] < NEAR * nearest[:, 1 : FAMILY + 1]).any(1)
    return int((leap & (nearest[:, 0] < NEAR * nearest[:, -1])).sum()), len(asked)
