"""What the benchmarks share: images, a configured training, and a table of ways that ran side by side.

Everything that is compared runs interleaved in one process, round by round, and the ratio is taken within
each round: on a shared machine only such ratios mean anything. Their mean and spread are printed.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from benchmarks.machine import ROOT, figure, print_where_and_when
from project.build import build_data, build_module
from project.data.data_module import ImageData
from vitals.runs.image_set import ImageSet
from vitals.runs.instantiate import (
    build_loggers,
    build_trainer,
    quiet_lightning,
)
from vitals.runs.run_folder import RunFolder


def synthetic_images(count: int, pixels: int = 32) -> ImageSet:
    """Random bytes in the shape of CIFAR-10: what a pixel shows does not change what it costs."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, pixels, pixels), dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.arange(count) % 10, [str(label) for label in range(10)])


def composed(*words: str) -> DictConfig:
    """The configuration of `scripts/train.py` with these overrides."""
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose("train", list(words))


def data_of(config: DictConfig, training: ImageSet, validation: ImageSet | int = 1) -> ImageData:
    """The configured data with other images: `validation` may be a number of them, next to nothing."""
    data: ImageData = build_data(config)
    data.setup()
    few = data.validation.subset(torch.arange(validation)) if isinstance(validation, int) else validation
    data.train, data.validation = training, few
    return data


def fit(
    config: DictConfig, data: ImageData, callbacks: list[L.Callback], log: bool = True, **options: Any
) -> L.Trainer:
    """Train the configured network in a temporary folder, with these callbacks alone.

    Args:
        log: whether the configured loggers write, too.
        options: of Lightning's trainer, above those of the configuration.
    """
    quiet_lightning()
    with tempfile.TemporaryDirectory() as folder:
        logger = build_loggers(config, RunFolder(folder)) if log else False
        given = {"logger": logger, "callbacks": callbacks, "default_root_dir": folder, **options}
        trainer = build_trainer(config, **given)
        trainer.fit(build_module(config, data), datamodule=data)
    return trainer


def in_turn(names: list[str], rounds: int) -> Iterator[str]:
    """Every name once a round, in the opposite order every other round."""
    for number in range(rounds):
        yield from names[:: -1 if number % 2 else 1]


def compare(title: str, arms: dict[str, Callable[[], float]], rounds: int) -> None:
    """Run the arms in turn, `rounds` times, and print each one's figure and the first one's ratio to it.

    Args:
        title: of the table.
        arms: name and a function that returns a speed; the first is what the others are compared with.
        rounds: how often.
    """
    speeds: dict[str, list[float]] = {name: [] for name in arms}
    for name in in_turn(list(arms), rounds):
        speeds[name].append(arms[name]())
    first = next(iter(arms))
    table = Table(title=f"{title}: {rounds} rounds", title_justify="left")
    for column in ("", "median speed", f"{first} / it"):
        table.add_column(column, justify="right" if column else "left")
    for name, figures in speeds.items():
        ratios = [mine / other for mine, other in zip(speeds[first], figures, strict=True)]
        table.add_row(name, f"{statistics.median(figures):,.0f}", figure(ratios))
    Console().print(table)
    print_where_and_when()
