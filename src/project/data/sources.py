"""The images of each `data=` choice."""

from __future__ import annotations

from pathlib import Path

from project.data.cache import cached, key_of
from project.data.cifar import download_cifar, read_cifar
from project.data.digits import read_digits
from project.data.image_folder import list_images, read_images
from project.data.image_set import ImageSplits
from project.data.locate import SourceName, find_cifar, is_image_tree
from vitals.errors import UserError


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
    assert root is not None, "the schema asks for a root"
    folder = Path(root).expanduser()
    if name == "image_folder":
        return _read_tree(folder, image_size)
    copy = find_cifar(name, folder) or download_cifar(name, folder)
    if is_image_tree(copy):
        return _read_tree(copy, image_size)
    if image_size not in (None, 32):
        raise UserError(f"data.image_size={image_size} cannot be had: {name} is published at 32×32 pixels.")
    files = sorted(copy.iterdir()) if copy.is_dir() else [copy]
    return cached(str(copy.absolute()), key_of(files), lambda: read_cifar(name, copy))


def _read_tree(folder: Path, image_size: int | None) -> ImageSplits:
    listings = list_images(folder)
    files = [file for listing in listings if listing for file in listing.files]
    source = f"{folder.absolute()} {image_size}"
    return cached(source, key_of(files, image_size), lambda: read_images(listings, image_size))
