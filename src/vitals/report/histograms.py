"""Histograms over time: how activations, gradients and weights are spread, layer by layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from vitals.report.drawing import Chart, Plan, blend, color, drawn, epochs_below
from vitals.report.layers import short_name, spread
from vitals.report.numbers import at_regular_times, number
from vitals.report.record import LeftOut, Numbers, RunRecord

MAPS = 6
"""Layers or parameters drawn, evenly spread over the depth."""
MOMENTS = 120
LEVELS = 56
"""Rows of a map: bins of the values, the same at all times."""
TAIL = 0.005
"""Share of the values left out at either end of the axis."""


def histogram_chart(run: RunRecord, kind: str, name: str) -> Chart:
    """Histograms over time as maps, one for each of a few layers.

    Args:
        run: whose history is drawn.
        kind: `activations`, `gradients` or `weights`.
        name: of the figure, unique on the page.

    Raises:
        LeftOut: where none was recorded.
    """
    maps = {tag: found for tag in run.tags(f"{kind}/") if (found := _map(run, tag)) is not None}
    if not maps:
        raise LeftOut(f"no histogram of the {kind} was recorded")
    shown = spread(list(maps), MAPS)
    rows = -(-len(shown) // 2)
    height = 36 + 96 * rows

    names = [tag.partition("/")[2] for tag in shown]

    def paint(figure: Figure) -> None:
        for place, tag in enumerate(shown):
            axes = figure.add_subplot(rows, 2, place + 1)
            epochs, low, high, density = maps[tag]
            end = epochs[-1] if epochs[-1] > epochs[0] else epochs[0] + 1
            picture = blend("heat", np.sqrt(density)[::-1])
            axes.imshow(picture, aspect="auto", extent=(epochs[0], end, low, high), interpolation="none")
            axes.grid(visible=False)
            if low < 0 < high:
                axes.axhline(0, color=color("muted"), linewidth=0.6, alpha=0.6)
            label = short_name(tag.partition("/")[2], names, 27)
            axes.set_title(label, loc="left", fontsize=9.5, pad=4, color=color("ink"))
            axes.tick_params(labelsize=9)
            axes.yaxis.set_major_locator(MaxNLocator(3))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(round(value, 12), 2)))
            if place >= len(shown) - 2:
                epochs_below(axes, "epochs" if place == len(shown) - 1 else "")
                axes.xaxis.set_major_locator(MaxNLocator(3))
            else:
                axes.set_xticks([])
        figure.subplots_adjust(wspace=0.36, hspace=0.42)

    title = f"Histograms of the {kind}"
    caption = "The stronger the colour, the more values; each moment on a scale of its own."
    if len(shown) < len(maps):
        caption = f"{len(shown)} of {len(maps)}, evenly spread over the depth. {caption}"
    return Chart(title, drawn(name, title, Plan(paint, height, (46, 10, 20, 36))), (), caption)


def _map(run: RunRecord, tag: str) -> tuple[Numbers, float, float, Numbers] | None:
    """Epochs, lowest and highest value, and the density at regular times (LEVELS×MOMENTS, from 0 to 1)."""
    found = [(epoch, parts) for _, epoch, value in run.history.series(tag) if (parts := _parts(value))]
    if not found:
        return None
    times = np.array([epoch for epoch, _ in found])
    found = [found[place] for place in np.unique(at_regular_times(times, MOMENTS))]
    times = np.array([epoch for epoch, _ in found])
    bounds = [_bounds(edges, shares) for _, (edges, shares) in found]
    low, high = min(bound[0] for bound in bounds), max(bound[1] for bound in bounds)
    if not high > low:
        low, high = low - max(abs(low), 1.0) / 2, high + max(abs(high), 1.0) / 2
    grid = np.linspace(low, high, LEVELS + 1)
    columns = [np.diff(np.interp(grid, edges, shares, left=0.0, right=1.0)) for _, (edges, shares) in found]
    density = np.stack(columns, axis=1)
    highest = density.max(axis=0)
    density = (density / np.where(highest > 0, highest, 1.0))[:, at_regular_times(times, MOMENTS)]
    return times, float(low), float(high), density


def _parts(value: Any) -> tuple[Numbers, Numbers] | None:
    """Edges (B+1) and the share of the values below each of them; None where that is no histogram."""
    try:
        edges, counts = (np.array(value[key], dtype=float) for key in ("edges", "counts"))
    except (TypeError, KeyError, ValueError):
        return None
    usable = len(edges) == len(counts) + 1 and np.isfinite(edges).all() and np.isfinite(counts).all()
    if not usable or counts.sum() <= 0 or (np.diff(edges) < 0).any():
        return None
    return edges, np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])


def _bounds(edges: Numbers, shares: Numbers) -> tuple[float, float]:
    low = edges[np.searchsorted(shares, TAIL, side="right") - 1]
    high = edges[min(int(np.searchsorted(shares, 1 - TAIL)), len(edges) - 1)]
    return float(low), float(high)
