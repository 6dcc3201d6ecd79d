"""Small problems on which optimizers show their character: shapes under kinds of noise, and a saddle.

After Schaul, Antonoglou and Silver (2014), "Unit Tests for Stochastic Optimization": one-dimensional shapes,
each under several kinds of gradient noise; and the saddle of cs231n's animations (Alec Radford).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from project.optim.optimizers import OptimizerFactory

Verdict = Literal["pass", "slow", "diverged"]

SHAPES: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "line": (lambda x: x, -1.0),
    "quadratic": (lambda x: x**2 / 2, 0.0),
    "quartic": (lambda x: x**4 / 4, 0.0),
    "bell": (lambda x: -torch.exp(-(x**2) / 2), -1.0),
    "exponential": (lambda x: torch.exp(x), 0.0),
    "absolute": (lambda x: x.abs(), 0.0),
    "rectifier": (lambda x: x.clamp(min=0), 0.0),
    "cliff": (lambda x: x.abs() + 10 * (x - 0.5).clamp(0, 0.1), 0.0),
}
"""The loss as a function of x, which starts at 1, and the value to come down to. The line has no bottom."""

NOISES: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "none": lambda gradient, generator: gradient,
    "additive": lambda gradient, generator: gradient + _normal(gradient, generator),
    "multiplicative": lambda gradient, generator: gradient * (1 + _normal(gradient, generator)),
    "Cauchy": lambda gradient, generator: (
        gradient + 0.1 * _normal(gradient, generator) / _normal(gradient, generator)
    ),
    "masked": lambda gradient, generator: (
        gradient * (torch.rand(gradient.shape, generator=generator, dtype=gradient.dtype) < 0.1)
    ),
}
"""What happens to the gradient: standard normal noise added or multiplied, Cauchy noise, 9 of 10 masked."""

ENOUGH = 0.9
"""Share of the way from the start to the goal that counts as arriving."""


class Point(nn.Module):
    """Coordinates to be optimized, all of them independent of each other."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.x = nn.Parameter(start.clone())


def race(
    factory: OptimizerFactory,
    noises: Sequence[str] = tuple(NOISES),
    shapes: Sequence[str] = tuple(SHAPES),
    steps: int = 500,
    copies: int = 100,
    seed: int = 0,
) -> dict[str, dict[str, Verdict]]:
    """How an optimizer fares on every shape under each kind of noise, at the rate it is configured with.

    All of them run at once as coordinates of one problem, which for an optimizer that treats every
    coordinate apart is the same.

    Args:
        factory: makes the optimizer.
        noises: some of `NOISES`.
        shapes: some of `SHAPES`.
        steps: how many to take.
        copies: independent runs of each, with noise of their own.
        seed: of the noise.

    Returns:
        By noise and shape: `pass` where the median run has come `ENOUGH` of the way down, `diverged` where
        it ends above its start or not finite, else `slow`.
    """
    generator = torch.Generator().manual_seed(seed)
    point = Point(torch.ones(len(noises), len(shapes), copies, dtype=torch.float64))
    optimizer = factory(point)
    problems = [SHAPES[shape] for shape in shapes]

    def losses() -> Tensor:
        return torch.stack([loss(x) for (loss, _), x in zip(problems, point.x.unbind(1), strict=True)], 1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        total = losses().sum()
        total.backward()
        assert point.x.grad is not None
        for noise, gradient in zip(noises, point.x.grad, strict=True):
            gradient.copy_(NOISES[noise](gradient, generator))
        return total

    starts = losses().detach().median(-1).values
    for _ in range(steps):
        optimizer.step(closure)  # type: ignore[arg-type]
    ends = losses().detach().median(-1).values
    goals = torch.tensor([goal for _, goal in problems], dtype=torch.float64)
    shares = (starts - ends) / (starts - goals)
    return {
        noise: dict(zip(shapes, map(_verdict, row.tolist()), strict=True))
        for noise, row in zip(noises, shares, strict=True)
    }


def _verdict(share: float) -> Verdict:
    """The verdict on a run that has come `share` of the way down."""
    if not share >= 0:  # above its start, or not a number
        return "diverged"
    return "pass" if share >= ENOUGH else "slow"


def saddle_path(factory: OptimizerFactory, steps: int = 1000) -> Tensor:
    """The path down f(x, y) = x² − y² from (−1, 10⁻⁶), until |y| > 0.5: positions, float64, steps+1 × 2."""
    point = Point(torch.tensor([-1.0, 1e-6], dtype=torch.float64))
    optimizer = factory(point)
    path = [point.x.detach().clone()]
    while len(path) <= steps and path[-1][1].abs() <= 0.5:
        optimizer.zero_grad()
        (point.x[0] ** 2 - point.x[1] ** 2).backward()
        optimizer.step()
        path.append(point.x.detach().clone())
    return torch.stack(path)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype)
