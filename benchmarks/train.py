"""Images per second of a training, beside a loop written by hand: `python -m benchmarks.train`.

The training has all that `scripts/train.py` gives it: monitors, progress bar, loggers, checkpoints,
averaging, diagnosis, and what acts on a number that is not finite. It is the beginning of a run of as many
images as 20 epochs of CIFAR-10 have, and the monitors measure as often as in that run. Its first two epochs
have what is done once a run: a run takes them and the third as often as is left. With `--whole` one epoch is
the run, in which they measure 20 times and the like in a twentieth of the time or less. Timed from batch 9,
before which the monitors get ready, to the end of the epochs, whose checkpoints are saved. Neither side
validates. With `--alone` it is Lightning's trainer with the module and nothing else.

The loop by hand has the same network, optimizer, schedule and batches, and nothing else: no metrics, no
logging, no check of anything, no deterministic algorithms, and nothing of what the scripts set for a process:
it is a process of its own. The two take turns every 8 batches, so that whatever else the machine does within
a second or more slows both alike.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from itertools import chain, islice, repeat
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from omegaconf import DictConfig
from torch.nn.functional import cross_entropy

from benchmarks.compare import composed, data_of, fit, synthetic_images
from benchmarks.machine import figure, print_where_and_when
from project.build import build_module
from vitals.runs.callbacks.run_status import RunStatus
from vitals.runs.callbacks.signals import StopAtSignal
from vitals.runs.held_memory import hold_memory
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
SIDES = ("training", "by hand")


class TakesTurns(Checkpoint):
    """Seconds of a training and of a loop by hand that stands still while the other one runs, by epoch.

    Lightning calls the callbacks that save checkpoints last: it comes after those that do. It ends the
    training after `epochs`.

    Args:
        by_hand: trains on so many batches, and returns the seconds that they took.
    """

    def __init__(self, by_hand: Callable[[int], float], clock: Callable[[], float], epochs: int) -> None:
        self.by_hand, self.clock, self.epochs = by_hand, clock, epochs
        self.seconds = {side: [0.0] * epochs for side in SIDES}
        self.batches = 0
        """Since the last turn."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.since = self.clock()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches += 1
        if self.batches == TURN:
            self._turn(trainer.current_epoch, counts=trainer.current_epoch > 0 or batch_idx >= TURN)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._turn(trainer.current_epoch)
        if trainer.current_epoch + 1 == self.epochs:
            trainer.fit_loop.max_epochs = self.epochs

    def _turn(self, epoch: int, counts: bool = True) -> None:
        here = self.clock() - self.since
        by_hand, self.batches = self.by_hand(self.batches), 0
        if counts:
            for side, seconds in zip(SIDES, (here, by_hand), strict=True):
                self.seconds[side][epoch] += seconds
        self.since = self.clock()


def setting(size: int) -> DictConfig:
    words = f"data=digits data.batch_size={size} data.crop_padding=4 data.flip=true seed=0".split()
    # Random images teach nothing, and the trial of other rates that this calls for is none of the road.
    return composed(*words, "diagnosis.probe=false", "trainer.limit_val_batches=0")


def train_by_hand(size: int, images: int, clock: Callable[[], float], turns: Connection) -> None:
    """Train on as many batches as `turns` asks for, and answer with the seconds that they took, until it asks
    for none."""
    config, batches = setting(size), synthetic_images(images)
    data = data_of(config, batches)
    classifier: Any = build_module(config, data)
    network, loader = classifier.network.train(), data.train_dataloader()
    optimizer = classifier.make_optimizer(network)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, RUN // size)
    coming = chain.from_iterable(repeat(loader))
    while count := turns.recv():
        begun = clock()
        for batch, labels in islice(coming, count):
            loss = cross_entropy(network(batch), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        turns.send(clock() - begun)


@contextmanager
def loop_by_hand(size: int, images: int, clock: Callable[[], float]) -> Iterator[Callable[[int], float]]:
    """What trains by hand, in a process of its own, while one waits."""
    ours, theirs = get_context("spawn").Pipe()
    arguments = (size, images, clock, theirs)
    process = get_context("spawn").Process(target=train_by_hand, args=arguments, daemon=True)
    process.start()
    theirs.close()  # or a loop that has failed would be waited for

    def by_hand(batches: int) -> float:
        ours.send(batches)
        return float(ours.recv()) if batches else 0.0

    yield by_hand
    by_hand(0)
    process.join()


def ratios(
    size: int, images: int, rounds: int, whole: bool, alone: bool, clock: Callable[[], float]
) -> list[float]:
    """Speed of the training over that of the loop by hand, of each round, in batches of `size`."""
    config, synthetic = setting(size), synthetic_images(images)
    epochs, following = (1, 0) if whole else (3, math.ceil(RUN / images) - 3)
    config.trainer.max_epochs = epochs + following
    taken = []
    with loop_by_hand(size, images, clock) as by_hand:
        for _ in range(rounds):
            both = TakesTurns(by_hand, clock, epochs)
            with tempfile.TemporaryDirectory() as folder, redirect_stdout(StringIO()):
                around = [build_diagnosis(config), RunStatus(RunFolder(folder)), StopAtSignal()]
                callbacks = [
                    *build_average(config),
                    *build_callbacks(config),
                    *build_on_nonfinite(config),
                    *around,
                ]
                if alone:
                    fit(config, data_of(config, synthetic), [both], log=False, enable_progress_bar=False)
                else:
                    fit(config, data_of(config, synthetic), [*callbacks, both])
            taken.append(both.seconds)
    for side in SIDES:
        step = statistics.median(seconds[side][-1] for seconds in taken) / (images // size - TURN * whole)
        print(f"batch {size}, {side}: {1e3 * step:.1f} ms a step, {size / step:,.0f} images per second")
    runs = [[sum(of[side]) + following * of[side][-1] for side in SIDES] for of in taken]
    return [by_hand / training for training, by_hand in runs]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--images", type=int, default=15_000, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--whole", action="store_true", help="the epoch is the whole run")
    parser.add_argument("--alone", action="store_true", help="Lightning's trainer with nothing around it")
    parser.add_argument("--cpu-seconds", action="store_true", help="of the process: on a machine with others")
    arguments = parser.parse_args()
    if min(arguments.batch_size) < 1 or arguments.images // max(arguments.batch_size) <= TURN:
        parser.error(f"--batch-size must be 1 or more, and --images more than {TURN} batches of it")
    if arguments.rounds < 1:
        parser.error("--rounds must be 1 or more")
    clock = time.process_time if arguments.cpu_seconds else time.perf_counter
    hold_memory()  # as the scripts do
    kind = "of a run of one epoch" if arguments.whole else "of a run of 20 epochs"
    for size in arguments.batch_size:
        found = ratios(size, arguments.images, arguments.rounds, arguments.whole, arguments.alone, clock)
        print(f"batch {size}: speed {kind} / that of the loop by hand: {figure(found, '.3f')}", flush=True)
    print_where_and_when()


if __name__ == "__main__":
    main()
