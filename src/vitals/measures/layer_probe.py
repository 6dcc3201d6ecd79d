"""One forward and backward pass for looking, that leaves parameters, gradients and random numbers alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitals.measures.layer_outputs import LayerOutput, layer_outputs
from vitals.measures.norms import dense


@dataclass(frozen=True)
class Probe:
    """What one pass gave; all on the device."""

    loss: Tensor
    layers: list[LayerOutput]
    """In the order of execution."""
    layer_gradients: list[Tensor | None]
    """Of the loss with respect to the layers' values."""
    gradients: dict[str, Tensor]
    """By parameter, dense; without those that the loss does not reach."""


def probe(model: nn.Module, loss: Callable[[], Tensor], parameters: Mapping[str, Tensor]) -> Probe:
    """Run `loss`, which calls `model`, once, and differentiate it with respect to its layers and those of
    `parameters` that train. Gradients are not added to `.grad`; buffers and random states change as in any
    forward pass: give a copy that shares its parameters, and isolate the random states."""
    with torch.enable_grad(), layer_outputs(model) as layers:
        value = loss()
    reached = [layer.values for layer in layers if layer.values.requires_grad]
    trained = {name: parameter for name, parameter in parameters.items() if parameter.requires_grad}
    gradients: list[Tensor | None] = []
    if value.requires_grad and (reached or trained):
        gradients = list(torch.autograd.grad(value, [*reached, *trained.values()], allow_unused=True))
    of_layers = iter(gradients[: len(reached)])
    by_layer = [next(of_layers, None) if layer.values.requires_grad else None for layer in layers]
    of_parameters = zip(trained, gradients[len(reached) :], strict=False)
    by_parameter = {name: dense(gradient) for name, gradient in of_parameters if gradient is not None}
    return Probe(value.detach(), layers, by_layer, by_parameter)
