"""Race every configured optimizer over eight shapes under five kinds of noise: `python benchmarks/race.py`.

`--saddle FILE` draws how they leave a saddle point instead.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure
from optimizer_race import NOISES, SHAPES, Verdict, race, saddle_path
from rich.console import Console
from rich.table import Table

from project.optim.optimizers import optimizer_factory
from vitals.runs.instantiate import plain

CONFIGS = Path(__file__).parents[1] / "configs"
SIGNS = {"pass": "[green]+[/]", "slow": "[yellow]~[/]", "diverged": "[red]x[/]"}


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


if __name__ == "__main__":
    main()
