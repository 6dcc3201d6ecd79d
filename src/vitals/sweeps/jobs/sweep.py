"""Run a sweep: from its words to jobs, from jobs to the devices, and a report at the end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from vitals.runs.metric import Metric
from vitals.runs.prerequisites import require_prerequisites
from vitals.runs.quoting import this_program
from vitals.sweeps.jobs.backends import backend, not_of_hydra
from vitals.sweeps.jobs.folder import SweepFolder, folder_name
from vitals.sweeps.jobs.job import Job, clear_for_another_try, command_for, is_finished, job_words
from vitals.sweeps.jobs.live_table import LiveTable
from vitals.sweeps.jobs.processes import Starter
from vitals.sweeps.jobs.queue import JobQueue

OF_THE_FOLDER = ("hydra.sweep.dir", "hydra.mode")
"""Hydra's words that say where this sweep is, not what it does."""

Ended = Callable[[Job, str], None]


class Sweep:
    """A multirun of our own: `launcher=` says where its jobs run, `search=` which they are.

    Args:
        config: the whole configuration of the multirun, Hydra's own included.
        context: of Hydra, which composes the jobs' configurations.
        arguments: the words of the command line.
    """

    def __init__(self, config: DictConfig, context: HydraContext, arguments: Sequence[str]) -> None:
        self.config, self.context = config, context
        self.folder = SweepFolder(Path(config.hydra.sweep.dir).absolute())
        self.metric = Metric.of(config)
        folder = self.folder.read_record().get("folder", ".")
        self.started_in = os.path.abspath(folder if os.path.isdir(folder) else ".")
        """Its jobs run there, for the relative paths among their words."""
        with chdir(self.started_in):
            self.script = this_program()
        # Unresolved, for `${hydra.job.num}` is known in a job alone.
        hydra: Any = OmegaConf.to_container(config.hydra.overrides.hydra, resolve=False)
        of_all = [word for word in hydra if not word.startswith(OF_THE_FOLDER)]
        self.flags = [word for word in sys.argv[1:] if word.startswith(("--config-name=", "--config-path="))]
        self.arguments = [*self.flags, *arguments, *of_all]
        parser = OverridesParser.create(config_loader=context.config_loader)
        self.overrides = parser.parse_overrides(job_words(arguments))
        self.hydra_words = job_words(hydra)
        self._name_jobs_by_what_differs()

    def product(self) -> list[list[str]]:
        """The words of every job: all combinations of the listed values."""
        batches: list[list[list[str]]] = BasicSweeper.split_arguments(self.overrides, None)
        return batches[0]

    def fixed_words(self) -> list[str]:
        """The words that all jobs have in common."""
        return [str(override.input_line) for override in self.overrides if not override.is_sweep_override()]

    def require_prerequisites(self) -> None:
        """Make sure, before anything is written, that the machine has what the jobs and the launcher need.

        Raises:
            UserError: saying what is missing.
        """
        launcher = self.config.hydra.launcher._target_
        if not launcher.endswith(".BasicLauncher"):
            raise not_of_hydra(f"hydra/launcher={self.config.hydra.runtime.choices['hydra/launcher']}")
        require_prerequisites(self.config)
        self.backend = backend(self.config, self.script)
        """Where the jobs run."""
        self.starter: Starter
        """Starts them there, from all stages of a search."""

    def run(
        self,
        jobs: Iterable[tuple[int, list[str]]],
        total: int | None,
        ended: Ended = lambda job, status: None,
        numbers: range | None = None,
    ) -> None:
        """Run the jobs that are not finished yet.

        Args:
            jobs: number and words of each, taken one by one as devices become free.
            total: how many there are; None where that is not known.
            ended: called with each job that was run, and its status.
            numbers: of these jobs, where the sweep has others beside them.

        Raises:
            SweepInterrupted: after Ctrl-C or SIGTERM.
        """
        devices = self.backend.devices
        done = sum(
            is_finished(folder)
            for folder in self.folder.jobs()
            if numbers is None or int(folder.name.partition("_")[0]) in numbers
        )
        at_once = len(devices.names) * devices.jobs_per_device
        minutes = self.config.launcher.time_limit
        limit = None if minutes is None else 60.0 * minutes
        with LiveTable(total, done, at_once, self.metric) as view, chdir(self.started_in):
            JobQueue(devices, self.starter, view, limit).run(self._to_run(jobs), ended)

    def job(self, number: int, words: Sequence[str]) -> Job:
        """The job of these words, in the folder that Hydra names for it."""
        needed, epochs = 1, None
        name = folder_name(number, "_".join(words))
        try:
            config = self._composed(number, words)
        except Exception:  # its own command will say what is wrong with it
            pass
        else:
            name = str(config.hydra.sweep.subdir)
            needed = self._devices_needed(config.trainer.devices)
            epochs = max(config.trainer.max_epochs or -1, 0) or None
        folder = self.folder.path / name
        command = command_for(self.script, [*self.flags, *words, *self.hydra_words], folder)
        return Job(number, list(words), folder, command, needed, epochs)

    def _to_run(self, jobs: Iterable[tuple[int, list[str]]]) -> Iterable[Job]:
        for number, words in jobs:
            job = self.job(number, words)
            if not is_finished(job.folder):
                clear_for_another_try(job.folder)
                yield job

    def _composed(self, number: int, words: Sequence[str]) -> DictConfig:
        config: DictConfig = self.context.config_loader.load_sweep_config(self.config, list(words))
        with open_dict(config):
            config.hydra.job.id = str(number)
            config.hydra.job.num = number
        HydraConfig.instance().set_config(config)
        return config

    def _devices_needed(self, devices: Any) -> int:
        count = self.config.launcher.devices_per_job
        if count is None:
            count = 1 if devices in ("auto", -1) else devices if isinstance(devices, int) else len(devices)
        self.backend.devices.require(count)
        return int(count)

    def _name_jobs_by_what_differs(self) -> None:
        fixed = [override.key_or_group for override in self.overrides if not override.is_sweep_override()]
        word = f"hydra.job.config.override_dirname.exclude_keys=[{','.join([*fixed, 'stop_hopeless'])}]"
        self.config.hydra.overrides.hydra.append(word)
