"""A progress bar that counts epochs from 1."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar


class ProgressBar(RichProgressBar):
    """Lightning's RichProgressBar, with epochs counted from 1 and the accuracies beside it.

    Args:
        refresh_rate: batches between two redraws; each costs about a millisecond.
    """

    def __init__(self, refresh_rate: int = 10) -> None:
        super().__init__(refresh_rate)

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """What the module logged for the bar, without the logger's version number."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics
