"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), as they are published."""

from __future__ import annotations

import pickle
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torchvision.datasets.utils import download_url

from vitals.data.image_set import ImageSet, ImageSplits
from vitals.data.locate import CIFAR
from vitals.errors import UserError


def download_cifar(name: str, root: Path) -> Path:
    """Download the published archive into `root`, with a progress bar and its checksum.

    Raises:
        UserError: if it cannot be had or written.
    """
    layout = CIFAR[name]
    try:
        download_url(layout.url, str(root), layout.archive, layout.md5)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{layout.url} could not be downloaded to {root}: {error}.") from None
    return root / layout.archive


def read_cifar(name: str, copy: Path) -> ImageSplits:
    """Read torchvision's folder or the published archive, as `find_cifar` found it.

    Raises:
        UserError: if a file is damaged or missing; it names the file.
    """
    layout = CIFAR[name]
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
