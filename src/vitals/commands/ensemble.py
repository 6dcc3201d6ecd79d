"""Average what several networks predict: `vitals ensemble sweep=<sweep folder>`."""

from omegaconf import DictConfig

from vitals.command_line import CONFIGS, Command, answers_mistakes, run_command
from vitals.ensembles.selection import select
from vitals.runs.config import validation
from vitals.runs.config.schema import Ensemble
from vitals.runs.held_memory import importing_torch
from vitals.runs.project import ProjectFolder


def check(config: DictConfig) -> None:
    validation.check(Ensemble, config)
    select(config)  # a wrong folder is answered before torch is imported


@answers_mistakes()
def main(script: str | None = None) -> None:
    """Build the networks with the project around `script`, or around the working folder."""
    project = ProjectFolder.around(script)

    def ensemble(config: DictConfig) -> None:
        with importing_torch():
            from vitals.ensembles.run import ensemble

        config.trust = project.trusts(config.trust)
        ensemble(config, project.module("build"))

    run_command(ensemble, Command(CONFIGS, "ensemble", check, trains=False))


if __name__ == "__main__":
    main()
