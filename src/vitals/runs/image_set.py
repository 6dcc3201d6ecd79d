"""Labelled images, as bytes in memory or in a file mapped into it, and trees of files that hold them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from vitals.errors import UserError, one_line
from vitals.runs.array_cache import cached, key_of, made_of_files, will_need
from vitals.runs.class_folders import list_files
from vitals.runs.memory import require_memory

Image.init()
# Not those that start Ghostscript, unpack whatever they hold, or only name what they hold.
FORMATS = tuple({*Image.OPEN} - {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})
ENDINGS = {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS}


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
        """Two parts with the same share of every class: the rest, and `fraction` of the images. Of two images
        of a class each part gets one, whatever the fraction; the rest gets a single one. Both keep the order
        of the images; the same seed gives the same split. `ValueError` if no class has two images."""
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


def read_tree(
    root: Path, image_size: int | None, batch_size: int | None, skip_unreadable: bool, mapped: bool | None
) -> ImageSplits:
    """The images of a tree, decoded the first time and then cached; the arguments are `ImageData`'s.
    `UserError` if a file cannot be decoded or has another size than the first, or memory is too small."""
    tree = list_files(root, ENDINGS)
    files, labels = zip(*(sample for members in tree.files.values() for sample in members), strict=True)
    images = (_decode(file, None) for file in files)
    first = next((image.shape for image in images if not isinstance(image, str)), (3, 1, 1))
    shape = (3, image_size, image_size) if image_size else first
    batch = min(batch_size or len(files), len(files))
    require_memory(
        3 * 4 * math.prod(shape) * batch,  # as float32: cropped, normalised, and past a first layer
        f"a batch of {batch:,} images of {shape[2]}×{shape[1]} pixels",
        "set a smaller data.image_size or data.batch_size",
    )

    def judge(bad: dict[str, str], read: int) -> None:
        if bad and (not skip_unreadable or len(bad) == len(files)):
            file, reason = next(iter(bad.items()))
            among = "" if read == len(files) else f" that were read so far, and there are {len(files):,}"
            raise UserError(
                f"{file} is not a readable image ({reason}), one of {len(bad):,} of {read:,}{among}: "
                f"mend or delete them, or set data.skip_unreadable=true to do without them."
            )

    decode = partial(made_of_files, files, partial(_decode, size=image_size, shape=shape), shape, judge)
    source = f"{root.absolute()} {image_size}"
    pixels, facts, mapped = cached(source, key_of(files, image_size), decode, mapped)
    note, bad = tree.note, facts["unreadable"]
    judge(bad, len(files))
    if bad:
        note += f"{', ' if note else f'noticed in {root}: '}unreadable files passed over ({len(bad):,})"
    whole = ImageSet(pixels, torch.tensor(labels), tree.classes, mapped=mapped)
    parts, start = {}, 0
    for split, members in tree.files.items():
        places = [start + place for place, (file, _) in enumerate(members) if file not in bad]
        parts[split], start = whole.subset(torch.tensor(places)), start + len(members)
    return ImageSplits(**parts, note=note)


def _decode(file: str, size: int | None, shape: tuple[int, ...] | None = None) -> np.ndarray | str:
    """The pixels of one file, uint8, 3×H×W, which must be `shape`; or why it cannot be read."""
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > 2**27:  # of which a file of some kilobytes can have more
                return f"its {image.width}×{image.height} pixels are too many"
            pixels = _in_bytes(ImageOps.exif_transpose(image)).convert("RGB")
    except UnidentifiedImageError:
        return "it is empty, or in no format that Pillow knows"
    except Exception as error:  # whatever a damaged file makes of a decoder
        return one_line(error)
    if size is not None and pixels.size != (size, size):
        pixels = pixels.resize((size, size), Image.Resampling.BICUBIC)
    if shape and pixels.size != (shape[2], shape[1]):
        raise UserError(
            f"{file} is {pixels.width}×{pixels.height} pixels, and others are {shape[2]}×{shape[1]}: "
            f"set data.image_size={min(shape[1:])}, say, to resize them all."
        )
    return np.asarray(pixels).transpose(2, 0, 1)


def _in_bytes(image: Image.Image) -> Image.Image:
    """An image of 16 bits a pixel scaled to 8, which Pillow would cut off; one with a palette without it."""
    if image.mode == "P":
        return image.convert("RGBA")  # at once to RGB, a transparent colour is a warning
    if image.mode[0] not in "IF":
        return image
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError("its pixels have neither 8 nor 16 bits")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))
