"""What the monitors cost, as a share of a training: `python -m benchmarks.monitors`.

In one training every monitor measures every few steps; Lightning's profiler times each hook of each of
them, and a clock the steps, in seconds of CPU. What a measurement takes by itself, by how often it comes in
a run of 20 epochs of CIFAR-10 as `vitals/configs/callbacks` has it, is the cost: of medians in each of
several trainings. Random images in the shape of CIFAR-10. `--presets` says it of each preset of
`callbacks=`.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.profilers import SimpleProfiler
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from benchmarks.compare import composed, data_of, fit, in_turn, synthetic_images
from benchmarks.machine import figure, print_where_and_when
from project.data.data_module import ImageData
from vitals.diagnosis.callback import Diagnosis
from vitals.monitors.first_layer_filters import FirstLayerFilters
from vitals.monitors.histograms import Histograms
from vitals.monitors.learning_curves import LearningCurves
from vitals.monitors.monitor import Monitor
from vitals.monitors.non_finite import NonFinite
from vitals.monitors.update_ratio import UpdateRatio
from vitals.on_nonfinite import OnNonFinite
from vitals.recorder import Recorder
from vitals.runs.image_set import ImageSet
from vitals.runs.instantiate import build_callbacks

WORDS = ["data=digits", "trainer.max_epochs=1", "schedule.warmup_epochs=0"]
OF_A_STEP = (
    "on_train_batch_start",
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
)
EPOCHS = 4
"""Of the training whose measurements are timed, each with an evaluation of the subset."""
SCALARS, RATIOS, FILTERS, LOOKS = 4, 3, 7, 2
"""Steps between two measurements of scalars, update ratios, filters and layers in it; every second look has
histograms, of which ten a run have gradient noise as well."""
PRESETS = ("none", "light", "default", "full")
STEPS = 300
"""Of each training with the monitors, and of each without, that are compared as wholes."""
RUN = 20 * 45_000
"""Images trained on in the run whose costs are told: 20 epochs of CIFAR-10."""


class StepClock(L.Callback):
    """When each batch ended, in seconds of CPU."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.ends.append(time.process_time())


class CpuProfiler(SimpleProfiler):
    """In seconds of CPU, which other work on the machine changes little."""

    def start(self, action_name: str) -> None:
        self.current_actions[action_name] = time.process_time()

    def stop(self, action_name: str) -> None:
        seconds = time.process_time() - self.current_actions.pop(action_name)
        self.recorded_durations[action_name].append(seconds)


def subject(words: list[str], images: ImageSet, batch_size: int) -> tuple[DictConfig, ImageData]:
    """The configuration of these words, and its data with `images` to train on and next to no validation."""
    config = composed(*words, f"data.batch_size={batch_size}", *WORDS)
    return config, data_of(config, images, 2)


def period_of(monitor: Monitor, batch_size: int) -> int:
    """Steps between two measurements in a run of `RUN` images."""
    return monitor.interval.period(RUN / batch_size, math.inf)


def configured(preset: str = "default") -> list[Monitor]:
    """The monitors of a preset of `callbacks=`."""
    callbacks = build_callbacks(composed(f"callbacks={preset}"))
    return [callback for callback in callbacks if isinstance(callback, Monitor)]


def seconds_by_step(profiler: SimpleProfiler, monitor: L.Callback) -> list[float]:
    """What the hooks that `monitor` has took in each step, of one batch each: those that it has not would
    bear what the first callback meets after a backward pass, whichever it is, an empty cache."""
    recorded = profiler.recorded_durations
    own = [hook for hook in OF_A_STEP if getattr(type(monitor), hook) is not getattr(L.Callback, hook)]
    hooks = [recorded[f"[Callback]{monitor.state_key}.{hook}"] for hook in own]
    return [sum(step) for step in zip(*hooks, strict=True)]


def of_a_run(steps: list[float]) -> tuple[float, float]:
    """What a step takes in the mean of a run of 20 epochs, and what some took once beyond that, of a monitor
    whose steps took this in the `EPOCHS`: its first epochs are those, and all further ones like the last."""
    count = len(steps) // EPOCHS
    usual = [statistics.median(steps[place : place + count]) for place in range(0, count * EPOCHS, count)]
    return (sum(usual) + (20 - EPOCHS) * usual[-1]) / 20, sum(steps) - sum(usual) * count


@dataclass(frozen=True)
class Costs:
    """Seconds that things took in one training.

    Attributes:
        step: without what watches.
        each: by kind of monitor, what it takes in a step in which it measures nothing.
        once: by kind of those that measure by themselves, what some of their steps took beyond the others.
        more: by kind, what a measurement takes on top; of `Histograms` one without histograms.
        fully: one of `Histograms` with histograms, and with gradient noise.
        subset: of one sample of the fixed subset.
        guard: of `OnNonFinite` in a step.
    """

    step: float
    each: dict[type, float]
    once: dict[type, float]
    more: dict[type, float]
    fully: tuple[float, float]
    subset: float
    guard: float

    def share(self, preset: str, batch_size: int) -> float:
        """Of the training time that the monitors of `preset` take, as configured."""
        seconds = 0.0
        for monitor in configured(preset):
            kind = type(monitor)
            seconds += self.each[kind] + self.once.get(kind, 0.0) * batch_size / RUN
            if isinstance(monitor, Histograms):
                fully, noise = self.fully
                plain, every = self.more[kind], monitor.histograms_every
                a_look = ((every - 1) * plain + fully) / every
                seconds += a_look / period_of(monitor, batch_size) + 10 * (noise - fully) * batch_size / RUN
            elif kind in self.more:
                seconds += self.more[kind] / period_of(monitor, batch_size)
            if isinstance(monitor, LearningCurves):
                samples = monitor.subset_samples * monitor.subsets_per_run
                seconds += self.subset * samples * batch_size / RUN
        return seconds / self.step


def costs(words: list[str], images: ImageSet, batch_size: int, measurements: int) -> Costs:
    """Of one training in which every monitor measures every few steps."""
    config, data = subject(words, images, batch_size)
    measured: dict[type, tuple[Monitor, int]] = {
        LearningCurves: (LearningCurves(every_n_steps=SCALARS, times_per_run=None), SCALARS),
        UpdateRatio: (UpdateRatio(every_n_steps=RATIOS, times_per_run=None), RATIOS),
        Histograms: (Histograms(every_n_steps=LOOKS, times_per_run=None, histograms_every=2), LOOKS),
        FirstLayerFilters: (FirstLayerFilters(every_n_steps=FILTERS, times_per_run=None), FILTERS),
        NonFinite: (NonFinite(every_n_steps=SCALARS), SCALARS),
    }
    others = [monitor for monitor in configured() if type(monitor) not in measured]
    monitors = [*(monitor for monitor, _ in measured.values()), *others]
    profiler, clock, guard = CpuProfiler(), StepClock(), OnNonFinite()
    fit(
        config,
        data,
        [*monitors, Recorder(), Diagnosis(probe=False, report=False), guard, clock],
        profiler=profiler,
        max_epochs=EPOCHS,
        limit_train_batches=measurements * 8 // EPOCHS,
        enable_progress_bar=False,
        enable_checkpointing=False,
    )
    for monitor, _ in measured.values():  # others are done when they have seen enough
        if not monitor.active:
            raise SystemExit(monitor.findings[-1].message)
    taken = {type(monitor): seconds_by_step(profiler, monitor) for monitor in monitors}
    whole = [end - start for start, end in zip(clock.ends, clock.ends[1:], strict=False)]
    watching = [sum(of_step) for of_step in zip(*taken.values(), strict=True)][1:]
    step = statistics.median(all_of_it - seen for all_of_it, seen in zip(whole, watching, strict=True))

    def of(kind: type, period: int, due: bool) -> list[float]:
        """Of the steps with a measurement, or without, but the first, which gets everything ready."""
        return [
            seconds for i, seconds in enumerate(taken[kind], 1) if (i % period == 0) == due and i > period
        ]

    of_run = {type(monitor): of_a_run(taken[type(monitor)]) for monitor in others}
    each, once = ({kind: found[place] for kind, found in of_run.items()} for place in (0, 1))
    each |= {kind: statistics.median(of(kind, period, False)) for kind, (_, period) in measured.items()}
    full = sorted(of(Histograms, 2 * LOOKS, True))
    plain = set(of(Histograms, LOOKS, True)) - set(full)
    more = {kind: statistics.median(of(kind, period, True)) for kind, (_, period) in measured.items()}
    more[Histograms] = statistics.median(plain)
    more = {kind: seconds - each[kind] for kind, seconds in more.items()}
    curves = measured[LearningCurves][0]
    assert isinstance(curves, LearningCurves)
    subsets = sum(profiler.recorded_durations[f"[Callback]{curves.state_key}.on_train_epoch_end"])
    return Costs(
        step,
        each,
        once,
        more,
        (statistics.median(full), statistics.fmean(full[-10:])),
        subsets / (curves.subset_samples * curves.subsets_per_run),
        statistics.fmean(seconds_by_step(profiler, guard)[1:]),
    )


def shares(found: Costs, batch_size: int) -> Iterator[tuple[str, float]]:
    """Each arrangement of monitors with its cost as a share of the training time, or in steps."""
    yield "all, as configured", found.share("default", batch_size)
    yield "on_nonfinite", found.guard / found.step
    scalars = sum(found.each[kind] + found.more[kind] for kind in (LearningCurves, NonFinite, UpdateRatio))
    yield "scalars at every step", scalars / found.step
    yield "histograms of everything every 100 steps", found.fully[0] / 100 / found.step
    yield "one measurement of ratios", found.more[UpdateRatio] / found.step
    yield "one look into the layers", found.more[Histograms] / found.step
    yield "one set of histograms", found.fully[0] / found.step


def print_presets(images: ImageSet, measurements: int, trainings: int) -> None:
    """What the presets of `callbacks=` cost, as their files and docs/figures.md say it."""
    found = [costs(["network=convnet"], images, 128, measurements) for _ in range(trainings)]
    title = "Cost of the presets of callbacks=, in percent of the training time (convnet, batch 128)"
    table = Table(title=title, title_justify="left")
    for preset in PRESETS:
        table.add_column(preset, justify="right")
    table.add_row(*(figure([each.share(preset, 128) for each in found], ".2%") for preset in PRESETS))
    Console().print(table)


def peak_memory(words: list[str], images: ImageSet, batch_size: int, watched: bool) -> tuple[int, int]:
    """Largest number of bytes that tensors held at once in a training of a few steps, and the parameters'."""
    config, data = subject(words, images, batch_size)
    monitors = [
        LearningCurves(every_n_steps=1),
        UpdateRatio(every_n_steps=1),
        Histograms(every_n_steps=2, histograms_every=2),
        FirstLayerFilters(every_n_steps=3),
        NonFinite(),
        Recorder(),
        Diagnosis(),
    ]
    few: dict[str, Any] = {
        "limit_train_batches": 6,
        "enable_progress_bar": False,
        "enable_checkpointing": False,
    }
    with torch.profiler.profile(profile_memory=True) as profiler:
        trainer = fit(config, data, monitors if watched else [], **few)
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = [e for e in json.loads(trace.read_text())["traceEvents"] if e.get("name") == "[memory]"]
    changes = [event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"])]
    return max(accumulate(changes)), sum(p.nbytes for p in trainer.lightning_module.parameters())


def ratios_of_steps(words: list[str], images: ImageSet, batch_size: int, rounds: int) -> list[float]:
    """The median step with all monitors over that without, of each round: what they cost at every step.

    The medians leave out the steps with rarer measurements, which are in `shares`.
    """
    config, data = subject(words, images, batch_size)
    periods = {type(monitor): period_of(monitor, batch_size) for monitor in configured()}
    few: dict[str, Any] = {
        "limit_train_batches": STEPS,
        "enable_progress_bar": False,
        "enable_checkpointing": False,
    }
    taken: dict[str, list[float]] = {"watched": [], "alone": []}
    for arm in in_turn(list(taken), rounds):
        monitors = [
            LearningCurves(every_n_steps=periods[LearningCurves], subset_samples=0),
            UpdateRatio(every_n_steps=periods[UpdateRatio], times_per_run=None),
            Histograms(every_n_steps=periods[Histograms], times_per_run=None),
            NonFinite(),
            Recorder(),
            Diagnosis(),
        ]
        clock = StepClock()
        fit(config, data, [*(monitors if arm == "watched" else []), clock], **few)
        steps = [end - start for start, end in zip(clock.ends, clock.ends[1:], strict=False)]
        taken[arm].append(statistics.median(steps))
    return [watched / alone for watched, alone in zip(*taken.values(), strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--measurements", type=int, default=16, help="sets of histograms that are timed")
    parser.add_argument("--trainings", type=int, default=3, help="in which they are timed")
    parser.add_argument("--rounds", type=int, default=5, help="of the comparison of whole steps")
    parser.add_argument("--presets", action="store_true", help="what each preset of callbacks= costs, alone")
    arguments = parser.parse_args()
    images, number = synthetic_images(45_000), arguments.measurements
    if arguments.presets:
        print_presets(images, number, arguments.trainings)
        print_where_and_when()
        return
    arms = {
        "convnet, batch 128": (["network=convnet"], 128),
        "convnet, batch 512": (["network=convnet"], 512),
        "resnet18, batch 128": (["network=resnet18"], 128),
    }
    found: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
    for name in in_turn(list(arms), arguments.trainings):
        words, size = arms[name]
        found[name].append(dict(shares(costs(words, images, size, number), size)))
    table = Table(title="Cost of the monitors, in percent of the training time", title_justify="left")
    table.add_column("")
    for name in arms:
        table.add_column(name, justify="right")
    for row in next(iter(found.values()))[0]:
        form, unit = (".2f", " steps") if row.startswith("one ") else (".2%", "")
        figures = (figure([training[row] for training in of_arm], form) for of_arm in found.values())
        table.add_row(row, *(f"{told}{unit}" for told in figures))
    memory = []
    for words, size in arms.values():
        without, parameters = peak_memory(words, images, size, watched=False)
        more = peak_memory(words, images, size, watched=True)[0] - without
        memory.append(f"{more / 2**20:.1f} MiB (parameters: {parameters / 2**20:.1f})")
    table.add_row("further memory at its peak", *memory)
    Console().print(table)
    ratios = figure(ratios_of_steps(["network=convnet"], images, 128, arguments.rounds), ".3f")
    Console().print(
        f"convnet, batch 128, the median step with all monitors over that without, in turn: {ratios}"
    )
    print_where_and_when()


if __name__ == "__main__":
    main()
