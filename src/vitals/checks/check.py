"""A check before learning: what one is, and how several are made, one after the other."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from vitals.causes import StationKey
from vitals.checks.training_setup import Needs, TrainingSetup
from vitals.errors import UserError
from vitals.findings import Finding, Level, without_consequences, worst_level
from vitals.writers.writer import Writer


@dataclass(frozen=True)
class Options:
    """How thorough the checks are."""

    elements: int = 1
    """Elements of every parameter whose gradient is compared, besides the largest."""
    burn_in_steps: int = 0
    """Steps of training on a copy before a second check of the gradient; 0 for none."""
    tiny_subset_steps: int = 300
    """Steps in which twenty examples must be learned."""
    samples: int = 1024
    """Training samples to look at."""


@dataclass(frozen=True)
class Outcome:
    """What a check has to say."""

    findings: Sequence[Finding]
    seen: str
    """A few words, for the table of verdicts."""
    expected: str
    """What a right training would show, as short."""
    result: Any = None
    """All that was measured, for those who want to look at it."""


class Check(ABC):
    """One check before learning. Derive from it, give it a name, and write `run`.

    A check must leave the training as it is: take copies by `vitals.probes.trial.trial`. Random states are
    put back behind it.
    """

    name: ClassVar[str]
    """In lower case, with underscores; stands in the table, in each of its findings and in the options."""
    station: ClassVar[StationKey] = "before"
    """Station of the course at which the report says that it could not be made."""
    needs: ClassVar[Needs] = "class numbers"
    """What the training must have for it: see `vitals.checks.training_setup.Needs`."""
    fewest: ClassVar[int] = 1
    """Samples below which it is not made."""

    @abstractmethod
    def run(self, setup: TrainingSetup, options: Options) -> Outcome:
        """Look at the training that is about to begin.

        Raises:
            UserError: if the check cannot be made, with the reason; it is then `skipped`.
        """

    def wanted(self, options: Options) -> bool:
        """Whether it is to be made with these options at all."""
        return True

    def log(self, writer: Writer, outcome: Outcome, setup: TrainingSetup) -> None:
        """Write what was seen to a logger, at step 0; nothing by default.

        Args:
            writer: of one of the trainer's loggers.
            outcome: of `run`.
            setup: of `run`.
        """
        return None


@dataclass(frozen=True)
class Row:
    """One check, made or skipped."""

    check: Check
    outcome: Outcome | None
    """None where it was skipped."""
    findings: tuple[Finding, ...]
    seconds: float

    @property
    def name(self) -> str:
        """Of the check."""
        return self.check.name

    @property
    def said(self) -> tuple[str, str]:
        """What was seen, and what was expected."""
        return (self.outcome.seen, self.outcome.expected) if self.outcome else ("–", "–")

    @property
    def result(self) -> Any:
        """What the check measured; None where it was skipped."""
        return self.outcome and self.outcome.result

    @property
    def level(self) -> Level:
        """The gravest of its findings."""
        return worst_level(self.findings)

    @property
    def verdict(self) -> str:
        """Its level, or `skipped`."""
        skipped = all(finding.cause == "skipped" for finding in self.findings)
        return "skipped" if self.findings and skipped else self.level


def run_checks(
    setup: TrainingSetup,
    options: Options,
    checks: Sequence[Check],
    before: Callable[[str], None] = lambda name: None,
) -> list[Row]:
    """Make the `checks` one after the other; none of them raises.

    What goes wrong inside a check becomes its finding `skipped`. `before` is called with the name of each
    check that begins.
    """
    rows = []
    for check in checks:
        if not check.wanted(options):
            continue
        before(check.name)
        start = time.perf_counter()
        outcome: Outcome | None = None
        try:
            outcome = check.run(setup, options)
            found = list(outcome.findings)
        except Exception as error:  # a check must never end a training
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            outcome = None
            found = [skipped(check.name, str(error) if isinstance(error, UserError) else reason)]
        signed = tuple(_signed(finding, check) for finding in found)
        rows.append(Row(check, outcome, signed, time.perf_counter() - start))
    return rows


def _signed(finding: Finding, check: Check) -> Finding:
    station = check.station if finding.cause == "skipped" else finding.station
    return replace(finding, check=check.name, station=station)


def skipped(name: str, reason: str) -> Finding:
    """That the check called `name` could not be made, and why."""
    return Finding("skipped", "note", f"{name.replace('_', ' ').capitalize()}: {reason}", where=name)


def findings_of(rows: Sequence[Row]) -> list[Finding]:
    """The findings of all rows, consequences lowered to notes."""
    return without_consequences(finding for row in rows for finding in row.findings)
