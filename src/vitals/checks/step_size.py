"""How does the loss change along the optimizer's own first update, at smaller and larger learning rates?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from matplotlib.axes import Axes
from torch import Tensor, nn
from torch.optim import Optimizer

from vitals.checks.budget import BudgetSpent
from vitals.checks.check import CheckOfEachLoss, Options, Outcome
from vitals.checks.enlarged_errors import enlarged_errors
from vitals.checks.training_setup import TrainingSetup
from vitals.errors import UserError
from vitals.findings import Finding
from vitals.measures.healthy import UPDATE_RATIO_TARGET
from vitals.measures.norms import real
from vitals.measures.update_ratio import median_ratio, update_ratio
from vitals.own_time import own_time
from vitals.probes.curvature import curvature
from vitals.probes.plays import plays
from vitals.probes.random_states import seed_torch
from vitals.probes.rate_search import SECONDS, STEPS, rate_helps, rate_remedy, working_rate
from vitals.probes.step_losses import or_nan
from vitals.probes.trial import (
    Inputs,
    Loss,
    Trial,
    check_rows,
    is_large,
    leaps,
    lengthens,
    restore_configured_rates,
    set_rate,
    steps_in_turn,
    trial,
)

FACTORS = tuple(10 ** (0.8 * i) for i in range(-5, 7))
"""Twelve multiples of the learning rate, 1e-4 to 6e4, with 1 among them."""
RISE = 1.0
"""Rise of the loss in the first step, over where it began, that calls for a closer look: it doubles."""
AFTERMATH = 40
"""Further steps on the same batch that decide whether the run gets over a rise, as RMSprop's does."""
RECOVERED = 0.55
"""Share of the starting loss below which those steps must bring it."""
SAFE_FACTOR = 0.3
"""Below it some factor must lower the loss: then the direction is right and the step too long."""
LITTLE = 1e-2
"""Share of the best improvement below which a step is small: a note, since healthy small rates are."""
NEGLIGIBLE = 5e-3
"""The same with momentum's help: a warning if the whole run would not go far at this pace either."""
PROMISING = 0.1
"""Share of the loss that the best length must take off before a short one is blamed on the rate."""
TOO_SLOW = 0.1
"""Share of the loss that all steps of the run together would take off at the pace of the first."""
FURTHER = 16
"""Batches, at most, on which another rate is tried in turn, and judged."""
GROWS = 50.0
"""Times as long as its first step an optimizer makes its twentieth: 18 at most with momentum (measured), so
that beyond it lengthens them by itself, and the first says nothing of its rate."""
UPHILL = 0.05
"""Cosine of the angle between the first update and the gradient from which it leads uphill."""
ENDLESS, LOOKS = 100.0, 4
"""Times its first value to which a loss below zero falls along the first update where it has no least one:
1,100 to 1e14 where a sign is wrong, 2 at most with cosines (measured); and batches, at least, of which each
must be below zero at first."""
BLOWN = 1e9
"""Times the loss of the start, or 1, beyond which no longer step is followed: none would be the best, and of
such numbers code that is not torch's may end the program, as SciPy's k-means does where squares overflow."""
FALLS_ON = 2.0
"""Times the loss after the last but one of the lengths that it is below zero after the last, which is 6.3
times as long, where it falls without end: a similarity of structure that begins next to zero comes to 100
times that, too, and stays there."""
SAMPLES = 8
"""Of a batch, by which it is seen whether an error has a minus."""
USUAL_STEPS = 1000
"""Steps of a run whose length is not known."""


@dataclass(frozen=True)
class StepSize:
    """The loss of one batch, a mean over its samples, after steps of several lengths."""

    factors: tuple[float, ...]
    """Multiples of the configured learning rate, ascending."""
    losses: tuple[float, ...]
    """Loss after an update that many times as long, on the same batch with the same random numbers."""
    start: float
    """Loss before the update."""
    aftermath: float
    """Loss on the batch after `AFTERMATH` further steps at the starting rate; NaN where the first step was no
    rise."""
    learning_rates: tuple[float, ...]
    """As configured, by parameter group, before any warm-up."""
    warmup: float
    """Share of the configured rate that the run really starts with; 1 without a warm-up."""
    momentum: float
    """Factor 1/(1−μ) by which momentum lengthens steps in the long run; 1 for Adam, whose average has weight
    1."""
    total_steps: int
    ratio: float
    """Median over the weights of the size of the configured update over that of the weight."""
    over: float = math.nan
    """Times that the configured rate is as large as the curvature of the loss at the start bears, where it is
    too high and the optimizer is one of which that is known."""
    works: float = math.nan
    """A learning rate that was tried and lowers the loss, where the configured one is at fault; else NaN."""
    climb: float = math.nan
    """Cosine of the angle between the update and the gradient: below 0 where it goes down."""
    against: bool = False
    """Whether other losses may be against this one, as the two of a GAN: by itself it then goes down without
    end, and how far says nothing of a rate."""
    grows: float = 1.0
    """How many times as long as the first step one some steps later is, with the same gradients, where the
    first is too short; see `lengthens`."""
    below: int = 0
    """How many batches were looked at where all have a loss below zero that falls without end; else 0."""

    @property
    def improvement(self) -> float:
        """By how much the configured step lowers the loss; negative where it raises it."""
        return self.start - self.losses[self.factors.index(1.0)]

    @property
    def best_factor(self) -> float:
        """Factor of the lowest loss."""
        finite = [(loss, by) for loss, by in zip(self.losses, self.factors, strict=True) if loss == loss]
        return min(finite, default=(math.nan, math.nan))[1]

    @property
    def best_improvement(self) -> float:
        """By how much the best of the steps lowers the loss; NaN where none is finite."""
        return self.start - min((loss for loss in self.losses if loss == loss), default=math.nan)

    def findings(self) -> list[Finding]:
        """What is wrong, the most important first; `step-size-sensible` where nothing is."""
        rate = max(self.learning_rates)
        seen = (
            f"At learning rate {rate:g} the first update changes the loss from {self.start:.4g} to "
            f"{self.start - self.improvement:.4g}; the best of all lengths gives "
            f"{self.start - self.best_improvement:.4g} at {rate * self.best_factor:.2g}"
        )
        if self.climb > UPHILL and self.start > 0:  # below zero it may be a gain, which is to rise
            seen += (
                f": the update goes up along the gradient, not down (cosine of the angle {self.climb:.2f})."
            )
            remedy = "Look at maximize=True, and at the sign of the step in an optimizer of your own."
            cause = "wrong-gradient"
            return [Finding(cause, "fail", seen, remedy, "optimizer", self.climb, UPHILL, exact=True)]
        if self.below:
            seen += (
                f". The loss is below zero in each of {self.below} batches and has no least value, as an "
                f"error with a minus has none."
            )
            remedy = (
                "Check the sign of the loss: an optimizer makes it smaller, so that a score takes a minus, "
                "and an error none."
            )
            lowest = self.start - self.best_improvement
            limit = ENDLESS * self.start
            return [Finding("wrong-initial-loss", "warn", seen, remedy, "loss", lowest, limit)]
        if not self.start > 0:
            message = f"{seen}; a loss below zero has no scale by which to judge that."
            return [Finding("step-size-sensible", "note", message, where="learning rate", value=rate)]
        if not self.best_improvement > 0:
            message = f"{seen}: no length of the update lowers the loss."
            return [Finding("step-size-sensible", "note", message, where="learning rate", value=rate)]
        too_far = self.best_factor < SAFE_FACTOR * self.warmup
        if risen(self.first_loss, self.start) and too_far and not self.aftermath < RECOVERED * self.start:
            seen += f", and {AFTERMATH} steps later it is {self.aftermath:.4g}."
            if self.over > 1:
                seen += (
                    f" The curvature of the loss there bears steps up to a learning rate of "
                    f"{rate / self.over:.2g}."
                )
            value = self.first_loss / self.start
            return [self._wrong_rate("learning-rate-too-high", seen, value, 1 + RISE)]
        share = self.improvement / self.best_improvement
        pace = max(self.improvement, 0.0) * self.momentum  # rounding can hide a tiny step
        slow = abs(share) * self.momentum < NEGLIGIBLE and pace * self.total_steps < TOO_SLOW * self.start
        slow = slow and self.ratio < UPDATE_RATIO_TARGET  # else it is the run that is short
        slow = slow and not self.against and self.best_improvement > PROMISING * self.start
        if slow and self.grows > GROWS:
            seen += f"; this optimizer lengthens its steps: the {STEPS}th is {self.grows:.2g} times as long."
            return [Finding("step-size-sensible", "note", seen, "", "learning rate", share, LITTLE)]
        if slow:
            seen += f"; at this pace {self.total_steps} steps would take off {pace * self.total_steps:.2g}."
            return [self._wrong_rate("learning-rate-too-low", seen, share * self.momentum, NEGLIGIBLE)]
        if share < LITTLE and not self.against:
            return [Finding("step-size-sensible", "note", f"{seen}.", "", "learning rate", share, LITTLE)]
        return [Finding("step-size-sensible", "ok", f"{seen}.", "", "learning rate", share, LITTLE)]

    def _wrong_rate(self, cause: str, seen: str, value: float, threshold: float) -> Finding:
        tried = cause == "learning-rate-too-low", max(self.learning_rates), self.works
        setting, remedy = ({"lr": self.works} if rate_helps(*tried) else None), rate_remedy(*tried)
        return Finding(cause, "warn", seen, remedy, "learning rate", value, threshold, setting=setting)

    @property
    def first_loss(self) -> float:
        """Loss after the first step at the rate the run really starts with: at the nearest factor from
        above."""
        return next(
            loss
            for factor, loss in zip(self.factors, self.losses, strict=True)
            if factor >= self.warmup * 0.999
        )


def risen(loss: float, start: float) -> bool:
    """Whether a loss has doubled, or is no number any more."""
    return not loss < start * (1 + RISE)


def check_step_size(
    model: nn.Module,
    loss: Loss,
    inputs: Inputs,
    targets: Any,
    optimizer: Optimizer,
    total_steps: int = USUAL_STEPS,
    further: Sequence[tuple[Any, Any]] = (),
    seconds: float = SECONDS,
    against: bool = False,
) -> StepSize:
    """Follow the loss on one batch, `inputs` (N, ...) and `targets` (N,), along the first update that
    `optimizer` itself would make; it is linear in the learning rate, so that multiples of it are other rates.
    `total_steps` is the length of the run in optimizer steps; where the configured rate is at fault, others
    are tried on the `further` batches, for so many `seconds`; `against` as of `StepSize`. `UserError` where
    the optimizer moves nothing or the loss is not finite."""
    check_rows(inputs, targets)
    batches = further or [(inputs, targets)]
    if total_steps < 1:
        raise UserError(f"total_steps: it must be at least 1, not {total_steps}.")
    with trial(model, loss, optimizer) as copies:
        assert copies.optimizer is not None
        groups = copies.optimizer.param_groups
        present = [float(group["lr"]) for group in groups]
        restore_configured_rates(copies.optimizer)
        configured = [float(group["lr"]) for group in groups]
        if max(configured) <= 0:
            raise UserError("optimizer: its learning rate is 0.")
        before = [parameter.detach() for parameter in model.parameters() if parameter.requires_grad]
        buffers = {name: buffer.clone() for name, buffer in copies.model.named_buffers()}
        start, update, climb = _first_update(copies, before, inputs, targets)
        losses = _losses_along(copies, before, buffers, update, inputs, targets, start)
        ratio = _size(update, before)
        del update, before
    momentum, warmup = _momentum(optimizer), max(present) / max(configured)
    result = StepSize(
        *(FACTORS, losses, start, math.nan, tuple(configured), warmup, momentum, total_steps, ratio),
        climb=climb,
        against=against,
    )
    if len(further) >= LOOKS and not against:
        endless = _has_no_least_value(result, model, loss, inputs, targets, further)
        result = replace(result, below=len(further) if endless else 0)
    if risen(result.first_loss, result.start):
        result = replace(result, aftermath=_aftermath(model, loss, inputs, targets, optimizer))
    fault = next((finding.cause for finding in result.findings() if finding.alarming), "")
    if fault == "learning-rate-too-low":
        result = replace(result, grows=lengthens(optimizer, STEPS))
        fault = fault if result.grows < GROWS else ""
    if fault.startswith("learning-rate"):
        higher = fault == "learning-rate-too-low"
        try:
            works = _working_rate(model, loss, batches, optimizer, max(configured), higher, seconds)
        except BudgetSpent:  # the verdict stands
            works = math.nan
        over = math.nan if higher else _over(model, loss, inputs, targets, optimizer, seconds)
        result = replace(result, works=works, over=over)
    return result


def _first_update(
    copies: Trial, before: list[Tensor], inputs: Inputs, targets: Any
) -> tuple[float, list[Tensor], float]:
    """The loss before the first step of the optimizer, by how much the step changes each parameter that
    trains, of which the values `before` are given, and the cosine of the angle between it and the gradient,
    NaN where one of them is nothing. The copies are left behind the step, without gradients and states."""
    optimizer: Any = copies.optimizer
    trained = {name: each for name, each in copies.model.named_parameters() if each.requires_grad}
    gradients: dict[str, Tensor] = {}
    in_turn = steps_in_turn(trained.values(), optimizer)

    def look(name: str, gradient: Tensor) -> None:
        gradients[name] = gradient
        if in_turn:  # those before have taken their only step
            optimizer.state.clear()

    start = float(copies.step(inputs, targets, look))
    optimizer.state.clear()
    update: list[Tensor] = []
    along, of_gradient, of_update = 0.0, 0.0, 0.0
    with torch.no_grad():
        for (name, parameter), old in zip(trained.items(), before, strict=True):
            parameter.grad, gradient = None, gradients.pop(name, None)  # the update takes its place
            update.append(parameter - old)
            if gradient is not None:
                along += float((real(gradient) * real(update[-1])).sum())
                of_gradient += float(gradient.norm()) ** 2
                of_update += float(update[-1].norm()) ** 2
    if not any(bool(change.any()) for change in update):
        raise UserError("optimizer: its first step changes no parameter.")
    size = math.sqrt(of_gradient * of_update)
    return start, update, along / size if size > 0 else math.nan


@torch.no_grad()
def _losses_along(
    copies: Trial,
    before: list[Tensor],
    buffers: dict[str, Tensor],
    update: list[Tensor],
    inputs: Inputs,
    targets: Any,
    start: float,
) -> tuple[float, ...]:
    """The loss after each of `FACTORS` times the `update` on the parameters as they were `before`, with the
    same random numbers and `buffers`; NaN where a shorter one has blown it up."""
    trained = [parameter for parameter in copies.model.parameters() if parameter.requires_grad]
    losses: list[float] = []
    for factor in FACTORS:
        if losses and not abs(losses[-1]) < BLOWN * max(1.0, abs(start)):
            losses.append(math.nan)
            continue
        for parameter, old, change in zip(trained, before, update, strict=True):
            torch.add(old, change, alpha=factor, out=parameter)
        for name, buffer in copies.model.named_buffers():
            buffer.copy_(buffers[name])
        seed_torch(0)  # the same dropout as before the update
        losses.append(or_nan(partial(copies.loss_at, inputs, targets)))
    return tuple(losses)


def _has_no_least_value(
    result: StepSize,
    model: nn.Module,
    loss: Loss,
    inputs: Inputs,
    targets: Any,
    further: Sequence[tuple[Any, Any]],
) -> bool:
    """Whether the loss is below zero in each of the `further` batches and falls without end, as an error with
    a minus does."""
    lowest = result.start - result.best_improvement
    finite = [each for each in result.losses if math.isfinite(each)]
    falls_on = len(finite) > 1 and finite[-1] < FALLS_ON * min(finite[-2], 0.0)
    if not (lowest < ENDLESS * result.start < 0 and falls_on):
        return False
    with trial(model, loss) as copies, torch.no_grad():
        if not all(or_nan(partial(copies.loss_at, *each)) < 0 for each in further):
            return False
        for parameter in copies.model.parameters():
            parameter.zero_()
        # The difference of two scores, as of a critic, is then nothing at all; an error is what it was.
        return or_nan(partial(copies.loss_at, inputs, targets)) < result.start / ENDLESS


def _over(
    model: nn.Module, loss: Loss, inputs: Inputs, targets: Any, optimizer: Optimizer, seconds: float
) -> float:
    if is_large(model.parameters()):  # a second derivative takes several copies
        return math.nan
    try:
        with trial(model, loss, optimizer) as copies:
            assert copies.optimizer is not None
            restore_configured_rates(copies.optimizer)

            def value() -> Tensor:
                seed_torch(0)
                return copies.loss_at(inputs, targets)

            found = curvature(value, copies.optimizer, end=own_time() + seconds / 2)
    except (BudgetSpent, RuntimeError):  # or there is no second derivative
        return math.nan
    return found.over if found else math.nan


def _working_rate(
    model: nn.Module,
    loss: Loss,
    batches: Sequence[tuple[Any, Any]],
    optimizer: Optimizer,
    rate: float,
    higher: bool,
    seconds: float,
) -> float:
    def loss_after(rate: float, end: float = math.inf) -> float:
        with trial(model, loss, optimizer) as copies:
            assert copies.optimizer is not None
            set_rate(copies.optimizer, rate)
            for step in range(STEPS if rate else 0):
                present = or_nan(partial(copies.step, *batches[step % len(batches)]))
                if not math.isfinite(present) or own_time() > end:
                    return math.nan
            with torch.no_grad():
                judged = [copies.loss_at(inputs, targets) for inputs, targets in batches]
            return float(torch.stack(judged).mean())

    return working_rate(loss_after, loss_after(0.0), rate, higher, seconds, leaps(optimizer, STEPS))[0]


def _aftermath(model: nn.Module, loss: Loss, inputs: Inputs, targets: Any, optimizer: Optimizer) -> float:
    with trial(model, loss, optimizer) as copies:
        for _ in range(AFTERMATH + 1):
            if math.isnan(or_nan(partial(copies.step, inputs, targets))):
                return math.nan
        return or_nan(lambda: copies.gradients(inputs, targets)[0])


def _size(update: list[Tensor], before: list[Tensor]) -> float:
    """The median update:weight ratio of the weights; 0 where there is none."""
    pairs = [(change, old) for change, old in zip(update, before, strict=True) if old.ndim >= 2]
    ratios = [update_ratio(float(change.norm()), float(old.norm())) for change, old in pairs]
    known = [ratio for ratio in ratios if ratio is not None]
    return median_ratio(known) if known else 0.0


def _momentum(optimizer: Optimizer) -> float:
    slowest = max(float(group.get("momentum", 0.0)) for group in optimizer.param_groups)
    return 1 / (1 - min(slowest, 0.99))


class StepSizeCheck(CheckOfEachLoss):
    name = "step_size"
    picture = "checks/step_size"

    def of_loss(self, setup: TrainingSetup, options: Options) -> Outcome:
        optimizer = setup.only_optimizer()
        batch = setup.batch(options.size or 128)
        further = setup.batches(options.size or 128, FURTHER)
        left = min(SECONDS, options.budget.left / 2)
        steps = setup.total_steps
        result = check_step_size(
            setup.model, setup.loss, *batch, optimizer, steps, further, left, setup.minds_others()
        )
        if result.below and setup.step is not None and (setup.step.rewards or plays(setup.step)):
            result = replace(result, below=0)  # what is punished is to become ever less likely
        if result.below and any(enlarged_errors(setup, SAMPLES)):
            result = replace(result, below=0)  # which wiring says, with the layer
        configured = result.losses[result.factors.index(1.0)]
        best = min(result.losses, key=lambda loss: loss if math.isfinite(loss) else math.inf)
        seen = f"{result.start:.4g} → {configured:.4g}; {best:.4g} at best"
        return Outcome(result.findings(), seen, "no rise, a share of the best", result)

    def facts(self, outcome: Outcome) -> dict[str, float]:
        """`best_length`, times the length of the first update that the best one has, and `best_gain`, the
        share of the loss that it takes off."""
        result = outcome.result
        gain = result.best_improvement / result.start if result.start > 0 else math.nan
        return {"best_length": result.best_factor, "best_gain": gain}

    def sizes(self, setup: TrainingSetup, options: Options) -> list[int]:
        return [min(size, setup.batch_size) for size in (128, 64, 32)]

    def seconds(self, size: int, setup: TrainingSetup, options: Options) -> float:
        pace = options.budget.pace
        return pace.copy + pace.steps(size) + pace.passes(size, count=len(FACTORS))

    def draw(self, axes: Axes, result: StepSize) -> None:
        """Loss after the optimizer's first update, over multiples of the learning rate."""
        limit = 10 * max(result.start, 1e-6)
        losses = [min(loss, limit) if loss == loss else limit for loss in result.losses]
        axes.plot(result.factors, losses, "o-")
        axes.axhline(result.start, color="gray", linestyle=":", label="before the update")
        axes.axvline(1.0, color="tab:red", label=f"configured: {max(result.learning_rates):g}")
        axes.set(xscale="log", xlabel="multiple of the learning rate")
        axes.set_ylabel("loss (cut off at ten times the first)")
        axes.legend()
