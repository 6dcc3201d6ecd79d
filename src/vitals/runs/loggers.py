"""Lightning's loggers, told of the run: its folder, name and sweep, and what it was before it was resumed.

Where another application than `vitals` builds them, the folder is that which Hydra gives it.
"""

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, WandbLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from vitals.files import mended_table, read_table, telling, write_table
from vitals.writers.trackio import TrackioLogger


def output_folder() -> str:
    """The folder that Hydra gives an application, or else the working folder."""
    return str(HydraConfig.get().runtime.output_dir) if HydraConfig.initialized() else os.getcwd()


class CurvesFile(ExperimentWriter):
    """`curves.csv`, which goes on where it stands: `metrics.csv` is the run's own table of epochs."""

    NAME_METRICS_FILE = "curves.csv"

    def _check_log_dir_exists(self) -> None:
        """Lightning deletes an earlier file here."""
        self.path = Path(self.metrics_file_path)
        rows = mended_table(self.path, "step")
        self.metrics_keys = list(dict.fromkeys(name for row in rows for name in row))

    def rows(self) -> list[dict[str, str]]:
        """Of the file as it is."""
        return read_table(self.path, "step")[0] if self.path.is_file() else []

    def keep(self, count: int) -> None:
        """Take away the rows after the first `count`."""
        if self.metrics_keys:
            write_table(self.path, self.metrics_keys, self.rows()[:count])

    def save(self) -> None:
        with telling(self.path):
            super().save()

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        write_table(self.path, fieldnames, self.rows())


class RunCSV(CSVLogger):
    """Lightning's CSVLogger, with `curves.csv` in `save_dir`, the run's folder, itself and no
    `hparams.yaml`."""

    def __init__(self, save_dir: str | Path | None = None, flush_logs_every_n_steps: int = 100) -> None:
        folder = save_dir or output_folder()
        super().__init__(folder, name="", version="", flush_logs_every_n_steps=flush_logs_every_n_steps)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        if self._experiment is None:
            self._experiment = CurvesFile(self.log_dir)
        return self._experiment

    @rank_zero_only
    def position(self) -> int:
        """Rows so far."""
        self.save()
        return len(self.experiment.rows())

    @rank_zero_only
    def go_back(self, position: int) -> None:
        """Take away the rows after `position`, for a resumed run writes them anew."""
        self.experiment.keep(position)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace | None = None) -> None:
        """`config.yaml` has them."""


class RunWandb(WandbLogger):
    """Lightning's WandbLogger in the run's folder, `save_dir`, in the `group` of its sweep, and with the id
    `resumed_as` that it had before it was resumed. `options` are of WandbLogger and of `wandb.init`."""

    def __init__(
        self,
        save_dir: str | None = None,
        run_name: str | None = None,
        group: str | None = None,
        resumed_as: str | None = None,
        **options: Any,
    ) -> None:
        save_dir = save_dir or output_folder()
        run_name = run_name or Path(save_dir).name
        super().__init__(name=run_name, save_dir=save_dir, id=resumed_as, group=group, **options)


class RunTrackio(TrackioLogger):
    """The same for Trackio, which knows a run by its name; so a job's begins with that of its sweep."""

    def __init__(
        self,
        save_dir: str | None = None,
        run_name: str | None = None,
        group: str | None = None,
        resumed_as: str | None = None,
        **options: Any,
    ) -> None:
        save_dir = save_dir or output_folder()
        run_name = run_name or Path(save_dir).name
        name = resumed_as or (f"{group}_{run_name}" if group else run_name)
        resume = "allow" if resumed_as else "never"
        super().__init__(run_name=name, group=group, save_dir=save_dir, resume=resume, **options)


class RunMLFlow(MLFlowLogger):
    """The same for MLflow, where the sweep is the tag `sweep` of its jobs. A `tracking_uri` of None takes
    that of the environment, or `mlflow.db` in the folder where the command was typed, which is where `mlflow
    ui` looks."""

    def __init__(
        self,
        save_dir: str | None = None,
        run_name: str | None = None,
        group: str | None = None,
        resumed_as: str | None = None,
        tracking_uri: str | None = None,
        **options: Any,
    ) -> None:
        import mlflow

        options["tags"] = {**(options.get("tags") or {}), **({"sweep": group} if group else {})}
        uri = tracking_uri or mlflow.get_tracking_uri()
        self.folder = save_dir or output_folder()
        name = run_name or Path(self.folder).name
        super().__init__(run_name=name, run_id=resumed_as, tracking_uri=uri, **options)
        self.has_parameters = resumed_as is not None

    @property
    def save_dir(self) -> str:
        return self.folder

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Once: MLflow lets none be changed, and a run that is resumed may have others."""
        if not self.has_parameters:
            super().log_hyperparams(params)
