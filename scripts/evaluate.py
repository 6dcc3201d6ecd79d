"""Evaluate the weights of a run: `python scripts/evaluate.py run=<run folder>`."""

from pathlib import Path

from omegaconf import DictConfig

from vitals.command_line import run_command
from vitals.runs.config.validation import check_evaluation


def main(config: DictConfig) -> None:
    from vitals.runs.evaluate import evaluate  # imports torch, which the checks before do without

    evaluate(config)


if __name__ == "__main__":
    run_command(main, Path(__file__).parents[1] / "configs", "evaluate", check_evaluation)
