"""Charts over the epochs: loss with the learning rate, accuracies and their gap, and other numbers."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from vitals.report.drawing import (
    SERIES,
    Chart,
    Key,
    chart,
    color,
    epochs_below,
    log_numbers,
    percentages,
    plain_numbers,
)
from vitals.report.numbers import bucketed, first_not_finite, number, shortened, thinned
from vitals.report.record import LETTERS, Curve, LeftOut, RunRecord

FEW = 12
"""Measurements up to which each is marked by a point."""
FAINT: dict[str, Any] = {"linewidth": 0.9, "alpha": 0.45}
"""The loss of the batches, where that of the epochs is drawn over it."""
CUT = 3.0
"""Times the first loss at which a linear axis of the loss ends: what diverges would hide the rest."""


def loss_chart(runs: Sequence[RunRecord], scale: str) -> Chart:
    """Loss of one run or several over epochs, on a `linear` or `log` scale, with the learning rate under it;
    `LeftOut` where no loss was recorded."""
    losses = [
        (
            run.curve("loss/train_step"),
            run.curve("loss/train", "loss/train_eval"),
            run.curve("loss/val", "loss/val_eval"),
        )
        for run in runs
    ]
    if not any(drawable(curve, scale) for curves in losses for curve in curves):
        raise LeftOut("no loss was recorded")
    rates = [_learning_rates(run) for run in runs]
    with_rates = any(rates)
    captions: list[str] = []

    def paint(upper: Axes, lower: Axes | None = None) -> None:
        for index, (step, train, val) in enumerate(losses):
            train_colour, val_colour = ("c1", "c2") if len(runs) == 1 else (SERIES[index],) * 2
            if len(step) and len(runs) == 1:
                band = bucketed(step)
                upper.fill_between(band.x, band.low, band.high, color=color("c1"), alpha=0.2, linewidth=0)
                whole = not len(train)
                upper.plot(band.x, band.mean, color=color("c1"), **({} if whole else FAINT))
            elif len(step) and not len(train):
                train = step
            line(upper, train, train_colour, dashed=len(runs) > 1)
            line(upper, val, val_colour)
            broken = [first_not_finite(curve) for curve in (step, train, val)]
            if found := [epoch for epoch in broken if epoch is not None]:
                upper.axvline(min(found), color=color("fail"), linewidth=1.2, linestyle=(0, (2, 2)))
                captions.append(f"Not finite from epoch {number(min(found))} on.")
        if scale == "log":
            log_numbers(upper)
        else:
            _limit(upper, [curve for curves in losses for curve in curves], captions)
            plain_numbers(upper)
        if lower is not None:
            for index, curves in enumerate(rates):
                for curve in curves:
                    line(lower, curve, "muted" if len(runs) == 1 else SERIES[index], marked=False)
            lower.set_ylim(bottom=0)
            plain_numbers(lower, ticks=2)
        epochs_below(lower or upper, runs[0].axis)

    name = "loss" if scale == "linear" else "loss-log"
    title = "Loss" if scale == "linear" else "Loss, logarithmic"
    keys = _keys(runs, [(step, train) for step, train, _ in losses], [val for *_, val in losses])
    if len(runs) == 1 and len(losses[0][0]):
        keys.append(Key("c1", "batches, the middle 80%", "band"))
    if with_rates and len(runs) == 1:
        keys.append(Key("muted", "learning rate, below"))
    label, rows = f"{title} over the epochs", (3.4, 1) if with_rates else (1,)
    made = chart(name, title, paint, keys, label=label, height=292 if with_rates else 236, rows=rows)
    if with_rates and len(runs) > 1:
        captions.append("The learning rate is below.")
    return replace(made, caption=" ".join(dict.fromkeys(captions)))


def metric_chart(runs: Sequence[RunRecord], quantity: str) -> Chart:
    """Any other quantity in training and validation, over epochs; `LeftOut` where it was not recorded."""
    pairs = [(run.curve(f"{quantity}/train"), run.curve(f"{quantity}/val")) for run in runs]
    return _pairs_chart(f"metric-{quantity}", quantity, runs, pairs, plain_numbers)


def _pairs_chart(
    name: str,
    title: str,
    runs: Sequence[RunRecord],
    pairs: Sequence[tuple[Curve, Curve]],
    numbers: Callable[[Axes], None],
    colours: tuple[str, str] = ("c1", "c2"),
    dotted: Curve | None = None,
) -> Chart:
    """Two curves of each run over the epochs, the first of them dashed where there are several runs, and one
    more of a single run, dotted; `LeftOut` where none was recorded."""
    if not any(len(curve) for pair in pairs for curve in pair):
        raise LeftOut(f"no {title.lower()} was recorded")

    def paint(axes: Axes) -> None:
        for index, (first, second) in enumerate(pairs):
            own = colours if len(runs) == 1 else (SERIES[index], SERIES[index])
            line(axes, first, own[0], dashed=len(runs) > 1)
            line(axes, second, own[1])
        if dotted is not None and len(dotted):
            axes.plot(*thinned(dotted), color=color(colours[0]), linewidth=1.2, linestyle=(0, (1, 2)))
        numbers(axes)
        epochs_below(axes, runs[0].axis)

    keys = _keys(runs, [(train,) for train, _ in pairs], [val for _, val in pairs])
    return chart(name, title, paint, keys, label=f"{title} over the epochs")


def accuracy_chart(runs: Sequence[RunRecord]) -> Chart:
    """Training and validation accuracy over epochs; `LeftOut` where no accuracy was recorded."""
    pairs = [
        (run.curve("accuracy/train_eval", "accuracy/train"), run.curve("accuracy/val", "accuracy/val_eval"))
        for run in runs
    ]
    augmented = None
    if len(runs) == 1 and len(runs[0].curve("accuracy/train_eval")):
        augmented = runs[0].curve("accuracy/train")
    made = _pairs_chart("accuracy", "Accuracy", runs, pairs, percentages, dotted=augmented)
    further = [Key("c1", "while training", "dotted")] if augmented is not None and len(augmented) else []
    return replace(made, keys=[*made.keys, *further])


def gap_chart(runs: Sequence[RunRecord]) -> Chart:
    """Training accuracy less validation accuracy over epochs, in percentage points; `LeftOut` where not both
    were recorded."""
    gaps = [gap_of(run) for run in runs]
    if not any(np.isfinite(gap.values).any() for gap in gaps):
        raise LeftOut("training and validation accuracy were not both recorded")

    def paint(axes: Axes) -> None:
        axes.axhline(0, color=color("muted"), linewidth=1)
        for index, gap in enumerate(gaps):
            line(axes, gap, SERIES[index])
            if len(runs) == 1 and len(gap):
                x, y = thinned(gap)
                axes.fill_between(x, 0, y, color=color("c1"), alpha=0.15, linewidth=0)
        low, high = axes.get_ylim()
        axes.set_ylim(min(low, -0.01), max(high, 0.05))
        plain_numbers(axes, lambda value: f"{100 * value:g}".replace("-", "−"))
        epochs_below(axes, runs[0].axis)

    title = "Gap between training and validation, in points"
    return chart("gap", title, paint, run_keys(runs) if len(runs) > 1 else [])


def run_keys(runs: Sequence[RunRecord]) -> list[Key]:
    """One entry a run: A, B, …, each in its colour, with the folder's name."""
    return [
        Key(colour, f"{letter} · {shortened(run.folder.absolute().name, 28)}")
        for colour, letter, run in zip(SERIES, LETTERS, runs, strict=False)
    ]


def gap_of(run: RunRecord) -> Curve:
    """Training accuracy less validation accuracy, a share from −1 to 1; empty where not both are known."""
    recorded = run.curve("accuracy/gap")
    train = run.curve("accuracy/train_eval", "accuracy/train")
    val = run.curve("accuracy/val", "accuracy/val_eval")
    if len(recorded) or not len(train) or not len(val):
        return recorded
    order = np.argsort(train.epochs, kind="stable")
    there = np.interp(val.epochs, train.epochs[order], train.values[order])
    return Curve(val.epochs, val.steps, there - val.values)


def _learning_rates(run: RunRecord) -> list[Curve]:
    """Of each parameter group, but of several that always agree only the first."""
    curves: list[Curve] = []
    for tag in run.tags("lr/"):
        curve = run.curve(tag)
        if not any(np.array_equal(curve.values, other.values) for other in curves):
            curves.append(curve)
    return curves[:6]


def line(axes: Axes, curve: Curve, colour: str, dashed: bool = False, marked: bool = True) -> None:
    """Draw the curve, thinned; where it has few measurements each is marked."""
    if not len(curve):
        return
    x, y = thinned(curve)
    marker = "o" if marked and len(x) <= FEW else None
    style = (0, (4, 2)) if dashed else "-"
    axes.plot(x, y, color=color(colour), linestyle=style, marker=marker)


def _limit(axes: Axes, curves: Sequence[Curve], captions: list[str]) -> None:
    """End the axis where a diverging loss would hide what came before."""
    values = np.concatenate([curve.values for curve in curves])
    values = values[np.isfinite(values)]
    starts = [curve.values[0] for curve in curves if len(curve) and np.isfinite(curve.values[0])]
    top = CUT * float(np.median(starts)) if starts else np.inf
    if len(values) and values.max() > top > 0:
        axes.set_ylim(min(0.0, values.min()), top)
        captions.append(f"Cut off at {number(top)}; the highest is {number(values.max())}.")
    elif len(values) and values.min() >= 0:
        axes.set_ylim(bottom=0)


def drawable(curve: Curve, scale: str) -> bool:
    """Whether anything of the curve can be seen on a `linear` or a `log` axis."""
    values = curve.values[np.isfinite(curve.values)]
    return bool(len(values)) and (scale == "linear" or bool((values > 0).any()))


def _keys(runs: Sequence[RunRecord], train: Sequence[tuple[Curve, ...]], val: Sequence[Curve]) -> list[Key]:
    trained = any(len(curve) for curves in train for curve in curves)
    validated = any(len(curve) for curve in val)
    if len(runs) == 1:
        return [Key("c1", "training")] * trained + [Key("c2", "validation")] * validated
    shapes = [Key("muted", "validation")] * validated + [Key("muted", "training", "dashed")] * trained
    return [*run_keys(runs), *shapes]


def averages_chart(runs: Sequence[RunRecord], quantity: str) -> Chart:
    """Validation `loss` or `accuracy` of the raw weights against that of the averaged ones; `LeftOut` where
    no averaged weights were evaluated."""
    pairs = [(run.curve(f"{quantity}/val"), run.curve(f"val_average/{quantity}")) for run in runs]
    if not any(len(averaged) for _, averaged in pairs):
        raise LeftOut("the weights were not averaged")
    title = f"Validation {quantity}, raw against averaged weights"
    if len(runs) == 1:
        keys = [Key("c2", "raw"), Key("c3", "averaged")]
    else:
        keys = [*run_keys(runs), Key("muted", "averaged"), Key("muted", "raw", "dashed")]
    numbers = percentages if quantity == "accuracy" else plain_numbers
    made = _pairs_chart(f"averages-{quantity}", title, runs, pairs, numbers, ("c2", "c3"))
    return replace(made, keys=keys)


def single_chart(
    runs: Sequence[RunRecord],
    tags: Sequence[str],
    title: str,
    write: Callable[[float], str] = number,
    log: bool = False,
    caption: str = "",
    curves: Sequence[Curve] | None = None,
) -> Chart:
    """The first of `tags` that was recorded over the epochs, or a curve of each run that was made of several,
    in buckets where there are many measurements; `LeftOut` where it was not recorded."""
    curves = [run.curve(*tags) for run in runs] if curves is None else curves
    if not any(drawable(curve, "log" if log else "linear") for curve in curves):
        raise LeftOut("it was not recorded")

    def paint(axes: Axes) -> None:
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
    keys, label = run_keys(runs) if len(runs) > 1 else [], f"{title} over the epochs"
    return chart(tags[0], title, paint, keys, caption, label, height=200)


def weight_norm_chart(runs: Sequence[RunRecord]) -> Chart:
    """Norm of all weights together over the epochs; `LeftOut` where none was measured."""
    curves = []
    for run in runs:
        norms = [run.curve(tag) for tag in run.tags("weight_norm/")]
        norms = [curve for curve in norms if len(curve) == len(norms[0])]
        squares = sum((curve.values**2 for curve in norms), np.zeros(len(norms[0]) if norms else 0))
        curves.append(Curve(norms[0].epochs, norms[0].steps, np.sqrt(squares)) if norms else run.curve())
    return single_chart(runs, ["weight-norm"], "Norm of all weights", curves=curves)


def _ends(curve: Curve) -> str:
    """Its first and its last value in words."""
    known = curve.values[np.isfinite(curve.values)]
    return f"At the start {number(float(known[0]))}, at the end {number(curve.last)}." if len(known) else ""
