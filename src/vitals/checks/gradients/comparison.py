"""The comparisons that a gradient check makes: of each element, and a summary of each parameter."""

from dataclasses import dataclass
from math import prod

from vitals.checks.gradients.difference import UNCOMFORTABLE, Estimate, relative_error
from vitals.checks.gradients.functional_loss import Part
from vitals.findings import Level


@dataclass(frozen=True)
class BurnIn:
    """How far a burn-in went."""

    steps: int
    loss_before: float
    loss_after: float

    def __str__(self) -> str:
        return f"step {self.steps}, loss {self.loss_before:.4g}→{self.loss_after:.4g}"


PROBABLY_WRONG = 1e-2
ENOUGH = 3
"""Elements free of kinks below which nothing is said about a parameter."""


@dataclass(frozen=True)
class Comparison(Estimate):
    """One checked element. Gradients are those of the loss times `GradientCheck.loss_scale`."""

    parameter: str
    """Name of a parameter, or `input`."""
    index: tuple[int, ...] | None
    """The element; None for the slope along a random direction through all elements at once."""
    part: Part

    @property
    def relative_error(self) -> float:
        """|a − n| / max(|a|, |n|), between 0 and 2."""
        return relative_error(self.analytic, self.numeric)

    @property
    def counts(self) -> bool:
        """Whether the row says something about the gradient."""
        return not self.kink and not self.too_small

    @property
    def unexplained(self) -> float:
        """The part of the relative error that rounding and truncation do not explain."""
        largest = max(abs(self.analytic), abs(self.numeric))
        if not self.counts or not largest:
            return 0.0
        return max(0.0, abs(self.analytic - self.numeric) - self.uncertainty) / largest


@dataclass(frozen=True)
class ParameterSummary:
    """All rows of one parameter, or of an input, in one part of the loss."""

    parameter: str
    shape: tuple[int, ...]
    depth: int
    """Layers with parameters from this one to the loss, itself included; 0 where it is not used."""
    order: int
    """Position of its first use in the forward; −1 where the forward does not use it."""
    largest_gradient: float
    """The largest |analytic| of all its elements, checked or not."""
    zero_below: float
    """Rounding error of its analytic gradient: what is below it is zero."""
    limit: float
    """Relative error, beyond rounding and truncation, that is still right."""
    finite: bool
    """Whether the backward gives finite numbers throughout."""
    detached: bool
    """Whether no backward leads to it from the loss at all."""
    part: Part
    rows: tuple[Comparison, ...]

    @property
    def kinks(self) -> int:
        return sum(row.kink for row in self.rows)

    @property
    def too_small(self) -> int:
        return sum(row.too_small for row in self.rows if not row.kink)

    @property
    def relative_errors(self) -> list[float]:
        """Of the rows that count."""
        return [row.relative_error for row in self.rows if row.counts]

    @property
    def max_error(self) -> float | None:
        return max(self.relative_errors, default=None)

    @property
    def worst(self) -> Comparison | None:
        """The row with the largest unexplained error; of equal ones an element before a direction."""
        smooth = [row for row in self.rows if row.counts]
        return max(smooth, key=lambda row: (row.unexplained, row.index is not None), default=None)

    @property
    def enough(self) -> bool:
        """Whether enough elements are free of kinks for a verdict, or a direction through all of them is."""
        smooth = [row for row in self.rows if not row.kink]
        through_all = any(row.index is None for row in smooth)
        return through_all or len(smooth) >= min(ENOUGH, prod(self.shape))

    @property
    def level(self) -> Level:
        """`fail` or `warn` where the gradient is wrong, `note` where too little could be checked."""
        error = self.worst.unexplained if self.worst else 0.0
        if not self.finite or error > PROBABLY_WRONG:
            return "fail"
        if error > self.limit:
            return "warn"
        return "ok" if self.enough else "note"


def error_limit(has_kinks: bool) -> float:
    """Relative error, beyond rounding and truncation, up to which a gradient is right.

    In a smooth loss 1e-4 is too much (cs231n); there right gradients stay well below 1e-6 (measured).
    """
    return UNCOMFORTABLE if has_kinks else 1e-6
