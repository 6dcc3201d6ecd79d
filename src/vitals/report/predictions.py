"""What a run's chosen weights say of every test image: `predictions.npz` in its folder, enough for a
confusion matrix, an ensemble or a look at the worst mistakes without the network or the images."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

from vitals.files import write_atomically

FILE = "predictions.npz"
LARGEST = 2**30
"""Bytes that the file may hold, unpacked: those of 1,000 classes of half a million images."""


@dataclass(frozen=True)
class Predictions:
    """Class probabilities of N test images, in the order of the test set."""

    probabilities: NDArray[np.float16]
    """N×C."""
    labels: NDArray[np.int64]
    """N, each from 0 to C − 1."""
    classes: list[str]
    """C names, in the order of the labels."""
    worst: NDArray[np.int64]
    """K indices of the images with the highest loss, the highest first."""
    worst_images: NDArray[np.uint8]
    """Their pixels, K×channels×H×W; K may be 0."""

    def save(self, path: Path) -> None:
        """Write the file at `path` in one step, so that nobody reads half of it."""
        content: dict[str, Any] = vars(self) | {"classes": np.array(self.classes, dtype=str)}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **content)
        write_atomically(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file at `path`, without running any code that may be in it; `ValueError` if the file is
        damaged or its parts do not fit together."""
        try:
            with ZipFile(path) as archive:  # which unpacks no more of a part than it says here
                if sum(part.file_size for part in archive.infolist()) > LARGEST:
                    raise ValueError(f"it unpacks to more than {LARGEST:,} bytes")
            with np.load(path, allow_pickle=False) as file:
                parts = {name: file[name] for name in file.files}
            parts["classes"] = [str(name) for name in parts["classes"]]
            predictions = cls(**parts)
            count, classes = predictions.probabilities.shape
            shapes = predictions.labels.shape, predictions.worst.shape, len(predictions.worst_images.shape)
        except Exception as error:  # numpy, zip and zlib raise their own
            raise ValueError(f"{path.name} cannot be read: {error}") from error
        if shapes != ((count,), (len(predictions.worst_images),), 4) or len(predictions.classes) != classes:
            raise ValueError(f"{path.name} has parts of different lengths")
        for name, places, end in (
            ("labels", predictions.labels, classes),
            ("worst", predictions.worst, count),
        ):
            if places.dtype.kind not in "iu" or ((places < 0) | (places >= end)).any():
                raise ValueError(f"{path.name} is damaged: its {name} are not from 0 to {end - 1}")
        if predictions.probabilities.dtype.kind != "f" or predictions.worst_images.dtype != np.uint8:
            raise ValueError(f"{path.name} is damaged: its numbers are of other kinds than they were written")
        return predictions
