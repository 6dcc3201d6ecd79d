"""How far a run has come, in its `status.json`."""

import time

import lightning as L

from vitals.runs.run_folder import RunFolder


class RunStatus(L.Callback):
    """Writes epoch, step and the seconds trained so far after every epoch.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.log_folder = folder.path
        """Where monitors and rules write, too: see `vitals.files.log_folder`."""
        self.started = 0.0
        self.earlier_seconds = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started = time.monotonic()
        if trainer.current_epoch:  # resumed
            self.earlier_seconds = self.folder.read_status().get("training_seconds", 0.0)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self.folder.write_status(
                "running",
                epoch=trainer.current_epoch + 1,
                step=trainer.global_step,
                training_seconds=round(self.earlier_seconds + time.monotonic() - self.started, 1),
            )
