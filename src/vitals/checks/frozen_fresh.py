"""Are layers frozen at weights that nobody has trained?"""

from collections.abc import Container, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vitals.checks.depended_on import outputs_change_with
from vitals.errors import UserError
from vitals.measures.fresh_draws import NORMS, fresh_layers, looks_drawn
from vitals.measures.layer_outputs import WEIGHTED
from vitals.probes.trial import Inputs, trial


def frozen_fresh(model: nn.Module, inputs: Inputs, left_out: Container[str]) -> tuple[list[str], bool]:
    """Frozen layers at fresh weights on the way to the outputs, and whether they are most of the layers; none
    unless they are that, two at least, or stand between layers that learn: a random projection of the
    inputs, or a fixed classifier, is nobody's mistake; nor is one between others that has no bias, as random
    filters and the first matrix of an adapter, where no normalization is frozen with it.
    `filter(requires_grad)` leaves them out of the optimizer, too, which says nothing; networks `left_out` as
    a whole, such as a teacher, or what another loss trains, are not looked at, nor are layers of target
    networks, which begin as copies."""
    every = {name: module for name, module in model.named_modules() if isinstance(module, WEIGHTED)}
    layers = {name: module for name, module in every.items() if f"{name}.weight" not in left_out}
    frozen = [
        name
        for name, module in layers.items()
        if not module.weight.requires_grad and not any(_is_copy(module, other) for other in every.values())
    ]
    if not frozen or not set(fresh_layers(model)) >= set(frozen):  # beside trained ones they may be adapters
        return [], False
    most = len(frozen) > 1 and 2 * len(frozen) > len(layers)  # a target network is half
    beside: list[nn.Module] = [layers[name] for name in frozen if layers[name].bias is not None]
    beside += [part for part in model.modules() if isinstance(part, NORMS)]
    with_more = any(not parameter.requires_grad for part in beside for parameter in part.parameters())
    found = frozen if most else _between(model, inputs, frozen) if with_more else []
    matters = outputs_change_with(model, inputs, [f"{name}.weight" for name in found])
    return (found, most) if matters else ([], False)


def _is_copy(layer: Any, other: Any) -> bool:
    one, two = layer.weight, other.weight
    return one is not two and one.shape == two.shape and torch.equal(one, two)


def _between(model: nn.Module, inputs: Inputs, names: Sequence[str]) -> list[str]:
    """Those of the layers `names` that get what other layers have learned, and are followed by some."""
    called: list[tuple[str, bool]] = []

    def look(name: str, module: nn.Module, given: Any) -> None:
        called.append((name, any(isinstance(x, Tensor) and x.requires_grad for x in given)))

    with trial(model, dropout=False) as copies, suppress(UserError):
        for name, part in copies.model.named_modules():
            if isinstance(part, WEIGHTED):
                part.register_forward_pre_hook(partial(look, name))
        copies.outputs(inputs)
    learning = [place for place, (name, _) in enumerate(called) if name not in names]
    last = max(learning, default=-1)
    # What begins with a state of zeros is a recurrence of fixed weights.
    first = dict(reversed(called[:last]))
    return [name for name, learned in first.items() if learned and name in names]


def frozen_table(model: nn.Module, inputs: Inputs, left_out: Container[str]) -> str:
    """A frozen embedding at vectors that look drawn: trained ones are not of unit variance and even all
    round. Where layers are frozen with it, as in a base below adapters, these say whether that was
    trained."""
    if any(isinstance(part, WEIGHTED) and not part.weight.requires_grad for part in model.modules()):
        return ""
    for name, module in model.named_modules():
        weight = f"{name}.weight"
        if not isinstance(module, nn.Embedding) or module.weight.requires_grad or weight in left_out:
            continue
        rows = torch.arange(len(module.weight), device=module.weight.device) != module.padding_idx
        drawn = bool(module.weight[rows].any(1).all()) and looks_drawn(module.weight[rows])
        if drawn and outputs_change_with(model, inputs, [weight]):
            return name
    return ""
