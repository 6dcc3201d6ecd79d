"""Train as configured: `python scripts/train.py optimizer=rmsprop data=digits`. `--help` says more."""

from vitals.commands.train import main

if __name__ == "__main__":
    main(__file__)
