"""Is the learning rate too high or too low? And is the batch too small for it?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from vitals.diagnosis.modes import evaluation_at_chance, statistics_apart
from vitals.diagnosis.run import BARELY, GUESSED, Run, needs
from vitals.diagnosis.signal import FROM_ZERO, LARGE_UPDATE, DeadLayer, death, largest_update, starved
from vitals.errors import listed
from vitals.findings import Finding, Level
from vitals.history import Series
from vitals.measures.counts import CERTAIN
from vitals.probes.rate_probe import JUDGED
from vitals.probes.rate_search import STEPS, rate_helps, rate_remedy

THROWN = 0.3
"""Update:weight ratio that throws a layer away."""
OUTGROWN = 2.0
"""Times its first norm to which the typical weight has grown where steps have put out a layer: 2.9 behind a
warm-up to 300 times the rate of a transformer (measured)."""
OVERWRITTEN = 1.0
"""Median update:weight ratio of the first step that leaves nothing of the weights that were drawn."""
TINY_UPDATE = 1e-4
SMALL_UPDATE = 1e-3
"""The ratio that Karpathy's rule of thumb aims at; smaller ones are no fault by themselves."""
FAR_LEFT = 0.6
"""Share of the first loss above which much is left to learn."""
FINE_TUNING = 1e-4
"""A rate up to which weights are usually ones that were trained before."""
THAWED_STEPS, FORGOTTEN = 10, 1.15
"""Steps over which the loss before and after layers begin to train is averaged, and times the former that it
is at best afterwards where they have lost what they knew."""
ROUNDING = 1e-6
"""Share of the largest rate below which one under zero is rounding, as where torch's LinearLR ends at
zero."""
EXCHANGED = 0.05
"""By how much Adam's first beta is above its second where they are exchanged."""
LARGE_EPSILON = 0.1
"""Adam's eps from which it divides most gradients by that, and not by their size."""
TINY_BATCH = 8
"""Samples up to which the gradient of a batch is mostly noise."""
FEW_SAMPLES = 300
"""Samples seen up to which it is the run that is short, whatever the batch."""
ENOUGH = 32
"""Samples of the batches that are named instead."""
DIVERGED = 2.0
"""Times the loss of an untrained network."""
PASSING = 10.0
"""Times its lowest that a loss of unknown parts has risen to before that is said while the run goes on, and
times its first value before that is said where the loss is back in training, and not in evaluation mode."""
BETTER = 0.05
"""Share by which a probe at another rate must do better: docs/course.md, "Loss"."""
MUCH_BETTER, MUCH_BETTER_SMALL = 0.2, 0.12
"""The same for a tenth of the rate in a run that learns, and in batches of a few samples: noise dies down."""
NO_FURTHER = 0.6
"""Share of what the loss has fallen below that of a guess in a whole run, of `LONG` steps at least, that
`STEPS` at another rate take off it, from which the run's own rate is too high: 0.8 with Adam at fifty times
its rate, which learns all the same (measured)."""
FELL, BACK = 0.93, 0.98
"""Shares of the loss of a guess: to which it falls in windows of steps, and to which it comes back, where a
rate is tried though much is learned."""
BORNE = 0.5
"""Share of what the curvature of the loss bears from which a rate is not too low."""
FAR_BELOW = 0.05
"""The same up to which half of that gain is enough where next to nothing was learned: 0.02, with 4.8% to be
gained, where dampening takes nine tenths of each gradient (measured)."""
FLAT = 0.02
"""The same up to which ten times the rate has only to do a little better, where hardly more than a guess is
known."""
LARGE_STEPS = 1e-2
"""Median update:weight ratio of a run whose steps are ten times as large as usual."""
MILD, TWENTIETH = 0.02, 0.03
"""The same at ten times the rate in a run that learns, where the gain is in proportion to the rate: worth a
note, and an alarm."""
PROPORTIONAL = 1e-4
"""The same where the gain is in proportion to the rate, far above rounding."""
FAR_LONGER, PROMISING = 100.0, 0.1
"""Times as long as the first update the best one would have been, and share of the loss that it would have
taken off, from which tiny steps are too small though no other rate was probed."""
STILL_LOOKS = 2
"""Looks at which a layer has not moved, from which it is not the first step alone, as where another layer
begins at zero."""
RATES_APART, HARDLY_MOVED = 300.0, 0.02
"""Times that the rate of a parameter group is below that of another, where its weights have moved by no more
than that share of their size in the whole run, however straight they went."""
UNMOVED = 0.002
"""The same of all layers, where nothing was learned: no other cause lets weights stay where they are."""
ANEW = 3
"""Times that a warm-up which counts the batches of an epoch has begun anew."""
UNFINISHED, LONG = 0.5, 100
"""Share of the rate before any schedule at which a run of so many steps ends while the rate still rises."""
VANISHED_RATE = 1e-3
"""A rate that has fallen to so small a share of its largest trains no more."""
IDLE, MOSTLY_IDLE = 0.25, 0.5
"""Shares of the steps, at the end of a run with much left to learn, that a schedule may leave so, 0.0 in 300
healthy runs (measured); and from which that is an alarm though the loss was not falling fast: 0.8 where a
decay is over one epoch of five. Where labels are wrong, much is left for good."""
FALLING, STILL_LEFT = 0.9, 0.45
"""Share of the loss that the last third of the steps at half the rate and more has of the one before it, from
which it was falling fast when the rate fell, 0.78 where each epoch takes nine tenths of it (measured); and
share of the first loss above which much is left to learn then."""


class _Origin(NamedTuple):
    """What the losses of a run are compared with."""

    start: float
    """The loss before the first step where a guess's is known, which bears it out: the second may be thrown
    already; else the median of the first ones."""
    reference: float
    """The larger of that and the loss of a guess."""
    far: float
    """The loss from which a run has diverged, of losses below zero, too."""

    @classmethod
    def of(cls, run: Run) -> _Origin:
        start = run.losses[0] if _knows_guess(run) else run.first_loss
        reference = max(start, run.chance_loss) if _knows_guess(run) else start
        return cls(start, reference, reference + (DIVERGED - 1) * abs(reference))


def _knows_guess(run: Run) -> bool:
    return run.chance_loss > 0 and bool(run.losses)


@needs("loss/train_step", verdict="learning rate too high")
def too_high(run: Run) -> Iterator[Finding]:
    """The loss diverged, or the network was thrown into a state that learns nothing."""
    origin, died = _Origin.of(run), death(run)
    largest = largest_update(run, died.step if died else None)
    overflowed = not run.finite and max(run.losses[-3:], default=0.0) > origin.far
    if run.plays and not overflowed:
        return
    thrown = run.last_loss > origin.far and not _asks_anew(run)
    level: Level = "fail"
    if overflowed:
        seen = f"The loss rose from {origin.start:.3g} to {max(run.losses[-3:]):.3g}, then overflowed"
    else:
        seen = (thrown and _thrown(run, origin)) or _put_out(run, died, largest)
    stuck = not seen and run.long_enough and run.barely_learns and largest > THROWN
    if stuck:
        seen = (
            f"One step changed a layer by {largest:.0%} of its size, and the loss got no further than "
            f"{run.last_loss:.3g}"
        )
    seen = seen or _overwritten_for_good(run) or _back_in_training_alone(run, largest)
    slow = run.long_enough and (run.barely_learns or fallen_back(run))
    if not seen and slow and run.gain(0.1) > _much_better(run):
        seen, level = _better_at_a_tenth(run)
        if not seen:
            return
    if seen:
        yield from _blamed(run, origin, seen, level, largest, overflowed, thrown, stuck)
    elif run.finished and run.long_enough and overwritten(run):
        yield from _begun_better(run)


def _thrown(run: Run, origin: _Origin) -> str:
    """How a loss that is far above its origin has come there; empty where it is on its way back."""
    lowest = min(run.smoothed, default=math.nan)
    surely = _knows_guess(run) or run.finished
    if run.last_loss > (DIVERGED if surely else PASSING) * lowest:
        return f"The loss rose from {origin.start:.3g} to {run.last_loss:.3g}"
    if _knows_guess(run) and lowest > origin.far and run.long_enough:
        return (
            f"The first steps threw the loss from {origin.start:.3g} to {run.first_loss:.3g}, and it came "
            f"back no further than {run.last_loss:.3g}"
        )
    return ""


def _put_out(run: Run, died: DeadLayer | None, largest: float) -> str:
    """Which layer large steps have killed in a run that learns nothing; empty where none."""
    if died is None or not died.later or run.learns or starved(run):
        return ""
    if largest > LARGE_UPDATE:
        return f"{died.sentence}, after updates of {largest:.0%} of the weights in one step"
    if (grown := _grown(run, died)) > OUTGROWN:
        return f"{died.sentence}, with weights {grown:.2g} times as large as before the first step"
    return ""


def _overwritten_for_good(run: Run) -> str:
    """What a first step that overwrote the weights has left to a run that learned nothing since."""
    if not (run.finished and run.long_enough and overwritten(run)):
        return ""
    if not run.last_loss > GUESSED * run.losses[0] > 0:
        return ""
    return (
        f"The first step changed the typical weight by {overwritten(run):.0%} of its size, and after "
        f"{run.steps} steps the loss is {run.last_loss:.3g}, where it was {run.losses[0]:.3g} before"
    )


def _back_in_training_alone(run: Run, largest: float) -> str:
    """That a loss which had risen to many times its first value is back in training alone: statistics that
    evaluation goes by are those of the weights that were thrown. Empty where it is not so."""
    if _knows_guess(run) or not run.finished or not run.long_enough or not largest > THROWN:
        return ""
    start, evaluated = run.losses[0], run.history.last("loss/train_eval", math.nan)
    risen = max(run.smoothed, default=0.0)
    if not (risen > PASSING * start > 0 and run.last_loss < DIVERGED * start < evaluated):
        return ""
    return (
        f"The first steps threw the loss from {start:.3g} to {risen:.3g}, one of them changed a layer by "
        f"{largest:.0%} of its size, and in evaluation mode the loss is still {evaluated:.3g} on training "
        f"samples"
    )


def _better_at_a_tenth(run: Run) -> tuple[str, Level]:
    """What a probe at a tenth of the rate says of a loss that stays where it is, or has come back to that of
    a guess, and how sure that is; empty where it is not the rate's size."""
    if not _knows_guess(run) and _first_losses(run) < run.fact("working_loss"):
        return "", "fail"  # what parts of the loss are for may rise at first, as those of a code book
    other = any(evaluation_at_chance(run)) or any(statistics_apart(run))
    if min(run.probe(3), run.probe(10)) < run.probe(0.1) or other:
        return "", "fail"  # larger steps do better; or what is evaluated, and learns nothing, is another
    fallen = _has_fallen(run)
    if not run.barely_learns:
        seen = (
            f"The loss had come below that of a guess, {run.chance_loss:.3g}, went back up to it and came to "
            f"{run.last_loss:.3g}"
        )
    elif fallen:
        seen = f"The loss came from {run.first_loss:.3g} to {run.last_loss:.3g}"
    else:
        seen = f"The loss stays at {run.last_loss:.3g}"
    seen += f", and is {run.gain(0.1):.0%} lower after a few steps at a tenth of the rate"
    # Of how low a loss such as a contrastive one can get nothing is known: it may fall little by nature.
    unsure = not math.isfinite(run.guess_loss) and fallen and run.gain(0.1) < MUCH_BETTER
    return seen, "note" if unsure else "fail"


def _blamed(
    run: Run,
    origin: _Origin,
    seen: str,
    level: Level,
    largest: float,
    overflowed: bool,
    thrown: bool,
    stuck: bool,
) -> Iterator[Finding]:
    """Whom to blame for what was `seen`: the rate, batches whose gradients are noise, or nobody, where the
    loss asks for other things in the course of the training."""
    known = _knows_guess(run)
    usual = largest < OVERWRITTEN or _has_fallen(run)
    if stuck and not known and usual and no_rate_does_better(run):
        return  # the first steps of RMSprop and Adagrad are as long in runs that learn
    if tiny_batch(run) and not overflowed:  # noise alone makes no loss overflow
        message = f"{seen}, with batches of {run.batch_size:.0f}, whose gradients are mostly noise."
        yield _larger_batch(run, message, run.last_loss, origin.reference)
        return
    if run.over_curvature > 1:
        seen += f"; the loss is curved {run.over_curvature:.2g} times as strongly as steps at this rate bear"
    none_works = math.isfinite(run.fact("configured_rate")) and not math.isfinite(run.working_rate)
    moves = run.fact("answers_move", 0.0) > 0 and run.finite
    calm = thrown and ((none_works and largest < LARGE_UPDATE) or (moves and largest < THROWN))
    if known or not (calm or (stuck and moves)):
        values = "loss", run.last_loss, origin.reference
        yield _other_rate(run, "learning-rate-too-high", level, f"{seen}.", *values)
        return
    message = f"{seen}, in steps of {largest:.1%} of the weights at most" if calm else seen
    message += (
        "; it asks for other things than at first, as it depends on what no optimizer moves and has "
        "changed, such as the weights of a target network or a queue."
        if moves
        else ", and from the same start no lower rate lowers it either: what it asks for may move, as "
        "the answers of a slow copy do."
    )
    remedy = (
        "Judge such a training by another figure: one that plays by its reward, one of features by what "
        "a linear classifier knows of them."
    )
    cause = "learning-rate-too-high"
    yield Finding(cause, "note", message, remedy, "loss", run.last_loss, origin.reference)


def _grown(run: Run, died: DeadLayer) -> float:
    """Times its first norm that the typical weight has where a layer was first seen dead: between two looks
    at the updates most of a warm-up may lie."""
    series = [run.history.series(tag) for tag in run.history.tags("weight_norm/")]
    grown = [
        next((float(norm) for step, _, norm in norms if step >= died.step), norms.values[-1])
        / norms.values[0]
        for norms in series
        if len(norms) and norms.values[0] > FROM_ZERO
    ]
    return statistics.median(grown) if grown else math.nan


def _asks_anew(run: Run) -> bool:
    """Whether the loss asks for something else from a step on, as after hints or a pretraining: layers that
    the optimizer has held still begin to move, with the step the loss leaps, and from there it falls."""
    for tag in run.history.tags("update_ratio/"):
        points = list(run.history.series(tag))
        still = next((place for place, (_, _, ratio) in enumerate(points) if ratio != 0), len(points))
        if still < STILL_LOOKS or still == len(points):
            continue
        last, first = points[still - 1][0], points[still][0]
        before, after = run.losses_of(last - run.window, last), run.losses_of(first, first + run.window)
        if before and after and statistics.fmean(after) > DIVERGED * statistics.fmean(before):
            return run.last_loss < BARELY * statistics.fmean(after)
    return False


@needs("lr/", verdict="sign of the learning rate")
def below_zero(run: Run) -> Iterator[Finding]:
    """A schedule has gone on past its end, and below zero; a group that climbs on purpose begins below it."""
    below = []
    for tag in run.history.tags("lr/"):
        peak = 0.0
        for step, _, rate in run.history.series(tag):
            peak = max(peak, rate)
            if rate < -ROUNDING * peak < 0:
                below.append((step, rate))
    if not below:
        return
    step, lowest = min(below)[0], min(rate for _, rate in below)
    message = (
        f"From step {step} at the latest the learning rate is below zero, {lowest:.2g} at the lowest: each "
        f"step raises the loss."
    )
    remedy = (
        "Count the schedule in what steps it, batches or epochs, and let it end with the training; a "
        "max(0, …) around it keeps it from going on."
    )
    cause = "learning-rate-too-high"
    yield Finding(cause, "fail", message, remedy, "lr", lowest, 0.0, step, exact=True)


@needs("loss/train_step", "update_ratio/", verdict="rate of layers that train later")
def thawed(run: Run) -> Iterator[Finding]:
    """Layers that train from a later step on lose what they knew."""
    series = {
        name: run.history.series(f"update_ratio/{name}").steps
        for name in run.by_name("update_ratio")
        if name.endswith("weight") and len(run.history.series(f"update_ratio/{name}"))
    }
    first = min((steps[0] for steps in series.values()), default=0)
    late = {name: steps[0] for name, steps in series.items() if steps[0] > first}
    if not late or not run.one_loss or not run.finished or not run.finite or run.last_loss <= 0:
        return
    seen = min(late.values())
    start = max(step for steps in series.values() for step in steps if step < seen)
    width = max(THAWED_STEPS, run.window)
    before, after = run.losses_of(start - width, start), run.losses_of(seen + width)
    if len(before) < width or len(after) < 2 * width:
        return
    known = statistics.fmean(before)
    lowest = min(statistics.fmean(after[at : at + width]) for at in range(0, len(after) - width + 1, width))
    if not lowest > FORGOTTEN * known or _evaluated_better(run, seen):
        return
    layers = [name.removesuffix(".weight") for name in late if late[name] == seen]
    rate = max(
        (rates[-1] for tag in run.history.tags("lr/") if (rates := run.values(tag))),
        default=run.learning_rate,
    )
    message = (
        f"When {listed(layers)} began to train, before step {seen}, the loss rose from {known:.3g} and came "
        f"back to {lowest:.3g} at best: what these layers knew is gone."
    )
    remedy = (
        f"Give layers that were trained before a rate of their own, a tenth to a hundredth of {rate:g}, in a "
        f"parameter group, or let it rise slowly."
    )
    yield Finding("learning-rate-too-high", "warn", message, remedy, layers[0], lowest, FORGOTTEN * known)


def _evaluated_better(run: Run, since: int) -> bool:
    """Whether training samples as they are stored are better known at some look after step `since` than at
    all before: then it is the batches that are harder, or the loss that asks for more."""
    looks = [(step < since, loss) for step, _, loss in run.history.series("loss/train_eval")]
    before, after = ([loss for early, loss in looks if early == which] for which in (True, False))
    return bool(before and after) and min(after) < min(before)


@needs("facts/beta_excess", verdict="order of Adam's betas")
def betas_exchanged(run: Run) -> Iterator[Finding]:
    """Adam's step goes on for longer than the scale by which it is divided is known."""
    excess = run.fact("beta_excess")
    if not excess > EXCHANGED:
        return
    message = (
        f"The first of Adam's betas is {excess:.3g} above the second: the step goes on in a direction for "
        f"longer than the size of the gradient, by which it is divided, is remembered."
    )
    remedy = "Exchange them: betas=(0.9, 0.999), the first for the step, the second for its scale."
    cause = "learning-rate-too-high"
    yield Finding(cause, "warn", message, remedy, "optimizer", excess, EXCHANGED, exact=True)


@needs("loss/train_step", "update_ratio_summary/median", verdict="learning rate too low")
def too_low(run: Run) -> Iterator[Finding]:
    """The weights hardly move, and more speed would help; or the schedule has ended the training early."""
    rates = run.values("lr/0") or next((run.values(tag) for tag in run.history.tags("lr/")), [])
    peak = max(rates, default=math.nan)
    vanished = 1.01 * VANISHED_RATE * peak
    early = run.history.series(next(iter(run.history.tags("lr/")), ""))
    gone = next((step for step, _, rate in early if rate < vanished and step > early.steps[0]), None)
    early_end = gone is not None and gone < 0.5 * run.steps and rates[-1] < peak
    if early_end and run.barely_learns and run.finished:
        message = (
            f"The schedule took the learning rate below a thousandth of {peak:g} by step {gone} of "
            f"{run.steps}, and the loss stayed at {run.last_loss:.3g}."
        )
        remedy = "Let the rate decay over the whole run."
        yield Finding("learning-rate-too-low", "fail", message, remedy, "lr", rates[-1], peak * VANISHED_RATE)
        return
    idle = 1 - gone / max(run.steps, 1) if gone is not None and rates[-1] < vanished else 0.0
    far = STILL_LEFT if _lowered_while_falling(run, early, peak) else FAR_LEFT
    if run.finished and run.steps >= LONG and idle > IDLE and run.last_loss > far * run.first_loss:
        message = (
            f"The schedule took the learning rate from {peak:g} to {rates[-1]:.1g}: the last {idle:.0%} of "
            f"the steps trained next to nothing, and the loss, {run.first_loss:.3g} at first"
            f"{' and falling fast when the rate was lowered' * (far < FAR_LEFT)}, stayed at "
            f"{run.last_loss:.3g}."
        )
        remedy = (
            "Let the rate decay over the whole run; ReduceLROnPlateau wants the loss of an epoch, not of "
            "each batch, and mode='min'."
        )
        sure: Level = "warn" if idle > MOSTLY_IDLE or far < FAR_LEFT else "note"
        yield Finding("learning-rate-too-low", sure, message, remedy, "lr", rates[-1], peak * VANISHED_RATE)
        return
    base = run.fact("base_lr")
    rising = run.steps >= LONG and rates and rates[0] < rates[-1] == peak < UNFINISHED * base
    # What the schedule multiplies may be a factor, as of Noam's schedule, and no rate that is ever reached.
    if run.finished and rising and run.last_loss > FAR_LEFT * run.first_loss:
        message = (
            f"The run ended in its warm-up: by step {run.steps} the learning rate had come from "
            f"{rates[0]:.2g} to {peak:.2g} of the {base:g} that it was to reach."
        )
        remedy = (
            "Step the schedule after every batch, {'scheduler': …, 'interval': 'step'}, or warm up for fewer "
            "steps."
        )
        level: Level = "fail" if run.barely_learns else "warn"
        yield Finding("learning-rate-too-low", level, message, remedy, "lr", peak, UNFINISHED * base)
        return
    anew = _rises_anew(early)
    short = run.finished and peak < UNFINISHED * base and run.last_loss > FAR_LEFT * run.first_loss
    if anew >= ANEW and short:
        message = (
            f"The learning rate begins anew {anew} times, each time with an epoch, and rises to {peak:.2g} "
            f"at most, where {base:g} is configured: its warm-up never ends."
        )
        remedy = (
            "Count the steps of the whole training for the warm-up (global_step), not those of the epoch."
        )
        yield Finding("learning-rate-too-low", "warn", message, remedy, "lr", peak, UNFINISHED * base)
        return
    ahead = 1 - run.probe(1) / run.last_loss if run.last_loss > 0 else math.nan
    highest = run.learning_rate
    if run.finished and run.barely_learns and highest < UNFINISHED * base and ahead > BETTER:
        message = (
            f"The schedule never let the learning rate above {highest:.2g} of the {base:g} configured, and "
            f"the loss went from {run.first_loss:.3g} to {run.last_loss:.3g} in {run.steps} steps; twenty "
            f"more at {base:g} take it to {run.probe(1):.3g}."
        )
        remedy = "Let the schedule give a share of the rate, 1 at its peak; LambdaLR's function is a factor."
        yield Finding("learning-rate-too-low", "fail", message, remedy, "lr", highest, UNFINISHED * base)
        return
    typical = typical_update(run)
    if not math.isfinite(typical) or not run.long_enough:
        return
    if run.over_curvature > BORNE:
        return  # the curvature of the loss bears no larger steps
    proportional = _in_proportion(run)
    if slow_but_learning(run):
        if proportional and run.gain(10) > MILD:
            message = (
                f"A step changes the weights by {typical:.1e} of their size, and at the end twenty steps at "
                f"ten times the rate lower the loss by {run.gain(10):.1%} more, about ten times as much."
            )
            sure = "warn" if run.gain(10) > TWENTIETH else "note"
            values = "update_ratio", typical, SMALL_UPDATE
            yield _other_rate(run, "learning-rate-too-low", sure, message, *values)
        return
    # Vectors, each of which is seldom drawn, learn a little beside what is shared by all, and no more.
    flat = run.over_curvature < FLAT and run.gain(10) > BETTER / 10
    flat = flat and run.last_loss > BARELY * run.fact("guess_loss")
    if not run.barely_learns and not flat:
        return
    gain = max(run.gain(3), run.gain(10))
    # A loss that is no cross-entropy has another scale than chance: there accuracy says it.
    from_scratch = not run.first_loss < 0.8 * run.chance_loss or run.at_chance("train", best=True)
    # Of every layer, so that no probe is needed.
    largest = run.values("update_ratio_summary/max")
    still = statistics.median_high(largest) < TINY_UPDATE / 10
    still = still or (run.finished and statistics.fmean(largest) * run.steps < UNMOVED)
    slow = typical < TINY_UPDATE and (gain > BETTER / 5 or proportional)
    slow = slow or (typical < SMALL_UPDATE and gain > BETTER / 5 and proportional and run.finished)
    slow = slow or (typical < SMALL_UPDATE and flat and run.finished)
    far = run.fact("best_length") > FAR_LONGER and run.fact("best_gain") > PROMISING
    slow = slow or (typical < TINY_UPDATE and far and run.finished)  # where time is too short for a probe
    # Any healthy run gains from larger steps for a while: their size must be small, too.
    stuck = gain > BETTER or (gain > BETTER / 2 and run.over_curvature < FAR_BELOW)
    stuck = stuck and run.finished and typical < SMALL_UPDATE
    if run.steps * run.batch_size < FEW_SAMPLES:
        slow = stuck = False
    if (still or slow or stuck) and from_scratch:
        message = (
            f"A step changes the weights by {typical:.1e} of their size, and the loss went only from "
            f"{run.first_loss:.3g} to {run.last_loss:.3g}; "
            f"{'no layer moves' if still else 'larger steps lower it faster'}."
        )
        threshold = TINY_UPDATE if typical < TINY_UPDATE else SMALL_UPDATE
        yield _other_rate(run, "learning-rate-too-low", "fail", message, "update_ratio", typical, threshold)


@needs("update_ratio_summary/median", "lr/", verdict="learning rate of single groups")
def group_left_behind(run: Run) -> Iterator[Finding]:
    """New weights have stayed where they were drawn, as the rate of their group is far below another's."""
    rates = {name: max(values) for name, values in run.by_name("lr").items() if values}
    highest = max(rates.values(), default=0.0)
    if not run.finished or len(rates) < 2:
        return
    for name, rate in rates.items():
        ratios = run.history.series(f"update_ratio_summary/{name}")
        if not len(ratios) or run.fact(f"fresh_group/{name}", 0.0) <= 0.5:
            continue
        step, typical = ratios.steps[-1], statistics.fmean(ratios.values)
        if 0 < rate * RATES_APART <= highest and step >= LONG and 0 < typical * step < HARDLY_MOVED:
            message = (
                f"The weights of parameter group {name}, whose learning rate is {rate:.2g} and not "
                f"{highest:.2g} as that of others, changed by {typical:.1e} of their size in a step: by "
                f"{typical * step:.1%} at most in {step}. They are still as they were drawn."
            )
            remedy = "Raise the learning rate of this group, or freeze it, if it is not to be trained."
            yield Finding("learning-rate-too-low", "warn", message, remedy, f"lr/{name}", rate, highest)
            return


def _lowered_while_falling(run: Run, rates: Series, peak: float) -> bool:
    """Whether the rate first fell below half of its peak while the loss was falling fast."""
    reached = next((step for step, _, rate in rates if rate == peak), 0)
    end = next((step for step, _, rate in rates if step > reached and rate < peak / 2), 0)
    begin = run.steps_before
    third = (end - begin) // 3
    if third < run.window:
        return False
    before, last = run.losses_of(begin + third, begin + 2 * third), run.losses_of(begin + 2 * third, end)
    if not before or not last:  # no number
        return False
    return statistics.fmean(last) < FALLING * statistics.fmean(before)


def _rises_anew(rates: Series) -> int:
    """How often the rate falls back with the beginning of an epoch; 0 where it ever falls within one, as a
    cycle does."""
    times = 0
    for (_, epoch, rate), (_, later, following) in pairwise(rates):
        if following < rate:
            if math.ceil(later) == math.ceil(epoch):
                return 0
            times += 1
    return times


@needs("loss/train_step")
def batch_too_small(run: Run) -> Iterator[Finding]:
    """Nothing is learned from batches so small that their gradients are noise."""
    if not tiny_batch(run) or run.learns or not run.long_enough or run.plays or any(too_high(run)):
        return
    if run.steps * run.batch_size < FEW_SAMPLES:
        return
    if typical_update(run) < TINY_UPDATE:  # noise keeps back only what moves
        return
    message = (
        f"Nothing was learned in {run.steps} steps from batches of {run.batch_size:.0f}; the loss ended at "
        f"{run.last_loss:.3g}."
    )
    yield _larger_batch(run, message, run.batch_size, TINY_BATCH)


def no_rate_does_better(run: Run) -> bool:
    """Whether from the same start the rate that was found to work comes, in `STEPS` steps, no further than
    the whole run: then it is not the rate that keeps it there."""
    return run.last_loss <= run.fact("working_loss")


def tiny_batch(run: Run) -> bool:
    """Whether the gradient of a batch is mostly noise: of few samples, each of which has one answer, and not
    as many as an image has pixels or boxes or a text has tokens; where that is not known, it is not."""
    answers = run.fact("answers", 1.0 if run.has_class_numbers else math.inf)
    return run.batch_size * max(answers, 1.0) <= TINY_BATCH


def wants_trial(findings: Iterable[Finding]) -> bool:
    """Whether a finding names a rate or a batch that does not do, and none that was tried instead."""
    causes = ("learning-rate-too-high", "learning-rate-too-low", "batch-too-small")
    return any(finding.cause in causes and not finding.setting and not finding.check for finding in findings)


def _other_rate(
    run: Run, cause: str, level: Level, message: str, where: str, value: float, threshold: float
) -> Finding:
    works = run.working_rate
    low = cause == "learning-rate-too-low"
    remedy = rate_remedy(low, run.learning_rate, works)
    if low and run.fact("epsilon", 0.0) >= LARGE_EPSILON:
        remedy = (
            f"Lower Adam's eps from {run.fact('epsilon'):g}, by which it divides small gradients, not by "
            f"their size; 1e-8 is the default. Or: {remedy[0].lower()}{remedy[1:]}"
        )
    if low and run.learning_rate <= FINE_TUNING and run.fact("fresh_layers", 0.0) > 0.5:
        remedy += (
            " If trained weights were to be loaded, they were not: layers look as they were drawn, and "
            "load_state_dict(…, strict=False) passes over names that do not fit."
        )
    # Where a schedule goes beyond what was configured, it is the schedule that is to be changed.
    as_configured = not run.learning_rate > 1.01 * run.fact("configured_rate")
    setting = {"lr": works} if as_configured and rate_helps(low, run.learning_rate, works) else None
    return Finding(cause, level, message, remedy, where, value, threshold, setting=setting)


def _begun_better(run: Run) -> Iterator[Finding]:
    """What a first step that overwrote the weights has cost, by a trial of another rate; a note before it."""
    tried, own = run.fact("working_loss"), _first_losses(run)
    message = (
        f"The first step changed the typical weight by {overwritten(run):.0%} of its size, so that nothing "
        f"was left of those that were drawn."
    )
    values = "update_ratio", overwritten(run), OVERWRITTEN
    guess = run.chance_loss
    if run.steps >= LONG and guess - tried > NO_FURTHER * (guess - run.last_loss) > 0:
        message = (
            f"{message} In {run.steps} steps the loss came to {run.last_loss:.3g}; from the same start, "
            f"{STEPS} steps at {run.working_rate:g} come to {tried:.3g} already."
        )
        yield _other_rate(run, "learning-rate-too-high", "warn", message, *values)
        return
    if tried < (1 - MUCH_BETTER) * own:
        message = (
            f"{message} After {STEPS} steps the loss was {own:.3g}; from the same start, as many at "
            f"{run.working_rate:g} come to {tried:.3g}."
        )
        yield _other_rate(run, "learning-rate-too-high", "warn", message, *values)
    elif not math.isfinite(run.fact("configured_rate")):  # then other rates are tried
        yield _other_rate(run, "learning-rate-too-high", "note", message, *values)


def _first_losses(run: Run) -> float:
    """Of the run at its own rate, where trials of others are judged."""
    losses = run.losses[STEPS : STEPS + JUDGED]
    return statistics.fmean(losses) if losses else math.nan


def _larger_batch(run: Run, message: str, value: float, threshold: float) -> Finding:
    works = run.working_rate
    remedy = "Take larger batches for as many steps, or a lower learning rate."
    setting = None
    if math.isfinite(works):
        remedy = f"Take batches of {ENOUGH} for as many steps, at a learning rate of about {works:g}."
        setting = {"batch_size": float(ENOUGH), "lr": works}
    return Finding("batch-too-small", "fail", message, remedy, "loss", value, threshold, setting=setting)


def _much_better(run: Run) -> float:
    """What a tenth of the rate must gain before the rate is at fault."""
    bounces = typical_update(run) > LARGE_STEPS and run.probe(1) < run.probe(3)
    if not run.learns or (bounces and run.finished and run.chance_loss > 0):
        return BETTER
    return MUCH_BETTER_SMALL if tiny_batch(run) else MUCH_BETTER


def _has_fallen(run: Run) -> bool:
    """Whether the last losses are lower than the first, by more than their noise and by a twentieth."""
    fall = run.first_loss - run.last_loss
    return fall > max(CERTAIN * run.last_error, BETTER * abs(run.first_loss))


def overwritten(run: Run) -> float:
    """The median update:weight ratio of the first step, where it is so large that it overwrote all; else
    0."""
    ratios = run.history.series("update_ratio_summary/median")
    first = ratios.values[0] if len(ratios) and ratios.steps[0] <= 1 else 0.0
    return float(first) if OVERWRITTEN < first < math.inf else 0.0


def fallen_back(run: Run) -> bool:
    """Whether the loss had come well below that of a guess of the class, and was up there again for a while:
    steps may have thrown away what was learned. Where nothing is, as of rare classes, whose few samples move
    the mean of a window as far, large steps alone could have."""
    if not run.learns and not typical_update(run) > LARGE_STEPS:
        return False
    below = False
    for loss in run.smoothed:
        below = below or loss < FELL * run.chance_loss
        if below and loss > BACK * run.chance_loss:
            return True
    return False


def typical_update(run: Run) -> float:
    """Median over the run of the median update:weight ratio of a step."""
    ratios = run.values("update_ratio_summary/median")
    return statistics.median_high(ratios) if ratios else math.nan


def slow_but_learning(run: Run) -> bool:
    """Whether a network whose weights were drawn has come to its end in small steps, with much left to learn,
    at one rate: rates of their own for some groups are a choice."""
    far = FAR_LEFT * run.first_loss < run.last_loss and not run.barely_learns
    drawn = run.fact("fresh_layers", 0.0) > 0.5
    rates = {max(run.values(tag)) for tag in run.history.tags("lr/") if run.values(tag)}
    return run.finished and far and drawn and len(rates) < 2 and typical_update(run) < SMALL_UPDATE


def _in_proportion(run: Run) -> bool:
    """Whether ten times the rate does about ten times as much good, and a tenth a tenth: steps so small that
    the loss is a straight line along them."""
    slowest, present, faster = (run.probe(factor) for factor in (0.1, 1, 10))
    done = run.gain(10)
    return done > PROPORTIONAL and 0 < 4 * (slowest - present) < present - faster < 25 * (slowest - present)
