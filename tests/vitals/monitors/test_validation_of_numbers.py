"""Validation of numbers that are no classes, and what watches a metric the wrong way round."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foreign import Foreign, alarms
from lightning.pytorch.callbacks import EarlyStopping
from monitoring import watched
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from vitals.monitors.learning_curves import LearningCurves


class Line(Foreign):
    """Learns a plane, from one tensor or from its columns."""

    apart = False

    def __init__(self, seen: int = 3) -> None:
        super().__init__(nn.Identity(), 0.02)
        self.line = nn.Linear(seen, 1)

    def forward(self, *columns: Tensor) -> Tensor:
        return self.line(torch.cat(columns, 1))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        found = self(*x.split(1, 1)) if self.apart else self(x)
        return F.mse_loss(found[:, 0], y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss = self.training_step(batch, batch_idx)
        self.log_dict(
            {"val_loss": loss, "val_acc": -loss, "val_neg_mse": -loss, "domain_acc": loss},
            batch_size=len(batch[1]),
        )


def planes(scale: float = 1.0, order: tuple[int, ...] = (0, 1, 2), start: int = 0) -> DataLoader:
    x = torch.randn(1200, 3, generator=torch.Generator().manual_seed(start))
    y = (x @ torch.tensor([1.0, -2.0, 0.0])) * scale
    return DataLoader(TensorDataset(x[:, order], y), 16, shuffle=not start)


@pytest.mark.parametrize("apart", [False, True])
def test_validation_targets_on_another_scale_and_columns_in_another_order(
    apart: bool, tmp_path: Path
) -> None:
    right, other = planes(start=1), planes(order=(1, 0, 2), start=1)
    cases = {"right": right, "other": other} if apart else {"right": right, "scaled": planes(25.0, start=1)}
    for name, validation in cases.items():
        module = Line()
        module.apart = apart
        _, _, diagnosis = watched(
            module,
            tmp_path / name,
            LearningCurves(),
            train=planes(),
            validation=validation,
            max_epochs=2,
            limit_val_batches=None,
        )
        assert alarms(diagnosis.findings) == ([] if name == "right" else ["train-val-mismatch"])
        if name == "scaled":
            assert "those of validation" in diagnosis.findings[0].message


class TwoLines(Line):
    """One for each half of what is predicted, so that the step is looked at as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Linear(3, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return F.mse_loss((self.line(x) + self.second(x))[:, 0], y)


@pytest.mark.parametrize("shuffled", [False, True])
def test_of_a_step_as_a_whole_rows_are_exchanged(shuffled: bool, tmp_path: Path) -> None:
    train, validation = planes(), planes(start=1)
    for loader in (train, validation) if shuffled else ():
        x, y = loader.dataset.tensors
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(2))
        loader.dataset.tensors = x, y[order]
    _, _, diagnosis = watched(
        TwoLines(), tmp_path, LearningCurves(), train=train, validation=validation, limit_val_batches=None
    )
    rise = diagnosis.recorder.history.last("validation/exchanged", math.nan)
    assert abs(rise) < 0.2 if shuffled else rise > 5


class Pairs(Foreign):
    """Two towers, each sample's other half among those of the batch."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), 0.05)
        self.left, self.right = nn.Linear(8, 16), nn.Linear(8, 16)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        [x] = batch
        left, right = (
            F.normalize(part(each)) for part, each in zip(self.parts(), x.chunk(2, 1), strict=True)
        )
        return F.cross_entropy(left @ right.T / 0.2, torch.arange(len(x)))

    def parts(self) -> tuple[nn.Module, nn.Module]:
        return self.left, self.right

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))


def halves(count: int, size: int) -> DataLoader:
    generator = torch.Generator().manual_seed(count)
    half = torch.randn(count, 8, generator=generator)
    x = torch.cat([half, half], 1) + 0.3 * torch.randn(count, 16, generator=generator)
    return DataLoader(TensorDataset(x), size, shuffle=size < 99)


def test_more_negatives_in_larger_batches_of_validation_are_no_mismatch(tmp_path: Path) -> None:
    _, _, diagnosis = watched(
        Pairs(),
        tmp_path,
        LearningCurves(),
        train=halves(1000, 8),
        validation=halves(512, 256),
        max_epochs=2,
        limit_val_batches=None,
        limit_train_batches=None,
    )
    assert not alarms(diagnosis.findings)


class Faces(Foreign):
    """Learns to tell people by their numbers, and is validated on others."""

    highest = 0

    def __init__(self) -> None:
        super().__init__(nn.Identity(), 0.05)
        self.body, self.people = nn.Linear(3, 4), nn.Embedding(10, 4)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, who = batch
        Faces.highest = max(Faces.highest, int(who.max()))
        return (self.body(x) - self.people(who.clamp_max(9))).square().mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.body(batch[0]).square().mean())


def test_the_training_step_gets_no_classes_that_training_has_not(tmp_path: Path) -> None:
    x = torch.randn(64, 3)
    known, strange = (DataLoader(TensorDataset(x, torch.arange(64) % 10 + more), 8) for more in (0, 90))
    options = {"train": known, "validation": strange, "limit_val_batches": None}
    watched(Faces(), tmp_path, LearningCurves(), **options)
    assert Faces.highest == 9


def test_early_stopping_that_ends_a_run_for_getting_better(tmp_path: Path) -> None:
    for metric, mode, found in (
        ("val_acc", "max", []),
        ("val_acc", "min", ["underfitting"]),
        ("val_neg_mse", "max", []),
        ("domain_acc", "min", []),
    ):
        _, _, diagnosis = watched(
            Line(),
            tmp_path / metric / mode,
            EarlyStopping(metric, mode=mode, patience=1),
            train=planes(),
            validation=planes(start=1),
            max_epochs=4,
            limit_val_batches=None,
        )
        assert alarms(diagnosis.findings) == found


class Rising(Line):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_acc", 0.2 + 0.05 * self.current_epoch)


def test_early_stopping_that_asks_more_than_an_accuracy_can_rise(tmp_path: Path) -> None:
    for least, found in ((0.5, ["underfitting"]), (0.06, [])):
        stops = EarlyStopping("val_acc", mode="max", min_delta=least, patience=1)
        options: dict[str, Any] = {"train": planes(), "validation": planes(start=1), "max_epochs": 4}
        _, _, diagnosis = watched(Rising(), tmp_path / f"{least}", stops, **options, limit_val_batches=None)
        assert alarms(diagnosis.findings) == found
