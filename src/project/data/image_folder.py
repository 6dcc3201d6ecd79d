"""A tree of image files, one folder a class, decoded into memory."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from project.data.image_set import ImageSet, ImageSplits
from project.data.locate import is_image_tree
from vitals.errors import UserError


@dataclass(frozen=True)
class Listing:
    """The image files of one split and the label of each."""

    files: list[str]  # not Path, whose making takes a second for 60,000
    labels: list[int]
    classes: list[str]


def list_images(root: Path) -> tuple[Listing, Listing | None]:
    """The training files and, where `root` has them apart, the test files.

    `root` holds `train/<class>/*` and perhaps `test/<class>/*`, or `<class>/*` alone. Files that are not
    images by their ending are passed over.

    Raises:
        UserError: if there are no classes, a class is empty, or a test class is unknown to train.
    """
    if not is_image_tree(root):
        return _list_split(root), None
    train = _list_split(root / "train")
    if not (root / "test").is_dir():
        return train, None
    test = _list_split(root / "test")
    if unknown := [name for name in test.classes if name not in train.classes]:
        raise UserError(
            f"{root / 'test' / unknown[0]} is a test class that training does not know: "
            f"there is no {root / 'train' / unknown[0]}."
        )
    renumber = [train.classes.index(name) for name in test.classes]
    return train, Listing(test.files, [renumber[label] for label in test.labels], train.classes)


def read_images(listings: tuple[Listing, Listing | None], size: int | None) -> ImageSplits:
    """Decode all the files, with several threads.

    Args:
        listings: what `list_images` found.
        size: pixels a side to resize to; None keeps the images' own size, which must be the same for all.

    Raises:
        UserError: if a file cannot be decoded, or has another size than the first; it names the file.
    """
    train, test = listings
    size_of_all = (size, size) if size else _decode(train.files[0], None).shape[:2]
    decode = partial(_decode, size=size)

    def read(listing: Listing) -> ImageSet:
        images = np.empty((len(listing.files), 3, *size_of_all), dtype=np.uint8)
        with ThreadPoolExecutor() as pool:
            for index, pixels in enumerate(pool.map(decode, listing.files)):
                if pixels.shape[:2] != size_of_all:
                    height, width = pixels.shape[:2]
                    raise UserError(
                        f"{listing.files[index]} is {width}×{height} pixels, and {train.files[0]} is "
                        f"{size_of_all[1]}×{size_of_all[0]}: give data.image_size to resize them all."
                    )
                images[index] = pixels.transpose(2, 0, 1)
        return ImageSet(torch.from_numpy(images), torch.tensor(listing.labels), listing.classes)

    return ImageSplits(read(train), read(test) if test else None)


def _list_split(folder: Path) -> Listing:
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name[0] != ".")
    if not classes:
        raise UserError(f"{folder} has no class folders: images are expected in {folder}/<class>/.")
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        names = sorted(entry for entry in os.listdir(folder / name) if entry.lower().endswith(IMG_EXTENSIONS))
        if not names:
            raise UserError(f"{folder / name} is an empty class: it has no image files.")
        files += [f"{folder}/{name}/{entry}" for entry in names]
        labels += [label] * len(names)
    return Listing(files, labels, classes)


def _decode(file: str, size: int | None) -> np.ndarray:
    """The pixels of one file, uint8, H×W×3."""
    try:
        with Image.open(file) as image:
            pixels = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{file} is not a readable image: {error}.") from None
    if size is not None and pixels.size != (size, size):
        pixels = pixels.resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(pixels)
