"""Statistics of activations and of their gradients, one row of numbers a layer, made on the device."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vitals.measures.layer_outputs import LayerOutput

SATURATED = 0.97
"""|tanh| or sigmoid beyond which the slope has all but gone (tanh' = 0.06, sigmoid' = 0.03)."""
MOST_VALUES = 2**19
"""Of larger feature maps every second (third, ...) row and column is looked at, but every sample and
channel."""


@dataclass(frozen=True)
class LayerStatistics:
    """Of one layer on one batch; where values are not finite, so are the figures."""

    mean: float
    std: float
    """Over all values."""
    variance: float
    """Mean over units of the variance over samples: biases do not hide a vanished signal."""
    gradient_variance: float
    """Of the loss's gradient with respect to the values."""
    dead: float
    """Share of channels that are zero for every sample and position."""
    saturated: float
    """Share of values at the limits of a tanh or sigmoid; 0 for other activations."""


@torch.no_grad()
def layer_statistics(layer: LayerOutput, gradient: Tensor | None) -> Tensor:
    """The fields of `LayerStatistics` in their order, of a layer's values (N, ...) and the gradient of the
    loss with respect to these, None where there is none; (6,), float32, on the device."""
    values = _thinned(layer.values.detach()).float()
    slope = torch.zeros_like(values[:1]) if gradient is None else _thinned(gradient.detach()).float()
    others = [dim for dim in range(values.ndim) if dim != layer.channel_dim]
    # Around the means of units, not from sums of squares: what is left of a dying signal is far below them.
    unit_means = values.mean(dim=0)
    signal = _mean_square(values - unit_means)
    mean = unit_means.mean()
    return torch.stack(
        [
            mean,
            (signal + _mean_square(unit_means - mean)).sqrt(),
            signal,
            _mean_square(slope - slope.mean()),
            (values.abs().amax(dim=others) == 0).float().mean(),
            _saturated(layer, values),
        ]
    )


def _mean_square(values: Tensor) -> Tensor:
    return torch.linalg.vector_norm(values).square() / values.numel()


def _saturated(layer: LayerOutput, values: Tensor) -> Tensor:
    if layer.kind == "tanh":
        return (values.abs() > SATURATED).float().mean()
    if layer.kind == "sigmoid":
        return ((values > SATURATED) | (values < 1 - SATURATED)).float().mean()
    return torch.zeros((), device=values.device)


def _thinned(values: Tensor) -> Tensor:
    if values.ndim != 4 or values.numel() <= MOST_VALUES:
        return values
    step = math.ceil(math.sqrt(values.numel() / MOST_VALUES))
    return values[:, :, ::step, ::step]
