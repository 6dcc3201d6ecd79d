"""Charts of a sweep: what each hyper-parameter does, parallel coordinates, importance.

A colour is a value of the hyper-parameter that a chart is about: of numbers a shade, of names a hue.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import FuncFormatter, MaxNLocator

from vitals.metric import Metric
from vitals.report.curves import line
from vitals.report.drawing import (
    SEQUENCE,
    Chart,
    Key,
    chart,
    color,
    epochs_below,
    log_numbers,
    percentages,
    plain_numbers,
    printable,
)
from vitals.report.numbers import number, shortened
from vitals.report.record import Curve
from vitals.sweeps.results.levels import Level, levels
from vitals.sweeps.results.results import JobResult, SweepResults, short_names

MOST = 200
"""Jobs, the best of them, that are drawn as lines, so that the page stays small and legible."""


def key_charts(results: SweepResults) -> list[Chart]:
    """Of each varied hyper-parameter the scores of the jobs against it, and their learning curves.

    Where there is none, the jobs differ in their seed at most: the curves alone.
    """
    if not results.ranked:
        return []
    if not results.varied:
        return [_curves_chart(results, "seed", "seed", levels(results, "seed"))]
    charts = []
    for key, name in zip(results.varied, short_names(results.varied), strict=True):
        found, said = levels(results, key), shortened(printable(name), 28)
        charts += [_value_chart(results, key, said, found), _curves_chart(results, key, said, found)]
    return charts


def _value_chart(results: SweepResults, key: str, name: str, found: Sequence[Level]) -> Chart:
    """The score of every job against its value of `key`, and the best of each value."""
    values = {id(job): value for value, job in results.numbers(key)}
    names = [] if values else [level.label for level in found]
    places = values or {id(job): float(at) for at, level in enumerate(found) for job in level.jobs}

    def paint(axes: Axes) -> None:
        best = [(places[id(level.best[0])], level.score) for level in found]
        marks: dict[str, Any] = {"marker": "_", "linestyle": "", "markersize": 30}
        own = marks if names else {"linewidth": 1.2}
        axes.plot(*zip(*best, strict=True), color=color("muted"), **own)
        for level in found:
            for job in level.jobs:
                colour = color(level.colour if job.status == "finished" else "fail")
                axes.plot(places[id(job)], job.score or 0.0, "o", color=colour, markersize=5, clip_on=False)
        _scores(axes, results.metric)
        if names:
            _name_places(axes, names)
        elif results.is_logarithmic(key):
            axes.margins(x=0.05)
            log_numbers(axes, along="x")
        else:
            plain_numbers(axes, ticks=6, along="x")

    title = f"Validation against {name}"
    keys = [Key("muted", "best of each, other keys free")]
    if any(job.status != "finished" for job in results.ranked):
        keys.append(Key("fail", "ended early or failed", "dot"))
    return chart(f"value-{key}", title, paint, keys, height=262, margins=(46, 10, 8, 26), new_row=True)


def _curves_chart(results: SweepResults, key: str, name: str, found: Sequence[Level]) -> Chart:
    """The learning curves of the jobs in the colours of their values, thick the best of each."""
    drawn_jobs = {id(job) for job in results.ranked[:MOST]}

    def paint(axes: Axes) -> None:
        for level in found:
            for job in level.jobs:
                if id(job) in drawn_jobs and job not in level.best:
                    curve, colour = _curve(job, results.metric), color(level.colour)
                    axes.plot(curve.epochs, curve.values, color=colour, linewidth=0.8, alpha=0.45)
        for level in found:
            for job in level.best:
                line(axes, _curve(job, results.metric), level.colour, dashed=job.status != "finished")
        _scores(axes, results.metric)
        epochs_below(axes)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))

    keys = []
    for level in (level for level in found if level.colour != "muted"):
        numbers = ", ".join(str(job.number) for job in level.best)
        label = f"{level.label}: job{'s' * (len(level.best) > 1)} {numbers}"
        kind: Any = "line" if level.best[0].status == "finished" else "dashed"
        keys.append(Key(level.colour, shortened(printable(label), 44), kind))
    keys += [Key("muted", "others")] * any(level.colour == "muted" for level in found)
    title = f"Learning curves, the best of each {name}"
    others = len(results.ranked) > sum(len(level.best) for level in found)
    caption = "Thin lines are the other jobs." if others else ""
    label = f"{results.metric.name} over the epochs"
    return chart(f"curves-{key}", title, paint, keys, caption, label, height=272)


def parallel_chart(results: SweepResults) -> Chart | None:
    """A line a job through its place on the axis of each hyper-parameter, the higher its score the darker.

    None where there is but one hyper-parameter.
    """
    jobs = results.ranked[:MOST][::-1]
    if len(results.varied) < 2 or not jobs:
        return None
    columns, ends = [], []
    for key in results.varied:
        known = {id(job): value for value, job in results.numbers(key)}
        values = [known[id(job)] for job in jobs if id(job) in known]
        if values:
            scaled = [math.log10(value) for value in values] if results.is_logarithmic(key) else values
            ends.append((number(min(values)), number(max(values))))
        else:
            scaled, names = _places(jobs, key)
            ends.append((names[0], names[-1]))
        columns.append(_to_unit(scaled))
    columns.append(_to_unit([-results.metric.rank(job.score) for job in jobs]))  # the best at the top
    ends.append((results.metric.text(jobs[0].score, 1), results.metric.text(jobs[-1].score, 1)))
    titles = [*short_names(results.varied), "score"]

    def paint(axes: Axes) -> None:
        lines = [list(enumerate(column[job] for column in columns)) for job in range(len(jobs))]
        colours = [color(SEQUENCE[round(place * (len(SEQUENCE) - 1))]) for place in columns[-1]]
        axes.add_collection(LineCollection(lines, colors=colours, linewidths=1.4))
        axes.set(xlim=(-0.35, len(columns) - 0.65), ylim=(-0.13, 1.13), xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        for place, ((low, high), title) in enumerate(zip(ends, titles, strict=True)):
            axes.plot([place, place], [0, 1], color=color("line"), linewidth=1.2, zorder=0)
            words: dict[str, Any] = {"ha": "center", "fontsize": 9, "color": color("muted")}
            axes.text(place, -0.03, shortened(printable(low), 14), va="top", **words)
            axes.text(place, 1.02, shortened(printable(high), 14), va="bottom", **words)
            step = 0.09 * (place % 2) if len(titles) > 4 else 0.0  # two rows where there are many
            words |= {"color": color("ink"), "fontsize": 10.5}
            axes.text(place, -0.13 - step, shortened(printable(title), 16), va="top", **words)

    keys = [Key(SEQUENCE[-1], "best score"), Key(SEQUENCE[0], "worst score")]
    caption = "A line is a job; categories stand in the order of the alphabet."
    label, margins = "Every job as a line through its hyper-parameters", (8, 8, 8, 44)
    return chart("parallel", "Parallel coordinates", paint, keys, caption, label, height=290, margins=margins)


def importance_chart(shares: dict[str, float]) -> Chart | None:
    """How much of the spread each hyper-parameter explains, as bars; None where that is not known."""
    if not shares:
        return None

    def paint(axes: Axes) -> None:
        places = range(len(shares))
        axes.barh(places, list(shares.values()), height=0.55, color=color("c1"))
        axes.set_yticks(places, [shortened(printable(key), 24) for key in shares])
        axes.grid(visible=False, axis="y")
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))

    caption, height = "How much of the spread of the scores each explains (fANOVA).", 60 + 30 * len(shares)
    return chart("importance", "Importance", paint, (), caption, height=height, margins=(150, 14, 8, 26))


def _curve(job: JobResult, metric: Metric) -> Curve:
    rows = [row for row in job.curve if metric.name in row and "epoch" in row]
    columns = ([row.get(key, np.nan) for row in rows] for key in ("epoch", "step", metric.name))
    return Curve(*(np.array(column, dtype=float) for column in columns))


def _scores(axes: Axes, metric: Metric) -> None:
    """A linear y-axis of scores."""
    if metric.is_share:
        percentages(axes)
    else:
        plain_numbers(axes, lambda value: f"{value:g}")


def _places(jobs: Sequence[JobResult], key: str) -> tuple[list[float], list[str]]:
    """Where each job stands among the different values of `key`, and these."""
    names = sorted({job.words.get(key, "–") for job in jobs})
    return [float(names.index(job.words.get(key, "–"))) for job in jobs], names


def _name_places(axes: Axes, names: Sequence[str]) -> None:
    several = len(names) > 4
    labels = [shortened(printable(name), 14 if several else 24) for name in names]
    turned: Any = {"rotation": 30, "ha": "right"} if several else {}
    axes.set_xticks(range(len(names)), labels, **turned)
    axes.set_xlim(-0.5, len(names) - 0.5)


def _to_unit(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.5 for value in values]
