"""Go on with a run: what must hold before its last checkpoint is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning as L
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig

from vitals.errors import UserError
from vitals.runs.callbacks.tensorboard import RunTensorBoard
from vitals.runs.instantiate import load_checkpoint, require_same_network
from vitals.runs.loggers import RunCSV
from vitals.runs.run_folder import RunFolder


def require_unfinished(config: DictConfig) -> None:
    """Make sure that the run to resume has epochs left.

    Raises:
        UserError: if it has none, or its last checkpoint is missing or damaged.
    """
    checkpoint = load_checkpoint(RunFolder(config.resume).checkpoint("last"))
    trained = checkpoint["epoch"] + 1
    if trained >= config.trainer.max_epochs:
        raise UserError(
            f"resume={config.resume} has been trained for all of its {trained} epochs: set "
            f"trainer.max_epochs to more, for example trainer.max_epochs={2 * trained}."
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
