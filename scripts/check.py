"""Check everything before learning: `python scripts/check.py`, with the overrides of `scripts/train.py`."""

from functools import partial

from omegaconf import DictConfig

from project import build as project
from vitals.command_line import run_command
from vitals.runs.config.validation import check_run


def prepare(config: DictConfig) -> None:
    from vitals.runs.run import prepare  # imports torch, which the checks before do without

    prepare(config, project)


def main(config: DictConfig) -> None:
    from vitals.runs.check import check

    check(config, project)


if __name__ == "__main__":
    run_command(main, project.configs, "check", partial(check_run, project.schema), prepare)
