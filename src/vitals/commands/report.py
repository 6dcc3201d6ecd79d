"""Remake the page about a run, or compare runs: `vitals report run=<run folder>`."""

import sys

from omegaconf import DictConfig

from vitals.command_line import CONFIGS, Command, answers_mistakes, run_command
from vitals.files import existing_folder
from vitals.runs.config.validation import check_report
from vitals.runs.run_folder import A_RECORD


@answers_mistakes()
def main() -> None:
    sys.argv[1:] = ["watch=true" if word == "--watch" else word for word in sys.argv[1:]]

    def report(config: DictConfig) -> None:  # imports matplotlib, which the checks before do without
        if config.watch:
            from vitals.sweeps.results.live import watch

            watch(config)
        else:
            for name in [config.run] if config.run is not None else config.runs:
                existing_folder(name, "run" if config.run is not None else "runs", A_RECORD, or_file=True)
            from vitals.runs.report import report

            report(config)

    run_command(report, Command(CONFIGS, "report", check_report, trains=False))


if __name__ == "__main__":
    main()
