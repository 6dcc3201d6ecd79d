"""Trackio, a tracker with the calls of Weights & Biases whose data stay on this machine, for Lightning."""

import io
from argparse import Namespace
from collections.abc import Mapping
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from vitals.errors import UserError


class TrackioLogger(Logger):
    """Logs to Trackio. `trackio show` opens its page; its data lie in `TRACKIO_DIR`.

    Args:
        project: to which the run belongs.
        run_name: of the run; Trackio makes one up where it is None.
        group: of runs that belong together.
        save_dir: the folder of the run, for what is not Trackio's: checkpoints and findings.
        options: of `trackio.init`; `resume="allow"` goes on with the last run of this name.

    Raises:
        UserError: if the package trackio is not installed.
    """

    def __init__(
        self,
        project: str = "vitals",
        run_name: str | None = None,
        group: str | None = None,
        save_dir: str | Path | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if find_spec("trackio") is None:
            raise UserError("TrackioLogger needs the package trackio: pip install trackio")
        self.options = {"project": project, "name": run_name, "group": group, "embed": False, **options}
        self._save_dir = None if save_dir is None else str(save_dir)
        self._run: Any = None

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The `trackio.Run`, which begins when it is first asked for."""
        if self._run is None:
            import trackio

            with redirect_stdout(io.StringIO()):  # it prints how to open its page, several lines
                self._run = trackio.init(**self.options)
        return self._run

    @property
    def name(self) -> str:
        """The project."""
        return str(self.options["project"])

    @property
    def version(self) -> str | None:
        """The name of the run; None before it has begun, where none was given."""
        return self._run.name if self._run is not None else self.options["name"]

    @property
    def save_dir(self) -> str | None:
        return self._save_dir

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.experiment.log(dict(metrics), step=step)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        # Trackio keeps the configuration that the run has when it first logs.
        self.experiment.config.update(vars(params) if isinstance(params, Namespace) else params)
