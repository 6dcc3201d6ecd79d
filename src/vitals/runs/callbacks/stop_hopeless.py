"""End a job of a search early when nothing is to be expected of it."""

from __future__ import annotations

import math
import statistics

import lightning as L

from vitals.runs.run_folder import SCORE, RunFolder, best_score, read_curve

LOSSES = ("loss/train", "loss/val")


class StopHopeless(L.Callback):
    """Stops a run whose loss is no longer finite, or that lags behind the other jobs of its sweep.

    It lags when its best validation accuracy so far is below the median of what the others had reached at the
    same epoch (Golovin et al. 2017, *Google Vizier*, 3.2.2). The others are the folders beside its own, so
    that it needs no word from the process that started it. The reason goes to `stopped_early` in
    `status.json`; the run then ends as any other, with its best weights evaluated.

    Args:
        folder: of the run.
        enough: other jobs that must have come to the same epoch.
        from_share: of the run's epochs before which no job is judged by the others.
    """

    def __init__(self, folder: RunFolder, enough: int = 5, from_share: float = 0.2) -> None:
        self.folder, self.enough, self.from_share = folder, enough, from_share
        self.best = -math.inf

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.best = best_score(self.folder.path, within=trainer.current_epoch) or -math.inf
        if trainer.is_global_zero:
            self.folder.write_status("running", stopped_early=None)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        epoch, of = trainer.current_epoch + 1, trainer.max_epochs or 0
        self.best = max(self.best, metrics.get(SCORE, -math.inf))
        reason = ""
        if trainer.is_global_zero and epoch < of:
            reason = self._reason(metrics, epoch, of)
        reason = trainer.strategy.broadcast(reason)
        if reason:
            trainer.should_stop = True
            if trainer.is_global_zero:
                self.folder.write_status("running", stopped_early=reason)

    def _reason(self, metrics: dict[str, float], epoch: int, of: int) -> str:
        for name in LOSSES:
            if not math.isfinite(metrics.get(name, 0.0)):
                return f"diverged: {name} is {metrics[name]} in epoch {epoch}"
        if epoch < self.from_share * of:
            return ""
        others = []
        for folder in self.folder.path.parent.iterdir():
            if folder.is_dir() and folder.name != self.folder.path.name and len(read_curve(folder)) >= epoch:
                score = best_score(folder, within=epoch)
                others.append(-math.inf if score is None else score)
        if len(others) >= self.enough and self.best < (median := statistics.median(others)):
            return f"hopeless: {self.best:.2%} after {epoch} epochs, the median of the others {median:.2%}"
        return ""
