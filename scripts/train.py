"""Train a classifier: `python scripts/train.py optimizer=rmsprop data=digits`. `--help` lists the choices."""

from pathlib import Path

from omegaconf import DictConfig

from vitals.config.command_line import run_command
from vitals.config.validation import check_experiment
from vitals.prerequisites import require_prerequisites


def prepare(config: DictConfig) -> None:
    require_prerequisites(config)
    from vitals import experiment  # imports torch, which the checks before do without

    experiment.prepare(config)


def train(config: DictConfig) -> None:
    from vitals import experiment

    experiment.train(config)


if __name__ == "__main__":
    run_command(train, Path(__file__).parents[1] / "configs", "train", check_experiment, prepare)
