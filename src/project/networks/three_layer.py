"""The course's convolutional network of three layers."""

from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from project.networks.initialization import kaiming
from project.networks.layers import conv_block, linear_block


class ThreeLayer(nn.Sequential):
    """conv – relu – 2×2 max pool – affine – relu – affine (cs231n, assignment 2).

    Args (further ones: those of every network, see `project.networks`):
        filters: of the convolution.
        kernel_size: of the convolution; odd.
        hidden: units of the first affine layer.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 32,
        filters: int = 32,
        kernel_size: int = 7,
        hidden: int = 128,
        activation: str = "relu",
        norm: str = "none",
        dropout: float = 0.0,
        initialization: Callable[..., None] = kaiming,
    ) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size={kernel_size} must be odd, so that the image keeps its size")
        conv = conv_block(in_channels, filters, kernel_size=kernel_size, norm=norm, activation=activation)
        features = filters * (image_size // 2) ** 2
        affine = nn.Sequential(nn.Flatten(), *linear_block(features, hidden, norm, activation, dropout))
        head = nn.Linear(hidden, num_classes)
        super().__init__(OrderedDict(conv=conv, pool=nn.MaxPool2d(2), affine=affine, head=head))
        initialization(self, head=head, activation=activation)
