"""Labelled images in memory, as bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from sklearn.utils import resample
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

        Raises:
            ValueError: if a class would have no image in one of the parts.
        """
        labels, counts = self.labels.unique(return_counts=True)
        everything, size = np.arange(len(self)), round(fraction * len(self))
        stratify = self.labels.numpy()
        try:
            drawn = train_test_split(everything, test_size=size, random_state=seed, stratify=stratify)
            rest, part = (self.subset(torch.from_numpy(np.sort(indices))) for indices in drawn)
            if min(len(piece.labels.unique()) for piece in (rest, part)) < len(labels):
                raise ValueError
        except ValueError:
            name = self.classes[int(labels[counts.argmin()])]
            raise ValueError(f"class {name} has too few images for a share of {fraction:g} of them") from None
        return rest, part

    def limited(self, count: int, seed: int) -> ImageSet:
        """`count` of the images, with the same share of every class; all of them where they are fewer."""
        stratify, size = self.labels.numpy(), min(count, len(self))
        everything = np.arange(len(self))
        drawn = resample(everything, replace=False, n_samples=size, random_state=seed, stratify=stratify)
        return self.subset(torch.from_numpy(np.sort(drawn)))

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
