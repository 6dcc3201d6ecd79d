"""Labelled images in memory, as bytes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
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
        part = self._drawn(round(fraction * len(self)), seed)
        rest = torch.ones(len(self), dtype=torch.bool).index_fill(0, part, False)
        parts = self.subset(rest.nonzero().squeeze(1)), self.subset(part)
        for piece in parts:
            if missing := set(self.labels.tolist()) - set(piece.labels.tolist()):
                name = self.classes[min(missing)]
                raise ValueError(f"class {name} has too few images for a share of {fraction:g} of them")
        return parts

    def limited(self, count: int, seed: int) -> ImageSet:
        """`count` of the images, with the same share of every class; all of them where they are fewer."""
        return self.subset(self._drawn(min(count, len(self)), seed))

    def _drawn(self, count: int, seed: int) -> Tensor:
        """Indices, ascending, of `count` images: of every class its share, rounded by largest remainder."""
        generator = torch.Generator().manual_seed(seed)
        counts = torch.bincount(self.labels, minlength=len(self.classes))
        exact = counts.double() * count / len(self)
        quotas = exact.floor().long()
        quotas[(exact - quotas).argsort(descending=True, stable=True)[: count - int(quotas.sum())]] += 1
        drawn = []
        for label, quota in enumerate(quotas.tolist()):
            members = (self.labels == label).nonzero().squeeze(1)
            drawn.append(members[torch.randperm(len(members), generator=generator)[:quota]])
        return torch.cat(drawn).sort().values

    def channel_statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of each channel on the 0–1 scale, two float32 tensors of C values.

        Counted by value, which is exact and needs no float copy of the images.
        """
        values = torch.arange(256, dtype=torch.float64) / 255
        counts = [torch.bincount(pixels.flatten(), minlength=256) for pixels in self.images.unbind(1)]
        shares = torch.stack(counts).double() / counts[0].sum()
        mean = (shares * values).sum(1, keepdim=True)
        variance = (shares * (values - mean) ** 2).sum(1)
        return mean.flatten().float(), variance.sqrt().float()


@dataclass(frozen=True)
class ImageSplits:
    """A source's training images, and its test images where it has them apart."""

    train: ImageSet
    test: ImageSet | None
