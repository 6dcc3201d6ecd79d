"""Go on with a run: what must hold before its last checkpoint is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from vitals.errors import UserError
from vitals.runs.callbacks.tensorboard import RunTensorBoard
from vitals.runs.instantiate import load_checkpoint, plain, require_same_network
from vitals.runs.loggers import RunCSV
from vitals.runs.run_folder import RunFolder, shown


def last_checkpoint(folder: RunFolder, to_train: bool = False) -> tuple[Path, dict[str, Any]]:
    """The last checkpoint of a run, and its content; the one before where that is missing or damaged.

    Args:
        folder: of the run.
        to_train: whether the training is to go on. Where it ended amid an epoch, it does so from that place
            and not from the last checkpoint, which closes the epoch.

    Raises:
        UserError: if neither can be read.
    """
    before = folder.checkpoints / "previous.ckpt"
    try:
        path = folder.checkpoint("last")
        content = load_checkpoint(path)
        place = content.get("callbacks", {}).get("Checkpoints", {}).get("place") or {}
        if not (to_train and place.get("ended_amid") and before.is_file()):
            return path, content
    except UserError as problem:
        if not before.is_file():
            raise
        try:
            return before, load_checkpoint(before)
        except UserError:
            raise problem from None
    return before, load_checkpoint(before)


def require_unfinished(config: DictConfig) -> None:
    """Make sure that the run to resume has not come to the end of its length.

    Raises:
        UserError: if it has, or its last checkpoint is missing or damaged.
    """
    _, checkpoint = last_checkpoint(RunFolder(config.resume))
    trained = {"max_epochs": checkpoint["epoch"] + 1, "max_steps": checkpoint["global_step"]}
    for key, done in trained.items():
        if 0 < (config.trainer.get(key) or -1) <= done:
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


def checkpoint_to_resume(
    config: DictConfig, folder: RunFolder, module: L.LightningModule, loggers: Sequence[Logger]
) -> Path | None:
    """The last checkpoint of the run that is continued, whose later curves are dropped; None of a new run.

    Raises:
        UserError: if its weights do not fit `module`.
    """
    if not config.resume:
        return None
    path, checkpoint = last_checkpoint(folder, to_train=True)
    if last_checkpoint(folder)[0] != folder.last_checkpoint:
        print(f"{shown(folder.last_checkpoint)} cannot be read: the run goes on from {path.name}.")
    require_same_network(module, checkpoint, path)
    for logger in loggers:
        position = checkpoint.get("logs", {}).get(type(logger).__name__)
        if isinstance(logger, RunTensorBoard | RunCSV) and position is not None:
            logger.go_back(position)
    return path
