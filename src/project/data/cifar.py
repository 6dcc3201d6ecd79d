"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), as they are published."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.datasets.utils import download_url

from project.data.image_set import ImageSet, ImageSplits
from project.data.locate import CIFAR
from vitals.errors import UserError

DAMAGES = (EOFError, KeyError, ValueError, TypeError, IndexError, AttributeError, pickle.UnpicklingError)
"""What a file that is no pickle of arrays, or not a whole one, raises."""


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
    files = (*layout.train_files, *layout.test_files)
    if copy.is_dir():
        parts = {part: _read_file(copy / part) for part in (layout.names_file, *files)}
    else:
        parts = _read_archive(copy, layout.folder, (layout.names_file, *files))
    for part, content in parts.items():
        keys = {layout.names_key} if part == layout.names_file else {"data", layout.labels_key}
        if not isinstance(content, dict) or keys - content.keys():
            raise UserError(f"{copy / part} is not a file of {name}: it has no {' and '.join(sorted(keys))}.")
        if "data" in keys and np.shape(content["data"]) != (len(content[layout.labels_key]), 3 * 32 * 32):
            raise UserError(f"{copy / part} is damaged: it does not hold 3×32×32 bytes for every label.")
    classes = list(parts[layout.names_file][layout.names_key])

    def image_set(of: Iterable[str]) -> ImageSet:
        images = np.concatenate([parts[part]["data"] for part in of]).reshape(-1, 3, 32, 32)
        labels = [label for part in of for label in parts[part][layout.labels_key]]
        return ImageSet(torch.from_numpy(images), torch.tensor(labels), classes)

    return ImageSplits(image_set(layout.train_files), image_set(layout.test_files))


def _read_file(path: Path) -> Any:
    try:
        return _unpickle(path.read_bytes())
    except (OSError, *DAMAGES) as error:
        raise UserError(f"{path} is damaged: {error}; delete its folder to download anew.") from None


def _read_archive(path: Path, folder: str, parts: Iterable[str]) -> dict[str, Any]:
    try:
        with gzip.open(path) as packed:
            content = io.BytesIO(packed.read())  # to the end, where the checksum is
        with tarfile.open(fileobj=content) as archive:
            return {part: _unpickle(_member(archive, f"{folder}/{part}")) for part in parts}
    except (OSError, tarfile.TarError, zlib.error, *DAMAGES) as error:
        raise UserError(f"{path} is damaged: {error}; delete it to download anew.") from None


class _ArraysOnly(pickle.Unpickler):
    """Loads the published pickles, and no object that could run code."""

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in ("_reconstruct", "ndarray", "dtype"):
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        raise pickle.UnpicklingError(f"it holds a {module}.{name}, not arrays alone")


def _unpickle(content: bytes) -> Any:
    return _ArraysOnly(io.BytesIO(content), encoding="latin1").load()


def _member(archive: tarfile.TarFile, path: str) -> bytes:
    member = archive.extractfile(path)
    if member is None:
        raise KeyError(f"{path} is no file")
    return member.read()
