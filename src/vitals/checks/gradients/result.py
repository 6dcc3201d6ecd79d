"""What a gradient check found: figures, findings and a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from vitals.checks.gradients.comparison import BurnIn, Comparison, ParameterSummary
from vitals.checks.gradients.findings import findings_of
from vitals.findings import Finding


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
        return [row.relative_error for row in self.rows if row.counts]

    @property
    def max_error(self) -> float | None:
        """Relative, 0 to 2, over the rows that count; None where none does."""
        return max(self.relative_errors, default=None)

    def findings(self) -> list[Finding]:
        """What is wrong, the most important first; `gradients-correct` where nothing is."""
        return findings_of(self.summaries, self.decay_ratios, self.burn_in, self.spread, self.skipped)

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
