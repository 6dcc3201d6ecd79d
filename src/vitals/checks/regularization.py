"""Does more weight decay raise the loss, and how does its pull compare with that of the data?"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vitals.checks.chance import perfect_loss
from vitals.checks.check import CheckOfEachLoss, Options, Outcome
from vitals.checks.training_setup import TrainingSetup
from vitals.findings import Finding
from vitals.measures.double import double
from vitals.measures.held_parameters import configured_rate
from vitals.measures.norms import norms
from vitals.probes.trial import Inputs, Loss, Trial, check_rows, decays_apart, is_class_numbers, trial
from vitals.probes.watched_step import detached
from vitals.writers.writer import Writer

STRONGER = 10.0
"""Factor by which weight decay is raised to see the loss rise."""
DOMINANT = 1.0
"""Pull of the decay over that of the data."""
LARGE_DECAY = 1e-2
"""Weight decay added to the gradient that is large by itself. Below it a ratio above 1 tells of vanishing
gradients, not of the decay."""
TAKEN, OFTEN_TAKEN = 0.01, 0.1
"""Share of the weights that a decay apart from the gradient takes away in each step: half of them in 70; and
decay up to which that is the rate's doing."""
USUAL, USUAL_DECOUPLED = 1e-4, 1e-2
"""Weight decay that a remedy names where its pull is small: in the gradient, and apart from it."""
OUTWARD, NOTICEABLE = 0.5, 0.05
"""Cosine, and pull, from which a penalty that rewards large weights will let them grow without bounds."""
USUAL_PULL = 0.01
"""Pull of a penalty that leaves the data in charge."""


@dataclass(frozen=True)
class GroupPenalty:
    """One of the optimizer's parameter groups, at its own weight decay."""

    weight_decay: float
    decoupled: bool
    """As in AdamW: the decay is not part of the gradient, and the penalty only the equivalent L2."""
    parameters: int
    """Numbers in the group that train, weights and biases alike."""
    squared_norm: float
    """‖w‖²."""
    data_gradient_norm: float
    """‖g_data‖; 0 where the loss does not reach the group."""
    rate: float = 0.0
    """As configured, before any schedule."""
    present_rate: float = 0.0
    """As a schedule begins; where that is lower, it need never come to the configured one."""

    @property
    def taken(self) -> float:
        """Share of the weights that a step at the configured rate takes away, apart from the gradient."""
        return self.rate * self.weight_decay if self.decoupled else 0.0

    @property
    def may_come(self) -> bool:
        """Whether that is left to the schedule, as far as the start shows."""
        return self.present_rate < 0.999 * self.rate and self.pull <= DOMINANT

    @property
    def penalty(self) -> float:
        """½ λ ‖w‖²: its gradient λw is what torch's optimizers add."""
        return 0.5 * self.weight_decay * self.squared_norm

    @property
    def pull(self) -> float:
        """‖λw‖ over ‖g_data‖, or, decoupled, over the norm of an Adam step of 1 in every direction."""
        against = math.sqrt(self.parameters) if self.decoupled else self.data_gradient_norm
        force = self.weight_decay * math.sqrt(self.squared_norm)
        return force / against if against else 0.0  # no gradient at all is the wiring's fault


@dataclass(frozen=True)
class LossPenalty:
    """What the loss asks of the weights whatever the outputs are."""

    floor: float
    """The least that the loss can be with these weights."""
    loss: float
    pull: float
    """Norm of its gradient over that of the rest of the loss."""
    inward: float
    """Cosine of the angle between its gradient and the weights: 1 for an L2 penalty, −1 where large weights
    are rewarded."""

    def findings(self) -> list[Finding]:
        """An alarm where it pulls harder than the data, or where it rewards large weights."""
        if self.inward < -OUTWARD and self.pull > NOTICEABLE:
            seen = (
                f"The penalty within the loss rewards large weights: it falls as they grow, and pulls "
                f"{self.pull:.2g} times as hard as the data."
            )
            remedy = "Look at the sign of the penalty: it is added to the loss, not subtracted."
            return [Finding("regularization-too-strong", "warn", seen, remedy, "loss", self.inward, 0.0)]
        if not self.pull > DOMINANT or not self.floor > 0:
            return []
        seen = (
            f"A penalty on the weights within the loss pulls {self.pull:.2g} times as hard as the data: "
            f"{self.floor:.3g} of the {self.loss:.3g} that the loss is at the start do not depend on the "
            f"outputs."
        )
        remedy = f"Multiply the penalty by {_rounded(USUAL_PULL / self.pull):g}."
        return [Finding("regularization-too-strong", "warn", seen, remedy, "loss", self.pull, DOMINANT)]


def _rounded(value: float) -> float:
    return float(f"{value:.0e}")


@dataclass(frozen=True)
class Regularization:
    """The loss before learning and what the penalties of the weights add to it."""

    data_loss: float
    groups: tuple[GroupPenalty, ...]
    in_loss: LossPenalty | None = None
    beside: float = math.nan
    """Norm of the gradient of what the loss takes beside the outputs, as of features, over that of what it
    takes of the outputs; NaN where it takes nothing else."""
    classes: int = 0
    """Of these outputs; 0 where it takes nothing else."""

    @property
    def penalty(self) -> float:
        """Σ ½ λ_g ‖w_g‖² over the groups."""
        return sum(group.penalty for group in self.groups)

    def total_loss(self, factor: float = 1.0) -> float:
        """Data loss plus penalty with every weight decay times `factor`."""
        return self.data_loss + factor * self.penalty

    def findings(self) -> list[Finding]:
        """What is wrong, the most important first; `regularization-raises-loss` where nothing is."""
        decayed = [(i, group) for i, group in enumerate(self.groups) if group.weight_decay > 0]
        in_loss = self.in_loss.findings() if self.in_loss else []
        if not decayed and in_loss:
            return in_loss
        if not decayed:
            return [Finding("skipped", "note", "The optimizer has no weight decay.", where="regularization")]
        found = in_loss + [finding for i, group in decayed if (finding := _fault(i, group))]
        kind = "equivalent L2 penalty" if any(group.decoupled for _, group in decayed) else "L2 penalty"
        message = (
            f"The loss rises from {self.data_loss:.4g} to {self.total_loss():.4g} with its {kind} and to "
            f"{self.total_loss(STRONGER):.4g} with {STRONGER:.0f} times as much; the pull is "
            f"{max(group.pull for _, group in decayed):.2g} of that of the data."
        )
        if not any(finding.alarming for finding in found):
            found.append(Finding("regularization-raises-loss", "ok", message, "", "loss", self.penalty, 0.0))
        return found


def takes_away(decay: float, rate: float, index: int) -> Finding:
    """What is said of a weight `decay` apart from the gradient that is too strong at this `rate`."""
    taken, where = rate * decay, f"parameter group {index}"
    seen = (
        f"Weight decay {decay:g} takes {taken:.1%} of the weights of {where} away in each step at the "
        f"learning rate {rate:.3g}, half of them in {math.log(2) / taken:.0f} steps."
    )
    remedy = f"Lower the weight decay: {USUAL_DECOUPLED:g} to {OFTEN_TAKEN:g} is usual."
    cause, setting = "regularization-too-strong", {"weight_decay": USUAL_DECOUPLED}
    return Finding(cause, "warn", seen, remedy, where, taken, TAKEN, setting=setting)


def _fault(index: int, group: GroupPenalty) -> Finding | None:
    where, decay = f"parameter group {index}", f"Weight decay {group.weight_decay:g}"
    if group.parameters == 0:
        seen = f"{decay} is set on {where}, which holds no parameter that trains."
        remedy = "Look at how parameters are sorted into groups; the names to match may have changed."
        return Finding("frozen-parameters", "warn", seen, remedy, where, 0.0)
    if not group.penalty > 0:
        seen = f"{decay} does not raise the loss: the weights of {where} are zero."
        return Finding("regularization-raises-loss", "note", seen, "", where, group.penalty, 0.0)
    if group.taken > TAKEN and group.weight_decay > OFTEN_TAKEN:
        said = takes_away(group.weight_decay, group.rate, index)
        if not group.may_come:
            return said
        begins = f"which begins at {group.present_rate:g}"
        seen = f"{said.message[:-1]}, if the schedule, {begins}, ever comes to it."
        return Finding("regularization-raises-loss", "note", seen, "", where, group.taken, TAKEN)
    if group.pull <= DOMINANT:
        return None
    against = "an optimizer step" if group.decoupled else "the data's gradient"
    seen = f"{decay} pulls on {where} {group.pull:.3g} times as hard as {against}"
    if not group.decoupled and group.weight_decay < LARGE_DECAY:
        seen += ", whose gradient is tiny at the start."
        return Finding("regularization-raises-loss", "note", seen, "", where, group.pull, DOMINANT)
    usual = USUAL_DECOUPLED if group.decoupled else USUAL
    pull = group.pull * usual / group.weight_decay
    remedy = "Lower the weight decay."
    setting = None
    if pull < DOMINANT:
        remedy = f"Lower the weight decay to {usual:g}, which pulls {pull:.2g} times as hard."
        setting = {"weight_decay": usual}
    return Finding(
        "regularization-too-strong", "warn", f"{seen}.", remedy, where, group.pull, DOMINANT, setting=setting
    )


def check_regularization(
    model: nn.Module, loss: Loss, inputs: Inputs, targets: Any, optimizer: Optimizer, last: str = ""
) -> Regularization:
    """Weigh the weight decay of `optimizer` against the loss of `model` on `inputs` (N, ...), `targets` (N,):
    L_data + Σ_groups ½ λ_g ‖w_g‖² must rise with λ, and since loss values mislead, ‖λw‖ / ‖g_data‖ is judged.
    `UserError` where inputs, targets and loss do not fit together."""
    check_rows(inputs, targets)
    with trial(model, loss, optimizer) as copies:
        data_loss, gradients = copies.gradients(inputs, targets)
        by_parameter = {parameter: gradients.get(name) for name, parameter in copies.model.named_parameters()}
        in_loss = _in_loss(copies, inputs, targets, float(data_loss), gradients)
        beside = _beside(copies, inputs, targets, gradients, last) if last else math.nan
        assert copies.optimizer is not None
        apart = any(group.get("weight_decay") for group in optimizer.param_groups) and decays_apart(optimizer)
        groups = []
        for group in copies.optimizer.param_groups:
            trained = [parameter for parameter in group["params"] if parameter.requires_grad]
            reached = [g for parameter in trained if (g := by_parameter.get(parameter)) is not None]
            decoupled = group.get("decoupled_weight_decay", False) or apart
            groups.append(
                GroupPenalty(
                    float(group.get("weight_decay", 0.0)),
                    bool(decoupled),
                    sum(parameter.numel() for parameter in trained),
                    float(double(norms([parameter.detach() for parameter in trained])).square().sum()),
                    float(double(norms(reached)).norm()),
                    configured_rate(group),
                    float(group["lr"]),
                )
            )
    return Regularization(float(data_loss), tuple(groups), in_loss, beside)


def _beside(
    copies: Trial, inputs: Inputs, targets: Any, gradients: dict[str, Tensor | None], last: str
) -> float:
    """How hard the loss of a whole step pulls with no gradient through the outputs of the module `last`."""
    owner: Any = copies.model.owner
    with owner.get_submodule(last).register_forward_hook(lambda part, given, outputs: detached(outputs)):
        rest = copies.gradients(inputs, targets)[1]
    squares = [0.0, 0.0]
    for name, whole in gradients.items():
        other = rest.get(name)
        if whole is not None and other is not None:  # what both of them train
            squares[0] += float(other.norm()) ** 2
            squares[1] += float((whole - other).norm()) ** 2
    return math.sqrt(squares[0] / squares[1]) if squares[1] else math.nan


def _in_loss(
    copies: Trial, inputs: Inputs, targets: Any, loss: float, gradients: dict[str, Tensor | None]
) -> LossPenalty | None:
    """The part of the loss that depends on the weights but not on the outputs (N, C); None without one."""
    if not isinstance(inputs, Tensor) or not is_class_numbers(targets):
        return None
    with torch.no_grad():
        outputs = copies.outputs(inputs)
    alone = copies.loss_of(outputs.detach(), targets)
    parameters = {name: p for name, p in copies.model.named_parameters() if p.requires_grad}
    if outputs.ndim != 2 or not alone.requires_grad or not parameters:  # none where the loss alone has some
        return None
    direct = torch.autograd.grad(alone, list(parameters.values()), allow_unused=True)
    penalty = data = along = weights = 0.0
    for name, part in zip(parameters, direct, strict=True):
        whole = gradients.get(name)
        if part is not None:
            weights += float(double(parameters[name].detach()).square().sum())
            along += float(double(part * parameters[name].detach()).sum())
        if whole is not None:
            penalty += 0.0 if part is None else float(double(part).square().sum())
            data += float(double(whole if part is None else whole - part).square().sum())
    if not penalty:
        return None
    floor = perfect_loss(copies.loss_of, outputs, targets)
    inward = along / math.sqrt(penalty * weights) if weights else 0.0
    return LossPenalty(floor, loss, math.sqrt(penalty / data) if data else math.inf, inward)


class RegularizationCheck(CheckOfEachLoss):
    """Logs the scalar `checks/regularised_loss`, the loss with the penalty of the weight decay."""

    name = "regularization"

    def of_loss(self, setup: TrainingSetup, options: Options) -> Outcome:
        step = setup.step if setup.step and setup.step.beside else None
        result = check_regularization(
            setup.model,
            setup.loss,
            *setup.batch(options.size or 128),
            setup.only_optimizer(),
            step.last if step else "",
        )
        result = replace(result, classes=step.beside if step else 0)
        losses = (result.data_loss, result.total_loss(), result.total_loss(STRONGER))
        seen = " → ".join(f"{loss:.4g}" for loss in losses)
        return Outcome(result.findings(), seen, "rising with the weight decay", result)

    def facts(self, outcome: Outcome) -> dict[str, float]:
        """`beside`: how hard the loss pulls with what it takes beside the outputs, over how hard with these;
        `even_share`, the accuracy of a guess among as many classes; and `decay_apart` and `decay_group`, what
        is too strong at a rate that the schedule may come to."""
        result: Regularization = outcome.result
        known = {"beside": result.beside, "even_share": 1 / result.classes} if result.classes else {}
        for index, group in enumerate(result.groups):
            if group.may_come and group.taken > TAKEN and group.weight_decay > OFTEN_TAKEN:
                known |= {"decay_apart": group.weight_decay, "decay_group": float(index)}
        return known

    def sizes(self, setup: TrainingSetup, options: Options) -> list[int]:
        return [min(size, setup.batch_size) for size in (128, 32)]

    def seconds(self, size: int, setup: TrainingSetup, options: Options) -> float:
        return options.budget.pace.copy + options.budget.pace.steps(size)

    def log(self, writer: Writer, outcome: Outcome, setup: TrainingSetup) -> None:
        writer.scalars({"checks/regularised_loss": outcome.result.total_loss()}, 0)
