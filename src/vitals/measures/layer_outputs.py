"""What each layer gives in one forward pass, activation included, in the order of execution."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

WEIGHTED = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
)

Kind = Literal["relu", "tanh", "sigmoid", "other", "none"]

_RELU: list[Any] = [F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.threshold, F.relu6]
_RELU += [torch.clamp_min, Tensor.clamp_min, Tensor.clamp_min_]
_TANH: list[Any] = [F.tanh, torch.tanh, torch.tanh_, Tensor.tanh, Tensor.tanh_, F.hardtanh]
_SIGMOID: list[Any] = [F.sigmoid, torch.sigmoid, torch.sigmoid_, Tensor.sigmoid, Tensor.sigmoid_]
_OTHER: list[Any] = [F.leaky_relu, F.elu, F.gelu, F.silu, F.selu, F.celu, F.mish, F.softplus, F.softsign]
_OTHER += [F.hardswish, F.prelu, F.rrelu, F.hardsigmoid]
KINDS: dict[Any, Kind] = {
    **dict.fromkeys(_RELU, "relu"),
    **dict.fromkeys(_TANH, "tanh"),
    **dict.fromkeys(_SIGMOID, "sigmoid"),
    **dict.fromkeys(_OTHER, "other"),
}
"""Activations, as modules or as functions, by what can go wrong with them."""
_CLAMPS: list[Any] = [torch.clamp, torch.clip, Tensor.clamp, Tensor.clamp_, Tensor.clip, Tensor.clip_]
_CLAMPS += [F.hardtanh]  # that is what nn.ReLU6 calls
"""A ReLU where they cut at 0 from below."""


@dataclass
class LayerOutput:
    """One weighted layer, with the activation that follows it before the next one."""

    name: str
    """Of the module; called again, it is `name:2` and so on."""
    values: Tensor
    """(N, ...); part of the graph, so that the loss can be differentiated with respect to it."""
    channel_dim: int
    kind: Kind = "none"
    """Of the activation; `none` where the layer's own output is taken."""


@contextmanager
def layer_outputs(model: nn.Module) -> Iterator[list[LayerOutput]]:
    """Collects, from the forward passes made inside the block, every weighted layer in order of execution.

    A layer's output is that of the first activation after it and before the next weighted layer (so behind
    BatchNorm or a residual sum, where there is one), else its own. Functional activations count as well as
    modules. Modules compiled on their own run eagerly inside the block.
    """
    outputs: list[LayerOutput] = []
    calls: dict[str, int] = {}

    def hook(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def record(module: nn.Module, arguments: Any, values: Any) -> None:
            if not isinstance(values, Tensor) or values.is_nested:  # of which there are no statistics
                return
            calls[name] = calls.get(name, 0) + 1
            shown = name if calls[name] == 1 else f"{name}:{calls[name]}"
            channel_dim = values.ndim - 1 if isinstance(module, nn.Linear) else 1
            outputs.append(LayerOutput(shown, values, channel_dim))

        return record

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, WEIGHTED):
                stack.enter_context(module.register_forward_hook(hook(name)))
        with torch.compiler.set_stance("force_eager"), _Activations(outputs):
            yield outputs


class _Activations(TorchFunctionMode):
    """Gives the latest layer the output of the first activation behind it."""

    def __init__(self, outputs: list[LayerOutput]) -> None:
        super().__init__()
        self.outputs = outputs

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        kind = KINDS.get(func)
        if func in _CLAMPS and _lowest(*args, **(kwargs or {})) == 0:
            kind = "relu"
        if kind and self.outputs and isinstance(result, Tensor) and result.ndim > 1 and not result.is_nested:
            latest = self.outputs[-1]
            same_graph = result.requires_grad or not torch.is_grad_enabled()
            if latest.kind == "none" and same_graph and len(result) == len(latest.values):
                latest.values, latest.kind = result, kind
        return result


def _lowest(values: Tensor, min: Any = None, *others: Any, **options: Any) -> float | None:
    """The lower limit of a clamp with these arguments; None where that is no number."""
    min = options.get("min_val", min)
    return float(min) if isinstance(min, int | float) else None
