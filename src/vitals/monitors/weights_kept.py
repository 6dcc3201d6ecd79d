"""Do the weights stay what the optimizer's steps have made of them?"""

import operator
from collections.abc import Sequence
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from vitals.either_package import is_own
from vitals.measures.double import double
from vitals.measures.held_parameters import held_identities
from vitals.measures.norms import dense
from vitals.monitors.early_monitor import SAMPLE, EarlyMonitor, first_elements, moving_parameters

TAKEN_BACK, LOOKS = 0.05, 3
"""Share of a step that is left when the next batch begins, below which it was taken back; and steps in a row
of which that must be so."""
CLIPPED = 0.2
"""Share of weights of one and the same size, from which they are clipped at it. It is a fault where those of
the start were larger."""
UPHILL, ASIDE = 0.5, 0.2
"""Cosine of the angle between the gradient and what moves the parameters in a batch beside the optimizer's
step, from which that climbs; and its size over that of the step."""
LEFT_OVER, LEGS = 0.5, 2
"""Share of what the steps between two validations have changed that is left after the second, below which
validation has put other weights in their place; and validations in a row of which that must be so."""


class WeightsKept(EarlyMonitor):
    """Looks at some weights in front of an optimizer's step, behind it, and when the next batch begins, in
    early steps and at the beginning of every epoch; and around every validation.

    What it finds are findings; it draws no curve. A hook sees the steps of all optimizers from the look in
    front of one to the end of its batch, and in validation.
    """

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        super().start(trainer, module)
        self.moving: list[Tensor] = []
        """Some parameters that a step is to change; those of other optimizers may be frozen for its time."""
        self.stepped: list[Tensor] = []
        """Some of their values before the step, and after it."""
        self.present: list[Tensor] = []
        """The same parameters when the batch begins, if nothing is frozen in between."""
        self.origin = self.gradient = self.earlier = torch.zeros(0)
        """Some of the values of these, their gradient in front of the step, and their values there in the
        batch before."""
        self.behind_step: Tensor | None = None
        """Their values right behind the step: the training step itself may go on with them."""
        self.looks_last = False
        """Whether nothing of the user's is called between the look in front of the step and the step."""
        self.undone = self.clipped = self.climbed = 0
        """Steps in a row that were taken back, after which weights were clipped, and beside which something
        else went uphill."""
        self.leg = [_values(moving_parameters(trainer))]
        """Some values of the parameters after the validation before, in front of the present one, and, where
        an epoch begins, behind it."""
        self.stepped_there = 0
        """Optimizer steps of the present validation on what is trained."""
        self.trained: list[Tensor] = []
        """Some of that."""
        self.replaced = 0
        """Validations in a row that left other weights in place."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if not self.active:
            return
        if len(self.stepped) == 2:
            self.guarded(self._taken_back, trainer, *self.stepped)
            self.earlier = self.stepped[0]
        self.stepped = []
        self.present = moving_parameters(trainer) if self.wanted else []
        self.origin = _values(self.present)
        if len(self.leg) > 1:
            self.guarded(self._trained_there, trainer)
            self.guarded(self._put_back, trainer, *self.leg)
            self.leg = [_values(moving_parameters(trainer))]

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        if self.wanted and not self.stepped:
            self.moving = moving_parameters(trainer)
            self.stepped = [_values(self.moving)] if self.moving else []
            self.gradient = _values([_some_gradient(parameter) for parameter in self.moving])
            self.looks_last = _looks_last(trainer, pl_module, optimizer)
            self.behind_step = None
            self.unhook()
            look = partial(self.guarded, self._look_behind)  # it is called within the user's optimizer
            self.hooks = [register_optimizer_step_post_hook(look)]

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.unhook()
        if self.active and len(self.stepped) == 1:
            self.stepped.append(_values(self.moving))

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.active and len(self.leg) == 2:
            self.leg.append(_values(moving_parameters(trainer)))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.active and not trainer.sanity_checking:
            self.trained = moving_parameters(trainer)
            self.leg = [*self.leg[:1], _values(self.trained)]
            self.stepped_there = 0
            self.hooks.append(register_optimizer_step_post_hook(self._step_there))

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.unhook()

    def _look_behind(self, optimizer: Optimizer, *_: Any) -> None:
        if self.behind_step is None and not held_identities(optimizer).isdisjoint(map(id, self.moving)):
            self.behind_step = _values(self.moving)

    def _step_there(self, optimizer: Optimizer, *_: Any) -> None:
        self.stepped_there += not held_identities(optimizer).isdisjoint(map(id, self.trained))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self.guarded(self._trained_there, trainer)

    def _taken_back(self, trainer: L.Trainer, before: Tensor, after: Tensor) -> None:
        now = _values(self.moving)
        left = _left(before, after, now)
        clipped = self._clipped(trainer, before, after, now)
        self.undone = self.undone + 1 if left < TAKEN_BACK and not clipped else 0
        if self.undone == LOOKS:
            message = (
                f"Of what an optimizer step changes {max(left, 0.0):.1%} is left when the next batch begins: "
                f"something writes to the parameters in between."
            )
            remedy = "Look for what copies other weights back after each step, such as an average."
            self.tell(trainer, message, remedy, "optimizer", self.undone)
        one = len(self.moving) == len(self.present) and all(map(operator.is_, self.moving, self.present))
        if one and self.looks_last and self.behind_step is not None and len(self.earlier) == len(now):
            # What is put where it was, as weights that are masked or clipped in each step, goes nowhere.
            ahead = torch.where(before == self.earlier, 0.0, before - self.origin)
            self._climbs(trainer, ahead, now - self.behind_step, self.behind_step - before)

    def _climbs(self, trainer: L.Trainer, ahead: Tensor, behind: Tensor, step: Tensor) -> None:
        """Say where what is moved `ahead` of the optimizer's `step` goes uphill, and is not moved back then
        or `behind` it."""
        aside = ahead + behind if float(ahead @ behind) < 0 else ahead
        share = float(aside.norm() / step.norm().clamp_min(1e-30))
        climb = float(aside @ self.gradient / (aside.norm() * self.gradient.norm()).clamp_min(1e-30))
        self.climbed = self.climbed + 1 if share > ASIDE and climb > UPHILL else 0
        if self.climbed == LOOKS:
            message = (
                f"Ahead of the optimizer's step something else moves the parameters in each batch, "
                f"{share:.2g} times as far, up along the gradient (cosine of the angle {climb:.2f}), and "
                f"never takes that back."
            )
            remedy = (
                "Subtract what was added to the parameters before optimizer.step() is called, as "
                "sharpness-aware minimization does behind its second backward pass; look at the sign of a "
                "step by hand."
            )
            self.tell(trainer, message, remedy, "optimizer", self.climbed, "wrong-gradient")

    def _clipped(self, trainer: L.Trainer, before: Tensor, after: Tensor, now: Tensor) -> bool:
        """Whether weights were clipped after a step; say so where it goes on."""
        sizes, bound = now.abs(), float(now.abs().max())
        clamped = float(after.abs().max()) > bound and torch.equal(now, after.clamp(-bound, bound))
        share = float((sizes == bound).float().mean()) if clamped else 0.0  # else it may be rounding to a few
        larger = self.clipped > 0 or float(before.abs().max()) > bound
        one = len(trainer.optimizers) == 1  # and no critic beside what it judges
        self.clipped = self.clipped + 1 if share > CLIPPED and larger and one else 0
        if self.clipped == LOOKS:
            message = (
                f"{share:.0%} of the weights looked at are {bound:.3g} or -{bound:.3g} exactly, and were not "
                f"when the optimizer had taken its step: something clips them."
            )
            remedy = (
                "Take the clamp_() of parameters out, or widen its bounds: the critic of a WGAN wants it. "
                "What is clipped elsewhere are gradients."
            )
            self.tell(trainer, message, remedy, "optimizer", self.clipped, "regularization-too-strong")
        return share > CLIPPED

    def _trained_there(self, trainer: L.Trainer) -> None:
        if not self.stepped_there or len(self.leg) < 2 or torch.equal(self.leg[1], _values(self.trained)):
            return
        message = (
            f"In validation {self.stepped_there} optimizer steps were taken on the parameters that train, "
            f"and these have stayed changed: the network learns what it is to be judged by."
        )
        remedy = "Take backward() and step() in training alone: ask for the phase where one loop does both."
        self.tell(trainer, message, remedy, "validation", self.stepped_there, "data-leak")

    def _put_back(
        self, trainer: L.Trainer, before: Tensor, after: Tensor, between: Tensor | None = None
    ) -> None:
        """Say that validation, or the beginning of an epoch, leaves other weights in place of those that were
        trained; `between` both they were so."""
        now = _values(moving_parameters(trainer))
        if not len(now) == len(before) == len(after):
            return
        left = _left(before, after, now)
        # Back to where they were is what "take the best weights where it got no better" does.
        other = left < LEFT_OVER and not torch.equal(now, before)
        self.replaced = self.replaced + 1 if other else 0
        if self.replaced == LEGS:
            message = (
                f"Of what the steps between two validations changed {max(left, 0.0):.0%} is left after the "
                f"second: validation puts other weights in the place of those that train, and leaves them."
            )
            remedy = (
                "Put the weights back after validation (restore() after store() and copy_to(), or a second "
                "swap), in on_validation_end as in its beginning."
            )
            if between is not None and torch.equal(between, after):
                message = (
                    f"Of what the steps between two validations changed {max(left, 0.0):.0%} is left when "
                    f"the next epoch has begun: its beginning puts other weights in their place."
                )
                remedy = (
                    "Take what initializes or loads weights out of what every epoch does, such as "
                    "on_train_epoch_start or the function that trains one."
                )
            self.tell(trainer, message, remedy, "validation", self.replaced)


def _values(parameters: Sequence[Tensor]) -> Tensor:
    """Some of each, in double precision."""
    some = [double(first_elements(parameter)) for parameter in parameters]
    return torch.cat([each.to(some[0].device) for each in some]) if some else torch.zeros(0)


def _left(before: Tensor, after: Tensor, now: Tensor) -> float:
    """The share of the way from `before` to `after` that is not taken back `now`."""
    way = after - before
    length = float(way @ way)
    return float((now - before) @ way) / length if length > 0 else 1.0


def _some_gradient(parameter: Tensor) -> Tensor:
    """Of the elements that `first_elements` takes, and of a few more; a sparse one, as of a large table, is
    not filled up for that."""
    gradient = parameter.grad
    if gradient is None:
        return torch.zeros_like(first_elements(parameter))
    if gradient.layout != torch.strided and gradient.dense_dim() and parameter[0].numel():
        count = min(len(parameter), -(-SAMPLE // parameter[0].numel()))
        gradient = gradient.index_select(0, torch.arange(count, device=gradient.device))
    return dense(gradient)


def _looks_last(trainer: L.Trainer, module: L.LightningModule, optimizer: Optimizer) -> bool:
    """Whether what stands in the parameters in `on_before_optimizer_step` of a monitor is what `optimizer`
    steps from: hooks of the module or of callbacks that are none of ours may move them back after it, as may
    an optimizer that is none of torch's."""
    hook = "on_before_optimizer_step"
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    others = [each for each in callbacks if type(each).__module__.partition(".")[0] != "vitals"]
    if any(is_own(hook, each, L.Callback) for each in others):
        return False
    own = any(is_own(name, module, L.LightningModule) for name in (hook, "configure_gradient_clipping"))
    return not own and type(optimizer).__module__.startswith("torch.optim")
