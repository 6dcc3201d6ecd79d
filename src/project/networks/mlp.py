"""A plain stack of linear layers, in which a wrong initialization shows at once."""

from collections import OrderedDict
from collections.abc import Callable

from torch import nn

from project.networks.initialization import kaiming
from project.networks.layers import linear_block


class MLP(nn.Sequential):
    """`depth` hidden layers of `width` units, each followed by its activation, and a linear head.

    Args (further ones: those of every network, see `project.networks`):
        depth: hidden layers.
        width: units of each.
        dropout: probability, after each activation.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 32,
        depth: int = 8,
        width: int = 256,
        activation: str = "relu",
        norm: str = "none",
        dropout: float = 0.0,
        initialization: Callable[..., None] = kaiming,
    ) -> None:
        layers = nn.Sequential()
        for inputs in [in_channels * image_size**2, *[width] * (depth - 1)]:
            layers.append(linear_block(inputs, width, norm, activation, dropout))
        head = nn.Linear(width, num_classes)
        super().__init__(OrderedDict(flatten=nn.Flatten(), layers=layers, head=head))
        initialization(self, head=head, activation=activation)
