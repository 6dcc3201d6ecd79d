"""Charts over the layers: update ratios, variance by depth, dead and saturated units, histograms."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from vitals.measures.healthy import UPDATE_RATIO, UPDATE_RATIO_TARGET
from vitals.report.curves import FEW, drawable, run_keys
from vitals.report.drawing import (
    SEQUENCE,
    SERIES,
    Chart,
    Key,
    blend,
    chart,
    color,
    epochs_below,
    log_numbers,
    printable,
)
from vitals.report.numbers import at_regular_times, finite, number, percent, shortened, spread, thinned
from vitals.report.record import LeftOut, Numbers, RunRecord

LINES = 60
"""Parameters drawn; of more, so many evenly spread over the depth."""
NAMED = 10
"""Layers up to which a depth axis bears their names."""
ROWS = 24
"""Layers up to which each row of a map bears its name."""
TINY = 0.02
"""Share of dead or saturated units below which no map is drawn."""
MAPS = 6
"""Layers or parameters drawn, evenly spread over the depth."""
MAP = np.array([0.26, 0.98])
"""From where to where a map goes in its half of the width."""
MOMENTS = 120
LEVELS = 56
"""Rows of a map: bins of the values, the same at all times."""
TAIL = 0.005
"""Share of the values left out at either end of the axis."""


def update_ratio_chart(runs: Sequence[RunRecord]) -> Chart:
    """Least, median and largest update ratio of all parameters over the epochs, and the band that is healthy;
    `LeftOut` where none was measured."""
    summaries = [_summary(run) for run in runs]
    if not any(len(x) for x, _ in summaries):
        raise LeftOut("no update ratio was recorded")

    def paint(axes: Axes) -> None:
        axes.axhspan(*UPDATE_RATIO, color=color("good"), alpha=0.16, linewidth=0)
        axes.axhline(UPDATE_RATIO_TARGET, color=color("good"), linewidth=1, linestyle=(0, (2, 2)))
        for index, (x, rows) in enumerate(summaries):
            if not len(x):
                continue
            low, median, high = rows
            colour = color(SERIES[index])
            marker = "o" if len(x) <= FEW else None
            axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.plot(x, median, color=colour, marker=marker)
        log_numbers(axes)
        epochs_below(axes)

    title = "Update ratio ‖Δw‖ / ‖w‖"
    band = Key("good", f"healthy, {number(UPDATE_RATIO[0])} to {number(UPDATE_RATIO[1])}", "band")
    keys = [Key("c1", "median"), Key("c1", "least to largest", "band"), band]
    keys = keys if len(runs) == 1 else [*run_keys(runs), band]
    return chart("update-ratio", title, paint, keys)


def update_ratio_lines(run: RunRecord, name: str) -> Chart:
    """The update ratio of every parameter over the epochs, from the first layer to the last; `LeftOut` where
    none was measured."""
    tags = [tag for tag in run.tags("update_ratio/") if drawable(run.curve(tag), "log")]
    if not tags:
        raise LeftOut("no update ratio of a single parameter was recorded")
    shown = spread(tags, LINES)

    def paint(axes: Axes) -> None:
        axes.axhspan(*UPDATE_RATIO, color=color("good"), alpha=0.16, linewidth=0)
        for place, tag in enumerate(shown):
            x, y = thinned(run.curve(tag), 80)
            tone = SEQUENCE[place * len(SEQUENCE) // len(shown)]
            axes.plot(x, y, color=color(tone), linewidth=1.1, alpha=0.85, marker="o" if len(x) == 1 else None)
        log_numbers(axes)
        epochs_below(axes)

    last = {tag.partition("/")[2]: run.curve(tag).last for tag in tags}
    least, largest = min(last, key=last.__getitem__), max(last, key=last.__getitem__)
    caption = (
        f"At the end the least is {number(last[least])} ({shortened(least, 40)}), "
        f"the largest {number(last[largest])} ({shortened(largest, 40)})."
    )
    if len(shown) < len(tags):
        caption = f"{len(shown)} of {len(tags)} parameters. {caption}"
    keys = [Key(SEQUENCE[0], "first layer"), Key(SEQUENCE[-1], "last layer")]
    title = "Update ratio of every parameter"
    return chart(name, title, paint, keys, caption)


def variance_chart(runs: Sequence[RunRecord], quantity: str) -> Chart:
    """log10 of `activation_variance` or `gradient_variance` by depth: at several times of one run, at the
    start and the end of several; `LeftOut` where it was not measured."""
    what = {"activation_variance": "activations", "gradient_variance": "gradients"}[quantity]
    grids = [_by_depth(run, f"{quantity}/") for run in runs]
    if not any((grid > 0).any() for _, _, grid in grids):
        raise LeftOut(f"no variance of the {what} was recorded")
    layers = max((layers for layers, _, _ in grids), key=len)
    named = len(runs) == 1 and len(layers) <= NAMED
    keys: list[Key] = []

    def paint(axes: Axes) -> None:
        for index, (names, epochs, grid) in enumerate(grids):
            if not len(epochs):
                continue
            moments = spread(range(len(epochs)), len(SEQUENCE) if len(runs) == 1 else 2)
            for place, moment in enumerate(moments):
                tone = SEQUENCE[-len(moments) :][place] if len(runs) == 1 else SERIES[index]
                dashed = len(runs) > 1 and place < len(moments) - 1
                style: dict[str, Any] = {"linestyle": (0, (4, 2)) if dashed else "-", "markersize": 3.5}
                style |= {"marker": "o" if len(names) <= 2 * FEW else None, "color": color(tone)}
                axes.plot(np.arange(1, len(names) + 1), _above_zero(grid[moment]), **style)
                if len(runs) == 1 and place in (0, len(moments) - 1):
                    keys.append(Key(tone, f"epoch {number(round(float(epochs[moment]), 2))}"))
        log_numbers(axes, decades=1.5)
        axes.set_xlim(0.7, len(layers) + 0.3)
        if named:
            labels = [short_name(name, layers) for name in layers]
            axes.set_xticks(np.arange(1, len(layers) + 1), labels, rotation=32, ha="right")
            axes.tick_params("x", labelsize=9.5, pad=3)
        else:
            epochs_below(axes, "layer, from the first to the last")

    title = f"Variance of the {what} by depth"
    height, margins = (264, (46, 10, 8, 64)) if named else (236, (46, 10, 8, 36))
    if len(runs) > 1:
        keys = [*run_keys(runs), Key("muted", "at the end"), Key("muted", "at the start", "dashed")]
    return chart(quantity, title, paint, keys, height=height, margins=margins)


def share_map(run: RunRecord, quantity: str, name: str) -> Chart:
    """Share of `dead_units` or `saturated_units` of every layer over the epochs, as a map of this `name` on
    the page; `LeftOut` where it was not measured, or there is nothing to see."""
    what = quantity.partition("_")[0]
    layers, epochs, grid = _by_depth(run, f"{quantity}/")
    if not len(epochs) or not np.isfinite(grid).any():
        raise LeftOut(f"no share of {what} units was recorded")
    highest = np.nanmax(grid)
    if highest < TINY:
        most = f"more than {percent(highest)}" if highest else "any"
        raise LeftOut(f"no layer ever had {most} {what} units")
    named = len(layers) <= ROWS

    def paint(axes: Axes) -> None:
        start, end = float(epochs[0]), float(epochs[-1])
        extent = (start, end if end > start else start + 1, len(layers) + 0.5, 0.5)
        picture = blend("alarm", grid[at_regular_times(epochs)].T)
        axes.imshow(picture, aspect="auto", extent=extent, interpolation="none")
        axes.grid(visible=False)
        epochs_below(axes)
        if named:
            axes.set_yticks(np.arange(1, len(layers) + 1), [short_name(layer, layers) for layer in layers])
            axes.tick_params("y", labelsize=9)

    worst = int(np.nanargmax(np.nan_to_num(grid[-1], nan=-1.0)))
    height = max(60 + (13 * len(layers) if named else 160), 110)
    title = f"{what.capitalize()} units of every layer"
    caption = (
        f"From none (blank) to all (full colour). At the end {percent(float(grid[-1, worst]))} in "
        f"{shortened(layers[worst], 40)}, the most of all layers."
    )
    margins = (112 if named else 46, 10, 8, 36)
    return chart(name, title, paint, (), caption, height=height, margins=margins)


def _summary(run: RunRecord) -> tuple[Numbers, Numbers]:
    """Epochs (T), and least, median and largest update ratio (3×T)."""
    curves = [run.curve(f"update_ratio_summary/{name}") for name in ("min", "median", "max")]
    if len({len(curve) for curve in curves}) == 1 and len(curves[0]):
        parts = [thinned(curve) for curve in curves]
        rows = np.stack([_above_zero(values) for _, values in parts])
        if np.isfinite(rows[1]).any():
            return parts[0][0], rows
    _, epochs, grid = _by_depth(run, "update_ratio/")
    grid = _above_zero(grid)
    seen = np.isfinite(grid).any(axis=1) if len(epochs) else np.empty(0, bool)
    if not seen.any():
        return np.empty(0), np.empty((3, 0))
    grid = grid[seen]
    return epochs[seen], np.stack([f(grid, axis=1) for f in (np.nanmin, np.nanmedian, np.nanmax)])


def _by_depth(run: RunRecord, prefix: str) -> tuple[list[str], Numbers, Numbers]:
    """Layers (L) in their order, epochs (T), and the values (T×L), NaN where a layer was not measured."""
    tags = run.tags(prefix)
    rows: dict[int, int] = {}
    epochs: list[float] = []
    for tag in tags:
        for step, epoch, _ in run.history.series(tag):
            if step not in rows:
                rows[step] = len(epochs)
                epochs.append(epoch)
    grid = np.full((len(epochs), len(tags)), np.nan)
    for column, tag in enumerate(tags):
        curve = run.curve(tag)
        grid[[rows[int(step)] for step in curve.steps], column] = finite(curve.values)
    order = np.argsort(epochs, kind="stable")
    return [tag.removeprefix(prefix) for tag in tags], np.array(epochs)[order], grid[order]


def _above_zero(values: Numbers) -> Numbers:
    return np.where(values > 0, values, np.nan)


def short_name(name: str, names: Sequence[str], length: int = 17) -> str:
    """The name without the module that all of them lie in, its middle left out where it is long."""
    head = name.partition(".")[0] + "."
    inside = all(other.startswith(head) for other in names)
    return shortened(printable(name.removeprefix(head) if inside else name), length)


def histogram_chart(run: RunRecord, kind: str, name: str) -> Chart:
    """Histograms of `activations`, `gradients` or `weights` over time as maps, one for each of a few layers,
    of this `name` on the page; `LeftOut` where none was recorded."""
    maps = {tag: found for tag in run.tags(f"{kind}/") if (found := _map(run, tag)) is not None}
    if not maps:
        raise LeftOut(f"no histogram of the {kind} was recorded")
    shown = spread(list(maps), MAPS)
    rows = -(-len(shown) // 2)
    height = 20 + 96 * rows
    names = [tag.partition("/")[2] for tag in shown]

    def paint(axes: Axes) -> None:
        axes.axis("off")  # one for all maps: its own for each would be half the cost of a page
        small = {"fontsize": 9, "color": color("muted")}
        for place, tag in enumerate(shown):
            (bottom, top), (left, right) = (rows - 1 - place // 2 + np.array([0.1, 0.76])), place % 2 + MAP
            epochs, low, high, density = maps[tag]
            picture = blend("heat", np.sqrt(density)[::-1])
            axes.imshow(picture, aspect="auto", extent=(left, right, bottom, top), interpolation="none")
            if low < 0 < high:
                zero = bottom - low / (high - low) * (top - bottom)
                axes.plot([left, right], [zero, zero], color=color("muted"), linewidth=0.6, alpha=0.6)
            axes.text(left, top + 0.05, short_name(names[place], names, 27), fontsize=9.5)
            for y, value, upright in ((bottom, low, "bottom"), (top, high, "top")):
                style: dict[str, Any] = {"ha": "right", "va": upright} | small
                axes.text(left - 0.02, y, number(value, 2), **style)
            for x, epoch, side in ((left, epochs[0], "left"), (right, epochs[-1], "right")):
                if place >= len(shown) - 2:  # the same below all
                    said = number(round(float(epoch), 2)) + " epochs" * (side == "right")
                    style = {"ha": side, "va": "top"} | small
                    axes.text(x, bottom - 0.03, said, **style)
        axes.set(xlim=(0, 2), ylim=(0, rows))

    title = f"Histograms of the {kind}"
    caption = "The stronger the colour, the more values; each moment on a scale of its own."
    if len(shown) < len(maps):
        caption = f"{len(shown)} of {len(maps)}, evenly spread over the depth. {caption}"
    return chart(name, title, paint, (), caption, height=height, margins=(0, 0, 10, 10))


def _map(run: RunRecord, tag: str) -> tuple[Numbers, float, float, Numbers] | None:
    """Epochs, lowest and highest value, and the density at regular times (LEVELS×MOMENTS, from 0 to 1)."""
    found = [(epoch, parts) for _, epoch, value in run.history.series(tag) if (parts := _parts(value))]
    if not found:
        return None
    times = np.array([epoch for epoch, _ in found])
    found = [found[place] for place in np.unique(at_regular_times(times, MOMENTS))]
    times = np.array([epoch for epoch, _ in found])
    histograms = [parts for _, parts in found]
    low = min(edges[np.searchsorted(below, TAIL, side="right") - 1] for edges, below in histograms)
    high = max(edges[: np.searchsorted(below, 1 - TAIL) + 1][-1] for edges, below in histograms)
    if not high > low:
        low, high = low - max(abs(low), 1.0) / 2, high + max(abs(high), 1.0) / 2
    grid = np.linspace(low, high, LEVELS + 1)
    columns = [np.diff(np.interp(grid, edges, below, left=0.0, right=1.0)) for edges, below in histograms]
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
