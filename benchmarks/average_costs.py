"""What averaging the weights costs, as a share of the training: `python benchmarks/benchmark.py average`."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from hydra import compose, initialize_config_dir
from lightning.pytorch.callbacks import EMAWeightAveraging
from rich.console import Console
from rich.table import Table

from project.data.image_set import ImageSet
from vitals.averaging.weight_average import WeightAverage
from vitals.runs.instantiate import build_classifier, build_data, build_trainer, quiet_lightning

CONFIGS = Path(__file__).parents[1] / "configs"


class Stopwatch(L.Callback):
    """Another callback, with the seconds that it takes after batches and at the ends of epochs."""

    def __init__(self, watched: L.Callback) -> None:
        self.watched = watched
        self.after_batches = self.after_epochs = 0.0
        for name in ("setup", "on_fit_start", "on_validation_end"):
            setattr(self, name, getattr(watched, name))

    def on_train_start(self, *arguments: Any) -> None:
        self.watched.on_train_start(*arguments)
        self.start = time.perf_counter()

    def on_train_end(self, *arguments: Any) -> None:
        self.seconds = time.perf_counter() - self.start

    def on_train_batch_end(self, *arguments: Any) -> None:
        start = time.perf_counter()
        self.watched.on_train_batch_end(*arguments)
        self.after_batches += time.perf_counter() - start

    def on_train_epoch_end(self, *arguments: Any) -> None:
        start = time.perf_counter()
        self.watched.on_train_epoch_end(*arguments)
        self.after_epochs += time.perf_counter() - start


def benchmark_average(training: ImageSet, validation: ImageSet, rounds: int, batch_size: int) -> None:
    """What averaging costs, as a share of the training beside it, in one run of an epoch.

    Args:
        training, validation: a fifth of the images that CIFAR-10 has; BatchNorm's statistics are estimated
            from a fifth of the usual batches.
        rounds: how often each way is run.
        batch_size: of the training.
    """
    quiet_lightning()
    words = f"data=digits data.batch_size={batch_size} data.crop_padding=4 data.flip=true seed=0".split()
    words += ["trainer.max_epochs=1", "schedule.warmup_epochs=0"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", words)
    data = build_data(config)
    data.train, data.validation = training, validation
    options: dict[str, Any] = {"start": 0.0, "batch_norm_batches": 20}
    arms: dict[str, Callable[[], L.Callback]] = {
        "ema, every step": lambda: WeightAverage("ema", every=1, **options),
        "swa, every epoch": lambda: WeightAverage("swa", **options),
        "Lightning's EMAWeightAveraging": lambda: EMAWeightAveraging(),
    }
    shares: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for number in range(rounds):
        for name in list(arms)[:: -1 if number % 2 else 1]:
            watch = Stopwatch(arms[name]())
            with tempfile.TemporaryDirectory() as folder:
                flags = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
                trainer = build_trainer(config, callbacks=[watch], default_root_dir=folder, **flags)
                trainer.fit(build_classifier(config, data), datamodule=data)
            steps = watch.seconds - watch.after_batches - watch.after_epochs
            shares[name].append((watch.after_batches / steps, watch.after_epochs / steps))
    table = Table(
        title=f"averaging as a share of the training: medians of {rounds} rounds", title_justify="left"
    )
    for column in ("", "updates", "smallest", "largest", "evaluation after each epoch"):
        table.add_column(column, justify="right" if column else "left")
    for name, figures in shares.items():
        updates, evaluations = zip(*figures, strict=True)
        spread = (statistics.median(updates), min(updates), max(updates))
        table.add_row(name, *(f"{share:.2%}" for share in spread), f"{statistics.median(evaluations):.1%}")
    Console().print(table)
