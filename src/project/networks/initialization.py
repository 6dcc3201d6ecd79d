"""Starting weights. Each function sets the weights of all convolutions and linear layers, and zeroes biases.

All but `gaussian` start the head so small that the logits are near 0 and the loss is that of a uniform
guess; the activations of the other layers keep their variance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

HEAD_STD = 0.01
"""Logits then differ by some hundredths, and a softmax loss starts within a percent of ln(classes)."""


def kaiming(network: nn.Module, head: nn.Linear, activation: str) -> None:
    """N(0, gain²/fan_in), which keeps the variance through rectifiers (He et al., 2015)."""
    like = _nonlinearity(activation)
    _initialize(network, head, lambda weight: nn.init.kaiming_normal_(weight, nonlinearity=like))


def xavier(network: nn.Module, head: nn.Linear, activation: str) -> None:
    """N(0, gain²·2/(fan_in + fan_out)), for tanh and its like (Glorot and Bengio, 2010)."""
    gain = nn.init.calculate_gain(_nonlinearity(activation))
    _initialize(network, head, lambda weight: nn.init.xavier_normal_(weight, gain))


def orthogonal(network: nn.Module, head: nn.Linear, activation: str) -> None:
    """Orthogonal rows or columns times the gain (Saxe et al., 2014)."""
    gain = nn.init.calculate_gain(_nonlinearity(activation))
    _initialize(network, head, lambda weight: nn.init.orthogonal_(weight, gain))


def gaussian(network: nn.Module, head: nn.Linear, activation: str, std: float) -> None:
    """N(0, `std`²) everywhere, the head included, whatever the width of the layers.

    With a small `std` the signal of a deep network dies out: cs231n's "small random numbers".
    """
    _initialize(network, head, lambda weight: nn.init.normal_(weight, 0, std))
    nn.init.normal_(head.weight, 0, std)


def _initialize(network: nn.Module, head: nn.Linear, fill: Callable[[Tensor], object]) -> None:
    layers = [layer for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    for layer in layers:
        fill(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    nn.init.normal_(head.weight, 0, HEAD_STD)


def _nonlinearity(activation: str) -> Literal["tanh", "sigmoid", "relu"]:
    """What has the activation's gain: √2 for rectifiers and their smooth relatives."""
    return "tanh" if activation == "tanh" else "sigmoid" if activation == "sigmoid" else "relu"
