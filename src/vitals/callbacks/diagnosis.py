"""The record of a run, and what it says."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from rich.console import Console
from rich.markup import escape

from vitals.checks.page import sentence
from vitals.findings import Finding, ranked, write_findings
from vitals.history import History


class Diagnosis(L.Callback):
    """Keeps the history of a run in `history.jsonl`, and gathers the findings of all callbacks.

    Both files lie in the trainer's log folder. `findings.json` is written at the end of every epoch and of
    the run, most important first.
    """

    def __init__(self) -> None:
        self.history = History()
        self.folder = Path()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self.folder = Path(trainer.log_dir or trainer.default_root_dir)  # asks all processes
            self.history = History(self.folder / "history.jsonl" if trainer.is_global_zero else None)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.history.resume(trainer.global_step)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._write(trainer)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        self._write(trainer)

    def announce(self, finding: Finding) -> None:
        """Say in the terminal what has just become certain; above the progress bar, where there is one."""
        Console().print(f"[bold red]{finding.level}[/] {escape(sentence(finding))}")

    def gathered(self, trainer: L.Trainer) -> list[Finding]:
        """The findings of all callbacks, most important first."""
        return ranked(f for callback in trainer.callbacks for f in getattr(callback, "findings", []))  # type: ignore[attr-defined]

    def _write(self, trainer: L.Trainer) -> None:
        if trainer.is_global_zero and trainer.training:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_findings(self.gathered(trainer), self.folder / "findings.json")


def diagnosis_of(trainer: L.Trainer) -> Diagnosis | None:
    """The `Diagnosis` among the trainer's callbacks, if there is one."""
    found = (callback for callback in trainer.callbacks if isinstance(callback, Diagnosis))  # type: ignore[attr-defined]
    return next(found, None)
