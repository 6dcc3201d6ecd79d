"""A layer that all goes through and that has fewer units than it takes to tell the classes apart."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from vitals.measures.layer_outputs import WEIGHTED

MOST_UNITS = 16
"""Units up to which a layer is called narrow: few networks for more classes are held back by their last
features."""


def narrow_layer(network: nn.Module, inputs: Tensor) -> tuple[nn.Module, int] | None:
    """The first layer of `network` that gives each of `inputs` (N, ...) so few numbers, at least two fewer
    than there are outputs (N, C), and without which all outputs are the same; with how many these are."""
    sizes: dict[nn.Module, int] = {}

    def measure(layer: nn.Module, arguments: Any, output: Any) -> None:
        if isinstance(output, Tensor) and len(output) == len(inputs):
            sizes[layer] = output[0].numel()

    with ExitStack() as stack:
        for layer in network.modules():
            if isinstance(layer, WEIGHTED):
                stack.enter_context(layer.register_forward_hook(measure))
        outputs = network(inputs)
    narrow = min(MOST_UNITS, outputs.shape[1] - 2)
    return next(
        (
            (layer, size)
            for layer, size in sizes.items()
            if 0 < size <= narrow and _all_goes_through(network, layer, inputs)
        ),
        None,
    )


def _all_goes_through(network: nn.Module, layer: nn.Module, inputs: Tensor) -> bool:
    with layer.register_forward_hook(lambda _, __, output: output.mean(0, keepdim=True).expand_as(output)):
        outputs = network(inputs)
    return bool(torch.allclose(outputs, outputs[:1].expand_as(outputs), rtol=1e-4, atol=1e-6))


def entering(network: nn.Module, layer: nn.Module, inputs: Tensor, at_once: int) -> tuple[Tensor, Tensor]:
    """What enters `layer` of the samples `inputs` (N, ...), and the outputs (N, C) of `network`."""
    seen: list[Tensor] = []
    with layer.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0])):
        outputs = torch.cat([network(part) for part in inputs.split(at_once)])
    return torch.cat(seen), outputs
