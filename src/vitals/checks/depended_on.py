"""Do outputs and gradients depend on weights, whatever these are?"""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vitals.checks.handed_over import PUSHED
from vitals.checks.inputs import standardized
from vitals.checks.layer_variance import moved
from vitals.errors import UserError
from vitals.measures.layer_outputs import WEIGHTED
from vitals.probes.random_states import seed_torch
from vitals.probes.trial import Inputs, Loss, trial

NOTHING = 1e-15
"""Size up to which what enters a layer is zero but for rounding."""


def outputs_change_with(model: nn.Module, inputs: Inputs, names: Sequence[str]) -> bool:
    """Whether outputs change with the weights `names`, in evaluation mode where that gives outputs; not where
    they are others each time, as those of places that are masked at random."""
    if not names:
        return False

    def outputs() -> Tensor:
        seed_torch(0)
        return copies.outputs(inputs)

    with trial(model, dropout=False) as copies, torch.no_grad():
        copies.model.eval()
        for name, parameter in copies.model.named_parameters():
            if name not in names and parameter.is_floating_point() and not parameter.any():
                parameter.normal_(std=PUSHED)  # a branch that starts at zero may come to something
        try:
            before = outputs()
        except UserError:  # in evaluation mode some give something else, which the step makes no loss of
            copies.model.train()
            before = outputs()
        if not torch.equal(outputs(), before):
            return False
        for name, parameter in copies.model.named_parameters():
            if name in names and parameter.is_floating_point():
                spread = float(parameter.std()) if parameter.numel() > 1 else 0.0
                parameter.add_(torch.randn_like(parameter) * (spread or 0.1))
        return not torch.equal(outputs(), before)


@torch.no_grad()
def empty_layers(
    model: nn.Module, inputs: Inputs, names: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Those of the weights `names` whose layers get zeros for `inputs`: where they get others for other
    inputs, as of a missing value; and where they never do, as where there is none of some data, with the
    part whose forward makes the zeros, "" for the whole."""
    fed: dict[str, list[bool]] = {}

    def look(name: str, module: nn.Module, given: Any, named: dict[str, Any]) -> None:
        tensors = [each for each in (*given, *named.values()) if isinstance(each, Tensor)]
        sizes = [float(each.abs().max()) for each in tensors if each.numel()]
        fed.setdefault(name, []).append(any(size > NOTHING for size in sizes) or not tensors)

    layers = {f"{name}.weight": part for name, part in model.named_modules() if isinstance(part, WEIGHTED)}
    around = {name: _around(name) for name in names if name in layers}
    seen: list[dict[str, bool]] = []
    for rows in (inputs, moved(inputs)):
        with trial(model, dropout=False) as copies, suppress(UserError):
            for name in {part for parts in around.values() for part in parts}:
                part = copies.model.get_submodule(name)
                part.register_forward_pre_hook(partial(look, name), with_kwargs=True)
            copies.outputs(rows)
        seen.append({part: any(each) for part, each in fed.items()})
        fed.clear()
    before, after = seen
    empty = [name for name, parts in around.items() if before.get(parts[0]) is False]
    later = tuple(name for name in empty if after.get(around[name][0]))
    never = [name for name in empty if after.get(around[name][0]) is False]
    return later, {name: next((part for part in around[name] if before.get(part)), "") for name in never}


def _around(weight: str) -> list[str]:
    """The layer of the weight of this name, and the parts that it is in, the nearest first."""
    parts = weight.split(".")[:-1]
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def zero_at_an_even_scale(
    model: nn.Module, loss: Loss, inputs: Inputs, targets: Any, names: Sequence[str]
) -> bool:
    """Whether gradients of `names` are exactly zero at an even scale, too, where nothing is saturated."""
    with trial(model, loss, dropout=False) as copies:
        with torch.no_grad():
            for parameter in copies.model.parameters():
                if parameter.ndim > 1 and parameter.is_floating_point():
                    fan_in = parameter[0].numel()
                    parameter.normal_(std=fan_in**-0.5)
        even = standardized(inputs) if isinstance(inputs, Tensor) and inputs.is_floating_point() else inputs
        gradients = copies.gradients(even, targets)[1]
    found = [gradients.get(name) for name in names]
    return not any(gradient is not None and bool(gradient.any()) for gradient in found)
