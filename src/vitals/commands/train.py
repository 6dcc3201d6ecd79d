"""Train as configured: `vitals train optimizer=rmsprop data=digits`. `--help` says more."""

import atexit
import gc
import sys
from collections.abc import Callable
from functools import partial

from omegaconf import DictConfig

from vitals.command_line import answers_mistakes, run_command
from vitals.runs.config.validation import check_run
from vitals.runs.project import ProjectFolder
from vitals.runs.run_folder import RunFolder


def preparation(project: ProjectFolder) -> Callable[[DictConfig], None]:
    """What is built once on trial before a run, of its configuration."""

    def prepare(config: DictConfig) -> None:
        first = "torch" not in sys.modules
        gc.disable()  # to look for garbage in a million objects that stay took 1.3 of 5.8 seconds
        try:
            from vitals.runs.run import prepare  # imports torch, which the checks before do without
        finally:
            gc.enable()
        if first:  # nor is it looked for there later
            gc.freeze()
            atexit.register(gc.unfreeze)  # or what a library lets go of last counts as a leak

        prepare(config, project.module("build"), project.trusts(config.get("trust")))

    return prepare


def reading(project: ProjectFolder) -> Callable[[DictConfig], None]:
    """What looks at the data of a configuration, where the project has such a function."""

    def read_data(config: DictConfig) -> None:
        getattr(project.module("build"), "read_data", lambda config: None)(config)

    return read_data


@answers_mistakes()
def main(script: str | None = None) -> None:
    """Train with the project around `script`, or around the working folder."""
    project = ProjectFolder.around(script)

    def train(config: DictConfig) -> None:
        from vitals.runs.run import run

        run(config, RunFolder.of_this_run(), project.module("train").train)

    check = partial(check_run, project.module("schema").Experiment)
    run_command(train, project.configs, "train", check, preparation(project), reading(project))


if __name__ == "__main__":
    main()
