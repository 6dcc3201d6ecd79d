"""Experiments: would another learning rate do better from here, and which would have done from the start?"""

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from vitals.errors import UserError
from vitals.measures.held_parameters import held_identities
from vitals.own_time import own_time
from vitals.probes.clipping import clipping_of
from vitals.probes.curvature import Curvature, curvature
from vitals.probes.joined_optimizers import as_one
from vitals.probes.loaders import successive_batches, training_loader
from vitals.probes.random_states import isolated_rng, seed_torch
from vitals.probes.rate_search import SECONDS, STEPS, working_rate
from vitals.probes.rows import samples_in, together
from vitals.probes.stand_in import BatchPreparation, stand_in
from vitals.probes.step_losses import step_losses
from vitals.probes.trial import (
    clip,
    copies_of,
    is_large,
    leaps,
    restore_configured_rates,
    set_rate,
    step_in_turn,
    steps_in_turn,
)
from vitals.probes.twin import Twin

JUDGED = 8
"""Batches after the steps on which each rate is judged."""
FACTORS = (0.1, 1.0, 3.0, 10.0)
"""Of the rate of every parameter group, as it was configured, before any schedule."""
CURVATURE_SECONDS = 5.0
"""After which no further product with the Hessian is begun."""


def probe_rates(
    trainer: L.Trainer, module: L.LightningModule, shared: Twin | None = None, seconds: float = math.inf
) -> dict[float, float]:
    """The loss after 20 steps at each of `FACTORS` of the learning rate, on the same batches: the mean over 8
    further ones, in training mode, all on copies of the module, of its optimizers, which must minimise one
    loss, and of the loader. `shared` is a copy of the module, whose hooks prepare the batches; None makes
    one. `UserError` if something cannot be copied, or it takes more than so many `seconds`."""
    end = own_time() + seconds
    losses: dict[float, float] = {}
    with isolated_rng(seed=0), torch.enable_grad():
        batches = _batches(trainer, shared or Twin(trainer, module))
        for place, factor in enumerate(FACTORS, 1):
            begun = own_time()
            twin, optimizer = _copies(trainer, module)
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * factor
            losses[factor] = _loss_after(twin, optimizer, batches, end)
            del twin, optimizer  # room for the next one
            taken = own_time() - begun
            if own_time() + (len(FACTORS) - place) * taken > end:
                raise UserError("the rate takes too long to probe.")
    return losses


def probe_curvature(
    trainer: L.Trainer, module: L.LightningModule, shared: Twin, seconds: float = math.inf
) -> Curvature | None:
    """The curvature of the training loss, on one batch at the present weights, against the rate that the
    optimizer was configured with; None where its steps are of another kind, and for a large network, of which
    a second derivative takes several copies. Arguments and `UserError` as of `probe_rates`."""
    if is_large(module.parameters()):
        return None
    end = own_time() + min(seconds, CURVATURE_SECONDS)
    with isolated_rng(seed=0), torch.enable_grad():
        [batch] = _batches(trainer, shared, count=1)
        twin, optimizer = _copies(trainer, module)
        return curvature(lambda: twin.training_loss(batch), optimizer, end=end)


def rate_from_start(
    trainer: L.Trainer,
    module: L.LightningModule,
    start: Mapping[str, Tensor],
    rate: float,
    higher: bool,
    batch: int = 1,
    seconds: float = math.inf,
) -> tuple[float, float]:
    """A learning rate, of the fastest parameter group, at which the training would have begun to lower its
    loss, and the loss that it has after `STEPS` steps: `working_rate`, above `rate` where `higher`, else
    below, for what `probe_rates` does, from the state `start` before the first step; NaN if none was found.
    Batches of the loader are joined to at least `batch` samples. `UserError` as of `probe_rates`."""
    with isolated_rng(seed=0), torch.enable_grad():
        batches = _batches(trainer, Twin(trainer, module), batch)

        def loss_after(rate: float, end: float = math.inf) -> float:
            twin, optimizer = _copies(trainer, module)
            twin.original.load_state_dict(start)
            twin.refresh()
            optimizer.state.clear()
            set_rate(optimizer, rate)
            return _loss_after(twin, optimizer, batches if rate else batches[-JUDGED:], end)

        early = leaps(_optimizer(trainer.optimizers), STEPS)
        return working_rate(loss_after, loss_after(0.0), rate, higher, min(seconds, SECONDS), early)


def answers_move(trainer: L.Trainer, module: L.LightningModule, start: Mapping[str, Tensor]) -> bool:
    """Whether the loss depends on weights that no optimizer moves, or on buffers, that are others than in the
    state `start` before the first step, as a target network or a queue. `UserError` as of `probe_rates`."""
    held = held_identities(*trainer.optimizers)
    moved = {
        name: start[name]
        for name, value in itertools.chain(module.named_parameters(), module.named_buffers())
        if not (id(value) in held and value.requires_grad)
        and name in start
        and not torch.equal(value, start[name])
    }
    losses = set()
    with isolated_rng(seed=0), torch.no_grad():
        batches = _batches(trainer, Twin(trainer, module), count=1) if moved else []
        for batch in batches:
            for state in ({}, moved):
                twin, _ = _copies(trainer, module)
                twin.original.load_state_dict(state, strict=False)
                twin.refresh()
                losses.add(float(twin.training_loss(batch)))
    return len(losses) > 1


def _copies(trainer: L.Trainer, module: L.LightningModule) -> tuple[Twin, Optimizer]:
    """Copies of the module, parameters and all, and of its optimizers, as one, at the rates that were
    configured."""
    own, optimizers = copies_of(module, trainer.optimizers)
    optimizer = _optimizer(optimizers)
    optimizer.clipping = clipping_of(trainer)
    restore_configured_rates(optimizer)
    twin = Twin(trainer, own)
    twin.original, twin.shares = own, False  # the step may write to what is a copy as a whole
    seed_torch(0)
    return twin, optimizer


def _require_one_loss(trainer: L.Trainer, twin: Twin, batch: Any) -> None:
    """`UserError` unless all optimizers minimise what the training step makes of `batch`: adversaries do not,
    nor do those that take turns."""
    if len(trainer.optimizers) > 1:
        with twin.as_in_training():
            losses = step_losses(twin.module, stand_in(trainer, training=True), batch)
        if len(losses) != 1 or len({*losses[0].optimizers}) < len(trainer.optimizers):
            raise UserError("the rate is probed of optimizers that minimise one loss.")


def _optimizer(optimizers: Sequence[Optimizer]) -> Any:
    """The one, or several as one."""
    if (optimizer := as_one(optimizers)) is None:
        raise UserError("the rate is probed of optimizers that need no closure.")
    return optimizer


def _loss_after(twin: Twin, optimizer: Any, batches: list[Any], end: float = math.inf) -> float:
    """The mean loss on the last `JUDGED` batches after a step on each of the others; NaN where a loss before
    is no number, or time comes to `end`."""

    def step(batch: Any) -> Tensor:
        optimizer.zero_grad()
        loss = twin.training_loss(batch)
        losses.append(float(loss.detach()))
        if not in_turn:
            loss.backward()
            clip(optimizer)
        return loss

    trained = (parameter for parameter in twin.module.parameters() if parameter.requires_grad)
    in_turn = steps_in_turn(trained, optimizer)
    losses: list[float] = []
    try:
        for batch in batches[:-JUDGED]:
            if in_turn:
                step_in_turn(step(batch), twin.module, optimizer)
            else:
                optimizer.step(lambda batch=batch: step(batch))
            if not math.isfinite(losses[-1]) or own_time() > end:
                return math.nan
        with torch.no_grad():
            return float(torch.stack([twin.training_loss(each).float() for each in batches[-JUDGED:]]).mean())
    except UserError:
        if not losses:
            raise
        return math.nan  # as of a distribution, of a scale that is no number any more


def _batches(trainer: L.Trainer, twin: Twin, samples: int = 1, count: int = STEPS + JUDGED) -> list[Any]:
    """`count` of them, enough for a trial, of at least so many samples each."""
    twin.refresh()
    owner = copy.copy(twin.module)
    preparation = BatchPreparation(trainer, owner, stand_in(trainer, training=True))
    taken: list[Any] = []
    each = wanted = 0
    while not wanted or len(taken) < wanted:  # an epoch may be shorter than that
        before = len(taken)
        for batch in successive_batches(training_loader(trainer)):
            taken.append(preparation(batch))
            each = each or math.ceil(samples / max(samples_in(taken[0]), 1))
            wanted = each * count
            if len(taken) == wanted:
                break
        if len(taken) == before:
            raise UserError("the training loader gives no batch.")
    _require_one_loss(trainer, twin, taken[0])
    return [reduce(together, taken[place : place + each]) for place in range(0, wanted, each)]
