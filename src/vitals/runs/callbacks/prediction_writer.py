"""The test probabilities of a run, kept in its folder."""

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from vitals.report.predictions import FILE, Predictions
from vitals.runs.position import of_all

WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class PredictionWriter(L.Callback):
    """Writes `predictions.npz` (see `vitals.report.predictions`) after a test, into the `default_root_dir`,
    with the pixels of the `worst` so many images, those of the highest loss.

    It takes the logits (N×C) that `test_step` returns, the class numbers (N) that are the second part of a
    batch, class names from the data module or its `test` set, and pixels from the latter's `images`, uint8
    N×channels×H×W, if it has them; of a module that gives anything else nothing is written. Of several
    processes each sends its share to the first, which writes.
    """

    def __init__(self, worst: int = 24) -> None:
        self.worst = worst
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.logits, self.labels = [], []

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        labels = class_numbers(batch)
        rows = isinstance(outputs, Tensor) and outputs.ndim == 2
        if rows and labels is not None and len(outputs) == len(labels):
            self.logits.append(outputs.detach().float().cpu())
            self.labels.append(labels.cpu())

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.logits:
            return
        logits, labels = _gathered(trainer, torch.cat(self.logits), torch.cat(self.labels))
        self.logits, self.labels = [], []
        data: Any = getattr(trainer, "datamodule", None)
        samples: Any = getattr(data, "test", None)
        classes: Any = getattr(samples, "classes", None) or getattr(data, "classes", ())
        classes = list(classes)
        known = len(classes) == logits.shape[1] and bool(((labels >= 0) & (labels < len(classes))).all())
        if trainer.is_global_zero and known:
            images = getattr(samples, "images", None)
            predictions = _predictions(logits, labels, classes, images, self.worst)
            predictions.save(Path(trainer.default_root_dir) / FILE)


def class_numbers(batch: Any) -> Tensor | None:
    """The second part of a batch of two, where it is the class number of each sample."""
    labels = batch[1] if isinstance(batch, tuple | list) and len(batch) == 2 else None
    if isinstance(labels, Tensor) and labels.ndim == 1 and labels.dtype in WHOLE:
        return labels
    return None


def _predictions(logits: Tensor, labels: Tensor, classes: list[str], images: Any, count: int) -> Predictions:
    losses = cross_entropy(logits, labels.long(), reduction="none").nan_to_num(nan=torch.inf)
    worst = losses.argsort(descending=True, stable=True)[:count]
    pixels = isinstance(images, Tensor) and images.ndim == 4 and images.dtype == torch.uint8
    if not pixels or len(images) < len(logits):
        worst, images = worst[:0], torch.empty(0, 1, 1, 1, dtype=torch.uint8)
    return Predictions(
        probabilities=logits.softmax(1).numpy().astype(np.float16),
        labels=labels.long().numpy(),
        classes=[str(name) for name in classes],
        worst=worst.numpy(),
        worst_images=images[worst].numpy(),
    )


def _gathered(trainer: L.Trainer, *parts: Tensor) -> tuple[Tensor, ...]:
    """The rows of all processes in the order of the test set, of which process r has rows r, r + W, …"""
    joined = []
    for pieces in zip(*of_all(trainer, parts), strict=True):
        whole = pieces[0].new_empty((sum(map(len, pieces)), *pieces[0].shape[1:]))
        for rank, piece in enumerate(pieces):
            whole[rank :: trainer.world_size] = piece
        joined.append(whole)
    return tuple(joined)
