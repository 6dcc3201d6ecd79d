"""What curves alone say, of a training that nobody watched but a logger.

These rules need no more than losses, accuracies and rates by epochs, with errors estimated from how the
points scatter; negative losses, as of a likelihood, are judged where their ratio does not matter.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitals.causes import Cause, register
from vitals.diagnosis.diagnose import RULES, Rule, diagnose
from vitals.diagnosis.generalization import RISEN, overfitting
from vitals.diagnosis.run import Run
from vitals.findings import Finding, Level
from vitals.history import History
from vitals.measures.counts import CERTAIN

Numbers = NDArray[np.float64]

register(Cause("loss-does-not-fall", "the training loss stays where it began", "loss", symptom=True))
register(Cause("accuracy-constant", "an accuracy is the same in every epoch", "accuracy", symptom=True))
register(Cause("loss-level", "the training loss has come to rest", "loss", fault=False))
register(Cause("loss-noisy", "the loss scatters widely around its mean", "loss", fault=False))

FLAT = 0.02
"""Share of the loss by which it must at least have moved to count as moving."""
QUIET = 0.05
"""Scatter of a loss, as a share of it, up to which flatness means something."""
BY_HEART = 0.35
"""Training accuracy above that of validation of a set that is learned by heart."""
JUMP = 2.0
"""Times the rate of before that count as a change of it upwards."""


def diagnose_curves(history: History) -> list[Finding]:
    """The findings that the curves of a record allow, most important first; none for a healthy one."""
    run = Run(history)
    ratios = min(run.losses, default=1.0) > 0  # what is judged by ratios of a loss needs a positive one
    others = [rule for rule in RULES if rule is not overfitting]  # `validation_rises` knows its errors
    return diagnose(run, [], [*(others if ratios else ()), *CURVE_RULES])


def points(run: Run, tag: str) -> tuple[Numbers, Numbers]:
    """Epochs and values of a curve, those that are not finite left out."""
    series = run.history.series(tag)
    epochs, values = np.array(series.epochs, dtype=float), np.array(series.values, dtype=float)
    there = np.isfinite(values)
    return epochs[there], values[there]


def scatter(values: Numbers) -> float:
    """Standard deviation of a point around the trend, from successive differences; 0 for fewer than three."""
    if len(values) < 3:
        return 0.0
    bends = values[2:] - 2 * values[1:-1] + values[:-2]  # a straight line has none
    return float(np.sqrt(np.mean(bends**2) / 6))


@dataclass(frozen=True)
class Turn:
    """Where a curve, averaged over a window, is lowest."""

    epoch: float
    lowest: float
    start: float
    end: float
    """The first and the last of the averages."""
    error: float
    """Standard error of the difference of two of them; 0 for a curve without scatter."""
    later: int
    """Averages that follow on the lowest."""

    @property
    def certain(self) -> bool:
        """Whether it has risen since by more than chance alone brings."""
        return self.end - self.lowest > CERTAIN * self.error

    @property
    def errors(self) -> str:
        """By how many standard errors it has risen, in words; empty where it does not scatter."""
        return f" (by {(self.end - self.lowest) / self.error:.0f} standard errors)" if self.error > 0 else ""


def turn_of(epochs: Numbers, values: Numbers, window: int) -> Turn:
    """The turn of `values` (n,), averaged over `window` of them, n at the most."""
    smooth = np.convolve(values, np.ones(window) / window, "valid")
    place = int(smooth.argmin())
    error = scatter(values) * math.sqrt(2 / window)
    ends = float(smooth[place]), float(smooth[0]), float(smooth[-1])
    return Turn(float(epochs[place + window // 2]), *ends, error, len(smooth) - 1 - place)


def training_loss(run: Run) -> tuple[Numbers, Numbers]:
    """Of epochs where there are enough of them, else of steps, these in at most 50 means."""
    epochs, values = points(run, "loss/train")
    if len(values) >= 3:
        return epochs, values
    epochs, values = points(run, "loss/train_step")
    parts = min(50, len(values) // 5)
    if parts < 3:
        return epochs, values
    split = (np.array_split(column, parts) for column in (epochs, values))
    return tuple(np.array([part.mean() for part in column]) for column in split)  # type: ignore[return-value]


def not_finite(run: Run) -> Iterator[Finding]:
    """A loss that is NaN or infinite: for good, or now and then."""
    for name in ("training", "validation"):
        for tag in ("loss/train", "loss/train_step") if name == "training" else ("loss/val",):
            series = run.history.series(tag)
            bad = [place for place, value in enumerate(series.values) if not math.isfinite(value)]
            if not bad:
                continue
            lasting, first = bad[-1] == len(series) - 1, bad[0]
            since = f"in {len(bad)} of {len(series)} measurements"
            if lasting:
                first = next(place for place in range(bad[-1], -2, -1) if place not in bad) + 1
                since = f"from {_when(run, series.epochs[first])} to the end, {since}"
            message = f"The {name} loss is not a finite number {since}."
            remedy = (
                "Lower the learning rate, clip the gradients, and look for divisions by zero and logarithms "
                "of zero."
            )
            step, epoch = series.steps[first], round(series.epochs[first], 4)
            severity: Level = "fail" if lasting else "warn"
            yield Finding("non-finite-loss", severity, message, remedy, tag, step=step, epoch=epoch)
            break


def rises(run: Run) -> Iterator[Finding]:
    """The training loss ends above where it began, or has lost more than half of what it had gained."""
    epochs, loss = training_loss(run)
    if len(loss) < 3:
        return
    if loss[-1] > 2 * loss[0] > 0 and loss[1:].min() > loss[0]:
        message = f"The training loss rose from {loss[0]:.3g} to {loss[-1]:.3g} and was never as low again."
        remedy = "Lower the learning rate tenfold, or warm up."
        fault = ("learning-rate-too-high", "fail", message, remedy, "loss/train", loss[-1], 2 * loss[0])
        yield _found(run, *fault)
        return
    if len(loss) < 8:
        return
    turn = turn_of(epochs, loss, max(2, len(loss) // 10))
    gained = turn.start - turn.lowest
    halfway = turn.lowest + gained / 2
    fell = gained > max(FLAT * abs(turn.start), CERTAIN * turn.error)
    if fell and turn.end > halfway and turn.certain and not _rate_rises(run, turn.epoch):
        message = (
            f"The training loss fell to {turn.lowest:.3g} by {_when(run, turn.epoch)}, and rose again to "
            f"{turn.end:.3g}"
        )
        message += f", more than half of the way back to {turn.start:.3g}{turn.errors}" if turn.errors else ""
        remedy = "Lower the learning rate, or let it decay."
        values = "loss/train", turn.end, halfway
        yield _found(run, "learning-rate-too-high", "warn", f"{message}.", remedy, *values)


def never_falls(run: Run) -> Iterator[Finding]:
    """The training loss is level from the first to the last, at a scatter that would show a change."""
    epochs, loss = training_loss(run)
    if len(loss) < 5 or not loss[0] > 0:
        return
    quarter = max(2, len(loss) // 4)
    start, end = float(loss[:quarter].mean()), float(loss[-quarter:].mean())
    noise = scatter(loss)
    if abs(start - end) > FLAT * start or np.ptp(loss) > 5 * FLAT * start or noise > QUIET * start:
        return
    if abs(loss[0] - end) > FLAT * start or _gets_better(run):
        return
    error = noise * math.sqrt(2 / quarter)
    message = (
        f"The training loss went from {start:.4g} to {end:.4g} in {_length(run, epochs)} "
        f"(standard error {error:.1g}): nothing was learned in that time."
    )
    remedy = (
        "Look whether gradients reach the weights and the labels belong to their inputs, and try ten times "
        "and a tenth of the learning rate."
    )
    yield _found(run, "loss-does-not-fall", "warn", message, remedy, "loss/train", end, start * (1 - FLAT))


def level(run: Run) -> Iterator[Finding]:
    """The training loss has fallen and come to rest in the first half."""
    epochs, loss = training_loss(run)
    if len(loss) < 12 or not loss.min() > 0:
        return
    quarter = len(loss) // 4
    before, end = float(loss[2 * quarter : 3 * quarter].mean()), float(loss[-quarter:].mean())
    if loss[0] - end > 0.1 * loss[0] and abs(before - end) < 0.01 * end and scatter(loss) < QUIET * end:
        message = f"The training loss has been level at {end:.3g} since {_when(run, epochs[2 * quarter])}."
        remedy = "Stop earlier, or lower the learning rate there."
        yield _found(run, "loss-level", "note", message, remedy, "loss/train", end)


def validation_rises(run: Run) -> Iterator[Finding]:
    """The validation loss turns up for certain while the training loss falls; or all is learned by heart."""
    epochs, validation = points(run, "loss/val")
    at, loss = training_loss(run)
    remedy = "Take more or augmented data, weight decay or dropout, or a smaller network."
    if len(validation) >= 5 and len(loss) >= 3:
        turn = turn_of(epochs, validation, max(2, len(validation) // 8))
        when, limit = _when(run, turn.epoch), RISEN * turn.lowest
        falls = float(loss[-1]) < float(np.interp(turn.epoch, at, loss)) * (1 - 2 * FLAT)
        if falls and turn.end > limit > 0 and turn.certain:
            message = (
                f"The validation loss rose from {turn.lowest:.3g} around {when} to {turn.end:.3g}"
                f"{turn.errors}, while the training loss fell on to {loss[-1]:.3g}."
            )
            remedy = f"Stop around {when}, {remedy[0].lower()}{remedy[1:]}"
            yield _found(run, "overfitting", "warn", message, remedy, "loss/val", turn.end, limit)
    gap = run.accuracy("train") - run.accuracy("val")
    if gap > BY_HEART and len(points(run, "accuracy/val")[1]) >= 3 and run.accuracy("train") > 0.9:
        message = (
            f"{run.accuracy('train'):.0%} of the training examples are right, and {run.accuracy('val'):.0%} "
            f"of those of the validation."
        )
        yield _found(run, "overfitting", "warn", message, remedy, "accuracy/val", gap, BY_HEART)


def accuracy_constant(run: Run) -> Iterator[Finding]:
    """An accuracy that is the same to the last digit: one answer for every input."""
    for part, name in (("val", "validation"), ("train", "training")):
        _, values = points(run, f"accuracy/{part}")
        if len(values) >= 5 and np.ptp(values) < 1e-9 and 0 < values[0] < 0.99:
            message = (
                f"The {name} accuracy is {values[0]:.2%} in all of its {len(values)} measurements, as of a "
                f"network that gives the same class for every input."
            )
            remedy = (
                "Look at the predictions, at the mode in which the network is evaluated, and at the rate."
            )
            yield _found(run, "accuracy-constant", "warn", message, remedy, f"accuracy/{part}", values[0])


def rate_curve(run: Run) -> Iterator[Finding]:
    """A learning rate of zero, one that is over too early, and steps of it that throw the loss up."""
    epochs, rates = _rates(run)
    if len(rates) < 3:
        return
    peak = float(rates.max())
    if peak == 0:
        message = f"The learning rate is 0 in all of its {len(rates)} measurements."
        yield _found(run, "learning-rate-too-low", "fail", message, "Look at the schedule.", "lr", 0.0, 0.0)
        return
    end = max(epochs[-1], *(points(run, tag)[0][-1:].max(initial=0.0) for tag in ("loss/train", "loss/val")))
    start = epochs[0]
    alive = epochs[np.flatnonzero(rates >= 1e-3 * peak)[-1]]
    if len(rates) >= 5 and rates[-1] < 1e-3 * peak and alive - start < 0.5 * (end - start):
        message = (
            f"The learning rate is below a thousandth of its peak of {peak:.3g} since {_when(run, alive)} of "
            f"{end:.0f}: the rest of the run trained next to nothing."
        )
        remedy = "Let the rate decay over the whole run, or stop there."
        yield _found(run, "learning-rate-too-low", "warn", message, remedy, "lr", rates[-1], 1e-3 * peak)
    at, loss = training_loss(run)
    for place in range(2, len(rates)):
        before = rates[place - 1]
        warming = before >= rates[:place].max() and before > rates[place - 2]
        if not rates[place] >= JUMP * before > 0 or warming:
            continue
        old, new = loss[at <= epochs[place - 1]][-5:], loss[at >= epochs[place]][:5]
        if len(old) < 2 or len(new) < 2:
            continue
        error = scatter(loss) * math.sqrt(1 / len(old) + 1 / len(new))
        if new.mean() - old[-1] > max(CERTAIN * error, 0.2 * abs(old[-1])):
            stays = loss[-1] > old[-1]
            message = (
                f"When the learning rate went from {before:.3g} to {rates[place]:.3g} at "
                f"{_when(run, epochs[place])}, the training loss rose from {old[-1]:.3g} to {new.mean():.3g}"
                f"{' and did not come back' if stays else ', and came back later'}."
            )
            severity = "warn" if stays else "note"
            remedy = f"Go up to {before * JUMP:.1g} at most, or step by step." if stays else ""
            yield _found(run, "learning-rate-too-high", severity, message, remedy, "lr", rates[place], before)
            return


def noisy(run: Run) -> Iterator[Finding]:
    """The loss of the steps scatters by more than half of its size."""
    losses = np.array(run.losses)
    if len(losses) < 30 or not losses.min() > 0:
        return
    tail = losses[len(losses) // 2 :]
    share = scatter(tail) / float(tail.mean())
    if share > 0.5:
        message = f"From one measurement to the next the training loss scatters by {share:.0%} of its mean."
        remedy = "A larger batch, or a smaller rate, makes it smoother."
        yield _found(run, "loss-noisy", "note", message, remedy, "loss/train_step", share, 0.5)


CURVE_RULES: tuple[Rule, ...] = (
    not_finite,
    rises,
    rate_curve,
    never_falls,
    accuracy_constant,
    validation_rises,
    level,
    noisy,
)


def _found(
    run: Run, cause: str, level: str, message: str, remedy: str, where: str, value: Any, threshold: Any = None
) -> Finding:
    """A finding of the end of the record."""
    epochs, _ = training_loss(run)
    limit, epoch = threshold and float(threshold), round(float(epochs[-1]), 4) if len(epochs) else 0.0
    return Finding(cause, level, message, remedy, where, float(value), limit, epoch=epoch)  # type: ignore[arg-type]


def _rates(run: Run) -> tuple[Numbers, Numbers]:
    curves = [points(run, tag) for tag in run.history.tags("lr/")]
    return max(curves, key=lambda curve: len(curve[1]), default=(np.empty(0), np.empty(0)))


def _rate_rises(run: Run, since: float) -> bool:
    epochs, rates = _rates(run)
    later = rates[epochs >= since]
    return len(later) > 1 and later.max() > 1.2 * later[0]


def _gets_better(run: Run) -> bool:
    """Whether another curve says that something was learned after all."""
    for tag in ("accuracy/train", "accuracy/val"):
        _, values = points(run, tag)
        if len(values) and (values[-1] - values[0] > 0.02 or values[-1] > 0.9):
            return True
    _, validation = points(run, "loss/val")
    return len(validation) > 1 and validation[0] - validation[-1] > FLAT * abs(validation[0])


def _unit(run: Run) -> str:
    """What the axis counts: a record without epochs counts steps."""
    series = run.history.series("loss/train_step") or run.history.series("loss/train")
    return "step" if len(series) and series.epochs[-1] == series.steps[-1] > 0 else "epoch"


def _when(run: Run, epoch: float) -> str:
    return f"{_unit(run)} {epoch:,.0f}" if epoch >= 10 else f"{_unit(run)} {epoch:.2g}"


def _length(run: Run, epochs: Numbers) -> str:
    return f"{epochs[-1]:,.0f} {_unit(run)}s" if epochs[-1] >= 1 else f"{len(epochs)} measurements"
