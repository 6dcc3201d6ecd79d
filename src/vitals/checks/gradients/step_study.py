"""How the error of a difference depends on its step h: truncation to the right, rounding to the left."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import nn

from vitals.checks.check import Check, Options, Outcome
from vitals.checks.gradients.difference import Differences, Line, relative_error
from vitals.checks.gradients.functional_loss import (
    FunctionalLoss,
    Loss,
    checked_samples,
    finite_value,
    loss_scale,
    undisturbed,
)
from vitals.checks.training_setup import TrainingSetup
from vitals.findings import Finding


@dataclass(frozen=True)
class StepError:
    """Relative errors of differences with step h, medians over the elements without a kink in reach."""

    h: float
    centred: float | None
    """Of [f(x+h) − f(x−h)] / 2h, which falls with h²; None where every element crosses a kink."""
    forward: float | None
    """Of [f(x+h) − f(x)] / h, which falls with h."""


@dataclass(frozen=True)
class StepSizeStudy:
    """The result of `step_size_study`."""

    errors: tuple[StepError, ...]
    """From the largest step to the smallest."""

    @property
    def best_step(self) -> float | None:
        """The step with the smallest error of the centred difference; None where all cross kinks."""
        known = [(error.centred, error.h) for error in self.errors if error.centred is not None]
        return min(known)[1] if known else None

    def findings(self) -> list[Finding]:
        """What the best step is; never an alarm, as the gradient check tries several steps."""
        if self.best_step is None:
            seen = "Every difference crosses a kink, whatever its step."
            return [Finding("difference-step", "note", seen, where="gradients")]
        error = next(error.centred for error in self.errors if error.h == self.best_step)
        seen = (
            f"Centred differences are nearest to the gradient at h = {self.best_step:.0e}: error {error:.1e}."
        )
        return [Finding("difference-step", "ok", seen, where="gradients")]


def step_size_study(
    model: nn.Module,
    loss: Loss,
    inputs: Any,
    targets: Any,
    *,
    samples: int | None = None,
    elements: int = 2,
    steps: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9, 1e-10),
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> StepSizeStudy:
    """Errors of centred and forward differences against the analytic gradient, for every step size h: a V,
    between truncation and rounding. The arguments, and `UserError`, are those of `check_gradients`;
    `elements` are drawn from every parameter besides the one with the largest gradient."""
    samples = checked_samples(model, inputs, samples, elements, steps, dtype)
    with undisturbed(dtype, next(model.parameters()).device):
        function = FunctionalLoss(model, loss, inputs, targets, samples=samples, dtype=dtype, seed=seed)
        finite_value(function)
        _, gradients = function.value_and_gradients()
        differences = Differences(function.value, loss_scale(gradients), steps)
        choice = random.Random(seed)
        lines = []
        for name, gradient in gradients.items():
            count = gradient.numel()
            numbers = {int(gradient.abs().argmax()), *choice.sample(range(count), min(elements, count))}
            for number in sorted(numbers):
                line = Line.along_element(function.tensors[name], number)
                analytic = differences.scale * line.derivative(gradient)
                if analytic:
                    lines.append((line, analytic))
        errors = [_errors_at(h, differences, lines) for h in sorted(steps, reverse=True)]
    return StepSizeStudy(tuple(errors))


def _errors_at(h: float, differences: Differences, lines: Sequence[tuple[Line, float]]) -> StepError:
    slopes = ((analytic, differences.slope(line, h)) for line, analytic in lines)
    smooth = [(analytic, slope) for analytic, slope in slopes if not slope.kink]
    if not smooth:
        return StepError(h, None, None)
    return StepError(
        h,
        centred=median(relative_error(analytic, slope.centred) for analytic, slope in smooth),
        forward=median(relative_error(analytic, slope.forward) for analytic, slope in smooth),
    )


class DifferenceStepCheck(Check):
    name = "difference_step"
    needs = "loss"
    station = "gradients"
    picture = "checks/gradcheck/h_curve"

    def run(self, setup: TrainingSetup, options: Options) -> Outcome:
        result = step_size_study(setup.model, setup.loss, *setup.batch(64), elements=1)
        best = result.best_step
        seen = "kinks everywhere" if best is None else f"h = {best:.0e} is best"
        return Outcome(result.findings(), seen, "between 1e-4 and 1e-6", result)

    def draw(self, axes: Axes, result: StepSizeStudy) -> None:
        """Relative error of centred and forward differences over their step h: truncation against
        rounding."""
        for kind, marker in (("centred", "o-"), ("forward", "s--")):
            points = [(error.h, getattr(error, kind)) for error in result.errors if getattr(error, kind)]
            axes.plot(*zip(*points, strict=True), marker, label=kind) if points else None
        axes.set(xscale="log", yscale="log", xlabel="step h", ylabel="relative error, median over elements")
        axes.legend()
