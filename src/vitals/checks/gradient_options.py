"""What the gradient checks accept, and what they make of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vitals.checks.gradient_objective import Objective, Part, batch_size
from vitals.errors import UserError


def checked_samples(model: nn.Module, inputs: Any, samples: int | None) -> int:
    """How many examples to use: as asked, else 2, or 4 where a BatchNorm layer trains."""
    available = batch_size(inputs)
    if samples is None:
        batch_norm = any(
            isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training for m in model.modules()
        )
        return min(available, 4 if batch_norm else 2)
    if not 1 <= samples <= available:
        raise UserError(f"samples must be between 1 and the {available} examples in inputs, not {samples}.")
    return samples


def check_numbers(elements: int, steps: Sequence[float], dtype: torch.dtype) -> None:
    """Raise UserError for the first argument that is out of range."""
    if elements < 1:
        raise UserError(f"elements must be at least 1, not {elements}.")
    if not steps or not all(math.isfinite(h) and h > 0 for h in steps):
        raise UserError(f"steps must be positive step sizes h, not {tuple(steps)}.")
    if dtype not in (torch.float64, torch.float32):
        raise UserError(f"dtype must be torch.float64 or torch.float32, not {dtype}.")


def finite_value(objective: Objective, part: Part = "data") -> float:
    """The data loss or the penalty; UserError where it cannot be computed or is not finite."""
    name = "penalty" if part == "penalty" else "loss"
    try:
        value = objective.value(part).item()
    except RuntimeError as error:
        raise UserError(f"model or {name} cannot be evaluated in {objective.dtype}: {error}") from error
    if not math.isfinite(value):
        raise UserError(f"{name} must be finite, but it is {value}.")
    return value


def loss_scale(gradients: dict[str, Tensor]) -> float:
    """Factor on the loss that makes its largest gradient about 1; a power of two, which rounds nothing."""
    finite = [gradient[gradient.isfinite()].abs() for gradient in gradients.values()]
    largest = max((values.max().item() for values in finite if values.numel()), default=0.0)
    return 2.0 ** -round(math.log2(largest)) if largest else 1.0
