"""What a linear classifier makes of inputs or features: whether it is they that tell little."""

import torch
import torch.nn.functional as F
from torch import Tensor

PROBE_PIXELS = 8
"""Side that images are averaged down to: 192 numbers an image, fewer than samples."""
RIDGE = 0.1
"""The penalty as a share of each (standardized) feature's own weight: of little influence, 0.03 to 1."""


def linear_classifier(x: Tensor, y: Tensor, held_out: Tensor, classes: int) -> Tensor:
    """Class numbers that ridge regression of `y` (N,) on the standardized `x` (N, ...) gives `held_out`."""
    features, held_features = small(x), small(held_out)
    mean, sd = features.mean(dim=0), features.std(dim=0)
    varying = sd > 0
    features = ((features - mean) / sd)[:, varying]
    held_features = ((held_features - mean) / sd)[:, varying]
    # The kernel form needs an N×N system however many features there are.
    kernel = features @ features.T / max(1, features.shape[1])
    wanted = F.one_hot(y.cpu(), classes).double()
    weights = torch.linalg.solve(
        kernel + RIDGE * torch.eye(len(y), dtype=kernel.dtype), wanted - wanted.mean(dim=0)
    )
    return (held_features @ features.T / max(1, features.shape[1]) @ weights).argmax(dim=1)


def small(inputs: Tensor) -> Tensor:
    """Inputs (N, D) as float64 on the CPU, images averaged down to 8×8 first."""
    values = inputs.float()
    if values.ndim == 4 and min(values.shape[2:]) > PROBE_PIXELS:
        values = F.adaptive_avg_pool2d(values, PROBE_PIXELS)
    return values.flatten(1).cpu().double()
