"""A VGG for small images."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn

from project.networks.initialization import kaiming
from project.networks.layers import conv_block, mean_and_head


class VGG(nn.Sequential):
    """Stages of 3×3 convolutions, each ended by a 2×2 max pool, and a linear head.

    After Simonyan and Zisserman (2015), with a normalisation after each convolution and a global mean in
    place of the large fully connected layers.

    Args (further ones: those of every network, see `project.networks`):
        stages: the channels of each convolution of each stage; `[[64], [128], [256, 256], [512, 512],
            [512, 512]]` is VGG-11.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        stages: Sequence[Sequence[int]] = ((64,), (128,), (256, 256), (512, 512), (512, 512)),
        activation: str = "relu",
        norm: str = "batch",
        dropout: float = 0.0,
        initialization: Callable[..., None] = kaiming,
    ) -> None:
        convolutions = nn.Sequential()
        channels = in_channels
        for widths in stages:
            pairs = pairwise([channels, *widths])
            blocks = [conv_block(before, width, norm=norm, activation=activation) for before, width in pairs]
            convolutions.append(nn.Sequential(*blocks, nn.MaxPool2d(2)))
            channels = widths[-1]
        head = nn.Linear(channels, num_classes)
        super().__init__(OrderedDict(stages=convolutions, **mean_and_head(dropout, head)))
        initialization(self, head=head, activation=activation)
