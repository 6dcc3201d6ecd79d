"""Checks before the first optimizer step of any LightningModule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import lightning as L
from rich.console import Console

from vitals.checks.from_lightning import subject_of
from vitals.checks.page import print_page, sentence
from vitals.checks.subject import Subject
from vitals.checks.suite import CHECKS, STANDARD, Options, Row, findings_of, run_checks, skipped
from vitals.checks.tensorboard import log_checks
from vitals.errors import ChecksFailed, UserError, did_you_mean
from vitals.findings import Finding, ranked, write_findings
from vitals.probes.random_states import isolated_rng


class SanityChecks(L.Callback):
    """Looks, before the first step, for what keeps a training from learning, and leaves everything as it was.

    It works on any module whose batches are (inputs, class numbers), and says why where it cannot. It prints
    a table of verdicts, writes `findings.json` into the trainer's log folder, most important first, and what
    `log_checks` says to TensorBoard. A resumed training is not checked again.

    Args:
        checks: names of the checks to make, of `vitals.checks.suite.CHECKS`; `STANDARD` there by default.
        on_fail: `stop` ends the program with exit code 3 where a finding is at level `fail`; `warn` goes on.
        elements: elements of every parameter whose gradient is compared, besides the largest.
        burn_in_steps: of a second gradient check; 0 for none.
        tiny_subset_steps: in which twenty examples must be learned by heart.
        samples: training samples to look at.
        progress: whether to say which check is being made.

    Raises:
        UserError: if there is no check of a name.
    """

    def __init__(
        self,
        checks: Sequence[str] = STANDARD,
        on_fail: Literal["stop", "warn"] = "stop",
        elements: int = 1,
        burn_in_steps: int = 0,
        tiny_subset_steps: int = 300,
        samples: int = 1024,
        progress: bool = False,
    ) -> None:
        for name in checks:
            if name not in CHECKS:
                raise UserError(f"there is no check '{name}': {did_you_mean(name, CHECKS)}")
        self.checks, self.on_fail, self.progress = tuple(checks), on_fail, progress
        self.options = Options(elements, burn_in_steps, tiny_subset_steps, samples)
        self.rows: list[Row] = []
        self.findings: list[Finding] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step or trainer.current_epoch:  # resumed
            return
        folder = Path(trainer.log_dir or trainer.default_root_dir)  # asks all processes
        stop = self._look(trainer, pl_module, folder) if trainer.is_global_zero else ""
        stop = trainer.strategy.broadcast(stop)
        if stop:
            raise ChecksFailed(stop)

    def _look(self, trainer: L.Trainer, module: L.LightningModule, folder: Path) -> str:
        """Make the checks and report; the reason to stop, or nothing. Only an interruption is raised."""
        console = Console()
        try:
            with isolated_rng():
                subject = subject_of(trainer, module, self.options.samples)
                self._run(subject, console)
                self.findings = ranked(findings_of(self.rows))
                print_page(self.rows, self.findings, console)
                log_checks(trainer.loggers, self.rows, self.findings, subject.inputs)
        except Exception as error:  # the checks must never end a training themselves
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self.findings.append(skipped("checks", " ".join(reason.split())[:300]))
            console.print(self.findings[-1].message, style="dim", highlight=False)
        folder.mkdir(parents=True, exist_ok=True)
        write_findings(self.findings, folder / "findings.json")
        gravest = next((finding for finding in self.findings if finding.level == "fail"), None)
        return sentence(gravest) if gravest and self.on_fail == "stop" else ""

    def _run(self, subject: Subject, console: Console) -> None:
        if not self.progress:
            self.rows = run_checks(subject, self.options, self.checks)
            return
        with console.status("checks") as status:

            def show(name: str) -> None:
                status.update(f"checking {name.replace('_', ' ')}")

            self.rows = run_checks(subject, self.options, self.checks, show)
