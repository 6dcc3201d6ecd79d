"""Charts of a sweep: validation against each hyper-parameter, parallel coordinates, learning curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from vitals.report.curves import line
from vitals.report.drawing import (
    SEQUENCE,
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
    printable,
)
from vitals.report.numbers import number, shortened
from vitals.report.record import Curve
from vitals.runs.metric import Metric
from vitals.sweeps.results.results import JobResult, SweepResults
from vitals.sweeps.results.tables import short_names

MOST = 200
"""Jobs, the best of them, that are drawn as lines, so that the page stays small and legible."""
STOPPED = Key("fail", "ended early or failed", "dot")


def value_charts(results: SweepResults) -> list[Chart]:
    """The score of each job against its value of every varied hyper-parameter."""
    if not results.ranked:
        return []
    named = zip(results.varied, short_names(results.varied), strict=True)
    return [_value_chart(results, place, *names) for place, names in enumerate(named)]


def _value_chart(results: SweepResults, place: int, key: str, name: str) -> Chart:
    jobs = results.ranked

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        values = [value for value, _ in results.numbers(key)]
        places, names = (values, []) if values else _places(jobs, key)
        for complete, colour in ((True, "c1"), (False, "fail")):
            chosen = [index for index, job in enumerate(jobs) if (job.status == "finished") is complete]
            scores = [jobs[index].score or 0.0 for index in chosen]
            xs = [places[index] for index in chosen]
            axes.plot(xs, scores, "o", color=color(colour), alpha=0.75, markersize=5, clip_on=False)
        _scores(axes, results.metric)
        if names:
            _name_places(axes, names)
        elif results.is_logarithmic(key):
            axes.margins(x=0.05)
            log_numbers(axes, along="x")
        else:
            axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(round(value, 12))))

    title = f"Validation against {shortened(printable(name), 28)}"
    keys = [] if all(job.status == "finished" for job in jobs) else [Key("c1", "finished", "dot"), STOPPED]
    return Chart(title, drawn(f"value-{place}", title, Plan(paint, 226, (46, 10, 8, 26))), keys)


def parallel_chart(results: SweepResults) -> Chart | None:
    """A line a job through its place on the axis of each hyper-parameter; the best are drawn last, darkest.

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
    scores = [job.score for job in jobs if job.score is not None]
    if results.metric.mode == "max":
        columns.append(_to_unit(scores))
        ends.append((results.metric.text(min(scores), 1), results.metric.text(max(scores), 1)))
    else:  # the best at the top, too
        columns.append(_to_unit([-score for score in scores]))
        ends.append((results.metric.text(max(scores)), results.metric.text(min(scores))))
    titles = [*short_names(results.varied), "score"]

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        lines = [list(enumerate(column[job] for column in columns)) for job in range(len(jobs))]
        shades = np.linspace(0, len(SEQUENCE) - 1, len(jobs)).round().astype(int)
        colours = [color(SEQUENCE[shade]) for shade in shades] if len(jobs) > 1 else [color(SEQUENCE[-1])]
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

    title = "Parallel coordinates"
    svg = drawn(
        "parallel", "Every job as a line through its hyper-parameters", Plan(paint, 290, (8, 8, 8, 44))
    )
    keys = [Key(SEQUENCE[-1], "best job"), Key(SEQUENCE[0], "worst job")]
    return Chart(title, svg, keys, "A line is a job; categories stand in the order of the alphabet.")


def curves_chart(results: SweepResults) -> Chart | None:
    """The learning curves of the jobs over each other, the best in colours of their own; None without any."""
    jobs = results.ranked[:MOST]
    if not jobs:
        return None
    best = jobs[: len(SERIES)]

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for job in reversed(jobs[len(best) :]):
            curve = _curve(job, results.metric)
            colour = color("muted" if job.status == "finished" else "fail")
            axes.plot(curve.epochs, curve.values, color=colour, linewidth=0.9, alpha=0.5)
        for index, job in reversed(list(enumerate(best))):
            line(axes, _curve(job, results.metric), SERIES[index], dashed=job.status != "finished")
        _scores(axes, results.metric)
        epochs_below(axes)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))

    said = [
        ", ".join(f"{key.rpartition('.')[2]} {job.words.get(key, '–')}" for key in results.varied[:2])
        for job in best
    ]
    keys = [
        Key(
            SERIES[index],
            shortened(f"job {job.number}: {words}" if words else f"job {job.number}", 44),
            "line" if job.status == "finished" else "dashed",
        )
        for index, (job, words) in enumerate(zip(best, said, strict=True))
    ]
    keys += [Key("muted", "others")] * (len(jobs) > len(best))
    keys += [Key("fail", STOPPED.label)] * any(job.status != "finished" for job in jobs[len(best) :])
    svg = drawn("curves", f"{results.metric.name} of the jobs over the epochs", Plan(paint, 290))
    return Chart(f"Learning curves: {results.metric.name}", svg, keys)


def importance_chart(shares: dict[str, float]) -> Chart | None:
    """How much of the spread each hyper-parameter explains, as bars; None where that is not known."""
    if not shares:
        return None

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        places = range(len(shares))
        axes.barh(places, list(shares.values()), height=0.55, color=color("c1"))
        axes.set_yticks(places, [shortened(printable(key), 24) for key in shares])
        axes.grid(visible=False, axis="y")
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))

    title = "Importance"
    svg = drawn("importance", title, Plan(paint, 60 + 30 * len(shares), (150, 14, 8, 26)))
    return Chart(title, svg, (), "The share of the variance of the score (fANOVA).")


def _curve(job: JobResult, metric: Metric) -> Curve:
    rows = [row for row in job.curve if metric.name in row and "epoch" in row]
    columns = ([row.get(key, np.nan) for row in rows] for key in ("epoch", "step", metric.name))
    return Curve(*(np.array(column, dtype=float) for column in columns))


def _scores(axes: Axes, metric: Metric) -> None:
    """A linear y-axis of scores."""
    if metric.is_share:
        percentages(axes)
    else:
        plain_numbers(axes, lambda value: f"{value:g}", 5)


def _places(jobs: Sequence[JobResult], key: str) -> tuple[list[float], list[str]]:
    """Where each job stands among the different values of `key`, and these."""
    names = sorted({job.words.get(key, "–") for job in jobs})
    return [float(names.index(job.words.get(key, "–"))) for job in jobs], names


def _name_places(axes: Axes, names: Sequence[str]) -> None:
    several = len(names) > 4
    labels = [shortened(printable(name), 14 if several else 24) for name in names]
    axes.set_xticks(
        range(len(names)), labels, rotation=30 if several else 0, ha="right" if several else "center"
    )
    axes.set_xlim(-0.5, len(names) - 0.5)


def _to_unit(values: Sequence[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.5 for value in values]
