"""Several optimizers that minimise one loss, as one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from vitals.measures.held_parameters import param_groups
from vitals.probes.trial import copied_optimizer


class JoinedOptimizers(Optimizer):
    """Steps of several optimizers with the gradients of one loss, as where Muon takes the matrices and AdamW
    the rest. Its parameter groups are those of all of them, so that one factor changes all their rates."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        # Without that of `Optimizer`, which would give it groups and a state of its own.
        self.optimizers = list(optimizers)

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return param_groups(*self.optimizers)

    @property
    def state(self) -> States:  # type: ignore[override]
        return States(self.optimizers)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none)

    def __deepcopy__(self, memo: dict[int, Any]) -> JoinedOptimizers:
        return JoinedOptimizers([copied_optimizer(optimizer, memo) for optimizer in self.optimizers])


class States(dict[Any, Any]):
    """What all of them keep, which can be forgotten at once."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        super().__init__((key, value) for each in optimizers for key, value in each.state.items())
        self.optimizers = optimizers

    def clear(self) -> None:
        super().clear()
        for optimizer in self.optimizers:
            optimizer.state.clear()


def as_one(optimizers: Sequence[Optimizer]) -> Optimizer | None:
    """The only one of `optimizers`, or several of them as one; None where there is none, or one of several
    wants to evaluate the loss itself, as LBFGS does."""
    if len(optimizers) == 1:
        return optimizers[0]
    if not optimizers or any(_asks(optimizer) for optimizer in optimizers):
        return None
    return JoinedOptimizers(optimizers)


def _asks(optimizer: Optimizer) -> bool:
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    return closure is not None and closure.default is inspect.Parameter.empty
