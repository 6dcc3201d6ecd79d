"""What a training step does with a batch: which networks it calls with what, and which loss it makes of what
they give."""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from vitals.errors import UserError
from vitals.probes.loss_arguments import LossArguments
from vitals.probes.put_back import buffers_kept, replaced, unchanged
from vitals.probes.random_states import seed_torch
from vitals.probes.rows import Rows, leaves_of, map_leaves
from vitals.probes.stand_in import attach
from vitals.probes.step_losses import EVERY_THIRD, StepLoss, call_step, only_loss, step_losses


@dataclass(frozen=True)
class Call:
    """A call of an outermost module with parameters in a training step."""

    module: nn.Module
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    outputs: Any
    """The tensor in them, where they are a dataclass with one."""
    within: Any = None
    """This dataclass."""

    def like(self, outputs: Any) -> Any:
        """What the module would have given with these `outputs`."""
        if self.within is None:
            return outputs
        return map_leaves(self.within, lambda leaf: outputs if isinstance(leaf, Tensor) else leaf)


class WatchedStep:
    """The training step of `owner`, a muted copy of the module that trains, run once.

    Args:
        owner: its modes are those in which the training begins.
        trainer: from `stand_in`.
        batch: as the step gets it.

    Raises:
        NoLoss: if there is no loss for this batch.
        UserError: if the step cannot be run on a copy.
    """

    def __init__(self, owner: L.LightningModule, trainer: Any, batch: Any) -> None:
        self.owner, self.trainer, self.rows = owner, trainer, Rows(batch)
        self.loss_arguments = LossArguments()
        self.calls, losses = self.watched(batch)
        self.optimizers = [loss.optimizers for loss in losses]
        """By loss, the numbers of the optimizers that minimise it."""
        self.places = [(0, place) for place in range(len(losses))]
        """By loss, the number of a batch that has it, and its place among the losses of that."""

    def watched(self, batch: Any, through: Container[nn.Module] = ()) -> tuple[list[Call], list[StepLoss]]:
        """The outermost calls of modules with parameters in one run of the step, or in `through`, and its
        losses; first the calls through which no gradient comes, such as a teacher's."""
        calls: list[Call] = []
        traced: list[bool] = []
        depth = 0

        def enter(module: nn.Module, arguments: Any) -> None:
            nonlocal depth
            depth += 1

        def leave(module: nn.Module, arguments: Any, options: Any, outputs: Any) -> None:
            nonlocal depth
            depth -= 1
            if depth == 0:
                traced.append(any(isinstance(x, Tensor) and x.requires_grad for x in leaves_of(outputs)))
                given = detached(outputs)
                only = only_tensor(given)
                calls.append(Call(module, arguments, options, only, None if only is given else given))

        with ExitStack() as stack, buffers_kept(self.owner), self.loss_arguments:
            for module in self.owner.modules():
                if next(module.parameters(), None) is not None and module not in through:
                    stack.enter_context(module.register_forward_pre_hook(enter))
                    stack.enter_context(module.register_forward_hook(leave, with_kwargs=True))
            knew = self.trainer.meets_zeros
            losses = step_losses(self.owner, self.trainer, batch)
            if self.trainer.meets_zeros is not knew:  # the step was run twice, as it looks at gradients
                calls.clear()
                traced.clear()
                losses = step_losses(self.owner, self.trainer, batch)
        order = sorted(range(len(calls)), key=traced.__getitem__)
        return [calls[place] for place in order], losses

    @property
    def last(self) -> str:
        """Name of the module that is called last; empty for the owner, and for one made in the step."""
        parts = self.owner.named_modules()
        return next((name for name, part in parts if part is self.calls[-1].module), "")

    def called(self) -> str:
        """Which networks the step calls, in words of those who wrote it."""
        owned = {id(part): f"self.{name}" if name else "self" for name, part in self.owner.named_modules()}
        # What is not there was made in the step, as a copy that adapts to a task.
        called = [owned.get(id(call.module), type(call.module).__name__) + "(…)" for call in self.calls]
        shown = [name + " more than once" * (times > 1) for name, times in Counter(called).items()]
        more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
        if self.rows.size == 0:
            return f"your batches, of {type(self.rows.example).__name__}, cannot be cut into samples"
        if len(called) == 1:
            if self.rows.listed:
                return f"your batches are lists of samples, and {shown[0]} gets what is made of these"
            outputs = self.calls[0].outputs
            if not isinstance(outputs, Tensor):
                return f"{shown[0]} gives a value of type {type(outputs).__name__}, not one tensor"
            if not outputs.ndim or len(outputs) != self.rows.size:
                return f"{shown[0]} gives other rows than one for each sample"
            return (
                f"{shown[0]} gets more of the batch than its inputs, such as labels, or the loss takes more "
                f"of it than its outputs"
            )
        takes = f"takes batches of {self.rows.size} samples alone, and " if self.rows.exact else ""
        return f"your training_step {takes}calls {', '.join(shown[:3]) or 'no network'}{more}"

    def entering(self, network: nn.Module, batch: Any, step: Callable[..., Any]) -> Tensor:
        """What `network` gets in `step`, a step of the owner; (N, ...). Leaves it in the modes in which it is
        then. `UserError` if it is not called with one tensor."""
        reached: list[Any] = []

        def stop(module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
            reached.append((arguments, options))
            raise Reached

        with network.register_forward_pre_hook(stop, with_kwargs=True):
            for number in range(EVERY_THIRD):
                with suppress(Reached), unchanged(self.owner.modules(), but="training"), torch.no_grad():
                    attach(self.owner, self.trainer)
                    call_step(step, batch, number)
                if reached:
                    break
        arguments, options = reached[0] if reached else ((), {})
        if len(arguments) != 1 or options or not isinstance(arguments[0], Tensor) or arguments[0].ndim < 2:
            raise UserError("the network is not called with one tensor.")
        inputs: Tensor = arguments[0].detach()
        return inputs

    def loss_of(self, outputs: Tensor, rows: Sequence[Tensor], factor: float = 1.0) -> Tensor:
        """The loss where the last call gives `outputs`, and calls before it what they gave for the first
        sample, times `factor`."""
        size, count = self.rows.size, len(outputs)
        outputs = outputs.contiguous()  # one guess that is expanded has no `view`, which the step may take

        def first(leaf: Any) -> Any:
            if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == size:
                return leaf[:1].expand(count, *leaf.shape[1:]) * factor
            return leaf

        if not self.owner.automatic_optimization and not outputs.requires_grad:
            outputs = outputs.detach().requires_grad_()  # see `in_their_units`
        answers: dict[nn.Module, list[Any]] = {}
        for call in self.calls[:-1]:
            answers.setdefault(call.module, []).append(call.like(_mapped(first, call.outputs)))
        answers.setdefault(self.calls[-1].module, []).append(self.calls[-1].like(outputs))
        with ExitStack() as stack:
            for part in self._around:  # a queue in one of them would make it another loss each time
                stack.enter_context(buffers_kept(part, recurse=False))
            for module, given in answers.items():
                stack.enter_context(replaced(module, "forward", _Answers(given)))
            batch = self.rows.batch(rows)
            return only_loss(step_losses(self.owner, self.trainer, batch, parts=self._around))

    def value(self, outputs: Tensor, rows: Sequence[Tensor], factor: float = 1.0) -> float:
        """The same as a number, each time with the same random numbers."""
        seed_torch(0)
        return float(self.loss_of(outputs, rows, factor))

    @cached_property
    def _around(self) -> list[nn.Module]:
        """The modules that take part where no call gets into what it calls: the loss is asked for often."""
        called = [call.module for call in self.calls]
        if any(each is self.owner for each in called):  # but for metrics and losses
            others = [part for part in self.owner.modules() if next(part.parameters(), None) is None]
            return [self.owner, *others]
        within = {id(part) for each in called for part in each.modules()} - set(map(id, called))
        return [part for part in self.owner.modules() if id(part) not in within]


class _Answers:
    """Gives one thing after the other, and begins again."""

    def __init__(self, given: Sequence[Any]) -> None:
        self.given = itertools.cycle(given)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return next(self.given)


def only_tensor(outputs: Any) -> Any:
    """The tensor in `outputs`, where they are a dataclass with a single one; else these themselves."""
    tensors = [leaf for leaf in leaves_of(outputs) if isinstance(leaf, Tensor)] if _is_made(outputs) else []
    return tensors[0] if len(tensors) == 1 else outputs


def _is_made(outputs: Any) -> bool:
    """Whether `outputs` are a dataclass, which `tree_map` takes for a leaf; those of transformers are tables
    as well."""
    return dataclasses.is_dataclass(outputs) and not isinstance(outputs, Mapping)


def _mapped(function: Callable[[Any], Any], outputs: Any) -> Any:
    """`outputs` with `function(leaf)` for each leaf."""
    return map_leaves(outputs, function) if _is_made(outputs) else tree_map(function, outputs)


def detached(outputs: Any) -> Any:
    """What a module gives, with no gradient through it."""
    return _mapped(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, outputs)


class Reached(BaseException):
    """The network is about to be called; no step catches it by mistake."""
