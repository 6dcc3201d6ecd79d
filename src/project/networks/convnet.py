"""The default network: small, with BatchNorm, and quick on a CPU."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

from torch import nn

from project.networks.initialization import kaiming
from project.networks.layers import conv_block, mean_and_head


class ConvNet(nn.Sequential):
    """A strided 5×5 stem and a 3×3 convolution, stages of a pool and two 3×3 convolutions, mean, linear head.

    The stem halves the image at once, which makes an image cost less than half of what it costs with a 3×3
    stem at full resolution, and is large enough for its filters to be looked at.

    Args (further ones: those of every network, see `project.networks`):
        widths: channels of the stem and first stage, then of each further stage.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        widths: Sequence[int] = (32, 64, 128),
        activation: str = "relu",
        norm: str = "batch",
        dropout: float = 0.0,
        initialization: Callable[..., None] = kaiming,
    ) -> None:
        block = partial(conv_block, norm=norm, activation=activation)
        stem = block(in_channels, widths[0], kernel_size=5, stride=2)
        stages = nn.Sequential(block(widths[0], widths[0]))
        for before, width in pairwise(widths):
            stages.append(nn.Sequential(nn.MaxPool2d(2), block(before, width), block(width, width)))
        head = nn.Linear(widths[-1], num_classes)
        super().__init__(OrderedDict(stem=stem, stages=stages, **mean_and_head(dropout, head)))
        initialization(self, head=head, activation=activation)
