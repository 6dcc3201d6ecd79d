"""Images per second of a training, beside a loop written by hand: `python -m benchmarks.train`.

The training has all that `scripts/train.py` gives it: monitors, progress bar, loggers, checkpoints,
averaging, diagnosis, and what acts on a number that is not finite. It is the first epoch of a run of as many
images as 20 epochs of CIFAR-10 have, and the monitors measure as often as in that run; with `--whole` that
epoch is a run of its own, in which they measure 20 times and the like in a twentieth of the time or less.
Timed from batch 9, before which the monitors get ready once a run, to the end of the epoch, whose checkpoint
is saved. Neither side validates. With `--alone` it is Lightning's trainer with the module and nothing else.

The loop by hand has the same network, optimizer, schedule and batches, and nothing else: no metrics, no
logging, no check of anything, no deterministic algorithms. The two take turns every 8 batches, so that
whatever else the machine does within a second or more slows both alike.
"""

from __future__ import annotations

import argparse
import gc
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from io import StringIO
from itertools import islice
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch.nn.functional import cross_entropy

from benchmarks.compare import composed, data_of, fit, synthetic_images
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
TURN = 8
"""Batches that each side takes before it is the other's turn; the first ones are not timed."""


class TakesTurns(Checkpoint):
    """Seconds of a training and of a loop by hand that stands still while the other one runs.

    Lightning calls the callbacks that save checkpoints last: it comes after those that do. It ends the
    training with its first epoch.

    Args:
        by_hand: each `next` of it trains on a batch.
    """

    def __init__(self, by_hand: Iterator[None], clock: Callable[[], float]) -> None:
        self.by_hand, self.clock = by_hand, clock
        self.seconds = {"training": 0.0, "by hand": 0.0}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.since = self.clock()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % TURN == 0:
            self._turn(counts=batch_idx >= TURN)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._turn()
        trainer.fit_loop.max_epochs = 1

    def _turn(self, counts: bool = True) -> None:
        here = self.clock()
        torch.use_deterministic_algorithms(False)
        for _ in islice(self.by_hand, TURN):
            pass
        torch.use_deterministic_algorithms(True)
        there = self.clock()
        if counts:
            self.seconds["training"] += here - self.since
            self.seconds["by hand"] += there - here
        self.since = self.clock()


def ratios(
    size: int, images: int, rounds: int, whole: bool, alone: bool, clock: Callable[[], float]
) -> list[float]:
    """Speed of the training over that of the loop by hand, of each round, in batches of `size`."""
    words = f"data=digits data.batch_size={size} data.crop_padding=4 data.flip=true seed=0".split()
    # Random images teach nothing, and the trial of other rates that this calls for is none of the road.
    words += ["diagnosis.probe=false", "trainer.limit_val_batches=0"]
    words += [f"trainer.max_epochs={1 if whole else math.ceil(RUN / images)}"]
    config = composed(*words)
    synthetic = synthetic_images(images)

    def by_hand() -> Iterator[None]:
        data = data_of(config, synthetic)
        classifier: Any = build_module(config, data)
        network, batches = classifier.network.train(), data.train_dataloader()
        optimizer = classifier.make_optimizer(network)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
        for batch, labels in batches:
            loss = cross_entropy(network(batch), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            yield

    taken = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
            around = [build_diagnosis(config), RunStatus(RunFolder(folder)), StopAtSignal()]
            callbacks = [
                *build_average(config),
                *build_callbacks(config),
                *build_on_nonfinite(config),
                *around,
            ]
            both = TakesTurns(by_hand(), clock)
            if alone:
                fit(config, data_of(config, synthetic), [both], log=False, enable_progress_bar=False)
            else:
                fit(config, data_of(config, synthetic), [*callbacks, both])
        taken.append(both.seconds)
    counted = images // size - TURN
    for side in ("training", "by hand"):
        step = statistics.median(seconds[side] for seconds in taken) / counted
        print(f"batch {size}, {side}: {1e3 * step:.1f} ms a step, {size / step:,.0f} images per second")
    return [seconds["by hand"] / seconds["training"] for seconds in taken]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--images", type=int, default=15_000, help="of the epoch that is timed")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--whole", action="store_true", help="the epoch is the whole run")
    parser.add_argument("--alone", action="store_true", help="Lightning's trainer with nothing around it")
    parser.add_argument("--cpu-seconds", action="store_true", help="of the process: on a machine with others")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_seconds else time.perf_counter
    gc.freeze()  # what has been imported, as the scripts do: a look through it takes a quarter of a second
    kind = "of the whole run of one epoch" if arguments.whole else "of the beginning of a run of 20 epochs"
    for size in arguments.batch_size:
        found = ratios(size, arguments.images, arguments.rounds, arguments.whole, arguments.alone, clock)
        print(f"batch {size}: speed {kind} / that of the loop by hand: {figure(found, '.3f')}", flush=True)
    print_where_and_when()


if __name__ == "__main__":
    main()
