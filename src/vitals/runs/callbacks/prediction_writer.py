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


class PredictionWriter(L.Callback):
    """Writes `predictions.npz` (see `vitals.report.predictions`) after a test, into the `default_root_dir`,
    with the pixels of the `worst` so many images, those of the highest loss.

    It takes the logits (N×C) that `test_step` returns, the labels of the batches, and class names and pixels
    from the data module's `test` set; a module that gives none of these is left in peace. Of several
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
        if isinstance(outputs, Tensor) and outputs.ndim == 2:
            self.logits.append(outputs.detach().float().cpu())
            self.labels.append(batch[1].cpu())

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not self.logits:
            return
        logits, labels = _gathered(trainer, torch.cat(self.logits), torch.cat(self.labels))
        self.logits, self.labels = [], []
        images = getattr(getattr(trainer, "datamodule", None), "test", None)
        if trainer.is_global_zero and images is not None:
            predictions = _predictions(logits, labels, images, self.worst)
            predictions.save(Path(trainer.default_root_dir) / FILE)


def _predictions(logits: Tensor, labels: Tensor, images: Any, count: int) -> Predictions:
    losses = cross_entropy(logits, labels, reduction="none").nan_to_num(nan=torch.inf)
    worst = losses.argsort(descending=True, stable=True)[:count]
    return Predictions(
        probabilities=logits.softmax(1).numpy().astype(np.float16),
        labels=labels.long().numpy(),
        classes=list(images.classes),
        worst=worst.numpy(),
        worst_images=images.images[worst].numpy(),
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
