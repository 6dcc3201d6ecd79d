"""What a logger can be given: numbers, pictures, distributions, text, tables and alerts."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from vitals.measures.histogram import Histogram


class Writer:
    """Writes to one of Lightning's loggers. This one writes numbers alone, which every logger takes.

    A `tag` is the name under which something is shown, a `step` the optimizer steps taken. For a logger that
    takes more, derive from it and write what the logger can do; the rest does nothing. Then say which loggers
    it is for: `vitals.writers.registry.writer_of.register(MyLogger, MyWriter)`.
    """

    def __init__(self, logger: Any) -> None:
        self.logger: Any = logger

    @property
    def pictures(self) -> bool:
        """Whether it takes pictures or drawings; where it does not, none need be made."""
        own = type(self)
        return own.image is not Writer.image or own.figure is not Writer.figure

    def scalars(self, values: Mapping[str, float], step: int, epoch: float | None = None) -> None:
        """Numbers by their tags; `epoch` is the epochs trained, of curves that stand over epochs, and None of
        those that stand over steps."""
        self.logger.log_metrics({**values, **({} if epoch is None else {"epoch": epoch})}, step)

    def image(self, tag: str, picture: np.ndarray | Tensor, step: int) -> None:
        """A picture (3, height, width): uint8, or numbers from 0 to 1."""

    def figure(self, tag: str, figure: Figure, step: int) -> None:
        """A drawing, as a picture; where there are no pictures, it is not drawn."""
        if type(self).image is Writer.image:
            return
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        self.image(tag, np.asarray(canvas.buffer_rgba())[:, :, :3].transpose(2, 0, 1), step)

    def histogram(self, tag: str, found: Histogram, step: int) -> None:
        """How many values lie in each bin."""

    def text(self, tag: str, markdown: str, step: int) -> None:
        """A text in Markdown."""

    def table(self, tag: str, columns: Sequence[str], rows: Sequence[Sequence[str]], step: int) -> None:
        """A table: the names of its columns, and its rows."""

    def alert(self, title: str, text: str) -> None:
        """What somebody should be told at once."""

    def charts(self, charts: Mapping[str, Any]) -> None:
        """Which curves stand on one chart, as TensorBoard's custom scalars: category, chart, kind, tags."""

    def where(self, shown: Callable[[Path], str] = str) -> str:
        """What to type or to open to see all this; empty where that is not known. `shown` writes a path."""
        return ""


def pixels(picture: np.ndarray | Tensor) -> np.ndarray:
    """A `picture` as `Writer.image` gets it, as uint8 (height, width, 3)."""
    values = picture.numpy(force=True) if isinstance(picture, Tensor) else picture
    if values.dtype != np.uint8:
        values = (255 * values.clip(0.0, 1.0) + 0.5).astype(np.uint8)
    return np.ascontiguousarray(values.transpose(1, 2, 0))
