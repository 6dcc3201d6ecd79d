"""Go on with a run: what must hold before its last checkpoint is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from vitals.errors import UserError
from vitals.runs.callbacks.tensorboard import RunTensorBoard
from vitals.runs.instantiate import load_checkpoint, plain, require_same_network
from vitals.runs.loggers import RunCSV
from vitals.runs.run_folder import RunFolder


def require_unfinished(config: DictConfig) -> None:
    """Make sure that the run to resume has not come to the end of its length.

    Raises:
        UserError: if it has, or its last checkpoint is missing or damaged.
    """
    checkpoint = load_checkpoint(RunFolder(config.resume).checkpoint("last"))
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
    path = folder.checkpoint("last")
    checkpoint = load_checkpoint(path)
    require_same_network(module, checkpoint, path)
    for logger in loggers:
        if isinstance(logger, RunTensorBoard | RunCSV):
            logger.drop_from(checkpoint["global_step"] + 1)
    return path
