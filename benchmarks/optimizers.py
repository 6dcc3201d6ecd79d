"""How every configured optimizer fares on small problems: `python -m benchmarks.optimizers`.

After Schaul, Antonoglou and Silver (2014), "Unit Tests for Stochastic Optimization": eight one-dimensional
shapes, each under five kinds of gradient noise. And two surfaces like those of cs231n's animations (Alec
Radford), a long valley and a saddle, which docs/tour.md shows.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.compare import composed
from benchmarks.machine import ROOT, print_where_and_when
from project.optim.optimizers import OptimizerFactory, optimizer_factory
from vitals.runs.instantiate import plain

SIGNS = {"pass": "[green]+[/]", "slow": "[yellow]~[/]", "diverged": "[red]x[/]"}
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

COPIES = 100
"""Independent runs of each, with noise of their own."""
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
) -> dict[str, dict[str, Verdict]]:
    """How an optimizer fares on every shape under each kind of noise, at the rate it is configured with.

    All of them run at once as coordinates of one problem, which for an optimizer that treats every
    coordinate apart is the same.

    Args:
        factory: makes the optimizer.
        noises: some of `NOISES`.
        shapes: some of `SHAPES`.
        steps: how many to take.

    Returns:
        By noise and shape: `pass` where the median run has come `ENOUGH` of the way down, `diverged` where
        it ends above its start or not finite, else `slow`.
    """
    generator = torch.Generator().manual_seed(0)
    point = Point(torch.ones(len(noises), len(shapes), COPIES, dtype=torch.float64))
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


@dataclass(frozen=True)
class Surface:
    """A loss of two coordinates on which optimizers part ways."""

    formula: str
    loss: Callable[[Tensor, Tensor], Tensor]
    start: tuple[float, float]
    rate: float
    """Of every optimizer but Adadelta, which is made to do without one: it has 1."""
    over: Callable[[Tensor], Tensor]
    """Which of the positions (n, 2) are at the end of the way."""


VALLEY = Surface(
    "x²/4 + 20 y²",
    lambda x, y: x**2 / 4 + 20 * y**2,
    start=(-2.0, 0.7),
    rate=0.03,
    over=lambda positions: positions.norm(dim=1) <= 0.1,
)
"""Eighty times as curved across as along, and over within 0.1 of its bottom."""
SADDLE = Surface(
    "x² − y²",
    lambda x, y: x**2 - y**2,
    start=(-1.0, 1e-6),
    rate=0.01,
    over=lambda positions: positions[:, 1].abs() > 0.5,
)
"""Entered along the ridge, a millionth beside it; over once |y| > 0.5."""


def descent(factory: OptimizerFactory, surface: Surface, steps: int) -> Tensor:
    """The positions on a surface, from its start on: float64, (steps + 1, 2)."""
    point = Point(torch.tensor(surface.start, dtype=torch.float64))
    optimizer = factory(point)
    path = [point.x.detach().clone()]
    for _ in range(steps):
        optimizer.zero_grad()
        surface.loss(point.x[0], point.x[1]).backward()
        optimizer.step()
        path.append(point.x.detach().clone())
    return torch.stack(path)


def steps_until_over(path: Tensor, surface: Surface) -> int | None:
    """The last step before a path is over, and is so for 50 steps or to its end; None where it never is.

    RMSprop leaves the bottom of a valley again, now and then, as its rate is held.
    """
    over = surface.over(path)
    return next((step - 1 for step in range(1, len(over)) if over[step : step + 50].all()), None)


def on_surface(name: str, surface: Surface) -> dict[str, Any]:
    """The configuration of an optimizer at the rate of the surface, without weight decay."""
    config = plain(composed(f"optimizer={name}").optimizer)
    return config | {"lr": 1.0 if name == "adadelta" else surface.rate, "weight_decay": 0.0}


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype)


def results() -> dict[str, dict[str, dict[str, Verdict]]]:
    """The verdicts by optimizer, noise and shape."""
    found: dict[str, dict[str, dict[str, Verdict]]] = {}
    for name in sorted(file.stem for file in (ROOT / "configs" / "optimizer").glob("*.yaml")):
        factory = optimizer_factory(plain(composed(f"optimizer={name}").optimizer))
        if name == "lbfgs":
            # Its line search needs the true gradient, and it does not treat every coordinate apart.
            alone = [race(factory, ["none"], [shape], steps=25)["none"] for shape in SHAPES]
            found[name] = {"none": {shape: verdict for row in alone for shape, verdict in row.items()}}
        else:
            found[name] = race(factory)
    return found


def print_race() -> None:
    console = Console()
    with console.status("racing"):
        found = results()
    for noise in NOISES:
        table = Table(title=f"gradient noise: {noise}", title_justify="left")
        for column in ("optimizer", *SHAPES):
            table.add_column(column, no_wrap=True)
        for name, verdicts in found.items():
            if noise in verdicts:
                table.add_row(name, *(SIGNS[verdict] for verdict in verdicts[noise].values()))
        console.print(table)
    console.print("+ arrived, ~ on the way, x above its start or not finite")
    console.print("after 500 steps, 25 of LBFGS, at the configured rate")


def main() -> None:
    argparse.ArgumentParser(description="Race every configured optimizer over small problems.").parse_args()
    print_race()
    print_where_and_when()


if __name__ == "__main__":
    main()
