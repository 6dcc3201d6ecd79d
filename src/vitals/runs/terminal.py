"""What a run tells the terminal: how it starts, and how it ended."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from vitals.runs.run_folder import RunFolder, shown

KINDS = ("best", "last", "average")
"""The weights that a run ends with: of the best and the last epoch, and the average of the later ones."""


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


def final_metrics(folder: RunFolder, test: dict[str, float], averaged: bool = False) -> dict[str, float]:
    """The figures of a finished run: best and last epoch by validation accuracy, the average, and test.

    Args:
        folder: whose `metrics.csv` has a row an epoch.
        test: `loss/test` and `accuracy/test` of the chosen weights.
        averaged: whether these are the averaged weights; `test/averaged` is then 1, else 0.
    """
    with folder.metrics.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    last = rows[-1]
    validated = [row for row in rows if row.get("accuracy/val")]  # none in a run of less than an epoch
    raw = {}
    if validated:
        best = max(validated, key=lambda row: float(row["accuracy/val"]))  # the first of equals
        raw = {
            "best/epoch": int(best["epoch"]),
            "best/loss_val": float(best["loss/val"]),
            "best/accuracy_val": float(best["accuracy/val"]),
            "last/loss_val": float(validated[-1]["loss/val"]),
            "last/accuracy_val": float(validated[-1]["accuracy/val"]),
        }
    average = {}
    if last.get("val_average/accuracy"):
        average = {
            "average/epoch": int(last["epoch"]),
            "average/loss_val": float(last["val_average/loss"]),
            "average/accuracy_val": float(last["val_average/accuracy"]),
        }
    return {
        **raw,
        "last/epoch": int(last["epoch"]),
        **average,
        "test/averaged": int(averaged),
        "test/loss": test["loss/test"],
        "test/accuracy": test["accuracy/test"],
    }


def print_results(folder: RunFolder, metrics: dict[str, float], notes: Sequence[str] = ()) -> None:
    """The table of results, further sentences on them, and what to type next."""
    table = Table(title="Results", title_justify="left")
    for column in ("weights", "images", "epoch", "loss", "accuracy"):
        table.add_column(column, justify="left" if column in ("weights", "images") else "right")
    raw = "best" if "best/epoch" in metrics else "last"
    chosen = "average" if metrics["test/averaged"] else raw
    rows = [(kind, "validation", kind, f"{kind}/loss_val", f"{kind}/accuracy_val") for kind in KINDS]
    for weights, images, kind, loss, accuracy in [
        *rows,
        (chosen, "test", chosen, "test/loss", "test/accuracy"),
    ]:
        if accuracy not in metrics:
            continue
        figures = f"{metrics[f'{kind}/epoch']:.0f}", f"{metrics[loss]:.4f}", f"{metrics[accuracy]:.2%}"
        table.add_row(weights, images, *figures)
    console = Console()
    console.print(table)
    for note in notes:
        console.print(note, highlight=False)
    minutes = folder.read_status().get("training_seconds", 0) / 60
    console.print(
        f"trained in {minutes:.1f} minutes" if minutes >= 1 else f"trained in {60 * minutes:.0f} seconds"
    )
    console.print(f"curves:   tensorboard --logdir {shown(folder.path)}", soft_wrap=True)
    console.print(f"evaluate: python scripts/evaluate.py run={shown(folder.path)}", soft_wrap=True)


def print_report(path: Path) -> None:
    """Where the page about the run is."""
    Console().print(f"report:   {shown(path)}", soft_wrap=True)


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
