"""Remake the page about a run, or compare runs: `python scripts/report.py run=<run folder>`."""

from omegaconf import DictConfig

from vitals.command_line import CONFIGS, run_command
from vitals.runs.config.validation import check_report


def main(config: DictConfig) -> None:
    from vitals.runs.report import report  # imports matplotlib, which the checks before do without

    report(config)


if __name__ == "__main__":
    run_command(main, CONFIGS, "report", check_report)
