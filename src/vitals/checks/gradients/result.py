"""What a gradient check found: a row for each element, a summary of each parameter, and findings, each with
the place nearest to the fault."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from math import prod
from statistics import median

from vitals.checks.gradients.difference import TOO_SMALL, UNCOMFORTABLE, Estimate, relative_error
from vitals.checks.gradients.functional_loss import Part
from vitals.errors import listed
from vitals.findings import Finding, Level, ranked

PROBABLY_WRONG = 1e-2
ENOUGH = 3
"""Elements free of kinks below which nothing is said about a parameter."""
DECAY_TOO_STRONG = 1.0
"""‖gradient of the penalty‖ / ‖gradient of the data loss‖ above which the penalty rules."""


@dataclass(frozen=True)
class BurnIn:
    """How far a burn-in went."""

    steps: int
    loss_before: float
    loss_after: float

    def __str__(self) -> str:
        return f"step {self.steps}, loss {self.loss_before:.4g}→{self.loss_after:.4g}"


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
        """Rows whose step went across a kink, as of a ReLU, so that they say nothing."""
        return sum(row.kink for row in self.rows)

    @property
    def too_small(self) -> int:
        """Further rows whose gradients are too small to be compared."""
        return sum(row.too_small for row in self.rows if not row.kink)

    @property
    def relative_errors(self) -> list[float]:
        """Of the rows that count."""
        return [row.relative_error for row in self.rows if row.counts]

    @property
    def max_error(self) -> float | None:
        """The largest relative error of the rows that count; None without any."""
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
    """Relative error, beyond rounding and truncation, up to which a gradient is right: in a smooth loss right
    ones stay well below 1e-6 (measured)."""
    return UNCOMFORTABLE if has_kinks else 1e-6


@dataclass(frozen=True)
class GradientCheck:
    """The result of `check_gradients`."""

    summaries: tuple[ParameterSummary, ...]
    """Of every trainable parameter and floating-point input, in each part of the loss that was checked."""
    loss: float
    loss_scale: float
    """Power of two by which the loss was multiplied, so that its largest gradient is about 1."""
    samples: int
    burn_in: BurnIn | None = None
    """The training before the check; None where the model was checked as it is."""
    spread: float = 0.0
    """Difference of two evaluations at the same point with the same seed, where it is more than rounding."""
    decay_ratios: tuple[tuple[str, float], ...] = ()
    """Group of parameters, and ‖gradient of the penalty‖ / ‖gradient of the data loss‖ in it."""
    tensors: int = 0
    """Parameters and inputs that there are; fewer may have been compared."""
    skipped: str = ""
    """Why nothing was checked; empty where it was."""

    @property
    def rows(self) -> list[Comparison]:
        """One row per checked element and part of the loss."""
        return [row for summary in self.summaries for row in summary.rows]

    @property
    def relative_errors(self) -> list[float]:
        """Of all rows that count, for a histogram."""
        return [error for summary in self.summaries for error in summary.relative_errors]

    @property
    def max_error(self) -> float | None:
        """The largest of them; None without any."""
        return max(self.relative_errors, default=None)

    def findings(self) -> list[Finding]:
        """What is wrong, the most important first; `gradients-correct` where nothing is."""
        if self.skipped:
            seen = f"The gradients were not checked: {self.skipped}."
            return [Finding("skipped", "note", seen, where="loss")]
        if self.spread:
            return [_not_deterministic(self.spread)]
        summaries, found = self.summaries, list[Finding]()
        for part in ("data", "penalty", "both"):
            of_part = [summary for summary in summaries if summary.part == part]
            if found := _not_finite(of_part) or _wrong(of_part):
                break  # a fault of one part is also one of both together
        else:
            found = _correct(summaries) + _vanishing(summaries) + _zero(summaries)
        found += _undecided(summaries)
        found += [_decay_too_strong(*group) for group in self.decay_ratios if group[1] > DECAY_TOO_STRONG]
        if self.burn_in:
            seen, step = f" (checked at {self.burn_in}).", self.burn_in.steps
            found = [replace(f, message=f.message.removesuffix(".") + seen, step=step) for f in found]
        return ranked(found)

    def table(self) -> str:
        """A table with one line per parameter and part of the loss."""
        head = ("parameter", "shape", "part", "depth", "checked", "kinks", "too small", "median", "max")
        lines = [(*head, "verdict"), *(_cells(summary) for summary in self.summaries)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        title = f"Gradients of the loss ({self.loss:.6g}) × {self.loss_scale:g}, {self.samples} samples"
        if self.burn_in:
            title += f", at {self.burn_in}"
        return "\n".join([title, *("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)])

    def __str__(self) -> str:
        return self.table() + "\n" + "\n".join(f"{f.level}: {f.message} {f.remedy}" for f in self.findings())


def _cells(summary: ParameterSummary) -> Sequence[str]:
    errors = summary.relative_errors
    return (
        summary.parameter,
        "×".join(map(str, summary.shape)) or "scalar",
        summary.part,
        str(summary.depth),
        str(len(summary.rows)),
        str(summary.kinks),
        str(summary.too_small),
        *(f"{of(errors):.1e}" if errors else "-" for of in (median, max)),
        {"note": "skipped"}.get(summary.level, summary.level),
    )


def _not_deterministic(spread: float) -> Finding:
    seen = (
        "Non-deterministic forward: two evaluations at the same point with the same random seed differ by "
        f"{spread:.2g}, so that no gradient can be checked."
    )
    remedy = (
        "Look for a random generator of the module's own, a counter or a cache that changes with every call."
    )
    return Finding("wrong-gradient", "fail", seen, remedy, "loss", spread, 0.0)


def _not_finite(summaries: Sequence[ParameterSummary]) -> list[Finding]:
    bad = sorted((s for s in summaries if not s.finite), key=lambda summary: summary.order)
    if not bad:
        return []
    name = bad[-1].parameter
    seen = f"The loss is finite, but its gradient with respect to {name} is not{_others(bad[:-1])}."
    remedy = "Look for a root, logarithm, norm or division at zero behind it, and keep that away from zero."
    return [Finding("non-finite-loss", "fail", seen, remedy, name)]


def _wrong(summaries: Sequence[ParameterSummary]) -> list[Finding]:
    """One finding, at the wrong tensor nearest to the loss: those before it inherit its error. Where all are
    cut off from the loss, no backward is wrong, but none is asked for."""
    bad = sorted((s for s in summaries if s.level in ("warn", "fail")), key=lambda summary: summary.order)
    if not bad or bad[-1].worst is None:
        return []
    nearest, upstream = bad[-1], bad[:-1]
    level: Level = "fail" if any(summary.level == "fail" for summary in bad) else "warn"
    row = bad[-1].worst
    of_part = {"data": "", "penalty": " of the penalty", "both": " of loss and penalty together"}[row.part]
    message = (
        f"The gradient{of_part} with respect to {nearest.parameter} {_element(row)} is {row.analytic:.6g} by "
        f"backward and {row.numeric:.6g} by centred difference (relative error {row.relative_error:.2g})"
        f"{_others(upstream)}."
    )
    after = [
        s.parameter for s in sorted(summaries, key=lambda s: s.order) if s.order > nearest.order and s.enough
    ]
    until = f" and before {after[0]}" if after else ""
    if all(other.analytic == 0 for other in nearest.rows):
        remedy = (
            f"No gradient reaches {nearest.parameter}, though the loss depends on it: look for detach(), "
            f".data, no_grad() or item() behind it{until}."
        )
    elif upstream:
        remedy = (
            f"Compare backward with forward in what stands behind {nearest.parameter}{until}, and in the "
            "operation that uses it."
        )
    else:
        remedy = f"Compare backward with forward in the operation that uses {nearest.parameter}."
    cause = "frozen-parameters" if all(summary.detached for summary in bad) else "wrong-gradient"
    return [Finding(cause, level, message, remedy, nearest.parameter, row.relative_error, nearest.limit)]


def _vanishing(summaries: Sequence[ParameterSummary]) -> list[Finding]:
    small = _vanished(summaries)
    if not small:
        return []
    seen = (
        f"The gradient with respect to {listed([s.parameter for s in small])} is below {TOO_SMALL:g} of "
        "the largest in the model, too small to be checked."
    )
    remedy = "Look at initialization, saturating activations and normalization."
    largest = max(summary.largest_gradient for summary in small)
    return [Finding("vanishing-gradients", "warn", seen, remedy, small[-1].parameter, largest, TOO_SMALL)]


def _zero(summaries: Sequence[ParameterSummary]) -> list[Finding]:
    vanished = _vanished(summaries)
    names = [s.parameter for s in summaries if s.part == "data" and _is_tiny(s) and s not in vanished]
    if not names:
        return []
    seen = f"The gradient with respect to {listed(names)} is zero, by backward and by centred difference."
    remedy = (
        "Such is a bias that cancels out, before a normalization layer or a softmax, as of attention's keys, "
        "or in a loss of differences; and what stands before weights that begin at zero, as in an adapter, "
        "or gets none of these few samples, as an expert. Otherwise see whether the forward uses it."
    )
    if len(names) == sum(s.part == "data" for s in summaries):
        remedy = "The loss of these few samples is flat, as where a margin is kept already: check with more."
    return [Finding("gradients-correct", "note", seen, remedy, names[0], 0.0)]


def _undecided(summaries: Sequence[ParameterSummary]) -> list[Finding]:
    kinked = [s.parameter for s in summaries if s.finite and s.level == "note"]
    noisy = [
        s.parameter
        for s in summaries
        if s.finite and s.enough and _all_too_small(s) and s.largest_gradient >= TOO_SMALL
    ]
    kinks = "kinks of max-like operations lie within the smallest step, or functions with steps behind it."
    fewer = "Check with fewer examples, which have fewer kinks; past steps there is nothing to compare with."
    rounding = "it is drowned by the rounding errors of the loss."
    exacter = "Check in float64, and with a loss that does not subtract large numbers from each other."
    found = []
    for names, why, remedy in ((kinked, kinks, fewer), (noisy, rounding, exacter)):
        if names:
            seen = f"The gradient with respect to {listed(names)} was not checked: {why}"
            found.append(Finding("skipped", "note", seen, remedy, names[0]))
    return found


def _decay_too_strong(group: str, ratio: float) -> Finding:
    seen = f"The penalty's gradient is {ratio:.2g} times as large as that of the data loss in {group}."
    remedy = "Lower the weight decay until the data loss decides where the weights go."
    return Finding("regularization-too-strong", "warn", seen, remedy, group, ratio, DECAY_TOO_STRONG)


def _correct(summaries: Sequence[ParameterSummary]) -> list[Finding]:
    checked = [summary for summary in summaries if summary.relative_errors]
    errors = [error for summary in checked for error in summary.relative_errors]
    if not checked:
        return []
    tensors = len({summary.parameter for summary in checked})
    seen = (
        f"{len(errors)} elements of {tensors} tensors agree with centred differences: relative error "
        f"{median(errors):.1e} in the median, {max(errors):.1e} at most."
    )
    limit = max(summary.limit for summary in checked)
    return [Finding("gradients-correct", "ok", seen, value=max(errors), threshold=limit)]


def _vanished(summaries: Sequence[ParameterSummary]) -> list[ParameterSummary]:
    """The tensors whose gradients became too small on the way back: those the forward uses first. A tiny one
    between larger ones is no such thing, but a zero that rounding disguises."""
    used = sorted((s for s in summaries if s.part == "data" and s.order >= 0), key=lambda s: s.order)
    first = list(takewhile(_is_tiny, used))
    return [] if all(s.largest_gradient <= s.zero_below for s in first) else first


def _all_too_small(summary: ParameterSummary) -> bool:
    smooth = [row for row in summary.rows if not row.kink]
    return bool(smooth) and all(row.too_small for row in smooth)


def _is_tiny(summary: ParameterSummary) -> bool:
    return summary.largest_gradient < TOO_SMALL and _all_too_small(summary)


def _element(row: Comparison) -> str:
    if row.index is None:
        return "along a random direction"
    return f"at {list(row.index)}" if row.index else "(a single number)"


def _others(summaries: Sequence[ParameterSummary]) -> str:
    names = [summary.parameter for summary in summaries]
    return f"; so are those of {listed(names)}" if names else ""
