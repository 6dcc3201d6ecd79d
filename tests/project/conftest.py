"""Copies of image sets as users have them."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@dataclass(frozen=True)
class ImageCopy:
    """An image set on disk, and what reading it must give."""

    place: Path
    classes: list[str]
    pixels: dict[str, np.ndarray]
    """uint8, N×3×H×W, of `train` and `test`."""
    labels: dict[str, list[int]]


@pytest.fixture
def write_tree() -> Callable[..., ImageCopy]:
    """A function that writes `<place>/<split>/<class>/<number>.png`."""

    def write(
        place: Path,
        classes: list[str] | None = None,
        train: int = 4,
        test: int = 2,
        size: int | tuple[int, int] = 8,
    ) -> ImageCopy:
        classes = classes or ["ant", "bee", "cow"]
        height, width = (size, size) if isinstance(size, int) else size
        random = np.random.default_rng(0)
        pixels, labels = {}, {}
        for split, count in (("train", train), ("test", test)):
            shape = (count * len(classes), 3, height, width)
            pixels[split] = random.integers(0, 256, shape, dtype=np.uint8)
            labels[split] = [label for label in range(len(classes)) for _ in range(count)]
            for index, (image, label) in enumerate(zip(pixels[split], labels[split], strict=True)):
                file = place / split / classes[label] / f"{index:04}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image.transpose(1, 2, 0)).save(file)
        return ImageCopy(place, classes, pixels, labels)

    return write


@pytest.fixture
def write_cifar(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ImageCopy]:
    """A function that writes torchvision's folder into `place`, or the archive, as if it were published."""

    def write(place: Path, name: str = "cifar10", archive: bool = False) -> ImageCopy:
        from torchvision.datasets import CIFAR10, CIFAR100  # not for the tests that need no torch

        dataset, count = (CIFAR10, 10) if name == "cifar10" else (CIFAR100, 100)
        labels_key = "labels" if name == "cifar10" else "fine_labels"
        classes = [f"class_{label}" for label in range(count)]
        random = np.random.default_rng(0)
        contents: dict[str, dict] = {dataset.meta["filename"]: {dataset.meta["key"]: classes}}
        pixels: dict[str, list] = {"train": [], "test": []}
        labels: dict[str, list] = {"train": [], "test": []}
        for split, files in (("train", dataset.train_list), ("test", dataset.test_list)):
            for file, _ in files:
                part = random.integers(0, 256, (2 * count, 3072), dtype=np.uint8)
                of_part = random.permutation(np.arange(2 * count) % count).tolist()
                contents[file] = {"data": part, labels_key: of_part, "batch_label": file}
                pixels[split].append(part.reshape(-1, 3, 32, 32))
                labels[split] += of_part
        pickles = {file: python2_pickle(part) for file, part in contents.items()}
        sums = {file: md5(data).hexdigest() for file, data in pickles.items()}
        for part in ("train_list", "test_list"):
            monkeypatch.setattr(dataset, part, [[file, sums[file]] for file, _ in getattr(dataset, part)])
        monkeypatch.setattr(dataset, "meta", dataset.meta | {"md5": sums[dataset.meta["filename"]]})
        published = {f"{dataset.base_folder}/{file}": data for file, data in pickles.items()}
        if archive:
            place.mkdir(parents=True, exist_ok=True)
            packed = place / dataset.filename
            with tarfile.open(packed, "w:gz", compresslevel=1) as tar:
                for file, data in published.items():
                    member = tarfile.TarInfo(file)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
            monkeypatch.setattr(dataset, "tgz_md5", md5(packed.read_bytes()).hexdigest())
        else:
            for file, data in published.items():
                (place / file).parent.mkdir(parents=True, exist_ok=True)
                (place / file).write_bytes(data)
        joined = {split: np.concatenate(parts) for split, parts in pixels.items()}
        return ImageCopy(place, classes, joined, labels)

    return write


class _Python2Pickler(pickle._Pickler):  # the one in Python, whose opcodes can be chosen
    def _save_string(self, text: str | bytes) -> None:
        data = text.encode() if isinstance(text, str) else text
        self.write(pickle.BINSTRING + len(data).to_bytes(4, "little") + data)
        self.memoize(text)

    dispatch = pickle._Pickler.dispatch | {str: _save_string, bytes: _save_string}


def python2_pickle(content: object) -> bytes:
    """As the published files are written: protocol 2, byte strings, and numpy's modules of that time."""
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(content)
    return file.getvalue().replace(b"cnumpy._core.", b"cnumpy.core.")
