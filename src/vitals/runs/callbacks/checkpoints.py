"""The last and the best weights of a run."""

import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from vitals.checks.sanity_checks import SanityChecks
from vitals.either_package import is_own
from vitals.files import copy_atomically, replacing, save_checkpoint, telling, to_disk
from vitals.length import is_last_epoch
from vitals.measures.finite import first_non_finite
from vitals.metric import Metric, averaged_name, bare_name
from vitals.monitors.monitor import Logged, epoch_of, epochs_done
from vitals.runs.position import Position
from vitals.runs.terminal import print_as_it_is

OF_EPOCH = re.compile(r"best_epoch\d{3}[\d.]*_.*\.ckpt")
"""Names of the best; a file that the user has given another name is his."""
LIBRARIES = ("vitals.", "lightning.", "pytorch_lightning.")
"""Where callbacks are from of which it is known what they log."""
LOGGING_HOOKS = ("on_validation_batch_end", "on_validation_epoch_end", "on_train_epoch_end")
"""In which a metric may be logged that no step logs."""
OF_LOADER = re.compile(r"/dataloader_idx_\d+$")
"""What Lightning adds to the names of what one of several loaders gave."""
BATCHES = 50
"""Batches after which several processes ask the first for the time."""
BEFORE_VALIDATION = 0.1
"""Share of `every_minutes` after which the state is saved just before a validation, too: a signal may cut it
off, and what was trained since is trained again."""


class Checkpoints(Checkpoint):
    """Saves `last.ckpt` every epoch and within it, and keeps a copy of the best, with its score in the name.

    The best is called `best_epoch007_accuracy0.7612.ckpt`, epochs counted from 1. `best.ckpt` links to it,
    or is a copy of it where the file system has no links. `previous.ckpt` is what `last.ckpt` was before. A
    run that is resumed goes on at any batch as if it had never stopped (see `Position`), and at every moment
    there is a whole last checkpoint, and a best one that belongs to it. The files hold tensors and plain
    types only, so that `torch.load(path, weights_only=True)` reads them. (Lightning's ModelCheckpoint leaves
    `last.ckpt` behind at the last epoch that was better than the ones before it, from which no run can be
    resumed.)

    Args:
        monitor: the metric that says which epoch is best.
        mode: whether its largest or its smallest value is.
        tie_breaker: a metric; of equal epochs the one where it is lower is best. None keeps the first.
        keep_every: epochs after which one more checkpoint is kept for good, `epoch010_accuracy0.7612.ckpt`,
            for an ensemble, say; None keeps none.
        every_minutes: after which `last.ckpt` is saved amid an epoch, too; None waits for its end.
        every_n_steps: the same in optimizer steps.
        every_n_epochs: of so many epochs, one after whose end `last.ckpt` is saved; None saves only the best
            and the last, which always are.
    """

    def __init__(
        self,
        monitor: str,
        mode: Literal["max", "min"] = "max",
        tie_breaker: str | None = None,
        keep_every: int | None = None,
        every_minutes: float | None = 5,
        every_n_steps: int | None = None,
        every_n_epochs: int | None = 1,
    ) -> None:
        counts = {"keep_every": keep_every, "every_n_steps": every_n_steps, "every_n_epochs": every_n_epochs}
        for name, value in counts.items():
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is not allowed: it must be 1 or more, or null")
        if every_minutes is not None and not every_minutes > 0:
            raise ValueError(f"every_minutes={every_minutes} is not allowed: it must be above 0, or null")
        self.metric, self.keep_every = Metric(monitor, mode, tie_breaker), keep_every
        self.every_seconds = 60 * every_minutes if every_minutes else None
        self.every_n_steps, self.every_n_epochs = every_n_steps, every_n_epochs
        self.folder = Path()
        self.best: dict[str, float] | None = None
        """The metrics of the best epoch so far that say so, and its number."""
        self.best_name = self.saved_best = ""
        self.logged = Logged()
        self.validated: float | None = None
        """Epochs trained at a validation after which no training has followed yet."""
        self.position = Position()
        self.place: dict[str, Any] | None = None
        """What `position` says while a checkpoint is made."""
        self.saved_at, self.saved_step = time.monotonic(), 0
        self.due = False
        """Whether the state is to be saved before the next batch."""
        self.passed_over = False
        """Whether the epoch before has not been saved."""
        self.told = False
        """Whether it was said, or looked at after a validation, that this does not log the metric."""
        self.ended_amid = False
        """Whether `previous.ckpt` is where the training ended, before its last epoch was closed."""

    @property
    def _has_new_best(self) -> bool:
        return self.best_name != self.saved_best

    @property
    def best_model_path(self) -> str:
        """The best checkpoint so far; empty where there is none."""
        path = self.folder / self.best_name
        return str(path) if path.is_file() else ""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.folder = Path(trainer.default_root_dir) / "checkpoints"

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.position.on_fit_start()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.saved_at, self.saved_step = time.monotonic(), trainer.global_step
        self.due = self.ended_amid = self.passed_over = False
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)  # later a folder that is gone was taken away
            if self.position.loaded is not None:
                self._tidy_up()
        self.position.on_train_start(trainer, pl_module)

    def _tidy_up(self) -> None:
        """Bring the folder to what the last checkpoint says, without what was begun and broken off since."""
        (self.folder / "new.ckpt").unlink(missing_ok=True)
        self._remove_former_best()
        if self.best_model_path:
            self._link_best()
        else:
            (self.folder / "best.ckpt").unlink(missing_ok=True)

    def _remove_former_best(self, *but: str) -> None:
        """Remove the best checkpoints that no other names: all except the best of now, and those in `but`."""
        for path in self.folder.glob("best_*.ckpt"):
            if OF_EPOCH.fullmatch(path.name) and path.name not in (self.best_name, *but):
                path.unlink()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.position.on_train_epoch_start()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.validated = epoch_of(trainer)
            self.position.on_validation_end(trainer)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == trainer.current_epoch == 0:
            self._tell_early(trainer, pl_module)
        self.position.on_train_batch_start(trainer)
        if self.due:
            self.save_state(trainer)
        elif self.validated is not None and batch_idx and not _lost(trainer):  # still those validated
            self._judge(trainer, self.validated)
            if self._has_new_best and (place := self.position.at_batch(trainer, batch_idx)):
                self._save(trainer, place)
        if self.validated is not None or batch_idx == 0 or self.logged.before is None:
            self.validated = None
            self.logged.mark(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *arguments: Any) -> None:
        self.due = self.due or self._due(trainer)
        self.position.on_train_batch_end(trainer, self.due or trainer.should_stop)
        if trainer.should_stop and not trainer.is_last_batch and not _lost(trainer):
            # The run ends amid an epoch, which is closed now: one that is made longer goes on from here.
            progress = trainer.fit_loop.epoch_loop.batch_progress
            progress.increment_completed()
            if place := self.position.at_batch(trainer, progress.current.completed):
                self._save(trainer, place)
                self.ended_amid = True
            progress.current.completed -= 1
            progress.total.completed -= 1

    def _due(self, trainer: L.Trainer) -> bool:
        step = trainer.global_step
        if step == self.saved_step:
            return False
        if self.every_n_steps and step // self.every_n_steps > self.saved_step // self.every_n_steps:
            return True
        if self.every_seconds is None:
            return False
        loop, every = trainer.fit_loop.epoch_loop, trainer.val_check_batch
        coming = loop.batch_progress.current.ready + 1
        validated = coming == trainer.num_training_batches or bool(every and coming % every == 0)
        share = BEFORE_VALIDATION if validated else 1.0
        due = time.monotonic() - self.saved_at >= share * self.every_seconds
        if trainer.world_size == 1:
            return due
        return (validated or loop.total_batch_idx % BATCHES == 0) and bool(trainer.strategy.broadcast(due))

    def save_state(self, trainer: L.Trainer) -> bool:
        """Save `last.ckpt` as of the batches that were trained on; call it at the start of a batch, in all
        processes. Whether that has been done; if not, call again at the next batch."""
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.completed
        if not batches:  # the epoch before has been saved, if there was one, unless it was passed over
            self.due = self.passed_over
            return not self.passed_over
        if _lost(trainer):
            self.due = False
            return True
        self.due = True
        if self.validated is not None:
            self._judge(trainer, self.validated)
            self.validated = None
            self.logged.mark(trainer)
        place = self.position.at_batch(trainer, batches)
        if place is not None:
            self._save(trainer, place)
        return place is not None

    def _tell_early(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Say that the metric will not be logged, where the checks have seen the names that the steps log,
        and nothing of somebody's own may log another later."""
        seen = (each.logged for each in trainer.callbacks if isinstance(each, SanityChecks))  # type: ignore[attr-defined]
        logged = {OF_LOADER.sub("", each) for each in set[str]().union(*seen)}
        name = OF_LOADER.sub("", self.metric.name)
        averaged = name.startswith(averaged_name(""))
        later = any(is_own(hook, module, L.LightningModule) for hook in LOGGING_HOOKS)
        later = later or any(map(_may_log, trainer.callbacks))  # type: ignore[attr-defined]
        if logged and name not in logged and not averaged and not later and trainer.is_global_zero:
            self.told = True
            print_as_it_is(f"warning: {self.metric.missing_from(logged)}")

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
        if _lost(trainer):
            self.validated = None
            return
        now = self._judge(trainer, epochs_done(trainer))
        if self.validated is not None and self.best is None and not self.told and trainer.is_global_zero:
            self.told = True
            if self.metric.name not in now:
                print_as_it_is(f"warning: {self.metric.missing_from(trainer.callback_metrics)}")
        self.validated = None
        kept = self.keep_every is not None and now["epoch"] % self.keep_every == 0
        turn = self.every_n_epochs and (trainer.current_epoch + 1) % self.every_n_epochs == 0
        self.passed_over = not (turn or kept or self._has_new_best or is_last_epoch(trainer))
        if self.passed_over:
            return
        place = self.position.at_epoch_end(trainer)
        self._save(trainer, place | {"ended_amid": self.ended_amid})
        if kept and self.metric.name in now and trainer.is_global_zero:
            copy_atomically(self.folder / "last.ckpt", self.folder / self._name(now))
        trainer.strategy.barrier()  # another process may want to read the best next

    def _name(self, row: dict[str, float]) -> str:
        epoch = row["epoch"]
        number = f"{epoch:03.0f}" if epoch == int(epoch) else f"{epoch:06.2f}"
        name = re.sub(r"[^\w.-]+", "_", bare_name(self.metric.name))  # such as loss/g, or a unit in brackets
        apart = "_" if name[-1:].isdigit() else ""
        return f"epoch{number}_{name}{apart}{row[self.metric.name]:.4f}.ckpt"

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and not self.ended_amid:
            self._remove_former_best()

    def _save(self, trainer: L.Trainer, place: dict[str, Any]) -> None:
        """Save in such an order that whatever is pointed to is there: the best, what leads to it, the last,
        which names it; and only then remove a best that neither the last nor the one before it names."""
        new, last = self.folder / "new.ckpt", self.folder / "last.ckpt"
        self.place = place
        try:
            with _before_begun_batch(trainer, place["batches"]):
                save_checkpoint(trainer, new)
        finally:
            self.place = None
        self.saved_at, self.saved_step = time.monotonic(), trainer.global_step
        self.due = self.passed_over = False
        before, self.saved_best = self.saved_best, self.best_name
        if not trainer.is_global_zero:
            return
        if self.best_name != before:
            copy_atomically(new, self.folder / self.best_name)  # no link: damage to one spares the other
            self._link_best()
            with telling(self.folder):
                to_disk(self.folder)
        if last.exists():  # which is never written to again
            with replacing(self.folder / "previous.ckpt") as copy:
                _first_of(partial(copy.hardlink_to, last), partial(shutil.copyfile, last, copy))
        new.replace(last)
        self._remove_former_best(before)

    def _link_best(self) -> None:
        """Make `best.ckpt` a symbolic link to the best, or what the file system has instead of it."""
        best = self.folder / self.best_name
        with replacing(self.folder / "best.ckpt") as link:
            copies = partial(link.hardlink_to, best), partial(shutil.copyfile, best, link)
            _first_of(partial(link.symlink_to, best.name), *copies)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """How far the files of the loggers go, so that what comes after is written anew."""
        if self.place is not None:
            loggers = [each for each in trainer.loggers if hasattr(each, "position")]
            checkpoint["logs"] = {type(each).__name__: each.position() for each in loggers}
            if self.place.get("loaders"):
                checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"] = self.place["loaders"]

    def state_dict(self) -> dict[str, Any]:
        """Metrics and name of the best, without a path, as a folder can be moved; the place in the epoch."""
        return {"best": self.best, "best_name": self.best_name, "place": self.place}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # A name alone: a checkpoint from elsewhere must not say where files are written.
        self.best, self.best_name = state_dict["best"], Path(state_dict["best_name"]).name
        self.saved_best = self.best_name
        self.position.loaded = state_dict.get("place")


def _may_log(callback: L.Callback) -> bool:
    """Whether a callback of somebody's own logs, in the name of the module."""
    own = [kind for kind in type(callback).__mro__ if not kind.__module__.startswith(LIBRARIES)]
    called = (getattr(part, "__code__", None) for kind in own for part in vars(kind).values())
    return any({"log", "log_dict"}.intersection(code.co_names) for code in called if code)


def _lost(trainer: L.Trainer) -> bool:
    """Whether the weights are no longer finite, so that they must not take the place of good ones."""
    return bool(trainer.strategy.broadcast(first_non_finite(trainer.lightning_module)))


@contextmanager
def _before_begun_batch(trainer: L.Trainer, batches: int) -> Iterator[None]:
    """Within it, Lightning's counters as of `batches` of the epoch: one that has begun since is trained on
    after a restart. At the end of an epoch, where `batches` is 0, they are right."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    begun = batches and progress.current.ready - batches
    is_last = progress.is_last_batch
    if begun:
        progress.current.ready -= begun
        progress.total.ready -= begun
        progress.is_last_batch = False
    try:
        yield
    finally:
        progress.is_last_batch = is_last
        progress.current.ready += begun
        progress.total.ready += begun


def _first_of(*ways: Callable[[], object]) -> None:
    """Go the first of several ways to make a file that the file system knows."""
    for way in ways:
        try:
            way()
            return
        except (OSError, NotImplementedError) as error:  # exFAT, SMB, gcsfuse; Windows without the right
            reason = error
    raise reason
