"""A progress bar that counts epochs from 1 and is redrawn by the clock."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar


class ProgressBar(RichProgressBar):
    """Lightning's RichProgressBar, with epochs counted from 1, redrawn every so many seconds, not batches.

    Args:
        interval: seconds between two redraws, each of which takes some milliseconds.
    """

    def __init__(self, interval: float = 1.0) -> None:
        super().__init__()
        self.interval = interval
        self.drawn = 0.0

    def _should_update(self, current: int, total: int | float) -> bool:
        if current != total and time.monotonic() - self.drawn < self.interval:
            return False
        self.drawn = time.monotonic()
        return True

    def _get_train_description(self, current_epoch: int) -> str:
        epochs = self.trainer.max_epochs or -1
        return f"Epoch {current_epoch + 1}" + (f"/{epochs}" if epochs > 0 else "")

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """What the module logged for the bar, without the logger's version number."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics
