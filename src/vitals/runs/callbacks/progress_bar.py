"""A progress bar that counts epochs from 1 and is redrawn by the clock."""

import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar

LOOKS = 20
"""A second, whether something is to be drawn."""


class ProgressBar(RichProgressBar):
    """Lightning's RichProgressBar, with epochs counted from 1, redrawn every `interval` seconds, not batches:
    it takes some milliseconds. Lightning's own brings what it shows to the host after every batch, and since
    2.6 it draws up to 100 times a second."""

    def __init__(self, interval: float = 1.0) -> None:
        super().__init__()
        self.interval = interval
        self.drawn = 0.0

    @property
    def refresh_rate(self) -> float:
        """Batches between two updates, 1; since Lightning 2.6 looks per second of a thread that draws, whose
        last one every end of a training or a test waits for."""
        return min(super().refresh_rate, LOOKS)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx + 1 == self.total_train_batches or self._is_due():
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def _update(self, progress_bar_id: Any, current: int, visible: bool = True, hard: bool = False) -> None:
        if self.progress is None or progress_bar_id is None or not self.is_enabled:
            return
        if self._is_due() or current == self.progress.tasks[progress_bar_id].total:
            self.drawn = time.monotonic()
            self.progress.update(progress_bar_id, completed=current, visible=visible)
            self.refresh(**({"hard": True} if hard else {}))  # which older versions do not know

    def _is_due(self) -> bool:
        return time.monotonic() - self.drawn >= self.interval

    def _get_train_description(self, current_epoch: int) -> str:
        epochs = self.trainer.max_epochs or -1
        return f"Epoch {current_epoch + 1}" + (f"/{epochs}" if epochs > 0 else "")

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """What the module logged for the bar, without the logger's version number."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics
