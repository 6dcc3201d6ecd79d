"""The last and the best weights of a run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from vitals.files import replacing
from vitals.monitors.monitor import Logged, epoch_of, epochs_done
from vitals.probes.random_states import random_states, set_random_states
from vitals.runs.metric import Metric, bare_name


class Checkpoints(Checkpoint):
    """Saves `last.ckpt` every epoch and keeps a copy of the best, with its score in the name.

    The best is called `best_epoch007_accuracy0.7612.ckpt`, epochs counted from 1. `best.ckpt` links to it,
    or is a copy of it where the file system has no links. The files hold tensors and plain types only, so
    that `torch.load(path, weights_only=True)` reads them. The random states are saved too, so that a resumed
    run draws the dropout masks that it would have drawn. (Lightning's ModelCheckpoint leaves `last.ckpt`
    behind at the last epoch that was better than the ones before it, from which no run can be resumed.)

    Args:
        monitor: the metric that says which epoch is best.
        mode: whether its largest or its smallest value is.
        tie_breaker: a metric; of equal epochs the one where it is lower is best. None keeps the first.
        keep_every: epochs after which one more checkpoint is kept for good, `epoch010_accuracy0.7612.ckpt`,
            for an ensemble, say; None keeps none.
    """

    def __init__(
        self,
        monitor: str,
        mode: Literal["max", "min"] = "max",
        tie_breaker: str | None = None,
        keep_every: int | None = None,
    ) -> None:
        if keep_every is not None and keep_every < 1:
            raise ValueError(f"keep_every={keep_every} is not allowed: it must be 1 or more, or null")
        self.metric, self.keep_every = Metric(monitor, mode, tie_breaker), keep_every
        self.folder = Path()
        self.best: dict[str, float] | None = None
        """The metrics of the best epoch so far that say so, and its number."""
        self.best_name = ""
        self.random_states: dict[str, Any] | None = None
        self.logged = Logged()
        self.validated: float | None = None
        """Epochs trained at a validation after which no training has followed yet."""

    @property
    def best_model_path(self) -> str:
        """The best checkpoint so far; empty where there is none."""
        return str(self.folder / self.best_name) if self.best_name else ""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.folder = Path(trainer.default_root_dir) / "checkpoints"

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.random_states is not None:  # only now: setting up may have drawn random numbers
            set_random_states(self.random_states)
            self.random_states = None
            # A DataLoader draws its order when its iterator is made. Newer Lightnings make none as the first
            # epoch of a resumed run begins, and made theirs before the states were back.
            if getattr(trainer.fit_loop, "is_resuming", False):
                iter(trainer.fit_loop._data_fetcher)  # type: ignore[arg-type]

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.validated = epoch_of(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.validated is not None and batch_idx:  # amid an epoch: the weights are still those validated
            previous = self.best_name
            self._judge(trainer, self.validated)
            if self.best_name != previous:
                new = self.folder / "new.ckpt"
                trainer.save_checkpoint(new)
                if trainer.is_global_zero:
                    self._keep_best(new, previous)
                    new.unlink()
        if self.validated is not None or batch_idx == 0:
            self.validated = None
            self.logged.mark(trainer)

    def _judge(self, trainer: L.Trainer, epoch: float) -> dict[str, float]:
        """The metrics that were logged since last time, and whether they are the best, as `best_name`."""
        logged, now = self.logged.since(trainer), {"epoch": epoch}
        for name in filter(None, (self.metric.name, self.metric.tie_breaker)):
            if (value := logged.get(name)) is not None:
                now[name] = value.item()
        if self.metric.best([*([self.best] if self.best else []), now]) is now:
            self.best, self.best_name = now, f"best_{self._name(now)}"
        return now

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Lightning calls checkpoint callbacks last: the epoch is complete in what is saved.
        previous = self.best_name
        now = self._judge(trainer, epochs_done(trainer))
        self.validated = None
        last = self.folder / "last.ckpt"
        trainer.save_checkpoint(last)
        if self.best_name != previous and trainer.is_global_zero:
            self._keep_best(last, previous)
        kept = self.keep_every is not None and now["epoch"] % self.keep_every == 0
        if kept and self.metric.name in now and trainer.is_global_zero:
            shutil.copyfile(last, self.folder / self._name(now))
        trainer.strategy.barrier()  # another process may want to read the best next

    def _name(self, row: dict[str, float]) -> str:
        epoch = row["epoch"]
        number = f"{epoch:03.0f}" if epoch == int(epoch) else f"{epoch:06.2f}"
        return f"epoch{number}_{bare_name(self.metric.name)}{row[self.metric.name]:.4f}.ckpt"

    def _keep_best(self, last: Path, previous: str) -> None:
        """Copy, link, then delete, so that there is a best checkpoint at every moment."""
        shutil.copyfile(last, self.folder / self.best_name)
        with replacing(self.folder / "best.ckpt") as link:
            _link(link, self.folder / self.best_name)
        if previous:
            (self.folder / previous).unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        """Metrics and name of the best, without a path, as a folder can be moved; random states."""
        return {"best": self.best, "best_name": self.best_name, "random_states": random_states()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.best_name = state_dict["best"], state_dict["best_name"]
        self.random_states = state_dict["random_states"]


def _link(path: Path, target: Path) -> None:
    """Make `path` lead to `target` beside it: a symbolic link, or what the file system has instead of it."""
    for attempt in (
        lambda: path.symlink_to(target.name),
        lambda: path.hardlink_to(target),
        lambda: shutil.copyfile(target, path),
    ):
        try:
            attempt()
            return
        except (OSError, NotImplementedError) as error:  # exFAT, SMB, gcsfuse; Windows without the right
            reason = error
    raise reason
