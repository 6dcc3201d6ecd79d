"""Evaluate the weights of a run: `python scripts/evaluate.py run=<run folder>`."""

from vitals.commands.evaluate import main

if __name__ == "__main__":
    main(__file__)
