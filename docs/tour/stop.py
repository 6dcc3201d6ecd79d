"""A stop of the tour: a picture from a real run, and the figures that it shows.

A stop is a function of its own name, which is that of its picture and of its block in docs/tour.md:

    def two_batches(runs: Runs) -> Stop:
        \"\"\"A small and a large batch\"\"\"            # the title, one line
        folder = runs.train("data.batch_size=16")
        figure, axes = drawing()
        axes.plot(...)
        return Stop(figure, {"noise of the loss, batch 16": 0.31})

and stands in `STOPS` of docs/make_tour.py.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageChops

BLUE, ORANGE, GREEN, RED, GREY = "#1f6fb4", "#d9730d", "#2e8b57", "#c0392b", "#777777"
COLOURS = 128
"""Of a picture: so many that the edges of lines stay smooth."""
STYLE: Any = {
    "figure.dpi": 120,  # 960 pixels of the 8 inches that `drawing` makes
    "figure.facecolor": "white",  # readable in GitHub's dark mode, too
    "font.size": 11.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e3e3e3",
    "axes.axisbelow": True,
    "axes.titlesize": 11.0,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


@dataclass(frozen=True)
class Stop:
    """What a stop shows."""

    picture: Figure
    figures: Mapping[str, float]
    """The key figures by what they are, with the unit: `{"training accuracy [%]": 98.2}`. Finite."""
    animation: Sequence[Figure] = ()
    """Pictures of equal size one after the other: `<stop>.gif` beside `<stop>.png`."""
    milliseconds: int = 80
    """That each of them stands."""
    text: str = ""
    """A table in plain text, for below the picture."""


def drawing(columns: int = 1, rows: int = 1, height: float = 4.0, **options: Any) -> tuple[Figure, Any]:
    """A figure 8 inches wide and its axes: one, or an array of them, as of `Figure.subplots`."""
    figure = Figure(figsize=(8, height), layout="constrained")
    axes: Axes | Any = figure.subplots(rows, columns, **options)
    return figure, axes


def smoothed(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """The mean of each value and its neighbours, `width` of them in all; of fewer at the ends."""
    ones = np.ones(width)
    near = np.convolve(np.ones(len(values)), ones, mode="same")
    return np.asarray(np.convolve(values, ones, mode="same") / near)


def image_of(figure: Figure) -> Image.Image:
    """The figure as pixels, in few colours: a line chart takes 20 to 60 kB."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    image = Image.open(buffer).convert("RGB")
    return image.quantize(COLOURS, dither=Image.Dither.NONE)


def write_pictures(stop: Stop, path: Path) -> str:
    """Write the picture at `path`, and the animation beside it; returns what has become of the picture:
    `new`, `the same` or how much of it changed. An unchanged file is left alone."""
    image, change = image_of(stop.picture), "new"
    if path.is_file():
        change = _difference(Image.open(path), image)
    if change != "the same":
        image.save(path, optimize=True)
    if stop.animation:
        first, *others = [image_of(figure) for figure in stop.animation]
        options: dict[str, Any] = {"duration": stop.milliseconds, "loop": 0, "optimize": True}
        first.save(path.with_suffix(".gif"), save_all=True, append_images=others, **options)
    return change


def styled() -> Any:
    """A context in which figures have the style of the tour."""
    return mpl.rc_context(STYLE)


def _difference(old: Image.Image, new: Image.Image) -> str:
    if old.size != new.size:
        return f"of another size, {new.width} by {new.height} pixels"
    apart = ImageChops.difference(old.convert("RGB"), new.convert("RGB")).convert("L").point(bool)
    changed = apart.histogram()[1] / (new.width * new.height)
    return f"changed in {changed:.1%} of its pixels" if changed else "the same"
