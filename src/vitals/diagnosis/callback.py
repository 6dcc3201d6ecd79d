"""The record of a run, and what it says."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.markup import escape

from vitals.checks.sanity_checks import SanityChecks
from vitals.diagnosis.diagnose import diagnose, needs_probe
from vitals.diagnosis.run import Run
from vitals.errors import UserError
from vitals.findings import Finding, markdown, sentence, write_findings
from vitals.history import History
from vitals.measures.fresh_draws import fresh_share
from vitals.probes.rate_probe import timed_probe
from vitals.probes.twin import samples_in


class Diagnosis(L.Callback):
    """Keeps the history of a run, and says while it trains and at its end what is wrong, why, and what to do.

    In the trainer's log folder it writes `history.jsonl`, what all monitors measured, and `findings.json`,
    most important first; the same goes to TensorBoard as the text card `findings`. A finding at level `fail`
    is said in the terminal at the end of the epoch in which it became certain. Where a curve can mean several
    things, the learning rate is probed (see `probe_rates`), at most twice a run; what that took is the figure
    `rate_probe/seconds` of the history.

    Args:
        stop_on: `fail` ends the training at the end of the epoch in which a finding of that level became
            certain; `never` goes on.
        probe: whether the learning rate may be probed.
        report: whether to write the page `report.html` at the end of the training.
    """

    def __init__(
        self, stop_on: Literal["fail", "never"] = "never", probe: bool = True, report: bool = True
    ) -> None:
        if stop_on not in ("fail", "never"):
            raise UserError(f"stop_on={stop_on!r} must be 'fail' or 'never'.")
        self.stop_on, self.probe, self.report = stop_on, probe, report
        self.history = History()
        self.folder = Path()
        self.findings: list[Finding] = []
        self.announced: set[str] = set()
        self.stopped_by: Finding | None = None
        """What ended the training, where something did."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self.folder = Path(trainer.log_dir or trainer.default_root_dir)  # asks all processes
            self.history = History(self.folder / "history.jsonl" if trainer.is_global_zero else None)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.probes = 0
        if trainer.global_step:
            self.history.resume(trainer.global_step)
        elif self.history.path is not None:
            self.history.path.unlink(missing_ok=True)  # of an earlier training in the same folder

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_global_zero and not self.history.tags("facts/batch_size"):
            size = samples_in(batch) * trainer.accumulate_grad_batches * trainer.world_size
            total = float(trainer.estimated_stepping_batches)
            groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
            rates = [float(group["lr"]) for group in groups]
            known = {"batch_size": float(size), "total_steps": total if total > 0 else math.inf}
            known["fresh_layers"] = fresh_share(pl_module)
            self.note_facts(trainer, known | ({"lr": max(rates)} if rates else {}))

    def note_facts(self, trainer: L.Trainer, facts: Mapping[str, float]) -> None:
        """Record numbers that do not change, under `facts/<name>`."""
        self.history.add(trainer.global_step, 0.0, {f"facts/{name}": value for name, value in facts.items()})

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self._examine(trainer, pl_module, finished=False)
        certain = next((f for f in self.findings if f.level == "fail" and f.step), None)
        if self.stop_on == "fail" and trainer.strategy.broadcast(certain is not None):
            self.stopped_by, trainer.should_stop = certain, True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self._examine(trainer, pl_module, finished=True)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    logger.experiment.add_text("findings", markdown(self.findings), trainer.global_step)
            if self.report:
                self._make_report()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        if trainer.is_global_zero and trainer.global_step:
            self._examine(trainer, None, finished=False)

    def announce(self, finding: Finding) -> None:
        """Say in the terminal what has just become certain, once; above the progress bar, where there is
        one."""
        if finding.cause not in self.announced:
            self.announced.add(finding.cause)
            line = f"[bold red]{finding.level}[/] step {finding.step}: {escape(sentence(finding))}"
            Console().print(line, highlight=False)

    def _examine(self, trainer: L.Trainer, module: L.LightningModule | None, finished: bool) -> None:
        """Apply the rules to the record, and write what they find; a fault in them never ends a training."""
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        checks: list[Finding] = []
        others: list[Finding] = []
        for callback in callbacks:
            if callback is not self:
                found = checks if isinstance(callback, SanityChecks) else others
                found += getattr(callback, "findings", [])
        try:
            run = Run(self.history, checks, finished)
            if module is not None and self.probe and self.probes < 2 and needs_probe(run):
                self._probe(trainer, module)
                run = Run(self.history, checks, finished)
            self.findings = diagnose(run, others)
        except Exception as error:  # rules must never end a training
            reason = f"Diagnosis: {type(error).__name__}: {error}"
            self.findings = [*checks, *others, Finding("skipped", "note", reason, where="diagnosis")]
        self.folder.mkdir(parents=True, exist_ok=True)
        write_findings(self.findings, self.folder / "findings.json")
        for finding in self.findings:
            if finding.level == "fail" and finding.step:
                self.announce(finding)

    def _make_report(self) -> None:
        from vitals.report.page import make_report  # takes a second, which the start of a run can do without

        try:
            make_report(self.folder)
        except Exception as error:  # a page that cannot be drawn takes nothing from the training
            Console().print(f"The report could not be made: {escape(str(error))}", style="dim")

    def _probe(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.probes += 1
        try:
            losses, seconds = timed_probe(trainer, module)
        except Exception:  # without a probe the rules say less, and nothing wrong
            self.probes = 2
            return
        step, epoch = trainer.global_step, float(trainer.current_epoch)
        found = {f"rate_probe/{factor:g}": loss for factor, loss in losses.items()}
        self.history.add(step, epoch, found | {"rate_probe/seconds": seconds})


def diagnosis_of(trainer: L.Trainer) -> Diagnosis | None:
    """The `Diagnosis` among the trainer's callbacks, if there is one."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, Diagnosis)), None)
