"""Measure what averaging the later weights gains, what re-estimating BatchNorm does, and what decay.

    python benchmarks/average_gain.py data.root=<images>  # five seeds of the default recipe, 125 epochs
    python benchmarks/average_gain.py --seeds 2 --epochs 4 data=digits

Each seed trains once up to `--start` of its epochs, and from there twice: at the rate held as it was then,
and with the schedule's decay. Of both ends the last weights are tested as they are, with BatchNorm's
statistics estimated anew, and averaged over the epochs since then. The runs stay in `--folder`; a seed
whose figures are there is not trained again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from itertools import islice
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from torch import nn

from project.data.data_module import ImageData
from project.optim.optimizers import Schedule
from vitals.measures.batch_norm import reestimate, tracking_layers
from vitals.runs.config.validation import check_experiment
from vitals.runs.instantiate import build_classifier, build_data, load_checkpoint, plain
from vitals.runs.run import run
from vitals.runs.run_folder import RunFolder

CONFIGS = Path(__file__).parents[1] / "configs"
BATCHES = 100
RATES = ("held", "decayed")
WEIGHTS = ("raw", "re-estimated", "averaged")
Figures = dict[str, dict[str, float]]
"""Test accuracy by late rate and by weights."""


def measure(seed: int, folder: Path, epochs: int, start: int, words: list[str]) -> Figures:
    """Train one seed in `folder`, and test the three kinds of weights at both ends."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        fixed = [f"seed={seed}", f"trainer.max_epochs={start}", f"schedule.epochs={epochs}"]
        config = compose("train", ["checks=none", *words, *fixed, "average=none"])
    check_experiment(config)
    trunk = folder / "trunk"
    run(config, RunFolder(trunk))
    share = Schedule.from_config(plain(config.schedule)).shape(start, epochs)
    figures: Figures = {}
    for rate in RATES:
        branch = folder / rate
        shutil.copytree(trunk, branch, symlinks=True)
        settings = RunFolder(branch).read_config()
        settings.resume, settings.trainer.max_epochs = str(branch), epochs
        settings.average = OmegaConf.merge(settings.average, {"kind": "swa", "start": start})
        if rate == "held":
            settings.schedule.late = OmegaConf.merge(settings.schedule.late, {"start": start, "rate": share})
        check_experiment(settings)
        run(settings, RunFolder(branch))
        figures[rate] = tested(settings, RunFolder(branch))
    return figures


def tested(config: DictConfig, folder: RunFolder) -> dict[str, float]:
    """Test accuracy of the last weights, with BatchNorm re-estimated, and of the average."""
    data = build_data(config)
    network = build_classifier(config, data).network

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


def print_table(by_seed: list[Figures]) -> None:
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
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--start", type=float, default=0.75, help="share of the epochs before averaging")
    parser.add_argument("--folder", type=Path, default=Path("logs/average_gain"))
    parser.add_argument("overrides", nargs="*", help="as of scripts/train.py")
    arguments = parser.parse_args()
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
            figures = measure(seed, folder, arguments.epochs, start, arguments.overrides)
            content = json.dumps({"options": options, "figures": figures}, indent=2)
            record.write_text(content + "\n", encoding="utf-8")
        known = json.loads(record.read_text(encoding="utf-8"))
        if known["options"] != options:
            parser.error(f"{record} was measured with other options: choose another --folder")
        by_seed.append(known["figures"])
    print_table(by_seed)


if __name__ == "__main__":
    main()
