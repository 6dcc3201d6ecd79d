"""What each monitor costs, as a share of a training: `python benchmarks/benchmark.py monitors`."""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import lightning as L
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from project.data.data_module import ImageData
from project.data.image_set import ImageSet
from vitals.diagnosis.callback import Diagnosis
from vitals.monitors.first_layer_filters import FirstLayerFilters
from vitals.monitors.histograms import Histograms
from vitals.monitors.learning_curves import LearningCurves
from vitals.monitors.monitor import Monitor
from vitals.monitors.non_finite import NonFinite
from vitals.monitors.update_ratio import UpdateRatio
from vitals.runs.instantiate import (
    build_callbacks,
    build_classifier,
    build_data,
    build_loggers,
    build_trainer,
    quiet_lightning,
)

CONFIGS = Path(__file__).parents[1] / "configs"
WORDS = ["data=digits", "trainer.max_epochs=1", "schedule.warmup_epochs=0"]
EPOCHS = 4
"""Of the training whose measurements are timed, each with an evaluation of the subset."""
STEPS = 300
"""Of each training with the monitors, and of each without."""
RUN = 20 * 45_000
"""Images trained on in the run whose costs are told: 20 epochs of CIFAR-10."""


@dataclass
class Costs:
    """Seconds of single measurements, and of training steps without them."""

    measurements: dict[str, list[float]] = field(default_factory=dict)
    steps: list[float] = field(default_factory=list)

    def median(self, name: str) -> float:
        return statistics.median(self.measurements.get(name, [0.0]))

    @property
    def step(self) -> float:
        return statistics.median(self.steps)


class StepClock(L.Callback):
    """Seconds of each step, less what the monitors took meanwhile."""

    def __init__(self, costs: Costs) -> None:
        self.costs, self.measuring, self.last = costs, 0.0, 0.0

    def on_train_batch_end(self, *arguments: Any) -> None:
        now = time.perf_counter()
        if self.last:
            self.costs.steps.append(now - self.last - self.measuring)
        self.last, self.measuring = now, 0.0


def timed(owner: Any, method: str, name: str, costs: Costs, clock: StepClock) -> None:
    """Make `owner.method` say how long it takes."""
    original: Callable[..., Any] = getattr(owner, method)

    def measured(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return original(*arguments, **options)
        finally:
            seconds = time.perf_counter() - start
            costs.measurements.setdefault(name, []).append(seconds)
            clock.measuring += seconds

    setattr(owner, method, measured)


def subject(words: list[str], images: ImageSet, batch_size: int) -> tuple[DictConfig, ImageData]:
    """The configuration of these words, and its data with `images` to train on and next to no validation."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", [*words, f"data.batch_size={batch_size}", *WORDS])
    data = build_data(config)
    data.train, data.validation = images, data.validation.subset(torch.arange(2))
    return config, data


def peak_memory(words: list[str], images: ImageSet, batch_size: int, watched: bool) -> tuple[int, int]:
    """Largest number of bytes that tensors held at once in a training of a few steps, and the parameters'."""
    config, data = subject(words, images, batch_size)
    classifier = build_classifier(config, data)
    monitors = [
        LearningCurves(every_n_steps=1),
        UpdateRatio(every_n_steps=1),
        Histograms(every_n_steps=2, histograms_every=2),
        FirstLayerFilters(every_n_steps=3),
        NonFinite(),
        Diagnosis(),
    ]
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(
            config,
            logger=build_loggers(config, Path(folder)),
            callbacks=monitors if watched else [],
            default_root_dir=folder,
            limit_train_batches=6,
            enable_progress_bar=False,
            enable_checkpointing=False,
        )
        with torch.profiler.profile(profile_memory=True) as profiler:
            trainer.fit(classifier, datamodule=data)
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = [e for e in json.loads(trace.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    changes = [event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"])]
    return max(accumulate(changes)), sum(p.nbytes for p in classifier.parameters())


def interleaved(words: list[str], images: ImageSet, batch_size: int, rounds: int) -> list[float]:
    """The median step with all monitors over that without, of each round: what they cost at every step.

    The medians leave out the steps with rarer measurements, which are in `shares`.
    """
    config, data = subject(words, images, batch_size)

    periods = default_periods(batch_size)

    def seconds(monitors: list[L.Callback]) -> float:
        clock = StepClock(Costs())
        with tempfile.TemporaryDirectory() as folder:
            trainer = build_trainer(
                config,
                logger=build_loggers(config, Path(folder)),
                callbacks=[*monitors, clock],
                default_root_dir=folder,
                limit_train_batches=STEPS,
                enable_progress_bar=False,
                enable_checkpointing=False,
            )
            trainer.fit(build_classifier(config, data), datamodule=data)
        return clock.costs.step

    ratios = []
    for turn in range(rounds):
        taken: dict[bool, float] = {}
        for watched in ((False, True), (True, False))[turn % 2]:
            monitors = [
                LearningCurves(every_n_steps=periods["learning_curves"], subset_samples=0),
                UpdateRatio(every_n_steps=periods["update_ratio"], times_per_run=None),
                Histograms(every_n_steps=periods["histograms"], times_per_run=None),
                NonFinite(),
                Diagnosis(),
            ]
            taken[watched] = seconds(monitors if watched else [])
        ratios.append(taken[True] / taken[False])
    return ratios


def measure(words: list[str], images: ImageSet, batch_size: int, measurements: int) -> Costs:
    """Train, with every monitor measuring every few steps, and time each measurement and each step."""
    config, data = subject(words, images, batch_size)
    costs = Costs()
    clock = StepClock(costs)
    ratio = UpdateRatio(every_n_steps=3, times_per_run=None)
    curves = LearningCurves(default_periods(batch_size)["learning_curves"])
    layers = Histograms(every_n_steps=4, times_per_run=None, histograms_every=2)
    filters = FirstLayerFilters(every_n_steps=7, times_per_run=None)
    non_finite = NonFinite(every_n_steps=5)
    timed(ratio, "_before", "ratio before", costs, clock)
    timed(ratio, "_after", "ratio after", costs, clock)
    timed(filters, "_measure", "filters", costs, clock)
    timed(non_finite, "_take_norms", "norms", costs, clock)
    timed(non_finite, "_flush", "flush", costs, clock)
    timed(curves, "_after_batch", "curves", costs, clock)
    timed(curves, "_evaluate_subsets", "subsets", costs, clock)
    look = layers._measure

    def look_timed(trainer: L.Trainer, first: bool) -> None:
        fully = trainer.global_step % 8 == 0
        layers._rarely = lambda step: False  # type: ignore[method-assign] # ten times a run only: see `shares`
        start = time.perf_counter()
        look(trainer, first)
        seconds = time.perf_counter() - start
        clock.measuring += seconds
        if not first:
            costs.measurements.setdefault("histograms" if fully else "layers", []).append(seconds)

    layers._measure = look_timed  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        trainer = build_trainer(
            config,
            logger=build_loggers(config, Path(folder)),
            callbacks=[curves, ratio, layers, filters, non_finite, Diagnosis(), clock],
            default_root_dir=folder,
            max_epochs=EPOCHS,
            limit_train_batches=8 * measurements // EPOCHS,
            enable_progress_bar=False,
            enable_checkpointing=False,
        )
        trainer.fit(build_classifier(config, data), datamodule=data)
        for monitor in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(monitor, Monitor) and not monitor.active:
                raise SystemExit(monitor.findings[-1].message)
    return costs


def default_periods(batch_size: int) -> dict[str, int]:
    """Steps between two measurements of each monitor, as configured, in a run of `RUN` images."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train")
    steps = RUN / batch_size
    return {
        name: monitor.interval.period(steps, math.inf)
        for name, monitor in zip(config.callbacks, build_callbacks(config), strict=True)
        if isinstance(monitor, Monitor)
    }


def shares(costs: Costs, batch_size: int) -> Iterator[tuple[str, float]]:
    """Each arrangement of monitors, and its cost as a share of the training time."""
    ratio = costs.median("ratio before") + costs.median("ratio after")
    always = costs.median("norms") + statistics.fmean(costs.measurements["curves"])
    periods = default_periods(batch_size)
    looks = (costs.median("layers") * 4 + costs.median("histograms")) / 5
    default = (
        always
        + ratio / periods["update_ratio"]
        + looks / periods["histograms"]
        + costs.median("filters") / periods["filters"]
    ) / costs.step
    # The subset is drawn once and evaluated four times; ten times a run there is a further look.
    rare = (sum(costs.measurements["subsets"]) + 10 * costs.median("layers")) / (
        RUN / batch_size * costs.step
    )
    yield "all, at default intervals", default + rare
    yield "scalars at every step", (always + ratio) / costs.step
    yield "histograms of everything every 100 steps", costs.median("histograms") / 100 / costs.step
    yield "one measurement of ratios", ratio / costs.step
    yield "one look into the layers", costs.median("layers") / costs.step
    yield "one set of histograms", costs.median("histograms") / costs.step


def benchmark_monitors(images: ImageSet, measurements: int) -> None:
    """Print the costs on the default network at two batch sizes, and on ResNet-18."""
    quiet_lightning()
    arms = {
        "convnet, batch 128": (["network=convnet"], 128, measurements),
        "convnet, batch 512": (["network=convnet"], 512, measurements),
        "resnet18, batch 128": (["network=resnet18"], 128, max(2, measurements // 4)),
    }
    found = {
        name: dict(shares(measure(words, images, size, number), size))
        for name, (words, size, number) in arms.items()
    }
    table = Table(title="Cost of the monitors, in percent of the training time", title_justify="left")
    table.add_column("")
    for name in arms:
        table.add_column(name, justify="right")
    for row in next(iter(found.values())):
        single = row.startswith("one ")
        figures = [
            f"{of_arm[row]:.2f} steps" if single else f"{of_arm[row]:.2%}" for of_arm in found.values()
        ]
        table.add_row(row, *figures)
    memory = []
    for words, size, _ in arms.values():
        (without, parameters), (watched, _) = (
            peak_memory(words, images, size, watched) for watched in (False, True)
        )
        memory.append(f"{(watched - without) / 2**20:.1f} MiB (parameters: {parameters / 2**20:.1f})")
    table.add_row("further memory at its peak", *memory)
    Console().print(table)
    ratios = interleaved(["network=convnet"], images, 128, max(4, measurements // 2))
    Console().print(
        f"convnet, batch 128, the median step with all monitors over that without, in turn: "
        f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f} in {len(ratios)} rounds)"
    )
    Console().print(
        "Each measurement is timed by itself in one training, the steps between them likewise; medians."
    )
