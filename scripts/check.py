"""Check everything before learning: `python scripts/check.py`, with the overrides of `scripts/train.py`."""

from pathlib import Path

from omegaconf import DictConfig

from vitals.command_line import run_command
from vitals.runs.config.validation import check_experiment
from vitals.runs.prerequisites import require_prerequisites


def prepare(config: DictConfig) -> None:
    require_prerequisites(config)
    from vitals import experiment  # imports torch, which the checks before do without

    experiment.prepare(config)


def check(config: DictConfig) -> None:
    from vitals.runs import check as checking

    checking.check(config)


if __name__ == "__main__":
    run_command(check, Path(__file__).parents[1] / "configs", "check", check_experiment, prepare)
