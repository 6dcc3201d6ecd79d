"""The losses that a training step is to minimise, under automatic and manual optimisation."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from vitals.either_package import either
from vitals.errors import UserError, failed_at, reason_of
from vitals.probes.alone import alone
from vitals.probes.put_back import unchanged
from vitals.probes.rows import to_write_to
from vitals.probes.silently import silently, writing_nothing
from vitals.probes.surroundings import closures_kept
from vitals.probes.untouched import GUARDED, ChangesParameters, untouched

EVERY_THIRD = 3
"""Numbers under which a batch is given to a step that does nothing in some of them."""


class NoLoss(UserError):
    """The training step gives no loss for this batch; it may for the next."""


@dataclass(frozen=True)
class StepLoss:
    """One loss of a training step."""

    value: Tensor
    """A scalar."""
    optimizers: tuple[int, ...]
    """Whose parameters it trains, by their number; in automatic optimisation all."""


def call_step(step: Callable[..., Any], batch: Any, number: int = 0) -> Any:
    """`step`, a training or validation step of a LightningModule, with a copy of `batch`, as that may be the
    training's, and a step may write to it, as the one of this number; `ChangesParameters` if it writes to
    parameters that its module shares with the training, `UserError` if it takes its batches itself, or
    fails."""
    by_itself, numbered, of_several = _asks_for(getattr(step, "__func__", step))
    if by_itself:
        raise UserError("your training_step takes its batches from the loader itself (dataloader_iter).")
    where = (number,) * numbered + (0,) * of_several
    owner = getattr(step, "__self__", None)
    shared = getattr(owner, GUARDED, None)
    try:
        guard = untouched(shared.tensors) if shared and shared.tensors else nullcontext()
        with silently(), writing_nothing(), alone(), closures_kept(owner, step), guard:
            return step(to_write_to(batch), *where)
    except UserError:
        raise
    except Exception as error:
        name, place, kind = getattr(step, "__name__", "step"), failed_at(error), type(error).__name__
        said = f"your {name} fails with {kind} at {place}." if place else reason_of(error)
        raise UserError(said) from error


@lru_cache(maxsize=64)  # a signature takes as long as the pass of a small network
def _asks_for(step: Callable[..., Any]) -> tuple[bool, bool, bool]:
    """Whether a step wants the loader itself, the number of the batch, and that of its loader."""
    return (
        is_param_in_hook_signature(step, "dataloader_iter", explicit=True),
        is_param_in_hook_signature(step, "batch_idx", min_args=2),
        is_param_in_hook_signature(step, "dataloader_idx", explicit=True),
    )


def step_losses(
    owner: L.LightningModule,
    facts: Any,
    batch: Any,
    first: int = 0,
    parts: Sequence[nn.Module] | None = None,
) -> list[StepLoss]:
    """What the training step of `owner`, a muted copy, is to minimise on `batch`; that is left as it was, but
    for what is written into its buffers.

    Under manual optimisation, losses between two steps belong to the optimizers of these steps; several that
    belong to the same optimizers are added up where one step follows them, and else the first ones count.
    `facts` are from `stand_in`; `first` is the number of the batch, and where a step does nothing with it,
    the next ones are tried; `parts` are the modules of `owner` that take part in the step, by default all.
    `NoLoss` if there is none for this batch, `UserError` if the step fails, or gives no number.
    """
    events, graph = facts.events, torch.is_grad_enabled()

    def backward(loss: Any, *arguments: Any, **options: Any) -> None:
        events.append(loss)
        for parameter in owner.parameters() if facts.meets_zeros else ():
            if parameter.grad is None:  # the step has cleared it, and is to find one now
                parameter.grad = torch.zeros_like(parameter)

    parts = list(owner.modules()) if parts is None else parts
    for number in range(first, first + EVERY_THIRD):
        events.clear()
        with unchanged(parts), _as_they_were(owner) if facts.rewrites and graph else nullcontext():
            for part in parts:
                if isinstance(part, either(L.LightningModule)):
                    part._trainer = facts
            owner.__dict__["manual_backward"] = backward
            if owner.automatic_optimization:
                result = _automatic_step(owner, facts, batch, number)
            else:
                result = _step_by_hand(owner, facts, batch, number)
        loss = result.get("loss") if isinstance(result, dict) else result
        if loss is not None or events:
            break
    every = tuple(range(len(facts.optimizers)))
    given = [event for event in events if isinstance(event, Tensor)]
    if owner.automatic_optimization or not given:
        if loss is None:
            raise NoLoss("your training_step returns no loss.")
        value = _scalar(loss)
        return [StepLoss(value if graph else value.detach(), every)]
    groups = _by_optimizers(events, every)
    if len(groups) == 1 and len(given) == 1:
        groups = dict.fromkeys(groups, _scalar(in_their_units(given[0], loss)))
    events.clear()
    return [StepLoss(value if graph else value.detach(), optimizers) for optimizers, value in groups.items()]


def _by_optimizers(events: Sequence[Any], every: tuple[int, ...]) -> dict[tuple[int, ...], Tensor]:
    """The sums of the losses among `events`, tensors and numbers of optimizers that step, by the optimizers
    that step next; of several of the same optimizers the first. Losses that no step follows are of `every`
    optimizer where there are no others."""
    scalars = [_scalar(event) if isinstance(event, Tensor) else event for event in events]
    runs: list[Any] = [list(run) for _, run in groupby(scalars, lambda event: isinstance(event, Tensor))]
    groups: dict[tuple[int, ...], Tensor] = {}
    for losses, steps in pairwise(runs):
        if isinstance(losses[0], Tensor):
            groups.setdefault(tuple(sorted(set(steps))), torch.stack(losses).sum())
    return groups or {every: torch.stack(runs[-1]).sum()}


@contextmanager
def _as_they_were(owner: nn.Module) -> Iterator[None]:
    """What the graph keeps of the parameters of `owner` is a copy: the step may change them behind a loss, as
    where a critic's are clipped, and the gradient is that of the loss."""
    places = {parameter.untyped_storage().data_ptr() for parameter in owner.parameters()}

    def pack(kept: Tensor) -> Tensor:
        own = kept.layout == torch.strided and kept.untyped_storage().data_ptr() in places
        return kept.detach().clone() if own else kept

    with saved_tensors_hooks(pack, lambda kept: kept):
        yield


def _automatic_step(owner: L.LightningModule, facts: Any, batch: Any, number: int) -> Any:
    """`call_step`, with gradients where the step cannot do without, as one that takes some itself."""
    if torch.is_grad_enabled():
        return call_step(owner.training_step, batch, number)
    failure: UserError | None = None
    if not facts.needs_graph:
        try:
            return call_step(owner.training_step, batch, number)
        except ChangesParameters:
            raise
        except UserError as error:
            failure = error
    with torch.enable_grad():
        try:
            result = call_step(owner.training_step, batch, number)
        except UserError as error:
            raise failure or error from None
    facts.needs_graph = True
    return result


def _step_by_hand(owner: L.LightningModule, facts: Any, batch: Any, number: int) -> Any:
    """`call_step` for a step that may look at gradients and change them: it meets none, or zeros where it
    cannot do without; those of the training stay as they are."""
    kept = [(parameter, parameter.grad) for parameter in owner.parameters()]
    try:
        with torch.enable_grad():  # the graph tells by what the loss was multiplied
            for zeros in (False, True):
                for parameter, _ in kept:
                    parameter.grad = torch.zeros_like(parameter) if zeros or facts.meets_zeros else None
                try:
                    # Moved by zero they are what the graph has kept, whatever autograd counts.
                    with ExitStack() as uncounted:
                        for parameter, _ in kept:  # torch 2.6 takes one at a time
                            same = torch.autograd._unsafe_preserve_version_counter(parameter)
                            uncounted.enter_context(same)
                        result = call_step(owner.training_step, batch, number)
                except UserError:
                    if zeros or facts.meets_zeros:
                        raise
                    facts.events.clear()
                    facts.meets_zeros = True
                    continue
                if any(parameter.grad is not None and bool(parameter.grad.any()) for parameter, _ in kept):
                    raise UserError("the training step calls backward itself, not manual_backward.")
                return result
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient


def or_nan(loss: Callable[[], Tensor]) -> float:
    """`loss()`, NaN where it fails, as a distribution does of a scale that is no number any more."""
    try:
        return float(loss())
    except ChangesParameters:
        raise
    except (UserError, ValueError):
        return math.nan


def in_their_units(given: Tensor, returned: Any) -> Tensor:
    """The loss that a step returns, where what it has given to `manual_backward` is that times a number, such
    as the scale of mixed precision or one over the batches that it adds up; else what it has given."""
    if not isinstance(returned, Tensor) or returned.numel() != 1 or returned.grad_fn is None:
        return given
    inputs = [node for node, _ in given.grad_fn.next_functions if node] if given.grad_fn else []
    scaled = type(given.grad_fn).__name__ in ("MulBackward0", "DivBackward0")
    return returned if scaled and inputs == [returned.grad_fn] and float(returned) else given


def only_loss(losses: Sequence[StepLoss]) -> Tensor:
    """The one loss; raises `UserError` where there are several."""
    if len(losses) != 1:
        raise UserError(f"{several(len(losses))}; one is needed here.")
    return losses[0].value


def several(count: int) -> str:
    """That a step has `count` losses."""
    return f"your training_step has {count} losses that different optimizers minimise"


def _scalar(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor):
        raise UserError("your training_step gives no loss that is a tensor.")
    if loss.numel() != 1:
        raise UserError(f"your training_step gives a loss of shape {tuple(loss.shape)}, not one number.")
    return loss.reshape(())
