"""The report of a sweep: `results.csv`, `report.html`, and the tables on the terminal."""

from __future__ import annotations

from rich.console import Console

from vitals.sweeps.jobs.folder import SweepFolder
from vitals.sweeps.results.borders import borders
from vitals.sweeps.results.importance import importance
from vitals.sweeps.results.next_steps import next_steps
from vitals.sweeps.results.page import write_sweep_page
from vitals.sweeps.results.results import SweepResults, read_results, write_csv
from vitals.sweeps.results.summary import print_summary


def report(folder: SweepFolder, console: Console | None = None) -> SweepResults:
    """Read the jobs in `folder`, write its table and its page, and print a summary."""
    results = read_results(folder)
    steps, shares = next_steps(results, borders(results)), importance(results)
    write_csv(results)
    write_sweep_page(results, steps, shares)
    print_summary(results, steps, shares, console)
    return results
