"""What averaging the weights costs, and what it gains beside BatchNorm's re-estimation and the decay.

    python -m benchmarks.average costs                         # as a share of the training beside it
    python -m benchmarks.average gain data.root=<images>       # five seeds of the default recipe, 125 epochs
    python -m benchmarks.average gain --seeds 2 --epochs 4 data=digits

For the gain each seed trains once up to `--start` of its epochs, and from there twice: at the rate held as it
was then, and with the schedule's decay. Of both ends the last weights are tested as they are, with the
statistics of BatchNorm estimated anew, and averaged over the epochs since then. The runs stay in `--folder`;
a seed whose figures are there is not trained again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from torch import nn

from benchmarks.compare import composed, data_of, fit, in_turn, synthetic_images
from benchmarks.machine import figure, print_where_and_when
from project.build import build_data, build_module
from project.data.data_module import ImageData
from project.optim.optimizers import Schedule
from project.schema import Experiment
from project.train import train
from vitals.averaging.weight_average import WeightAverage
from vitals.measures.batch_norm import reestimate, tracking_layers
from vitals.runs.config.validation import check_run
from vitals.runs.instantiate import load_checkpoint, plain
from vitals.runs.run import run
from vitals.runs.run_folder import RunFolder

BATCHES = 100
RATES = ("held", "decayed")
WEIGHTS = ("raw", "re-estimated", "averaged")
Figures = dict[str, dict[str, float]]
"""Test accuracy by late rate and by weights."""


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


def print_costs(rounds: int, batch_size: int, images: int) -> None:
    """What averaging costs, as a share of the training beside it, in one run of an epoch.

    `images` is to be a fifth of what CIFAR-10 has: BatchNorm's statistics are estimated from a fifth of the
    usual batches.
    """
    words = f"data=digits data.batch_size={batch_size} data.crop_padding=4 data.flip=true seed=0".split()
    config = composed(*words, "trainer.max_epochs=1", "schedule.warmup_epochs=0")
    data = data_of(config, synthetic_images(images), synthetic_images(images // 9))
    options: dict[str, Any] = {"start": 0.0, "batch_norm_batches": 20}
    arms: dict[str, Callable[[], L.Callback]] = {
        "ema, every step": lambda: WeightAverage("ema", every=1, **options),
        "swa, every epoch": lambda: WeightAverage("swa", **options),
        "Lightning's EMAWeightAveraging": lambda: EMAWeightAveraging(),
    }
    shares: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    for name in in_turn(list(arms), rounds):
        watch = Stopwatch(arms[name]())
        fit(config, data, [watch], log=False, enable_checkpointing=False, enable_progress_bar=False)
        steps = watch.seconds - watch.after_batches - watch.after_epochs
        shares[name].append((watch.after_batches / steps, watch.after_epochs / steps))
    table = Table(title=f"averaging as a share of the training: {rounds} rounds", title_justify="left")
    for column in ("", "updates", "evaluation after each epoch"):
        table.add_column(column, justify="right" if column else "left")
    for name, figures in shares.items():
        updates, evaluations = zip(*figures, strict=True)
        table.add_row(name, figure(updates, ".2%"), figure(evaluations, ".1%"))
    Console().print(table)


def measure_gain(seed: int, folder: Path, epochs: int, start: int, words: list[str]) -> Figures:
    """Train one seed in `folder`, and test the three kinds of weights at both ends."""
    fixed = [f"seed={seed}", f"trainer.max_epochs={start}", f"schedule.epochs={epochs}"]
    config = composed("checks=none", *words, *fixed, "average=none")
    check_run(Experiment, config)
    trunk = folder / "trunk"
    run(config, RunFolder(trunk), train)
    share = Schedule.from_config(plain(config.schedule)).shape(start, epochs)
    figures: Figures = {}
    for rate in RATES:
        branch = folder / rate
        shutil.copytree(trunk, branch, symlinks=True)
        settings = RunFolder(branch).read_config()
        settings.resume, settings.trainer.max_epochs = str(branch), epochs
        settings.average = composed("average=swa", f"average.start={start}").average
        if rate == "held":
            settings.schedule.late = OmegaConf.merge(settings.schedule.late, {"start": start, "rate": share})
        check_run(Experiment, settings)
        run(settings, RunFolder(branch), train)
        figures[rate] = tested(settings, RunFolder(branch))
    return figures


def tested(config: DictConfig, folder: RunFolder) -> dict[str, float]:
    """Test accuracy of the last weights, with BatchNorm re-estimated, and of the average."""
    data = build_data(config)
    classifier: Any = build_module(config, data)
    network = classifier.network

    def load(name: str) -> None:
        state = load_checkpoint(folder.checkpoint(name))["state_dict"]
        network.load_state_dict({key.removeprefix("network."): value for key, value in state.items()})

    load("last")
    accuracies = {"raw": accuracy(network, data)}
    batches = data.train_dataloader()
    batches.set_epoch(config.trainer.max_epochs - 1)
    network.train()
    with torch.no_grad():
        reestimate(tracking_layers(network), lambda batch: network(batch[0]), islice(batches, BATCHES))
    accuracies["re-estimated"] = accuracy(network, data)
    load("average")
    return {**accuracies, "averaged": accuracy(network, data)}


@torch.no_grad()
def accuracy(network: nn.Module, data: ImageData) -> float:
    """Share of the test images that `network` classifies right."""
    network.eval()
    right = sum(int((network(images).argmax(1) == labels).sum()) for images, labels in data.test_dataloader())
    return right / len(data.test)


def print_gains(by_seed: list[Figures]) -> None:
    """Means over the seeds with their standard deviation, and the gains within each seed."""

    def told(values: list[float], sign: str = "") -> str:
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        return f"{100 * statistics.mean(values):{sign}.2f} ±{100 * spread:.2f}"

    title = f"test accuracy [%], {len(by_seed)} seeds, ± standard deviation"
    table = Table(title=title, title_justify="left")
    for column in ("late rate", *WEIGHTS, "re-estimation", "averaging"):
        table.add_column(column, justify="left" if column == "late rate" else "right")
    for rate in RATES:
        columns = {kind: [figures[rate][kind] for figures in by_seed] for kind in WEIGHTS}
        raw, again, averaged = columns.values()
        gains = [
            [after - before for before, after in zip(*pair, strict=True)]
            for pair in ((raw, again), (again, averaged))
        ]
        table.add_row(rate, *map(told, columns.values()), *(told(gain, "+") for gain in gains))
    console = Console()
    console.print(table)
    console.print("re-estimation: gain over raw; averaging: gain over re-estimated", highlight=False)
    for kind in ("raw", "averaged"):
        gain = [figures["decayed"]["raw"] - figures["held"][kind] for figures in by_seed]
        words = f"decay alone gains over the {kind} weights at the held rate"
        console.print(f"{words}: {told(gain, '+')}", highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True)
    costs = commands.add_parser("costs", help="as a share of the training")
    costs.add_argument("--batch-size", type=int, default=128)
    costs.add_argument("--images", type=int, default=9_000)
    costs.add_argument("--rounds", type=int, default=5)
    gain = commands.add_parser("gain", help="in test accuracy")
    gain.add_argument("--seeds", type=int, default=5)
    gain.add_argument("--epochs", type=int, default=20)
    gain.add_argument("--start", type=float, default=0.75, help="share of the epochs before averaging")
    gain.add_argument("--folder", type=Path, default=Path("logs/average_gain"))
    gain.add_argument("overrides", nargs="*", help="as of scripts/train.py")
    arguments = parser.parse_args()
    if arguments.what == "costs":
        print_costs(arguments.rounds, arguments.batch_size, arguments.images)
        print_where_and_when()
        return
    start = round(arguments.start * arguments.epochs)
    if not 0 < start < arguments.epochs:
        parser.error(f"--start {arguments.start} of {arguments.epochs} epochs leaves nothing to compare")
    options = {"epochs": arguments.epochs, "start": start, "overrides": arguments.overrides}
    by_seed = []
    for seed in range(arguments.seeds):
        folder = arguments.folder / f"seed-{seed}"
        record = folder / "test_accuracy.json"
        if not record.is_file():
            shutil.rmtree(folder, ignore_errors=True)
            figures = measure_gain(seed, folder, arguments.epochs, start, arguments.overrides)
            content = json.dumps({"options": options, "figures": figures}, indent=2)
            record.write_text(content + "\n", encoding="utf-8")
        known = json.loads(record.read_text(encoding="utf-8"))
        if known["options"] != options:
            parser.error(f"{record} was measured with other options: choose another --folder")
        by_seed.append(known["figures"])
    print_gains(by_seed)
    print_where_and_when()


if __name__ == "__main__":
    main()
