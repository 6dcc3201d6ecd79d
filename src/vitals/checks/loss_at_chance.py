"""Is the loss before training that of a uniform guess?"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vitals.checks.chance import (
    constant_loss,
    every_class_loss,
    is_proportional,
    perfect_loss,
    prior_entropy,
    softmax_elsewhere,
    uniform_loss,
    without_log,
    wrong_loss,
)
from vitals.checks.check import Check, Options, Outcome
from vitals.checks.inputs import standardized
from vitals.checks.layer_variance import check_layer_variance
from vitals.checks.training_setup import TrainingSetup, cut
from vitals.errors import UserError
from vitals.findings import Finding, Level
from vitals.measures.fresh_draws import is_fresh
from vitals.probes.trial import Loss, check_batch, check_classes, trial
from vitals.writers.writer import Writer

NEAR, FAR, VERY_FAR = 0.15, 1.0, 2.0
"""|loss − chance| / chance up to which it is fine, a note, a warning: networks with He weights in the last
layer start above chance, too, and learn well."""
FIRST_STEPS, RECOVERY_STEPS, RECOVERY_BATCH = 5, 40, 128
EXCESS_LEFT, LEARNED = 0.25, 0.9
"""A loss between the last two limits is no alarm if one of the first steps of the run's own optimizer leaves
no more than this share of what is above chance, and `RECOVERY_STEPS` steps on the same batch bring it below
the second share of chance, so that it was learning and not dying. He weights in a last layer behind 96 units
start at up to 2.3 times a guess; descent at 0.05 makes it good in one step or in five. Where something else
than the last layer is at fault, such as the inputs, the first step has to: of five, whose first doubles the
loss, layers die."""
ORDINARY = 1.0
"""Spread of outputs as torch's layers draw them, which is no matter of the last layer's weights: a squared
error from one-hot labels starts at 2.8 times that of a guess with a spread of 0.4, and learns well. Then the
first steps need not make it good, if those after them do."""
TELLING = 0.05
"""Share of a guess's loss that right answers take off, below which they are hardly told from wrong ones."""
OVERLOOKED = 0.5
"""Share of the loss of a guess that sure and wrong answers cost at least."""
BETTER = 0.5
"""A loss below this share of chance, which no guess explains."""
SMALL_SHARE = 0.05
"""Share of the mean of a guess's cross-entropies that a batch of guesses costs where the loss is their sum
over some number. Sums over the samples of a few batches are meant."""

FEWEST = 16
"""Samples below which their mean loss says little of the network."""
MADE_GOOD = 0.5
"""Share of what a loss is above chance that standardized inputs, or no dropout, must take off."""
GROWN = 4.0
"""Times the variance of the inputs that what enters the last layer has where hidden layers are at fault: 36
and 12 where all weights are six times as large as torch draws them."""


@dataclass(frozen=True)
class LossAtChance:
    """The loss before learning, and what it is compared with; losses are means over samples."""

    loss: float
    """Mean over the samples, in training mode."""
    chance: float
    """Loss of a uniform guess, by the loss itself: ln C for cross-entropy, C−1 for Weston–Watkins at margin
    1."""
    perfect: float
    """The least loss of a right answer, by the loss itself."""
    prior_entropy: float
    """H(y) in nats: cross-entropy of a guess that knows how common each class is."""
    logit_sd: float
    """Standard deviation of the outputs about each sample's mean."""
    cause: str
    """What a loss above chance comes from: the code of an earlier fault, or `wrong-initial-loss`."""
    standardized_loss: float
    """Loss with inputs of mean 0 and standard deviation 1 in each channel; NaN where it was not needed."""
    without_log: str = ""
    """What of the right class the loss is minus the mean of, if that is no log-probability."""
    untrained: bool = True
    """Whether most layers look as they were drawn; True where it was not needed."""
    recovers: bool = False
    """Whether the optimizer's first steps make good a loss above chance; False where it was not needed."""
    over_batch: bool = False
    """Whether the loss applies softmax over the samples."""
    tied: bool = False
    """Whether the last layer's weights are those of an embedding, and the run's own steps make them good."""
    constant: float = math.inf
    """The least loss of outputs that are the same for every sample; infinite where it was not needed."""
    wrong: float = math.inf
    """The loss of sure answers that are all wrong; infinite where it was not needed."""
    every_class: float = math.inf
    """The loss of answers that are sure of every class at once; infinite where it was not needed."""
    proportional: bool = False
    """Whether twice the outputs give twice the loss."""
    halves: bool = False
    """Whether twice the samples give half the loss."""
    of_batch: float = math.nan
    """Where the loss is a sum over samples, or a mean that is divided once more, and the optimizer goes by
    its size: the loss of a batch of guesses over the mean of their cross-entropies."""

    @property
    def deviation(self) -> float:
        """Distance of the loss from chance as a share of chance; 0 between what constant outputs can reach
        and chance: there biases set to the log of the class shares start (Karpathy 2019, "init well")."""
        if not math.isfinite(self.loss):
            return math.inf
        scale = abs(self.chance) or 1.0
        if self.loss < self.chance:
            return min(0.0, self.loss - self.least) / scale
        return (self.loss - self.chance) / scale

    @property
    def expected(self) -> tuple[float, float]:
        """The least and the largest loss that is fine."""
        margin = NEAR * (abs(self.chance) or 1.0)
        return self.least - margin, self.chance + margin

    @property
    def least(self) -> float:
        """The least loss that takes no look at the inputs."""
        return min(self.chance, self.prior_entropy, self.constant)

    @property
    def is_told(self) -> bool:
        """Whether the loss tells a right answer from a guess, a large constant in it apart."""
        span = self.chance - self.perfect
        return not span < TELLING * min(max(self.chance, 0.0), self.prior_entropy)

    def findings(self) -> list[Finding]:
        """What is wrong, the most important first; `loss-at-chance` where nothing is."""
        if self.over_batch:
            seen = (
                f"The loss before training is {self.loss:.4g}, and does not change when all outputs of a "
                f"class are raised: its softmax runs over the samples of the batch, not over the classes."
            )
            return _wrong(seen, "Give softmax, or log_softmax, dim=1.", self.loss, self.chance)
        if self.without_log:
            seen = (
                f"The loss before training is {self.loss:.4g}: minus the mean {self.without_log} of the "
                f"right class, where cross-entropy takes minus the mean of its log-probability."
            )
            remedy = "Give nll_loss the outputs of log_softmax, or use cross_entropy on the logits."
            return _wrong(seen, remedy, self.loss, self.prior_entropy, exact=False)
        if self.proportional:
            seen = (
                "The loss is proportional to the outputs, twice these give twice the loss: it has no least "
                "value, and the outputs grow without end."
            )
            remedy = (
                "Check the order of its arguments, cross_entropy(outputs, targets), and that it takes the "
                "logarithm of the outputs' softmax, not of the targets'."
            )
            return _wrong(seen, remedy, self.loss, self.chance)
        if self.perfect >= self.chance:
            seen = f"A right answer costs {self.perfect:.3g}, a uniform guess no more than {self.chance:.3g}."
            remedy = "Check the sign of the loss and the order of its arguments."
            return _wrong(seen, remedy, self.perfect, self.chance, exact=False)
        if self.wrong < OVERLOOKED * self.chance:
            seen = (
                f"Sure and wrong answers cost {self.wrong:.2g}, less than the {self.chance:.3g} of a uniform "
                f"guess: the loss looks away from what the network gets wrong."
            )
            remedy = (
                "Look at the factor that weighs samples by their probability: the focal loss takes "
                "(1 - p)**gamma, which is 1 for a wrong answer."
            )
            return _wrong(seen, remedy, self.wrong, OVERLOOKED * self.chance)
        if self.is_told and self.every_class - self.perfect < TELLING * (self.chance - self.perfect):
            seen = (
                f"An answer that is sure of every class at once costs {self.every_class:.2g}, no more than a "
                f"right one ({self.perfect:.2g}; a guess {self.chance:.3g}): nothing in the loss speaks "
                f"against the wrong classes, and it can fall to its least with nothing learned."
            )
            remedy = (
                "Take cross_entropy, or log_softmax before nll_loss: logsigmoid asks for the right class "
                "alone. A hinge loss wants labels of -1 and 1."
            )
            return _wrong(seen, remedy, self.every_class, self.perfect)
        if self.of_batch < SMALL_SHARE:
            seen = (
                f"The loss is a sum over the samples of a batch, divided by a number that is far larger than "
                f"theirs: a batch of guesses costs {self.of_batch:.2g} of what one of them does, and steps "
                f"are as much smaller than the learning rate says."
            )
            if self.halves:
                seen = (
                    f"The loss halves where the batch is doubled: a mean is divided by the number of samples "
                    f"once more, and steps are {self.of_batch:.2g} of what the learning rate says."
                )
            remedy = (
                "Divide by len(batch), not len(dataset), or take the mean, as reduction='mean' does: once."
            )
            return _wrong(seen, remedy, self.of_batch, SMALL_SHARE, "warn")
        if not self.is_told:
            seen = (
                f"A right answer costs {self.perfect:.4g} and a uniform guess {self.chance:.4g}: the loss "
                f"hardly tells them apart, whatever is learned."
            )
            remedy = (
                "Lower the label smoothing, which is the share taken off the right class, not left to it; or "
                "the penalty, if there is one in the loss."
            )
            cause = "regularization-too-strong"
            told = (self.chance - self.perfect) / self.chance
            return [Finding(cause, "warn", seen, remedy, "loss", told, TELLING, exact=True)]
        if self.deviation < -NEAR:
            return [self._below()]
        return [self._above() if self.deviation > NEAR else self._finding("loss-at-chance", "ok", "", "")]

    def _below(self) -> Finding:
        if self.loss >= BETTER * self.chance:
            return self._finding("loss-at-chance", "note", ", which is more", "")
        if not self.untrained:
            return self._finding("loss-at-chance", "note", ": the weights look as if trained before", "")
        remedy = "Look for labels that leak into the inputs or the outputs."
        return self._finding(
            "wrong-initial-loss", "warn", ": the untrained network knows the answers", remedy
        )

    def _above(self) -> Finding:
        large = (
            f"; outputs differ by {self.logit_sd:.3g}, as the last layer's weights, or a factor on its "
            f"outputs, are large"
        )
        remedy = "Scale the last layer's weights down, or that factor, so that its outputs start near zero."
        if self.deviation <= FAR:
            return self._finding("loss-at-chance", "note", large, remedy)
        if self.tied:
            detail = f"{large}: they are those of the embedding; some {RECOVERY_STEPS} steps make it good"
            remedy = "Draw the embedding with a standard deviation of 0.02 to spare these."
            return self._finding("loss-at-chance", "note", detail, remedy)
        if self.recovers and self.deviation <= VERY_FAR:
            ordinary = self.logit_sd <= ORDINARY
            steps = RECOVERY_STEPS if ordinary else _first_steps(self.cause)
            first = "first step" if steps == 1 else f"first {steps} steps"
            detail = f"{'' if ordinary else large}; it is made good by the {first} of the optimizer"
            return self._finding("loss-at-chance", "note", detail, remedy)
        level: Level = "warn" if self.deviation <= VERY_FAR else "fail"
        if self.cause == "input-not-normalized":
            detail = f"; with normalized inputs it would be {self.standardized_loss:.4g}"
            remedy = "Subtract the training set's mean and divide by its standard deviation, per channel."
        elif self.cause == "regularization-too-strong":
            detail = "; without dropout it is near that"
            remedy = "Lower the dropout: it is the share that is dropped, not the share that is kept."
        elif self.cause == "bad-initialization":
            detail = "; the signal does not stay level through the hidden layers"
            remedy = "Draw the hidden weights at the scale that keeps the variance level (He or Xavier)."
        elif not math.isfinite(self.loss):
            remedy = "Look for a division by zero or a logarithm of zero in the network and the loss."
            return self._finding("non-finite-loss", "fail", "", remedy)
        else:
            detail = large
        return self._finding(self.cause, level, detail, remedy)

    def _finding(self, cause: str, level: Level, detail: str, remedy: str) -> Finding:
        seen = f"The loss before training is {self.loss:.4g}, that of a uniform guess {self.chance:.4g}"
        return Finding(cause, level, f"{seen}{detail}.", remedy, "loss", self.loss, self.chance)


def _wrong(
    seen: str, remedy: str, value: float, limit: float, level: Level = "fail", exact: bool = True
) -> list[Finding]:
    return [Finding("wrong-initial-loss", level, seen, remedy, "loss", value, limit, exact=exact)]


def check_loss_at_chance(
    model: nn.Module,
    loss: Loss,
    inputs: Tensor,
    targets: Any,
    optimizer: Optimizer | None = None,
    classes: int = 0,
    batch_size: int = 0,
) -> LossAtChance:
    """Compare the loss of the untrained `model` on training samples without augmentation, `inputs` (N, ...)
    and class numbers `targets` (N,), with that of a uniform guess; of less than 128 the mean is too
    uncertain. Where `targets` are no class numbers, `classes` says that the loss is a cross-entropy of so
    many. In training mode, since in evaluation mode BatchNorm knows no statistics yet. `optimizer` tells
    which faults of the weights matter, and whether its first steps make a loss above chance good; of
    `batch_size` samples that go into a step it says whether a sum over them is too small for it. `UserError`
    where inputs, targets, outputs (N, C) and loss do not fit together."""
    if classes:
        return _of_tokens(model, loss, inputs, targets, optimizer, classes)
    check_batch(inputs, targets, minimum=FEWEST)
    with trial(model, loss) as copies, torch.no_grad():
        outputs = copies.outputs(inputs)
        check_classes(outputs, targets)
        value = float(copies.loss_of(outputs, targets))
        chance = uniform_loss(copies.loss_of, outputs, targets)
        perfect = perfect_loss(copies.loss_of, outputs, targets)
        without = without_log(copies.loss_of, outputs, targets)
        over_batch = softmax_elsewhere(copies.loss_of, outputs, targets)
        wrong = wrong_loss(copies.loss_of, outputs, targets)
        every_class = every_class_loss(copies.loss_of, outputs, targets)
        proportional = is_proportional(copies.loss_of, outputs, targets)
        twice = float(copies.loss_of(torch.cat([outputs, outputs]), torch.cat([targets, targets])))
        halves = math.isclose(2 * twice, value, rel_tol=1e-3)
        summed = halves or math.isclose(twice, 2 * value, rel_tol=1e-3)
        summed = summed and isinstance(optimizer, torch.optim.SGD)
        share = len(outputs) / max(batch_size, 1)
        guess = math.log(max(outputs.shape[1], 2)) * (1 / share if halves else share)
        sd = float((outputs - outputs.mean(dim=1, keepdim=True)).square().mean().sqrt())
    result = LossAtChance(
        loss=value,
        chance=chance,
        perfect=perfect,
        prior_entropy=prior_entropy(targets),
        logit_sd=sd,
        cause="wrong-initial-loss",
        standardized_loss=math.nan,
        without_log=without,
        over_batch=over_batch,
        wrong=wrong,
        every_class=every_class,
        proportional=proportional,
        halves=halves,
        of_batch=chance / guess if summed and batch_size else math.nan,
    )
    if over_batch or proportional:
        return result
    if result.deviation < -NEAR:
        with trial(model, loss) as copies:
            result = replace(result, constant=constant_loss(copies.loss_of, outputs, targets))
        if result.deviation < -NEAR:
            return replace(result, untrained=is_fresh(model))
    if result.deviation <= FAR:
        return result
    limit = chance * (1 + FAR)
    if math.isfinite(value):
        limit = min(limit, value - MADE_GOOD * (value - chance))
    cause, standardized_loss = _cause(model, loss, inputs, targets, optimizer, limit)
    result = replace(result, cause=cause, standardized_loss=standardized_loss)
    if optimizer is None:
        return result
    left, steps = 1.0 if result.logit_sd <= ORDINARY else EXCESS_LEFT, _first_steps(cause)
    recovers = _recovers(model, loss, inputs, targets, optimizer, chance, left, steps)
    return replace(result, recovers=recovers)


def _of_tokens(
    model: nn.Module, loss: Loss, inputs: Tensor, targets: Any, optimizer: Optimizer | None, classes: int
) -> LossAtChance:
    """The same where only the number of classes is known; a loss below chance is fine there, as of trained
    weights."""
    with trial(model, loss) as copies, torch.no_grad():
        outputs = copies.outputs(inputs)
        value, chance = float(copies.loss_of(outputs, targets)), math.log(classes)
        sd = float(outputs.float().std())
    result = LossAtChance(
        loss=value,
        chance=chance,
        perfect=0.0,
        prior_entropy=0.0,
        logit_sd=sd,
        cause="wrong-initial-loss",
        standardized_loss=math.nan,
        constant=0.0,
    )
    if not result.deviation > FAR or optimizer is None:
        return result
    if _is_tied(model, classes):
        return replace(result, tied=_recovers(model, loss, inputs, targets, optimizer, chance, 1.0))
    return replace(result, recovers=_recovers(model, loss, inputs, targets, optimizer, chance))


def _is_tied(model: nn.Module, classes: int) -> bool:
    """Whether an embedding has the only weights from which so many outputs can come."""
    embeddings = {id(part.weight) for part in model.modules() if isinstance(part, nn.Embedding)}
    ends = [p for p in model.parameters() if p.ndim > 1 and len(p) == classes]
    return bool(ends) and all(id(parameter) in embeddings for parameter in ends)


def _first_steps(cause: str) -> int:
    return FIRST_STEPS if cause == "wrong-initial-loss" else 1


def _recovers(
    model: nn.Module,
    loss: Loss,
    inputs: Tensor,
    targets: Any,
    optimizer: Optimizer,
    chance: float,
    left: float = EXCESS_LEFT,
    steps: int = FIRST_STEPS,
) -> bool:
    """Whether one of the first `steps` steps of `optimizer` leaves no more than this share of what is above
    chance, and further ones bring the loss below."""
    x, y = cut(inputs, RECOVERY_BATCH), cut(targets, RECOVERY_BATCH)
    with trial(model, loss, optimizer) as copies:
        before = float(copies.step(x, y))
        if not any(float(copies.step(x, y)) - chance <= left * (before - chance) for _ in range(steps)):
            return False
        for _ in range(RECOVERY_STEPS):
            copies.step(x, y)
        return float(copies.gradients(x, y)[0]) < LEARNED * chance


def _cause(
    model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, optimizer: Optimizer | None, limit: float
) -> tuple[str, float]:
    """The root of a loss too high, which brings it down to `limit` once it is mended, and the loss with
    standardized inputs."""
    normalized = standardized(inputs)
    with trial(model, loss) as copies, torch.no_grad():
        outputs = copies.outputs(normalized)
        value = float(copies.loss_of(outputs, targets))
    if value <= limit:
        return "input-not-normalized", value
    with trial(model, loss, dropout=False) as copies, torch.no_grad():
        if float(copies.loss_at(inputs, targets)) <= limit:
            return "regularization-too-strong", value
    try:
        signal = check_layer_variance(model, normalized, optimizer)
    except UserError:  # no layer whose input could be measured
        return "wrong-initial-loss", value
    hidden = any(finding.alarming for finding in signal.findings())
    # The first row may stand behind a recurrence, whose own layers have no row.
    first = min(signal.layers[0].variance, float(normalized.float().var()))
    before = signal.layers[-1].variance
    hidden = hidden or (before > GROWN * first and before / first > float(outputs.var()) / before)
    return ("bad-initialization" if hidden else "wrong-initial-loss"), value


class LossAtChanceCheck(Check):
    """Logs the scalar `checks/loss_at_chance`, the loss before training."""

    name = "loss_at_chance"
    needs = "cross-entropy"
    fewest = 2

    def run(self, setup: TrainingSetup, options: Options) -> Outcome:
        size = options.size or 512
        inputs, targets = cut(setup.inputs, size), cut(setup.targets, size)
        classes = setup.step.classes() if setup.step and setup.gives == "cross-entropy" else 0
        optimizer = setup.optimizer_or_none()
        size = setup.batch_size * max(setup.total_batches // max(setup.total_steps, 1), 1)
        result = check_loss_at_chance(setup.model, setup.loss, inputs, targets, optimizer, classes, size)
        # As with rewards for drawn actions, or samples that the step itself puts in another order.
        if result.deviation < 0 or result.chance <= 0 or not result.is_told:
            setup.require_fixed_loss()
        low, high = result.expected
        return Outcome(result.findings(), f"{result.loss:.4g}", f"{low:.4g} to {high:.4g}", result)

    def facts(self, outcome: Outcome) -> dict[str, float]:
        """`own_chance`: what a uniform guess costs by the loss itself, in training mode."""
        return {"own_chance": outcome.result.chance}

    def sizes(self, setup: TrainingSetup, options: Options) -> list[int]:
        return [min(size, len(setup.inputs)) for size in (512, 256, 128)]

    def seconds(self, size: int, setup: TrainingSetup, options: Options) -> float:
        return options.budget.pace.copy + options.budget.pace.passes(size)

    def log(self, writer: Writer, outcome: Outcome, setup: TrainingSetup) -> None:
        writer.scalars({"checks/loss_at_chance": outcome.result.loss}, 0)
