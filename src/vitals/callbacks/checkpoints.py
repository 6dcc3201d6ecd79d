"""The last and the best weights of a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor


class Checkpoints(ModelCheckpoint):
    """`last.ckpt` every epoch; the best as `best_epoch007_accuracy0.7612.ckpt`, linked from `best.ckpt`.

    They hold tensors and plain types only, so that `torch.load(path, weights_only=True)` reads them. The
    epoch in the name counts from 1.

    Args:
        monitor: the metric whose largest value is best.
        dirpath: folder of the checkpoints; None for `checkpoints` in the run's folder.
    """

    def __init__(self, monitor: str = "accuracy/val", dirpath: str | Path | None = None) -> None:
        name = monitor.partition("/")[0]
        super().__init__(
            dirpath,
            filename=f"best_epoch{{epoch:03d}}_{name}{{{monitor}:.4f}}",
            monitor=monitor,
            mode="max",
            save_last=True,
            save_on_train_epoch_end=True,  # so that the epoch is complete in what is saved
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )

    def _monitor_candidates(self, trainer: L.Trainer) -> dict[str, Tensor]:
        candidates = super()._monitor_candidates(trainer)
        return candidates | {"epoch": candidates["epoch"] + 1}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        best = Path(self.best_model_path)
        if trainer.is_global_zero and self.best_model_path and best.exists():
            temporary = best.with_name("best.tmp")
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(best.name)
            os.replace(temporary, best.with_name("best.ckpt"))
