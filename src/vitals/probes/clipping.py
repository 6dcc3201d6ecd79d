"""What happens to gradients between the backward pass and the optimizer's step."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import GradClipAlgorithmType
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim import Optimizer

from vitals.errors import UserError
from vitals.measures.double import double
from vitals.measures.held_parameters import held_parameters
from vitals.probes.put_back import buffers_kept, replaced, unchanged
from vitals.probes.step_losses import call_step, in_their_units
from vitals.probes.trial import Clipping

PARALLEL = 0.99
"""Cosine between two gradients that differ by a factor alone."""
SAME = 0.01
"""Share by which such a factor may differ from 1."""


def clipping_of(trainer: L.Trainer) -> Clipping | None:
    """What the trainer does to gradients before each step; None where it leaves them alone."""
    limit, algorithm = trainer.gradient_clip_val, trainer.gradient_clip_algorithm
    return (lambda optimizer: _clip(held_parameters(optimizer), limit, algorithm)) if limit else None


def _clip(parameters: list[Tensor], limit: float | None, algorithm: str | None) -> None:
    """As Lightning does, whose `Trainer` clips by the norm where it is told no algorithm."""
    by_value = algorithm == GradClipAlgorithmType.VALUE
    (clip_grad_value_ if by_value else clip_grad_norm_)(parameters, float(limit or math.inf))


def clipping_by_hand(
    owner: L.LightningModule, facts: Any, batch: Any, optimizers: Sequence[Optimizer]
) -> Clipping | None:
    """What a training step under manual optimisation does to the gradient of its loss before it steps, as the
    one factor that it comes to on `batch`; None where it leaves it alone, or takes no step. `owner` is a
    muted copy, whose gradients are lost, `facts` from `stand_in`, and `optimizers` are copies, whose
    parameters are those of `owner`. `UserError` if the step fails, or does something else than to scale the
    gradient."""
    parameters = held_parameters(optimizers[0])
    losses: list[Tensor] = []
    seen: list[Tensor] = []

    def gradient() -> Tensor:
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        return torch.cat([double(part).flatten() for part in parts])

    def backward(loss: Tensor, *arguments: Any, **options: Any) -> None:
        loss.backward()
        losses.append(loss)
        seen.append(gradient())

    def clip(optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None) -> None:
        _clip(parameters, gradient_clip_val, gradient_clip_algorithm)

    for parameter in parameters:
        parameter.grad = None
    with ExitStack() as stack:
        stack.enter_context(buffers_kept(owner))
        stack.enter_context(unchanged(list(owner.modules())))
        for optimizer in facts.optimizers:
            stack.enter_context(replaced(optimizer, "step", lambda *_, **__: seen.append(gradient())))
        owner._trainer = facts
        owner.__dict__["manual_backward"], owner.__dict__["clip_gradients"] = backward, clip
        result = call_step(owner.training_step, batch)
    for parameter in parameters:
        parameter.grad = None
    facts.events.clear()
    if len(losses) != 1 or len(seen) != 2:  # several losses, or samples that a later batch steps for
        return None
    returned = in_their_units(losses[0], result.get("loss") if isinstance(result, dict) else result)
    before, after = seen[0] * float(returned / losses[0]), seen[1]
    size = float(before @ before)
    if not 0 < size < math.inf:
        return None
    factor = float(before @ after) / size
    if not factor > PARALLEL * float(after.norm() / before.norm()):
        raise UserError("your training_step changes the gradients by hand, and not by a factor alone.")
    return None if abs(factor - 1) < SAME else lambda optimizer: _scale(optimizer, factor)


def _scale(optimizer: Optimizer, factor: float) -> None:
    for parameter in held_parameters(optimizer):
        if parameter.grad is not None:
            parameter.grad.mul_(factor)
