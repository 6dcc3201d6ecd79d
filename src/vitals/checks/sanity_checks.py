"""Checks before the first optimizer step of any LightningModule."""

import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from rich.markup import escape
from torch import Tensor
from torch.utils._pytree import tree_leaves

from vitals.checks.budget import Budget, Pace, default_budget, measured_pace, require_budget
from vitals.checks.check import Check, Options, Row, findings_of, run_checks, skipped
from vitals.checks.page import log_checks, print_page
from vitals.checks.registry import load_checks
from vitals.checks.setup_of_trainer import training_setup
from vitals.checks.training_setup import TrainingSetup, lack
from vitals.either_package import Callback, is_own
from vitals.errors import ChecksFailed, reason_of
from vitals.files import log_folder
from vitals.findings import Finding, ranked, sentence, write_findings
from vitals.probes.eagerly import eagerly
from vitals.probes.loaders import StreamOnly
from vitals.probes.plays import plays
from vitals.probes.random_states import isolated_rng
from vitals.probes.rows import first_samples, samples_in
from vitals.probes.silently import silently
from vitals.terminal import status_line, terminal
from vitals.writers.groups import Charts
from vitals.writers.registry import writers

LATER = "informative_inputs"
"""The check that a stream's first batch is too small for; more of them are gathered as they come."""
LATER_SAMPLES, LATER_BYTES = 512, 2**26


def _is_fresh(trainer: L.Trainer) -> bool:
    """Whether nothing has been learned, as in a training that is resumed."""
    return not (trainer.global_step or trainer.current_epoch)


def _begins_itself(module: L.LightningModule) -> bool:
    """Whether the module has something to do first, after all callbacks, such as drawing its weights."""
    return is_own("on_train_start", module, L.LightningModule)


class SanityChecks(Callback):
    """Looks, before the first step, for what keeps a training from learning, and leaves everything as it was.

    It works on any module, with what its training step allows (docs/checks.md), and says what it could not
    look at, and why. It prints a table of verdicts, writes `findings.json` into the trainer's log folder,
    most important first, and what `log_checks` says to the loggers. A resumed training is not checked again.

    Args:
        checks: to make, by name: those of `vitals.checks.registry`, its groups `default` and `full`, and
            dotted paths of one's own, such as `my_package.my_check.MyCheck`; or `Check`s themselves. The
            built-in ones run first, in their order.
        on_fail: `stop` ends the program with exit code 3 where a finding is at level `fail`; `warn` goes on.
        elements: elements of every parameter whose gradient is compared, besides the largest and a direction
            through all, which stands for one of them where it is right.
        burn_in_steps: of a second gradient check; 0 for none.
        tiny_subset_steps: in which twenty examples must be learned by heart.
        samples: training samples to look at.
        budget: seconds that all of them may take. The most telling are made first, each cut to what fits,
            and what was left out is said with what it would have taken; infinite for no limit. By default a
            tenth of the training, as the first passes let expect, but no more than 30 s and no less than 10.

    Raises:
        UserError: if there is no check of a name, two are called the same, or the budget is not above 0.
    """

    charts: ClassVar[Charts] = {
        "before learning": {
            "loss: at chance, with penalty, of a tiny subset": ["Multiline", ["checks/.*_(chance|loss)$"]],
            "error of the gradient": ["Multiline", ["checks/gradient_error$"]],
        }
    }

    def __init__(
        self,
        checks: Sequence[str | Check] = ("default",),
        on_fail: Literal["stop", "warn"] = "stop",
        elements: int = 1,
        burn_in_steps: int = 0,
        tiny_subset_steps: int = 300,
        samples: int = 1024,
        budget: float | None = None,
    ) -> None:
        self.checks, self.on_fail, self.budget = load_checks(checks), on_fail, require_budget(budget)
        self.options = Options(elements, burn_in_steps, tiny_subset_steps, samples)
        self.rows: list[Row] = []
        self.waiting = False
        """For the first batch of a stream that cannot be copied."""
        self.findings: list[Finding] = []
        self.made = 0
        """How many checks have come to a verdict."""
        self.gathered: list[Any] | None = None
        """Batches of a stream, from its first one on, until there are enough for `LATER`; None else."""
        self.first: tuple[TrainingSetup, Pace, float] | None = None
        """Of the first look, while batches are gathered: the weights of the start, what a step costs, and the
        seconds that are left."""
        self.missing: list[str] = []
        """Names of the checks that were due and could not be made."""
        self.logged: set[str] = set()
        """Names by which the steps of training and validation log; none where that is not known."""
        self.facts: dict[str, float] = {}
        """Numbers that the checks have found, for the rules of a diagnosis."""

    def state_dict(self) -> dict[str, Any]:
        """What was found, so that a resumed training, which is not checked again, knows it."""
        findings = [asdict(finding) for finding in self.findings]
        return {"findings": findings, "made": self.made, "missing": self.missing, "facts": self.facts}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.findings = [Finding(**finding) for finding in state_dict["findings"]]
        self.made, self.missing = state_dict["made"], state_dict["missing"]
        self.facts = state_dict["facts"]

    def _sum_up(self) -> None:
        verdicts = [row.name for row in self.rows if row.verdict != "skipped"]
        due = [check.name for check in self.checks if check.wanted(self.options)]
        self.made = len(verdicts)
        self.missing = [name.replace("_", " ") for name in due if name not in verdicts]
        for row in self.rows:
            if row.outcome is not None:
                self.facts |= row.check.facts(row.outcome)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.waiting, self.gathered, self.first = False, None, None
        if _is_fresh(trainer) and not _begins_itself(pl_module):
            self._begin(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if _is_fresh(trainer) and _begins_itself(pl_module):
            self._begin(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.waiting:
            self._begin(trainer, pl_module, batch)
            self.gathered = [] if self.first else None
        if self.gathered is not None:
            self._gather(trainer, batch)

    def _begin(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any = None) -> None:
        folder, self.waiting = log_folder(trainer), False
        stop = self._look(trainer, pl_module, folder, batch) if trainer.is_global_zero else ""
        self.waiting = trainer.strategy.broadcast(self.waiting)  # all processes come here again, or none
        stop = trainer.strategy.broadcast(stop)
        if stop:
            raise ChecksFailed(stop)

    def _gather(self, trainer: L.Trainer, batch: Any) -> None:
        """Keep `batch`, and with the last one that it takes see what a single one was too small for, on the
        weights of the start: those of now have been trained on these batches."""
        assert self.gathered is not None
        assert self.first is not None
        self.gathered.append(first_samples(batch, LATER_SAMPLES))
        samples = sum(map(samples_in, self.gathered))
        tensors = [leaf for leaf in tree_leaves(self.gathered) if isinstance(leaf, Tensor)]
        full = sum(leaf.numel() * leaf.element_size() for leaf in tensors) > LATER_BYTES or not samples
        if samples < LATER_SAMPLES and not full:
            return
        whole, (setup, pace, left) = self.gathered, self.first
        options = replace(self.options, budget=Budget(left, pace))
        self.gathered = self.first = None
        try:
            with isolated_rng(), eagerly(), silently():
                assert setup.step is not None
                step = setup.step
                inputs = [step.network_inputs(each, step.owner.training_step) for each in whole]
                targets: Any = [step.targets(each) for each in whole]
                setup = replace(setup, inputs=torch.cat(inputs), targets=torch.cat(targets))
                checks = [check for check in self.checks if check.name == LATER]
                checks = [check for check in checks if not lack(setup, check.needs, check.fewest)]
                rows = run_checks(setup, options, checks)
        except Exception:  # then it stays unseen
            return
        self.rows = [*(row for row in self.rows if row.check not in checks), *rows]
        self.findings = ranked([*self.findings, *findings_of(rows)])
        self._sum_up()
        if (folder := log_folder(trainer)) is not None and rows:
            with suppress(OSError):  # the disk may be full, and the training goes on
                write_findings(self.findings, folder / "findings.json")

    def _look(self, trainer: L.Trainer, module: L.LightningModule, folder: Path | None, batch: Any) -> str:
        """Make the checks and report; the reason to stop, or nothing. Only an interruption is raised."""
        console = terminal()
        try:
            with isolated_rng(), warnings.catch_warnings():
                # What the training warns of, it will say itself; the rest is of how it is looked at.
                warnings.simplefilter("ignore")
                said = "looking at the training that is about to begin"
                with status_line(said, console) as show, silently():
                    budget = Budget()
                    setup, checks = self._setup(trainer, module, batch)
                    options = replace(self.options, budget=self._budget(budget.spent, trainer, setup))
                    self.rows = run_checks(setup, options, checks, lambda name: show(_words(name)))
                left = options.budget.left
                if batch is not None and setup.gives == "class numbers" and left > 0:
                    setup.own_parameters()
                    self.first = setup, options.budget.pace, left
                self.findings = ranked([*self.findings, *findings_of(self.rows)])
                print_page(self.rows, self.findings, console, notes=folder is None)
                for finding in self.findings:
                    if finding.where == "checks":
                        console.print(f"[dim]skipped[/]: {escape(finding.message)}", highlight=False)
                log_checks(writers(trainer), self.rows, self.findings, setup)
        except StreamOnly:  # the first batch of the training itself is then looked at
            self.waiting = True
            return ""
        except Exception as error:  # the checks must never end a training themselves
            self.findings.append(skipped("checks", " ".join(reason_of(error).split())[:300]))
            console.print(self.findings[-1].message, style="dim", highlight=False, markup=False)
        self._sum_up()
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            write_findings(self.findings, folder / "findings.json")
        gravest = next((finding for finding in self.findings if finding.level == "fail"), None)
        return sentence(gravest) if gravest and self.on_fail == "stop" else ""

    def _setup(
        self, trainer: L.Trainer, module: L.LightningModule, batch: Any
    ) -> tuple[TrainingSetup, Sequence[Check]]:
        """What is to be looked at, and the checks that can look at it; why the others cannot, in findings."""
        setup = training_setup(trainer, module, self.options.samples, batch)
        self.logged = setup.step.logged if setup.step is not None else set()
        self.facts["plays"] = float(setup.step is not None and plays(setup.step))
        reasons: dict[str, list[str]] = {}
        made = []
        for check in self.checks:
            if not check.wanted(self.options):
                continue
            if reason := lack(setup, check.needs, check.fewest):
                if batch is None or check.name != LATER or lack(setup, check.needs, 1):
                    reasons.setdefault(reason, []).append(check.name.replace("_", " "))
            else:
                made.append(check)
        for reason, names in reasons.items():
            which = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])).capitalize()
            self.findings.append(Finding("skipped", "note", f"{which}: {reason}", where="checks"))
        return setup, made

    def _budget(self, spent: float, trainer: L.Trainer, setup: TrainingSetup) -> Budget:
        """What is left when `spent` seconds went into the setup."""
        try:
            pace = measured_pace(setup)
        except Exception:  # a step that cannot be made is found by the checks, which say so
            pace = Pace()
        seconds = default_budget(trainer, setup, pace) if self.budget is None else self.budget
        return Budget(seconds, pace, spent)


def _words(name: str) -> str:
    return f"checking {name.replace('_', ' ')}"
