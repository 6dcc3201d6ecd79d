"""The report of a sweep: `results.csv`, `report.html`, and the tables on the terminal."""

from __future__ import annotations

from rich.console import Console

from vitals.sweeps.borders import borders
from vitals.sweeps.folder import SweepFolder
from vitals.sweeps.importance import importance
from vitals.sweeps.next_steps import next_steps
from vitals.sweeps.page import write_sweep_page
from vitals.sweeps.results import SweepResults, read_results, write_csv
from vitals.sweeps.summary import print_summary


def report(folder: SweepFolder, console: Console | None = None) -> SweepResults:
    """Read the jobs in `folder`, write its table and its page, and print a summary."""
    results = read_results(folder)
    steps, shares = next_steps(results, borders(results)), importance(results)
    write_csv(results)
    write_sweep_page(results, steps, shares)
    print_summary(results, steps, shares, console)
    return results
