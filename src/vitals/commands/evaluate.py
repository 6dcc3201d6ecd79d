"""Evaluate the weights of a run: `vitals evaluate run=<run folder>`."""

from functools import partial

from omegaconf import DictConfig

from vitals.command_line import CONFIGS, Command, answers_mistakes, run_command
from vitals.runs.config.schema import Evaluation
from vitals.runs.config.validation import check
from vitals.runs.held_memory import importing_torch
from vitals.runs.project import ProjectFolder
from vitals.runs.run_folder import RunFolder


@answers_mistakes()
def main(script: str | None = None) -> None:
    """Evaluate with the project around `script`, or around the working folder."""
    project = ProjectFolder.around(script)

    def evaluate(config: DictConfig) -> None:
        RunFolder.existing(config.run, "run")  # said before torch is imported
        with importing_torch():  # which the checks before do without
            from vitals.runs.evaluate import evaluate

        config.trust = project.trusts(config.trust)
        evaluate(config, project.module("build"))

    run_command(evaluate, Command(CONFIGS, "evaluate", partial(check, Evaluation), trains=False))


if __name__ == "__main__":
    main()
