"""Starting weights. Each function sets the weights of all convolutions and linear layers, and zeroes biases.

All but `gaussian` start the head so small that the logits are near 0 and the loss is that of a uniform
guess; the activations of the other layers keep their variance.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import unfold

HEAD_STD = 0.01
"""Logits then differ by some hundredths, and a softmax loss starts within a percent of ln(classes)."""

WHITENING_EPS = 5e-4
"""Added to the variance of each principal component, the least of which are little but noise."""


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


def dirac(network: nn.Module, head: nn.Linear, activation: str) -> None:
    """As `kaiming`, but the first filters of each convolution pass its input channels on as they are: the
    signal reaches the head at once, and learns faster in the first epochs (Keller Jordan, 2024)."""
    kaiming(network, head, activation)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d) and layer.groups == 1:
            nn.init.dirac_(layer.weight.detach()[: layer.in_channels])


def gaussian(network: nn.Module, head: nn.Linear, activation: str, std: float) -> None:
    """N(0, `std`²) everywhere, the head included, whatever the width of the layers: with a small `std`, the
    signal of a deep network dies out (cs231n's "small random numbers")."""
    _initialize(network, head, lambda weight: nn.init.normal_(weight, 0, std))
    nn.init.normal_(head.weight, 0, std)


def whiten(network: nn.Module, images: Tensor) -> None:
    """Let the first convolution decorrelate the patches that it sees, for good: its filters are frozen.

    They are the principal components of the patches, each divided by its standard deviation, and their
    negatives, so that no side of them is lost in an activation (Keller Jordan, 2024). A bias stays trainable.
    `images` are of the training, normalised, N×C×H×W. `ValueError` if there is no convolution with an even
    number of filters.
    """
    first = next((layer for layer in network.modules() if isinstance(layer, nn.Conv2d)), None)
    if first is None or first.out_channels % 2 or first.groups > 1:
        raise ValueError("whiten=true needs a first convolution with an even number of filters")
    patches = unfold(images, first.kernel_size, stride=first.stride).transpose(1, 2).flatten(0, 1).double()
    count = min(first.out_channels // 2, patches.shape[1])
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))  # in ascending order
    scaled = vectors[:, -count:] / (values[-count:] + WHITENING_EPS).sqrt()
    filters = scaled.T.flip(0).reshape(count, *first.weight.shape[1:])
    with torch.no_grad():
        both = torch.cat([filters, -filters])
        first.weight[: len(both)] = both.to(first.weight)
    first.weight.requires_grad_(False)


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
