"""Are gradients cleared between steps?"""

from collections.abc import Sequence
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer

from vitals.errors import UserError
from vitals.findings import Finding
from vitals.measures.double import double
from vitals.measures.held_parameters import held_parameters
from vitals.measures.norms import dense, norms, real
from vitals.monitors.monitor import Monitor, scales_gradients
from vitals.probes.random_states import isolated_rng
from vitals.probes.rows import first_samples
from vitals.recorder import shared_twin
from vitals.writers.groups import Charts


@torch.no_grad()
def stale_share(new: Sequence[Tensor], fresh: Sequence[Tensor], old: Sequence[Tensor]) -> Tensor:
    """The multiple of `old` that comes nearest to `new` − `fresh`: 0 where gradients were cleared, 1 where
    the new one was added to the old; a scalar on the device. `new` are gradients as the optimizer gets them,
    one for each parameter; `fresh` those of the same batch alone, at the same weights; `old` those of the
    step before."""
    new, fresh, old = ([real(dense(each)) for each in those] for those in (new, fresh, old))
    overlap = sum(double((n - f) * o).sum() for n, f, o in zip(new, fresh, old, strict=True))
    size = sum(double(o.square()).sum() for o in old)
    return torch.as_tensor(overlap / torch.as_tensor(size).clamp_min(1e-30))


PAIRS = (3, 9, 20)
"""Steps whose gradient is compared with that of the step before: few, and soon."""
IN_VAIN = 3
"""Steps in a row that go by the last of several batches alone, the gradients of the others being cleared
before it."""

STEPS, MOUNTING, GROWN, OLD, HELD = 20, 10, 2.0, 0.2, 8
"""Steps of each of several optimizers that are looked at; how many in a row find the gradients of the step
before in place, with all but a share of what they were; by which factor they have grown by then; and of how
many parameters. Gradients that are set to zero in place are no longer what they were, or do not grow so."""


class StaleGradients(Monitor):
    """Measures how much of the gradient of the step before is left in that of three early steps.

    | tag | what |
    | --- | --- |
    | `old_gradient` | share of the old gradient in the new one: 0 where it was cleared, 1 where it was not |

    Where no parameter has a gradient as `backward` begins, nothing of the old one can be in the new. Else the
    gradient of the batch alone is made anew for comparison, on a copy that shares the parameters. Not
    measured under gradient accumulation or a gradient scaler, where the two differ for good reasons. Where
    batches are accumulated by hand and cleared before each of them, it says so; and where there are several
    optimizers, whether the gradients of one mount from step to step.
    """

    charts: ClassVar[Charts] = {
        "gradients": {"share of the old gradient in the new": ["Multiline", ["gradients/old$"]]}
    }

    kept = ("before", "first")

    def __init__(self) -> None:
        super().__init__(every_n_steps=1)
        self.before: list[Tensor | None] = []
        """Gradients that the step before has left, by the places of their parameters."""
        self.keeps = False
        """Whether they are to be kept at the end of the batch."""
        self.batch: Any = None
        self.batches = 0
        self.cleared: bool | None = None
        """Whether no gradient was left as the first `backward` since the last step began."""
        self.several: dict[int, tuple[int, float, list[tuple[Tensor, Tensor]]]] = {}
        """Of each of several optimizers: steps in a row at which gradients were left, their size at the
        first, and the gradients, as they are held and as they were."""
        self.asked_in = self.lost = self.vain = 0
        """The batch of the last `backward`; batches since the last step whose gradients were cleared without
        one; and steps in a row before which that was so of all but one."""

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        single = trainer.accumulate_grad_batches == 1 and not scales_gradients(trainer)
        self.active = self.active and single
        self.first, self.single = trainer.global_step, len(trainer.optimizers) == 1
        self.several = {}
        self.looks = STEPS * len(trainer.optimizers)
        """Left, where there are several optimizers."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.active and self.single:
            self.batch = first_samples(batch)  # the step may write to its own
            self.batches += 1

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        if not self.active or not self.single:
            return
        parameters = held_parameters(trainer.optimizers[0])
        if self.cleared is None:
            self.cleared = all(parameter.grad is None for parameter in parameters)
        elif self.batches > self.asked_in and not any(
            parameter.grad is not None and bool(dense(parameter.grad).any()) for parameter in parameters
        ):
            self.lost += 1
        self.asked_in = self.batches

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        if self.single:
            self.guarded(self._look, trainer, pl_module, optimizer)
        elif self.active:
            self.guarded(self._look_at_one_of, trainer, optimizer)

    def _look(self, trainer: L.Trainer, module: L.LightningModule, optimizer: Optimizer) -> None:
        # LBFGS and accumulation by hand see several gradients for a step, or several batches.
        self._count_lost(trainer)
        one_batch, self.batches = self.batches == 1, 0
        cleared, self.cleared = self.cleared, None
        step = trainer.global_step + 1 - self.first
        parameters = held_parameters(optimizer)
        if step in PAIRS and cleared and one_batch:
            self.record(trainer, {"old_gradient": 0.0})
        elif step in PAIRS and self.before and one_batch:
            self.retried(self._compare, trainer, module, parameters)
        self.before = []
        self.keeps = step + 1 in PAIRS and one_batch and not cleared  # where they are, the next ones will be
        if step >= max(PAIRS):
            self.active, self.batch = False, None

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if self.active and self.keeps:  # behind the step, which may have clipped them
            parameters, self.keeps = held_parameters(trainer.optimizers[0]), False
            self.before = [None if p.grad is None else p.grad.detach().clone() for p in parameters]

    def _look_at_one_of(self, trainer: L.Trainer, optimizer: Optimizer) -> None:
        given = [each.grad for each in held_parameters(optimizer) if each.grad is not None]
        held = [each for each in given if each.layout == torch.strided][:HELD]
        steps, size, before = self.several.get(id(optimizer), (0, 0.0, []))
        # Those that are cleared as is usual make room for others.
        left = (
            bool(held)
            and len(held) == len(before)
            and all(now is then for now, (then, _) in zip(held, before, strict=True))
        )
        if left:
            old = [was for _, was in before]
            share = float(stale_share(held, [torch.zeros_like(each) for each in held], old))
            steps = steps + 1 if share > 1 - OLD else 0
        else:
            steps = 0
        now = float(norms(held).norm()) if left else 0.0
        size = size if steps > 1 else now
        self.several[id(optimizer)] = steps, size, [(each, each.detach().clone()) for each in held]
        if steps == MOUNTING and now > GROWN * size:
            number = [id(each) for each in trainer.optimizers].index(id(optimizer))
            message = (
                f"In {steps} steps in a row the gradients of optimizer {number} were those of the step "
                f"before, with what had come since, and grew to {now / size:.1f} times what they were: "
                f"nothing clears them."
            )
            remedy = "Call zero_grad() of each optimizer before the backward of its loss."
            fault = Finding(
                "gradients-accumulate", "fail", message, remedy, "gradient", now / size, GROWN, exact=True
            )
            self.say(trainer, fault)
        self.looks -= 1
        if not self.looks:
            if not any(steps for steps, _, _ in self.several.values()):
                self.record(trainer, {"old_gradient": 0.0})
            self.active, self.several = False, {}

    def _count_lost(self, trainer: L.Trainer) -> None:
        batches, lost = self.batches, self.lost
        self.asked_in = self.lost = 0
        self.vain = self.vain + 1 if 0 < lost == batches - 1 else 0
        if self.vain == IN_VAIN:
            message = (
                f"A step is taken for {batches} batches, and the gradients of {lost} of them are cleared "
                f"before it: it goes by the last batch alone."
            )
            remedy = "Call zero_grad() once after each optimizer.step(), not before every backward pass."
            count = float(lost)
            fault = Finding("batch-too-small", "warn", message, remedy, "gradient", count, 0.0, exact=True)
            self.say(trainer, fault)

    def _compare(self, trainer: L.Trainer, module: L.LightningModule, parameters: list[Tensor]) -> None:
        twin = shared_twin(trainer, module)
        twin.refresh()
        twin.rehearse(self.batch)
        pairs = zip(parameters, self.before, strict=False)  # an optimizer may have been given more since
        both = [(p, old) for p, old in pairs if p.grad is not None and old is not None and p.requires_grad]
        known, before = [p for p, _ in both], [old for _, old in both]
        if not known:  # the step before had no loss
            return
        with isolated_rng(), torch.enable_grad():
            fresh = torch.autograd.grad(twin.training_loss(self.batch), known, allow_unused=True)
        new: list[Tensor] = []
        for parameter in known:
            if parameter.grad is None:
                raise UserError("a gradient went away.")
            new.append(parameter.grad.detach())
        share = stale_share(
            new, [torch.zeros_like(p) if g is None else g for p, g in zip(known, fresh, strict=True)], before
        )
        self.record(trainer, {"old_gradient": float(share)})
