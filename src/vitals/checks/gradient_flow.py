"""Which parameters the gradient reaches, and which it leaves as they are or all alike."""

import math
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import SGD

from vitals.errors import UserError
from vitals.measures.layer_outputs import WEIGHTED
from vitals.measures.norms import real
from vitals.probes.trial import Inputs, Trial, trial

ALIKE = 1e-6
"""Largest difference between units, as a share of the largest weight, that is rounding."""


def rows_alike(weight: Tensor) -> bool:
    """Whether all output units of `weight` (units, ...) have the same weights; False for fewer than two
    units."""
    if weight.ndim < 2 or len(weight) < 2 or weight[0].numel() < 1:
        return False
    rows = weight.detach().flatten(1)
    limit = ALIKE * _largest(rows)
    # Two rows say it of nearly all layers, and take no memory.
    return all(float((some - rows[:1]).abs().max()) <= limit for some in (rows[:2], rows))


def _largest(tensor: Tensor) -> float:
    """The largest absolute value, without memory of its own; NaN where one is."""
    lowest, highest = map(float, real(tensor).aminmax())
    return lowest if math.isnan(lowest) else max(-lowest, highest)


def duplicate_unit_weights(model: nn.Module) -> dict[str, Tensor]:
    """The trained weights of `model`, by name, whose units are all alike; a zeroed last layer is among
    them."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad and rows_alike(p)}


def constant_weights(model: nn.Module, inputs: Inputs) -> list[str]:
    """Names of linear and convolutional weights that are all one number, though not 0: random biases keep
    their units from being exact duplicates, but leave one direction of the input to all of them. Not those
    behind which no layer with weights stands for `inputs`: each of their units has a target of its own."""
    constant = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | _ConvNd)
        and rows_alike(module.weight)
        and module.weight[0].numel() > 1
        and bool((module.weight != 0).all() & (module.weight == module.weight.flatten()[0]).all())
    ]
    before = _before_others(model, inputs, constant) if constant else set()
    return [f"{name}.weight".lstrip(".") for name in constant if name in before]


@torch.enable_grad()
def _before_others(model: nn.Module, inputs: Inputs, names: list[str]) -> set[str]:
    """Those of the layers `names` whose outputs go into a layer with weights."""
    found: set[str] = set()
    marks = {name: torch.zeros((), requires_grad=True) for name in names}

    def mark(name: str, module: nn.Module, given: Any, outputs: Tensor) -> Tensor:
        return outputs + marks[name].to(outputs)

    def look(module: nn.Module, given: Any) -> None:
        entering = [each.sum() for each in given if isinstance(each, Tensor) and each.requires_grad]
        if entering:
            reached = torch.autograd.grad(
                entering, list(marks.values()), retain_graph=True, allow_unused=True
            )
            found.update(name for name, each in zip(marks, reached, strict=True) if each is not None)

    with trial(model, dropout=False) as copies, suppress(UserError):
        for name, part in copies.model.named_modules():
            if name in marks:
                part.register_forward_hook(partial(mark, name))
            if isinstance(part, WEIGHTED) or any(each.ndim > 1 for each in part.parameters(recurse=False)):
                part.register_forward_pre_hook(look)
        copies.outputs(inputs)
    return found


STEPS = 3
"""Steps in which a parameter must get a gradient: some layers that start at zero let none through at
first."""
STEP_SIZE = 0.01
STILL_ALIKE = 0.01
"""Difference of the units' gradients, over the largest, up to which they stay duplicates."""


class GradientFlow(NamedTuple):
    """Names of parameters by what is wrong with their gradient."""

    unreached: list[str]
    zero: list[str]
    non_finite: list[str]
    duplicates: list[str]


def gradient_flow(copies: Trial, x: Inputs, y: Any) -> GradientFlow:
    """How the gradients of the first steps reach each parameter; only weights count as zero or duplicate."""
    parameters = {name: p for name, p in copies.model.named_parameters() if p.requires_grad}
    if not parameters:
        return GradientFlow([], [], [], [])
    copies = Trial(copies.model, copies.loss, SGD(parameters.values(), lr=STEP_SIZE))
    duplicates = duplicate_unit_weights(copies.model)
    largest: dict[str, float] = {}
    sizes: dict[str, float] = {}
    apart: list[str] = []

    def look(name: str, gradient: Tensor) -> None:
        sizes[name] = _largest(gradient)
        rows = gradient.flatten(1) if name in duplicates else None
        if rows is not None and float((rows - rows[:1]).abs().max()) > STILL_ALIKE * sizes[name]:
            apart.append(name)

    for step in range(STEPS):
        sizes.clear()
        value = copies.step(x, y, look)
        bad = [name for name in parameters if not math.isfinite(sizes.get(name, 0.0))]
        if bad and step == 0 and bool(value.isfinite()):
            return GradientFlow([], [], bad, [])
        if bad or not bool(value.isfinite()):
            if step == 0:  # the loss itself is broken, which says nothing about the wiring
                return GradientFlow([], [], [], [])
            break
        largest |= {name: max(largest.get(name, 0.0), size) for name, size in sizes.items()}
    duplicates = {name: weight for name, weight in duplicates.items() if name not in apart}
    unreached = [name for name in parameters if name not in largest]
    zero = [name for name, p in parameters.items() if largest.get(name) == 0 and p.ndim > 1]
    # Units that start at zero and get no gradient are duplicates only if nothing could ever give them one.
    lasting = [name for name in duplicates if largest.get(name, 0.0) > 0 or (name in zero and _still(copies))]
    return GradientFlow(unreached, zero, [], lasting)


def _still(copies: Trial) -> bool:
    """Whether all weights of the network are zero, so that no gradient will ever break their symmetry."""
    return not any(bool(p.any()) for p in copies.model.parameters() if p.ndim > 1)
