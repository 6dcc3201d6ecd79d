"""What the first layer looks for."""

from __future__ import annotations

import base64
import io

from PIL import Image

from docs.tour.runs import Runs
from docs.tour.stop import Stop, drawing
from vitals.report.record import RunRecord

CASES = (
    (0.001, 0, "rate too low"),
    (0.04, 0, "no regularization"),
    (0.04, 1e-2, "regularized"),
)
"""Rate, weight decay, and what is to be seen."""


def first_layer(runs: Runs) -> Stop:
    """Noisy and clean filters of a first layer"""
    figure, axes = drawing(3, height=3.1)
    figures = {}
    network = ("network=three_layer", "network.filters=16", "network.hidden=64", "schedule=constant")
    length = ("trainer.limit_train_batches=600", "data.batch_size=64", "trainer.max_epochs=1")
    watched = ("callbacks.histograms.every_n_steps=1000", "callbacks.learning_curves.subset_samples=0")
    for plot, (rate, decay, name) in zip(axes, CASES, strict=True):
        words = ("optimizer=momentum", f"optimizer.lr={rate}", f"optimizer.weight_decay={decay}")
        record = RunRecord.read(runs.train(*network, *length, *watched, *words))
        picture = record.history.last("filters/network.conv.0")["png"]
        plot.imshow(Image.open(io.BytesIO(base64.b64decode(picture))), interpolation="nearest")
        smoothness = record.curve("first_layer/smoothness").last
        plot.set(title=f"{name}\nsmoothness {smoothness:.2f}", xlabel=f"rate {rate:g}, decay {decay:g}")
        plot.set(xticks=[], yticks=[])
        figures[f"smoothness, {name}"] = smoothness
        figures[f"validation accuracy, {name} [%]"] = 100 * record.curve("accuracy/val").last
    return Stop(figure, figures)
