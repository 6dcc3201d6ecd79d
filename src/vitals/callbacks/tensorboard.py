"""TensorBoard in the run's own folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only


class RunTensorBoard(TensorBoardLogger):
    """Lightning's TensorBoardLogger, with the event files in `save_dir` itself and no `hparams.yaml`.

    The run's `config.yaml` holds what `hparams.yaml` would.

    Args:
        save_dir: the run's folder.
        options: of torch's `SummaryWriter`.
    """

    def __init__(self, save_dir: str | Path, **options: Any) -> None:
        super().__init__(str(save_dir), name="", version="", default_hp_metric=False, **options)

    def drop_from(self, step: int) -> None:
        """Say, before anything is written, that a resumed run writes the entries from `step` on anew."""
        self._kwargs["purge_step"] = step

    @rank_zero_only
    def log_results(self, config: dict[str, Any], metrics: dict[str, float]) -> None:
        """Fill the hparams tab, and show the configuration as the text card `config`."""
        self.log_hyperparams(config, metrics)
        text = yaml.safe_dump(config, sort_keys=False)
        self.experiment.add_text("config", "\n".join(f"    {line}" for line in text.splitlines()))

    @rank_zero_only
    def save(self) -> None:
        """Flush the event file."""
        self.experiment.flush()
