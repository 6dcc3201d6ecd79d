"""A tree of image files, one folder a class, decoded into memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from project.data.image_set import ImageSet, ImageSplits
from project.data.locate import is_image_tree
from vitals.errors import UserError


class Listing(ImageFolder):
    """The image files of one split, the label of each, and the classes; hidden folders are no classes."""

    def __init__(self, folder: Path) -> None:
        try:
            super().__init__(folder)
        except FileNotFoundError as error:
            raise UserError(f"{folder} is no tree of images, <class>/*: {error}") from None

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """The names of the classes in their order, and the label of each."""
        classes = [name for name in super().find_classes(directory)[0] if name[0] != "."]
        return classes, {name: label for label, name in enumerate(classes)}


def list_images(root: Path) -> tuple[Listing, Listing | None]:
    """The training files and, where `root` has them apart, the test files.

    `root` holds `train/<class>/*` and perhaps `test/<class>/*`, or `<class>/*` alone. Files that are not
    images by their ending are passed over.

    Raises:
        UserError: if there are no classes, a class is empty, or a test class is unknown to train.
    """
    if not is_image_tree(root):
        return Listing(root), None
    train = Listing(root / "train")
    test = Listing(root / "test") if (root / "test").is_dir() else None
    if test and (unknown := set(test.classes) - set(train.classes)):
        name = min(unknown)
        raise UserError(
            f"{root / 'test' / name} is a test class that training does not know: "
            f"there is no {root / 'train' / name}."
        )
    return train, test


def read_images(listings: tuple[Listing, Listing | None], size: int | None) -> ImageSplits:
    """Decode all the files, with several threads.

    Args:
        listings: what `list_images` found.
        size: pixels a side to resize to; None keeps the images' own size, which must be the same for all.

    Raises:
        UserError: if a file cannot be decoded, or has another size than the first; it names the file.
    """
    train, test = listings
    first = train.samples[0][0]
    height, width = (size, size) if size else _decode(first, None).shape[:2]

    def read(listing: Listing) -> ImageSet:
        files = [file for file, _ in listing.samples]
        images = np.empty((len(files), 3, height, width), dtype=np.uint8)
        with ThreadPoolExecutor() as pool:
            for index, pixels in enumerate(pool.map(partial(_decode, size=size), files)):
                if pixels.shape[:2] != (height, width):
                    raise UserError(
                        f"{files[index]} is {pixels.shape[1]}×{pixels.shape[0]} pixels, and {first} is "
                        f"{width}×{height}: give data.image_size to resize them all."
                    )
                images[index] = pixels.transpose(2, 0, 1)
        labels = [train.class_to_idx[listing.classes[label]] for label in listing.targets]
        return ImageSet(torch.from_numpy(images), torch.tensor(labels), train.classes)

    return ImageSplits(read(train), read(test) if test else None)


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
