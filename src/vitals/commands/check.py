"""Check everything before learning: `vitals check`, with the overrides of `vitals train`."""

import sys

from omegaconf import DictConfig

from vitals.command_line import answers_mistakes, run_command
from vitals.commands.train import command
from vitals.runs.project import ProjectFolder

HELP = """Check $SETUP, before learning.
Exit code 0: all is well, or a warning; 3: a failure.

Examples
  $CHECK
  $CHECK optimizer=adam
  $CHECK checks.which=[gradients] checks.elements=20

Every override of a training is one here.
$APP_CONFIG_GROUPS
"""
# The configuration is that of a run, but for every check being made, and nothing being written.
WORDS = ["checks=full", "hydra/job_logging=stdout", "hydra.job_logging.root.level=WARNING", "hydra.run.dir=."]
WORDS += ["hydra.job.name=check", f"hydra.help.template='{HELP}'"]


@answers_mistakes()
def main(script: str | None = None) -> None:
    """Check the project around `script`, or around the working folder."""
    project = ProjectFolder.around(script)

    def check(config: DictConfig) -> None:
        from vitals.runs.check import check  # imports torch, which the checks before do without

        check(config, project.module("build"))

    given = {word.partition("=")[0] for word in sys.argv[1:]}
    sys.argv[1:1] = [word for word in WORDS if word.partition("=")[0] not in given]
    run_command(check, command(project, trains=False))


if __name__ == "__main__":
    main()
