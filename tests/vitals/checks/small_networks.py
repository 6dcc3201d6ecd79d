"""What the checks are tried on: digits as small colour images, small networks, and a look at their state."""

from __future__ import annotations

import copy
from functools import cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim import Optimizer

CLASSES = 10


@cache
def digits() -> tuple[Tensor, Tensor]:
    """1797 digits as normalized images (N, 3, 32, 32) in random order, and their labels."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None]
    images = F.interpolate(images, scale_factor=4).expand(-1, 3, -1, -1)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return ((images - images.mean()) / images.std())[order].contiguous(), torch.tensor(data.target)[order]


def batch(size: int) -> tuple[Tensor, Tensor]:
    images, labels = digits()
    return images[:size], labels[:size]


def convnet(norm: bool = False, dropout: float = 0.0, width: int = 16) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, width, 4, 4),
        *([nn.BatchNorm2d(width)] if norm else []),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, 2, 1),
        *([nn.BatchNorm2d(width)] if norm else []),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(16 * width, CLASSES),
    )


def mlp(
    *widths: int, activation: type[nn.Module] = nn.ReLU, inputs: int = 3 * 32 * 32, outputs: int = CLASSES
) -> nn.Sequential:
    torch.manual_seed(0)
    sizes = [inputs, *widths]
    hidden = [
        layer for before, after in pairwise(sizes) for layer in (nn.Linear(before, after), activation())
    ]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], outputs))


def initialized(net: nn.Sequential, rule: Any, **arguments: float) -> nn.Sequential:
    """`net` with its weights drawn by `rule`, one of `torch.nn.init`."""
    torch.manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            rule(module.weight, **arguments)
    return net


def named(result: Any) -> dict[str, str]:
    """Cause and level of every alarm among the findings of `result`, none of which may lack its words."""
    findings = result.findings()
    assert findings
    assert all(finding.message and (finding.remedy or not finding.alarming) for finding in findings)
    return {finding.cause: finding.level for finding in findings if finding.alarming}


def state_of(model: nn.Module, optimizer: Optimizer | None = None) -> list[Any]:
    """Everything that a check may not change, copied."""
    return copy.deepcopy(
        [
            model.state_dict(),
            {name: parameter.grad for name, parameter in model.named_parameters()},
            {name: module.training for name, module in model.named_modules()},
            {name: parameter.requires_grad for name, parameter in model.named_parameters()},
            optimizer.state_dict() if optimizer else None,
            torch.get_rng_state(),
        ]
    )


def same(one: Any, other: Any) -> bool:
    """Whether two states are equal bit for bit."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


class TrainedNetwork:
    """A network with BatchNorm and dropout in the middle of a training: gradients, momentum and all."""

    def __init__(self) -> None:
        self.model = convnet(norm=True, dropout=0.5)
        self.model[1].eval()  # a mode that somebody chose
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-3)
        inputs, targets = batch(16)
        F.cross_entropy(self.model(inputs), targets).backward()
        self.optimizer.step()
        self.calls = 0

    def failing_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy that raises when it is called for the third time."""
        self.calls += 1
        if self.calls == 3:
            raise RuntimeError("third call")
        return F.cross_entropy(outputs, targets)
