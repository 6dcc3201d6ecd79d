"""Find the images of a source, or say at once what is missing.

Importable without torch, so that the answer to missing images does not wait for it.
"""

from __future__ import annotations

import threading
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vitals.errors import UserError

SourceName = Literal["cifar10", "cifar100", "image_folder", "digits"]


@dataclass(frozen=True)
class CifarLayout:
    """Where one of the two CIFAR sets is published, and how its files and their contents are named."""

    url: str
    md5: str
    folder: str
    train_files: tuple[str, ...]
    test_files: tuple[str, ...]
    names_file: str
    labels_key: str
    names_key: str

    @property
    def archive(self) -> str:
        """File name of the published archive."""
        return self.url.rpartition("/")[-1]


CIFAR = {
    "cifar10": CifarLayout(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
        folder="cifar-10-batches-py",
        train_files=tuple(f"data_batch_{part}" for part in range(1, 6)),
        test_files=("test_batch",),
        names_file="batches.meta",
        labels_key="labels",
        names_key="label_names",
    ),
    "cifar100": CifarLayout(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        folder="cifar-100-python",
        train_files=("train",),
        test_files=("test",),
        names_file="meta",
        labels_key="fine_labels",
        names_key="fine_label_names",
    ),
}


def is_image_tree(root: Path) -> bool:
    """Whether `root` has a `train` folder with class folders in it."""
    return (root / "train").is_dir() and any(entry.is_dir() for entry in (root / "train").iterdir())


def find_cifar(name: str, root: Path) -> Path | None:
    """Where under `root` there is a copy: torchvision's folder, the published archive, or an image tree.

    Both `root` itself and `root/<name>` are looked at. None where there is no copy.
    """
    layout = CIFAR[name]
    for place in (root, root / name):
        for folder in (place / layout.folder, place):
            if folder.name == layout.folder and all(
                (folder / file).is_file() for file in (*layout.train_files, *layout.test_files)
            ):
                return folder
        if (place / layout.archive).is_file():
            return place / layout.archive
        if is_image_tree(place):
            return place
    return None


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
    elif find_cifar(name, folder) is None and not _answers(CIFAR[name].url):
        layout = CIFAR[name]
        raise UserError(
            f"There is no copy of {name} under data.root={root}, and it cannot be downloaded: no network.\n"
            f"Put {layout.archive}, {layout.folder}/ or train/<class>/* and test/<class>/* into "
            f"{folder.absolute()}, or name their folder with data.root=<folder>.\n"
            f"To start without it: data=digits, real images that come with scikit-learn."
        )


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
