"""Run a sweep: from its words to jobs, from jobs to the devices, and a report at the end."""

import os
import re
import secrets
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import chdir
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from vitals.errors import UserError, counted, listed
from vitals.metric import Metric
from vitals.runs.config.combinations import Axis, axes
from vitals.runs.prerequisites import require_prerequisites
from vitals.runs.quoting import this_program
from vitals.runs.run_folder import RunFolder, shown
from vitals.sweeps.jobs.backends import backend, not_of_hydra
from vitals.sweeps.jobs.code import SweepCode
from vitals.sweeps.jobs.folder import SweepFolder, folder_name
from vitals.sweeps.jobs.job import Job, command_for, is_finished, job_words
from vitals.sweeps.jobs.live_table import LiveTable
from vitals.sweeps.jobs.processes import Starter
from vitals.sweeps.jobs.queue import JobQueue
from vitals.sweeps.jobs.resume import require_words_allowed

LAST_SEED = 2**32 - 1
PATIENCE = 60.0
"""Seconds that a job of the sweep has to end whose process was killed."""
OF_THE_FOLDER = ("hydra.sweep.dir", "hydra.mode")
"""Hydra's words that say where this sweep is, not what it does."""

Ended = Callable[[Job, str], None]


class Sweep:
    """A multirun of our own: `launcher=` says where its jobs run, `search=` which they are. `config` is the
    whole configuration, Hydra's own included; `context`, of Hydra, composes those of the jobs; `arguments`
    are the words of the command line."""

    def __init__(self, config: DictConfig, context: HydraContext, arguments: Sequence[str]) -> None:
        self.config, self.context = config, context
        self.folder = SweepFolder(Path(config.hydra.sweep.dir).absolute())
        self.metric = Metric.of(config)
        folder = self.folder.read_record().get("folder") or "."
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
        self.repeats: int = config.get("repeats", 1)
        """Jobs of the same settings."""
        if self.repeats > 1:  # each of them has a word for its own
            self.overrides = [w for w in self.overrides if w.key_or_group != "seed" or w.is_sweep_override()]
        seed = config.get("seed")
        drawn = self.folder.read_record().get("seed")
        self.seed: int = next(n for n in (seed, drawn, secrets.randbelow(100_000)) if n is not None)
        """Of the jobs that have no other, so that settings alone tell them apart; the first of several."""
        self.hydra_words = job_words(hydra)
        same = [override.key_or_group for override in self.overrides if not override.is_sweep_override()]
        word = f"hydra.job.config.override_dirname.exclude_keys=[{','.join([*same, 'stop_hopeless'])}]"
        config.hydra.overrides.hydra.append(word)  # jobs are named by what differs
        places = [source.path for source in config.hydra.runtime.config_sources if source.schema == "file"]
        with chdir(self.started_in):
            self.code = SweepCode(self.folder.path, self.script, [Path(place).absolute() for place in places])

    def require_allowed(self, words: Sequence[str]) -> None:
        """Make sure that words which were read from the sweep's folder run no code but the user's own."""
        trust = self.config.get("trust") or []
        configs, names = self.code.configs[0], [trust] if isinstance(trust, str) else list(trust)
        require_words_allowed(words, self.folder.study, configs, names)

    def axes(self) -> list[Axis]:
        """The words that the listed values stand for, those that go together in one place; `UserError` if the
        keys of `zip=` do not fit together."""
        return axes(self.overrides, _listed, self.config.get("zip"))

    def product(self) -> list[list[str]]:
        """The words of every job: all combinations of the listed values; `UserError` as `axes`, or if a word
        gives a range and no values."""
        for override in self.overrides:
            if override.is_interval_sweep():
                raise UserError(
                    f"{override.input_line} is a range: search=random draws values from it, search=grid cuts "
                    f"it into equal parts."
                )
        return self.repeated([word for words in step for word in words] for step in product(*self.axes()))

    def repeated(self, jobs: Iterable[Sequence[str]]) -> list[list[str]]:
        """The words of `jobs`, each as often as `repeats=` says, with the seeds that go with it."""
        return [[*words, *self.seed_word(turn)] for words in jobs for turn in range(self.repeats)]

    def seed_word(self, turn: int) -> list[str]:
        """The word for the seed of one of several jobs of the same settings; none where there is but one."""
        return [f"seed={self.seed + turn}"] if self.repeats > 1 else []

    def require_prerequisites(self) -> None:
        """Make sure, before anything is written, that the machine has what the jobs and the launcher need;
        `UserError` saying what is missing."""
        launcher = self.config.hydra.launcher._target_
        if not launcher.endswith(".BasicLauncher"):
            raise not_of_hydra(f"hydra/launcher={self.config.hydra.runtime.choices['hydra/launcher']}")
        if self.repeats > 1:
            for word in self.overrides:
                if word.key_or_group == "seed":
                    raise UserError(
                        f"repeats={self.repeats} and {word.input_line} both say which seeds there are: leave "
                        f"one out."
                    )
            if self.seed + self.repeats - 1 > LAST_SEED:
                raise UserError(
                    f"repeats={self.repeats} takes the seeds from seed={self.seed} on, and the last one is "
                    f"{LAST_SEED}: take a smaller seed."
                )
        require_prerequisites(self.config)
        self.backend = backend(self.config, self.script)
        """Where the jobs run."""
        self.starter: Starter
        """Starts them there, from all stages of a search."""
        self._devices_needed(self.config.trainer.devices)

    def keep_code(self) -> None:
        """Copy the code that the jobs are going to run; a sweep that goes on has its copy already."""
        self.note = ""
        """What is to be said of it."""
        try:
            edited = self.code.keep()
        except (UserError, OSError, ValueError) as error:
            shutil.rmtree(self.code.path, ignore_errors=True)
            self.note = f"no copy of the code ({error}): edits meanwhile change the jobs that start later"
        else:
            if self.code.from_elsewhere:
                self.note = (
                    f"the sweep's copy of the code was not taken here, or not to its end: it is now in "
                    f"{shown(self.code.from_elsewhere)}, and the jobs run the code as it is now"
                )
            elif edited:
                self.note = (
                    f"edited since the sweep began: {listed(edited, 3)}; its jobs keep to the code of its "
                    f"start, in {shown(self.code.path)}; without that folder they run the code as it is now"
                )

    def announce(self, jobs: int) -> None:
        """Record how many jobs the sweep has, and their seed, and say so before the first one starts."""
        self.folder.add_to_record(jobs=jobs, seed=self.seed)
        devices, needed = self.backend.devices, self._devices_needed(self.config.trainer.devices)
        done = sum(map(is_finished, self.folder.jobs()))
        said = counted(jobs, "job") + (f", {done} of them done" if done else "")
        said += f", {devices.at_once(needed)} at a time on {devices}"
        if self.repeats > 1:
            said += f", seeds {self.seed} to {self.seed + self.repeats - 1}"
        elif all(word.key_or_group != "seed" for word in self.overrides):
            said += f", seed {self.seed}"
        print(f"sweep in {shown(self.folder.path)}: {said}", *filter(None, [self.note]), sep="\n", flush=True)
        import_module("vitals.sweeps.results.report")  # with Matplotlib, while the fork server imports torch

    def run(
        self,
        jobs: Iterable[tuple[int, list[str]]],
        total: int,
        ended: Ended = lambda job, status: None,
        numbers: range | None = None,
    ) -> None:
        """Run those of the jobs that are not finished yet, number and words of each taken one by one as
        devices become free; `ended` is called with each that was run, and its status. There are `total`, and
        where the sweep has others beside them, they have these `numbers`. `Interrupted` after Ctrl-C or
        SIGTERM."""
        devices = self.backend.devices
        done = sum(
            is_finished(folder)
            for folder in self.folder.jobs()
            if numbers is None or int(folder.name.partition("_")[0]) in numbers
        )
        at_once = devices.at_once(self._devices_needed(self.config.trainer.devices))
        minutes = self.config.launcher.time_limit
        limit = None if minutes is None else 60.0 * minutes
        with LiveTable(total, done, at_once, self.metric) as view, chdir(self.started_in):
            JobQueue(devices, self.starter, view, limit).run(self._to_run(jobs), ended)

    def job(self, number: int, words: Sequence[str]) -> Job:
        """The job of these words, in the folder that Hydra names for it."""
        needed, epochs = 1, None
        name, threads = folder_name(number, "_".join(words)), list[str]()
        try:
            config: Any = self.context.config_loader.load_sweep_config(self.config, list(words))
            with open_dict(config):
                config.hydra.job.id, config.hydra.job.num = str(number), number
            HydraConfig.instance().set_config(config)
        except Exception:  # its own command will say what is wrong with it
            pass
        else:
            name = str(config.hydra.sweep.subdir)
            needed = self._devices_needed(config.trainer.devices)
            epochs = max(config.trainer.max_epochs or -1, 0) or None
            if config.get("seed", self.seed) is None:
                words = [*words, f"seed={self.seed}"]
            if config.get("threads", 0) is None:  # so that the command gives the same numbers by itself
                threads = [f"threads={self.backend.devices.threads}"]
        folder = Path(os.path.normpath(self.folder.path / name))
        if folder.parent != self.folder.path:  # where nobody would find it, or it would write over others
            raise UserError(f"hydra.sweep.subdir={name} is no name of a folder in {self.folder.path}.")
        ours = [self._in_copy(word) for word in (*self.flags, *self.hydra_words)]
        command = command_for(self.code.copied(self.script), [*ours, *words, *threads], folder)
        job = Job(number, list(words), folder, command, needed, epochs, self.code.environment())
        job.facts["code"] = self.code.taken
        return job

    def _in_copy(self, word: str) -> str:
        """A word of Hydra's with the folders of configurations that it names as they are in the copy."""
        places = "|".join(re.escape(str(place)) for place in sorted(self.code.sources, reverse=True))
        return re.sub(rf"(?<=[=/])({places})(?=[/,'\]]|$)", lambda found: self.code.copied(found[0]), word)

    def _to_run(self, jobs: Iterable[tuple[int, list[str]]]) -> Iterable[Job]:
        for number, words in jobs:
            job = self.job(number, words)
            if not is_finished(job.folder):
                RunFolder(job.folder).require_free(PATIENCE)
                yield job

    def _devices_needed(self, devices: Any) -> int:
        count = self.config.launcher.devices_per_job
        if count is None:
            count = 1 if devices in ("auto", -1) else devices if isinstance(devices, int) else len(devices)
        self.backend.devices.require(count)
        return int(count)


def _listed(override: Override) -> list[str]:
    """The words that an override stands for: one for each of its values."""
    if not override.is_sweep_override() or override.is_interval_sweep():
        return [str(override.input_line)]
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
