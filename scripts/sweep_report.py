"""Put the results of a sweep together: `python scripts/sweep_report.py <sweep folder>`.

Prints a table of the jobs, what the seeds give together, which hyper-parameter matters, whether a best value
lies at the edge of its range, and what is left to run; writes `results.csv` and `report.html` into it.
Every sweep ends with it; call it again while a sweep runs, or after jobs were continued by hand.
"""

import argparse
import sys

from vitals.errors import UserError
from vitals.sweeps.jobs.folder import SweepFolder
from vitals.sweeps.results.report import report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", help="of a sweep, as in logs/<name>/sweeps/")
    try:
        report(SweepFolder.existing(parser.parse_args().folder, "folder"))
    except UserError as error:
        print(f"\n{error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
