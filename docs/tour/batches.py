"""What the size of the batch does to the loss."""

from __future__ import annotations

import numpy as np

from docs.tour.runs import Runs
from docs.tour.stop import BLUE, ORANGE, Stop, drawing
from vitals.report.record import RunRecord


def two_batches(runs: Runs) -> Stop:
    """A small and a large batch"""
    figure, axes = drawing()
    figures = {}
    network = ("network=mlp", "network.depth=2", "network.width=64")
    rates = ("optimizer=sgd", "optimizer.lr=0.01", "schedule=constant", "callbacks=light")
    for size, colour in ((8, ORANGE), (256, BLUE)):
        length = (
            f"data.batch_size={size}",
            "trainer.limit_test_batches=1",
            f"trainer.limit_train_batches={20_480 // size}",
            "trainer.max_epochs=1",
        )
        record = RunRecord.read(runs.train(*network, *rates, *length))
        loss = record.curve("loss/train_step")
        axes.plot(loss.steps * size, loss.values, color=colour, lw=0.8, label=f"batch of {size}")
        figures[f"noise of the loss, batch {size}"] = float(np.median(record.curve("loss_noise").values))
    axes.set(xlabel="images seen", ylabel="loss of one batch", ylim=(0, 4))
    axes.legend()
    return Stop(figure, figures)
