"""What the learning rate does to the loss, and to the size of the updates."""

from __future__ import annotations

import numpy as np

from docs.tour.runs import Runs
from docs.tour.stop import BLUE, GREEN, GREY, ORANGE, RED, Stop, drawing, smoothed
from vitals.report.record import RunRecord
from vitals.sweeps.jobs.folder import SweepFolder

RATES = {"very high": ("1.0", RED), "high": ("0.3", ORANGE), "good": ("0.05", GREEN), "low": ("0.001", BLUE)}
THE_COURSES = 1e-3
"""Its rule of thumb for the ratio of update to weight."""


def learning_rates(runs: Runs) -> Stop:
    """Four learning rates on one chart"""
    figure, axes = drawing()
    figures = {}
    for name, record in _trained(runs).items():
        rate, colour = RATES[name]
        loss = record.curve("loss/train_step")
        axes.plot(loss.epochs, smoothed(loss.values, 25), color=colour, label=f"{name}: {rate}")
        figures[f"loss in the last epoch, {name} rate"] = float(loss.values[loss.epochs > 5].mean())
    axes.set(xlabel="epochs", ylabel="loss of training")
    axes.legend(title="learning rate")
    return Stop(figure, figures)


def update_ratios(runs: Runs) -> Stop:
    """Update ratios of a good and of a bad rate"""
    figure, axes = drawing()
    figures = {}
    axes.axhspan(THE_COURSES / 3, THE_COURSES * 3, color=GREY, alpha=0.25, lw=0, label="about 1e-3")
    for name, record in _trained(runs).items():
        rate, colour = RATES[name]
        ratio = record.curve("update_ratio_summary/median")
        axes.semilogy(ratio.epochs, ratio.values, color=colour, label=f"{name}: {rate}")
        figures[f"median ratio, {name} rate"] = float(np.median(ratio.values))
    axes.set(xlabel="epochs", ylabel="‖update‖ / ‖weights‖, median of layers")
    axes.legend(title="learning rate", loc="center left", bbox_to_anchor=(1, 0.5))
    return Stop(figure, figures)


def _trained(runs: Runs) -> dict[str, RunRecord]:
    """A small classifier at every rate: 600 plain steps, 100 an epoch."""
    network = ("network=mlp", "network.depth=1", "network.width=64", "network.activation=tanh")
    length = ("data.batch_size=64", "trainer.limit_train_batches=100", "trainer.max_epochs=6")
    watched = ("callbacks=light", "callbacks.update_ratio.times_per_run=40", "trainer.limit_test_batches=1")
    rates = f"optimizer.lr={','.join(rate for rate, _ in RATES.values())}"
    folder = runs.sweep(*network, *length, *watched, "optimizer=sgd", "schedule=constant", rates)
    return dict(zip(RATES, map(RunRecord.read, SweepFolder(folder).jobs()), strict=True))
