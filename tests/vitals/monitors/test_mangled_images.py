"""Images that augmentation has made unrecognizable, against labels that do not belong to their images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign import Foreign, alarms, digits, fit, mlp
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from vitals.checks.sanity_checks import SanityChecks

SAMPLES = 1200


def mangle(image: Tensor) -> Tensor:
    return 3 * torch.randn_like(image) + image.flatten()[torch.randperm(64)].view_as(image)


class WithTransform(Dataset):
    """As torchvision's data sets are."""

    def __init__(self, transform: Callable[[Tensor], Tensor] | None, shuffled: bool = False) -> None:
        self.images, self.labels = digits(SAMPLES)
        if shuffled:
            self.labels = self.labels[torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(0))]
        self.transform = transform

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.images[index]
        return self.transform(image) if self.transform else image, self.labels[index]


class InHook(Foreign):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        images, labels = batch
        if self.trainer.training:
            images = torch.stack([mangle(image) for image in images])
        return images, labels


@pytest.mark.parametrize(
    ("module", "transform", "shuffled", "cause"),
    [
        (Foreign, mangle, False, ["regularization-too-strong"]),
        (InHook, None, False, ["regularization-too-strong"]),
        (Foreign, mangle, True, ["labels-random"]),
        (InHook, None, True, ["labels-random"]),
        (Foreign, lambda image: image + 0.3 * torch.randn_like(image), False, []),
    ],
)
def test_labels_are_told_from_mangled_images(
    module: Any, transform: Any, shuffled: bool, cause: list[str], tmp_path: Path
) -> None:
    checks = SanityChecks(on_fail="warn", checks=["informative_inputs"], samples=1024)
    train = Subset(WithTransform(transform, shuffled), range(1000))
    validation = Subset(WithTransform(None, shuffled), range(1000, SAMPLES))
    loaders = DataLoader(train, 32, shuffle=True), DataLoader(validation, 32)
    fit(module(mlp()), tmp_path, checks, train=loaders[0], validation=loaders[1], max_steps=1)
    assert alarms(checks.findings) == cause


class OfItsOwn(WithTransform):
    """Mangles in `__getitem__`, where no transform could be left out."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return mangle(self.images[index]), self.labels[index]


def test_images_that_the_data_set_itself_mangles_are_not_put_down_to_the_labels(tmp_path: Path) -> None:
    checks = SanityChecks(on_fail="warn", checks=["informative_inputs"], samples=1024)
    train = DataLoader(OfItsOwn(None), 32, shuffle=True)
    fit(Foreign(mlp()), tmp_path, checks, train=train, max_steps=1)
    assert alarms(checks.findings) == ["regularization-too-strong"]
