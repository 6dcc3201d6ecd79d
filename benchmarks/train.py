"""Images per second of a training, beside a loop written by hand: `python -m benchmarks.train`.

The training has all that `scripts/train.py` gives it: monitors, progress bar, loggers, checkpoints,
averaging, diagnosis, and what acts on a number that is not finite. It is the first epoch of a run of as many
images as 20 epochs of CIFAR-10 have, and the monitors measure as often as in that run; with `--whole` that
epoch is a run of its own, in which they measure 20 times and the like in a twentieth of the time or less.
Timed from batch 9, before which the monitors get ready once a run, to the end of the epoch, whose checkpoint
is saved; what those 8 batches take beyond 8 others is said apart. Neither side validates.

The loop by hand has the same network, optimizer, schedule and batches, and nothing else: no metrics, no
logging, no check of anything, no deterministic algorithms.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch.nn.functional import cross_entropy

from benchmarks.compare import composed, data_of, fit, in_turn, synthetic_images
from benchmarks.machine import figure, print_where_and_when
from project.build import build_module
from vitals.runs.callbacks.run_status import RunStatus
from vitals.runs.callbacks.signals import StopAtSignal
from vitals.runs.instantiate import (
    build_average,
    build_callbacks,
    build_diagnosis,
    build_on_nonfinite,
)
from vitals.runs.run_folder import RunFolder

RUN = 20 * 45_000
"""Images trained on in the run whose beginning is timed."""
EARLY = 8
"""Batches before those that are timed."""


class Clock(Checkpoint):
    """Seconds of the first `EARLY` batches, and of the others up to the end of the epoch, with which it ends.

    Lightning calls the callbacks that save checkpoints last: it comes after those that do.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.marks: list[float] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.marks.append(self.clock())

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == EARLY - 1:
            self.marks.append(self.clock())

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.marks.append(self.clock())
        trainer.fit_loop.max_epochs = 1

    @property
    def seconds(self) -> tuple[float, float]:
        start, early, end = self.marks
        return early - start, end - early


def ratios(size: int, images: int, rounds: int, whole: bool, clock: Callable[[], float]) -> list[float]:
    """Speed of the training over that of the loop by hand, of each round, in batches of `size`."""
    words = f"data=digits data.batch_size={size} data.crop_padding=4 data.flip=true seed=0".split()
    # Random images teach nothing, and the trial of other rates that this calls for is none of the road.
    words += ["diagnosis.probe=false", "trainer.limit_val_batches=0"]
    words += [f"trainer.max_epochs={1 if whole else math.ceil(RUN / images)}"]
    config = composed(*words)
    data = data_of(config, synthetic_images(images))

    def training() -> tuple[float, float]:
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
            around = [build_diagnosis(config), RunStatus(RunFolder(folder)), StopAtSignal()]
            callbacks = [
                *build_average(config),
                *build_callbacks(config),
                *build_on_nonfinite(config),
                *around,
            ]
            fit(config, data, [*callbacks, timer := Clock(clock)])
        return timer.seconds

    def by_hand() -> tuple[float, float]:
        classifier: Any = build_module(config, data)
        network, batches = classifier.network.train(), data.train_dataloader()
        optimizer = classifier.make_optimizer(network)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
        torch.use_deterministic_algorithms(False)
        start = clock()
        for number, (batch, labels) in enumerate(batches):
            if number == EARLY:
                early = clock()
            loss = cross_entropy(network(batch), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        return early - start, clock() - early

    arms = {"training": training, "by hand": by_hand}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for name in in_turn(list(arms), rounds):
        taken[name].append(arms[name]())
    pairs = list(zip(taken["training"], taken["by hand"], strict=True))
    counted = images // size - EARLY
    speed = counted * size / statistics.median(rest for (_, rest), _ in pairs)
    first = statistics.median(early - rest * EARLY / counted for (early, rest), _ in pairs)
    print(f"batch {size}: {speed:,.0f} images per second; the first {EARLY} batches take {first:.2f} s more")
    return [hand / ours for (_, ours), (_, hand) in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--images", type=int, default=15_000, help="of the epoch that is timed")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--whole", action="store_true", help="the epoch is the whole run")
    parser.add_argument("--cpu-seconds", action="store_true", help="of the process: on a machine with others")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_seconds else time.perf_counter
    kind = "of the whole run of one epoch" if arguments.whole else "of the beginning of a run of 20 epochs"
    for size in arguments.batch_size:
        found = ratios(size, arguments.images, arguments.rounds, arguments.whole, clock)
        print(f"batch {size}: speed {kind} / that of the loop by hand: {figure(found, '.3f')}", flush=True)
    print_where_and_when()


if __name__ == "__main__":
    main()
