"""Measure what the template costs: `python benchmarks/benchmark.py data`, or another of its subjects.

Everything that is compared runs interleaved in one process, round by round, and the ratio is taken within
each round: on a shared machine only such ratios mean anything. The median over the rounds is printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path

import lightning as L
import torch
from average_costs import benchmark_average
from hydra import compose, initialize_config_dir
from monitor_costs import benchmark_monitors
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from project.data.batches import Normalization, TrainingBatches
from project.data.image_set import ImageSet
from vitals.runs.instantiate import (
    build_callbacks,
    build_classifier,
    build_data,
    build_loggers,
    build_trainer,
    quiet_lightning,
)

CONFIGS = Path(__file__).parents[1] / "configs"


def synthetic_images(count: int) -> ImageSet:
    """Random bytes in the shape of CIFAR-10: what a pixel shows does not change what it costs."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return ImageSet(images, torch.arange(count) % 10, [str(label) for label in range(10)])


class PilImages(Dataset[tuple[Tensor, int]]):
    """The usual way: one PIL image at a time through torchvision's transforms."""

    def __init__(self, data: ImageSet) -> None:
        self.images = [Image.fromarray(image) for image in data.images.permute(0, 2, 3, 1).numpy()]
        self.labels = data.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4, padding_mode="reflect"),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def benchmark_data(rounds: int, batch_size: int) -> None:
    """Images per second of our batches against a DataLoader with PIL transforms, 0 and 2 workers."""
    data = synthetic_images(10_000)
    normalization = Normalization(torch.full((3,), 0.5), torch.full((3,), 0.25), channels_last=True)
    ours = TrainingBatches(data, batch_size, normalization, crop_padding=4, flip=True)
    pil = PilImages(data)

    def usual(workers: int) -> DataLoader[tuple[Tensor, int]]:
        lasting = workers > 0
        return DataLoader(
            pil, batch_size, shuffle=True, num_workers=workers, persistent_workers=lasting, drop_last=True
        )

    slow, slow_2 = usual(0), usual(2)
    arms = {
        "vitals": lambda: images_per_second(ours),
        "DataLoader, 0 workers": lambda: images_per_second(slow),
        "DataLoader, 2 workers": lambda: images_per_second(slow_2),
    }
    compare(f"batches of {batch_size}, images per second", arms, rounds)


def images_per_second(batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Speed of going through `batches` once, from the second on: the first waits for the workers."""
    count, start = 0, 0.0
    for images, _ in batches:
        if start:
            count += len(images)
        else:
            start = time.perf_counter()
    return count / (time.perf_counter() - start)


class Clock(L.Callback):
    """Seconds from the start of the training to its end, checkpoints included."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.start = time.perf_counter()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.seconds = time.perf_counter() - self.start


def benchmark_train(rounds: int, batch_size: int) -> None:
    """Images per second over an epoch: our whole road against a hand-written loop on the same work.

    The road has its logging, learning curves, progress bar and checkpoints; neither validates.
    """
    quiet_lightning()
    words = f"data=digits data.batch_size={batch_size} data.crop_padding=4 data.flip=true seed=0".split()
    words += ["trainer.max_epochs=1", "trainer.limit_val_batches=1", "schedule.warmup_epochs=0"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", words)
    data = build_data(config)
    data.train = synthetic_images(45_000)
    data.validation = data.validation.subset(torch.arange(1))
    images = len(data.train) // batch_size * batch_size

    def road() -> float:
        with tempfile.TemporaryDirectory() as folder:
            clock = Clock()
            trainer = build_trainer(
                config,
                logger=build_loggers(config, Path(folder)),
                callbacks=[*build_callbacks(config), clock],
                default_root_dir=folder,
            )
            trainer.fit(build_classifier(config, data), datamodule=data)
        return images / clock.seconds

    def by_hand() -> float:
        classifier = build_classifier(config, data)
        network, batches = classifier.network.train(), data.train_dataloader()
        optimizer = classifier.make_optimizer(network)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
        start = time.perf_counter()
        for batch, labels in batches:
            loss = cross_entropy(network(batch), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        return images / (time.perf_counter() - start)

    arms = {"vitals": road, "loop by hand": by_hand}
    compare(f"training in batches of {batch_size}, images per second", arms, rounds)


def benchmark_sweep(rounds: int, jobs: int) -> None:
    """Jobs per minute of a sweep against the same commands one after the other, each with all cores.

    Then what a further job costs that trains on one batch, with each launcher that is here. Ray's processes
    are not ours, so that their CPU time does not count.
    """
    words = ["data=digits", "checks=none", "trainer=cpu", "trainer.max_epochs=3", "~callbacks.progress"]
    train = [sys.executable, str(CONFIGS.parent / "scripts" / "train.py")]
    seeds = f"seed={','.join(map(str, range(jobs)))}"
    own = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}

    def timed(*commands: list[str]) -> tuple[float, float]:
        """Seconds by the clock and of CPU."""
        before, start = os.times(), time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            for command in commands:
                subprocess.run(command, cwd=folder, env=own, check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        cpu = sum(after[2:4]) - sum(before[2:4])
        return time.perf_counter() - start, cpu

    arms = {
        "sweep, a job a core": lambda: 60 * jobs / timed([*train, "-m", *words, seeds])[0],
        "one after the other": lambda: (
            60 * jobs / timed(*([*train, *words, f"seed={seed}"] for seed in range(jobs)))[0]
        ),
    }
    compare(f"{jobs} jobs of 3 epochs on the digits, jobs per minute", arms, rounds)
    launchers = {
        "local, from a fork server": ["launcher.fork_server=true"],
        "local, in a new interpreter": ["launcher.fork_server=false"],
    }
    if find_spec("ray"):
        launchers["ray"] = ["launcher=ray"]
    for name, choice in launchers.items():
        command = [*train, "-m", *words, "debug=fast", *choice]
        # The first is to warm up.
        _, few, many = (timed([*command, f"seed={seeds}"]) for seeds in ("0,1", "0,1", "0,1,2,3,4,5"))
        clock, cpu = ((more - less) / 4 for more, less in zip(many, few, strict=True))
        print(f"{name}: {clock:.1f} s by the clock for a further job of one batch, {cpu:.1f} s of CPU")


def compare(title: str, arms: dict[str, Callable[[], float]], rounds: int) -> None:
    """Run the arms in turn, `rounds` times, and print each one's figure and the first one's ratio to it.

    Args:
        title: of the table.
        arms: name and a function that returns a speed; the first is what the others are compared with.
        rounds: how often; the order is turned round every time.
    """
    speeds: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(rounds):
        for name in list(arms)[:: -1 if number % 2 else 1]:
            speeds[name].append(arms[name]())
    first = next(iter(arms))
    table = Table(title=f"{title}: medians of {rounds} rounds, {os.cpu_count()} cores", title_justify="left")
    for column in ("", "speed", f"{first} / it", "smallest", "largest"):
        table.add_column(column, justify="right" if column else "left")
    for name, figures in speeds.items():
        ratios = [mine / other for mine, other in zip(speeds[first], figures, strict=True)]
        spread = [f"{figure:.3g}" for figure in (statistics.median(ratios), min(ratios), max(ratios))]
        table.add_row(name, f"{statistics.median(figures):,.0f}", *spread)
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["data", "train", "monitors", "average", "sweep"])
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=16, help="of a sweep")
    arguments = parser.parse_args()
    if arguments.what == "monitors":
        benchmark_monitors(synthetic_images(45_000), 2 * arguments.rounds)
        return
    if arguments.what == "average":
        benchmark_average(
            synthetic_images(9_000), synthetic_images(1_000), arguments.rounds, arguments.batch_size
        )
        return
    if arguments.what == "sweep":
        benchmark_sweep(arguments.rounds, arguments.jobs)
        return
    measure = {"data": benchmark_data, "train": benchmark_train}[arguments.what]
    measure(arguments.rounds, arguments.batch_size)


if __name__ == "__main__":
    main()
