"""A network that learns much in little time, on a CPU, too."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from project.networks.initialization import dirac
from project.networks.layers import ACTIVATIONS, conv_block, mean_and_head


class Maximum(nn.Module):
    """Of each channel, N×C×H×W to N×C×1×1; on a GPU much faster than `AdaptiveMaxPool2d(1)`."""

    def forward(self, features: Tensor) -> Tensor:
        return features.amax((2, 3), keepdim=True)


class Fast(nn.Sequential):
    """A strided stem, blocks of convolutions around a pool, the maximum over the image, a linear head.

    After Keller Jordan's CIFAR-10 speedruns (2024), at half their resolution; made for `network.whiten=true`.

    Args (further ones: those of every network, see `project.networks`):
        stem: filters of the first convolution, an even number.
        kernel_size, stride: of the first convolution.
        widths: channels of each block.
        depth: convolutions of each block.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
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
        block = partial(conv_block, norm=norm, activation=activation)
        blocks = nn.Sequential()
        for before, width in pairwise([stem, *widths]):
            first = block(before, width)
            first.insert(1, nn.MaxPool2d(2))  # before the norm, which has less to do then
            blocks.append(nn.Sequential(first, *[block(width, width) for _ in range(depth - 1)]))
        head = nn.Linear(widths[-1], num_classes)
        end = mean_and_head(dropout, head) | {"pool": Maximum()}
        start = nn.Sequential(nn.Conv2d(in_channels, stem, kernel_size, stride), ACTIVATIONS[activation]())
        super().__init__(OrderedDict(stem=start, blocks=blocks, **end))
        initialization(self, head=head, activation=activation)
