"""The images of each `data=` choice."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vitals.data import cifar
from vitals.data.cache import cached, key_of
from vitals.data.digits import read_digits
from vitals.data.image_folder import list_images, read_images
from vitals.data.image_set import ImageSplits
from vitals.errors import UserError

SourceName = Literal["cifar10", "cifar100", "image_folder", "digits"]


def require(name: SourceName, root: str | None) -> None:
    """Make sure, without reading images or writing anything, that `read` will find them.

    Raises:
        UserError: saying what is missing and where it is expected.
    """
    if name == "digits":
        return
    assert root is not None
    if name == "image_folder":
        if not Path(root).is_dir():
            raise UserError(f"data.root={root} is not a folder: name the folder that holds the images.")
    else:
        cifar.require(name, Path(root))


def read(name: SourceName, root: str | None, image_size: int | None = None) -> ImageSplits:
    """The decoded images of a source; the first time they are decoded and cached, CIFAR also downloaded.

    Args:
        name: the source.
        root: its folder; None for the built-in digits.
        image_size: pixels a side to resize to; None keeps the images' own.

    Raises:
        UserError: for a file that is missing, damaged or does not fit; it names the file.
    """
    if name == "digits":
        return read_digits(image_size or 32)
    assert root is not None
    folder = Path(root)
    if name != "image_folder":
        copy = cifar.find_copy(name, folder)
        if copy is None:
            cifar.download(name, folder)
            copy = folder / cifar.LAYOUTS[name].archive
        if image_size not in (None, 32):
            raise UserError(
                f"data.image_size={image_size} is not allowed: {name} has images of 32×32 pixels."
            )
        if copy.name in (cifar.LAYOUTS[name].folder, cifar.LAYOUTS[name].archive):
            files = sorted(copy.iterdir()) if copy.is_dir() else [copy]
            return cached(str(copy.absolute()), key_of(files), lambda: cifar.read_copy(name, copy))
        folder = copy
    listings = list_images(folder)
    files = [file for listing in listings if listing for file in listing.files]
    source = f"{folder.absolute()} {image_size}"
    return cached(source, key_of(files, image_size), lambda: read_images(listings, image_size))
