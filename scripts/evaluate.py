"""Evaluate the weights of a run: `python scripts/evaluate.py run=<run folder>`."""

from functools import partial

from omegaconf import DictConfig

from vitals.command_line import CONFIGS, run_command
from vitals.runs.config.schema import Evaluation
from vitals.runs.config.validation import check


def main(config: DictConfig) -> None:
    from project import build  # imports torch, which the checks before do without
    from vitals.runs.evaluate import evaluate

    evaluate(config, build)


if __name__ == "__main__":
    run_command(main, CONFIGS, "evaluate", partial(check, Evaluation))
