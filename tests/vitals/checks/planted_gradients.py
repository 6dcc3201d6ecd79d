"""Small networks with one wrong backward each, as people really write them, and where the fault lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Spoil = Callable[[list[Tensor], list[Tensor], Tensor], Sequence[Tensor]]
"""(right gradients, the tensors they belong to, the gradient of the output) -> wrong gradients."""


class _Spoiled(torch.autograd.Function):
    """`forward(*tensors)`, whose right gradients `spoil` makes wrong."""

    @staticmethod
    def forward(ctx: Any, forward: Callable[..., Tensor], spoil: Spoil, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        ctx.rules = forward, spoil
        return forward(*tensors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        forward, spoil = ctx.rules
        with torch.enable_grad():
            tensors = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
            right = torch.autograd.grad(forward(*tensors), tensors, gradient)
        return None, None, *spoil(list(right), tensors, gradient)


class Spoiled(nn.Module):
    """An operation on one tensor x; its backward is `spoil(right gradient, x, gradient of the output)`."""

    def __init__(
        self, forward: Callable[[Tensor], Tensor], spoil: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.rules = forward, spoil

    def forward(self, x: Tensor) -> Tensor:
        operation, spoil = self.rules
        return _Spoiled.apply(operation, lambda right, xs, behind: [spoil(right[0], xs[0], behind)], x)


class SpoiledLinear(nn.Linear):
    """A linear layer with a wrong backward for (input, weight, bias)."""

    def __init__(self, width_in: int, width_out: int, spoil: Spoil) -> None:
        super().__init__(width_in, width_out)
        self.spoil = spoil

    def forward(self, x: Tensor) -> Tensor:
        return _Spoiled.apply(F.linear, self.spoil, x, self.weight, self.bias)


class SpoiledConv(nn.Conv2d):
    """A padded 3×3 convolution with a wrong backward for (input, weight, bias)."""

    def __init__(self, channels_in: int, channels_out: int, spoil: Spoil) -> None:
        super().__init__(channels_in, channels_out, 3, padding=1)
        self.spoil = spoil

    def forward(self, x: Tensor) -> Tensor:
        return _Spoiled.apply(partial(F.conv2d, padding=1), self.spoil, x, self.weight, self.bias)


class StaleDropout(nn.Module):
    """Dropout whose backward uses the mask of the call before."""

    def __init__(self) -> None:
        super().__init__()
        self.previous: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        mask = (torch.rand_like(x) < 0.5) * 2.0
        stale, self.previous = (mask if self.previous is None else self.previous), mask
        return _Spoiled.apply(lambda value: value * mask, lambda right, *_: [right[0] * stale], x)


class RedrawnDropout(nn.Module):
    """Dropout whose backward draws a mask of its own."""

    def forward(self, x: Tensor) -> Tensor:
        mask = (torch.rand_like(x) < 0.5) * 2.0
        return _Spoiled.apply(
            lambda value: value * mask, lambda right, *_: [right[0] * (torch.rand_like(mask) < 0.5) * 2.0], x
        )


class Residual(nn.Module):
    """x + branch(x), with the gradient stopped before or behind the branch."""

    def __init__(self, branch: nn.Module, stop: str) -> None:
        super().__init__()
        self.branch, self.stop = branch, stop

    def forward(self, x: Tensor) -> Tensor:
        return x + (self.branch(x).detach() if self.stop == "behind" else self.branch(x.detach()))


class Attention(nn.Module):
    """One head, whose softmax has a backward without the coupling between the scores."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.queries, self.keys, self.values = (nn.Linear(width, width) for _ in range(3))
        self.softmax = Spoiled(
            partial(torch.softmax, dim=-1), lambda right, x, behind: torch.softmax(x, -1) * behind
        )

    def forward(self, x: Tensor) -> Tensor:
        scores = self.queries(x) @ self.keys(x).transpose(-1, -2) / x.shape[-1] ** 0.5
        return self.softmax(scores) @ self.values(x)


class Small(nn.Module):
    """A parameter whose gradient is `size` beside others of about 1, and `factor` times too large."""

    def __init__(self, size: float, factor: float) -> None:
        super().__init__()
        self.body = nn.Linear(6, 5)
        self.weight = nn.Parameter(torch.randn(6))
        self.op = Spoiled(lambda w: size * torch.sin(w), lambda right, *_: factor * right)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + (x * self.op(self.weight)).sum(1, keepdim=True) * torch.arange(5)


class Tied(nn.Module):
    """One weight used twice, whose second use gives no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6) / 2)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(torch.tanh(x @ self.weight) @ self.weight.detach()))


class SpoiledLoss(nn.Module):
    """Cross-entropy with the mean's 1/N forgotten in the backward."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return _Spoiled.apply(
            lambda x: F.cross_entropy(x, targets), lambda right, *_: [right[0] * len(targets)], logits
        )


@dataclass(frozen=True)
class Planted:
    """A network with a wrong backward, and the name of the parameter or input nearest to the fault."""

    build: Callable[[], nn.Module]
    where: str
    shape: tuple[int, ...] = (6,)
    loss: nn.Module = field(default_factory=nn.CrossEntropyLoss)

    def arguments(self, samples: int, seed: int) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:
        """Model, loss, inputs and targets of 5 classes."""
        torch.manual_seed(seed)
        model = self.build()
        return model, self.loss, torch.randn(samples, *self.shape), torch.randint(0, 5, (samples,))


def _mlp(operation: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), operation, nn.Linear(8, 5))


def _linear(spoil: Spoil) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), SpoiledLinear(8, 8, spoil), nn.Tanh(), nn.Linear(8, 5))


def _large_linear(spoil: Spoil) -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 40), nn.Tanh(), SpoiledLinear(40, 40, spoil), nn.Tanh(), nn.Linear(40, 5)
    )


def _cnn(first: nn.Module, second: nn.Module, pool: nn.Module) -> nn.Module:
    head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 9, 5))
    return nn.Sequential(first, nn.ReLU(), second, pool, head)


def _border_zeroed(gradient: Tensor) -> Tensor:
    inner = torch.zeros_like(gradient)
    inner[..., 1:-1, 1:-1] = gradient[..., 1:-1, 1:-1]
    return inner


def _border_ignored(right: list[Tensor], *_: Any) -> list[Tensor]:
    return [_border_zeroed(right[0]), *right[1:]]


def _doubled_at(index: tuple[int, ...]) -> Spoil:
    def spoil(right: list[Tensor], *_: Any) -> list[Tensor]:
        weight = right[1].clone()
        weight[index] *= 2
        return [right[0], weight, right[2]]

    return spoil


def _batch_norm(x: Tensor) -> Tensor:
    return (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()


def _batch_norm_without_mean_term(right: Tensor, x: Tensor, behind: Tensor) -> Tensor:
    return right + behind.mean(0) / (x.var(0, unbiased=False) + 1e-5).sqrt()


def _shared_by_window(right: Tensor, x: Tensor, behind: Tensor) -> Tensor:
    """What average pooling would do."""
    return F.interpolate(behind, scale_factor=2.0) / 4


def _identity(x: Tensor) -> Tensor:
    return x * 1


PLANTED: dict[str, Planted] = {
    "sign": Planted(lambda: _mlp(Spoiled(F.silu, lambda right, *_: -right)), "2.bias"),
    "factor-2": Planted(lambda: _mlp(Spoiled(torch.tanh, lambda right, *_: 2 * right)), "2.bias"),
    "factor-1.001": Planted(lambda: _mlp(Spoiled(torch.tanh, lambda right, *_: 1.001 * right)), "2.bias"),
    "factor-1.001-behind-relu": Planted(
        lambda: _mlp(Spoiled(torch.relu, lambda right, *_: 1.001 * right)), "2.bias"
    ),
    "no-bias-gradient": Planted(
        lambda: _linear(lambda right, *_: [*right[:2], torch.zeros_like(right[2])]), "2.bias"
    ),
    "bias-gradient-of-first-sample": Planted(
        lambda: _linear(lambda right, _, behind: [*right[:2], behind[0]]), "2.bias"
    ),
    "transposed-weight-gradient": Planted(
        lambda: _linear(lambda right, *_: [right[0], right[1].T, right[2]]), "2.weight"
    ),
    "border-of-convolution": Planted(
        lambda: _cnn(nn.Conv2d(3, 4, 3, padding=1), SpoiledConv(4, 4, _border_ignored), nn.MaxPool2d(2)),
        "0.bias",
        (3, 6, 6),
    ),
    "border-of-first-convolution": Planted(
        lambda: _cnn(SpoiledConv(3, 4, _border_ignored), nn.Conv2d(4, 4, 3, padding=1), nn.MaxPool2d(2)),
        "input",
        (3, 6, 6),
    ),
    "negative-inputs": Planted(
        lambda: _mlp(Spoiled(F.leaky_relu, lambda right, x, _: torch.where(x < 0, 2 * right, right))),
        "2.bias",
    ),
    "branch-stopped-behind": Planted(
        lambda: nn.Sequential(nn.Linear(6, 6), Residual(nn.Linear(6, 6), "behind"), nn.Linear(6, 5)),
        "1.branch.bias",
    ),
    "branch-stopped-before": Planted(
        lambda: nn.Sequential(nn.Linear(6, 6), Residual(nn.Linear(6, 6), "before"), nn.Linear(6, 5)), "0.bias"
    ),
    "batch-norm-mean-term": Planted(
        lambda: _mlp(Spoiled(_batch_norm, _batch_norm_without_mean_term)), "2.bias"
    ),
    "stale-dropout-mask": Planted(lambda: _mlp(StaleDropout()), "2.bias"),
    "redrawn-dropout-mask": Planted(lambda: _mlp(RedrawnDropout()), "2.bias"),
    "max-pool-routing": Planted(
        lambda: _cnn(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.Conv2d(4, 4, 3, padding=1),
            Spoiled(partial(F.max_pool2d, kernel_size=2), _shared_by_window),
        ),
        "2.weight",
        (3, 6, 6),
    ),
    "attention-softmax": Planted(
        lambda: nn.Sequential(nn.Unflatten(1, (3, 4)), Attention(4), nn.Flatten(), nn.Linear(12, 5)),
        "1.keys.bias",
        (12,),
    ),
    "twice-at-1e-7": Planted(lambda: Small(1e-7, 2), "weight"),
    "thrice-at-1e-6": Planted(lambda: Small(1e-6, 3), "weight"),
    "one-row": Planted(lambda: _large_linear(_doubled_at((7,))), "2.weight"),
    "one-element": Planted(lambda: _large_linear(_doubled_at((31, 4))), "2.weight"),
    "second-use-of-tied-weight": Planted(Tied, "weight"),
    "input": Planted(
        lambda: nn.Sequential(Spoiled(_identity, lambda right, *_: 0.5 * right), nn.Linear(6, 5)), "input"
    ),
    "loss-not-averaged": Planted(
        lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5)), "2.bias", loss=SpoiledLoss()
    ),
}
