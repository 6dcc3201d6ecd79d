"""Learning rates that fall."""

from __future__ import annotations

from docs.tour.runs import Runs
from docs.tour.stop import BLUE, GREEN, GREY, ORANGE, Stop, drawing
from vitals.report.record import RunRecord

SCHEDULES = {
    "held": (GREY, ("schedule=constant",)),
    "1/t": (ORANGE, ("schedule=inverse_time", "schedule.k=1")),
    "exponential": (GREEN, ("schedule=exponential", "schedule.k=0.35")),
    "step": (BLUE, ("schedule=step", "schedule.every=3", "schedule.factor=0.3")),
}


def decays(runs: Runs) -> Stop:
    """Step, exponential and 1/t decay"""
    figure, (rates, losses) = drawing(2)
    figures = {}
    fixed = (
        "network.widths=[16,32,64]",
        "trainer.limit_train_batches=60",
        "trainer.max_epochs=12",
        "data.batch_size=64",
    )
    for name, (colour, words) in SCHEDULES.items():
        record = RunRecord.read(runs.train(*fixed, *words, "callbacks=light", "trainer.limit_test_batches=1"))
        rate, loss = record.curve("lr/decay"), record.curve("loss/val")
        drawn = "steps-post" if name == "step" else "default"  # between the moments at which it was measured
        rates.semilogy(rate.epochs, rate.values, color=colour, drawstyle=drawn)
        losses.plot(loss.epochs, loss.values, color=colour, marker=".", label=name)
        figures[f"validation loss at the end, {name}"] = loss.last
    rates.set(xlabel="epochs", title="learning rate")
    losses.set(xlabel="epochs", title="validation loss")
    losses.legend()
    return Stop(figure, figures)
