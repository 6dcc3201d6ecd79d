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
    (0.02, 0, "no regularization"),
    (0.02, 0.02, "regularized"),
)
"""Rate, weight decay, and what is to be seen."""


def first_layer(runs: Runs) -> Stop:
    """Noisy and clean filters of a first layer"""
    figure, axes = drawing(3, height=3.5)
    figures = {}
    network = ("network=three_layer", "network.filters=16", "network.hidden=64", "schedule=constant")
    length = ("trainer.limit_train_batches=300", "trainer.max_epochs=2")
    watched = (
        "callbacks.histograms.every_n_steps=1000",
        "callbacks.learning_curves.subset_samples=0",
        "trainer.limit_test_batches=1",
    )
    for plot, (rate, decay, name) in zip(axes, CASES, strict=True):
        words = ("optimizer=momentum", f"optimizer.lr={rate}", f"optimizer.weight_decay={decay}")
        record = RunRecord.read(runs.train(*network, *length, *watched, *words))
        picture = record.history.last("filters/network.conv.0")["png"]
        plot.imshow(Image.open(io.BytesIO(base64.b64decode(picture))), interpolation="nearest")
        smoothness = record.curve("first_layer/smoothness").last
        plot.set_title(f"{name}\nrate {rate:g}, weight decay {decay:g}\nsmoothness {smoothness:.2f}")
        plot.axis("off")
        figures[f"smoothness, {name}"] = smoothness
        figures[f"validation accuracy, {name} [%]"] = 100 * record.curve("accuracy/val").last
    return Stop(figure, figures)
