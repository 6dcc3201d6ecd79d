"""What samples of validation say of labels, images and narrow layers of a training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from foreign import Foreign, alarms, digits, mlp
from monitoring import watched
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from vitals.monitors.learning_curves import LearningCurves

SHOWN = 1200


def smoothed(images: Tensor) -> Tensor:
    """As if enlarged from half their size."""
    small = F.avg_pool2d(images, 2)
    return F.interpolate(small, scale_factor=2, mode="bilinear") + 0.3


def through(units: int) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, units), nn.ReLU(), nn.Linear(units, 10)
    )


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("", []),
        ("half of the labels off by one", ["labels-random"]),
        ("validation enlarged", ["train-val-mismatch"]),
        ("two units", ["underfitting"]),
        ("twelve units", []),
    ],
)
def test_what_new_samples_say(fault: str, cause: list[str], tmp_path: Path) -> None:
    images, labels = digits(1797)
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    shown, new = labels[:SHOWN], images[SHOWN:]
    if fault == "half of the labels off by one":
        shown = (shown + (torch.arange(SHOWN) < SHOWN // 2)) % 10
    if fault == "validation enlarged":
        new = smoothed(new)
    net = through(2 if fault == "two units" else 12) if fault.endswith("units") else mlp()
    _, _, diagnosis = watched(
        Foreign(net, 0.02),
        tmp_path,
        LearningCurves(),
        train=DataLoader(TensorDataset(images[:SHOWN], shown), 32, shuffle=True),
        validation=DataLoader(TensorDataset(new, labels[SHOWN:]), 200),
        max_epochs=4,
        limit_val_batches=None,
    )
    assert alarms(diagnosis.findings) == cause
