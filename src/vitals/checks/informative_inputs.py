"""Do real inputs teach more than zeroed ones, and does what they teach hold for inputs not trained on?"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils._pytree import tree_leaves

from vitals.checks.chance import constant_loss, prior_entropy, uniform_loss
from vitals.checks.check import Check, Options, Outcome
from vitals.checks.training_setup import TrainingSetup
from vitals.errors import UserError
from vitals.findings import Finding
from vitals.measures.counts import share_between
from vitals.measures.linear_classifier import linear_classifier, small
from vitals.probes.step_model import Path
from vitals.probes.trial import Loss, Trial, check_batch, check_classes, quick_optimizer, trial

SAMPLES = 512
"""Samples to train on and as many held out; of fewer, half each."""
FEWEST = 128
STEPS, BATCH_SIZE = 50, 64
"""With Adam's own default rate: what is tested is the data, not the run's optimizer."""
ZERO_BATCH_SIZE = 8
"""Zeros get the same output whatever the batch, so that a small one teaches the class shares as well."""
JUDGED = 128
"""Samples of those trained on whose loss is taken, to compare it with H(y) at a margin of a tenth."""
CHANCE_SCORE = 3.0
"""Standard deviations above chance from which predictions on held-out samples are no accident (p = 0.001)."""
LEAK = 0.9
"""Share of H(y) below which a network that sees only zeros must know the labels from elsewhere."""
POWER = 15.0
"""Score of perfect predictions below which a low one proves nothing: 512 samples of ten even classes can
reach 68, and healthy networks about a fifth of it (measured); of two classes at 85 to 15 they can reach
13."""
MIXED_POWER = 3.0
"""Times as large where samples are mixed of two: 16% of 150 were right, mixed as by CutMix, which is 2.4
standard deviations above chance, and 20%, or 4.5, of the same images as they were."""
PER_CLASS = 12
"""Training samples a class below which held-out accuracy at chance proves nothing."""
LONGER = 200
"""Steps where no linear classifier can tell the data from the network, as of samples in lists: an LSTM that
has 38% of three classes right after 50 steps has 90% after 200 (measured)."""
BY_HEART = 0.7
"""Share of what a guess costs to which the loss must fall there while held-out samples stay at chance: then
the network learns, but nothing that holds for others. Some recurrent networks do not begin in 200 steps."""
LETTERS = 256
"""Different whole numbers in the samples up to which these may be letters or bytes. More are words, most of
which are in few samples: of 512 texts an LSTM knows all by heart, and 42% to 46% of others are wrong
(measured)."""
UNRECOGNIZED = 0.25
"""Share of samples told from 63 others, drawn once more, below which augmentation hides what they are."""


@dataclass(frozen=True)
class InformativeInputs:
    """What a short training found of the inputs; losses are means over samples, shares 0 to 1."""

    real_loss: float
    """Loss after training on real inputs, on the samples trained on."""
    zero_loss: float
    """The same with all inputs zero, or the best that can be had without inputs, H(y), which it cannot be
    below."""
    prior_entropy: float
    """H(y) in nats, of the samples whose loss was taken."""
    held_out_accuracy: float
    """Of the network trained on real inputs, 0 to 1."""
    held_out_score: float
    """Standard deviations by which it is above predictions that ignore the input (Cohen's kappa over its
    error)."""
    best_score: float
    """The score that perfect predictions would have."""
    probe_score: float
    """The same for a linear classifier on the inputs themselves: whether it is the data or the network."""
    distinct: float
    """Share of the inputs that differ from all others before them."""
    samples: int
    per_class: float
    """Samples trained on, per class."""
    is_cross_entropy: bool
    """Whether the loss can be compared with H(y)."""
    plain: InformativeInputs | None = None
    """The same without augmentation; None where it was not needed, or is not known."""
    probe_accuracy: float = math.nan
    """Of the linear classifier on held-out samples, 0 to 1."""
    mixed: bool = False
    """Whether samples are mixed of two, and have the class of the larger share."""
    told_more: bool = False
    """Whether the loss takes more of each sample than its class number, such as what a teacher said: then it
    is of other samples here."""
    words: bool = False
    """Whether samples are made of more than `LETTERS` different whole numbers."""
    steps: int = STEPS
    recognized: float = math.nan
    """Share of training samples that are told from others when they are drawn once more; NaN where it was not
    needed."""

    @property
    def teaches(self) -> bool:
        """Whether the network, or a linear classifier, generalizes."""
        return max(self.held_out_score, self.probe_score) >= CHANCE_SCORE

    @property
    def named(self) -> bool:
        """Whether samples were given by their numbers in a list, of which no linear classifier was made."""
        return math.isnan(self.probe_accuracy)

    def _undecided(self) -> str:
        """Why a network that does not generalize says nothing of the data; empty where it does."""
        if self.told_more:
            return "the loss takes more of each sample than its class number, which was not given here"
        if self.per_class < PER_CLASS or self.best_score < POWER * (MIXED_POWER if self.mixed else 1.0):
            return "there are too few samples of most classes to tell why"
        if self.named and not self.real_loss < BY_HEART * self.prior_entropy:
            return "the network may be slow, for which nothing else was tried on samples in lists"
        if self.words:
            return "samples of words have few of these in common, and may need more than there are here"
        return ""

    def findings(self) -> list[Finding]:
        """What is wrong, the most important first; `inputs-informative` where nothing is."""
        seen = (
            f"After {self.steps} steps the loss is {self.real_loss:.3f} with real inputs and "
            f"{self.zero_loss:.3f} with zeros; {self.held_out_accuracy:.0%} of held-out samples are right, "
            f"{self.held_out_score:.1f} standard deviations above chance"
        )
        if self.distinct * self.samples < 2:
            remedy = (
                "Look at the inputs just before the network: scaling, casts and cropping can wipe them out."
            )
            message = "All inputs are the same, so that nothing can be learned from them."
            return [Finding("input-constant", "fail", message, remedy, "inputs", self.distinct, 1.0)]
        if self.is_cross_entropy and not self.told_more and self.zero_loss < LEAK * self.prior_entropy:
            remedy = "Look for labels that reach the network past its inputs."
            limit = LEAK * self.prior_entropy
            message = f"{seen}; zeros alone cannot give less than H(y) = {self.prior_entropy:.3f}."
            where = "zero inputs"
            return [Finding("wrong-initial-loss", "warn", message, remedy, where, self.zero_loss, limit)]
        score = self.held_out_score
        if score >= CHANCE_SCORE and not self.real_loss >= self.zero_loss:  # NaN where all would be masked
            return [Finding("inputs-informative", "ok", f"{seen}.", "", "inputs", score, CHANCE_SCORE)]
        linear = "" if self.named else f"; a linear classifier reaches {self.probe_score:.1f}"
        if self.teaches:
            seen += f"{linear}, so inputs do carry information."
            return [Finding("inputs-informative", "note", seen, "", "inputs", score, CHANCE_SCORE)]
        if undecided := self._undecided():
            seen += f"; {undecided}."
            return [Finding("inputs-informative", "note", seen, "", "inputs", score, CHANCE_SCORE)]
        weaker = "Look at augmented training images, and weaken the augmentation until you know them."
        fault = "regularization-too-strong"
        seen += f"{linear}."
        if self.plain is not None and self.plain.teaches:
            seen += (
                f" Of the same images without augmentation {self.plain.held_out_accuracy:.0%} are right, "
                f"{self.plain.held_out_score:.1f} standard deviations above chance: it leaves too little of "
                f"them to be recognized."
            )
            return [Finding(fault, "warn", seen, weaker, "augmentation", score, CHANCE_SCORE)]
        if self.recognized < UNRECOGNIZED and self.plain is None:  # else labels are wrong without it, too
            seen += (
                f" When the same samples are drawn once more, {self.recognized:.0%} of them are nearer to "
                f"themselves than to others: augmentation leaves too little of them to be recognized."
            )
            return [Finding(fault, "warn", seen, weaker, "augmentation", self.recognized, UNRECOGNIZED)]
        remedy = (
            "Look at samples with their labels, for one may be shuffled or sorted without the other, or "
            "turned by an augmentation into what its label does not say."
        )
        return [Finding("labels-random", "warn", seen, remedy, "labels", score, CHANCE_SCORE)]


def check_informative_inputs(
    model: nn.Module,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    samples: int = SAMPLES,
    named: bool = False,
    steps: int = STEPS,
) -> InformativeInputs:
    """Train copies of `model` for some steps on half of the samples and on zeros, and test on the other half:
    `inputs` (N, ...) and class numbers `targets` (N,), drawn at random, not augmented, N ≥ 128; up to
    `samples` in each half. The zero-input baseline is Karpathy's (A Recipe for Training Neural Networks,
    2019); a linear probe tells a network that does not learn from data without information, unless inputs are
    only `named`, by their numbers in a list: then a longer training does. `UserError` for too few samples,
    one class only, or parts that do not fit together."""
    check_batch(inputs, targets, minimum=FEWEST)
    if len(targets.unique()) < 2:
        raise UserError("targets: samples of at least two classes are needed.")
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    half = min(samples, len(inputs) // 2)
    fit, held_out = order[:half], order[half : 2 * half]
    x, y, held_x, held_y = inputs[fit], targets[fit], inputs[held_out], targets[held_out]
    # Of whole numbers zero may be none that the network takes, as for a length.
    nothing = torch.zeros_like(x) if x.is_floating_point() else x[:1].expand_as(x)
    real_loss, held_outputs, chance = _trained(model, loss, x, y, held_x, BATCH_SIZE, steps)
    classes = check_classes(held_outputs, held_y)
    predictions, entropy = held_outputs.argmax(dim=1), prior_entropy(y[:JUDGED])
    score = agreement_score(predictions, held_y, classes)
    if steps == STEPS and named and score < CHANCE_SCORE:
        return check_informative_inputs(model, loss, inputs, targets, samples, named, LONGER)
    zero_loss = _of_best_guess(model, loss, nothing, y)
    # What training on zeros comes to is no lower: above both limits it would change nothing that is said.
    if not zero_loss >= LEAK * entropy or (score >= CHANCE_SCORE and real_loss >= zero_loss):
        zero_loss, _, _ = _trained(model, loss, nothing, y, held_x[:2], ZERO_BATCH_SIZE)
    linear = predictions if named else linear_classifier(x, y, held_x, classes)
    return InformativeInputs(
        real_loss=real_loss,
        zero_loss=zero_loss,
        prior_entropy=entropy,
        held_out_accuracy=float((predictions == held_y).float().mean()),
        held_out_score=score,
        best_score=agreement_score(held_y, held_y, classes),
        probe_score=agreement_score(linear, held_y, classes),
        distinct=len(x.flatten(1).unique(dim=0)) / half,
        samples=half,
        per_class=half / len(y.unique()),
        is_cross_entropy=abs(chance - math.log(classes)) < 1e-3,
        probe_accuracy=math.nan if named else float((linear == held_y.cpu()).float().mean()),
        words=not named and _are_words([inputs]),
        steps=steps,
    )


def recognized(first: Tensor, second: Tensor) -> float:
    """Share of the samples `first` (N, ...) to which, of all `second` (N, ...), the one in its own place is
    nearest, by pixels averaged to 8×8, mirrored or not, in their own brightness and contrast or in the same:
    1 where nothing is random, 1/N where nothing is left of the samples."""
    versions = [second, second.flip(-1)] if second.ndim == 4 else [second]
    found = 0.0
    for change in (lambda x: x, _standard_each):
        features = change(small(first))
        distances = torch.stack([torch.cdist(features, change(small(each))) for each in versions]).amin(0)
        own = distances.argmin(dim=1) == torch.arange(len(features))
        found = max(found, float(own.float().mean()))
    return found


def _standard_each(features: Tensor) -> Tensor:
    spread = features.std(dim=1, keepdim=True).clamp_min(1e-12)
    return (features - features.mean(dim=1, keepdim=True)) / spread


def _parts(batch: Any) -> list[Tensor]:
    """The tensors in lists of samples; of packed ones what they are made of, without their order."""
    leaves = tree_leaves(batch, is_leaf=lambda leaf: isinstance(leaf, PackedSequence))
    parts = (leaf.data if isinstance(leaf, PackedSequence) else leaf for leaf in leaves)
    return [each for each in parts if isinstance(each, Tensor) and not each.is_nested]


def _are_words(tensors: Iterable[Tensor]) -> bool:
    whole = [each for each in tensors if each.dtype in (torch.int16, torch.int32, torch.int64)]
    return bool(whole) and len(torch.cat([each.flatten().cpu() for each in whole]).unique()) > LETTERS


def agreement_score(predictions: Tensor, targets: Tensor, classes: int) -> float:
    """By how many standard deviations `predictions` (N,) agree with `targets` (N,) more than unrelated ones
    would, 0 for a constant guess however common that class is: the numerator is that of Cohen's kappa
    (1960)."""
    predictions, targets, count = predictions.cpu(), targets.cpu(), len(targets)
    shares = [torch.bincount(labels, minlength=classes).double() / count for labels in (predictions, targets)]
    expected = float((shares[0] * shares[1]).sum())
    observed = float((predictions == targets).double().mean())
    error = math.sqrt(expected * (1 - expected) / count)
    return (observed - expected) / error if error > 0 else 0.0


def _trained(
    model: nn.Module,
    loss: Loss,
    x: Tensor,
    y: Tensor,
    held_out: Tensor,
    batch_size: int,
    steps: int = STEPS,
) -> tuple[float, Tensor, float]:
    """The final loss on the first of `x`, `y`, the outputs for `held_out`, and the loss of a uniform guess,
    in training mode: after so few steps BatchNorm's running statistics are far behind."""
    with trial(model, loss, dropout=False) as copies:
        copies = Trial(copies.model, copies.loss, quick_optimizer(copies.model))
        batches = torch.cat([torch.randperm(len(x)) for _ in range(1 + steps * batch_size // len(x))])
        for batch in batches.split(batch_size)[:steps]:
            copies.step(x[batch], y[batch])
        with torch.no_grad():
            outputs = copies.outputs(x[:JUDGED])
            final = float(copies.loss_of(outputs, y[:JUDGED]))
            return final, copies.outputs(held_out), uniform_loss(copies.loss_of, outputs, y[:JUDGED])


def _of_best_guess(model: nn.Module, loss: Loss, nothing: Tensor, y: Tensor) -> float:
    """The least loss on the first of `y` that outputs can have which are the same for all samples; NaN where
    those for `nothing`, zeros, are not the same once a batch of them has been trained on."""
    with trial(model, loss, dropout=False) as copies:
        copies = Trial(copies.model, copies.loss, quick_optimizer(copies.model))
        copies.step(nothing[:ZERO_BATCH_SIZE], y[:ZERO_BATCH_SIZE])
        with torch.no_grad():
            outputs = copies.outputs(nothing[:JUDGED])
        same = torch.allclose(outputs, outputs[:1].expand_as(outputs), rtol=1e-3)
        return constant_loss(copies.loss_of, outputs, y[:JUDGED]) if same else math.nan


class InformativeInputsCheck(Check):
    name = "informative_inputs"
    needs = "class numbers"
    fewest = 128

    def run(self, setup: TrainingSetup, options: Options) -> Outcome:
        setup.require_fixed_loss()
        size = options.size or SAMPLES
        named = self._named(setup)
        result = check_informative_inputs(setup.model, setup.loss, setup.inputs, setup.targets, size, named)
        if setup.step is not None:
            mixed = setup.step.code is not None and setup.step.code.mixed
            result = replace(result, told_more=setup.step.told_more, mixed=mixed)
        if named:
            assert setup.step is not None
            result = replace(result, words=_are_words(_parts(setup.step.rows.example)))
        elif isinstance(setup.model, Path) and bool(setup.model.numbers().any()):
            result = replace(result, words=False)  # the whole numbers are bits of floats
        unknown = any(f.cause == "labels-random" for f in result.findings())
        if setup.twice is not None and unknown and not result.mixed:  # each time with another sample
            with suppress(Exception):  # a data set may want other places than numbers
                result = replace(result, recognized=recognized(*setup.twice()))
        if setup.plain is not None and unknown and result.recognized != 1:
            with suppress(UserError):  # then it is not known
                plain, targets = setup.plain()
                result = replace(
                    result, plain=check_informative_inputs(setup.model, setup.loss, plain, targets, size)
                )
        accuracy, score = result.held_out_accuracy, result.held_out_score
        seen = f"held-out accuracy {accuracy:.0%}, {score:.1f} sd above chance"
        return Outcome(result.findings(), seen, f"{CHANCE_SCORE:g} sd or more", result)

    def facts(self, outcome: Outcome) -> dict[str, float]:
        """What the short trial reached on samples held out, `trial_accuracy`, and the linear classifier,
        `linear_accuracy`, less two standard errors."""
        result: InformativeInputs = outcome.result
        held_out = result.samples
        reached = {"trial": result.held_out_accuracy, "linear": result.probe_accuracy}
        return {
            f"{name}_accuracy": share_between(accuracy * held_out, held_out, 2.0)[0]
            for name, accuracy in reached.items()
            if math.isfinite(accuracy)
        }

    def _named(self, setup: TrainingSetup) -> bool:
        return setup.step is not None and setup.step.by_number

    def sizes(self, setup: TrainingSetup, options: Options) -> list[int]:
        return [min(size, len(setup.inputs) // 2) for size in (SAMPLES, SAMPLES // 2)]

    def seconds(self, size: int, setup: TrainingSetup, options: Options) -> float:
        pace = options.budget.pace
        training = pace.steps(BATCH_SIZE, count=STEPS) + pace.steps(JUDGED)
        longer = pace.steps(BATCH_SIZE, count=LONGER) if self._named(setup) else 0.0
        return 2 * pace.copy + training + longer + pace.passes(size + 2 * JUDGED)
