"""What ends a command: a user's mistake, with the nearest valid name, or checks that failed."""

import sysconfig
import traceback
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from vitals.installed import PACKAGES, is_installed

LIBRARIES = (sysconfig.get_path("stdlib"), str(Path(__file__).parent), "<frozen")
"""Where code is from that nobody wrote for their own training, besides packages that were installed."""

FRAMEWORKS = frozenset(
    {"", "torch", "lightning", "pytorch_lightning", "lightning_fabric", "torchmetrics", "numpy"}
)
"""Packages whose lines say nothing of whose module it is."""


class UserError(Exception):
    """Something the user wrote or supplied is wrong: the message says what, where, and what would be right.
    The entry points print it alone, without a traceback, and exit with `code`."""

    code = 2


class Ended(SystemExit):
    """Findings end the program; `reason` is the gravest one and its remedy."""

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


TORCH_SAYS = {
    "does not require grad": "the loss depends on no parameter that trains.",
    "modified by an inplace operation": "something that a gradient of your loss needs is changed in place "
    "before the end of the step, where all of its gradients are taken for this measurement.",
    "out of memory": "there is not enough memory for it.",
    "not enough memory": "there is not enough memory for it.",
    "checkpoint is incompatible": "checkpoint(use_reentrant=True) gives gradients to backward() alone; torch "
    "recommends use_reentrant=False.",
    "is not implemented": "torch has no such operation, or no gradient of it, for your tensors.",
}
"""What it comes to where torch refuses outside of anybody's lines, by a part of what it says."""


def reason_of(error: BaseException) -> str:
    """Why something could not be done, in the words of those who wrote the code: the message of a
    `UserError`, else the line of theirs that failed; what the exception says itself means little to them."""
    if isinstance(error, UserError):
        return str(error)
    kind, place = type(error).__name__, failed_at(error)
    if place:
        return f"your code fails with {kind} at {place}."
    known = next((text for part, text in TORCH_SAYS.items() if part in str(error).lower()), "")
    # Of the first package that is not what everybody trains with: somebody's own, or one that brings modules.
    lines = [line for line in _lines(error) if _package(line) not in FRAMEWORKS]
    if not known and (own := [line for line in lines if _package(line) == _package(lines[0])]):
        return f"{_package(own[-1])} fails with {kind} at {_shown(own[-1])}."
    return known or f"it failed on your module with {kind}, which is a fault of ours, not of yours."


def failed_at(error: BaseException) -> str:
    """The innermost line in a traceback that is nobody's library, "`the line` (file.py, line 3)"; empty where
    there is none."""
    theirs = [line for line in _lines(error) if not is_installed(Path(line.filename))]
    return _shown(theirs[-1]) if theirs else ""


def _lines(error: BaseException) -> list[traceback.FrameSummary]:
    lines = traceback.extract_tb(error.__traceback__)
    return [line for line in lines if not line.filename.startswith(LIBRARIES)]


def _package(line: traceback.FrameSummary) -> str:
    """The name of the installed package that a line is of; empty where it is of none."""
    parts = Path(line.filename).parts
    places = [place for place, part in enumerate(parts) if part in PACKAGES]
    return parts[places[-1] + 1].removesuffix(".py") if places else ""


def _shown(line: traceback.FrameSummary) -> str:
    where = f"{Path(line.filename).name}, line {line.lineno}"
    code = (line.line or "").strip()
    return f"`{code[:100]}` ({where})" if code else where


def one_line(error: BaseException) -> str:
    """What an exception says, without line breaks, and cut off where it goes on and on."""
    return " ".join(str(error).split())[:300]


def counted(amount: float, noun: str) -> str:
    """`1 epoch`, `2 epochs`, `8,000 steps`."""
    return f"{amount:,} {noun}" + ("" if amount == 1 else "s")


def as_sentence(words: str) -> str:
    """`words` with a capital letter at the beginning and a full stop at the end."""
    return f"{words[:1].upper()}{words[1:]}."


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
    """A clause naming the nearest valid names, as `did you mean rmsprop?`, or all of them where none is
    near."""
    valid = sorted(valid)
    if not valid:
        return "there is nothing to choose from."
    near = nearest(name, valid)
    return f"did you mean {' or '.join(near)}?" if near else f"valid are {', '.join(valid)}."
