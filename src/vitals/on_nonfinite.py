"""What becomes of a training in which a number is no longer finite."""

import copy
import math
from collections import Counter
from dataclasses import asdict, replace
from typing import Any, Literal, get_args

import lightning as L
import torch
import torch.distributed as dist
from lightning.fabric.utilities import move_data_to_device
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from vitals.either_package import Callback, either
from vitals.errors import Diverged, UserError
from vitals.findings import Finding, sentence
from vitals.measures.finite import first_non_finite
from vitals.measures.held_parameters import held_parameters, names_by_identity, shown_name
from vitals.measures.norms import norms
from vitals.monitors.monitor import scales_gradients
from vitals.monitors.non_finite import (
    LEFT_OUT,
    NonFinite,
    are_finite,
    gradients_of,
    names_of,
    not_finite,
    of_gradient,
    of_loss,
)
from vitals.recorder import recorder_of, tell

Action = Literal["stop", "skip", "rollback"]
IN_A_ROW = 10
"""Steps in a row that are skipped; one more ends the training."""
SKIPPED = 100
"""Steps in all that are skipped; one more ends the training."""
KEPT_EVERY = 100
"""Optimizer steps between two states that a training may go back to, the older of the last two."""
ROLLBACKS = 10
"""Times that a training goes back; the next number that is not finite ends it."""
LOWER = 0.5
"""Factor of all learning rates with each time."""
OF_RATES = ("lr", "initial_lr", "max_lr", "min_lr")
"""What the groups of an optimizer call their rates, their schedule's included."""


class OnNonFinite(Callback):
    """Looks at the loss and every gradient before each step, and at the weights before each validation and at
    the end of each epoch, and does what `action` says where one is NaN or infinite.

    | action | what it does |
    | --- | --- |
    | `stop` | ends the training with `Diverged`, exit code 4 |
    | `skip` | leaves the step out; at most `IN_A_ROW` in a row and `SKIPPED` in all |
    | `rollback` | leaves it out and goes back, at `LOWER` of all rates; at most `ROLLBACKS` times |

    A step that is left out changes neither weights nor optimizer, and the running statistics of BatchNorm and
    all other buffers become what they were before its batches. A training goes back by `KEPT_EVERY` to twice
    as many steps: weights, buffers and the optimizer's state, of which two copies are in memory, and in every
    checkpoint. The batches go on, and the schedule with them, so that it ends with the training. The step
    that makes the weights themselves infinite has been taken when that shows: then `skip` stops, too.

    Steps that a gradient scaler leaves out are left to it, up to `LEFT_OUT` in a row. LBFGS, which looks
    further along its way, is judged by where it ends.

    A loss that is not finite makes all of its gradients NaN, in every process, so that looking at these, one
    norm of each and one transfer to the host, is enough; a `NonFinite` that stands before this one among the
    callbacks has the norms already. On a GPU the host waits for them in each step, as a gradient scaler does.
    `UserError` if there is no such action.
    """

    def __init__(self, action: Action = "stop") -> None:
        if action not in get_args(Action):
            raise UserError(f"on_nonfinite={action!r} must be one of {', '.join(get_args(Action))}.")
        self.action = action
        self.skipped = self.rollbacks = 0
        self.findings: list[Finding] = []
        self.loaded: dict[str, Any] | None = None
        self.in_a_row: Counter[int] = Counter()
        """Steps that have just been left out, of each optimizer in their order."""
        self.batches: list[tuple[Any, int, bool | Tensor]] = []
        """Since the last step, their numbers in the epoch, and whether the loss of each is finite."""
        self.good: list[_State] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.trainer, self.module = trainer, pl_module
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        earlier = callbacks[: callbacks.index(self)]
        self.watch = next((other for other in earlier if isinstance(other, NonFinite)), None)
        if self.watch is not None:
            self.watch.judges = False
        self.scaled = scales_gradients(trainer)
        # With DDP every process has the same gradients.
        self.asks = trainer.world_size > 1 and not isinstance(trainer.strategy, either(DDPStrategy))
        self.in_a_row, self.batches = Counter({id(optimizer): 0 for optimizer in trainer.optimizers}), []
        self.stepped = True
        self.looked_at = trainer.global_step
        """Steps after which the weights were looked at."""
        self.due: Finding | None = None
        """Why the training goes back at the end of this batch."""
        self.buffers = _Buffers(pl_module)
        self.good = [_State(trainer, pl_module)] if self.action == "rollback" else []
        if self.loaded is not None:
            self._go_on(self.loaded)
            self.loaded = None
        self.search: dict[int, _Search] = {}
        for optimizer in trainer.optimizers:
            if isinstance(optimizer, LBFGS):
                optimizer.register_step_pre_hook(self._search_begins)
                optimizer.register_step_post_hook(self._search_ends)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.batch, self.number = batch, batch_idx + 1
        if self.stepped:
            self.buffers.keep()
            self.stepped = False

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        at_once = loss.device.type == "cpu" and loss.numel() == 1
        finite = math.isfinite(loss.item()) if at_once else loss.detach().isfinite().all()
        self.batches.append((self.batch, self.number, finite))
        if finite is not True and loss.requires_grad and not self.scaled:
            loss.register_hook(lambda gradient: torch.where(torch.as_tensor(finite), gradient, math.nan))

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        self.stepped = True
        taken = self.watch.latest if self.watch is not None and self.watch.active else None
        sizes = norms(gradients_of(optimizer)) if taken is None else taken
        finite = are_finite(sizes.tolist())
        if self.asks:
            finite = trainer.strategy.reduce_boolean_decision(finite)
        search = self.search.get(id(optimizer))
        if search is not None:
            search.finite, search.sizes, search.evaluations = finite, sizes, search.evaluations + 1
        number = id(optimizer)
        if finite:
            self.in_a_row[number] = 0
            return
        if search is not None and search.evaluations > 1:
            return
        self.in_a_row[number] += 1
        if self.scaled and self.in_a_row[number] < LEFT_OUT:
            if first_non_finite(pl_module):  # a batch with NaN in it, not the scale
                self.buffers.bring_back()
            return
        finding = self._explained(optimizer, sizes)
        self.buffers.bring_back()
        for parameter in held_parameters(optimizer):
            parameter.grad = None  # the step passes over parameters without a gradient
        self._act(finding, optimizer)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if self.stepped:
            self.batch, self.batches = None, []
        if self.due is not None:
            self._go_back(self.due)
            return
        due = self.good and trainer.global_step - self.good[-1].step >= KEPT_EVERY
        if due and self._weights_are_good():
            self.good = [self.good[-1], _State(trainer, pl_module)]

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self._weights_are_good()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._weights_are_good()

    def state_dict(self) -> dict[str, Any]:
        """What was done so far, and what it goes back to."""
        said = [asdict(finding) for finding in self.findings]
        return {
            "skipped": self.skipped,
            "rollbacks": self.rollbacks,
            "findings": said,
            "in_a_row": list(self.in_a_row.values()),
            "good": [state.plain() for state in self.good],
            "buffers": self.buffers.kept if self.batches else None,  # amid an accumulation
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.rollbacks = state_dict["skipped"], state_dict["rollbacks"]
        self.findings = [Finding(**finding) for finding in state_dict["findings"]]
        self.loaded = state_dict

    def _go_on(self, loaded: dict[str, Any]) -> None:
        """Take up what `state_dict` has of the states of the training; an older one has nothing of them."""
        self.in_a_row.update(dict(zip(self.in_a_row, loaded.get("in_a_row", ()), strict=False)))
        if self.good and loaded.get("good"):
            self.good = [_State(self.trainer, self.module) for _ in loaded["good"]]
            for state, plain in zip(self.good, loaded["good"], strict=True):
                state.become(plain, self.trainer)
        if (kept := loaded.get("buffers")) is not None:
            self.buffers.kept = move_data_to_device(kept, self.trainer.strategy.root_device)
            self.stepped = False

    def _weights_are_good(self) -> bool:
        """Whether the steps since last time left them finite; else what is to be done has been done."""
        trainer, step = self.trainer, self.trainer.global_step
        if step == self.looked_at:
            return True
        name, self.looked_at = first_non_finite(self.module), step
        if trainer.strategy.reduce_boolean_decision(name is None):
            return True
        named = f" of '{shown_name(name)}'" if name else ""
        message = f"The weights{named} became NaN or infinite with step {step}."
        remedy = "Lower the learning rate, warm it up, or clip the gradients."
        self._act(not_finite(trainer, message, remedy, name or "", step))
        if self.due is not None:
            self._go_back(self.due)
        return False

    def _explained(self, optimizer: Optimizer, sizes: Tensor) -> Finding:
        trainer, module, step = self.trainer, self.module, self.trainer.global_step
        bad = next((batch for batch in self.batches if not batch[2]), None)
        try:
            if bad is not None:
                finding = of_loss(trainer, module, bad[0], bad[1], step)
            else:
                names = names_of(optimizer, names_by_identity(module))
                finding = of_gradient(trainer, sizes.tolist(), names, step, self.scaled)
        except Exception:  # a module that cannot be copied, say
            message = f"The loss or a gradient became NaN or infinite in step {step + 1}."
            finding = not_finite(trainer, message, "", "", step)
        if trainer.world_size == 1:
            return finding
        found: list[Any] = [None] * trainer.world_size
        dist.all_gather_object(found, (bad is None, trainer.global_rank, finding))
        _, rank, finding = min(found, key=lambda one: one[:2])
        if all(other == found[0][0] for other, *_ in found):
            return finding
        return replace(finding, message=f"{finding.message.rstrip('.')}, in process {rank}.")

    def _act(self, finding: Finding, optimizer: Optimizer | None = None) -> None:
        skips = self.action == "skip" and optimizer is not None and not first_non_finite(self.module)
        if skips and self.skipped < SKIPPED and self.in_a_row[id(optimizer)] <= IN_A_ROW:
            self.skipped += 1
            self._say(finding, f"The step was left out ({self.skipped} of at most {SKIPPED}).")
            return
        if self.action == "rollback" and self.rollbacks < ROLLBACKS:
            self.due = finding
            return
        if self.skipped or self.rollbacks:
            before = f"{self.skipped} steps were left out" if self.skipped else ""
            before = before or f"the training went back {self.rollbacks} times"
            finding = replace(finding, message=f"{finding.message} Before that {before}.")
        elif self.action != "rollback":
            other = f"rollback goes back and halves it, up to {ROLLBACKS} times"
            if self.action == "stop" and finding.exact:
                other = "skip leaves such steps out"
            finding = replace(finding, remedy=f"{finding.remedy} on_nonfinite={other}.".strip())
        if self.good:
            self.good[0].restore(self.trainer, self.module)
        self._say(finding)
        raise Diverged(sentence(finding))

    def _go_back(self, finding: Finding) -> None:
        """Take up the older of the last two good states again, at a lower rate."""
        self.due, self.good = None, self.good[:1]
        [state] = self.good
        state.restore(self.trainer, self.module)
        _lower_rates(self.trainer)
        state.step, step = self.trainer.global_step, state.step
        self.looked_at, self.stepped = self.trainer.global_step, True
        self.rollbacks += 1
        rates = [group["lr"] for optimizer in self.trainer.optimizers for group in optimizer.param_groups]
        self._say(
            replace(finding, remedy=""),
            f"The training went back to its state after step {step}, and goes on with {LOWER:g} times the "
            f"learning rate, {float(max(rates)):.3g} ({self.rollbacks} of at most {ROLLBACKS}).",
        )

    def _say(self, finding: Finding, done: str = "") -> None:
        """Tell it, and keep it, as the one finding for all; `done` is empty where the training ends."""
        if done:
            finding = replace(finding, level="warn", message=f"{finding.message} {done}")
        self.findings = [finding]
        if recorder := recorder_of(self.trainer):
            recorder.announced.add(finding.cause)
        if self.trainer.is_global_zero:
            tell(self.trainer, finding)

    def _search_begins(self, optimizer: Optimizer, *arguments: Any) -> None:
        self.search[id(optimizer)] = _Search(optimizer)

    def _search_ends(self, optimizer: Optimizer, *arguments: Any) -> None:
        search = self.search.pop(id(optimizer))
        if search.evaluations > 1 and not (search.finite and first_non_finite(self.module) is None):
            self.in_a_row[id(optimizer)] += 1
            finding = self._explained(optimizer, search.sizes)
            search.undo()
            self.buffers.bring_back()
            self._act(finding, optimizer)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.good, self.batches = [], []


def done_on_nonfinite(trainer: L.Trainer) -> dict[str, int]:
    """How often the trainer's `OnNonFinite` has left a step out or gone back; empty where it never has."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    found = next((callback for callback in callbacks if isinstance(callback, OnNonFinite)), None)
    done = {"skipped_steps": found.skipped, "rollbacks": found.rollbacks} if found else {}
    return {name: count for name, count in done.items() if count}


class _Buffers:
    """The buffers of a module as they were when they were last kept; those that have changed are copied, and
    those of batch norm, which writes its statistics without counting that as a change."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.places = [(part._buffers, name) for part in module.modules() for name in part._buffers]
        self.kept = [_copied(owner[name]) for owner, name in self.places]
        self.seen = [self._mark(*place) for place in self.places]

    @staticmethod
    def _mark(owner: dict[str, Tensor | None], name: str) -> Any:
        """Stays equal to itself while nobody writes to the buffer."""
        buffer = owner[name]
        if buffer is None or buffer.is_inference() or name.startswith("running_"):
            return object()
        return id(buffer), buffer._version

    def keep(self) -> None:
        marks = [self._mark(*place) for place in self.places]
        changed = [number for number, mark in enumerate(marks) if mark != self.seen[number]]
        self.seen = marks
        by_kind: dict[Any, tuple[list[Tensor], list[Tensor]]] = {}
        for number in changed:
            owner, name = self.places[number]
            live, kept = owner[name], self.kept[number]
            if live is None or kept is None or live.shape != kept.shape or live.dtype != kept.dtype:
                self.kept[number] = _copied(live)
            else:
                into, out_of = by_kind.setdefault(live.dtype, ([], []))
                into.append(kept)
                out_of.append(live.detach())
        for into, out_of in by_kind.values():
            torch._foreach_copy_(into, out_of)

    @torch.no_grad()
    def bring_back(self) -> None:
        for (owner, name), kept in zip(self.places, self.kept, strict=True):
            live = owner[name]
            if live is None or kept is None or live.shape != kept.shape or live.dtype != kept.dtype:
                owner[name] = _copied(kept)
            else:
                live.copy_(kept)


class _State:
    """A copy of weights, buffers and the optimizers' states, to go back to."""

    def __init__(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.step = trainer.global_step
        self.weights = [parameter.detach().clone() for parameter in module.parameters()]
        self.buffers = _Buffers(module)
        self.of_optimizers = [_state_of(optimizer) for optimizer in trainer.optimizers]

    def plain(self) -> dict[str, Any]:
        """It in plain types and tensors."""
        state = {"step": self.step, "weights": self.weights, "buffers": self.buffers.kept}
        return state | {"optimizers": self.of_optimizers}

    def become(self, plain: dict[str, Any], trainer: L.Trainer) -> None:
        """Be what another said of itself, on the devices of this one."""
        device = trainer.strategy.root_device
        self.step = plain["step"]
        self.weights = move_data_to_device(plain["weights"], device)
        self.buffers.kept = move_data_to_device(plain["buffers"], device)
        self.of_optimizers = [
            {
                key: {
                    name: move_data_to_device(value, getattr(live.get(key, {}).get(name), "device", device))
                    for name, value in state.items()
                }
                for key, state in states.items()
            }
            for states, live in zip(plain["optimizers"], self.of_optimizers, strict=True)
        ]

    @torch.no_grad()
    def restore(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        for parameter, kept in zip(module.parameters(), self.weights, strict=True):
            parameter.copy_(kept)
        self.buffers.bring_back()
        for optimizer, state in zip(trainer.optimizers, self.of_optimizers, strict=True):
            _set_state(optimizer, copy.deepcopy(state))


class _Search:
    """A step of LBFGS, which moves the weights to look at other places: where it began, and how it went."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.parameters = held_parameters(optimizer)
        self.weights = [parameter.detach().clone() for parameter in self.parameters]
        self.state = _state_of(optimizer)
        self.evaluations, self.finite, self.sizes = 0, True, torch.zeros(0)

    @torch.no_grad()
    def undo(self) -> None:
        for parameter, kept in zip(self.parameters, self.weights, strict=True):
            parameter.copy_(kept)
        _set_state(self.optimizer, self.state)


def _state_of(optimizer: Optimizer) -> dict[Any, Any]:
    numbers = {parameter: number for number, parameter in enumerate(held_parameters(optimizer))}
    return {numbers.get(key, key): copy.deepcopy(state) for key, state in optimizer.state.items()}


def _set_state(optimizer: Optimizer, states: dict[Any, Any]) -> None:
    parameters: dict[Any, Tensor] = dict(enumerate(held_parameters(optimizer)))
    # Within the same dictionary, for others may refer to it.
    optimizer.state.clear()
    optimizer.state.update({parameters.get(key, key): state for key, state in states.items()})


def _copied(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.detach().clone()


def _lower_rates(trainer: L.Trainer) -> None:
    """Those of all optimizers, and of the schedules that set them."""
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            for key in OF_RATES:
                if key in group:
                    group[key] = group[key] * LOWER
    schedules: list[Any] = [config.scheduler for config in trainer.lr_scheduler_configs]
    while schedules:
        schedule = schedules.pop()
        schedules += getattr(schedule, "_schedulers", [])  # one of several
        for rates in ("base_lrs", "max_lrs", "_last_lr"):
            if hasattr(schedule, rates):
                setattr(schedule, rates, [rate * LOWER for rate in getattr(schedule, rates)])
