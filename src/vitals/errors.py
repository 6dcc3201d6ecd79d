"""What ends a command: a user's mistake, with the nearest valid name, or checks that failed."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """Something the user wrote or supplied is wrong: the message says what, where, and what would be right.

    The entry points print the message alone, without a traceback, and exit with `code`.
    """

    code = 2


class Ended(SystemExit):
    """Findings end the program.

    Args:
        reason: the gravest finding and its remedy.
    """

    code: int

    def __init__(self, reason: str) -> None:
        super().__init__(self.code)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class ChecksFailed(Ended):
    """The checks before learning found what makes a training pointless: exit code 3."""

    code = 3


class Diverged(Ended):
    """A training met a number that is not finite, and ends there: exit code 4."""

    code = 4


class FaultsFound(Ended):
    """A run ended with a finding at level `fail`, and `diagnosis.exit_code=true`: exit code 4."""

    code = 4


def reason_of(error: BaseException) -> str:
    """Why something could not be done: the message of a `UserError` alone, else with its kind."""
    kind, said = type(error).__name__, one_line(error)
    if isinstance(error, UserError):
        return str(error)
    return f"{kind}: {said}" if said else f"it failed with {kind}, which says nothing more."


def one_line(error: BaseException) -> str:
    """What an exception says, without line breaks, and cut off where it goes on and on."""
    return " ".join(str(error).split())[:300]


def listed(names: Iterable[str], at_most: int = 4) -> str:
    """The different names, `a, b, c, d and 7 more` where they are more than `at_most`."""
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more


def nearest(name: str, valid: Iterable[str]) -> list[str]:
    """Up to three of the `valid` names that look like `name`, the most alike first, or are a part of it."""
    choices, name = {choice.lower(): choice for choice in valid}, name.lower()
    near = [name] if name in choices else get_close_matches(name, choices, cutoff=0.66)
    near += [choice for choice in choices if len(choice) > 3 and choice in name and choice not in near]
    return [choices[match] for match in near[:3]]


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """A clause naming the nearest valid names, or all of them where none is near.

    `did_you_mean("rmspropp", ["sgd", "rmsprop"])` is `"did you mean rmsprop?"`.
    """
    valid = sorted(valid)
    if not valid:
        return "there is nothing to choose from."
    near = nearest(name, valid)
    return f"did you mean {' or '.join(near)}?" if near else f"valid are {', '.join(valid)}."
