"""A stand-in for a module in training, with its parameters, on which anything can be run."""

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
    """A copy of `module`, which the strategy of `trainer` has set up, whose parameters are those of the
    original, and whose buffers and hooks are its own; `UserError` if it cannot be copied, or its parameters
    are spread over processes.

    Running its steps leaves BatchNorm statistics, metrics, counters and the compiled graphs of the original
    alone, and takes no memory for parameters; only where the step writes to them it gets some of its own. It
    logs nothing. Random numbers are drawn from the global states: isolate them. One copy may serve several,
    each of which calls `refresh` before it uses it, and takes away the hooks that it has put there.
    """

    def __init__(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if "FSDP" in type(trainer.strategy).__name__ or "DeepSpeed" in type(trainer.strategy).__name__:
            raise UserError("the parameters are spread over processes.")
        self.trainer, self.original = trainer, module
        self.rehearsed, self.shares = False, True
        self.cuts: bool | None = None
        """Whether the training step can do with a part of a batch; None where that is not known yet."""
        if any(map(is_lazy, module.parameters())):
            raise UserError("the module has lazy layers, which have no weights before the first batch.")
        memo: dict[int, Any] = {id(parameter): parameter for parameter in module.parameters()}
        self.module: L.LightningModule = copied(module, memo)
        mute(self.module)

    def refresh(self) -> None:
        """Take over buffers, modes and plain attributes, such as counters, as the original has them now, and
        parameters where they are not those of the original."""
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
        """Take over anew what layers have got in place of parameters and buffers, as those do that are
        pruned amid the training."""
        for part, other in zip(self.module.modules(), self.original.modules(), strict=False):
            if type(part) is type(other) and not other._modules and _names(part) != _names(other):
                state = vars(copied(other, {id(parameter): parameter for parameter in other.parameters()}))
                vars(part).clear()
                vars(part).update(state)

    def rehearse(self, batch: Any) -> None:
        """Run the training step once on copies of the parameters too, to see that it leaves these and their
        gradients alone; it need not be seen again. The copies are kept where it writes to them. `UserError`
        if it calls `backward` itself, which would disturb the training."""
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
        """In the precision of the training, without compilation, and with the parameters of the training out
        of reach, for a step may change them later than at its rehearsal; `UserError` if it does."""
        precision = self.trainer.precision_plugin.forward_context()
        guarded = self.module.parameters() if self.shares else ()
        with precision, eagerly(), untouched(guarded):
            yield

    def training_loss(self, batch: Any) -> Tensor:
        """What the training step makes of `batch`, without a backward pass; `NoLoss` if there is none for
        this batch, `UserError` if that is not one loss."""
        return only_loss(self.losses(batch))

    def losses(self, batch: Any) -> list[StepLoss]:
        """All that the optimizers minimise of `batch`; see `step_losses`."""
        facts = stand_in(self.trainer, training=True)
        facts.rewrites = not self.shares
        with self.as_in_training():
            return step_losses(self.module, facts, batch)

    def aims(self, batch: Any) -> list[Aim]:
        """The same, each with the identities of the parameters of the copy that it trains: of several losses
        those which its optimizers hold, of one all."""
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
        """The first `count` samples of `batch`, on which the training step has been rehearsed, or the whole
        where it cannot do with a part; `UserError` as `rehearse`."""
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
