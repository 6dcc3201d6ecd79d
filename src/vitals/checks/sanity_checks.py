"""Checks before the first optimizer step of any LightningModule."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import lightning as L
from rich.console import Console

from vitals.checks.check import Check, Options, Row, findings_of, run_checks, skipped
from vitals.checks.loggers import log_checks
from vitals.checks.page import print_page
from vitals.checks.registry import load_checks
from vitals.checks.training_setup import TrainingSetup, training_setup
from vitals.errors import ChecksFailed, UserError
from vitals.findings import Finding, ranked, sentence, write_findings
from vitals.probes.random_states import isolated_rng
from vitals.writers.registry import writers


class SanityChecks(L.Callback):
    """Looks, before the first step, for what keeps a training from learning, and leaves everything as it was.

    It works on any module whose batches are (inputs, class numbers), and says why where it cannot. It prints
    a table of verdicts, writes `findings.json` into the trainer's log folder, most important first, and what
    `log_checks` says to the loggers. A resumed training is not checked again.

    Args:
        checks: to make, by name: those of `vitals.checks.registry`, its groups `default` and `full`, and
            dotted paths of one's own, such as `my_package.my_check.MyCheck`; or `Check`s themselves. The
            built-in ones run first, in their order.
        on_fail: `stop` ends the program with exit code 3 where a finding is at level `fail`; `warn` goes on.
        elements: elements of every parameter whose gradient is compared, besides the largest.
        burn_in_steps: of a second gradient check; 0 for none.
        tiny_subset_steps: in which twenty examples must be learned by heart.
        samples: training samples to look at.
        progress: whether to say which check is being made.

    Raises:
        UserError: if there is no check of a name, or two are called the same.
    """

    def __init__(
        self,
        checks: Sequence[str | Check] = ("default",),
        on_fail: Literal["stop", "warn"] = "stop",
        elements: int = 1,
        burn_in_steps: int = 0,
        tiny_subset_steps: int = 300,
        samples: int = 1024,
        progress: bool = False,
    ) -> None:
        self.checks, self.on_fail, self.progress = load_checks(checks), on_fail, progress
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
                setup, checks = self._setup(trainer, module)
                self._run(setup, checks, console)
                self.findings = ranked([*self.findings, *findings_of(self.rows)])
                print_page(self.rows, self.findings, console)
                log_checks(writers(trainer), self.rows, self.findings, setup)
        except Exception as error:  # the checks must never end a training themselves
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self.findings.append(skipped("checks", " ".join(reason.split())[:300]))
            console.print(self.findings[-1].message, style="dim", highlight=False)
        folder.mkdir(parents=True, exist_ok=True)
        write_findings(self.findings, folder / "findings.json")
        gravest = next((finding for finding in self.findings if finding.level == "fail"), None)
        return sentence(gravest) if gravest and self.on_fail == "stop" else ""

    def _setup(self, trainer: L.Trainer, module: L.LightningModule) -> tuple[TrainingSetup, Sequence[Check]]:
        """What is to be looked at, and the checks that can look at it."""
        try:
            return training_setup(trainer, module, self.options.samples), self.checks
        except UserError as error:
            others = [check for check in self.checks if not check.needs_class_numbers]
            if not others:
                raise
            setup = training_setup(trainer, module, self.options.samples, class_numbers=False)
            if len(others) < len(self.checks):
                self.findings.append(skipped("checks", str(error)))
            return setup, others

    def _run(self, setup: TrainingSetup, checks: Sequence[Check], console: Console) -> None:
        if not self.progress:
            self.rows = run_checks(setup, self.options, checks)
            return
        with console.status("checks") as status:

            def show(name: str) -> None:
                status.update(f"checking {name.replace('_', ' ')}")

            self.rows = run_checks(setup, self.options, checks, show)
