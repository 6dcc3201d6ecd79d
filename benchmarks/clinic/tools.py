"""Adapters for the public diagnostic tools that can watch a training step by step: `--tools` of the clinic.

    pip install torchmortem gradsnitch runmedic traintools torchdiag thermoclaw torch-audit
    python benchmarks/clinic/clinic.py --tools benchmarks/clinic/tools.py --tool torchmortem --data DIR

A tool has the name of its package. Each is used as its documentation says and given all it can use: batches,
loss and gradient of every step, the rate, the validation loss. A finding of theirs is scored by the cause
code that is nearest to its words, and by its own word where none is.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from clinic import Finding, Session
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim import SGD
from torch.utils._pytree import tree_map

from vitals.errors import UserError
from vitals.findings import LEVELS as OURS
from vitals.probes.random_states import isolated_rng
from vitals.probes.stand_in import attach, mute, stand_in
from vitals.probes.step_losses import step_losses
from vitals.probes.trial import copies_of

LEVELS = {
    "fatal": "fail",
    "critical": "fail",
    "error": "fail",
    "high": "fail",
    "warning": "warn",
    "warn": "warn",
    "medium": "warn",
    "info": "note",
    "low": "note",
}
"""Their words for ours."""

Words = tuple[tuple[str, str], ...]
"""Parts of what a tool says, each with the cause nearest to it; the first that occurs counts."""


def cause_of(text: str, words: Words) -> str:
    return next((cause for word, cause in words if word in text.lower()), text.lower().replace(" ", "-"))


def loss_of(outputs: Any) -> float | None:
    """Of a training step's outputs, as Lightning hands them on."""
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    return float(loss.detach()) if isinstance(loss, Tensor) else None


def halves_of(batch: Any) -> tuple[Any, Any]:
    """Inputs and targets of a batch; None for targets where it is no pair."""
    return (batch[0], batch[1]) if isinstance(batch, list | tuple) and len(batch) == 2 else (batch, None)


class Said:
    """What a tool says at look after look.

    A finding is as grave as the tool calls it where it is made at a tenth of the looks of its kind at least,
    and a note where it is rarer, since such a tool has no verdict on the whole run and a user reads on.
    """

    often = 0.1

    def __init__(self) -> None:
        self.looks: Counter[str] = Counter()
        self.times: Counter[tuple[str, str, str]] = Counter()
        self.messages: dict[tuple[str, str, str], str] = {}

    def look(self, kind: str, found: Iterable[Finding]) -> None:
        self.looks[kind] += 1
        now = {(kind, each.cause, each.level): each.message for each in found}
        self.times.update(now.keys())
        self.messages = now | self.messages

    def findings(self) -> list[Finding]:
        """The gravest first, and of equal ones those most often said."""
        found = []
        for (kind, cause, level), count in self.times.items():
            share = count / self.looks[kind]
            message = self.messages[kind, cause, level]
            found.append((share, Finding(cause, level if share >= self.often else "note", message)))
        found.sort(key=lambda entry: (-OURS.index(entry[1].level), -entry[0]))
        return [finding for _, finding in found]


class LossOfBatch(nn.Module):
    """The training step as a network, for tools that want one to call: a batch, or the numbers of some rows
    of `batch`, gives the loss. It is a copy, so that nothing done to it touches the training.

    Raises:
        UserError: if there can be no copy.
    """

    def __init__(self, trainer: L.Trainer, module: L.LightningModule, batch: Any = None) -> None:
        super().__init__()
        self.owner, self.optimizers = copies_of(module, trainer.optimizers)
        self.facts = stand_in(trainer, training=True)
        self.batch = batch
        mute(self.owner)
        attach(self.owner, self.facts)

    def forward(self, batch: Any) -> Tensor:
        if self.batch is not None:
            rows = batch
            batch = tree_map(lambda leaf: leaf[rows] if isinstance(leaf, Tensor) else leaf, self.batch)
        return torch.stack([loss.value for loss in step_losses(self.owner, self.facts, batch)]).sum()


def same(loss: Tensor, _: Any) -> Tensor:
    """The loss function that belongs to `LossOfBatch`."""
    return loss


class Torchmortem(Callback):
    """`Autopsy` with the step after every batch, at its default sampling."""

    words: ClassVar[Words] = (
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
        found = sorted(self.autopsy.get_report().findings, key=lambda finding: -int(finding.severity))
        return [
            Finding(cause_of(each.title, self.words), LEVELS[each.severity.name.lower()], each.title)
            for each in found
        ]


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


class Traintools(Callback):
    """The parts of its quick start: every batch and every gradient inspected, activations, the noise of the
    gradient and the validation loss as they come."""

    every = 25
    """Steps between looks at activations and noise, whose default of 200 is more than many runs here have."""
    words: ClassVar[Words] = (
        ("non-finite", "non-finite-loss"),
        ("nearly constant", "input-constant"),
        ("abs max", "input-not-normalized"),
        ("dominant class", "class-imbalance"),
        ("labels outside", "labels-random"),
        ("vanished", "vanishing-gradients"),
        ("very large", "exploding-gradients"),
        ("ratio is high", "learning-rate-too-high"),
        ("ratio is tiny", "learning-rate-too-low"),
        ("no gradients", "frozen-parameters"),
        ("dormant", "dead-relu"),
        ("rank", "rank-collapse"),
    )

    def __init__(self) -> None:
        self.tools = import_module("traintools")
        self.said = Said()
        self.batches = self.tools.BatchInspector()
        self.gradients = self.tools.GradientHealthMonitor()
        self.noise = self.tools.GNSEstimator()
        self.guard = self.tools.TrainGuard()

    def callbacks(self, session: Session) -> list[Callback]:
        self.activations = self.tools.PlasticityProbe(session.module)
        return [self]

    def hear(self, kind: str, warnings: Sequence[str], level: str = "warn") -> None:
        self.said.look(kind, [Finding(cause_of(each, self.words), level, each) for each in warnings])

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        inputs, targets = halves_of(batch)
        self.hear("batch", self.batches.inspect(inputs, targets, step=trainer.global_step).warnings)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Any
    ) -> None:
        rate = optimizer.param_groups[0]["lr"]
        report = self.gradients.inspect(pl_module, step=trainer.global_step, lr=rate)
        self.hear("gradients", report.warnings)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every == 0:
            result = self.activations.measure(step=trainer.global_step)
            self.activations.reset_buffers()
            flags = [flag for layer in result.layers if layer.is_critical() for flag in layer.flags]
            self.hear("activations", flags)
            # Its own tracker swallows what goes wrong there, too; and this is advice on efficiency.
            with suppress(UserError, ValueError, RuntimeError), self.activations.paused(), isolated_rng(0):
                self.hear("noise", self.too_noisy(trainer, pl_module, batch), "note")

    def too_noisy(self, trainer: L.Trainer, module: L.LightningModule, batch: Any) -> list[str]:
        inputs, _ = halves_of(batch)
        rows = torch.arange(len(inputs))
        step = LossOfBatch(trainer, module, batch)
        raw = self.tools.estimate_gns(step, same, rows, rows)
        told = self.noise.update_from_estimates(raw.tr_sigma, raw.g_squared, raw.current_batch)
        return ["batch-too-small"] if told.regime == "under-batched" else []

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        loss = trainer.callback_metrics.get("val/loss")
        if loss is not None and not trainer.sanity_checking:
            self.guard.record(step=trainer.global_step, val_loss=float(loss))
            decision = self.guard.evaluate()
            self.hear("validation", [decision.reason] if decision.should_stop else [], "note")  # not a fault

    def findings(self, trainer: L.Trainer) -> list[Finding]:
        self.activations.remove_hooks()
        return self.said.findings()


class Torchdiag(Callback):
    """Its three checks of a training: a step tried and dead units counted as each epoch begins, on a copy,
    and the gradients after `backward` at every tenth batch."""

    every = 10
    images = 100
    """That its documentation counts dead units on."""
    words: ClassVar[Words] = (
        ("not finite", "non-finite-loss"),
        ("none gradients", "frozen-parameters"),
        ("no parameters changed", "frozen-parameters"),
    )
    statuses: ClassVar = {
        "no_grad": "frozen-parameters",
        "VANISH": "vanishing-gradients",
        "EXPLODE": "exploding-gradients",
    }

    def __init__(self) -> None:
        self.said = Said()
        self.recent: list[Any] = []
        self.batch = 0

    def callbacks(self, session: Session) -> list[Callback]:
        return [self]

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.batch = batch_idx
        self.recent = [*self.recent, batch][-self.images :]
        if batch_idx == 0:
            self.try_step(trainer, pl_module, batch)
            self.count_dead(trainer, pl_module)

    def try_step(self, trainer: L.Trainer, module: L.LightningModule, batch: Any) -> None:
        told = io.StringIO()
        with suppress(UserError), isolated_rng(0), redirect_stdout(told):
            step = LossOfBatch(trainer, module)
            import_module("torchdiag").verify_step(step, step.optimizers[0], same, batch, None)
        issues = told.getvalue().partition("ISSUES FOUND:")[2].splitlines()
        issues = [issue for issue in issues if "•" in issue]
        self.said.look("step", [Finding(cause_of(issue, self.words), "fail", issue) for issue in issues])

    def count_dead(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        inputs, _ = halves_of(self.recent[-1])
        wanted = -(-self.images // len(inputs)) if isinstance(inputs, Tensor) else 1
        dead: dict[str, Any] = {}
        with suppress(UserError, RuntimeError), isolated_rng(0), redirect_stdout(io.StringIO()):
            batch = tree_map(lambda *leaves: torch.cat(leaves), *self.recent[-wanted:])
            step = LossOfBatch(trainer, module)
            dead = import_module("torchdiag").check_dead_neurons(step, batch)
        shares = {layer: entry["dead_pct"] for layer, entry in dead.items() if entry["dead_pct"] > 20}
        self.said.look(
            "dead units",
            [
                Finding("dead-relu", "fail" if share > 50 else "warn", f"{layer}: {share:.0f}%")
                for layer, share in shares.items()
            ],
        )

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.batch % self.every == 0:
            with redirect_stdout(io.StringIO()):
                told = import_module("torchdiag").check_gradients(pl_module)
            statuses = {layer: entry["status"] for layer, entry in told.items() if entry["status"] != "OK"}
            self.said.look(
                "gradients",
                [Finding(self.statuses[status], "warn", layer) for layer, status in statuses.items()],
            )

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.count_dead(trainer, pl_module)

    def findings(self, trainer: L.Trainer) -> list[Finding]:
        return self.said.findings()


class Thermoclaw(Callback):
    """`Observer`, `EntropySplit` and `CollapseDetector` after every step, layer by layer, then `diagnose`."""

    words: ClassVar[Words] = (
        ("weight decay", "regularization-too-strong"),
        ("gradient noise", "batch-too-small"),
        ("equilibrium", "learning-rate-too-high"),
        ("dispersion", "learning-rate-too-high"),
        ("oscillation", "learning-rate-too-high"),
        ("lr ", "learning-rate-too-high"),
    )

    def callbacks(self, session: Session) -> list[Callback]:
        return [self]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.tool = import_module("thermoclaw")
        # It reads rate and decay from groups and wants one for each layer; its own callback for another
        # trainer makes an optimizer beside the real one for that as well.
        self.layers = SGD(self.tool.make_param_groups(pl_module), lr=0.0)
        self.follow(trainer)
        self.observer = self.tool.Observer(pl_module, self.layers)
        self.splitter = self.tool.EntropySplit(pl_module, self.layers, self.observer)
        self.detector = self.tool.CollapseDetector(pl_module, self.layers)

    def follow(self, trainer: L.Trainer) -> None:
        real = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        group_of = {id(parameter): group for group in real for parameter in group["params"]}
        for layer in self.layers.param_groups:
            group = group_of.get(id(layer["params"][0]), real[0])
            layer |= {"lr": float(group["lr"]), "weight_decay": group.get("weight_decay", 0.0)}

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.follow(trainer)
        self.observer.step(loss=loss_of(outputs))
        with suppress(RuntimeError):  # where only a part of a layer has gradients
            self.splitter.step()
        self.detector.step()

    def findings(self, trainer: L.Trainer) -> list[Finding]:
        report = self.tool.diagnose(self.observer, self.splitter, self.detector)
        told = [each.removeprefix("[").partition("] ") for each in report.recommendations]
        found = [Finding(cause_of(text, self.words), LEVELS[level.lower()], text) for level, _, text in told]
        return sorted(found, key=lambda finding: -OURS.index(finding.level))


class TorchAudit(Callback):
    """`Auditor` at every step, as in its example for Lightning: the inputs before it, the graph, activations
    and gradients behind `backward`, and the weights after the update."""

    causes: ClassVar = {
        "TA100": "non-finite-loss",
        "TA102": "exploding-gradients",
        "TA103": "dead-relu",
        "TA104": "frozen-parameters",
        "TA105": "dead-relu",
        "TA301": "input-not-normalized",
        "TA302": "input-constant",
        "TA304": "batch-too-small",
        "TA402": "regularization-too-strong",
        "TA403": "regularization-too-strong",
        "TA405": "bad-initialization",
        "TA500": "frozen-parameters",
    }
    hints: ClassVar = {"TA000", "TA200", "TA201", "TA203", "TA400", "TA401", "TA402", "TA403", "TA404"}
    """Its own crashes, and hints of speed and style, which it gives on most healthy trainings: notes."""

    def callbacks(self, session: Session) -> list[Callback]:
        return [self]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.context = import_module("torch_audit.context")
        self.phase = import_module("torch_audit.core").Phase
        of_data = import_module("torch_audit.validators.builtin.data").DataValidator
        self.optimizer = trainer.optimizers[0]
        self.auditor = import_module("torch_audit").Auditor(
            pl_module, optimizer=self.optimizer, every_n_steps=1
        )
        self.others = [each for each in self.auditor.validators if not isinstance(each, of_data)]
        self.said = Said()
        self.auditor.attach()
        self.auditor.audit_static()
        self.auditor.audit_init()
        self.hear("once")

    def hear(self, kind: str) -> None:
        found = []
        for each in self.auditor.pop_new_findings():
            level = "note" if each.rule_id in self.hints else LEVELS[each.severity.value.lower()]
            cause = self.causes.get(each.rule_id, each.rule_id)
            found.append(Finding(cause, level, f"{each.rule_id} {each.module_path}: {each.message}"))
        self.said.look(kind, found)

    def at(self, phase: str, module: L.LightningModule, step: int) -> Any:
        place = self.phase(phase)
        state = self.context.AuditState(module, step, place, optimizer=self.optimizer)
        return self.context.AuditContext(state)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        for each in self.others:
            each.on_phase_start(self.at("forward", pl_module, trainer.global_step))
        self.auditor.audit_data(halves_of(batch)[0], step=trainer.global_step)
        self.hear("inputs")

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for phase in ("forward", "backward"):
            context = self.at(phase, pl_module, trainer.global_step)
            self.auditor.runner.run_step(context, validators=self.others)
        self.hear("step")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        context = self.at("optimizer", pl_module, trainer.global_step)
        self.auditor.runner.run_step(context, validators=self.others)
        self.hear("update")

    def findings(self, trainer: L.Trainer) -> list[Finding]:
        self.auditor.detach()
        return self.said.findings()


TOOLS = {
    "torchmortem": Torchmortem,
    "gradsnitch": Gradsnitch,
    "runmedic": Runmedic,
    "traintools": Traintools,
    "torchdiag": Torchdiag,
    "thermoclaw": Thermoclaw,
    "torch-audit": TorchAudit,
}
