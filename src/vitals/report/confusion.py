"""Which classes the chosen weights mistake for which."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from vitals.report.drawing import Chart, blend, chart, color, printable
from vitals.report.numbers import percent, shortened
from vitals.report.predictions import Predictions
from vitals.report.record import LeftOut, RunRecord

COUNTED = 12
"""Rows up to which every cell bears its number."""


def paint_matrix(axes: Axes, shades: np.ndarray, cells: Sequence[Sequence[str]]) -> None:
    """Draw a matrix of `shades` (H×W, from 0, none, to 1) over the whole of `axes`, with `cells` written in
    it where there are few."""
    axes.imshow(blend("heat", 0.85 * shades), aspect="auto", interpolation="none")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    if len(cells) <= COUNTED:
        for row, texts in enumerate(cells):
            for column, text in enumerate(texts):
                if text:
                    style: dict[str, Any] = {"ha": "center", "va": "center_baseline", "fontsize": 9.0}
                    axes.text(column, row, text, color=color("ink"), **style)


NAMED = 24
"""Classes up to which rows and columns bear their names."""
PAIRS = 8
"""Most frequent mistakes listed."""


def confusion_matrix(predictions: Predictions) -> np.ndarray:
    """Counts, C×C: row i, column j says how many images of class i were taken for class j."""
    classes = len(predictions.classes)
    guesses = predictions.probabilities.argmax(axis=1)
    cells = np.bincount(predictions.labels * classes + guesses, minlength=classes**2)
    return cells.reshape(classes, classes)


def confusion_chart(run: RunRecord, name: str) -> Chart:
    """The confusion matrix of the test images, each row coloured by its shares; `LeftOut` where the run kept
    no predictions."""
    predictions = _predictions(run)
    matrix = confusion_matrix(predictions)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    classes = [shortened(printable(label), 12) for label in predictions.classes]
    named = len(classes) <= NAMED
    right = float(np.trace(matrix)) / max(int(matrix.sum()), 1)

    def paint(axes: Axes) -> None:
        # Mistakes are rare where it matters: the root of a share makes them visible.
        cells = [[f"{count:,}" if count else "" for count in row] for row in matrix]
        paint_matrix(axes, np.sqrt(shares), cells)
        axes.set_xlabel("taken for", loc="right", labelpad=3)
        if named:
            size = 9.5 if len(classes) <= COUNTED else 7.5
            axes.set_xticks(range(len(classes)), classes, rotation=38, ha="right", fontsize=size)
            axes.set_yticks(range(len(classes)), classes, fontsize=size)
            axes.tick_params("x", pad=2)

    title = "Confusion matrix of the test images"
    margins = (78, 10, 8, 72) if named else (46, 10, 8, 36)
    caption = f"{percent(right)} of {int(matrix.sum()):,} are right. Rows are the true classes."
    return chart(name, title, paint, (), caption, height=330, margins=margins)


@dataclass(frozen=True)
class Mistakes:
    """The most frequent mistakes: true class, what it was taken for, how many, share of the true class."""

    title: str
    rows: list[tuple[str, str, str, str]]
    new_row: bool = False
    """Whether it stands at the left, with what comes next beside it."""


def frequent_mistakes(run: RunRecord) -> Mistakes:
    """The classes that are most often mistaken for one another; `LeftOut` where the run kept no predictions,
    or made no mistake."""
    predictions = _predictions(run)
    matrix = confusion_matrix(predictions)
    totals = matrix.sum(axis=1)
    np.fill_diagonal(matrix, 0)
    order = np.argsort(-matrix, axis=None, kind="stable")[:PAIRS]
    cells = [divmod(int(place), len(totals)) for place in order if matrix.flat[place]]
    if not cells:
        raise LeftOut("every test image was classified rightly")
    names = predictions.classes
    rows = [
        (names[row], names[column], f"{matrix[row, column]:,}", percent(matrix[row, column] / totals[row]))
        for row, column in cells
    ]
    return Mistakes("The most frequent mistakes", rows)


def _predictions(run: RunRecord) -> Predictions:
    predictions = run.kept_predictions()
    if not len(predictions.labels):
        raise LeftOut("no test image was classified")
    return predictions
