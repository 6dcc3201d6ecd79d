"""Put the results of a sweep together: `python scripts/sweep_report.py <sweep folder>`."""

from vitals.commands.sweep import main

if __name__ == "__main__":
    main()
