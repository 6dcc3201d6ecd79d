"""What samples of validation say of labels, images and narrow layers of a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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


class Taught(Foreign):
    """Half of the loss is the distance from a frozen teacher."""

    def __init__(self, teacher: nn.Module) -> None:
        super().__init__(mlp(), 0.02)
        self.teacher = teacher.requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        logits = self.net(x)
        self.log("train_acc", (logits.argmax(1) == y).float().mean(), on_step=False, on_epoch=True)
        return F.cross_entropy(logits, y) + F.mse_loss(logits.softmax(1), self.teacher(x).softmax(1))


@pytest.mark.parametrize("loaded", [True, False])
def test_a_teacher_that_was_never_loaded(loaded: bool, tmp_path: Path) -> None:
    images, labels = digits(600)
    teacher = mlp()
    if loaded:
        optimizer = torch.optim.Adam(teacher.parameters(), 0.01)
        for _ in range(30):
            optimizer.zero_grad()
            F.cross_entropy(teacher(images), labels).backward()
            optimizer.step()
    _, _, diagnosis = watched(
        Taught(teacher),
        tmp_path,
        LearningCurves(),
        train=DataLoader(TensorDataset(images, labels), 32, shuffle=True),
        max_epochs=2,
    )
    assert alarms(diagnosis.findings) == ([] if loaded else ["frozen-parameters"])


class Distilled(Taught):
    """Beside the classes, the features of a random network are learned, as for a measure of what is new."""

    def __init__(self) -> None:
        super().__init__(_features())
        self.features = _features()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self.net(batch[0])
        self.log("train_acc", (logits.argmax(1) == batch[1]).float().mean(), on_step=False, on_epoch=True)
        distance = F.mse_loss(self.features(batch[0]), self.teacher(batch[0]))
        return F.cross_entropy(logits, batch[1]) + distance


def _features() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 64))


def test_features_of_a_random_network_are_no_guesses_at_classes(tmp_path: Path) -> None:
    images, labels = digits(300)
    train = DataLoader(TensorDataset(images, labels), 32, shuffle=True)
    _, _, diagnosis = watched(Distilled(), tmp_path, LearningCurves(), train=train, max_epochs=2)
    assert alarms(diagnosis.findings) == []
