"""Training against validation accuracy."""

from __future__ import annotations

from docs.tour.runs import Runs
from docs.tour.stop import BLUE, GREEN, RED, Stop, drawing
from vitals.report.record import RunRecord

HELD_BACK = ("data.crop_padding=4", "data.flip=true", "network.dropout=0.2", "optimizer.weight_decay=5e-3")
NOT = ("data.crop_padding=0", "data.flip=false", "network.dropout=0.0", "optimizer.weight_decay=0")


def overfitting(runs: Runs) -> Stop:
    """Overfitting and its gap"""
    figure, axes = drawing(2, sharey=True)
    figures = {}
    for plot, name, words, colour in (
        (axes[0], "strong overfitting", NOT, RED),
        (axes[1], "little overfitting", HELD_BACK, GREEN),
    ):
        fixed = (
            "network.widths=[16,32,64]",
            "data.limit=3000",
            "data.batch_size=64",
            "trainer.max_epochs=16",
        )
        watched = ("callbacks.learning_curves.subsets_per_run=16", "callbacks.histograms.every_n_steps=null")
        record = RunRecord.read(runs.train(*fixed, *words, *watched))
        training, validation = record.curve("accuracy/train_eval"), record.curve("accuracy/val")
        plot.plot(training.epochs, 100 * training.values, color=BLUE, label="training")
        plot.plot(validation.epochs, 100 * validation.values, color=colour, label="validation")
        gap = 100 * (training.last - validation.last)
        plot.set(xlabel="epochs", title=f"{name}: gap {gap:.0f} points", ylim=(0, 103))
        plot.locator_params(axis="x", integer=True)
        plot.legend(loc="lower right")
        figures[f"{name}: training [%]"] = 100 * training.last
        figures[f"{name}: validation [%]"] = 100 * validation.last
    axes[0].set(ylabel="accuracy [%]")
    return Stop(figure, figures)
