"""Test-time augmentation: the mean of what a network says of several views of the same images.

The mean is of the outputs as they are, so of a classifier's logits, not of its probabilities: it has a
cross-entropy as the logits of one view have, and outputs of any other meaning are averaged just as well.
"""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import pad

UNSURE = 0.25
"""Share of the images that count as those of which a network is least sure."""

Network = Callable[[Tensor], Tensor]
"""From images, float N×C×H×W, to outputs, N×…"""


def flipped(network: Network, images: Tensor) -> Tensor:
    """The mean, N×…, over the `images` N×C×H×W and their mirrors, left to right: two passes of `network`."""
    return (network(images) + network(images.flip(-1))) / 2


def shifted(network: Network, images: Tensor) -> Tensor:
    """The same over the images moved by a pixel, up and left or down and right, mirrored or not: four passes.

    What the move leaves open is reflected, for which the images need two pixels a side.
    """
    height, width = images.shape[-2:]
    wide = pad(images, (1, 1, 1, 1), mode="reflect")
    corners = (wide[..., at : at + height, at : at + width] for at in (2, 0))
    first, second = (flipped(network, corner) for corner in corners)
    return (first + second) / 2


def six_views(network: Network, images: Tensor) -> Tensor:
    """The same over the images unmoved and moved, mirrored or not: the two weigh as much as the four."""
    return (flipped(network, images) + shifted(network, images)) / 2


def least_sure(logits: Tensor) -> Tensor:
    """Which images, bool N, have the smallest difference between their two largest `logits`, of N×classes:
    the share `UNSURE` of all.

    A further view changes the answer where it overcomes this difference, whatever the probabilities are.
    """
    first, second = logits.topk(2).values.unbind(-1)
    chosen = (first - second).argsort(stable=True)[: round(UNSURE * len(logits))]
    return first.new_zeros(len(logits)).bool().index_fill(0, chosen, True)
