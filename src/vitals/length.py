"""How long a training is to be: in epochs, in optimizer steps or by the clock, whichever ends first."""

import math
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Timer

from vitals.either_package import either


def total_steps(trainer: L.Trainer) -> float:
    """Optimizer steps of the whole training; infinite where it has no end.

    Where the clock ends it, an estimate from the pace so far: infinite before the first step.
    """
    known = float(trainer.estimated_stepping_batches)
    total = known if known > 0 else math.inf
    for timer in _timers(trainer):
        elapsed, remaining = timer.time_elapsed(), timer.time_remaining()
        if elapsed > 0 and remaining is not None and trainer.global_step:
            total = min(total, trainer.global_step * (elapsed + max(remaining, 0)) / elapsed)
    return total


def steps_per_epoch(trainer: L.Trainer) -> float:
    """Optimizer steps in an epoch; infinite where nobody knows."""
    if trainer.train_dataloader is None:
        trainer.fit_loop.setup_data()
    batches = trainer.num_training_batches / trainer.accumulate_grad_batches
    return math.ceil(batches) if math.isfinite(batches) else batches


def total_epochs(trainer: L.Trainer) -> float:
    """Epochs of the whole training, with their fraction; see `total_steps`."""
    steps = steps_per_epoch(trainer)
    if math.isfinite(steps):
        return total_steps(trainer) / steps
    return float(trainer.max_epochs) if (trainer.max_epochs or -1) > 0 else math.inf  # type: ignore[arg-type]


OFTEN, SPARSE = 20, 1.1
"""Epochs in each of which something is done that takes the longer the longer a training has been, and by what
factor further ones are apart: of 1,000 epochs it is done in 60."""


def is_due(epoch: int) -> bool:
    """Whether such a thing is done in this epoch, counted from 1."""
    return epoch <= OFTEN or int(math.log(epoch, SPARSE)) > int(math.log(epoch - 1, SPARSE))


def is_last_epoch(trainer: L.Trainer) -> bool:
    """Whether, at the end of an epoch, none follows."""
    steps_done = trainer.global_step >= trainer.max_steps > 0
    return trainer.should_stop or steps_done or trainer.current_epoch + 1 == trainer.max_epochs


def seconds_left(trainer: L.Trainer) -> float:
    """Until the clock ends the training, by `Trainer(max_time=…)` or a `Timer` of its owner; infinite where
    none does."""
    left = (timer.time_remaining() for timer in _timers(trainer))
    return min((seconds for seconds in left if seconds is not None), default=math.inf)


def is_timed(trainer: L.Trainer) -> bool:
    """Whether the clock may end the training."""
    return math.isfinite(seconds_left(trainer))


def _timers(trainer: L.Trainer) -> list[Timer]:
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    kinds = either(Timer)  # a schedule asks at each step
    return [callback for callback in callbacks if isinstance(callback, kinds)]
