"""Labelled images in memory, as bytes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from sklearn.model_selection import train_test_split
from torch import Tensor


@dataclass(frozen=True)
class ImageSet:
    """Decoded images with their labels.

    Attributes:
        images: uint8, N×C×H×W, contiguous.
        labels: int64, N, each from 0 to `len(classes) - 1`.
        classes: names, in the order of the labels.
    """

    images: Tensor
    labels: Tensor
    classes: list[str]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> ImageSet:
        """The images at `indices` (int64, M)."""
        return ImageSet(self.images[indices], self.labels[indices], self.classes)

    def split(self, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
        """Two parts with the same share of every class: the rest, and `fraction` of the images.

        Both keep the order of the images. The same seed gives the same split.
        """
        rest, part = train_test_split(
            range(len(self)), test_size=fraction, random_state=seed, stratify=self.labels.numpy()
        )
        return self.subset(torch.tensor(sorted(rest))), self.subset(torch.tensor(sorted(part)))

    def channel_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel on the 0–1 scale, two float32 tensors of C values.

        Counted by value, which is exact and needs no float copy of the images.
        """
        values = torch.arange(256, dtype=torch.float64) / 255
        means, deviations = [], []
        for channel in range(self.images.shape[1]):
            counts = torch.bincount(self.images[:, channel].flatten(), minlength=256).double()
            mean = (counts * values).sum() / counts.sum()
            means.append(mean)
            deviations.append(((counts * (values - mean) ** 2).sum() / counts.sum()).sqrt())
        return torch.stack(means).float(), torch.stack(deviations).float()


@dataclass(frozen=True)
class ImageSplits:
    """A source's training images, and its test images where it has them apart."""

    train: ImageSet
    test: ImageSet | None
