"""How much an optimizer step really changes each parameter, beside how large the parameter is."""

import math
from collections.abc import Iterable
from statistics import median_low

import torch
from torch import Tensor

from vitals.measures.norms import norms

SMALLEST_NORM = 1e-8
"""A parameter of a smaller norm, such as a bias that starts at zero, has no ratio."""


class UpdateMeter:
    """Measures ‖Δw‖ and ‖w‖ of each parameter over one optimizer step.

    Δw is what the optimizer did, under momentum, weight decay, clipping, accumulation or mixed precision, and
    not lr·gradient, which is up to ten times smaller under momentum. Call `before` just before the step and
    `after` just after it. Everything stays on the device; in between, it takes memory for one copy of the
    parameters. Source: cs231n, "Neural Networks Part 3", ratio of weights:updates.

    Args:
        named_parameters: those that train; one that is shared counts once, under its first name.
        often: keep the memory between measurements, rather than asking for it anew each time.
    """

    def __init__(self, named_parameters: Iterable[tuple[str, Tensor]], often: bool = False) -> None:
        self.often = often
        unique: dict[int, tuple[str, Tensor]] = {}
        for name, parameter in named_parameters:
            if parameter.requires_grad and parameter.numel():
                unique.setdefault(id(parameter), (name, parameter))
        self.names = [name for name, _ in unique.values()]
        self._parameters = [parameter for _, parameter in unique.values()]
        self._measured = set(unique)
        self._kept: list[Tensor] = []

    @property
    def parameters(self) -> list[Tensor]:
        """What they hold now, for they may be given other tensors, as by `parameter.data = …`."""
        return [parameter.detach() for parameter in self._parameters]

    def measures(self, parameters: Iterable[Tensor]) -> bool:
        """Whether it measures those of `parameters` that train now, and no others."""
        return {id(each) for each in parameters if each.requires_grad and each.numel()} == self._measured

    @torch.no_grad()
    def before(self) -> None:
        """Keep the parameters as they are."""
        present = self.parameters
        if not self._kept:
            self._kept = [torch.empty_like(parameter) for parameter in present]
        if self._kept:
            torch._foreach_copy_(self._kept, present)

    @torch.no_grad()
    def after(self) -> Tensor:
        """Norms of the change, and of the parameters before it; (2, number of parameters), float32, on the
        device."""
        weights = norms(self._kept)
        if self._kept:
            torch._foreach_sub_(self._kept, self.parameters)
        changes = norms(self._kept)
        if not self.often:
            self._kept = []
        return torch.stack([changes, weights])


def update_ratio(change: float, weight: float) -> float | None:
    """‖Δw‖ / ‖w‖ of the norms `change` and `weight`; None where the latter is below `SMALLEST_NORM`. NaN and
    infinity pass."""
    return None if weight < SMALLEST_NORM else change / weight


def median_ratio(ratios: Iterable[float]) -> float:
    """The middle one of `ratios`, the lower of two; infinite where most are not finite."""
    return median_low(ratio if math.isfinite(ratio) else math.inf for ratio in ratios)
