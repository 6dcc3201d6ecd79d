"""What the size of the batch does to the loss."""

from __future__ import annotations

import numpy as np

from docs.tour.runs import Runs
from docs.tour.stop import BLUE, ORANGE, Stop, drawing, smoothed
from vitals.report.record import RunRecord


def two_batches(runs: Runs) -> Stop:
    """A small and a large batch"""
    figure, axes = drawing(2, sharey=True)
    figures = {}
    network = ("network=mlp", "network.depth=1", "network.width=64", "network.activation=tanh")
    fixed = ("optimizer=sgd", "optimizer.lr=0.05", "schedule=constant", "callbacks=light")
    length = ("trainer.max_steps=400", "trainer.limit_test_batches=1")
    for plot, size, colour in ((axes[0], 8, ORANGE), (axes[1], 256, BLUE)):
        record = RunRecord.read(runs.train(*network, *fixed, *length, f"data.batch_size={size}"))
        loss, noise = record.curve("loss/train_step"), record.curve("loss_noise")
        plot.plot(loss.steps, loss.values, color=colour, lw=0.9, label="each batch")
        plot.plot(loss.steps, smoothed(loss.values, 40), color="black", lw=1.2, label="mean of 40")
        plot.set(xlabel="optimizer steps", title=f"batches of {size}")
        plot.legend()
        figures[f"noise of the loss, batches of {size}"] = float(np.median(noise.values))
    axes[0].set(ylabel="loss of training", ylim=(1, 3.4))
    return Stop(figure, figures)
