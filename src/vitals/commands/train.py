"""Train as configured: `vitals train optimizer=rmsprop data=digits`. `--help` says more."""

from functools import partial

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from vitals.command_line import Command, answers_mistakes, run_command
from vitals.runs.config.validation import check_run
from vitals.runs.held_memory import importing_torch
from vitals.runs.prerequisites import require_batches, require_packages
from vitals.runs.project import ProjectFolder
from vitals.runs.run_folder import RunFolder


def command(project: ProjectFolder, trains: bool = True) -> Command:
    """What the command line of a training is checked against, or where nothing `trains`, that of its checks:
    the values, what is built once on trial, and the data, where the project has a function that looks at
    them."""

    def prepare(config: DictConfig) -> None:
        require_packages(config)
        with importing_torch():  # which the checks before do without
            from vitals.runs.run import prepare

        prepare(config, project.module("build"), project.trusts(config.get("trust")))

    def read_data(config: DictConfig) -> None:
        data = getattr(project.module("build"), "read_data", lambda config: None)(config)
        if data is not None:
            require_batches(config, data)

    check = partial(check_run, project.module("schema").Experiment)
    return Command(project.configs, "train", check, prepare, read_data, trains)


@answers_mistakes()
def main(script: str | None = None) -> None:
    """Train with the project around `script`, or around the working folder."""
    project = ProjectFolder.around(script)

    def train(config: DictConfig) -> None:
        from vitals.runs.run import run

        run(config, RunFolder(HydraConfig.get().runtime.output_dir), project.module("train").train)

    run_command(train, command(project))


if __name__ == "__main__":
    main()
