"""Adapters for the public diagnostic tools that can watch a training step by step: `--tools` of the clinic.

    pip install torchmortem gradsnitch runmedic
    python benchmarks/clinic/clinic.py --tools benchmarks/clinic/tools.py --tool torchmortem --data DIR

Each is given all it can use: loss and gradient of every step, the rate, the validation loss. A finding of
theirs is scored by the cause code that is nearest to its words, and by its own word where none is.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from clinic import Finding, Session
from lightning.pytorch.callbacks import Callback
from torch import Tensor

LEVELS = {"critical": "fail", "error": "fail", "warning": "warn", "warn": "warn", "info": "note"}


def loss_of(outputs: Any) -> float | None:
    """Of a training step's outputs, as Lightning hands them on."""
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    return float(loss.detach()) if isinstance(loss, Tensor) else None


class Torchmortem(Callback):
    """`Autopsy` with the step after every batch, at its default sampling."""

    words: ClassVar = (
        ("vanishing", "vanishing-gradients"),
        ("gradient stalling", "vanishing-gradients"),
        ("exploding", "exploding-gradients"),
        ("dead units", "dead-relu"),
        ("saturation", "saturated-activations"),
        ("ratio too low", "learning-rate-too-low"),
        ("ratio too high", "learning-rate-too-high"),
        ("norm explosion", "exploding-gradients"),
        ("stagnant", "frozen-parameters"),
        ("divergence", "learning-rate-too-high"),
        ("noise", "batch-too-small"),
        ("rank collapse", "rank-collapse"),
    )

    def callbacks(self, session: Session) -> list[Callback]:
        return [self]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.autopsy = import_module("torchmortem").Autopsy(pl_module, optimizer=trainer.optimizers[0])
        self.autopsy.attach()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = loss_of(outputs)
        self.autopsy.step(**({} if loss is None else {"loss": loss}))

    def findings(self, trainer: L.Trainer) -> list[Finding]:
        self.autopsy.detach()
        found = sorted(self.autopsy._report.findings, key=lambda finding: -int(finding.severity))
        return [
            Finding(cause_of(each.title, self.words), LEVELS[each.severity.name.lower()], each.title)
            for each in found
        ]


def cause_of(text: str, words: tuple[tuple[str, str], ...]) -> str:
    return next((cause for word, cause in words if word in text.lower()), text.lower().replace(" ", "-"))


class Curves(Callback):
    """What a log has: by step the training loss, rate and norm of the gradient, and the validation loss."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.norm = 0.0

    def callbacks(self, session: Session) -> list[Callback]:
        return [self]

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any
    ) -> None:
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        self.norm = float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = loss_of(outputs)
        if loss is not None:
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            row = {"step": trainer.global_step, "train_loss": loss, "lr": rate, "grad_norm": self.norm}
            self.took(row, trainer, pl_module)

    def took(self, row: dict[str, float], trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.rows.append(row)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loss = trainer.callback_metrics.get("val/loss")
        if loss is not None and self.rows:
            self.rows[-1]["val_loss"] = float(loss)


class Gradsnitch(Curves):
    """`watch()` with network and optimizer, after every step."""

    codes: ClassVar = {
        "GS001": "non-finite-loss",
        "GS002": "exploding-gradients",
        "GS003": "exploding-gradients",
        "GS004": "overfitting",
        "GS005": "learning-rate-too-low",
        "GS006": "learning-rate-too-high",
        "GS007": "vanishing-gradients",
        "GS009": "learning-rate-too-high",
        "GS010": "learning-rate-too-low",
    }

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        gradsnitch = import_module("gradsnitch")
        self.lint = gradsnitch.lint
        self.monitor = gradsnitch.watch(pl_module, trainer.optimizers[0])
        self.rows = self.monitor.rows

    def took(self, row: dict[str, float], trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.monitor.log(int(row["step"]), row["train_loss"], grad_norm=row["grad_norm"])

    def findings(self, trainer: L.Trainer) -> list[Finding]:
        found = []
        for each in self.lint(self.monitor.df()):
            ratio = "learning-rate-too-high" if "high" in each.name.lower() else "learning-rate-too-low"
            found.append(Finding(self.codes.get(each.code, ratio), LEVELS[each.severity], each.name))
        return found


class Runmedic(Curves):
    """Its reading of a log in JSON Lines, a row for each step."""

    checks: ClassVar = {
        "non_finite": "non-finite-loss",
        "divergence": "learning-rate-too-high",
        "loss_spikes": "learning-rate-too-high",
        "no_learning": "learning-rate-too-low",
        "overfitting": "overfitting",
        "grad_spikes": "exploding-gradients",
        "grad_explosion": "exploding-gradients",
    }

    def findings(self, trainer: L.Trainer) -> list[Finding]:
        loaders, roles, checks = (
            import_module(f"runmedic.{name}") for name in ("loaders", "roles", "checks")
        )
        log = Path(trainer.default_root_dir) / "log.jsonl"
        log.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        found = [each for run in loaders.load(str(log)) for each in checks.run_checks(run, roles.detect(run))]
        return [Finding(self.checks.get(f.check, f.check), LEVELS[f.severity], f.title) for f in found]


TOOLS = {"torchmortem": Torchmortem, "gradsnitch": Gradsnitch, "runmedic": Runmedic}
