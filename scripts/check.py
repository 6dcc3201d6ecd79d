"""Check everything before learning: `python scripts/check.py`, with the overrides of `scripts/train.py`."""

from vitals.commands.check import main

if __name__ == "__main__":
    main(__file__)
