"""`hydra/sweeper=vitals`: one sweeper for `search=` and `launcher=`.

Hydra's own sweepers hand a whole batch to the launcher and wait for all of it. Ours gives the next job as
soon as a device is free, knows which jobs are done already, and keeps a search's study.
"""

# No `from __future__ import annotations`: Hydra's scan runs this file before the module is in `sys.modules`,
# where dataclasses would look its string annotations up.
from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class VitalsSweeperConf:
    _target_: str = "hydra_plugins.vitals_sweeper.sweeper.VitalsSweeper"


ConfigStore.instance().store(group="hydra/sweeper", name="vitals", node=VitalsSweeperConf, provider="vitals")


class VitalsSweeper(Sweeper):
    """Runs the jobs of a multirun as `vitals.sweeps` does."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config

    def sweep(self, arguments: list[str]) -> Any:
        from vitals.sweeps.jobs.sweep import Sweep  # not at every start of a command
        from vitals.sweeps.search.search import run_sweep

        assert self.config is not None
        assert self.hydra_context is not None
        run_sweep(Sweep(self.config, self.hydra_context, arguments))
