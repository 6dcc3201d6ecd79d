"""Find the images of a source, or say at once what is missing.

Importable without torch, so that the answer to missing images does not wait for it.
"""

from __future__ import annotations

import threading
import urllib.request
from pathlib import Path
from typing import Literal, NamedTuple

from vitals.errors import UserError

SourceName = Literal["cifar10", "cifar100", "image_folder", "digits"]


class Published(NamedTuple):
    """One of the two CIFAR sets: the address of its archive, and the folder in the archive."""

    url: str
    folder: str

    @property
    def archive(self) -> str:
        """File name of the archive."""
        return self.url.rpartition("/")[-1]


CIFAR = {
    "cifar10": Published("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "cifar-10-batches-py"),
    "cifar100": Published("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "cifar-100-python"),
}


def is_image_tree(root: Path) -> bool:
    """Whether `root` has a `train` folder with class folders in it."""
    return (root / "train").is_dir() and any(entry.is_dir() for entry in (root / "train").iterdir())


def find_cifar(name: str, root: Path) -> Path | None:
    """Where under `root` there is a copy: torchvision's folder, the published archive, or an image tree.

    Both `root` itself and `root/<name>` are looked at. None where there is no copy.
    """
    published = CIFAR[name]
    for place in (root, root / name):
        if (place / published.folder).is_dir():
            return place / published.folder
        if place.name == published.folder and place.is_dir():
            return place
        if (place / published.archive).is_file():
            return place / published.archive
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
        raise UserError(
            f"There is no copy of {name} under data.root={root}, and it cannot be downloaded: no network.\n"
            f"Put {CIFAR[name].archive}, {CIFAR[name].folder}/ or train/<class>/* and test/<class>/* into "
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
