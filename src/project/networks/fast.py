"""A network that learns much in little time, on a CPU, too."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import nn

from project.networks.initialization import dirac
from project.networks.layers import ACTIVATIONS, norm_layer


class Fast(nn.Sequential):
    """A strided stem, blocks of convolutions around a pool, the maximum over the image, a linear head.

    After Keller Jordan's CIFAR-10 speedruns (2024), at half their resolution; made for `network.whiten=true`.

    Args (further ones: those of every network, see `project.networks`):
        image_size: pixels a side; at least 2 for every block, and 2 more.
        stem: filters of the first convolution, an even number.
        kernel_size, stride: of the first convolution.
        widths: channels of each block.
        depth: convolutions of each block.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 32,
        stem: int = 32,
        kernel_size: int = 4,
        stride: int = 2,
        widths: Sequence[int] = (64, 128),
        depth: int = 2,
        activation: str = "silu",
        norm: str = "batch",
        dropout: float = 0.0,
        initialization: Callable[..., None] = dirac,
    ) -> None:
        if (image_size - kernel_size) // stride + 1 < 2 ** len(widths):
            raise ValueError(
                f"widths={list(widths)} halves the image {len(widths)} times after a stem of stride "
                f"{stride}: too often for {image_size} pixels"
            )
        first = nn.Conv2d(in_channels, stem, kernel_size, stride)
        blocks, channels = nn.Sequential(), stem
        for width in widths:
            block = nn.Sequential()
            for place in range(depth):
                bias = norm == "none"
                block.append(nn.Conv2d(channels, width, 3, padding=1, bias=bias))
                if place == 0:
                    block.append(nn.MaxPool2d(2))  # before the norm, which has less to do then
                block.extend([norm_layer(norm, width), ACTIVATIONS[activation]()])
                channels = width
            blocks.append(block)
        head = nn.Linear(channels, num_classes)
        parts = OrderedDict(stem=nn.Sequential(first, ACTIVATIONS[activation]()), blocks=blocks)
        pool, flatten = nn.AdaptiveMaxPool2d(1), nn.Flatten()
        super().__init__(
            OrderedDict(**parts, pool=pool, flatten=flatten, dropout=nn.Dropout(dropout), head=head)
        )
        initialization(self, head=head, activation=activation)
