"""Remake the page about a run, or compare runs: `vitals report run=<run folder>`."""

from omegaconf import DictConfig

from vitals.command_line import CONFIGS, answers_mistakes, run_command
from vitals.runs.config.validation import check_report


@answers_mistakes()
def main() -> None:
    def report(config: DictConfig) -> None:
        from vitals.runs.report import report  # imports matplotlib, which the checks before do without

        report(config)

    run_command(report, CONFIGS, "report", check_report)


if __name__ == "__main__":
    main()
