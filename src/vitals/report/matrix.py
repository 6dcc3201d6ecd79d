"""A matrix of shaded cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitals.report.drawing import blend, color

COUNTED = 12
"""Rows up to which every cell bears its number."""


def paint_matrix(figure: Figure, shades: np.ndarray, cells: Sequence[Sequence[str]], size: float) -> Axes:
    """Draw the matrix over the whole figure, and return its axes without labels.

    Args:
        figure: to draw on.
        shades: of the cells, H×W, from 0 (none) to 1.
        cells: what stands in them, where there are few.
        size: of these letters.
    """
    axes = figure.add_subplot()
    axes.imshow(blend("heat", 0.85 * shades), aspect="auto", interpolation="none")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    if len(cells) <= COUNTED:
        for row, texts in enumerate(cells):
            for column, text in enumerate(texts):
                if text:
                    style: dict[str, Any] = {"ha": "center", "va": "center_baseline", "fontsize": size}
                    axes.text(column, row, text, color=color("ink"), **style)
    return axes
