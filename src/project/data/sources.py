"""The images of each `data=` choice."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import interpolate
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity, download_url, extract_archive

from project.data.cache import cached, key_of
from project.data.image_folder import list_images, read_images
from project.data.image_set import ImageSet, ImageSplits
from project.data.locate import CIFAR, SourceName, find_cifar, is_image_tree
from vitals.errors import UserError

DATASETS = {"cifar10": CIFAR10, "cifar100": CIFAR100}


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
        download_url(published.url, root, published.archive, DATASETS[name].tgz_md5)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{published.url} could not be downloaded to {root}: {error}.") from None
    return root / published.archive


def _read_cifar(name: str, copy: Path) -> ImageSplits:
    """CIFAR-10 or CIFAR-100 (Krizhevsky, 2009) from torchvision's folder, or from the published archive.

    What has not the published checksum is not opened: it may be damaged, and a pickle can run code.
    """
    dataset = DATASETS[name]
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
