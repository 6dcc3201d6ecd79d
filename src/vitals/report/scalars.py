"""Charts of single numbers beside loss and accuracy: norms, noise, averaged weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure

from vitals.report.curves import FEW, drawable, line, run_keys
from vitals.report.drawing import (
    SERIES,
    Chart,
    Key,
    Plan,
    color,
    drawn,
    epochs_below,
    log_numbers,
    percentages,
    plain_numbers,
)
from vitals.report.numbers import bucketed, number
from vitals.report.record import Curve, LeftOut, RunRecord


def averages_chart(runs: Sequence[RunRecord], quantity: str) -> Chart:
    """Validation of the raw weights against that of the averaged ones.

    Args:
        runs: one, or several to compare.
        quantity: `loss` or `accuracy`.

    Raises:
        LeftOut: where no averaged weights were evaluated.
    """
    pairs = [(run.curve(f"{quantity}/val"), run.curve(f"val_average/{quantity}")) for run in runs]
    if not any(len(averaged) for _, averaged in pairs):
        raise LeftOut("the weights were not averaged")

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for index, (raw, averaged) in enumerate(pairs):
            raw_colour, averaged_colour = ("c2", "c3") if len(runs) == 1 else (SERIES[index],) * 2
            line(axes, raw, raw_colour, dashed=len(runs) > 1)
            line(axes, averaged, averaged_colour)
        (percentages if quantity == "accuracy" else plain_numbers)(axes)
        epochs_below(axes, runs[0].axis)

    title = f"Validation {quantity}, raw against averaged weights"
    if len(runs) == 1:
        keys = [Key("c2", "raw"), Key("c3", "averaged")]
    else:
        keys = [*run_keys(runs), Key("muted", "averaged"), Key("muted", "raw", "dashed")]
    return Chart(title, drawn(f"averages-{quantity}", title, Plan(paint)), keys)


def single_chart(
    runs: Sequence[RunRecord],
    tags: Sequence[str],
    title: str,
    write: Callable[[float], str] = number,
    log: bool = False,
    caption: str = "",
) -> Chart:
    """The first of `tags` that was recorded over the epochs, in buckets where there are many measurements.

    Raises:
        LeftOut: where it was not recorded.
    """
    curves = [run.curve(*tags) for run in runs]
    if not any(drawable(curve, "log" if log else "linear") for curve in curves):
        raise LeftOut("it was not recorded")

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for index, curve in enumerate(curves):
            if not len(curve):
                continue
            band = bucketed(curve)
            marker = "o" if len(band.x) <= FEW else None
            axes.fill_between(band.x, band.low, band.high, color=color(SERIES[index]), alpha=0.2, linewidth=0)
            axes.plot(band.x, band.mean, color=color(SERIES[index]), marker=marker)
        if log:
            log_numbers(axes)
        else:
            axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
            plain_numbers(axes, write)
        epochs_below(axes, runs[0].axis)

    caption = caption or (_ends(curves[0]) if len(runs) == 1 else "")
    svg = drawn(tags[0], f"{title} over the epochs", Plan(paint, 200))
    return Chart(title, svg, run_keys(runs) if len(runs) > 1 else [], caption)


def weight_norm_chart(runs: Sequence[RunRecord]) -> Chart:
    """Norm of all weights together over the epochs.

    Raises:
        LeftOut: where none was measured.
    """
    curves = []
    for run in runs:
        norms = [run.curve(tag) for tag in run.tags("weight_norm/")]
        norms = [curve for curve in norms if len(curve) == len(norms[0])]
        squares = sum((curve.values**2 for curve in norms), np.zeros(len(norms[0]) if norms else 0))
        curves.append(Curve(norms[0].epochs, norms[0].steps, np.sqrt(squares)) if norms else run.curve())
    if not any(np.isfinite(curve.values).any() for curve in curves):
        raise LeftOut("no norm of the weights was recorded")

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for index, curve in enumerate(curves):
            line(axes, curve, SERIES[index])
        axes.set_ylim(bottom=0)
        plain_numbers(axes)
        epochs_below(axes, runs[0].axis)

    title = "Norm of all weights"
    svg = drawn("weight-norm", title, Plan(paint, 200))
    single = len(runs) == 1
    return Chart(title, svg, [] if single else run_keys(runs), _ends(curves[0]) if single else "")


def _ends(curve: Curve) -> str:
    """Its first and its last value in words."""
    known = curve.values[np.isfinite(curve.values)]
    return f"At the start {number(float(known[0]))}, at the end {number(curve.last)}." if len(known) else ""
