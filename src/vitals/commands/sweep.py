"""Put the results of a sweep together.

Prints a table of the jobs, what the seeds give together, which hyper-parameter matters, whether a best value
lies at the edge of its range, and what is left to run; writes `results.csv` and `report.html` into it. Call
it while a sweep runs, or after jobs were continued by hand.
"""

import argparse

from vitals.command_line import answers_mistakes
from vitals.runs.quoting import command_here
from vitals.sweeps.jobs.folder import SweepFolder
from vitals.sweeps.results.report import report


@answers_mistakes()
def main() -> None:
    parser = argparse.ArgumentParser(
        command_here("sweep"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="of a sweep, as in logs/<name>/sweeps/")
    report(SweepFolder.existing(parser.parse_args().folder, "folder"))


if __name__ == "__main__":
    main()
