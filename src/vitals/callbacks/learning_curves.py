"""Loss, accuracy, learning rate and momentum over the run, to every logger and to `metrics.csv`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_only

from vitals.callbacks.tensorboard import Charts, write_charts
from vitals.optim.factories import momentum_of

EPOCH_METRICS = ("loss/", "accuracy/")
AVERAGED = "val_average/"
"""What `WeightAverage` measures and logs itself; only the table takes it from there."""
CHARTS: Charts = {
    "learning curves": {
        "loss": ["Multiline", ["loss/train$", "loss/val$"]],
        "accuracy": ["Multiline", ["accuracy/train$", "accuracy/val$"]],
    }
}
"""TensorBoard's custom scalars: training and validation on one chart."""


class LearningCurves(L.Callback):
    """Writes what the module logs under `loss/…` and `accuracy/…`, and the state of its optimizer.

    | tag | x-axis | what |
    | --- | --- | --- |
    | `loss/train`, `loss/val`, `accuracy/train`, `accuracy/val` | epochs trained | means over the epoch |
    | `loss/train_step` | optimizer steps | loss of one batch |
    | `lr/<group>`, `momentum/<group>` | optimizer steps | of each parameter group, in the next step |
    | `epoch` | optimizer steps | epochs trained, with their fraction |

    `metrics.csv` in the trainer's `default_root_dir` has one row an epoch, of the epoch metrics. On resuming,
    the rows of epochs that are trained anew are replaced.

    Step metrics are written every `log_every_n_steps` of the trainer.
    """

    def __init__(self) -> None:
        self.charts = CHARTS
        self.rows: list[dict[str, Any]] = []

    @rank_zero_only
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        path = self._path(trainer)
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self.rows = [
                    row for row in csv.DictReader(file) if int(row["epoch"]) <= trainer.current_epoch
                ]
        write_charts(trainer, self)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not trainer.is_global_zero or step % every or not _stepped(trainer, batch_idx):
            return
        scalars: dict[str, float] = {
            "epoch": trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
        }
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if isinstance(loss, torch.Tensor):
            scalars["loss/train_step"] = loss.item()
        for optimizer in trainer.optimizers:
            for number, group in enumerate(optimizer.param_groups):
                name = group.get("name", str(number))
                scalars[f"lr/{name}"] = group["lr"]
                if (momentum := momentum_of(group)) is not None:
                    scalars[f"momentum/{name}"] = momentum
        for logger in trainer.loggers:
            logger.log_metrics(scalars, step)

    @rank_zero_only
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        known = {name: value.item() for name, value in sorted(trainer.callback_metrics.items())}
        metrics = {name: value for name, value in known.items() if name.startswith(EPOCH_METRICS)}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, epoch)
        averaged = {name: value for name, value in known.items() if name.startswith(AVERAGED)}
        self.rows.append({"epoch": epoch, "step": trainer.global_step, **metrics, **averaged})
        self._write(self._path(trainer))

    def _write(self, path: Path) -> None:
        """Rewrite the file whole, for a later epoch may bring a metric that the earlier ones did not have."""
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)
        temporary.replace(path)

    @staticmethod
    def _path(trainer: L.Trainer) -> Path:
        return Path(trainer.default_root_dir) / "metrics.csv"


def _stepped(trainer: L.Trainer, batch_idx: int) -> bool:
    """Whether the optimizer stepped after this batch, under gradient accumulation."""
    last = batch_idx + 1 == trainer.num_training_batches
    return last or (batch_idx + 1) % trainer.accumulate_grad_batches == 0
