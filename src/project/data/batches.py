"""Batches made by indexing tensors on the device that trains, without workers or per-image work.

A random crop is a window into images that were padded once, so a batch is one indexing of a strided view.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from vitals.runs.array_cache import COPIES
from vitals.runs.image_set import ImageSet


class Normalization:
    """Bytes to floats of mean 0 and standard deviation 1 per channel.

    Args:
        mean: of each channel on the 0–1 scale, C values.
        std: standard deviation of each channel on the 0–1 scale, C values; a constant channel counts as 1.
        channels_last: the memory format of the result.
    """

    def __init__(self, mean: Tensor, std: Tensor, channels_last: bool = False) -> None:
        std = torch.where(std > 0, std, 1.0)
        self.of_channels = (1 / (255 * std)).view(1, -1, 1, 1), (mean / std).view(1, -1, 1, 1)
        self.scale, self.shift = self.of_channels
        self.channels_last = channels_last
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 B×C×H×W to float32 B×C×H×W."""
        if self.scale.shape[1:] != images.shape[1:] or self.scale.device != images.device:
            # Spelled out for a whole image: broadcast over three channels alone it takes ten times as long.
            spelled = (part.to(images.device).expand(1, *images.shape[1:]) for part in self.of_channels)
            self.scale, self.shift = (part.contiguous(memory_format=self.memory_format) for part in spelled)
        return images.to(torch.float32, memory_format=self.memory_format).mul_(self.scale).sub_(self.shift)


class RandomCropFlip:
    """Takes random windows of padded images, and mirrors some.

    Args:
        images: uint8, N×C×H×W.
        padding: pixels reflected at each border before cropping, fewer than the images have; 0 for no crops.
        flip: whether to mirror images left to right.
        channels_last: the memory format in which the images are kept and returned.
    """

    def __init__(self, images: Tensor, padding: int, flip: bool, channels_last: bool = False) -> None:
        self.padding, self.flip, self.channels_last = padding, flip, channels_last
        height, width = images.shape[-2:]
        layout = torch.channels_last if channels_last else torch.contiguous_format
        size = (*images.shape[:2], height + 2 * padding, width + 2 * padding)
        padded = torch.empty(size, dtype=images.dtype, device=images.device, memory_format=layout)
        padded[:, :, padding : padding + height, padding : padding + width] = images
        for dim, pixels in enumerate((height, width), 2):  # torch's own pad reflects no bytes
            before, after = (padded.narrow(dim, start, padding) for start in (0, padding + pixels))
            before.copy_(padded.narrow(dim, padding + 1, padding).flip(dim))
            after.copy_(padded.narrow(dim, pixels - 1, padding).flip(dim))
        # Every window of every image, without a copy: N×(2p+1)×(2p+1)×C×H×W, or C last.
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        self.windows = windows.permute(0, 2, 3, 4, 5, 1) if channels_last else windows.movedim(1, 3)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """The vertical and horizontal offsets (int64) and mirrorings (bool) of `count` images."""
        offsets = torch.randint(2 * self.padding + 1, (2, count), generator=generator)
        mirrored = torch.rand(count, generator=generator) < 0.5
        return offsets[0], offsets[1], mirrored if self.flip else torch.zeros(count, dtype=torch.bool)

    def __call__(self, indices: Tensor, top: Tensor, left: Tensor, mirrored: Tensor) -> Tensor:
        """The images at `indices` (int64, B), cropped and mirrored as drawn: uint8, B×C×H×W."""
        crops = self.windows[indices, top, left]
        if self.channels_last:
            crops = crops.permute(0, 3, 1, 2)
        return torch.where(mirrored.view(-1, 1, 1, 1), crops.flip(-1), crops) if self.flip else crops


class TrainingBatches:
    """Shuffled, augmented, normalised batches; a new order every epoch.

    Images that are mapped, or too many for a GPU, stay where they are; those of a batch are padded alone.

    Order and augmentation depend on the seed, the epoch and the rank alone: they are the same whatever
    else draws random numbers, and a resumed run goes on as if it had never stopped. The last, smaller batch
    is left out, unless it is the only one.

    Args:
        data: the training images.
        batch_size: images per batch and process.
        normalization: from the training images' statistics.
        crop_padding, flip, sizes: keys of `configs/data/*.yaml`. Two epochs of alternating flips show both
            sides of every image (Keller Jordan, 2024); small images first are cheap and teach most of it.
        share_done: which share of the run so many epochs are; for `sizes`.
        seed: of order and augmentation.
        fixed: whether every epoch has the same batches.
        rank: number of this process.
        world_size: number of processes; each gets its own share of the images.
        device: where the images are kept and the batches made.
    """

    def __init__(
        self,
        data: ImageSet,
        batch_size: int,
        normalization: Normalization,
        *,
        fixed: bool = False,
        crop_padding: int = 0,
        flip: bool | Literal["alternating"] = False,
        sizes: Sequence[int] | None = None,
        share_done: Callable[[float], float] = lambda epochs: 1.0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.share = len(data) // world_size
        self.batch_size = min(batch_size, self.share)
        self.normalize = normalization
        of_gpu = torch.cuda.mem_get_info(self.device)[0] if self.device.type == "cuda" else math.inf
        self.stays = data.mapped or COPIES * len(data) * data.stored[0].numel() > of_gpu
        self.place = torch.device("cpu") if self.stays else self.device
        self.data, self.labels = data, data.labels.to(self.place)
        layout = normalization.channels_last
        self.alternating, self.sizes, self.share_done = flip == "alternating", sizes, share_done
        self.augmentation = partial(
            RandomCropFlip, padding=crop_padding, flip=bool(flip), channels_last=layout
        )
        kept = data.subset(torch.arange(1)) if self.stays else data
        self.augment = self.augmentation(kept.images.to(self.place))
        self.seed, self.rank, self.epoch = seed, rank, 0
        if not fixed:
            self.sampler = self  # where Lightning looks for `set_epoch`

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and augmentation of `epoch`, counted from 0."""
        self.epoch = epoch

    def unaugmented(self, samples: int) -> EvaluationBatches:
        """At most `samples` of the training images, always the same, without augmentation."""
        chosen = torch.randperm(len(self.data), generator=_generator(len(self.data)))[:samples]
        kept = self.data.subset(chosen.sort().values)
        return EvaluationBatches(kept, self.batch_size, self.normalize, device=self.device)

    def __len__(self) -> int:
        return self.share // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.labels), generator=_generator(self.seed, self.epoch))
        start = self.rank * self.share
        order = order[start : start + len(self) * self.batch_size]
        *drawn, mirrored = self.augment.draw(len(order), _generator(self.seed, self.epoch, self.rank))
        if self.alternating:
            first = torch.rand(len(self.labels), generator=_generator(self.seed)) < 0.5
            mirrored = first[order] ^ bool(self.epoch % 2)
        choices = [choice.to(self.place).split(self.batch_size) for choice in (order, *drawn, mirrored)]
        for number, (indices, *choice) in enumerate(zip(*choices, strict=True)):
            augment, places = self.augment, indices
            if self.stays:
                self.data.subset(choices[0][min(number + 1, len(self) - 1)]).read_ahead()
                augment = self.augmentation(self.data.subset(indices).images)
                places = torch.arange(len(indices))
            images, labels = augment(places, *choice), self.labels[indices]
            yield self._scaled(self.normalize(images.to(self.device)), number), labels.to(self.device)

    def _scaled(self, images: Tensor, number: int) -> Tensor:
        """The batch of this `number` in the epoch at the size that is its turn."""
        if not self.sizes:
            return images
        share = self.share_done(self.epoch + number / len(self))
        size = self.sizes[min(int(share * len(self.sizes)), len(self.sizes) - 1)]
        height, width = images.shape[-2:]
        scaled = (size, max(1, round(width * size / height)))
        return images if size == height else interpolate(images, scaled, mode="bilinear", antialias=True)


class EvaluationBatches:
    """The images as they are, normalised, each exactly once over all processes.

    Every process gets the same number of batches, however the images divide, so that none waits for
    another.
    """

    def __init__(
        self,
        data: ImageSet,
        batch_size: int,
        normalization: Normalization,
        *,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.data, self.normalize, self.device = data, normalization, torch.device(device)
        self.indices = torch.arange(len(data))[rank::world_size]
        batch_size = min(batch_size, 1 + 2**27 // data.stored[0].numel())  # of large images fewer
        self.batches = math.ceil(math.ceil(len(data) / world_size) / batch_size)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for indices in self.indices.tensor_split(self.batches):
            part = self.data.subset(indices)
            yield self.normalize(part.images.to(self.device)), part.labels.to(self.device)


def _generator(*seeds: int) -> torch.Generator:
    """A generator whose stream depends on all of the numbers, and is unrelated to that of any others."""
    state = np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))
