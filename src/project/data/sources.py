"""The images of each `data=` choice."""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import interpolate
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import check_integrity, download_url, extract_archive

from project.schema import SourceName
from vitals.errors import UserError
from vitals.runs.array_cache import Made, cached, key_of
from vitals.runs.class_folders import folders_of_splits
from vitals.runs.image_set import ImageSet, ImageSplits, read_tree
from vitals.runs.memory import require_memory
from vitals.runs.prerequisites import answers

CIFAR = {"cifar10": CIFAR10, "cifar100": CIFAR100}


def require_images(name: SourceName, root: str | None) -> None:
    """Make sure that there is a copy of CIFAR or can be downloaded, without reading or writing anything;
    `UserError` in three lines: what is missing, where to put it, and what to do meanwhile."""
    folder = Path(root or "").expanduser()
    if name in CIFAR and find_cifar(name, folder) is None and not answers(CIFAR[name].url):
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
        if folders_of_splits(place) or (place.name == folder and place.is_dir()):
            return place
    return None


def read(
    name: SourceName,
    root: str | None,
    image_size: int | None = None,
    batch_size: int | None = 1,
    skip_unreadable: bool = False,
    mapped: bool | None = None,
) -> ImageSplits:
    """The decoded images of the source `name` in the folder `root`, None for the built-in digits; the first
    time they are decoded and cached, CIFAR also downloaded. The other arguments are those of `ImageData`.
    `UserError` naming a file that is missing, damaged or does not fit."""
    if name == "digits":
        return _read_digits(image_size or 32)
    copy = Path(root or "").expanduser()
    if name in CIFAR:
        copy = find_cifar(name, copy) or _download_cifar(name, copy)
    if name == "image_folder" or folders_of_splits(copy):
        return read_tree(copy, image_size, batch_size, skip_unreadable, mapped)
    if image_size not in (None, 32):
        raise UserError(f"data.image_size={image_size} cannot be had: {name} is published at 32×32 pixels.")
    files = sorted(copy.iterdir()) if copy.is_dir() else [copy]
    kept = cached(str(copy.absolute()), key_of(files), partial(_read_cifar, name, copy), mapped)
    whole = ImageSet(kept.array, torch.tensor(kept.facts["labels"]), kept.facts["classes"], None, kept.mapped)
    train, test = torch.arange(len(whole)).tensor_split([kept.facts["train"]])
    return ImageSplits(whole.subset(train), whole.subset(test))


def _read_digits(size: int) -> ImageSplits:
    """scikit-learn's digits (Alpaydin and Kaynak, 1998), enlarged from 8×8; none are set apart to test."""
    digits = load_digits()
    require_memory(24 * 1797 * size**2, f"data.image_size={size}", "set a smaller one")  # as floats, too
    grey = torch.from_numpy(np.asarray(digits.images, dtype=np.float32)).unsqueeze(1) * (255 / 16)
    enlarged = interpolate(grey, size=(size, size), mode="bilinear", align_corners=False)
    images = enlarged.round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    return ImageSplits(ImageSet(images, torch.tensor(digits.target).long(), [*map(str, range(10))]))


def _download_cifar(name: str, root: Path) -> Path:
    """Download the published archive into `root`, with a progress bar and its checksum."""
    published = CIFAR[name]
    try:
        download_url(published.url, root, published.filename, published.tgz_md5)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{published.url} could not be downloaded to {root}: {error}.") from None
    return root / published.filename


def _read_cifar(name: str, copy: Path) -> Made:
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
            train, test = (dataset(place, train=train) for train in (True, False))
    except OSError as error:
        raise UserError(f"{copy} cannot be read: {error}.") from None
    images = np.concatenate([train.data, test.data]).transpose(0, 3, 1, 2)
    facts = {"labels": train.targets + test.targets, "classes": train.classes, "train": len(train)}
    return Made(images.shape, images, facts)
