"""Average what several networks predict: `python scripts/ensemble.py sweep=<sweep folder>`."""

from pathlib import Path

from omegaconf import DictConfig

from vitals.command_line import run_command
from vitals.ensembles.selection import select
from vitals.runs.config.validation import check_ensemble


def check(config: DictConfig) -> None:
    check_ensemble(config)
    select(config)  # a wrong folder is answered before torch is imported


def main(config: DictConfig) -> None:
    from vitals.ensembles.run import ensemble

    ensemble(config)


if __name__ == "__main__":
    run_command(main, Path(__file__).parents[1] / "configs", "ensemble", check)
