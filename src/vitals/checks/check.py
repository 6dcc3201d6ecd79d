"""A check before learning: what one is, and how several are made, one after the other."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitals.causes import StationKey
from vitals.checks.budget import Budget, BudgetSpent, by_what_they_tell, in_words, largest_that_fits
from vitals.checks.training_setup import Needs, TrainingSetup
from vitals.errors import UserError, failed_at, listed, reason_of
from vitals.findings import LEVELS, Finding, Level, without_consequences, worst_level
from vitals.own_time import own_time
from vitals.probes.untouched import ChangesParameters
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
    budget: Budget = field(default_factory=Budget)
    """Time for all checks; without a limit by default."""
    size: int = 0
    """To which the check is to cut itself, one of its `sizes`; 0 where it has none."""


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
    put back behind it. In a training nothing is shown of what it prints, as a step may print too.
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
        """Look at the training that is about to begin; `UserError` if the check cannot be made, with the
        reason; it is then `skipped`."""

    def wanted(self, options: Options) -> bool:
        """Whether it is to be made with these options at all."""
        return True

    def sizes(self, setup: TrainingSetup, options: Options) -> Sequence[int]:
        """How much it may look at, the whole first and then what still holds a verdict; `options.size` of
        `run` is the first for which there is time."""
        return (0,)

    def seconds(self, size: int, setup: TrainingSetup, options: Options) -> float:
        """About what `run` takes with this size, by `options.budget.pace`; 0 where that is not known."""
        return 0.0

    unit: ClassVar[str] = "samples"
    """Of its sizes."""

    def facts(self, outcome: Outcome) -> dict[str, float]:
        """Numbers by which the rules of the diagnosis may judge the training; none by default."""
        return {}

    def log(self, writer: Writer, outcome: Outcome, setup: TrainingSetup) -> None:
        """Write what was seen to a logger, at step 0; by default what `draw` makes of it.

        Args:
            writer: of one of the trainer's loggers.
            outcome: of `run`.
            setup: of `run`.
        """
        if self.picture and writer.pictures:
            figure = Figure(figsize=(6, 4), layout="constrained")
            self.draw(figure.subplots(), outcome.result)
            writer.figure(self.picture, figure, 0)

    picture: ClassVar[str] = ""
    """Tag of what `draw` draws; empty where that is nothing."""

    def draw(self, axes: Axes, result: Any) -> None:
        """Draw the `result` of an outcome."""
        return None


class CheckOfEachLoss(Check):
    """One that is made of each loss of a step by itself, with what learns by it, all else as it is. Derive
    from it and write `of_loss`.

    The outcome is that of the loss with the gravest findings; what is said of one of several names what
    learns by it.
    """

    needs = "losses"

    @abstractmethod
    def of_loss(self, setup: TrainingSetup, options: Options) -> Outcome:
        """As `run`, for the setup of one loss."""

    def run(self, setup: TrainingSetup, options: Options) -> Outcome:
        made: list[Outcome] = []
        failed: list[UserError] = []
        for each in setup.each_loss():
            try:
                outcome = self.of_loss(each, options)
            except ChangesParameters:
                raise
            except UserError as error:  # another loss may do
                failed.append(error)
                continue
            if each.of:
                found = [_of(each.of, finding) for finding in outcome.findings]
                outcome = replace(outcome, findings=found)
            made.append(outcome)
        if not made:
            raise failed[0]
        gravest = max(made, key=lambda outcome: LEVELS.index(worst_level(outcome.findings)))
        return replace(gravest, findings=of_all_losses(each for outcome in made for each in outcome.findings))


def _of(what: str, finding: Finding) -> Finding:
    """`finding` of the loss by which `what` learns; a value that it tried is none for all optimizers."""
    return replace(finding, message=f"By the loss of {what}: {finding.message}", setting=None)


@dataclass(frozen=True)
class Row:
    """One check, made or skipped."""

    check: Check
    outcome: Outcome | None
    """None where it was skipped."""
    findings: tuple[Finding, ...]
    seconds: float
    whole: float = 0.0
    """Seconds that it would have taken, where it was left out or cut for want of time; else 0."""
    cut: str = ""
    """What it was cut to, such as `64 of 128 samples`."""

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
    """A row for each of the `checks`, in their order; made, as far as there is time, the most telling first.
    None of them raises: what goes wrong becomes its finding `skipped`. `before` is called with the name of
    each check that begins."""
    rows: dict[str, Row] = {}
    for check in sorted(checks, key=lambda check: by_what_they_tell(check.name)):
        if not check.wanted(options):
            continue
        before(check.name)
        rows[check.name] = _made(check, setup, options)
    return [rows[check.name] for check in checks if check.name in rows]


def _made(check: Check, setup: TrainingSetup, options: Options) -> Row:
    budget, start = options.budget, own_time()
    outcome: Outcome | None = None
    whole, cut = 0.0, ""
    try:
        sizes = list(dict.fromkeys(check.sizes(setup, options)))
        losses = len(setup.step.optimizers) if setup.step and setup.gives == "losses" else 1
        costs = [losses * check.seconds(size, setup, options) for size in sizes]
        size = largest_that_fits(sizes, costs, budget)
        if size != sizes[0]:
            whole = costs[0]
            cut = f"{size} of {sizes[0]} {check.unit}"
        if size is None or budget.left <= 0:
            raise BudgetSpent
        with budget.stopping():
            try:
                outcome = check.run(setup, replace(options, size=size))
            except ChangesParameters:  # as a step may do in some of its batches alone
                if not setup.own_parameters():
                    raise
                outcome = check.run(setup, replace(options, size=size))
        found = list(outcome.findings)
    except BudgetSpent:
        taken = own_time() - start
        whole, cut = max(costs[0], taken), ""
        found = [skipped(check.name, _left_out(whole, taken, budget.seconds))]
    except Exception as error:  # a check must never end a training
        found = [skipped(check.name, _reason(error, setup))]
    signed = tuple(_signed(finding, check) for finding in found)
    return Row(check, outcome, signed, own_time() - start, whole, cut)


def _reason(error: Exception, setup: TrainingSetup) -> str:
    """Why a check failed: what torch says of parameters with which it cannot calculate is of no use."""
    if not isinstance(error, UserError):
        if setup.writes and not failed_at(error):  # torch minds that, once it comes to the gradient
            return str(ChangesParameters())
        parameters = setup.model.named_parameters()
        complex_ones = [f"'{name}'" for name, each in parameters if each.is_complex()]
        if complex_ones:
            return f"your module has complex parameters, {listed(complex_ones)}, which it cannot look at."
        if "sparse" in str(error).lower():
            return "your module has sparse gradients, which it cannot look at."
    return reason_of(error)


def _left_out(whole: float, taken: float, budget: float) -> str:
    if in_words(whole) == in_words(0.0):
        return f"left out, as what came before it took all of the budget of {in_words(budget)}."
    about = f"about {in_words(whole)}" if taken < whole else f"more than {in_words(taken)}"
    return f"left out, it would have taken {about}; the budget of all checks is {in_words(budget)}."


def _signed(finding: Finding, check: Check) -> Finding:
    station = check.station if finding.cause == "skipped" else finding.station
    return replace(finding, check=check.name, station=station)


def skipped(name: str, reason: str) -> Finding:
    """That the check called `name` could not be made, and why."""
    return Finding("skipped", "note", f"{name.replace('_', ' ').capitalize()}: {reason}", where=name)


def of_all_losses(findings: Iterable[Finding]) -> list[Finding]:
    """What is said of several losses, once, and that one is right only where none is wrong."""
    once = list(dict.fromkeys(findings))
    return [each for each in once if each.level != "ok"] if any(each.alarming for each in once) else once


def findings_of(rows: Sequence[Row]) -> list[Finding]:
    """The findings of all rows, consequences lowered to notes."""
    return without_consequences(finding for row in rows for finding in row.findings)
