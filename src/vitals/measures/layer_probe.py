"""One forward and backward pass for looking, that leaves parameters, gradients and random numbers alone."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vitals.measures.layer_outputs import LayerOutput, layer_outputs
from vitals.measures.norms import dense

Aim = tuple[Tensor, Container[int]]
"""A loss, and the identities of the parameters that are trained by it."""


@dataclass(frozen=True)
class Probe:
    """What one pass gave; all on the device."""

    layers: list[LayerOutput]
    """In the order of execution; without calls under `no_grad` of those that are called otherwise, too."""
    layer_gradients: list[Tensor | None]
    """Of the losses with respect to the layers' values."""
    gradients: dict[str, Tensor]
    """By parameter, dense; without those that the loss does not reach."""


def probe(model: nn.Module, losses: Callable[[], Sequence[Aim]], parameters: Mapping[str, Tensor]) -> Probe:
    """Run `losses`, which calls `model`, once, and differentiate each with respect to the layers, whose
    gradients are added up, and those of `parameters` that it trains. Gradients are not added to `.grad`;
    buffers and random states change as in any forward pass: give a copy that shares its parameters, and
    isolate the random states."""
    with torch.enable_grad(), layer_outputs(model) as layers:
        aims = losses()
    layers = _those_that_train(layers)
    reached = [layer for layer in layers if layer.values.requires_grad]
    values = [layer.values for layer in reached]
    of_layers: list[Tensor | None] = [None] * len(reached)
    by_parameter: dict[str, Tensor] = {}
    for number, (loss, held) in enumerate(aims, 1):
        trained = {name: p for name, p in parameters.items() if p.requires_grad and id(p) in held}
        if not loss.requires_grad or not (values or trained):
            continue
        wanted, again = [*values, *trained.values()], number < len(aims)
        found = torch.autograd.grad(loss, wanted, allow_unused=True, retain_graph=again)
        of_layers = [_sum(one, other) for one, other in zip(of_layers, found, strict=False)]
        named = zip(trained, found[len(values) :], strict=True)
        by_parameter |= {name: dense(gradient) for name, gradient in named if gradient is not None}
    following = iter(of_layers)
    by_layer = [next(following) if layer.values.requires_grad else None for layer in layers]
    return Probe(layers, by_layer, by_parameter)


def _those_that_train(layers: list[LayerOutput]) -> list[LayerOutput]:
    """The same without the calls that no loss can reach of layers of which it reaches others, as where a step
    first encodes everything under `no_grad`."""
    reached = {layer.name.partition(":")[0] for layer in layers if layer.values.requires_grad}
    calls: dict[str, int] = {}
    found = []
    for layer in layers:
        name = layer.name.partition(":")[0]
        if layer.values.requires_grad or name not in reached:
            calls[name] = calls.get(name, 0) + 1
            found.append(replace(layer, name=name if calls[name] == 1 else f"{name}:{calls[name]}"))
    return found


def _sum(one: Tensor | None, other: Tensor | None) -> Tensor | None:
    return one if other is None else other if one is None else one + other
