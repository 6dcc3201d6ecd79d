"""What ends a command: a user's mistake, with the nearest valid name, or checks that failed."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something the user wrote or supplied is wrong: the message says what, where, and what would be right.

    The entry points print the message alone, without a traceback, and exit with code 2.
    """


class ChecksFailed(SystemExit):
    """The checks before learning found what makes a training pointless: the program ends with exit code 3.

    Args:
        reason: the gravest finding and its remedy.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(3)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class FaultsFound(ChecksFailed):
    """A run ended with a finding at level `fail`: with `diagnosis.exit_code=true` the exit code is 4."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.code = 4


def nearest(name: str, valid: Iterable[str], count: int = 3) -> list[str]:
    """Up to `count` of the `valid` names that look most like `name`, the most alike first."""
    choices = {choice.lower(): choice for choice in valid}
    return [choices[match] for match in get_close_matches(name.lower(), choices, n=count, cutoff=0.5)]


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """A clause naming the nearest valid names, or all of them where none is near.

    `did_you_mean("rmspropp", ["sgd", "rmsprop"])` is `"did you mean rmsprop?"`.
    """
    valid = sorted(valid)
    if not valid:
        return "there is nothing to choose from."
    near = nearest(name, valid)
    return f"did you mean {' or '.join(near)}?" if near else f"valid are {', '.join(valid)}."
