"""Labelled images, as bytes in memory or in a file mapped into it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vitals.runs.array_cache import will_need


@dataclass(frozen=True)
class ImageSet:
    """Decoded images with their labels; those of a part are not copied.

    Attributes:
        stored: uint8, M×C×H×W, contiguous, in memory or mapped; of this set and of others.
        labels: int64, N, each from 0 to `len(classes) - 1`.
        classes: names, in the order of the labels.
        places: int64, N: where each image is in `stored`; None where they are all of them, in their order.
        mapped: whether `stored` is in a file, for want of memory.
    """

    stored: Tensor
    labels: Tensor
    classes: list[str]
    places: Tensor | None = None
    mapped: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def images(self) -> Tensor:
        """uint8, N×C×H×W, in memory, or `stored` itself where it is all of them."""
        self.read_ahead()
        return self.stored if self.places is None else self.stored[self.places]

    def read_ahead(self) -> None:
        """Have the system read them from the file meanwhile, where they are mapped and not all of it."""
        if self.mapped and self.places is not None:
            will_need(self.stored, self.places)

    def subset(self, indices: Tensor) -> ImageSet:
        """The images at `indices` (int64, M)."""
        places = indices if self.places is None else self.places[indices]
        return ImageSet(self.stored, self.labels[indices], self.classes, places, self.mapped)

    def split(self, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
        """Two parts with the same share of every class: the rest, and `fraction` of the images.

        Of two images of a class each part gets one, whatever the fraction; the rest gets a single one. Both
        keep the order of the images. The same seed gives the same split.

        Raises:
            ValueError: if no class has two images.
        """
        part = self._drawn(round(fraction * len(self)), seed, in_both=True)
        if not len(part):
            raise ValueError(f"none of {len(self.classes)} classes has two images to share out")
        rest = torch.ones(len(self), dtype=torch.bool).index_fill(0, part, False)
        return self.subset(rest.nonzero().squeeze(1)), self.subset(part)

    def limited(self, count: int, seed: int) -> ImageSet:
        """`count` of the images, with the same share of every class; all of them where they are fewer."""
        return self.subset(self._drawn(min(count, len(self)), seed))

    def _drawn(self, count: int, seed: int, in_both: bool = False) -> Tensor:
        """Indices, ascending, of `count` images: of every class its share, rounded by largest remainder.

        With `in_both` at least one of each class is drawn, and one left.
        """
        generator = torch.Generator().manual_seed(seed)
        counts = torch.bincount(self.labels, minlength=len(self.classes))
        exact = counts.double() * count / len(self)
        quotas = exact.floor().long()
        quotas[(exact - quotas).argsort(descending=True, stable=True)[: count - int(quotas.sum())]] += 1
        if in_both:
            quotas = quotas.clamp(min=1).minimum(counts - 1).clamp(min=0)
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
        counts = torch.zeros(self.stored.shape[1], 256, dtype=torch.int64)
        for indices in torch.arange(len(self)).split(1 + 2**27 // self.stored[0].numel()):
            for channel, pixels in enumerate(self.subset(indices).images.unbind(1)):
                counts[channel] += torch.bincount(pixels.flatten(), minlength=256)
        shares = counts.double() / counts[0].sum()
        mean = (shares * values).sum(1, keepdim=True)
        variance = (shares * (values - mean) ** 2).sum(1)
        return mean.flatten().float(), variance.sqrt().float()


@dataclass(frozen=True)
class ImageSplits:
    """A source's training images, the others where it has them apart, and a note on what was passed over."""

    train: ImageSet
    test: ImageSet | None = None
    validation: ImageSet | None = None
    note: str = ""
