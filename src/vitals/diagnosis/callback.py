"""What the record of a run says, while it trains and at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import lightning as L

from vitals.checks.sanity_checks import SanityChecks
from vitals.diagnosis.diagnose import RULES, Rule, diagnose, needs_probe
from vitals.diagnosis.run import Run
from vitals.errors import UserError
from vitals.findings import Finding, markdown, write_findings
from vitals.probes.rate_probe import timed_probe
from vitals.recorder import Recorder, recorder_of
from vitals.report import write_report
from vitals.writers.registry import writers


class Diagnosis(L.Callback):
    """Says while a run trains and at its end what is wrong, why, and what to do.

    It judges what the trainer's `Recorder` has kept, and adds one where there is none. In the trainer's log
    folder it writes `findings.json`, most important first; the same goes to the loggers as the text
    `findings`. A finding at level `fail` is said in the terminal at the end of the epoch in which it became
    certain, and is an alert of the loggers that have such. Where a curve can mean several things, the
    learning rate is probed (see `probe_rates`), at most twice a run; what that took is the figure
    `rate_probe/seconds` of the history.

    Args:
        stop_on: `fail` ends the training at the end of the epoch in which a finding of that level became
            certain; `never` goes on.
        probe: whether the learning rate may be probed.
        report: whether to write the page `report.html` at the end of the training.
        rules: further rules, each from a `Run` to findings.
    """

    def __init__(
        self,
        stop_on: Literal["fail", "never"] = "never",
        probe: bool = True,
        report: bool = True,
        rules: Sequence[Rule] = (),
    ) -> None:
        if stop_on not in ("fail", "never"):
            raise UserError(f"stop_on={stop_on!r} must be 'fail' or 'never'.")
        self.stop_on, self.probe, self.report = stop_on, probe, report
        self.rules = (*RULES, *rules)
        self.findings: list[Finding] = []
        self.stopped_by: Finding | None = None
        """What ended the training, where something did."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            recorder = recorder_of(trainer)
            if recorder is None:
                # At the end of the list that Lightning is walking through: it is set up in its turn.
                recorder = Recorder()
                trainer.callbacks.append(recorder)  # type: ignore[attr-defined]
            self.recorder = recorder

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.probes = 0

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self._examine(trainer, pl_module, finished=False)
        certain = next((f for f in self.findings if f.level == "fail" and f.step), None)
        if self.stop_on == "fail" and trainer.strategy.broadcast(certain is not None):
            self.stopped_by, trainer.should_stop = certain, True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self._examine(trainer, pl_module, finished=True)
            for writer in writers(trainer):
                writer.text("findings", markdown(self.findings), trainer.global_step)
            if self.report:
                write_report(self.recorder.folder)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        if trainer.is_global_zero and trainer.global_step:
            self._examine(trainer, None, finished=False)

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
            run = Run(self.recorder.history, checks, finished)
            if module is not None and self.probe and self.probes < 2 and needs_probe(run, self.rules):
                self._probe(trainer, module)
                run = Run(self.recorder.history, checks, finished)
            self.findings = diagnose(run, others, self.rules)
        except Exception as error:  # rules must never end a training
            reason = f"Diagnosis: {type(error).__name__}: {error}"
            self.findings = [*checks, *others, Finding("skipped", "note", reason, where="diagnosis")]
        folder = self.recorder.folder
        folder.mkdir(parents=True, exist_ok=True)
        write_findings(self.findings, folder / "findings.json")
        for finding in self.findings:
            if finding.level == "fail" and finding.step:
                self.recorder.announce(trainer, finding)

    def _probe(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.probes += 1
        try:
            losses, seconds = timed_probe(trainer, module, self.recorder.twin(trainer, module))
        except Exception:  # without a probe the rules say less, and nothing wrong
            self.probes = 2
            return
        step, epoch = trainer.global_step, float(trainer.current_epoch)
        found = {f"rate_probe/{factor:g}": loss for factor, loss in losses.items()}
        self.recorder.history.add(step, epoch, found | {"rate_probe/seconds": seconds})
