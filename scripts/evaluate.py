"""Evaluate the weights of a run: `python scripts/evaluate.py run=<run folder>`."""

from functools import partial

from omegaconf import DictConfig

from project import build as project
from vitals.command_line import CONFIGS, run_command
from vitals.runs.config.schema import Evaluation
from vitals.runs.config.validation import check


def main(config: DictConfig) -> None:
    from vitals.runs.evaluate import evaluate  # imports torch, which the checks before do without

    evaluate(config, project)


if __name__ == "__main__":
    run_command(main, CONFIGS, "evaluate", partial(check, Evaluation))
