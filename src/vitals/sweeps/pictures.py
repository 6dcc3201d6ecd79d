"""Pictures of a sweep: validation against each hyper-parameter, parallel coordinates, learning curves."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from vitals.sweeps.curve import SCORE
from vitals.sweeps.results import JobResult, SweepResults

COLOURS = mpl.colormaps["viridis"]
LOST = "#b22222"
"""Of jobs that were stopped early or failed."""


def pictures(results: SweepResults) -> dict[str, str]:
    """Title and SVG of each picture that the results allow."""
    ranked = results.ranked
    if not ranked:
        return {}
    drawn = {}
    if results.varied:
        drawn["Best validation accuracy against each hyper-parameter"] = _svg(_scatter(results))
    if len(results.varied) > 1:
        drawn["Parallel coordinates"] = _svg(_parallel(results))
    drawn["Learning curves"] = _svg(_curves(ranked))
    return drawn


def _scatter(results: SweepResults) -> Figure:
    columns = min(3, len(results.varied))
    rows = math.ceil(len(results.varied) / columns)
    figure = Figure(figsize=(4 * columns, 3 * rows), layout="constrained")
    for place, key in enumerate(results.varied):
        axes = figure.add_subplot(rows, columns, place + 1)
        jobs = results.ranked
        pairs = results.numbers(key)
        if pairs:
            places = [value for value, _ in pairs]
            if results.is_logarithmic(key):
                axes.set_xscale("log")
        else:
            names = sorted({job.words.get(key, "") for job in jobs})
            places = [names.index(job.words.get(key, "")) for job in jobs]
            axes.set_xticks(range(len(names)), names)
        colours = ["#1f6f8b" if job.status == "finished" else LOST for job in jobs]
        axes.scatter(places, [job.best or 0.0 for job in jobs], s=18, c=colours)
        axes.set_xlabel(key)
        _percent_axis(axes)
    return figure


def _parallel(results: SweepResults) -> Figure:
    """A line a job through its place on each axis; the best are drawn last and brightest."""
    jobs = results.ranked[::-1]
    axes_keys = [*results.varied, "best"]
    scores = [job.best or 0.0 for job in jobs]
    columns: list[list[float]] = []
    labels: list[tuple[str, str]] = []
    for key in results.varied:
        values = [value for value, _ in results.numbers(key)][::-1]
        if values:
            log = results.is_logarithmic(key)
            scaled = [math.log10(value) for value in values] if log else values
            labels.append((f"{min(values):.3g}", f"{max(values):.3g}"))
        else:
            names = sorted({job.words.get(key, "") for job in jobs})
            scaled = [float(names.index(job.words.get(key, ""))) for job in jobs]
            labels.append((names[0], names[-1]))
        columns.append(_to_unit(scaled))
    columns.append(_to_unit(scores))
    labels.append((f"{min(scores):.1%}", f"{max(scores):.1%}"))
    figure = Figure(figsize=(max(5.0, 1.8 * len(axes_keys)), 3.6), layout="constrained")
    axes = figure.add_subplot()
    lines = [list(enumerate(column[job] for column in columns)) for job in range(len(jobs))]
    axes.add_collection(LineCollection(lines, colors=[COLOURS(place) for place in columns[-1]], alpha=0.8))
    for place, (low, high) in enumerate(labels):
        axes.axvline(place, color="0.7", linewidth=0.8, zorder=0)
        axes.text(place, -0.03, low, ha="center", va="top", fontsize=7)
        axes.text(place, 1.03, high, ha="center", va="bottom", fontsize=7)
    axes.set(xlim=(-0.3, len(axes_keys) - 0.7), ylim=(-0.12, 1.12), yticks=[])
    axes.set_xticks(range(len(axes_keys)), axes_keys, fontsize=8)
    return figure


def _curves(ranked: list[JobResult]) -> Figure:
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    for place, job in reversed(list(enumerate(ranked))):
        epochs = [row["epoch"] for row in job.curve if SCORE in row]
        scores = [row[SCORE] for row in job.curve if SCORE in row]
        colour = COLOURS(1 - place / max(1, len(ranked) - 1)) if job.status == "finished" else LOST
        label = f"job {job.number}" if place < 5 else None
        axes.plot(epochs, scores, color=colour, marker="." if len(epochs) < 15 else "", label=label)
    axes.set_xlabel("epoch")
    axes.legend(fontsize=7)
    _percent_axis(axes)
    return figure


def _to_unit(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.5 for value in values]


def _percent_axis(axes: Axes) -> None:
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.set_ylabel("validation accuracy")
    axes.grid(alpha=0.3)


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "vitals"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()[file.getvalue().index("<svg") :]
