"""Take the setup of a training that is about to begin off its trainer, so that all stays as it is."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from itertools import islice
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from vitals.checks.training_setup import TrainingSetup, cut
from vitals.either_package import is_own
from vitals.errors import UserError
from vitals.measures.fresh_draws import is_new
from vitals.measures.held_parameters import held_identities, held_parameters
from vitals.own_time import own_time
from vitals.probes.clipping import clipping_by_hand, clipping_of
from vitals.probes.eagerly import eagerly
from vitals.probes.loaders import (
    drawn_places,
    in_one_batch,
    is_even,
    random_batches,
    successive_batches,
    training_loader,
    twice,
    unaugmented,
    validation_loader,
    wears_out,
)
from vitals.probes.put_back import buffers_kept, modes_kept, unchanged
from vitals.probes.random_states import isolated_rng
from vitals.probes.rows import Rows, first_samples, joined, samples_in, taken
from vitals.probes.stand_in import BatchPreparation, attach, mute, stand_in
from vitals.probes.step_losses import NoLoss, call_step, step_losses
from vitals.probes.step_model import Path, StepModel
from vitals.probes.thawing import thaws_later
from vitals.probes.training_step import TrainingStep
from vitals.probes.trial import copies_of
from vitals.probes.untouched import GUARDED, ChangesParameters, Shared, untouched

LABELS = 512
"""Labels of successive batches from which their order is judged."""
TWICE = 64
"""Samples that are drawn two times, to see how much the augmentation leaves of them."""
VALIDATION_TWICE = 16
PLACES = 2048
"""Draws of the sampler that are looked at."""
VALIDATION_SAMPLES = 256
TRIES = 5
"""Batches of which one must give a loss."""
FURTHER = 3
"""Batches after the first, which may train what that one leaves alone."""
FEW = 8
"""Validation samples of which a step is made to its end."""
TURNS = 10
"""Batches among which the losses of other optimizers are looked for, where one learns by each so many."""
SECONDS = 5.0
"""Spent on drawing batches, once there is one: a stream may be slow."""


def training_setup(
    trainer: L.Trainer, module: L.LightningModule, samples: int, batch: Any = None
) -> TrainingSetup:
    """Network, loss, optimizers and samples of the training that `trainer` is about to begin.

    All are copies; the trainer, the module, the data loaders and all random states stay as they are. The
    parameters lie where those of `module` do, unless the step writes to them; `own_parameters` copies them.
    Inputs are taken just before they enter the network, and so are layers' modes.

    Args:
        trainer: with its loaders and optimizers set up, as in `on_train_start`.
        module: that trains.
        samples: training samples to take.
        batch: the first one of the training, as its step gets it, where the loader cannot be asked before.

    Raises:
        StreamOnly: if the loader can be asked for nothing, and `batch` is None.
        UserError: if step, module or loaders cannot be looked at.
    """
    if any(map(is_lazy, module.parameters())):
        raise UserError("the module has lazy layers; run a batch through it before the training begins.")
    held = held_parameters(*trainer.optimizers)
    if not any(parameter.requires_grad for parameter in (*module.parameters(), *held)):
        raise UserError("no parameter wants a gradient (requires_grad), so that there is nothing to learn.")
    try:
        return _setup(trainer, module, samples, batch, shared=True)
    except ChangesParameters:
        return replace(_setup(trainer, module, samples, batch, shared=False), writes=True)


def _setup(
    trainer: L.Trainer, module: L.LightningModule, samples: int, batch: Any, shared: bool, even: bool = False
) -> TrainingSetup:
    """With batches made `even`, of one length, where the loader pads each to its own."""
    with isolated_rng(seed=0), torch.enable_grad(), eagerly():
        given = trainer.optimizers if held_parameters(*trainer.optimizers) else ()
        owner, optimizers = copies_of(module, given, shared)
        logged = mute(owner)
        facts: Any = stand_in(trainer, training=True)
        facts.rewrites = not shared
        attach(owner, facts)
        source = _Source(trainer, BatchPreparation(trainer, owner, facts), batch)
        if even:
            source.pad(samples)
        modes = [(part, part.training) for part in owner.modules()]
        step = _step_of_plain_tensors(owner, facts, source)
        if not shared and step.network is not None and not _comes_apart(step):
            step.network, step.class_numbers, step.target_rows = None, False, ()
        apart = _in_turns(step, optimizers)
        size = max(step.rows.size, 1)
        if step.of_lists is not None and shared:
            step.look_at(source.whole(samples))
        if step.network is None:  # it may be called in several modes, as for an attack before the step
            for part, mode in modes:
                part.training = mode
        for optimizer in optimizers:
            optimizer.clipping = clipping_of(trainer)  # type: ignore[attr-defined]
        if not owner.automatic_optimization and len(optimizers) == 1:
            with suppress(UserError):  # then the gradient is taken as it is
                by_hand = clipping_by_hand(owner, facts, step.rows.example, optimizers)
                optimizers[0].clipping = by_hand  # type: ignore[attr-defined]
        steps = trainer.estimated_stepping_batches
        length = int(steps) if math.isfinite(steps) and steps > 0 else 1000
        setup = TrainingSetup(
            StepModel(step),
            _itself,
            optimizers,
            (),
            None,
            batch_size=size,
            total_steps=length,
            total_batches=length * trainer.accumulate_grad_batches,
            later=thaws_later(trainer),
            gives="loss" if len(step.optimizers) == 1 else "losses",
            left_out=apart,
            step=step,
            further=tuple(islice(source.successive(sys.maxsize), 1, 1 + FURTHER)),
        )
        if step.network is None:
            return _whole_step(trainer, setup, logged)
        successive: list[Any] = (
            [step.targets(each) for each in source.successive(LABELS)] if step.class_numbers else []
        )
        parts = _rows_of(step, source, samples)
        lengths = {tuple(row.shape[1:] for row in part) for part in parts}
        if len(lengths) > 1 and step.class_numbers and not even:  # such as texts
            return _setup(trainer, module, samples, batch, shared, even=True)
        inputs, *targets = joined(parts)
        assert step.outputs is not None
        validation_inputs, training_mode = (
            (None, None) if step.by_number else _validation(trainer, step, logged)
        )
        if isinstance(step.network, Path):  # validation may call other networks
            training_mode = _mode_in_validation(trainer, step, logged)
            left_out = () if setup.later else _leave_out(step, step.network, optimizers)
            setup = replace(setup, left_out=(*apart, *left_out))
        found: Any = tuple(each[:samples] for each in targets)
        found = found[0] if len(found) == 1 else found
        return replace(
            setup,
            draws=_draws(trainer.train_dataloader),
            wears_out=batch is None and _wears_out(trainer.train_dataloader),
            even=batch is None and is_even(trainer.train_dataloader),
            twice=None if batch is not None or step.by_number else lambda: _twice(trainer, step),
            validation_twice=None if validation_inputs is None else lambda: _validation_twice(trainer, step),
            plain=None
            if batch is not None or source.padded or step.by_number
            else lambda: _plain(trainer, step, samples),
            model=step.network,
            loss=step.loss,
            inputs=inputs[:samples],
            targets=found,
            label_batches=tuple(successive),
            validation_inputs=validation_inputs,
            training_layers_in_validation=training_mode,
            loss_is_random=step.loss_is_random(step.outputs, step.targets(step.rows.example)),
            gives="class numbers" if step.class_numbers else "cross-entropy" if step.classes() else "network",
        )


def _rows_of(step: TrainingStep, source: _Source, samples: int) -> list[tuple[Tensor, ...]]:
    """What the network is given, and the targets, in batches drawn at random."""
    drawn = [step.rows.example] if step.by_number else list(source.random(samples))
    parts: list[tuple[Tensor, ...]] = []
    for batch in drawn:
        with suppress(UserError) if parts else nullcontext():  # a last batch of one may be left out
            inputs = step.network_inputs(batch, step.owner.training_step)
            parts.append(_flat(inputs, step.targets(batch)))
    return parts


def _comes_apart(step: TrainingStep) -> bool:
    """Whether a step that changes parameters leaves alone those that its network has just been called with,
    so that there is a gradient if the network is called ahead of it."""
    assert step.network is not None
    inputs = step.network_inputs(step.rows.example, step.owner.training_step)
    loss = step.loss(step.network(inputs), step.targets(step.rows.example))
    try:
        torch.autograd.grad(
            loss, [p for p in step.network.parameters() if p.requires_grad], allow_unused=True
        )
    except RuntimeError:
        return False
    return True


def _step_of_an_epoch(owner: L.LightningModule, facts: Any, source: _Source) -> TrainingStep:
    """The first step that can be looked at; where none can, as if an epoch had begun: what is kept from batch
    to batch may be that of those which Lightning tried validation with."""
    try:
        return _first_step(owner, facts, source)
    except ChangesParameters:
        raise
    except UserError:
        if not is_own("on_train_epoch_start", owner, L.LightningModule):
            raise
    with untouched(getattr(owner, GUARDED, Shared(())).tensors):
        owner.on_train_epoch_start()
    return _first_step(owner, facts, source)


def _step_of_plain_tensors(owner: L.LightningModule, facts: Any, source: _Source) -> TrainingStep:
    """`_step_of_an_epoch`, whose error names the class that the tensors of the batches have lost."""
    try:
        return _step_of_an_epoch(owner, facts, source)
    except (NoLoss, ChangesParameters):
        raise
    except UserError as error:
        kind = source.preparation.of_class
        if not kind:
            raise
        raise UserError(
            f"your batches have tensors of the class {kind}, and your training_step does not take plain "
            f"ones, as copies of them are: {error}"
        ) from error


def _draws(loader: Any) -> tuple[int, int, int]:
    try:
        places = drawn_places(loader, PLACES)
        return len(places), len(set(places)), len(loader.dataset) if places else 0
    except Exception:  # samplers of one's own may draw anything
        return 0, 0, 0


def _wears_out(loader: Any) -> bool:
    try:
        return wears_out(loader)
    except Exception:  # data sets of one's own may do anything
        return False


def _plain(trainer: L.Trainer, step: TrainingStep, samples: int) -> tuple[Any, Any]:
    """Training samples as validation would see them; `UserError` where what the data set changes in them at
    random is part of itself."""
    found: list[tuple[Tensor, ...]] = []
    count = 0
    own = training_loader(trainer)
    loader = unaugmented(own, validation_loader(trainer), samples)
    if loader is own:
        one, other = (tree_leaves(next(iter(each))) for each in twice(own, 1))
        tensors = [pair for pair in zip(one, other, strict=False) if isinstance(pair[0], Tensor)]
        if not all(torch.equal(*pair) for pair in tensors):
            raise UserError("the data set changes samples at random, by no transform that could be left out.")
    with _validating(trainer, step) as preparation:
        for batch in map(preparation, random_batches(loader, samples)):
            step.owner.eval()
            inputs = step.network_inputs(batch, step.owner.training_step)
            found.append(_flat(inputs, step.targets(batch)))
            count += len(inputs)
            if count >= samples:
                break
    inputs, *targets = joined(found)
    return inputs[:samples], targets[0][:samples]


def _twice(trainer: L.Trainer, step: TrainingStep) -> tuple[Tensor, Tensor]:
    preparation = BatchPreparation(trainer, step.owner, step.trainer)
    first, second = (
        torch.cat([step.network_inputs(preparation(batch), step.owner.training_step) for batch in loader])
        for loader in twice(trainer.train_dataloader, TWICE)
    )
    return first, second


def _validation_twice(trainer: L.Trainer, step: TrainingStep) -> tuple[Tensor, Tensor]:
    inputs, targets = [], []
    with _validating(trainer, step) as preparation:
        for loader in twice(validation_loader(trainer), VALIDATION_TWICE):
            step.owner.eval()
            batches = list(map(preparation, loader))
            given = [step.network_inputs(each, step.owner.validation_step) for each in batches]
            inputs.append(torch.cat(given))
            labels: Any = list(map(step.targets, batches))
            targets.append(torch.cat(labels))
    if not torch.equal(*targets):
        raise UserError("samples are drawn when they are asked for, and are others each time.")
    return inputs[0], inputs[1]


def _itself(outputs: Tensor, targets: Any) -> Tensor:
    return outputs


def _flat(inputs: Tensor, targets: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs, *targets) if isinstance(targets, tuple) else (inputs, targets)


class _Source:
    """Prepared batches of the training loader, or the one batch at hand."""

    def __init__(self, trainer: L.Trainer, preparation: BatchPreparation, batch: Any) -> None:
        self.loader = training_loader(trainer)
        self.preparation, self.batch = preparation, batch
        self.padded: list[list[Any]] = []
        """In the loader's order and at random: batches that are padded to one length."""

    def pad(self, samples: int) -> None:
        """From now on give batches of so many samples in all that are padded to one length, and can be put
        together; as before where that cannot be done."""
        if self.batch is None and (size := max(Rows(next(self.successive(1))).size, 1)) > 1:
            for at_random in (False, True):
                whole = in_one_batch(self.loader, samples, at_random)
                firsts = range(0, samples_in(whole), size) if whole is not None else ()
                self.padded.append([taken(whole, first, size) for first in firsts])
            self.padded *= all(self.padded)

    def whole(self, samples: int) -> Any:
        """One batch of so many samples drawn at random, or the one at hand."""
        whole = in_one_batch(self.loader, samples, at_random=True) if self.batch is None else None
        return self.batch if whole is None else self.preparation(whole)

    def successive(self, samples: int) -> Iterator[Any]:
        """Batches in the loader's order."""
        if self.batch is not None:
            return iter([self.batch])
        return self._first(self._padded(0) or successive_batches(self.loader), samples)

    def random(self, samples: int) -> Iterator[Any]:
        """Batches drawn at random."""
        if self.batch is not None:
            return iter([self.batch])
        return self._first(self._padded(1) or random_batches(self.loader, samples), samples)

    def _padded(self, which: int) -> Iterator[Any] | None:
        return iter(self.padded[which]) if self.padded else None

    def _first(self, batches: Iterator[Any], samples: int) -> Iterator[Any]:
        count, end = 0, math.inf
        for batch in batches:
            prepared = self.preparation(batch)
            count += max(Rows(prepared).size, 1)
            yield prepared
            end = min(end, own_time() + SECONDS)
            if count >= samples or own_time() > end:
                return


def _first_step(owner: L.LightningModule, facts: Any, source: _Source) -> TrainingStep:
    silent: NoLoss | None = None
    for batch in islice(source.successive(sys.maxsize), TRIES):
        try:
            return TrainingStep(owner, facts, batch)
        except NoLoss as error:
            silent = error
    if silent is None:
        raise UserError("the training loader gives no batch.")
    raise UserError(f"your training_step returns no loss for any of the first {TRIES} batches.")


def _in_turns(step: TrainingStep, optimizers: Sequence[Optimizer]) -> tuple[str, ...]:
    """Add the losses of later batches that are minimised by optimizers of whose parameters those of the first
    batch depend on none, as of a generator that learns by each fifth batch; the parameters of those which
    have no loss in the first batches, by name, which are frozen."""
    waiting = set(range(len(optimizers))) - {number for loss in step.optimizers for number in loss}
    if not waiting:
        return ()
    reached = {id(parameter) for parameter in StepModel(step).reached(step.rows.example, 0)}
    waiting = {number for number in waiting if held_identities(optimizers[number]).isdisjoint(reached)}
    for first in range(1, TURNS):
        if not waiting:
            return ()
        with suppress(NoLoss):
            losses = step_losses(step.owner, step.trainer, step.rows.example, first)
            for place, loss in enumerate(losses):
                if waiting & {*loss.optimizers}:
                    step.optimizers.append(loss.optimizers)
                    step.places.append((first, place))
                    waiting -= {*loss.optimizers}
    theirs = held_identities(*(optimizers[number] for number in waiting)) - held_identities(
        *(each for number, each in enumerate(optimizers) if number not in waiting)
    )
    names = []
    for name, parameter in step.owner.named_parameters():
        if id(parameter) in theirs:
            parameter.requires_grad_(False)
            names.append(name)
    return tuple(names)


def _whole_step(trainer: L.Trainer, setup: TrainingSetup, logged: set[str]) -> TrainingSetup:
    """Rows, and what no optimizer has, for a step that is looked at as a whole."""
    step, model = setup.step, setup.model
    assert step is not None
    rows: tuple[Tensor, ...] = step.rows.of(step.rows.example)
    try:  # some batches are no rows of samples, such as graphs
        with torch.no_grad(), buffers_kept(model):
            model(*cut(rows, max(2, setup.batch_size // 2)))
    except UserError:
        rows = ()
    return replace(
        setup,
        inputs=rows,
        targets=(),
        left_out=setup.left_out
        if setup.later
        else (*setup.left_out, *_leave_out(step, model, setup.optimizers)),
        training_layers_in_validation=_mode_in_validation(trainer, step, logged),
    )


def _leave_out(step: TrainingStep, model: nn.Module, optimizers: Sequence[Optimizer]) -> tuple[str, ...]:
    """Freeze the parts of which no optimizer, where there are any, has a single parameter; the names of their
    parameters. Not those that a gradient comes to at weights that look freshly drawn: they are forgotten."""
    held = held_identities(*optimizers)
    if not held:
        return ()
    left_out: list[str] = []
    reached: set[int] | None = None
    for child, part in model.named_children():
        parameters = {name: p for name, p in part.named_parameters(prefix=child) if p.requires_grad}
        if not parameters or any(id(parameter) in held for parameter in part.parameters()):
            continue
        if reached is None:
            reached = set()
            with suppress(RuntimeError), buffers_kept(step.owner), isolated_rng(seed=0):
                reached = set(map(id, StepModel(step).reached(step.rows.example, 0)))
        part.requires_grad_(False)
        if {id(p) for p in parameters.values()} & reached and is_new(part):
            for parameter in parameters.values():
                parameter.requires_grad_(True)
        else:
            left_out += parameters
    return tuple(left_out)


def _mode_in_validation(trainer: L.Trainer, step: TrainingStep, logged: set[str]) -> bool | None:
    """Whether a validation step calls a network in training mode; None where that is not known. What it has
    `logged` is noted in `step`."""
    owner = step.owner
    if not is_own("validation_step", owner, L.LightningModule):
        return None
    seen: list[bool] = []

    def look(part: nn.Module, arguments: Any) -> None:
        seen.append(part.training and not torch.is_grad_enabled())  # with gradients it adapts to a task

    try:
        with ExitStack() as stack, modes_kept(owner), unchanged(owner.modules()):
            for part in _called_parts(owner):
                if next(part.parameters(), None) is not None:
                    stack.enter_context(part.register_forward_pre_hook(look))
            batch = next(successive_batches(validation_loader(trainer)))
            prepared = BatchPreparation(trainer, owner, stand_in(trainer, training=False))(batch)
            owner.eval()
            with torch.no_grad():
                call_step(owner.validation_step, prepared)
            step.logged = set(logged)
    except Exception:  # validation that cannot be looked at is no reason to look at nothing
        return None
    return any(seen) if seen else None


def _called_parts(module: nn.Module) -> Iterator[nn.Module]:
    """The children of `module`, and of those that are lists or tables of modules, which nobody calls."""
    for part in module.children():
        yield from _called_parts(part) if isinstance(part, nn.ModuleList | nn.ModuleDict) else [part]


def _validation(
    trainer: L.Trainer, step: TrainingStep, logged: set[str]
) -> tuple[Tensor | None, bool | None]:
    """Inputs of the network in validation, and whether it is then in training mode; None where unknown. What
    a step of a few samples has `logged` is noted in `step`."""
    owner = step.owner
    if not is_own("validation_step", owner, L.LightningModule):
        return None, None
    inputs, training = [], False
    try:
        with _validating(trainer, step) as preparation:
            for batch in random_batches(validation_loader(trainer), VALIDATION_SAMPLES):
                owner.eval()
                prepared = preparation(batch)
                inputs.append((step.network_inputs(prepared, owner.validation_step),))
                # Dropout alone may be on for Monte-Carlo estimates: the network as a whole counts.
                training = training or (step.network is not None and step.network.training)
                if sum(len(each) for [each] in inputs) >= VALIDATION_SAMPLES:
                    break
            with torch.no_grad(), suppress(UserError):
                owner.eval()
                call_step(owner.validation_step, first_samples(prepared, FEW))
                step.logged = set(logged)
    except Exception:  # validation that cannot be looked at is no reason to look at nothing
        return None, None
    return (joined(inputs)[0], training) if inputs else (None, None)


@contextmanager
def _validating(trainer: L.Trainer, step: TrainingStep) -> Iterator[BatchPreparation]:
    """Inside the block the step is asked as in a validation, whose batches are prepared by what it gives;
    modes are put back at its end."""
    facts, step.trainer = step.trainer, stand_in(trainer, training=False)
    try:
        with modes_kept(step.owner), unchanged(step.owner.modules()):
            yield BatchPreparation(trainer, step.owner, step.trainer)
    finally:
        step.trainer = facts
