"""Train a classifier: `python scripts/train.py optimizer=rmsprop data=digits`. `--help` lists the choices."""

from pathlib import Path

from omegaconf import DictConfig

from vitals.command_line import run_command
from vitals.runs.config.validation import check_experiment
from vitals.runs.prerequisites import require_prerequisites


def check_machine_and_components(config: DictConfig) -> None:
    require_prerequisites(config)
    from vitals.runs.run import prepare  # imports torch, which the checks before do without

    prepare(config)


def main(config: DictConfig) -> None:
    from vitals.runs.run import train

    train(config)


if __name__ == "__main__":
    run_command(
        main, Path(__file__).parents[1] / "configs", "train", check_experiment, check_machine_and_components
    )
