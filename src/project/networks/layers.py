"""Activations, normalisations and their combinations with a layer, by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
}

GROUPS = 8
"""Groups of a GroupNorm, or fewer where the channels do not divide by it."""


def activation_layer(name: str) -> nn.Module:
    """The activation called `name`, one of `ACTIVATIONS`."""
    return ACTIVATIONS[name]()


def norm_layer(name: str, channels: int, spatial: bool = True) -> nn.Module:
    """The normalisation called `name`: `batch`, `group`, `layer` or `none`.

    Args:
        name: which one.
        channels: features normalised.
        spatial: whether it follows a convolution (N×C×H×W) or a linear layer (N×C).
    """
    if name == "batch":
        return nn.BatchNorm2d(channels) if spatial else nn.BatchNorm1d(channels)
    if name == "group":
        groups = next(groups for groups in range(min(GROUPS, channels), 0, -1) if channels % groups == 0)
        return nn.GroupNorm(groups, channels)
    if name == "layer":
        return nn.GroupNorm(1, channels)
    return nn.Identity()


def conv_block(
    in_channels: int,
    out_channels: int,
    *,
    kernel_size: int = 3,
    stride: int = 1,
    norm: str = "batch",
    activation: str = "relu",
) -> nn.Sequential:
    """Convolution, normalisation, activation; sizes are kept at stride 1."""
    return nn.Sequential(
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            bias=norm == "none",  # a normalisation has its own
        ),
        norm_layer(norm, out_channels),
        activation_layer(activation),
    )
