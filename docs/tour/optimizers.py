"""Seven optimizers in a long valley and on a saddle."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.optimizers import SADDLE, VALLEY, Surface, descent, on_surface, steps_until_over
from docs.tour.runs import Runs
from docs.tour.stop import GREY, Stop
from project.optim.optimizers import optimizer_factory

RACERS = {
    "sgd": ("SGD", "#222222"),
    "momentum": ("momentum", "#d9730d"),
    "nesterov": ("Nesterov", "#2e8b57"),
    "adagrad": ("Adagrad", "#1f6fb4"),
    "adadelta": ("Adadelta", "#17a2a8"),
    "rmsprop": ("RMSprop", "#c0392b"),
    "adam": ("Adam", "#8e44ad"),
}
FRAMES, LAST_STEP = 84, 700
HELD = 16
"""Times that the last picture is shown, so that its numbers can be read."""


@dataclass(frozen=True)
class Arena:
    """A surface, as it is drawn."""

    surface: Surface
    title: str
    verb: str
    place: tuple[float, float, float, float]
    x: tuple[float, float]
    y: tuple[float, float]
    levels: list[float]


ARENAS = (
    Arena(
        VALLEY,
        "a long valley",
        "at the bottom after step",
        (0.08, 0.32, 0.485, 0.60),
        (-2.25, 0.75),
        (-1.0, 1.0),
        [0.02, 0.1, 0.3, 0.7, 1.5, 3, 5, 8, 12, 17],
    ),
    Arena(
        SADDLE,
        "a saddle",
        "off the saddle after step",
        (0.635, 0.32, 0.35, 0.60),
        (-1.1, 0.6),
        (-0.1, 0.6),
        [level / 100 for level in range(-40, 120, 8)],
    ),
)


def optimizers(runs: Runs) -> Stop:
    """Optimizers racing in a long valley and away from a saddle"""
    ways = {
        (arena.verb, name): descent(
            optimizer_factory(on_surface(name, arena.surface)), arena.surface, LAST_STEP
        )
        for arena in ARENAS
        for name in RACERS
    }
    figures = {
        f"{RACERS[name][0]} {arena.verb}": float(steps)
        for arena in ARENAS
        for name in RACERS
        if (steps := steps_until_over(ways[arena.verb, name], arena.surface)) is not None
    }
    times = _times()
    animation = [_picture(ways, time) for time in times]
    return Stop(animation[-1], figures, [*animation, *[animation[-1]] * HELD], milliseconds=80)


def _times() -> list[float]:
    """The step of every picture: early steps are shown slowly, late ones fast."""
    slow = 4.0
    return [slow * ((1 + LAST_STEP / slow) ** (frame / (FRAMES - 1)) - 1) for frame in range(FRAMES)]


def _picture(ways: dict[tuple[str, str], Tensor], time: float) -> Figure:
    """Both surfaces after `time` steps, and below them who is through."""
    figure = Figure(figsize=(8, 4.4))
    for row, arena in enumerate(ARENAS):
        axes = figure.add_axes(arena.place, xlim=arena.x, ylim=arena.y)
        axes.set_title(f"{arena.title}, {arena.surface.formula}, rate {arena.surface.rate:g}")
        axes.set_xlabel("x", labelpad=0)
        axes.set_ylabel("y", rotation=0, labelpad=2)
        axes.locator_params(nbins=5)
        axes.grid(False)
        x, y = torch.meshgrid(torch.linspace(*arena.x, 120), torch.linspace(*arena.y, 120), indexing="xy")
        axes.contour(x, y, arena.surface.loss(x, y), levels=arena.levels, colors="#c9c9c9", linewidths=0.7)
        height = 0.115 - 0.06 * row
        figure.text(0.01, height, arena.verb, color=GREY, fontsize=9)
        for column, (name, (label, colour)) in enumerate(RACERS.items()):
            way = ways[arena.verb, name]
            trail = _until(way, time)
            axes.plot(trail[:, 0], trail[:, 1], color=colour, linewidth=1.4, alpha=0.8)
            axes.plot(*trail[-1], "o", color=colour, markersize=7, markeredgecolor="white")
            place = 0.275 + 0.1125 * column
            if row == 0:
                figure.text(place, 0.175, label, color=colour, ha="center", weight="bold", fontsize=10)
            steps = steps_until_over(way, arena.surface)
            if steps is not None and steps < time:
                figure.text(place, height, f"{steps}", color=colour, ha="center", weight="bold")
            elif time == LAST_STEP:
                figure.text(place, height, "not yet", color=colour, ha="center", fontsize=9)
    figure.text(0.01, 0.175, f"step {time:.0f}", fontsize=10, weight="bold")
    return figure


def _until(way: Tensor, time: float) -> Tensor:
    """The positions up to `time` steps, the last between two of them."""
    whole = min(int(time), len(way) - 2)
    return torch.cat([way[: whole + 1], way[whole].lerp(way[whole + 1], time - whole)[None]])
