"""Activations, normalisations and their combinations with a layer, by name."""

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


def norm_layer(name: str, channels: int, spatial: bool = True) -> nn.Module:
    """The normalisation called `name`: `batch`, `group`, `layer` or `none`, of so many `channels`.

    `spatial` says whether it follows a convolution (N×C×H×W) or a linear layer (N×C).
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
    inputs: int, outputs: int, *, kernel_size: int = 3, stride: int = 1, norm: str, activation: str
) -> nn.Sequential:
    """Convolution of so many channels, normalisation, activation; sizes are kept at stride 1."""
    bias = norm == "none"  # a normalisation has its own
    convolution = nn.Conv2d(inputs, outputs, kernel_size, stride, kernel_size // 2, bias=bias)
    return nn.Sequential(convolution, norm_layer(norm, outputs), ACTIVATIONS[activation]())


def mean_and_head(dropout: float, head: nn.Linear) -> dict[str, nn.Module]:
    """The end of a convolutional network, by name: the mean over the image, dropout and the linear head."""
    pool, flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return {"pool": pool, "flatten": flatten, "dropout": nn.Dropout(dropout), "head": head}


def linear_block(inputs: int, outputs: int, norm: str, activation: str, dropout: float) -> nn.Sequential:
    """Linear layer, normalisation, activation and dropout of N×`inputs`."""
    return nn.Sequential(
        nn.Linear(inputs, outputs, bias=norm == "none"),
        norm_layer(norm, outputs, spatial=False),
        ACTIVATIONS[activation](),
        nn.Dropout(dropout),
    )
