"""What do hooks of the parameters make of their gradients?"""

from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor

from vitals.measures.held_parameters import held_parameters
from vitals.monitors.early_monitor import FEW, EarlyMonitor

ONE_SIDED = 0.1
"""Share of the elements of gradients below, or above, zero from which it is no chance that hooks of the
parameters leave none of them, and others: 0.44 to 0.52 of them in 24 healthy runs (measured)."""
LOOKS = 3
"""Backward passes in a row of which that must be so."""


class GradientHooks(EarlyMonitor):
    """Looks at gradients in front of the hooks of the parameters (`register_hook`) and behind them, in early
    steps and at the beginning of every epoch. What it finds are findings; it draws no curve."""

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        super().start(trainer, module)
        self.signs: list[tuple[Tensor, Tensor]] = []
        """How many elements below and above zero came to the hooks of a parameter, then, in pairs, left
        them."""
        self.filtered = 0
        """Backward passes in a row of which the hooks have left gradients of one sign alone."""

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        if self.wanted:
            self.guarded(self._look_around_hooks, trainer)

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.hooks:  # its own, the first and the last of each parameter
            self.unhook()
            self.guarded(self._one_sided, trainer)

    def _look_around_hooks(self, trainer: L.Trainer) -> None:
        """Look at the gradients of this pass in front of the hooks of parameters and behind them."""
        self.unhook()
        self.signs = []
        trained = [each for each in held_parameters(*trainer.optimizers) if each.requires_grad]
        hooked = [each for each in trained if each._backward_hooks]
        if 2 * len(hooked) <= len(trained):  # what has a hook of its own, as a scale that is only to grow
            return
        see = partial(self.guarded, self._count_signs)  # it is called within the user's backward pass
        for parameter in hooked[:FEW]:
            own: Any = parameter._backward_hooks
            others = dict(own)
            own.clear()  # hooks are called in their order, and this one comes first
            self.hooks.append(parameter.register_hook(see))
            own.update(others)
            self.hooks.append(parameter.register_hook(see))

    @torch.no_grad()
    def _count_signs(self, gradient: Tensor) -> None:
        if gradient.layout == torch.strided and not gradient.is_complex():
            self.signs.append(((gradient < 0).sum(), (gradient > 0).sum()))

    def _one_sided(self, trainer: L.Trainer) -> None:
        """Say where hooks of parameters leave only those elements of gradients that have one sign."""
        if not self.signs:
            return
        given, left = (
            [sum(int(pair[sign]) for pair in self.signs[place::2]) for sign in (0, 1)] for place in (0, 1)
        )
        gone = [sign for sign in (0, 1) if left[sign] == 0 and given[sign] > ONE_SIDED * sum(given)]
        self.filtered = self.filtered + 1 if len(gone) == 1 and sum(left) > 0 else 0
        if self.filtered == LOOKS:
            lost, kept = ("below", "above") if gone == [0] else ("above", "below")
            message = (
                f"Hooks of the parameters (register_hook) let no element of a gradient through that is "
                f"{lost} zero: of {given[gone[0]]} none is left, of {given[1 - gone[0]]} {kept} zero "
                f"{left[1 - gone[0]]}. These parameters move in one direction only."
            )
            remedy = (
                f"Bound gradients on both sides of zero, as clamp(-c, c) does: those {lost} zero are as "
                f"right as those {kept}."
            )
            self.tell(trainer, message, remedy, "gradient", self.filtered, "wrong-gradient")
