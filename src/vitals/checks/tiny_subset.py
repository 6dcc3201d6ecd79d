"""Can the network learn twenty examples by heart?"""

import copy
import math
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim import Optimizer

from vitals.checks.chance import applies_softmax_twice, double_softmax_floor, perfect_loss, uniform_loss
from vitals.checks.check import CheckOfEachLoss, Options, Outcome
from vitals.checks.gradient_flow import duplicate_unit_weights
from vitals.checks.layer_variance import faults_of_signal
from vitals.checks.page import are_images, in_range
from vitals.checks.training_setup import TrainingSetup
from vitals.errors import UserError, counted
from vitals.findings import Finding, Level
from vitals.measures.finite import of_lost_epsilon
from vitals.measures.held_parameters import held_parameters
from vitals.measures.norms import norms
from vitals.probes.copies import copied
from vitals.probes.step_losses import or_nan
from vitals.probes.trial import (
    Inputs,
    Loss,
    Trial,
    check_batch,
    check_classes,
    check_rows,
    constant_guess,
    is_large,
    is_quick,
    quick_optimizer,
    restore_configured_rates,
    trial,
)
from vitals.writers.writer import Writer


def balanced_subset(inputs: Tensor, targets: Tensor, size: int) -> Tensor:
    """Where `size` samples (n,) of `inputs` (N, ...) stand, in their order, on the CPU: spread evenly over
    the first size / 2 of the classes in `targets` (N,); repeated samples are taken last. `UserError` if there
    is one class only."""
    _, group = inputs.flatten(1).unique(dim=0, return_inverse=True)
    first_of_its_kind = torch.zeros(len(inputs), dtype=torch.bool)
    seen: set[int] = set()
    for position, number in enumerate(group.tolist()):
        first_of_its_kind[position] = number not in seen
        seen.add(number)
    labels = targets.cpu()
    present = labels.unique()[: size // 2]
    if len(present) < 2:
        raise UserError("targets: samples of at least two classes are needed.")
    queues = []
    for label in present:
        members = torch.where(labels == label)[0]
        order = torch.argsort(first_of_its_kind[members].int(), descending=True, stable=True)
        queues.append(members[order].tolist())
    chosen: list[int] = []
    while len(chosen) < size and any(queues):
        chosen += [queue.pop(0) for queue in queues if queue]
    return torch.tensor(sorted(chosen[:size]))


SUBSET_SIZE = 20
"""Examples, cs231n "Neural Networks Part 3"."""
COLUMNS = 5
"""In which their picture shows them."""
MAX_STEPS = 300
"""Healthy networks need 18 to 223, dropout left on included (measured)."""
GLANCE = 100
"""Steps after which an optimizer that has come less than half the way waits until Adam has tried: where that
learns, its own end decides nothing."""
PATIENCE, WINDOW = 150, 50
"""Steps after which an attempt ends whose loss has stood still for the last so many."""
STILL = 0.01
"""Share within which a loss stands still, of what it has above a perfect answer, or of its level."""
ZERO, SMALL = 0.01, 0.1
"""Loss above that of a perfect answer that counts as zero; or this share of what lies between that and a
guess, where a loss is small as a whole."""
AT_CHANCE = 0.05
"""Share of ln C within which a loss has not moved from chance."""
MOSTLY_LEARNED = 0.5
"""Share of chance below which the loss shows that learning works and is only slow."""
REWARDED = 0.1
"""Share by which a right answer costs less than a guess where no loss rewards wrong ones: 0.17 where six
tenths of the target are a teacher's, below 0 where a sign or an order is wrong (measured)."""
FIRST_STEPS = 10
"""Steps in which the gradients of the first and the last weights are compared."""
ALIKE = 1e-6
"""Largest difference between outputs for different samples, over the largest output, that is rounding."""
VANISHED = 1e-4
"""Size of the first weights' gradient over the last's below which the first layers learn nothing."""


@dataclass(frozen=True, eq=False)
class Attempt:
    """One training on the subset, with one optimizer at a constant rate."""

    optimizer: str
    losses: tuple[float, ...]
    """Before each step, in training mode; the last is the final one."""
    perfect: float
    """Loss of a perfect answer with the final weights: a penalty on weights may have fallen with them."""
    accuracy: float
    """Of the final weights in training mode, 0 to 1."""
    eval_loss: float
    eval_accuracy: float
    """In evaluation mode. With BatchNorm it can lag far behind, since its running statistics do."""
    predictions: Tensor
    """Class numbers (n,) of the final weights, in training mode, on the CPU."""
    gradient_ratio: float
    """Root mean square of the first weight tensor's gradient over the last one's, the most of the first
    steps."""
    alike: bool
    """Whether the final outputs are the same for all examples, to rounding."""


@dataclass(frozen=True, eq=False)
class TinySubset:
    """Whether a few examples could be learned by heart; losses are means over them."""

    attempts: tuple[Attempt, ...]
    """The run's own optimizer first, then Adam where that did not do."""
    indices: Tensor
    """Where the examples (n,) stand among the samples given, on the CPU."""
    targets: Tensor
    """Their class numbers (n,), on the CPU."""
    chance: float
    perfect: float
    """Loss of a perfect answer with the starting weights, by the loss itself: 0, or 0.5003 with label
    smoothing 0.1 and ten classes."""
    classes: int
    softmax_twice: bool
    distinct: int
    """Different examples among them."""
    root: Finding | None
    """A fault of the starting weights that explains why no attempt did."""

    @property
    def final(self) -> Attempt:
        """The attempt that came furthest."""
        return min(self.attempts, key=lambda attempt: _or_infinite(attempt.losses[-1]))

    @property
    def zero(self) -> float:
        """How far above a perfect answer a loss counts as zero."""
        return _zero(self.chance, self.perfect)

    @property
    def fits(self) -> bool:
        """Whether an attempt has all examples right at a loss that is all but perfect."""
        return not self.softmax_twice and any(self._fits(attempt) for attempt in self.attempts)

    def _fits(self, attempt: Attempt) -> bool:
        # The step that comes after a loss that is low enough may raise it once more, as momentum does.
        lowest = min(attempt.losses[-2:])
        trained = attempt.accuracy == 1 and lowest < attempt.perfect + self.zero
        # Randomness that cannot be switched off may hide in training mode what was learned.
        return trained or (attempt.eval_accuracy == 1 and attempt.eval_loss < attempt.perfect + self.zero)

    def findings(self) -> list[Finding]:
        """What is wrong, the most important first; `tiny-subset-fits` where nothing is."""
        final, loss = self.final, self.final.losses[-1]
        where, steps = "tiny subset", len(final.losses) - 1
        seen = (
            f"{len(self.targets)} examples reach accuracy {final.accuracy:.0%} and loss {loss:.4g} "
            f"after {steps} steps of {final.optimizer}"
        )
        if self.softmax_twice:
            floor = double_softmax_floor(self.classes)
            seen += f"; softmax applied twice cannot go below ln(1 + {self.classes - 1}/e) = {floor:.3f}."
            remedy = "Remove the softmax at the end of the network; the loss applies it."
            return [Finding("double-softmax", "fail", seen, remedy, where, loss, floor)]
        if self.fits:
            if self.perfect > ZERO:
                seen += f"; {self.perfect:.4g} is the least this loss allows (label smoothing or a penalty)"
            found = [Finding("tiny-subset-fits", "ok", f"{seen}.", "", where, loss, self.perfect + self.zero)]
            first = self.attempts[0]
            if not self._fits(first):
                reached = first.losses[-1]
                came = f"came only to {reached:.4g}" if math.isfinite(reached) else "overflowed"
                seen = f"{first.optimizer} alone {came} in {len(first.losses) - 1} steps."
                found.append(Finding("tiny-subset-fits", "note", seen, "", where, reached, self.perfect))
            return found
        return [self._plateau(seen, loss)]

    def _plateau(self, seen: str, loss: float) -> Finding:
        final, where = self.final, "tiny subset"
        excess = loss - final.perfect
        span = self.chance - self.perfect
        if not math.isfinite(loss):
            remedy = (
                "Look for a division by zero, or a logarithm or square root of zero, in network and loss."
            )
            return Finding("non-finite-loss", "fail", f"{seen}.", remedy, where, loss)
        if excess < -self.zero and max(self.perfect, 0.0) < (1 - REWARDED) * self.chance:
            seen += (
                f", below the {final.perfect:.3g} of the answer that the label gives: the loss asks for "
                f"other things, too, as of a teacher."
            )
            return Finding("tiny-subset-fits", "note", seen, "", where, loss, final.perfect)
        if excess < -self.zero:
            seen += f", below the {final.perfect:.3g} of a right answer: the loss rewards wrong ones."
            remedy = "Check the sign of the loss and the order of its arguments."
            return Finding("wrong-initial-loss", "fail", seen, remedy, where, loss, final.perfect)
        if self.distinct <= self.classes and self.distinct < len(self.targets) / 2:
            seen += f": only {self.distinct} of them differ."
            remedy = (
                "Look at the inputs just before the network: scaling, casts and cropping can wipe them out."
            )
            return Finding("input-constant", "fail", seen, remedy, where, self.distinct, len(self.targets))
        if all(_rising(attempt, self.chance) for attempt in self.attempts):
            seen += f", up from {final.losses[0]:.4g}: the steps lead uphill."
            remedy = "Check the sign of the loss and any backward that is written by hand."
            return Finding("wrong-gradient", "fail", seen, remedy, where, loss, final.losses[0])
        if excess < MOSTLY_LEARNED * span:
            seen += f"; it learns, though slowly, and started at {final.losses[0]:.4g}."
            remedy = "A higher learning rate or better scaled weights would get there sooner."
            return Finding("tiny-subset-fits", "note", seen, remedy, where, loss, self.perfect + self.zero)
        if self.root is not None:
            root, seen = self.root, f"{seen}. {self.root.message}"
            return Finding(root.cause, "fail", seen, root.remedy, root.where, loss, self.perfect)
        stuck = abs(loss - self.chance) < AT_CHANCE * span
        if stuck and all(attempt.alike for attempt in self.attempts):
            return _nothing_arrives(seen, where)
        if final.gradient_ratio < VANISHED:
            seen += f"; the first layer's gradient is {final.gradient_ratio:.1g} of the last one's."
            remedy = (
                "Use ReLU, normalization or residual connections, and He's or Xavier's scale for the weights."
            )
            return Finding("vanishing-gradients", "fail", seen, remedy, where, final.gradient_ratio, VANISHED)
        seen += f", no better than the chance of {self.chance:.3f}." if stuck else ", where it stays."
        remedy = "Widen the narrowest layer, and look for a layer that passes nothing on."
        level: Level = "fail" if stuck else "warn"
        return Finding("underfitting", level, seen, remedy, where, loss, self.perfect + self.zero)


def _nothing_arrives(seen: str, where: str, cause: str = "vanishing-gradients") -> Finding:
    seen += "; all outputs are then the same, to the last digit: nothing of a sample arrives."
    remedy = (
        "Look at where outputs are read, as at the last step of a sequence, which may be padding, for a "
        "layer that passes nothing on, and for numbers that a table does not know."
    )
    return Finding(cause, "fail", seen, remedy, where, threshold=ALIKE)


def _are_alike(outputs: Tensor) -> bool:
    values = outputs.detach().reshape(len(outputs), -1)
    return bool((values - values[:1]).abs().max() <= ALIKE * values.abs().max())


def check_tiny_subset(
    model: nn.Module,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    optimizer: Optimizer | None = None,
    max_steps: int = MAX_STEPS,
) -> TinySubset:
    """Train copies of `model` on twenty of the samples `inputs` (N, ...) with class numbers `targets` (N,), N
    ≥ 20, not augmented, until their loss is zero, or for `max_steps` steps: two of each of ten classes, or
    more of fewer. Dropout, weight decay and, in a `CrossEntropyLoss`, label smoothing are off; the rate is
    the configured one throughout, and training mode counts. `optimizer` goes first and Adam with 1e-3 second.
    `UserError` for too few samples, one class only, or parts that do not fit together."""
    check_batch(inputs, targets, minimum=SUBSET_SIZE)
    if max_steps < 1:
        raise UserError(f"max_steps: it must be at least 1, not {max_steps}.")
    indices = balanced_subset(inputs, targets, SUBSET_SIZE)
    x, y = inputs[indices], targets[indices]
    smooth = copy.copy(loss) if isinstance(loss, nn.CrossEntropyLoss) else loss
    if isinstance(smooth, nn.CrossEntropyLoss):
        smooth.label_smoothing = 0.0
    with trial(model, smooth, dropout=False) as copies, torch.no_grad():
        outputs = copies.outputs(x)
        classes = check_classes(outputs, y)
        chance = uniform_loss(copies.loss_of, outputs, y)
        perfect = perfect_loss(copies.loss_of, outputs, y)
        twice = applies_softmax_twice(copies, x, outputs, y)
    distinct = len(x.flatten(1).unique(dim=0))

    def made_of(*attempts: Attempt) -> TinySubset:
        return TinySubset(attempts, indices, y.cpu(), chance, perfect, classes, twice, distinct, None)

    alone = optimizer is None or is_quick(optimizer, model)
    with ExitStack() as stack:

        def begun(candidate: Optimizer | None) -> Iterator[Attempt]:
            copies = stack.enter_context(trial(model, smooth, candidate, dropout=False))
            if twice:  # no steps change that verdict
                return _attempts(copies, x, y, chance, perfect, min(GLANCE, max_steps))
            waits = candidate is not None and not alone
            waits = waits and not is_large(model.parameters())  # one copy in memory is enough
            halfway = perfect + MOSTLY_LEARNED * (chance - perfect) if waits else math.inf
            return _attempts(copies, x, y, chance, perfect, max_steps, halfway)

        own = begun(optimizer)
        result = made_of(first := next(own))
        if result.fits or twice or alone:
            return result if result.fits or twice else replace(result, root=_fault_of_weights(model, x))
        if is_large(model.parameters()):
            stack.close()
        result = made_of(first, second := next(begun(None)))
        if not result.fits:
            result = made_of(next(own, first), second)
        if result.fits:
            return result
    return replace(result, root=_fault_of_weights(model, x))


FALLEN = 0.5
"""Share of its first value to which a loss without a known least value must fall to be called low."""
FAR = 1e4
"""Times the loss of the best guess that is one for all at which no network starts whose signal is level."""


@dataclass(frozen=True, eq=False)
class FewSamples:
    """Training on a few samples with a loss whose least value nobody knows."""

    attempts: tuple[tuple[str, tuple[float, ...]], ...]
    """The optimizer, and the loss before each step and at the end."""
    samples: int
    constant: float
    """The loss of the best guess that is the same for all samples; NaN where that is not known."""
    zero: float = math.nan
    """The loss of outputs that are all zero."""
    level: float = math.nan
    """The loss, before the first step, of outputs that are for all samples what they are in the mean."""
    alike: bool = False
    """Whether each attempt ends in outputs that are the same for all samples, to rounding."""
    whole: bool = False
    """Whether the inputs are whole numbers, such as ids, which may all be looked up in one place."""

    @property
    def final(self) -> tuple[str, tuple[float, ...]]:
        """The attempt that came furthest."""
        return min(self.attempts, key=lambda attempt: _or_infinite(attempt[1][-1]))

    def findings(self) -> list[Finding]:
        """What is wrong, the most important first; `tiny-subset-fits` where nothing is."""
        name, losses = self.final
        start, end, where = losses[0], losses[-1], "tiny subset"
        seen = (
            f"On {counted(self.samples, 'sample')} the loss goes from {start:.4g} to "
            f"{end:.4g} in {len(losses) - 1} steps of {name}"
        )
        if not math.isfinite(end):
            remedy = "Look for a division by zero, or a logarithm or square root of zero, in your step."
            return [Finding("non-finite-loss", "fail", f"{seen}.", remedy, where, end)]
        if start > FAR * max(self.constant, self.zero) > 0:
            seen += f", and one best guess for all has {self.constant:.4g}: the outputs start far too large."
            remedy = "Draw the weights at He's or Xavier's scale, those of a recurrence orthogonal."
            return [Finding("bad-initialization", "fail", seen, remedy, where, start, self.zero)]
        if self._far_off:
            seen += f", though one best guess for all has {self.constant:.4g}: the targets are out of reach."
            remedy = "Scale the targets to mean 0 and deviation 1, or start the last bias at their mean."
            return [Finding("wrong-initial-loss", "warn", seen, remedy, where, start, self.constant)]
        if all(map(self._stays_at_the_guess, self.attempts)) and self.alike:
            cause = "input-constant" if self.whole else "vanishing-gradients"
            return [_nothing_arrives(seen, where, cause)]
        if all(map(self._stays_at_the_guess, self.attempts)):
            seen += f", where it stays: no better than the one best guess for all, {self.constant:.4g}."
            remedy = "Look for a layer that passes nothing on, and for inputs that are all alike."
            return [Finding("underfitting", "warn", seen, remedy, where, end, self.constant)]
        if min(losses[-2:]) <= FALLEN * start:  # the last one is of other random numbers
            return [Finding("tiny-subset-fits", "ok", f"{seen}.", "", where, end, FALLEN * start)]
        seen += "; what is low for this loss nobody has said." if end < start else ": it does not fall."
        return [Finding("tiny-subset-fits", "note", seen, "", where, end)]

    @property
    def _far_off(self) -> bool:
        """Whether the loss falls at an even pace that does not bring it near the guess."""
        _, losses = self.final
        quarter = len(losses) // 4
        first, last = losses[0] - losses[quarter], losses[-1 - quarter] - losses[-1]
        far = losses[-1] > FALLEN * losses[0] > 0 and losses[-1] > 2 * self.constant  # not where that is NaN
        return far and 2 * last > first > 0

    def _stays_at_the_guess(self, attempt: tuple[str, tuple[float, ...]]) -> bool:
        _, losses = attempt
        late = losses[len(losses) * 3 // 4 :]
        stands = max(late) - losses[-1] < STILL * abs(losses[-1])
        return stands and self.constant > ZERO * losses[0] > 0 and losses[-1] > (1 - STILL) * self.constant


def check_few_samples(
    model: nn.Module,
    loss: Loss,
    inputs: Inputs,
    targets: Any,
    optimizer: Optimizer | None = None,
    max_steps: int = MAX_STEPS,
    against: bool = False,
) -> FewSamples:
    """As `check_tiny_subset`, on `inputs` (N, ...) and `targets` whatever the loss makes of them, until the
    loss is a hundredth of what it was. What is low nobody knows of such a loss, so that only one that stays
    at the best constant guess is a fault. A loss that others may be `against`, as the two of a GAN, has
    fallen far once it is half of what it was, or as much below zero: without the others it falls for ever."""
    check_rows(inputs, targets)
    constant = zero = level = math.nan
    of_samples = isinstance(inputs, Tensor) and len(inputs) >= 4 and len(inputs.flatten(1).unique(dim=0)) > 1
    if of_samples:
        with trial(model, loss, dropout=False) as copies, torch.no_grad():
            outputs = copies.outputs(inputs)
            constant = constant_guess(copies.loss_of, outputs, targets)
            zero = float(copies.loss_of(torch.zeros_like(outputs), targets))
            level = float(copies.loss_of(outputs.mean(dim=0).expand_as(outputs), targets))
    alike = of_samples
    attempts = []
    alone = optimizer is None or is_quick(optimizer, model)
    for candidate in (optimizer,) if alone else (optimizer, None):
        with trial(model, loss, candidate, dropout=False) as copies:
            copies, name = _with_configured_rate(copies)
            losses: list[float] = []
            for _ in range(max_steps):
                step = partial(copies.step, inputs, targets)
                # What fails at once is no number gone.
                losses.append(or_nan(step) if losses else float(step()))
                if not math.isfinite(losses[-1]) or 0 < losses[-1] < ZERO * losses[0]:
                    break
                if against and losses[-1] <= losses[0] - (1 - FALLEN) * abs(losses[0]) < losses[0]:
                    break
            with torch.no_grad():
                losses.append(or_nan(partial(copies.loss_at, inputs, targets)))
                alike = alike and _are_alike(copies.outputs(inputs))
        attempts.append((name, tuple(losses)))
        if losses[-1] < FALLEN * losses[0] and not losses[-1] > (1 - STILL) * constant:
            break  # from outputs that start far off a rate that undoes the network comes to the guess, too
    samples = len(inputs) if isinstance(inputs, Tensor) else len(inputs[0]) if inputs else 1
    whole = isinstance(inputs, Tensor) and not inputs.is_floating_point()
    return FewSamples(tuple(attempts), samples, constant, zero, level, alike, whole)


def _with_configured_rate(copies: Trial) -> tuple[Trial, str]:
    """`copies` with their optimizer at the rate before any schedule and without weight decay, or with Adam,
    and what that is called."""
    optimizer = quick_optimizer(copies.model) if copies.optimizer is None else copies.optimizer
    restore_configured_rates(optimizer)
    for group in optimizer.param_groups:
        if "weight_decay" in group:
            group["weight_decay"] = 0.0
    rate = max(float(group["lr"]) for group in optimizer.param_groups)
    name = f"{type(optimizer).__name__} at learning rate {rate:g}"
    return Trial(copies.model, copies.loss, optimizer), name


def _fault_of_weights(model: nn.Module, x: Tensor) -> Finding | None:
    duplicates = list(duplicate_unit_weights(model))[:-1]  # the last layer may start at zero
    if duplicates:
        seen = f"All units of '{duplicates[0]}' start with the same weights and stay alike."
        return Finding("bad-initialization", "fail", seen, "Draw the weights at random.", duplicates[0])
    return next((fault for fault in faults_of_signal(model, x) if fault.alarming), None)


def _attempts(
    copies: Trial, x: Tensor, y: Tensor, chance: float, perfect: float, steps: int, halfway: float = math.inf
) -> Iterator[Attempt]:
    """An attempt of so many `steps`; before it, where its loss is above `halfway` after `GLANCE` of them,
    what it has come to by then, in training mode alone."""
    copies, name = _with_configured_rate(copies)
    losses: list[float] = []
    ratio, due, zero = 0.0, 0, _zero(chance, perfect)
    sizes: dict[str, float] = {}

    def look(parameter: str, gradient: Tensor) -> None:
        if len(losses) < FIRST_STEPS and gradient.ndim > 1:
            sizes[parameter] = float(norms([gradient])) / math.sqrt(gradient.numel())

    def reached() -> tuple[Tensor, float]:
        with torch.no_grad():
            outputs = copies.outputs(x)
            return outputs, float(copies.loss_of(outputs, y))

    def right(outputs: Tensor) -> float:
        return float((outputs.argmax(dim=1) == y).float().mean())

    for step in range(steps):
        losses.append(float(copies.step(x, y, look)))
        if step < FIRST_STEPS:  # a last layer that starts at zero lets no gradient through in the very first
            in_order = [sizes[each] for each, _ in copies.model.named_parameters() if each in sizes]
            ratio = max(ratio, in_order[0] / in_order[-1] if len(in_order) > 1 and in_order[-1] > 0 else 1.0)
        if losses[-1] < perfect + zero and step >= due:
            perfect, due = _perfect_now(copies, x, y, perfect), 2 * step + 1  # it costs as much as many steps
            if losses[-1] < perfect + zero:
                break
        if not math.isfinite(losses[-1]) or _stands_still(losses, losses[-1] - perfect):
            break
        if step + 1 == GLANCE < steps and losses[-1] > halfway:
            outputs, loss = reached()
            so_far, guessed = (*losses, loss), outputs.argmax(dim=1).cpu()
            yield Attempt(name, so_far, perfect, right(outputs), math.inf, 0.0, guessed, ratio, False)
    outputs, loss = reached()
    losses.append(loss)
    with torch.no_grad():
        perfect = _perfect_now(copies, x, y, perfect)
    copies.model.eval()
    evaluated, eval_loss = reached()
    accuracies = right(outputs), eval_loss, right(evaluated)
    predictions = outputs.argmax(dim=1).cpu()
    yield Attempt(name, tuple(losses), perfect, *accuracies, predictions, ratio, _are_alike(outputs))


def _stands_still(losses: list[float], level: float) -> bool:
    recent = losses[-WINDOW:]
    return len(losses) >= PATIENCE and max(recent) - min(recent) < STILL * level


def _zero(chance: float, perfect: float) -> float:
    return min(ZERO, SMALL * (chance - perfect)) if chance > perfect else ZERO


def _perfect_now(copies: Trial, x: Tensor, y: Tensor, before: float) -> float:
    """Loss of a perfect answer with the weights as they are, if it is less than `before`."""
    with torch.no_grad():
        return min(before, perfect_loss(copies.loss_of, copies.outputs(x), y))


def _rising(attempt: Attempt, chance: float) -> bool:
    """Whether the loss went up from where it began and from chance, or beyond all numbers."""
    return not attempt.losses[-1] <= max(attempt.losses[0] + AT_CHANCE * chance, chance)


def _or_infinite(number: float) -> float:
    return number if math.isfinite(number) else math.inf


def tiny_subset_figure(result: TinySubset, inputs: Tensor) -> Figure:
    """The twenty images of `result`, taken from `inputs` (N, C, H, W), each under its label, and under the
    prediction where that is another."""
    images = in_range(inputs[result.indices.to(inputs.device)]).permute(0, 2, 3, 1)
    figure = Figure(figsize=(8, 7))
    axes = figure.add_axes((0, 0, 1, 1))  # axes for each take ten times as long
    labelled = zip(images, result.targets.tolist(), result.final.predictions.tolist(), strict=False)
    for number, (image, label, prediction) in enumerate(labelled):
        top, left = divmod(number, COLUMNS)
        place = (left, left + 0.9, top + 1.0, top + 0.1)
        axes.imshow(image.squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1, extent=place)
        right = label == prediction
        said = f"{label}" if right else f"{label}, predicted {prediction}"
        axes.text(left + 0.45, top + 0.07, said, ha="center", fontsize=9, color="black" if right else "red")
    axes.set(xlim=(-0.1, COLUMNS), ylim=(SUBSET_SIZE / COLUMNS + 0.1, -0.1))
    axes.axis("off")
    return figure


class TinySubsetCheck(CheckOfEachLoss):
    """Logs the scalar `checks/tiny_subset_loss` over the steps of learning by heart, and draws the twenty
    images with their predictions, `checks/tiny_subset`."""

    name = "tiny_subset"

    def of_loss(self, setup: TrainingSetup, options: Options) -> Outcome:
        outcome = self._made(setup, options)
        lost = of_lost_epsilon(setup.optimizers)
        found = [
            replace(each, remedy=lost or each.remedy) if each.cause == "non-finite-loss" else each
            for each in outcome.findings
        ]
        return replace(outcome, findings=found)

    def _made(self, setup: TrainingSetup, options: Options) -> Outcome:
        if (optimizer := setup.optimizer_or_none()) is not None:
            trained = sum(parameter.numel() for parameter in held_parameters(optimizer))
            if trained < SUBSET_SIZE:  # as a temperature by which outputs of a trained network are divided
                raise UserError(
                    f"your optimizer has {trained} number(s), too few to tell the examples apart."
                )
        if setup.later:  # what is frozen yet will learn, too, and the optimizer has none of it
            setup, optimizer = replace(setup, model=copied(setup.model, {}).requires_grad_(True)), None
        if setup.gives != "class numbers" or setup.samples < SUBSET_SIZE:
            return self._few(setup, optimizer, options)
        setup.require_fixed_loss()
        most = options.tiny_subset_steps
        result = check_tiny_subset(setup.model, setup.loss, setup.inputs, setup.targets, optimizer, most)
        loss, accuracy, steps = result.final.losses[-1], result.final.accuracy, len(result.final.losses) - 1
        seen = f"loss {loss:.4g}, accuracy {accuracy:.0%} after {steps} steps"
        expected = f"loss below {result.perfect + result.zero:.3g}, 100%"
        return Outcome(result.findings(), seen, expected, result)

    def _few(self, setup: TrainingSetup, optimizer: Optimizer | None, options: Options) -> Outcome:
        if setup.step is not None and setup.step.rewards:
            raise UserError(
                "your loss weighs what was done by how it turned out: it has no least value, and few samples "
                "say nothing of it."
            )
        most = options.tiny_subset_steps
        batch, against = setup.batch(SUBSET_SIZE), setup.minds_others()
        result = check_few_samples(setup.model, setup.loss, *batch, optimizer, most, against)
        _, losses = result.final
        seen = f"loss {losses[0]:.4g} → {losses[-1]:.4g} after {len(losses) - 1} steps"
        return Outcome(result.findings(), seen, "a loss that falls", result)

    def facts(self, outcome: Outcome) -> dict[str, float]:
        """`start_over_level`: the loss before the first step over that of outputs which are for all samples
        what they are then in the mean, for targets other than class numbers."""
        few = outcome.result
        known = isinstance(few, FewSamples) and few.level > 0
        return {"start_over_level": few.attempts[0][1][0] / few.level} if known else {}

    def sizes(self, setup: TrainingSetup, options: Options) -> list[int]:
        # Of steps. There is no verdict on fewer than all but that it fits, so that it goes on until the time
        # is up; before a sixth nothing fits but the quickest.
        return [max(1, options.tiny_subset_steps // 6)]

    def seconds(self, size: int, setup: TrainingSetup, options: Options) -> float:
        pace = options.budget.pace
        return 2 * pace.copy + pace.steps(SUBSET_SIZE, count=size)

    def log(self, writer: Writer, outcome: Outcome, setup: TrainingSetup) -> None:
        few = isinstance(outcome.result, FewSamples)
        losses = outcome.result.final[1] if few else outcome.result.final.losses
        for step, loss in enumerate(losses):
            writer.scalars({"checks/tiny_subset_loss": loss}, step)
        if writer.pictures and not few and are_images(setup.inputs):
            writer.figure("checks/tiny_subset", tiny_subset_figure(outcome.result, setup.inputs), 0)
