"""A small project for the instrument's tests: ten blobs of noise as images, and a network of two layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from vitals.errors import UserError

CONFIGS = Path(__file__).parent / "configs"
WORDS = [f"hydra.searchpath=[file://{CONFIGS},pkg://vitals.configs]", "data=blobs", "network=tiny"]
"""What makes a command one on this project."""
CLASSES = [f"blob {number}" for number in range(10)]


class Samples(Dataset[tuple[Tensor, Tensor]]):
    """`images`, uint8 N×3×8×8, with `labels`; its items are what a network takes."""

    classes = CLASSES

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return (self.images[index].float() - 128) / 64, self.labels[index]


class Blobs(L.LightningDataModule):
    """Points around ten centres; the classes overlap, so that no network is always right."""

    classes = CLASSES
    image_shape = (3, 8, 8)

    def __init__(self, limit: int = 600, batch_size: int = 64, split_seed: int = 0, seed: int = 0) -> None:
        super().__init__()
        self.limit, self.batch_size, self.split_seed, self.seed = limit, batch_size, split_seed, seed

    def setup(self, stage: str | None = None) -> None:
        random = torch.Generator().manual_seed(self.split_seed)
        labels = torch.randint(10, (self.limit + 400,), generator=random)
        centres = 12 * torch.randn(10, 3, 8, 8, generator=random)
        noise = 60 * torch.randn(len(labels), 3, 8, 8, generator=random)
        images = (128 + centres[labels] + noise).clamp(0, 255).to(torch.uint8)
        self.test = Samples(images[:200], labels[:200])
        self.validation = Samples(images[200:400], labels[200:400])
        self.train = Samples(images[400:], labels[400:])

    def train_dataloader(self) -> DataLoader[Any]:
        order = torch.Generator().manual_seed(self.seed)
        return DataLoader(self.train, self.batch_size, shuffle=True, generator=order, drop_last=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.validation, 100)

    def test_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.test, 100)

    def state_dict(self) -> dict[str, Any]:
        return {"classes": self.classes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["classes"] != self.classes:
            raise UserError("the checkpoint is of other classes.")


class Tiny(nn.Sequential):
    """Linear layers of `widths` units with ReLU and dropout."""

    def __init__(self, num_classes: int, widths: list[int], dropout: float = 0.0) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        before = 3 * 8 * 8
        for width in widths:
            layers += [nn.Linear(before, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout)]
            before = width
        super().__init__(*layers, nn.Linear(before, num_classes))
