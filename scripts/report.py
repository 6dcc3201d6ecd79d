"""Remake the page about a run, or compare runs: `python scripts/report.py run=<run folder>`."""

from vitals.commands.report import main

if __name__ == "__main__":
    main()
