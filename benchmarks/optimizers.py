"""How every configured optimizer fares on small problems: `python -m benchmarks.optimizers`.

After Schaul, Antonoglou and Silver (2014), "Unit Tests for Stochastic Optimization": eight one-dimensional
shapes, each under five kinds of gradient noise. `--saddle FILE` draws how the optimizers leave the saddle of
cs231n's animations (Alec Radford) instead.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.machine import print_where_and_when
from project.optim.optimizers import OptimizerFactory, optimizer_factory
from vitals.runs.instantiate import plain

CONFIGS = Path(__file__).parents[1] / "configs"
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


def results() -> dict[str, dict[str, dict[str, Verdict]]]:
    """The verdicts by optimizer, noise and shape."""
    found: dict[str, dict[str, dict[str, Verdict]]] = {}
    for name in sorted(file.stem for file in (CONFIGS / "optimizer").glob("*.yaml")):
        factory = optimizer_factory(plain(compose("train", [f"optimizer={name}"]).optimizer))
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


def draw_saddle(path: Path) -> None:
    """Draw the ways from the ridge of x² − y² at a rate of 0.01, with the steps that each took."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    x, y = torch.meshgrid(torch.linspace(-1.1, 0.3, 60), torch.linspace(-0.1, 0.55, 60), indexing="xy")
    axes.contour(x, y, x**2 - y**2, levels=20, cmap="Greys", linewidths=0.7)
    for name in ("sgd", "momentum", "adagrad", "adam", "rmsprop"):
        config = plain(compose("train", [f"optimizer={name}", "optimizer.lr=0.01"]).optimizer)
        way = saddle_path(optimizer_factory(config | {"weight_decay": 0.0}))
        axes.plot(way[:, 0], way[:, 1], ".-", markersize=3, label=f"{name}: {len(way) - 1} steps")
    axes.set(xlabel="x", ylabel="y", title="leaving the saddle x² − y² from (−1, 10⁻⁶)")
    axes.legend()
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description="Race every configured optimizer over small problems.")
    parser.add_argument("--saddle", type=Path, metavar="FILE", help="draw how they leave a saddle, as a PNG")
    picture = parser.parse_args().saddle
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        if picture:
            draw_saddle(picture)
        else:
            print_race()
        print_where_and_when()


if __name__ == "__main__":
    main()
