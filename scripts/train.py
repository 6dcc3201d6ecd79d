"""Train as configured: `python scripts/train.py optimizer=rmsprop data=digits`. `--help` says more."""

from functools import partial

from omegaconf import DictConfig

from project.schema import CONFIGS, Experiment
from vitals.command_line import run_command
from vitals.runs.config.validation import check_run
from vitals.runs.run_folder import RunFolder


def prepare(config: DictConfig) -> None:
    from project import build  # imports torch, which the checks before do without
    from vitals.runs.run import prepare

    prepare(config, build)


def main(config: DictConfig) -> None:
    from project.train import train
    from vitals.runs.run import run

    run(config, RunFolder.of_this_run(), train)


if __name__ == "__main__":
    run_command(main, CONFIGS, "train", partial(check_run, Experiment), prepare)
