"""Pictures on the page: the first layer's filters, and the images that the network gets most wrong."""

import base64
import binascii
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitals.report.numbers import number, shortened
from vitals.report.record import LeftOut, RunRecord

PNG = b"\x89PNG\r\n\x1a\n"
LARGEST = 400_000
"""Bytes of a picture above which it is left out, so that the page stays small."""
WORST = 24
"""Worst-classified images shown."""
SIDE = 96
"""Pixels a side to which larger images are reduced."""


@dataclass(frozen=True)
class Picture:
    """One picture with what is said below it."""

    source: str
    """A data URI."""
    label: str
    detail: str = ""


@dataclass(frozen=True)
class Pictures:
    """Several pictures under one title."""

    title: str
    pictures: Sequence[Picture]
    kind: str
    """`filters`, a few large ones, or `tiles`, many small ones."""
    caption: str = ""


def filter_pictures(run: RunRecord) -> list[Pictures]:
    """The first layer's filters at the start and the end, for each layer that was drawn; `LeftOut` where none
    was recorded."""
    blocks = []
    for tag in run.tags("filters/"):
        shown = [(epoch, uri) for _, epoch, value in run.history.series(tag) if (uri := _data_uri(value))]
        if not shown:
            continue
        moments = [shown[0], shown[-1]] if len(shown) > 1 else shown
        labels = ["At the start", "At the end"] if len(shown) > 1 else [""]
        pictures = [
            Picture(source, label, f"epoch {number(round(epoch, 2))}")
            for label, (epoch, source) in zip(labels, moments, strict=True)
        ]
        blocks.append(Pictures(f"Filters of {shortened(tag.partition('/')[2], 40)}", pictures, "filters"))
    if not blocks:
        raise LeftOut("no picture of its filters was recorded")
    return blocks


def worst_pictures(run: RunRecord) -> Pictures:
    """The test images of the highest loss, each with its label and what it was taken for; `LeftOut` where the
    run kept none."""
    predictions = run.kept_predictions()
    if not len(predictions.worst_images):
        raise LeftOut("the run kept no pixels")
    pictures = []
    for index, pixels in zip(predictions.worst[:WORST], predictions.worst_images[:WORST], strict=False):
        probabilities = predictions.probabilities[index].astype(float)
        label, guess = int(predictions.labels[index]), int(probabilities.argmax())
        taken = f"taken for {predictions.classes[guess]}" if guess != label else "right"
        detail = f"{taken}, {100 * float(probabilities[guess]):.0f}%"
        pictures.append(Picture(_png(pixels), predictions.classes[label], detail))
    caption = "The highest loss first: the true class, and what it was taken for with which probability."
    return Pictures("The worst-classified test images", pictures, "tiles", caption)


def _png(pixels: NDArray[np.uint8]) -> str:
    """An image of channels×H×W bytes as a data URI; large ones are reduced."""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels[:3].transpose(1, 2, 0))
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _data_uri(value: Any) -> str | None:
    """The history's picture as a data URI; None where it is no PNG or too large."""
    try:
        content = base64.b64decode(value["png"], validate=True)
    except (TypeError, KeyError, ValueError, binascii.Error):
        return None
    if not content.startswith(PNG) or len(content) > LARGEST:
        return None
    return "data:image/png;base64," + base64.b64encode(content).decode()
