"""A copy of the module that trains, which shares its parameters, and on which anything can be run."""

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from vitals.errors import UserError
from vitals.measures.held_parameters import held_identities
from vitals.measures.layer_probe import Aim
from vitals.probes.copies import copied
from vitals.probes.eagerly import eagerly
from vitals.probes.random_states import isolated_rng
from vitals.probes.rows import first_samples
from vitals.probes.stand_in import mute, stand_in
from vitals.probes.step_losses import StepLoss, only_loss, step_losses
from vitals.probes.untouched import ChangesParameters, untouched

PLAIN = (bool, int, float, str, type(None))


class Twin:
    """A copy of `module`, which the strategy of `trainer` has set up. It shares the parameters of the
    original and has its own buffers and hooks. `UserError` if the module cannot be copied, or its parameters
    are spread over processes.

    Running steps on it leaves BatchNorm statistics, metrics, counters and compiled graphs of the original
    alone, and logs nothing. It needs no memory for parameters, unless the training step writes to them: then
    the twin gets parameters of its own. Steps draw from the global random states, so callers isolate these.
    Several monitors may use one twin: each calls `refresh` first, and removes the hooks that it registered.
    """

    def __init__(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if "FSDP" in type(trainer.strategy).__name__ or "DeepSpeed" in type(trainer.strategy).__name__:
            raise UserError("the parameters are spread over processes.")
        self.trainer, self.original = trainer, module
        self.rehearsed, self.shares = False, True
        self.cuts: bool | None = None
        """Whether the training step accepts a part of a batch; None as long as nobody has tried."""
        if any(map(is_lazy, module.parameters())):
            raise UserError("the module has lazy layers, which have no weights before the first batch.")
        memo: dict[int, Any] = {id(parameter): parameter for parameter in module.parameters()}
        self.module: L.LightningModule = copied(module, memo)
        mute(self.module)

    def refresh(self) -> None:
        """Copy the present buffers, modes and plain attributes, such as counters, of the original; and its
        parameters, where the twin does not share them. `UserError` if the original has changed its layers."""
        if self.shares:
            self._follow()
        mine, present = list(self.module.parameters()), list(self.original.parameters())
        same = len(mine) == len(present) and (not self.shares or all(map(operator.is_, mine, present)))
        for parts in (nn.Module.modules, nn.Module.buffers):
            same = same and len(list(parts(self.module))) == len(list(parts(self.original)))
        if not same:
            raise UserError("the module has got other layers or buffers since its training began.")
        copies = [*self.module.buffers(), *(mine if not self.shares else ())]
        with torch.no_grad():
            for copy, its in zip(copies, [*self.original.buffers(), *present], strict=False):
                copy.copy_(its)
        for part, other in zip(self.module.modules(), self.original.modules(), strict=True):
            part.training = other.training
            vars(part).update({name: own for name, own in vars(other).items() if type(own) in PLAIN})

    def _follow(self) -> None:
        """Copy anew those layers whose parameters or buffers have been replaced by others, as pruning does
        in the middle of a training."""
        for part, other in zip(self.module.modules(), self.original.modules(), strict=False):
            if type(part) is type(other) and not other._modules and _names(part) != _names(other):
                state = vars(copied(other, {id(parameter): parameter for parameter in other.parameters()}))
                vars(part).clear()
                vars(part).update(state)

    def rehearse(self, batch: Any) -> None:
        """Run the training step once with copies of the parameters, to make sure that later steps on the
        shared ones disturb nothing. Where the step writes to parameters, the twin keeps the copies.
        `UserError` if the step calls `backward` itself, which would write to the gradients of the training.
        Further calls do nothing."""
        if self.rehearsed:
            return
        shared = self.module
        self.module = copied(shared)
        try:
            copies = list(self.module.parameters())
            for parameter in copies:
                parameter.grad = None
            with isolated_rng(seed=0), torch.enable_grad():
                try:
                    self.losses(batch)
                except ChangesParameters:
                    self.shares = False
                    self.losses(batch)
            if any(parameter.grad is not None for parameter in copies):
                raise UserError("the training step calls backward itself, not manual_backward.")
            self.rehearsed = True
        finally:
            if self.shares:
                self.module = shared

    @contextmanager
    def as_in_training(self) -> Iterator[None]:
        """Run the block in the precision of the training and without compilation. Shared parameters are
        guarded, for a step may come to write to them only after its rehearsal; `UserError` if it does."""
        precision = self.trainer.precision_plugin.forward_context()
        guarded = self.module.parameters() if self.shares else ()
        with precision, eagerly(), untouched(guarded):
            yield

    def training_loss(self, batch: Any) -> Tensor:
        """The loss that the training step returns for `batch`, without a backward pass. `NoLoss` if it
        returns none for this batch, `UserError` if there are several losses."""
        return only_loss(self.losses(batch))

    def losses(self, batch: Any) -> list[StepLoss]:
        """Every loss that an optimizer minimises on `batch`; see `step_losses`."""
        facts = stand_in(self.trainer, training=True)
        facts.rewrites = not self.shares
        with self.as_in_training():
            return step_losses(self.module, facts, batch)

    def aims(self, batch: Any) -> list[Aim]:
        """The losses of `losses`, each with the identities of the twin's parameters that it trains: all of
        them where there is one loss, else those that the optimizers of this loss hold."""
        losses, copies = self.losses(batch), list(self.module.parameters())
        if len(losses) == 1:
            return [(losses[0].value, set(map(id, copies)))]
        aims: list[Aim] = []
        for loss in losses:
            held = held_identities(*(self.trainer.optimizers[number] for number in loss.optimizers))
            both = zip(copies, self.original.parameters(), strict=True)
            aims.append((loss.value, {id(copy) for copy, its in both if id(its) in held}))
        return aims

    def few(self, batch: Any, count: int) -> Any:
        """The first `count` samples of `batch`, or all of it where the training step fails on a part. The
        step has been rehearsed on what is returned; `UserError` as `rehearse`."""
        if self.cuts is None:
            part = first_samples(batch, count)
            try:
                if self.rehearsed:
                    with isolated_rng(seed=0), torch.enable_grad():
                        self.losses(part)
                self.rehearse(part)
            except UserError:
                self.rehearse(batch)
                self.cuts = False
            else:
                self.cuts = True
        return first_samples(batch, count) if self.cuts else batch


def _names(part: nn.Module) -> list[str]:
    return [*part._parameters, *part._buffers]
