"""Check everything before learning: `python scripts/check.py`, with the overrides of `scripts/train.py`."""

import sys
from functools import partial

from omegaconf import DictConfig

from project.schema import CONFIGS, Experiment
from vitals.command_line import run_command
from vitals.runs.config.validation import check_run

HELP = """Check data, network, loss and optimizer before learning.
Exit code 0: all is well, or a warning; 3: a failure.

Examples
  python scripts/check.py
  python scripts/check.py network=resnet18 optimizer=adam data=digits
  python scripts/check.py checks.which=[gradients] checks.elements=20

Every override of scripts/train.py is one here.
$APP_CONFIG_GROUPS
"""
# The configuration is that of a run, but for every check being made, and nothing being written.
WORDS = ["checks=full", "hydra/job_logging=stdout", "hydra.job_logging.root.level=WARNING", "hydra.run.dir=."]
WORDS += ["hydra.job.name=check", "hydra.help.app_name=scripts/check.py", f"hydra.help.template='{HELP}'"]


def prepare(config: DictConfig) -> None:
    from project import build  # imports torch, which the checks before do without
    from vitals.runs.run import prepare

    prepare(config, build)


def main(config: DictConfig) -> None:
    from project import build
    from vitals.runs.check import check

    check(config, build)


if __name__ == "__main__":
    given = {word.partition("=")[0] for word in sys.argv[1:]}
    sys.argv[1:1] = [word for word in WORDS if word.partition("=")[0] not in given]
    run_command(main, CONFIGS, "train", partial(check_run, Experiment), prepare, trains=False)
