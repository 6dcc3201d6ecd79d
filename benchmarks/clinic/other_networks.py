"""The cases of `cases.py` and of `wild.py` with other networks: does a diagnosis depend on them?

The convnets of `cases.py` are residual ones here, its batches half as large, and Adam is NAdam; those of
`wild.py` are deeper and end in an average over places, its batches are half as large, too, and its runs are
an epoch longer. Faults and rates stay, so that a rate need not be the best one; so do all other networks.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from clinic import NUM_CLASSES, CaseBook, Session, import_file
from torch import Tensor, nn

HERE = Path(__file__).resolve().parent
development, wild = import_file(HERE / "cases.py"), import_file(HERE / "wild.py")


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut, 1x1 where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: bool) -> None:
        super().__init__()

        def convolution(channels: int, stride: int) -> nn.Sequential:
            unit = nn.Sequential(nn.Conv2d(channels, outputs, 3, stride, 1))
            return unit.append(nn.BatchNorm2d(outputs)) if norm else unit

        self.first, self.second = convolution(inputs, stride), convolution(outputs, 1)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return (self.shortcut(x) + self.second(self.first(x).relu())).relu()


def conv_net(width: int = 32, norm: bool = False, dropout: float = 0.0, depth: int = 2) -> nn.Sequential:
    """A strided convolution, three residual blocks whatever the depth, and a linear head on 2x2 averages."""
    half = width // 2
    blocks = [Residual(half, half, 1, norm), Residual(half, width, 2, norm), Residual(width, width, 2, norm)]
    stem = [nn.Conv2d(3, half, 3, 2, 1), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(dropout), nn.Linear(4 * width, NUM_CLASSES)]
    return nn.Sequential(*stem, *blocks, *head)


def plain_cnn(width: int = 24, norm: str | None = None) -> nn.Sequential:
    """Four convolutions, two of them strided, then a linear head on 2x2 averages."""
    widths = [3, width, width, 2 * width, 2 * width]
    units = [wild.conv_unit(a, b, 2 - place % 2, norm) for place, (a, b) in enumerate(pairwise(widths))]
    return nn.Sequential(
        *units, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * widths[-1], NUM_CLASSES)
    )


def lenet(activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    convolutions = [nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1), nn.Conv2d(32, 32, 3, 1, 1)]
    layers = [layer for convolution in convolutions for layer in (convolution, activation())]
    head = [nn.Linear(512, 64), activation(), nn.Linear(64, NUM_CLASSES)]
    return nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten(), *head)


def residual_net(
    width: int = 24, depth: int = 2, norm: Callable[[int], nn.Module] = nn.BatchNorm2d
) -> nn.Sequential:
    """A block at half the size, an average, one block more than there at a quarter, an average over all."""
    first, *others = (wild.PreActivation(width, norm) for _ in range(depth + 1))
    end = [norm(width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, NUM_CLASSES)]
    return nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), first, nn.AvgPool2d(2), *others, *end)


def halved(batch: int) -> int:
    """Batches of a few samples are part of a fault, or of what is odd, and stay."""
    return batch // 2 if batch >= 16 else batch


def changed(run: Callable[..., Session], epochs: int) -> Callable[..., Session]:
    """The ordinary run of a set in smaller batches, and in so many epochs more."""

    def other(module: Any, images: Any, length: int = 4, batch: int = 64, **changes: Any) -> Session:
        length, batch = changes.pop("epochs", length), changes.pop("batch_size", batch)
        return run(module, images, length + epochs, halved(batch), **changes)

    return other


development.conv_net, development.Adam = conv_net, torch.optim.NAdam
development.session = changed(development.session, 0)
wild.plain_cnn, wild.lenet, wild.residual_net = plain_cnn, lenet, residual_net
wild.run = changed(wild.run, 1)

CASES = CaseBook([*development.CASES, *wild.CASES])
