"""A short training of a copy, so that gradients are also checked where the loss has become characteristic.

cs231n, "Neural Networks Part 3", section "Gradient checks": right at initialization a wrong gradient may hide
behind others that dominate it, so check again once the loss has begun to go down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from vitals.checks.gradient_objective import Objective

ENOUGH_FALL = 0.1
"""Share of the first loss by which it must fall for the burn-in to end early."""

_LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class BurnIn:
    """How far a burn-in went."""

    steps: int
    loss_before: float
    loss_after: float

    def __str__(self) -> str:
        return f"step {self.steps}, loss {self.loss_before:.4g}→{self.loss_after:.4g}"


def burn_in(objective: Objective, steps: int) -> BurnIn:
    """Train the model of `objective` with Adam for up to `steps` steps, or until its loss has fallen by 10%.

    Every step has random numbers of its own. It ends early where the loss becomes infinite or NaN, too.
    """
    parameters = objective.parameters
    optimizer = torch.optim.Adam(parameters.values(), lr=_LEARNING_RATE)
    first = last = objective.value().item()
    step = 0
    while step < steps and math.isfinite(last) and last > first - ENOUGH_FALL * abs(first):
        step += 1
        _, gradients = objective.value_and_gradients(seed=objective.seed + step)
        for name, parameter in parameters.items():
            parameter.grad = gradients[name]
        optimizer.step()
        last = objective.value().item()
    return BurnIn(step, first, last)
