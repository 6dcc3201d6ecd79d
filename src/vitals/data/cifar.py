"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), from any of the forms in which people have them."""

from __future__ import annotations

import pickle
import tarfile
import threading
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from torchvision import datasets

from vitals.data.image_folder import is_image_tree
from vitals.data.image_set import ImageSet, ImageSplits
from vitals.errors import UserError

Name = Literal["cifar10", "cifar100"]


@dataclass(frozen=True)
class _Layout:
    """How the published files of one of the two sets are named, and where they come from."""

    dataset: type[datasets.CIFAR10]
    train_files: list[str]
    test_files: list[str]
    names_file: str
    labels_key: str
    names_key: str

    @property
    def folder(self) -> str:
        return self.dataset.base_folder

    @property
    def archive(self) -> str:
        return self.dataset.filename


LAYOUTS: dict[str, _Layout] = {
    "cifar10": _Layout(
        datasets.CIFAR10,
        [f"data_batch_{part}" for part in range(1, 6)],
        ["test_batch"],
        "batches.meta",
        "labels",
        "label_names",
    ),
    "cifar100": _Layout(datasets.CIFAR100, ["train"], ["test"], "meta", "fine_labels", "fine_label_names"),
}


def find_copy(name: Name, root: Path) -> Path | None:
    """Where under `root` there is a copy: torchvision's folder, the published archive, or an image tree.

    Both `root` itself and `root/<name>` are looked at. None where there is no copy.
    """
    layout = LAYOUTS[name]
    for place in (root, root / name):
        if not place.is_dir():
            continue
        if all((place / layout.folder / file).is_file() for file in layout.train_files + layout.test_files):
            return place / layout.folder
        if place.name == layout.folder and (place / layout.test_files[0]).is_file():
            return place
        if (place / layout.archive).is_file():
            return place / layout.archive
        if is_image_tree(place):
            return place
    return None


def read_copy(name: Name, copy: Path) -> ImageSplits:
    """Read torchvision's folder or the published archive, as `find_copy` found it.

    Raises:
        UserError: if a file is damaged or missing; it names the file.
    """
    layout = LAYOUTS[name]
    parts = [layout.names_file, *layout.train_files, *layout.test_files]
    try:
        if copy.is_dir():
            contents = {part: _unpickle((copy / part).open("rb")) for part in parts}
        else:
            with tarfile.open(copy) as archive:
                contents = {part: _unpickle(_member(archive, f"{layout.folder}/{part}")) for part in parts}
        classes = list(contents[layout.names_file][layout.names_key])

        def image_set(files: Iterable[str]) -> ImageSet:
            images = np.concatenate([contents[file]["data"] for file in files]).reshape(-1, 3, 32, 32)
            labels = [label for file in files for label in contents[file][layout.labels_key]]
            return ImageSet(torch.from_numpy(images), torch.tensor(labels), classes)

        return ImageSplits(image_set(layout.train_files), image_set(layout.test_files))
    except (OSError, EOFError, KeyError, ValueError, pickle.UnpicklingError, tarfile.TarError) as error:
        raise UserError(
            f"{copy} is damaged or not a copy of {name}: {error}; delete it to download anew."
        ) from None


def require(name: Name, root: Path) -> None:
    """Make sure, without writing anything, that a copy is there or can be downloaded.

    Raises:
        UserError: in three lines: what is missing, where to put it, and what to do meanwhile.
    """
    layout = LAYOUTS[name]
    if find_copy(name, root) is None and not _answers(layout.dataset.url):
        raise UserError(
            f"There is no copy of {name} under data.root={root}, and it cannot be downloaded: no network.\n"
            f"Put {layout.archive}, {layout.folder}/ or train/<class>/* and test/<class>/* into "
            f"{root.absolute()}, or name their folder with data.root=<folder>.\n"
            f"To start without it: data=digits, real images that come with scikit-learn."
        )


def download(name: Name, root: Path) -> None:
    """Download the published archive into `root`, with a progress bar and its checksum."""
    dataset = LAYOUTS[name].dataset
    try:
        datasets.utils.download_url(dataset.url, str(root), dataset.filename, dataset.tgz_md5)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{dataset.url} could not be downloaded to {root}: {error}.") from None


class _ArraysOnly(pickle.Unpickler):
    """Loads the published pickles, and no object that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype"):
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"it holds a {module}.{name}, not arrays alone")


def _unpickle(file: IO[bytes]) -> dict[str, Any]:
    with file:
        content: dict[str, Any] = _ArraysOnly(file, encoding="latin1").load()
        return content


def _member(archive: tarfile.TarFile, path: str) -> IO[bytes]:
    member = archive.extractfile(path)
    if member is None:
        raise KeyError(f"{path} is no file")
    return member


def _answers(url: str, seconds: float = 6) -> bool:
    """Whether `url` can be reached. In a thread, for a name look-up has no time limit of its own."""
    reached = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=seconds).close()
            reached.set()
        except OSError:
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return reached.is_set()
