"""Do outputs and gradients depend on weights, whatever these are?"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
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
def empty_layers(model: nn.Module, inputs: Inputs, names: Sequence[str]) -> tuple[str, ...]:
    """Those of the weights `names` whose layers get zeros for `inputs`, and not for others, as of a missing
    value."""
    entering: dict[str, list[bool]] = {}

    def look(name: str) -> Callable[[nn.Module, Any], None]:
        return lambda module, given: entering.setdefault(name, []).append(
            bool(given) and float(given[0].abs().max()) > NOTHING
        )

    layers = {f"{name}.weight": part for name, part in model.named_modules() if isinstance(part, WEIGHTED)}
    enters = []
    for rows in (inputs, moved(inputs)):
        with trial(model, dropout=False) as copies, ExitStack() as stack, suppress(UserError):
            for name in filter(layers.__contains__, names):
                part = copies.model.get_submodule(name.removesuffix(".weight"))
                stack.enter_context(part.register_forward_pre_hook(look(name)))
            copies.outputs(rows)
        enters.append({name for name, seen in entering.items() if any(seen)})
        entering.clear()
    before, after = enters
    return tuple(name for name in names if name in after - before)


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
