"""The time that the checks may take: how much of it there is, and what a pass through the network costs."""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from vitals.checks.training_setup import TrainingSetup
from vitals.errors import UserError
from vitals.length import seconds_left
from vitals.own_time import own_time
from vitals.probes.trial import trial

SHARE, MOST, LEAST = 0.1, 30.0, 10.0
"""By default the checks may take this share of the training, but no more than 30 s and no less than 10: the
shortest trainings are those in which somebody looks for a fault. On small networks all checks together take
less than 2 s and on our convnet 6, or 11 where its own optimizer hardly learns twenty samples: within 5 that
alone is tried then, and nothing known of its labels and gradients. A transformer of 10 million parameters
comes to three verdicts within 5 and to five within 10, of which one is that its rate is too low
(measured)."""
MARGIN = 1.25
"""On estimates of time, which is noisy, so that what is begun can be finished."""
SMALL, LARGE = 4, 64
"""Samples of the two passes that are timed."""
QUICK = 0.25
"""Seconds of a step below which a second one is timed: the first of its shape has things to set up."""
LATE: tuple[str, ...] = ("regularization", "tiny_subset", "informative_inputs")
LATE += ("gradients", "gradients_after_burn_in", "difference_step")
"""Those made last, by what they find in a second: most of them train, or evaluate the loss many times."""


class BudgetSpent(BaseException):
    """The time is up: raised out of a forward pass, inside a check.

    No `Exception`, as little as an interruption is: nobody's code that it passes through is to take it for a
    fault of the network.
    """


@dataclass(frozen=True)
class Pace:
    """Seconds that things take on a copy of the network; 0 where nothing is known."""

    copy: float = 0.0
    """Of a copy of network and optimizer."""
    fixed: float = 0.0
    """Of a training step, whatever the number of samples."""
    sample: float = 0.0
    """Of a training step, for each sample more."""
    forward: float = 1 / 3
    """Share of a step that is its forward pass: all of it where nothing trains."""

    def steps(self, samples: int, count: float = 1.0) -> float:
        """Seconds of `count` training steps of so many samples each: forward, backward and update."""
        return count * (self.fixed + samples * self.sample)

    def passes(self, samples: int, count: float = 1.0) -> float:
        """Seconds of `count` forward passes."""
        return self.forward * self.steps(samples, count)


class Budget:
    """So many seconds from now on that may be spent, by `own_time`, infinite for no limit, of which some are
    `spent` already. `pace` is what a step costs; by default nothing, so that everything seems to fit."""

    def __init__(self, seconds: float = math.inf, pace: Pace | None = None, spent: float = 0.0) -> None:
        self.seconds, self.pace, self._start = seconds, pace or Pace(), own_time() - spent

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return own_time() - self._start

    @property
    def left(self) -> float:
        """Seconds; below 0 where more has been spent than there was."""
        return self.seconds - self.spent

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Inside the block the next module that is called after the time is up raises `BudgetSpent`."""
        if math.isinf(self.seconds):
            yield
            return
        latest = time.perf_counter() + self.left

        def look(module: object, arguments: object) -> None:
            # The usual clock runs no slower, and is asked for less.
            if time.perf_counter() > latest and self.left < 0:
                raise BudgetSpent

        with register_module_forward_pre_hook(look), warnings.catch_warnings():
            # torch.compile calls it twice as often, or breaks its graph there, which does no harm.
            told = r".*(global hooks on modules|builtin time\.perf_counter)"
            warnings.filterwarnings("ignore", message=told)
            yield


def by_what_they_tell(name: str) -> int:
    """Place of a check in the order in which they are made: the wiring, without which nothing else says much,
    then all that are not `LATE`."""
    return LATE.index(name) + 1 if name in LATE else -int(name == "wiring")


def require_budget(seconds: float | None) -> float | None:
    """`seconds`, if they can be a budget: above 0, infinite for no limit, None for the default; `UserError`
    if they cannot."""
    if seconds is not None and not seconds > 0:
        raise UserError(
            f"budget: seconds above 0 are needed, or inf for no limit, not {seconds:g}; "
            "checks=none, or no SanityChecks among the callbacks, makes no checks."
        )
    return seconds


def measured_pace(setup: TrainingSetup) -> Pace:
    """The cost of a copy, and of training steps of a few and of many samples on it."""
    setup, start = next(setup.each_loss()), own_time()
    with trial(setup.model, setup.loss, setup.optimizer_or_none()) as copies:
        copying = own_time() - start

        def seconds(call: Callable[..., object], *arguments: Any) -> float:
            least = math.inf
            for _ in range(2):
                start = own_time()
                call(*arguments)
                least = min(least, own_time() - start)
                if least > QUICK:
                    break
            return least

        step = copies.gradients if copies.optimizer is None else copies.step
        few, many = min(SMALL, setup.batch_size), min(LARGE, setup.batch_size)
        small = seconds(step, *setup.batch(few))
        large = seconds(step, *setup.batch(many)) if many > few else small
        with torch.no_grad():
            forward = seconds(copies.outputs, setup.batch(many)[0])
    sample = max(large - small, 0.0) / max(many - few, 1)
    return Pace(copying, max(small - few * sample, 0.0), sample, min(forward / large, 1.0))


def default_budget(trainer: L.Trainer, setup: TrainingSetup, pace: Pace) -> float:
    """Seconds that the checks may take where nobody said how many."""
    batches = trainer.estimated_stepping_batches * trainer.accumulate_grad_batches  # infinite without an end
    training = pace.steps(setup.batch_size) * batches if batches > 0 else math.inf
    return min(MOST, max(LEAST, SHARE * min(training, seconds_left(trainer))))


def largest_that_fits(sizes: Sequence[int], seconds: Sequence[float], budget: Budget) -> int | None:
    """The first of `sizes`, from the largest, whose `seconds` are left in `budget`; None where none is."""
    fitting = (size for size, cost in zip(sizes, seconds, strict=True) if MARGIN * cost <= budget.left)
    return next(fitting, None)


def in_words(seconds: float) -> str:
    """`75 s`; a tenth of a second counts below 10 s."""
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
