"""What the learning rate does to the loss, and to the size of the updates."""

from __future__ import annotations

import numpy as np

from docs.tour.runs import Runs
from docs.tour.stop import BLUE, GREEN, GREY, ORANGE, RED, Stop, drawing, smoothed
from vitals.report.record import RunRecord

RATES = {"very high": (0.4, RED), "low": (0.0005, BLUE), "high": (0.2, ORANGE), "good": (0.05, GREEN)}
THE_COURSES = 1e-3
"""Its rule of thumb for the ratio of update to weight."""


def learning_rates(runs: Runs) -> Stop:
    """Four learning rates on one chart"""
    figure, axes = drawing()
    figures = {}
    for name, (rate, colour) in RATES.items():
        loss = _trained(runs, rate).curve("loss/train_step")
        axes.plot(loss.epochs, smoothed(loss.values, 25), color=colour, label=f"{name}: {rate:g}")
        figures[f"loss in the last epoch, {name}"] = float(
            loss.values[loss.epochs > loss.epochs[-1] - 1].mean()
        )
    axes.set(xlabel="epochs", ylabel="loss of training", ylim=(0, 4))
    axes.legend(title="learning rate")
    return Stop(figure, figures)


def update_ratios(runs: Runs) -> Stop:
    """Update ratios of a good and of a bad rate"""
    figure, axes = drawing()
    figures = {}
    for name in ("high", "good", "low"):
        rate, colour = RATES[name]
        ratio = _trained(runs, rate).curve("update_ratio_summary/median")
        axes.semilogy(ratio.epochs, ratio.values, color=colour, label=f"{name}: {rate:g}")
        figures[f"median ratio, {name} rate"] = float(np.median(ratio.values))
    axes.axhspan(THE_COURSES / 3, THE_COURSES * 3, color=GREY, alpha=0.2, lw=0, label="about 1e-3")
    axes.set(xlabel="epochs", ylabel="‖update‖ / ‖weights‖")
    axes.legend(title="learning rate")
    return Stop(figure, figures)


def _trained(runs: Runs, rate: float) -> RunRecord:
    network = ("network=three_layer", "network.filters=16", "network.hidden=64")
    length = ("data.limit=5000", "data.batch_size=64", "trainer.max_epochs=8")
    watched = ("callbacks=light", "callbacks.update_ratio.times_per_run=40")
    rates = ("optimizer=sgd", f"optimizer.lr={rate}", "schedule=constant")
    return RunRecord.read(runs.train(*network, *rates, *length, *watched))
