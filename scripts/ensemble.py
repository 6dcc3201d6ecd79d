"""Average what several networks predict: `python scripts/ensemble.py sweep=<sweep folder>`."""

from omegaconf import DictConfig

from vitals.command_line import CONFIGS, run_command
from vitals.ensembles.selection import select
from vitals.runs.config import validation
from vitals.runs.config.schema import Ensemble


def check(config: DictConfig) -> None:
    validation.check(Ensemble, config)
    select(config)  # a wrong folder is answered before torch is imported


def main(config: DictConfig) -> None:
    from project import build
    from vitals.ensembles.run import ensemble

    ensemble(config, build)


if __name__ == "__main__":
    run_command(main, CONFIGS, "ensemble", check)
