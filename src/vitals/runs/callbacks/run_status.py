"""How far a run has come, in its `status.json`."""

import time
from typing import Any

import lightning as L

from vitals.findings import Finding, sentence
from vitals.monitors.monitor import epochs_done
from vitals.on_nonfinite import done_on_nonfinite
from vitals.runs.run_folder import RunFolder


class RunStatus(L.Callback):
    """Writes epoch, step and the seconds trained so far into the status of `folder` after every epoch, and
    what ended the run early. One whose length is a number of steps is validated after the last of them, too:
    Lightning leaves that out where it lies amid an epoch."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.log_folder = folder.path
        """Where monitors and rules write, too: see `vitals.files.log_folder`."""
        self.started = 0.0
        self.earlier_seconds = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started = time.monotonic()
        if trainer.global_step:  # resumed
            self.earlier_seconds = self.folder.read_status().get("training_seconds") or 0.0

    def on_train_batch_end(self, trainer: L.Trainer, *arguments: Any) -> None:
        if 0 < trainer.max_steps <= trainer.global_step:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self.folder.write_status(
                "running",
                epoch=epochs_done(trainer),
                step=trainer.global_step,
                **done_on_nonfinite(trainer),
                training_seconds=round(self.earlier_seconds + time.monotonic() - self.started, 1),
                stopped_by=next(filter(None, map(_fault, trainer.callbacks)), None),  # type: ignore[attr-defined]
            )

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Say whether something has ended the training before its length was over."""
        enough = epochs_done(trainer) >= (trainer.min_epochs or 0)
        enough = enough and trainer.global_step >= (trainer.min_steps or 0)
        checkpoint["ended_early"] = trainer.should_stop and enough

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        longer = self.folder.read_status().get("lengthened_at") == checkpoint["global_step"]
        trainer.should_stop = checkpoint.get("ended_early", False) and not longer

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for callback in trainer.early_stopping_callbacks:
            reason = f"{callback.monitor} did not become better in {callback.patience} validations"
            if trainer.is_global_zero:
                stopped = callback.wait_count >= callback.patience
                self.folder.write_status("running", stopped_early=reason if stopped else None)


def _fault(callback: Any) -> str | None:
    """The finding with which a diagnosis has ended the training."""
    finding = getattr(callback, "stopped_by", None)
    return sentence(finding) if isinstance(finding, Finding) else None
