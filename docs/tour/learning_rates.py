"""What the learning rate does to the loss."""

from __future__ import annotations

from docs.tour.runs import Runs
from docs.tour.stop import BLUE, GREEN, ORANGE, RED, Stop, drawing
from vitals.report.record import RunRecord

RATES = {"very high": (2.0, RED), "low": (0.0002, BLUE), "high": (0.3, ORANGE), "good": (0.02, GREEN)}


def learning_rates(runs: Runs) -> Stop:
    """Four learning rates on one chart"""
    figure, axes = drawing()
    figures = {}
    for name, (rate, colour) in RATES.items():
        words = ("network=three_layer", "optimizer=sgd", f"optimizer.lr={rate}", "schedule=constant")
        record = RunRecord.read(runs.train(*words, "trainer.max_epochs=1"))
        loss = record.curve("loss/train_step")
        axes.plot(loss.epochs, loss.values, color=colour, label=f"{name}: {rate:g}")
        figures[f"loss at the end, {name} rate {rate:g}"] = float(loss.values[-20:].mean())
    axes.set(xlabel="epochs", ylabel="loss", ylim=(0, 4))
    axes.legend()
    return Stop(figure, figures)
