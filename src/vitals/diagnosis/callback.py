"""What the record of a run says, while it trains and at its end."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.trainer.states import TrainerFn

from vitals.checks.sanity_checks import SanityChecks
from vitals.diagnosis.diagnose import RULES, diagnose, looked_at, needs_probe
from vitals.diagnosis.generalization import validation_guessed, validation_mirrored, validation_told_less
from vitals.diagnosis.learning_rate import ENOUGH, tiny_batch, wants_trial
from vitals.diagnosis.metrics import adversaries, judged, logged_metrics, lost_game, watched_the_wrong_way
from vitals.diagnosis.run import Rule, Run
from vitals.either_package import Callback, either
from vitals.errors import Diverged, UserError, reason_of
from vitals.files import cannot_write
from vitals.findings import Finding, markdown, print_findings, write_findings
from vitals.length import is_due, total_steps
from vitals.measures.held_parameters import configured_rate, param_groups
from vitals.own_time import own_time
from vitals.probes.rate_probe import answers_move, probe_curvature, probe_rates, rate_from_start
from vitals.recorder import Recorder, recorder_of
from vitals.report import write_report
from vitals.terminal import terminal
from vitals.writers.registry import refusals, writers

TRIAL_SECONDS, TRIAL_SHARE = 5.0, 0.1
"""What all trials of rates together may take: this share of the training, no less than so many seconds: with
twice as many no remedy names another rate in 43 sick runs of the clinic."""
KEPT = 10**8
"""Numbers in a state, at most, that is kept on disk: 400 MB in single precision."""


class Diagnosis(Callback):
    """Says while a run trains and at its end what is wrong, why, and what to do.

    It judges what the trainer's `Recorder` has kept, and adds one where there is none. In the trainer's log
    folder it writes `findings.json`, most important first; the same goes to the loggers as the text
    `findings`. A finding at level `fail` is said in the terminal at the end of the epoch in which it became
    certain, or after many of them of the next that `is_due`, and is an alert of the loggers that have such;
    that it has passed is said where it is found
    no more. Where a curve can mean several things, the learning rate is probed (see `probe_rates`), at most
    twice a run; what that took is the figure `rate_probe/seconds` of the history. Where the rate turns out
    to be wrong, others are tried once from the weights of the start, which are kept in a temporary file, and
    the remedy names one that lowers the loss. All these trials may take a tenth of the training, 5 seconds
    at least.

    Args:
        stop_on: `fail` ends the training at the end of the epoch in which a finding of that level became
            certain; `never` goes on.
        probe: whether the learning rate may be probed.
        report: whether to write the page `report.html` at the end of the training.
        rules: further rules, each from a `Run` to findings.
        summary: whether to say in the terminal at the end what was found, and where the page is.
    """

    def __init__(
        self,
        stop_on: Literal["fail", "never"] = "never",
        probe: bool = True,
        report: bool = True,
        rules: Sequence[Rule] = (),
        summary: bool = True,
    ) -> None:
        if stop_on not in ("fail", "never"):
            raise UserError(f"stop_on={stop_on!r} must be 'fail' or 'never'.")
        self.stop_on, self.probe, self.report, self.summary = stop_on, probe, report, summary
        self.rules = (*RULES, logged_metrics, lost_game, *rules)
        self.findings: list[Finding] = []
        self.looks: list[Finding] = []
        """In how many verdicts, once that is known; the last in `findings.json`."""
        self.said: Any = None
        self.probes, self.tried = 0, False
        """How often the rate was probed, and whether others were tried."""
        self.start: Any = None
        """A file with the weights of the start, for that trial."""
        self.fresh: Any = None
        """The same where a training goes on, until it is known whether the trial was made."""
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
            self._forget()  # of a search for a rate, which is torn down with the training alone
            self.written: list[Finding] | None = None
            self.probes, self.probed, self.tried = 0, -1, False
            # Only after this does the trainer say that it has a checkpoint, and load it.
            self.fresh = _kept(trainer, pl_module) if self._may_try(trainer) else None

    def _may_try(self, trainer: L.Trainer) -> bool:
        return self.probe and trainer.is_global_zero

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.tried:
            self._forget()
        self.start, self.fresh = self.fresh, None
        self.began, self.first_step, self.spent = own_time(), trainer.global_step, 0.0
        if self._may_try(trainer) and not trainer.global_step:
            self._forget()
            self.start = _kept(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Which probes a resumed training need not make again."""
        return {"probes": self.probes, "probed": self.probed, "tried": self.tried}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.probes, self.tried = state_dict["probes"], state_dict["tried"]
        self.probed = state_dict.get("probed", -1)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not is_due(trainer.current_epoch + 1):
            return
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
            page = write_report(self.recorder.folder) if self.report and self.recorder.folder else None
            if self.summary:
                self._say(page)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self._forget()

    def _forget(self) -> None:
        for file in filter(None, (self.start, self.fresh)):
            file.close()
        self.start = self.fresh = None

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        begun = trainer.global_step or isinstance(exception, Diverged)
        begun = begun and trainer.state.fn == TrainerFn.FITTING  # a test that fails later says nothing of it
        if trainer.is_global_zero and begun and not cannot_write(exception):
            self._examine(trainer, None, finished=False)
            if self.summary:
                self._say(None)
        self._forget()  # for nothing is torn down then

    def _examine(self, trainer: L.Trainer, module: L.LightningModule | None, finished: bool) -> None:
        """Apply the rules to the record, and write what they find; a fault in them never ends a training."""
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        before = [each for each in callbacks if isinstance(each, SanityChecks)]
        beside = [each for each in callbacks if each is not self and each not in before]
        checks = [finding for each in before for finding in each.findings]
        others = [finding for each in beside for finding in getattr(each, "findings", [])]
        others += refusals(trainer)
        facts = {name: value for each in before for name, value in each.facts.items()}
        try:
            others += watched_the_wrong_way(trainer)
            run = Run(self.recorder.history, checks, finished, facts)
            due = self.probe and self.probes < 2 and trainer.global_step != self.probed
            if module is not None and due and needs_probe(run, self.rules):
                self._probe(trainer, module)
                run = Run(self.recorder.history, checks, finished, facts)
            found = diagnose(run, others, self.rules)
            if module is not None and self.start and wants_trial(found):
                self._try_rates(trainer, module, run, found)
                run = Run(self.recorder.history, checks, finished, facts)
                found = diagnose(run, others, self.rules)
            self.findings, self.looks = found, [self._looks(run, before)]
            self.recorder.withdraw(trainer, {finding.cause for finding in found})
        except Exception as error:  # rules must never end a training
            reason = f"Diagnosis: {reason_of(error)}"
            self.findings = [*checks, *others, Finding("skipped", "note", reason, where="diagnosis")]
        said = [*self.findings, *self.looks]
        if (folder := self.recorder.folder) is not None and (finished or said != self.written):
            if not self.recorder.history.lines:  # which has made it otherwise
                folder.mkdir(parents=True, exist_ok=True)
            write_findings(said, folder / "findings.json")
            self.written = said
        for finding in self.findings:
            if finding.level == "fail" and finding.step:
                self.recorder.announce(trainer, finding)

    def _looks(self, run: Run, before: Sequence[SanityChecks]) -> Finding:
        made, missing = sum(each.made for each in before), [name for each in before for name in each.missing]
        there: dict[Rule, Any] = {
            logged_metrics: judged(run),
            lost_game: adversaries(run),
            validation_guessed: not run.has_class_numbers,
            validation_told_less: not run.has_class_numbers,
            validation_mirrored: not (run.has_class_numbers or run.values("validation/loss")),
        }
        rules = [rule for rule in self.rules if there.get(rule, True)]
        return looked_at(run, made, missing, rules)

    def _say(self, page: Path | None) -> None:
        """Tell somebody who has no other summary what was found, and where more of it is; nothing where a
        second fit comes to the same."""
        folder = self.recorder.folder
        why = "the trainer names no folder that can be written to (or fast_dev_run)"
        where = page or (folder / "findings.json" if folder else f"nothing was written, as {why}")
        alarms = [finding for finding in self.findings if finding.alarming]
        before, self.said = self.said, (alarms, self.looks, where)
        if self.said == before:
            return
        console = terminal()
        print_findings([*self.findings, *self.looks], console)
        console.print(f"report:   {where}", soft_wrap=True, markup=False, highlight=False)

    @contextmanager
    def _spending(self, trainer: L.Trainer) -> Iterator[float]:
        """Gives the seconds that are left for trials of rates, and counts those that the block takes."""
        start, made = own_time(), max(trainer.global_step - self.first_step, 1)
        to_come = max(total_steps(trainer) - trainer.global_step, 0) if not trainer.should_stop else 0
        training = (start - self.began - self.spent) * (1 + to_come / made)
        try:
            yield max(TRIAL_SECONDS, TRIAL_SHARE * training) - self.spent
        finally:
            self.spent += own_time() - start

    def _probe(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.probes, self.probed = self.probes + 1, trainer.global_step
        try:
            twin = self.recorder.twin(trainer, module)
            with self._spending(trainer) as left:
                start = own_time()
                losses = probe_rates(trainer, module, twin, left)
                seconds = own_time() - start
        except Exception:  # without a probe the rules say less, and nothing wrong
            self.probes = 2
            return
        step, epoch = trainer.global_step, float(trainer.current_epoch)
        found = {f"rate_probe/{factor:g}": loss for factor, loss in losses.items()}
        found |= {"rate_probe/seconds": seconds}
        with suppress(Exception), self._spending(trainer) as left:  # some losses have no second derivative
            if (curved := probe_curvature(trainer, module, twin, left)) is not None:
                found |= {"curvature/largest": curved.largest, "curvature/bearable": curved.bearable}
        self.recorder.history.add(step, epoch, found)

    def _try_rates(
        self, trainer: L.Trainer, module: L.LightningModule, run: Run, findings: list[Finding]
    ) -> None:
        """Look for a learning rate that would have worked, once a run."""
        file, self.start, self.tried = self.start, None, True
        fault = next(finding.cause for finding in findings if wants_trial([finding]))
        small = tiny_batch(run) and fault != "learning-rate-too-high"
        # Larger batches may do at the rate itself.
        first = run.learning_rate * (10 if small else 1)
        try:
            with file:
                file.seek(0)
                start = torch.load(file, map_location=module.device, weights_only=True)
            higher = fault == "learning-rate-too-low"
            with self._spending(trainer) as left:
                each = ENOUGH if small else 1
                rate, loss = rate_from_start(trainer, module, start, first, higher, each, left)
            configured = max(map(configured_rate, param_groups(*trainer.optimizers)))
        except Exception:  # without a trial the remedy names no rate
            return
        facts = {"working_rate": rate, "working_loss": loss, "configured_rate": configured}
        with suppress(Exception):
            facts["answers_move"] = float(answers_move(trainer, module, start))
        self.recorder.add_facts(trainer, facts)


def _kept(trainer: L.Trainer, module: L.LightningModule) -> Any:
    """A temporary file with the state of `module`; None where that is large, spread over processes, or cannot
    be saved."""
    if not isinstance(trainer.strategy, either(SingleDeviceStrategy, DDPStrategy)):
        return None
    try:
        state = module.state_dict()
        if sum(value.numel() for value in state.values() if isinstance(value, torch.Tensor)) > KEPT:
            return None
        file = tempfile.TemporaryFile()  # noqa: SIM115  # closed in `teardown`
        torch.save(state, file)
    except Exception:  # without it the remedy of a wrong rate names no other
        return None
    return file
