"""What is kept of a run while it trains: history, facts, and one copy of the module to measure on."""

import math
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.markup import escape
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from vitals.either_package import Callback
from vitals.files import log_folder
from vitals.findings import COLOURS, Finding, sentence
from vitals.history import History, rounded
from vitals.length import is_timed, total_steps
from vitals.measures.fresh_draws import fresh_share, looks_drawn
from vitals.measures.held_parameters import configured_rate, param_groups
from vitals.probes.rows import samples_in
from vitals.probes.twin import Twin
from vitals.terminal import terminal
from vitals.writers.registry import writers


class Recorder(Callback):
    """Keeps the history of a run in `history.jsonl` in the trainer's log folder, for diagnosis and report.

    Monitors that find one among the trainer's callbacks write to it what they measure, beside what they write
    to the loggers, and share its copy of the module. A run that is resumed goes on with the history that it
    has. Under `facts/<name>` stand the numbers that do not change: `batch_size` in samples of an optimizer
    step, `total_steps`, the largest `lr` of the first step, `base_lr`, the largest before any schedule or
    that one cycle is to reach, `fresh_layers`, the share of layers as they were drawn, `dropout`, the largest
    probability of one, `epsilon`, the largest that Adam divides by, `batches_per_step`, for how many batches
    a step waits, `limited`, 1 where `limit_train_batches` cuts the epochs, how many `optimizers` there are,
    `beta_excess`, by how much the first of Adam's betas is above the second, `iterations`, of which LBFGS
    makes several in a step, `steps_before`, how many had been taken before the record begins, and what
    monitors add. Where a module waits for several by hand, `first_losses` is the sum of what was given to
    `backward` before the first step.
    """

    def __init__(self) -> None:
        self.history = History()
        self.folder: Path | None = None
        """The trainer's log folder; None where nothing is to be written."""
        self.announced: set[str] = set()
        self.batches: int | None = None
        """Seen since the training began by hand; None where they are counted no more."""
        self.losses: list[Tensor] = []
        """Given to `backward` since then."""
        self.lines: int | None = None
        """Of the history when the checkpoint was made from which the training goes on."""
        self._twin: Twin | None = None

    def state_dict(self) -> dict[str, Any]:
        """How far the history goes, and what has been announced."""
        return {"lines": self.history.lines, "announced": sorted(self.announced)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.lines, self.announced = state_dict["lines"], set(state_dict["announced"])

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            self.folder = log_folder(trainer)
            file = self.folder / "history.jsonl" if self.folder and trainer.is_global_zero else None
            self.history = History(file)
            self._twin = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.global_step:
            self.history.resume(trainer.global_step, self.lines)
        elif self.history.path is not None:
            self.history.path.unlink(missing_ok=True)  # of an earlier training in the same folder
        by_hand = trainer.is_global_zero and not pl_module.automatic_optimization and not trainer.global_step
        self.batches, self.losses = 0 if by_hand else None, []

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.is_global_zero and self.history.last("facts/batch_size") is None:
            size = samples_in(batch) * trainer.accumulate_grad_batches * trainer.world_size
            known = {"batch_size": float(size), "total_steps": total_steps(trainer)}
            known["batches_per_step"] = float(trainer.accumulate_grad_batches)
            known["steps_before"] = float(trainer.global_step)
            limit = trainer.limit_train_batches
            known["limited"] = float(isinstance(limit, int) or limit < 1)
            for facts in (_of_layers, _of_groups, _of_rates):
                with suppress(Exception):  # of layers and optimizers that are like no other
                    known |= facts(trainer, pl_module)
            self.add_facts(trainer, known)
        if self.batches is not None:
            self.batches += 1

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        if self.batches is not None:
            self.losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        batches, self.batches = self.batches, None
        if batches is not None and batches > 1:
            size, steps = self.history.last("facts/batch_size"), self.history.last("facts/total_steps")
            given = float(torch.stack([loss.float().sum() for loss in self.losses]).sum())
            found = {"batches_per_step": float(batches), "first_losses": given}
            found |= {"batch_size": size * batches, "total_steps": -(-steps // batches)}
            self.add_facts(trainer, found)
        self.losses = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero and is_timed(trainer):
            self.add_facts(trainer, {"total_steps": total_steps(trainer)})

    def add_facts(self, trainer: L.Trainer, facts: Mapping[str, float]) -> None:
        """Record numbers that do not change, under `facts/<name>`; those that are known already are not
        repeated."""
        named = {f"facts/{name}": value for name, value in facts.items()}
        if new := {tag: value for tag, value in named.items() if self.history.last(tag) != rounded(value)}:
            self.history.add(trainer.global_step, 0.0, new)

    def announce(self, trainer: L.Trainer, finding: Finding) -> None:
        """Say what has just become certain, once: in the terminal, above the progress bar where there is
        one, and as an alert of the loggers that have such."""
        if finding.cause not in self.announced:
            self.announced.add(finding.cause)
            tell(trainer, finding)

    def withdraw(self, trainer: L.Trainer, found: Collection[str]) -> None:
        """Say in the terminal of what was announced that it has passed, where its cause is found no more."""
        for cause in sorted(self.announced.difference(found)):
            self.announced.remove(cause)
            said = f"{cause}, which was said before, has passed: nothing shows it any more."
            terminal().print(f"[bold green]ok[/] step {trainer.global_step}: {said}", highlight=False)

    def twin(self, trainer: L.Trainer, module: L.LightningModule) -> Twin:
        """The one copy of `module` in this run, made when first asked for; refresh it before each use.
        `UserError` if the module cannot be copied."""
        if self._twin is None or self._twin.original is not module:
            self._twin = Twin(trainer, module)
        return self._twin

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._twin = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self._twin = None


def _of_layers(trainer: L.Trainer, module: L.LightningModule) -> dict[str, float]:
    drops = [part.p for part in module.modules() if isinstance(part, _DropoutNd)]
    return {"fresh_layers": fresh_share(module), "dropout": max(drops, default=0.0)}


def _of_groups(trainer: L.Trainer, module: L.LightningModule) -> dict[str, float]:
    """Share of the weights of each parameter group that look as they were drawn, where there are several, of
    one kind of optimizer: the rates of SGD and of Adam say nothing of each other."""
    if len({type(optimizer) for optimizer in trainer.optimizers}) > 1:
        return {}
    groups = param_groups(*trainer.optimizers)
    weights = [[p for p in group["params"] if p.ndim > 1] for group in groups]
    return {
        f"fresh_group/{group.get('name', number)}": sum(map(looks_drawn, each)) / len(each)
        for number, (group, each) in enumerate(zip(groups, weights, strict=True))
        if each and len(groups) > 1
    }


def _of_rates(trainer: L.Trainer, module: L.LightningModule) -> dict[str, float]:
    groups = param_groups(*trainer.optimizers)
    based = [max(configured_rate(group), float(group.get("max_lr", 0))) for group in groups]
    rates = {"lr": max(float(group["lr"]) for group in groups)} if groups else {}
    divided = [g["eps"] for g in groups if "betas" in g and isinstance(g.get("eps"), float)]  # CAME has two
    # Those of others may well fall, as NovoGrad's of 0.8 and 0.25.
    adams = [each for each in trainer.optimizers if "adam" in type(each).__name__.lower()]
    pairs = [g["betas"] for g in param_groups(*adams) if len(g.get("betas", ())) == 2]
    return {
        "base_lr": max(based, default=math.nan),
        "epsilon": max(divided, default=0.0),
        "beta_excess": max((float(first) - float(second) for first, second in pairs), default=0.0),
        "optimizers": float(len(trainer.optimizers)),
        "iterations": max((float(group.get("max_iter", 1)) for group in groups), default=1.0),
        **rates,
    }


def recorder_of(trainer: L.Trainer) -> Recorder | None:
    """The `Recorder` among the trainer's callbacks, if there is one."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, Recorder)), None)


def tell(trainer: L.Trainer, finding: Finding) -> None:
    """Say it in the terminal, and as an alert of the loggers that have such."""
    line = f"[bold {COLOURS[finding.level]}]{finding.level}[/] step {finding.step}: "
    terminal().print(line + escape(sentence(finding)), highlight=False)
    for writer in writers(trainer):
        writer.alert(finding.cause, sentence(finding))


def shared_twin(trainer: L.Trainer, module: L.LightningModule) -> Twin:
    """The copy of `module` that the run's recorder keeps, or one's own where nothing is recorded; `UserError`
    if the module cannot be copied."""
    recorder = recorder_of(trainer)
    return recorder.twin(trainer, module) if recorder else Twin(trainer, module)
