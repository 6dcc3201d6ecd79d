"""Go on with a run: what must hold before its last checkpoint is loaded."""

import inspect
import traceback
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.loops.fit_loop import _FitLoop
from omegaconf import DictConfig

from vitals.errors import UserError
from vitals.runs.callbacks.tensorboard import RunTensorBoard
from vitals.runs.config.resume import fingerprint
from vitals.runs.instantiate import load_checkpoint, plain, refusal, require_same_network
from vitals.runs.loggers import RunCSV
from vitals.runs.run_folder import RunFolder, shown

MAKING_DATA = ("prepare_data", "setup", "train_dataloader", "val_dataloader")
"""Hooks of data in which values of their configuration may be refused."""


def last_checkpoint(folder: RunFolder, to_train: bool = False) -> tuple[Path, dict[str, Any]]:
    """The last checkpoint of a run, and its content; the one before where that is missing or damaged, and
    `UserError` where both are. Where the training is to go on (`to_train`) that ended amid an epoch, it does
    so from that place and not from the last checkpoint, which closes the epoch."""
    before = folder.checkpoints / "previous.ckpt"
    try:
        path = folder.checkpoint("last")
        content = load_checkpoint(path)
    except UserError as problem:
        if not before.is_file():
            raise
        try:
            return before, load_checkpoint(before)
        except UserError:
            raise problem from None
    place = content.get("callbacks", {}).get("Checkpoints", {}).get("place") or {}
    if to_train and place.get("ended_amid") and before.is_file():
        return before, load_checkpoint(before)
    return path, content


def require_unfinished(config: DictConfig) -> None:
    """Make sure that something is left to do of the run to resume: training, or what comes after it;
    `UserError` if nothing is, or its last checkpoint is missing or damaged."""
    folder = RunFolder(config.resume)
    status = folder.read_status()
    if folder.begins_again:
        return
    _, checkpoint = last_checkpoint(folder)
    over = _lengths_over(checkpoint, config)
    amid = not _is_closed(checkpoint) and not _ended_early(checkpoint, status)
    if status.get("status") != "finished" and not (amid and over):
        return
    if over:
        key, done = next(iter(over.items()))
        raise UserError(
            f"resume={config.resume} has been trained for all of its {done} {key.removeprefix('max_')}: "
            f"set trainer.{key} to more, for example trainer.{key}={2 * done}."
        )
    timer = Timer(plain(config.trainer).get("max_time"))
    timer.load_state_dict(checkpoint.get("callbacks", {}).get("Timer", {}))
    if (left := timer.time_remaining()) is not None and left <= 0:
        raise UserError(
            f"resume={config.resume} has been trained for all of its time: set trainer.max_time to more than "
            f"{timedelta(seconds=round(timer.time_elapsed()))}, such as trainer.max_time=01:00:00:00."
        )
    if checkpoint.get("ended_early") and fingerprint(config) == fingerprint(folder.read_config()):
        reason = status.get("stopped_early") or status.get("stopped_by") or "a callback ended its training"
        raise UserError(
            f"resume={config.resume} has finished ({reason}): to train on, say what is to be different, such "
            f"as trainer.max_epochs={2 * _progress(checkpoint)['processed']}."
        )


def checkpoint_to_resume(
    config: DictConfig, folder: RunFolder, module: L.LightningModule, loggers: Sequence[Logger]
) -> Path | None:
    """The last checkpoint of the run that is continued, whose later curves are dropped; None of a run that
    begins. `UserError` if its weights do not fit `module`."""
    if not config.resume or not folder.has_checkpoints:
        return None
    path, checkpoint = last_checkpoint(folder)
    if path != folder.last_checkpoint:
        print(f"{shown(folder.last_checkpoint)} cannot be read: the run goes on from {path.name}.")
    status = folder.read_status()
    early = _ended_early(checkpoint, status)
    if _is_closed(checkpoint) and not early and not _lengths_over(checkpoint, config):
        path, checkpoint = last_checkpoint(folder, to_train=True)
    elif early and not _is_closed(checkpoint):
        # The training had ended, and its last epoch was not closed: the end of the training comes again.
        path = folder.checkpoints / "previous.ckpt"
        checkpoint = load_checkpoint(path) if path.is_file() else {}
        if not checkpoint or _ended_early(checkpoint, status):
            folder.clear_records()
            return None
    require_same_network(module, checkpoint, path)
    for logger in loggers:
        position = checkpoint.get("logs", {}).get(type(logger).__name__)
        if isinstance(logger, RunTensorBoard | RunCSV) and position is not None:
            logger.go_back(position)
    return path


def fit(trainer: L.Trainer, module: L.LightningModule, data: Any, checkpoint: Path | None) -> None:
    """Train from `checkpoint` on.

    Where that was saved at the end of the training, which broke off only later, no step is taken: everything
    is restored, and only what follows the last epoch is done. `UserError` if an optimizer, its
    schedule or the data refuse their arguments as the module, or a hook of the data, makes them.
    """
    if checkpoint is not None:
        trainer.fit_loop.__class__ = _ResumedLoop
    # Lightning can be told from 2.6 on; before it, it unpickles whatever the checkpoint holds.
    safe = {"weights_only": True} if "weights_only" in inspect.signature(trainer.fit).parameters else {}
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, **safe)
    except Exception as error:
        places = {frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)}
        of_data = "_call_lightning_datamodule_hook" in places and not places.isdisjoint(MAKING_DATA)
        where = "data" if of_data else "configure_optimizers" if "configure_optimizers" in places else ""
        if where and (problem := refusal(where, error)) is not None:
            raise problem from error
        raise


class _ResumedLoop(_FitLoop):
    """Begins and ends a training even where there is no epoch left between."""

    @property
    def skip(self) -> bool:
        return bool(self.trainer.limit_train_batches == 0)

    def on_run_start(self) -> None:
        self.trainer.should_stop = self.done  # known to those who ask as the training begins
        super().on_run_start()


def _ended_early(checkpoint: Mapping[str, Any], status: Mapping[str, Any]) -> bool:
    """Whether something had ended the training before its length was over, and nobody has made it longer."""
    longer = status.get("lengthened_at") == checkpoint["global_step"]
    return bool(checkpoint.get("ended_early")) and not longer


def _is_closed(checkpoint: Mapping[str, Any]) -> bool:
    """Whether the checkpoint was made at the end of an epoch."""
    progress = _progress(checkpoint)
    return bool(progress["processed"] == progress["ready"])


def _lengths_over(checkpoint: Mapping[str, Any], config: DictConfig) -> dict[str, int]:
    """The epochs trained to their end, and the steps, where the trainer asks for no more of them."""
    done = {"max_epochs": _progress(checkpoint)["processed"], "max_steps": checkpoint["global_step"]}
    return {key: count for key, count in done.items() if 0 < (config.trainer.get(key) or -1) <= count}


def _progress(checkpoint: Mapping[str, Any]) -> Any:
    return checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
