"""The images of each `data=` choice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn.functional import interpolate
from torchvision.datasets import CIFAR10, CIFAR100, ImageFolder
from torchvision.datasets.utils import check_integrity, download_url, extract_archive

from project.data.cache import cached, key_of
from project.data.image_set import ImageSet, ImageSplits
from project.schema import SourceName
from vitals.errors import UserError
from vitals.runs.prerequisites import answers

CIFAR = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def require_images(name: SourceName, root: str | None) -> None:
    """Make sure that the images of a source are there or can be downloaded, without writing anything.

    Raises:
        UserError: for CIFAR in three lines: what is missing, where to put it, and what to do meanwhile.
    """
    if name == "digits":
        return
    assert root is not None, "the schema asks for a root"
    folder = Path(root).expanduser()
    if name == "image_folder":
        if not folder.is_dir():
            raise UserError(f"data.root={root} is not a folder: name the folder that holds the images.")
    elif find_cifar(name, folder) is None and not answers(CIFAR[name].url):
        raise UserError(
            f"There is no copy of {name} under data.root={root}, and it cannot be downloaded: no network.\n"
            f"Put {CIFAR[name].filename}, {CIFAR[name].base_folder}/ or train/<class>/* and test/<class>/* "
            f"into {folder.absolute()}, or name their folder with data.root=<folder>.\n"
            f"To start without it: data=digits, real images that come with scikit-learn."
        )


def find_cifar(name: str, root: Path) -> Path | None:
    """Where in `root` or `root/<name>` there is a copy; None where there is none.

    A copy is torchvision's folder, itself or in `root`, the published archive, or an image tree.
    """
    folder, archive = CIFAR[name].base_folder, CIFAR[name].filename
    for place in (root, root / name):
        for copy in (place / folder, place / archive):
            if copy.exists():
                return copy
        if is_image_tree(place) or (place.name == folder and place.is_dir()):
            return place
    return None


def is_image_tree(root: Path) -> bool:
    """Whether `root` has a `train` folder with class folders in it."""
    return (root / "train").is_dir() and any(entry.is_dir() for entry in (root / "train").iterdir())


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
        return _read_digits(image_size or 32)
    assert root is not None, "the schema asks for a root"
    folder = Path(root).expanduser()
    if name == "image_folder":
        return _read_tree(folder, image_size)
    copy = find_cifar(name, folder) or _download_cifar(name, folder)
    if is_image_tree(copy):
        return _read_tree(copy, image_size)
    if image_size not in (None, 32):
        raise UserError(f"data.image_size={image_size} cannot be had: {name} is published at 32×32 pixels.")
    files = sorted(copy.iterdir()) if copy.is_dir() else [copy]
    return cached(str(copy.absolute()), key_of(files), lambda: _read_cifar(name, copy))


def _read_tree(folder: Path, image_size: int | None) -> ImageSplits:
    listings = list_images(folder)
    files = [file for listing in listings if listing for file, _ in listing.samples]
    source = f"{folder.absolute()} {image_size}"
    return cached(source, key_of(files, image_size), lambda: read_images(listings, image_size))


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


def _read_digits(size: int) -> ImageSplits:
    """scikit-learn's digits (Alpaydin and Kaynak, 1998), enlarged from 8×8; none are set apart to test."""
    digits = load_digits()
    grey = torch.from_numpy(np.asarray(digits.images, dtype=np.float32)).unsqueeze(1) * (255 / 16)
    enlarged = interpolate(grey, size=(size, size), mode="bilinear", align_corners=False)
    images = enlarged.round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(np.asarray(digits.target, dtype=np.int64))
    return ImageSplits(ImageSet(images, labels, [str(digit) for digit in range(10)]), test=None)


def _download_cifar(name: str, root: Path) -> Path:
    """Download the published archive into `root`, with a progress bar and its checksum."""
    published = CIFAR[name]
    try:
        download_url(published.url, root, published.filename, published.tgz_md5)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{published.url} could not be downloaded to {root}: {error}.") from None
    return root / published.filename


def _read_cifar(name: str, copy: Path) -> ImageSplits:
    """CIFAR-10 or CIFAR-100 (Krizhevsky, 2009) from torchvision's folder, or from the published archive.

    What has not the published checksum is not opened: it may be damaged, and a pickle can run code.
    """
    dataset = CIFAR[name]
    checksums = {copy: dataset.tgz_md5}
    if copy.is_dir():
        listed = (*dataset.train_list, *dataset.test_list, (dataset.meta["filename"], dataset.meta["md5"]))
        checksums = {copy / file: md5 for file, md5 in listed}
    try:
        for file, md5 in checksums.items():
            if not check_integrity(file, md5):
                raise UserError(f"{file} is damaged or missing: delete {copy} to download it anew.")
        with TemporaryDirectory() as unpacked:
            if copy.is_file():
                extract_archive(copy, unpacked)
            place = unpacked if copy.is_file() else copy.parent
            train, test = (_image_set(dataset(place, train=train)) for train in (True, False))
    except OSError as error:
        raise UserError(f"{copy} cannot be read: {error}.") from None
    return ImageSplits(train, test)


def _image_set(dataset: CIFAR10) -> ImageSet:
    images = np.ascontiguousarray(dataset.data.transpose(0, 3, 1, 2))
    return ImageSet(torch.from_numpy(images), torch.tensor(dataset.targets), list(dataset.classes))
