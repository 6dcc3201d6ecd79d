"""End a job of a search early when nothing is to be expected of it."""

import math
import statistics

import lightning as L

from vitals.length import total_epochs
from vitals.metric import Metric
from vitals.runs.run_folder import RunFolder, read_curve


class StopHopeless(L.Callback):
    """Stops the run in `folder` when its loss is no longer finite, or it lags behind the other jobs of its
    sweep.

    It lags when its best score by `metric` so far is worse than the median of what the others, in the folders
    beside its own, had reached at the same epoch (Golovin et al. 2017, *Google Vizier*, 3.2.2), once `enough`
    of them have come so far, and after `from_share` of the run's epochs. The reason goes to `stopped_early`
    in `status.json`; the run then ends as any other.
    """

    def __init__(self, folder: RunFolder, metric: Metric, enough: int = 5, from_share: float = 0.2) -> None:
        self.folder, self.metric, self.enough, self.from_share = folder, metric, enough, from_share
        self.best: float | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.best = self.metric.best_score(
            read_curve(self.folder.path, self.metric), within=trainer.current_epoch
        )
        if trainer.is_global_zero and not trainer.should_stop:
            self.folder.write_status("running", stopped_early=None)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        epoch, of = trainer.current_epoch + 1, total_epochs(trainer)
        self.best = min(self.best, metrics.get(self.metric.name), key=self.metric.rank)
        judged = trainer.is_global_zero and epoch < of
        if reason := trainer.strategy.broadcast(self._reason(metrics, epoch, of) if judged else ""):
            trainer.should_stop = True
            if trainer.is_global_zero:
                self.folder.write_status("running", stopped_early=reason)

    def _reason(self, metrics: dict[str, float], epoch: int, of: float) -> str:
        for name, value in metrics.items():
            if "loss" in name and not math.isfinite(value):
                return f"diverged: {name} is {value} in epoch {epoch}"
        if epoch < self.from_share * of:
            return ""
        others = []
        for folder in self.folder.path.parent.iterdir():
            if folder.is_dir() and folder.name != self.folder.path.name:
                rows = read_curve(folder, self.metric)
                if rows and rows[-1]["epoch"] >= epoch:
                    others.append(self.metric.best_score(rows, within=epoch))
        if len(others) >= self.enough:
            median = statistics.median(map(self.metric.rank, others))
            if self.metric.rank(self.best) > median:
                best, others_best = self.metric.text(self.best), self.metric.text(abs(median))
                return f"hopeless: {best} after {epoch} epochs, the median of the others {others_best}"
        return ""
