"""Average what several networks predict: `python scripts/ensemble.py sweep=<sweep folder>`."""

from vitals.commands.ensemble import main

if __name__ == "__main__":
    main(__file__)
