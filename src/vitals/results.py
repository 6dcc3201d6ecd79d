"""What a run tells the terminal: how it starts, and how it ended."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from vitals.run_folder import RunFolder


def print_start(config: DictConfig, classifier: Any, data: Any, folder: RunFolder) -> None:
    """One line each on the network, the data and the folder."""
    parameters = sum(parameter.numel() for parameter in classifier.network.parameters())
    console = Console()
    console.print(
        f"[bold]{type(classifier.network).__name__}[/] with {parameters:,} parameters, "
        f"{config.optimizer._target_.rpartition('.')[-1]} at lr {config.optimizer.lr:g}, seed {config.seed}"
    )
    console.print(
        f"{config.data.name}: {len(data.train):,} images to train, {len(data.validation):,} to validate, "
        f"{len(data.test):,} to test"
    )
    console.print(f"run folder: {shown(folder.path)}", soft_wrap=True)


def final_metrics(folder: RunFolder, test: dict[str, float]) -> dict[str, float]:
    """The figures of a finished run: best and last epoch by validation accuracy, and test.

    Args:
        folder: whose `metrics.csv` has a row an epoch.
        test: `loss/test` and `accuracy/test` of the chosen weights.
    """
    with folder.metrics.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    best = max(
        rows, key=lambda row: float(row["accuracy/val"])
    )  # the first of equals, as the checkpoint has it
    last = rows[-1]
    return {
        "best/epoch": int(best["epoch"]),
        "best/loss_val": float(best["loss/val"]),
        "best/accuracy_val": float(best["accuracy/val"]),
        "last/epoch": int(last["epoch"]),
        "last/loss_val": float(last["loss/val"]),
        "last/accuracy_val": float(last["accuracy/val"]),
        "test/loss": test["loss/test"],
        "test/accuracy": test["accuracy/test"],
    }


def print_results(folder: RunFolder, metrics: dict[str, float]) -> None:
    """The table of results, and what to type next."""
    table = Table(title="Results", title_justify="left")
    for column in ("weights", "images", "epoch", "loss", "accuracy"):
        table.add_column(column, justify="left" if column in ("weights", "images") else "right")
    for weights, images, epoch, loss, accuracy in (
        ("best", "validation", "best/epoch", "best/loss_val", "best/accuracy_val"),
        ("last", "validation", "last/epoch", "last/loss_val", "last/accuracy_val"),
        ("best", "test", "best/epoch", "test/loss", "test/accuracy"),
    ):
        figures = f"{metrics[epoch]:.0f}", f"{metrics[loss]:.4f}", f"{metrics[accuracy]:.2%}"
        table.add_row(weights, images, *figures)
    console = Console()
    console.print(table)
    minutes = folder.read_status().get("training_seconds", 0) / 60
    console.print(f"trained in {minutes:.1f} minutes")
    console.print(f"curves:   tensorboard --logdir {shown(folder.path)}", soft_wrap=True)
    console.print(f"evaluate: python scripts/evaluate.py run={shown(folder.path)}", soft_wrap=True)


def print_interruption(folder: RunFolder) -> None:
    """That the run was stopped, and how to go on."""
    console = Console()
    epoch = folder.read_status().get("epoch", 0)
    if folder.last_checkpoint.exists():
        console.print(f"\nInterrupted; the run is saved up to the end of epoch {epoch}. To go on:")
        console.print(f"python scripts/train.py resume={shown(folder.path)}", soft_wrap=True)
    else:
        console.print("\nInterrupted before the first epoch was complete: nothing was saved.")


def print_evaluation(checkpoint: Path, split: str, metrics: dict[str, float]) -> None:
    """Loss and accuracy of one checkpoint on one split."""
    table = Table()
    for column in ("checkpoint", "images", "loss", "accuracy"):
        table.add_column(column)
    name = checkpoint.resolve().name
    loss, accuracy = metrics[f"loss/{split}"], metrics[f"accuracy/{split}"]
    table.add_row(name, {"val": "validation"}.get(split, split), f"{loss:.4f}", f"{accuracy:.2%}")
    Console().print(table)


def shown(path: Path) -> str:
    """The path as short as it can be typed from here."""
    absolute = path.absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)
