"""Are inputs, labels and batches prepared as they should be?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vitals.checks.chance import COUNT_ALL, class_weights
from vitals.checks.check import Check, Options, Outcome
from vitals.checks.training_setup import TrainingSetup, cut
from vitals.errors import UserError, listed
from vitals.findings import Finding, Level
from vitals.measures.class_order import FEWEST_LABELS, class_order, is_sorted, not_shuffled
from vitals.measures.counts import share_between
from vitals.measures.double import double
from vitals.measures.fresh_draws import fresh_layers
from vitals.measures.layer_outputs import WEIGHTED
from vitals.measures.other_preparations import leaps
from vitals.probes.class_numbers import IGNORED
from vitals.probes.step_losses import or_nan
from vitals.probes.step_model import Path
from vitals.probes.trial import Loss, check_batch, restore_configured_rates, trial


def standardized(inputs: Tensor) -> Tensor:
    """`inputs` (N, C, ...) by channel, and (N, D) as a whole; a constant channel becomes 0. Floats keep their
    type, bytes become float32; larger whole numbers, such as ids, are no scale and stay."""
    if not inputs.is_floating_point() and inputs.dtype != torch.uint8:
        return inputs
    values = inputs.float()
    dims = [0, *range(2, values.ndim)] if values.ndim > 2 else [0, 1]
    centred = values - values.mean(dims, keepdim=True)
    spread = centred.square().mean(dims, keepdim=True).sqrt()
    result = centred / spread.clamp_min(torch.finfo(torch.float32).tiny)
    return result.to(inputs.dtype) if inputs.is_floating_point() else result


OFF_CENTRE = 0.5
SMALL_SD, LARGE_SD = 0.2, 5.0
"""|mean| over sd, and sd, of a channel. Only noted: pixels from 0 to 1 train as well as normalized ones."""
TINY_SCALE, HUGE_SCALE = 0.02, 10.0
"""Spread and root mean square that are wrong for a network without normalization."""
TWICE = 0.9
"""Of 1/255, the largest value of pixels that were divided by 255 twice: some pixel is nearly white."""
FORETOLD = 0.5
"""Share of the variance of what is to be predicted that first outputs on its scale leave, and share of a
shift of all inputs by which those of a new network may miss it: with one draw of twelve they go with the
target of a table by chance."""
SENSITIVE = 5.0
"""Factor by which raw instead of standardized inputs change the spread of the outputs before they are on a
wrong scale for this very network."""
ROUNDED = 1e-6
"""Share of all numbers' root mean square below which a column's spread is rounding."""
AWAY = 2.5
"""Channels' means over their sds, by root mean squares, from which it is tried what these cost."""
TRIED, TRIED_BATCH, JUDGED = 40, 64, 128
"""Steps of the run's own optimizer, samples of each, and samples on which they are judged."""
LOST, GAINED = 0.5, 0.05
"""Share of what these steps take off the loss with normalized inputs up to which they do as they are, and
share of the loss that that is at least."""
BLANK, MOSTLY_BLANK = 0.25, 0.5
"""Share of inputs with one value everywhere: pixels divided by 255 and cast back to whole numbers leave 42%
of CIFAR-10 blank (measured)."""
FEWEST_SAMPLES = 8
"""Inputs below which nothing is said of how alike they are."""
FEW_DISTINCT = 0.1
"""Share of different inputs below which they are called identical: oversampling repeats a few."""
UNBALANCED = 0.4
"""H(y) / ln of the classes that occur, below which a few make up nearly all."""
MANY, FEW = 8, 4.0
"""Of 8 classes and more, the labels are spread as over fewer than 4: exp(H(y)), in other words."""
LEANING, UNEVEN = 0.5, 3.0
"""Power of a class's count with which its weight in the loss rises, where the commonest has so many times the
labels of the rarest; −1 for weights that make up for the counts."""
LEFT_OUT = 0.05
"""Share of the labels that are of classes of no weight."""
FEWEST_DISPUTED = 4
"""Images with different labels that are no slip of a few: of 4000 of CIFAR-10's none is there twice."""
SHIFTED = 0.75
"""Difference of the channel means of train and validation over the larger sd."""
TOLD, FEWEST_ROWS = 0.999999, 64
"""Correlation of one of several columns with what is to be predicted that is no coincidence, not even in a
smooth series; and rows from which it is taken."""
LEAPING, AS_MANY, SMOOTH = 0.01, 0.75, 1e-3
"""Shares of neighbouring pixels that differ by nearly the whole range: in training images from which bytes
have wrapped around, in share of those that differ by half of it, and in validation images up to which that is
none of their nature."""
RESCALED = 2.0
"""Ratio of their sds; noise of one sd makes it 1.4, mixup 0.7, the missing division by the sd 4."""


@dataclass(frozen=True)
class Channels:
    """Statistics per channel of a batch (N, C, ...), over samples and positions."""

    mean: tuple[float, ...]
    sd: tuple[float, ...]
    low: float
    high: float

    @property
    def spread(self) -> float:
        """Root mean square of what is about the channels' means."""
        return math.sqrt(sum(sd**2 for sd in self.sd) / len(self.sd))

    @property
    def scale(self) -> float:
        """Root mean square over everything."""
        squares = [mean**2 + sd**2 for mean, sd in zip(self.mean, self.sd, strict=True)]
        return math.sqrt(sum(squares) / len(squares))

    def __str__(self) -> str:
        mean, sd = (", ".join(f"{value:.3g}" for value in values[:4]) for values in (self.mean, self.sd))
        return f"mean ({mean}), sd ({sd}), range {self.low:.3g} to {self.high:.3g}"


@dataclass(frozen=True)
class Inputs:
    """What the network is given: of the inputs by channel, of the labels by class."""

    train: Channels
    validation: Channels | None
    finite: bool
    blank: float
    """Share of inputs that have the same value everywhere."""
    distinct: float
    """Share of inputs that differ from all before them."""
    samples: int
    sensitivity: float
    """Spread of the outputs with these inputs over that with standardized ones; NaN without a model, and
    infinite for huge ones that a recurrent layer gets first, which squashes whatever it is given."""
    classes: int
    label_counts: tuple[int, ...]
    """By class number, over the labels seen."""
    out_of_range: int
    """Labels below 0 or not below the number of classes."""
    alike: float
    """Correlation of the labels within a training batch: 0 if shuffled, 1 if each batch has one class."""
    alike_score: float
    """The same in standard deviations."""
    repeated: tuple[int, int] = (0, 0)
    """Images that are there more than once, and those of them that have different labels."""
    draws: tuple[int, int, int] = (0, 0, 0)
    """What the sampler draws first, how much of that is different, and how many samples there are."""
    weights: tuple[float, ...] = ()
    """Of the classes in the loss, by class number, 1 in the mean over samples; NaN or missing where that is
    not known."""
    places: tuple[int, int] = (0, 0)
    """How many class numbers the places of an image or a sequence have, and the first of them, where all are
    one; zeros else."""
    wears_out: bool = False
    """Whether the data set changes what it keeps when samples are taken out."""
    told: tuple[int, float] = (0, 0.0)
    """The column of a table that goes best with a number that is to be predicted, and its correlation."""

    leaps: tuple[tuple[float, float], float] = ((0.0, 0.0), 0.0)
    """See the function of that name: of training images, and the first of the two of validation images."""
    tried: tuple[float, float, float] | None = None
    """See `try_normalized`; None where inputs are not far from zero."""

    @property
    def balance(self) -> float:
        """H(y) / ln of the classes that occur: 1 if these are equally common, 0 if there is one, each label
        with its weight in the loss. A head may have the outputs of another data set."""
        if self.classes < 2 or not sum(self.label_counts):
            return 1.0
        occurring = sum(count > 0 for count in self.label_counts)
        return self.spread_of_labels / math.log(occurring) if occurring > 1 else 0.0

    @property
    def spread_of_labels(self) -> float:
        """H(y) in nats, each label with its weight in the loss."""
        counts = torch.tensor(self.label_counts).double()
        weights = torch.tensor(self.weights or (1.0,)).double().nan_to_num(1.0)
        if not bool((counts * weights).any()):
            weights = torch.ones(())
        return float(torch.special.entr(counts * weights / (counts * weights).sum()).sum())

    @property
    def leaning(self) -> float:
        """The power of a class's count with which its weight in the loss rises; 0 where no class has many
        times the labels of another."""
        known = zip(self.label_counts, self.weights, strict=False)
        pairs = [(math.log(count), math.log(weight)) for count, weight in known if count and weight > 0]
        if len(pairs) < 2 or max(pairs)[0] - min(pairs)[0] < math.log(UNEVEN):
            return 0.0
        counts, weights = torch.tensor(pairs).T
        return float((counts - counts.mean()) @ weights / (counts - counts.mean()).square().sum())

    def findings(self) -> list[Finding]:
        """What is wrong, the most important first; `inputs-prepared` where nothing is."""
        if not self.finite:
            seen = "The inputs contain NaN or infinity."
            remedy = "Look for divisions by a standard deviation of zero and for broken files."
            return [Finding("non-finite-loss", "fail", seen, remedy, "inputs")]
        found = [*self._wearing(), *self._told(), *self._one_label(), *self._repetition()]
        found += [*self._labels(), *self._agreement()]
        found = [*([] if found and found[0].where == "sampler" else self._information()), *found]
        if not any(finding.cause == "input-constant" for finding in found):
            found += self._scale()
        if not any(finding.alarming for finding in found):
            seen = f"Inputs have {self.train}"
            if self.classes:
                seen += f"; the rarest of {self.classes} classes has {min(self.label_counts)} labels"
            seen += "."
            found.append(Finding("inputs-prepared", "ok", seen, where="inputs"))
        return found

    def _information(self) -> list[Finding]:
        if self.samples < FEWEST_SAMPLES:
            return []
        # Without classes the inputs may be few and still be all that there are, as in a table of truth.
        few = max(FEW_DISTINCT if self.classes else 0.0, 1 / self.samples)
        blank, _ = share_between(self.blank * self.samples, self.samples)
        if blank <= BLANK and self.distinct > few:
            return []
        level: Level = "fail" if blank > MOSTLY_BLANK or self.distinct <= few else "warn"
        seen = (
            f"Of {self.samples} inputs {self.blank:.0%} have one value everywhere, and "
            f"{round(self.distinct * self.samples)} are different."
        )
        remedy = "Look at them just before the network: scaling, casts and cropping can wipe them out."
        if blank <= BLANK:
            remedy = (
                "Let the data set give out a copy of each sample, not an array that it writes the next one "
                "into, and look at the sampler."
            )
        return [Finding("input-constant", level, seen, remedy, "inputs", self.blank, BLANK)]

    def _wearing(self) -> list[Finding]:
        if not self.wears_out:
            return []
        seen = (
            "Taking a sample out changes the array in which the data set keeps it: with the same random "
            "numbers it is another one the next time. Each epoch trains on what the one before has left, and "
            "validation on what nothing has changed."
        )
        remedy = (
            "Let __getitem__ work on a copy, as image = self.images[index].clone() or .copy(); look for "
            "slices that are assigned to, -=, /= and inplace=True."
        )
        return [Finding("train-val-mismatch", "fail", seen, remedy, "data set", exact=True)]

    def _told(self) -> list[Finding]:
        column, correlation = self.told
        if not correlation > TOLD:
            return []
        seen = (
            f"Column {column} of the inputs is what is to be predicted, or made of it: over {self.samples} "
            f"samples their correlation is {correlation:.6f}."
        )
        remedy = "Take the target out of the table before its columns are scaled and become inputs."
        return [Finding("data-leak", "warn", seen, remedy, "inputs", correlation, TOLD, exact=True)]

    def _one_label(self) -> list[Finding]:
        count, label = self.places
        if not count or self.samples < FEWEST_ROWS:
            return []
        seen = f"All {count} places of {self.samples} samples are of class {label}."
        remedy = (
            "Look at the masks as they come: ToTensor() divides them by 255, which long() makes 0, and a "
            "file of colours is none of class numbers."
        )
        return [Finding("class-imbalance", "warn", seen, remedy, "labels", exact=True)]

    def _repetition(self) -> list[Finding]:
        drawn, different, available = self.draws
        few = FEW_DISTINCT * min(drawn, available)
        if drawn >= FEWEST_LABELS and different < few:
            seen = f"The first {drawn} samples that are drawn are {different} of {available}, over and over."
            remedy = "Let the sampler draw from all of them, as shuffle=True does."
            threshold = few / drawn
            return [Finding("overfitting", "warn", seen, remedy, "sampler", different / drawn, threshold)]
        return []

    def _scale(self) -> list[Finding]:
        scale, spread, seen = self.train.scale, self.train.spread, f"Inputs have {self.train}"
        remedy = "Subtract the training set's mean and divide by its standard deviation, per channel."
        if self.train.low >= 0 and TWICE < 255 * self.train.high <= 1.001:
            seen += ", as of pixels that were divided by 255 twice"
            remedy = "Divide by 255 once; ToTensor() does it."
        far = _is_far(spread, scale)
        matters = math.isnan(self.sensitivity) or not 1 / SENSITIVE <= self.sensitivity <= SENSITIVE
        if far and matters:
            if math.isinf(self.sensitivity):
                seen += ", and the first layer is recurrent: they drive its gates to their limits"
            elif not math.isnan(self.sensitivity):
                seen += f", and the outputs spread {self.sensitivity:.3g} times as far"
                seen += " as with normalized ones"
            value, limit = (scale, HUGE_SCALE) if scale > HUGE_SCALE else (spread, TINY_SCALE)
            return [Finding("input-not-normalized", "warn", f"{seen}.", remedy, "inputs", value, limit)]
        start, end, normalized = self.tried or (math.nan, math.nan, math.nan)
        if start - normalized > GAINED * start and start - end < LOST * (start - normalized):
            seen += (
                f", far from zero: {TRIED} steps of the optimizer take the loss from "
                f"{start:.3g} to {end:.3g}, with normalized inputs to {normalized:.3g}"
            )
            value = _away(self.train)
            return [Finding("input-not-normalized", "warn", f"{seen}.", remedy, "inputs", value, AWAY)]
        statistics = zip(self.train.mean, self.train.sd, strict=True)
        if any(abs(mean) > OFF_CENTRE * sd or not SMALL_SD <= sd <= LARGE_SD for mean, sd in statistics):
            message = f"{seen}, which is not mean 0 and sd 1, though this network can bear it."
            return [Finding("inputs-prepared", "note", message, remedy, "inputs", scale)]
        return []

    def _labels(self) -> list[Finding]:
        found = []
        if self.out_of_range:
            seen = f"{self.out_of_range} labels are not among the {self.classes} class numbers from 0."
            remedy = "Number the classes from 0 and give the network one output for each."
            found.append(Finding("labels-random", "fail", seen, remedy, "labels", self.out_of_range, 0))
        repeated, disputed = self.repeated
        if disputed >= FEWEST_DISPUTED and 2 * disputed > repeated:
            seen = f"{disputed} of {repeated} images that are there more than once have different labels."
            remedy = "Look for a set that was joined from two, which number their classes differently."
            found.append(Finding("labels-random", "warn", seen, remedy, "labels", disputed, FEWEST_DISPUTED))
        count = sum(self.label_counts)
        if is_sorted(self.alike, self.alike_score):
            found.append(not_shuffled(self.alike))
            return found  # a few sorted batches say nothing about how common classes are
        found += self._weights()
        few = self.classes >= MANY and count > 0 and math.exp(self.spread_of_labels) < FEW
        if count >= FEWEST_LABELS and (self.balance < UNBALANCED or few):
            most = max(self.label_counts)
            seen = f"Class {self.label_counts.index(most)} has {most} of {count} labels ({most / count:.0%})."
            remedy = "Draw rare classes more often, weight the loss by class, and judge by balanced accuracy."
            if most == count:
                remedy = (
                    "Look at where class numbers come from: a folder one level too high is one class, and so "
                    "is what a cast or a comparison has made of them."
                )
            elif most < count / 2:
                two = sum(sorted(self.label_counts)[-2:])
                seen = f"Two of {self.classes} classes have {two} of {count} labels ({two / count:.0%})."
            found.append(Finding("class-imbalance", "warn", seen, remedy, "labels", self.balance, UNBALANCED))
        return found

    def _weights(self) -> list[Finding]:
        """Classes that the loss leaves out, and weights the wrong way round."""
        total = max(sum(self.label_counts), 1)
        silent = [number for number, weight in enumerate(self.weights) if weight == 0]
        share = sum(self.label_counts[number] for number in silent) / total
        if share > LEFT_OUT:
            seen = (
                f"The loss leaves out the samples of class {listed(map(str, silent))}, {share:.0%} of the "
                f"labels: it is never learned."
            )
            return [Finding("class-imbalance", "warn", seen, COUNT_ALL, "loss", share, LEFT_OUT, exact=True)]
        if self.leaning > LEANING:
            ranked = sorted((count, number) for number, count in enumerate(self.label_counts) if count)
            (fewest, least), (most, commonest) = ranked[0], ranked[-1]
            seen = (
                f"The loss makes uneven classes more so: class {commonest}, with {most} of {total} labels, "
                f"has the weight {self.weights[commonest]:.2g}, and class {least}, with {fewest}, "
                f"{self.weights[least]:.2g}."
            )
            remedy = "Weight each class by the inverse of its count."
            return [
                Finding("class-imbalance", "warn", seen, remedy, "loss", self.leaning, LEANING, exact=True)
            ]
        return []

    def _agreement(self) -> list[Finding]:
        if self.validation is None:
            return []
        train, validation = self.train, self.validation
        remedy = "Use one function for scaling and normalization in both, and only augmentation in training."
        seen = f"Training inputs have {train}, validation inputs {validation}."
        if len(train.mean) != len(validation.mean):
            return [Finding("train-val-mismatch", "warn", seen, remedy, "validation inputs")]
        worst_shift, worst_ratio = 0.0, 1.0
        channels = zip(train.mean, train.sd, validation.mean, validation.sd, strict=True)
        for mean, sd, other_mean, other_sd in channels:
            large, small = max(sd, other_sd), min(sd, other_sd)
            if large == 0:
                worst_shift = max(worst_shift, math.inf if mean != other_mean else 0.0)
                continue
            worst_shift = max(worst_shift, abs(mean - other_mean) / large)
            worst_ratio = max(worst_ratio, large / small if small else math.inf)
        for worst, limit in ((worst_ratio, RESCALED), (worst_shift, SHIFTED)):
            if worst > limit:
                where = "validation inputs"
                return [Finding("train-val-mismatch", "warn", seen, remedy, where, worst, limit)]
        (whole, half), other = self.leaps
        if whole > max(LEAPING, AS_MANY * half) and other < SMOOTH:
            seen = (
                f"In training images {whole:.1%} of neighbouring pixels differ by nearly the whole range, "
                f"and {half:.1%} by half of it, in validation images {other:.2%}: as where bytes go beyond "
                f"255 and begin again at 0."
            )
            remedy = "Compute with floats, or wider integers, and clip to 0 and 255 before casting to uint8."
            return [Finding("train-val-mismatch", "warn", seen, remedy, "inputs", whole, LEAPING)]
        return []


def check_inputs(
    inputs: Tensor,
    targets: Tensor | None,
    classes: int = 0,
    *,
    label_batches: Sequence[Tensor] = (),
    validation_inputs: Tensor | None = None,
    model: nn.Module | None = None,
    draws: tuple[int, int, int] = (0, 0, 0),
    weights: Sequence[float] = (),
    numbers: Tensor | None = None,
    even: bool = False,
    wears_out: bool = False,
    tried: tuple[float, float, float] | None = None,
) -> Inputs:
    """Look at training inputs (N, C, ...), N better 256 or more, and class numbers (N,) as they enter the
    network; without class numbers, `targets` is None, and `numbers` (N,) or (N, 1) may be to be predicted.
    `label_batches` are the labels of successive training batches, from which the order is judged;
    `validation_inputs` (M, C, ...) are compared with `inputs`; with `model`, an unusual scale counts only
    if this network minds it; `tried` is what `try_normalized` has found; the rest is as in `Inputs` and
    `TrainingSetup`. NaN is no fault where `model` gives finite outputs for it; the rest is then said of what
    is there. Labels of −100, which torch's losses leave out, are no fault. `UserError` where shapes do not
    fit or `classes` is below 2."""
    if targets is None:
        classes, targets = 0, torch.zeros(0, dtype=torch.long)
    else:
        check_batch(inputs, targets)
        if classes < 2:
            raise UserError(f"classes: at least 2 are needed, not {classes}.")
    if model is not None and _takes_missing(model, inputs):
        inputs = _filled(inputs)
        validation_inputs = None if validation_inputs is None else _filled(validation_inputs)
    flat = inputs.flatten(1)
    successive = torch.cat([batch.flatten() for batch in label_batches]).cpu() if label_batches else None
    labels = targets.flatten().cpu() if successive is None else successive
    valid = labels[(labels >= 0) & (labels < classes)]
    counts = torch.bincount(valid, minlength=classes)
    finite = bool(torch.isfinite(inputs).all())
    jumps = (0.0, 0.0), 0.0
    if validation_inputs is not None and inputs.ndim == 4 == validation_inputs.ndim and finite:
        jumps = leaps(inputs), leaps(validation_inputs)[0]
    alone = even and len(targets) >= FEWEST_LABELS and len(targets.unique()) == 1
    alike, score = class_order(label_batches, classes, alone) if classes else (0.0, 0.0)
    return Inputs(
        train=_channels(inputs),
        validation=None if validation_inputs is None else _channels(validation_inputs),
        finite=finite and (validation_inputs is None or bool(torch.isfinite(validation_inputs).all())),
        blank=float((flat == flat[:, :1]).all(dim=1).float().mean()) if flat.shape[1] > 1 else 0.0,
        distinct=len(flat.unique(dim=0)) / len(flat),
        samples=len(flat),
        sensitivity=_sensitivity(model, inputs, numbers) if model is not None and finite else math.nan,
        classes=classes,
        label_counts=tuple(counts.tolist()),
        out_of_range=int(((labels != IGNORED) & ((labels < 0) | (labels >= classes))).sum()),
        alike=alike,
        alike_score=score,
        repeated=_repeated(inputs, targets),
        draws=draws,
        weights=tuple(weights),
        places=_places(numbers),
        wears_out=wears_out,
        told=_told(inputs, numbers),
        leaps=jumps,
        tried=tried,
    )


def _is_far(spread: float, scale: float) -> bool:
    return spread < TINY_SCALE or scale > HUGE_SCALE


def _away(channels: Channels) -> float:
    means = math.sqrt(sum(mean**2 for mean in channels.mean) / len(channels.mean))
    return means / channels.spread if channels.spread > 0 else 0.0


def try_normalized(
    model: nn.Module, loss: Loss, optimizer: Optimizer, inputs: Tensor, targets: Tensor
) -> tuple[float, float, float]:
    """The loss on the first `JUDGED` of `inputs` (N, ...) and `targets` (N,) before `TRIED` steps of a copy
    of `optimizer`, after them, and after as many with normalized inputs; infinite where it is no number."""
    found: list[float] = []
    for version in (inputs, standardized(inputs)):
        with trial(model, loss, optimizer, dropout=False) as copies:
            assert copies.optimizer is not None
            restore_configured_rates(copies.optimizer)
            judged = version[:JUDGED], targets[:JUDGED]
            with torch.no_grad():
                found.append(float(copies.loss_at(*judged)))
            for step in range(TRIED):
                places = torch.arange(step * TRIED_BATCH, (step + 1) * TRIED_BATCH) % len(inputs)
                copies.step(version[places], targets[places])
            with torch.no_grad():
                found.append(or_nan(partial(copies.loss_at, *judged)))
    start, end, _, normalized = (value if math.isfinite(value) else math.inf for value in found)
    return start, end, normalized


def _places(numbers: Tensor | None) -> tuple[int, int]:
    if numbers is None or numbers.is_floating_point() or numbers.dtype == torch.bool or numbers.ndim < 2:
        return 0, 0
    counted = numbers[numbers != IGNORED]
    alike = counted.numel() > len(numbers) and bool((counted == counted[:1]).all())
    return (counted.numel(), int(counted[0])) if alike else (0, 0)


def _told(inputs: Tensor, numbers: Tensor | None) -> tuple[int, float]:
    if numbers is None or inputs.ndim != 2 or inputs.shape[1] < 2 or numbers.numel() != len(inputs):
        return 0, 0.0
    if len(inputs) < FEWEST_ROWS or not numbers.is_floating_point():
        return 0, 0.0
    columns, target = (double(each) - double(each).mean(0) for each in (inputs, numbers.reshape(-1, 1)))
    sizes = (columns.square().sum(0) * target.square().sum()).sqrt()
    correlations = ((columns * target).sum(0) / sizes).abs().nan_to_num(0.0)
    return int(correlations.argmax()), float(correlations.max())


def _repeated(inputs: Tensor, targets: Tensor) -> tuple[int, int]:
    if inputs.ndim != 4 or not len(targets):
        return 0, 0
    labels: dict[bytes, list[int]] = {}
    for image, label in zip(inputs.float().cpu().numpy(), targets.tolist(), strict=True):
        labels.setdefault(image.tobytes(), []).append(label)
    several = [each for each in labels.values() if len(each) > 1]
    return len(several), sum(len(set(each)) > 1 for each in several)


def _channels(inputs: Tensor) -> Channels:
    values = inputs.float().transpose(0, 1).flatten(1) if inputs.ndim > 2 else inputs.float().flatten()[None]
    mean, sd = values.mean(dim=1).tolist(), values.std(dim=1, correction=0).tolist()
    return Channels(tuple(mean), tuple(sd), float(values.min()), float(values.max()))


def _takes_missing(model: nn.Module, inputs: Tensor) -> bool:
    """Whether there is NaN among the inputs, and none among the outputs: then the network looks for it."""
    if not bool(inputs.isnan().any()):
        return False
    try:
        with trial(model, dropout=False) as copies, torch.no_grad():
            return bool(copies.outputs(inputs).isfinite().all())
    except Exception:  # a network may refuse them in any way, and the finding is still that they are there
        return False


def _filled(inputs: Tensor) -> Tensor:
    """The inputs (N, ...) with means over the samples where they are NaN."""
    return torch.where(inputs.isnan(), inputs.nanmean(0).nan_to_num(0.0), inputs)


def _sensitivity(model: nn.Module, inputs: Tensor, numbers: Tensor | None) -> float:
    """How far outputs spread over the samples with `inputs`, over how far with standardized ones; NaN where
    the network takes no such inputs. 1 where it foretells the `numbers` to be predicted, or normalizes before
    its first layer, and infinite where a recurrent layer gets huge numbers first."""
    if numbers is not None and _foretells(model, inputs, numbers):
        return 1.0
    spread: list[float] = []
    driven: list[bool] = []
    bearable: list[bool] = []

    def look(module: nn.Module, given: Any) -> None:
        if driven:
            return
        entering = getattr(given[0], "data", None) if given else None  # it may be packed
        scale, sd = 0.0, 0.0
        if isinstance(entering, Tensor) and entering.is_floating_point() and entering.numel() > 1:
            scale, sd = float(entering.float().norm(2)) / math.sqrt(entering.numel()), float(entering.std())
        bearable.append(sd > 0 and not _is_far(sd, scale))
        driven.append(scale > HUGE_SCALE and isinstance(module, nn.RNNBase | nn.RNNCellBase))

    for version in (inputs, standardized(inputs)):
        try:
            with trial(model, dropout=False) as copies, torch.no_grad():
                for module in copies.model.modules():
                    if next(module.parameters(recurse=False), None) is not None:
                        module.register_forward_pre_hook(look)
                outputs = copies.outputs(version).reshape(len(version), -1)
        except (IndexError, RuntimeError):
            if not spread:
                raise
            return math.nan
        if driven and driven[0]:
            return math.inf
        if bearable and bearable[0]:
            return 1.0
        spread.append(float(outputs.float().std(dim=0).mean()))
    return spread[0] / spread[1] if spread[1] > 0 else math.nan


def _foretells(model: nn.Module, inputs: Tensor, numbers: Tensor) -> bool:
    """Whether outputs go with `numbers` from the start, as of trained weights, or of a forecast that undoes
    its own scaling, so that they follow where all inputs are shifted."""
    if not numbers.is_floating_point() or numbers.numel() < 2:
        return False
    wanted = numbers.reshape(len(numbers), -1)
    with trial(model, dropout=False) as copies, torch.no_grad():
        outputs = copies.outputs(inputs).reshape(len(inputs), -1)
        if wanted.shape != outputs.shape or not float((wanted - outputs).var() / wanted.var()) < FORETOLD:
            return False
        shift = float(inputs.float().std())
        followed = copies.outputs(inputs + shift).reshape(len(inputs), -1) - outputs
    return not fresh_layers(model) or abs(float(followed.mean()) - shift) < FORETOLD * shift


def enters_unscaled(model: nn.Module, loss: Loss, inputs: Any, targets: Any) -> list[Finding]:
    """What of the data enters a layer as huge numbers, where the loss is `SENSITIVE` times that with each of
    them at mean 0 and sd 1: for steps of several networks or outputs, as data count what no parameter has
    made. Frozen layers may make what they like."""
    kinds = (*WEIGHTED, nn.RNNBase)
    if any(isinstance(part, kinds) and not next(part.parameters()).requires_grad for part in model.modules()):
        return []
    huge: dict[str, Channels] = {}

    def look(name: str, mend: bool, module: nn.Module, given: Any) -> Any:
        entering = given[0] if given else None
        if not isinstance(entering, Tensor) or not entering.is_floating_point() or entering.ndim < 2:
            return None
        if entering.requires_grad or not torch.is_grad_enabled():
            return None
        if entering.is_nested or entering.layout != torch.strided:
            return None
        last = entering.ndim - 1 if isinstance(module, nn.Linear | nn.RNNBase) else 1
        dims = [dim for dim in range(entering.ndim) if dim != last]
        mean, sd = entering.mean(dims, keepdim=True), entering.std(dims, correction=0, keepdim=True)
        channels = Channels(
            tuple(mean.flatten().tolist()), tuple(sd.flatten().tolist()), *map(float, entering.aminmax())
        )
        if not channels.scale > HUGE_SCALE:
            return None
        huge[name] = channels
        return ((entering - mean) / sd.clamp_min(ROUNDED * channels.scale), *given[1:]) if mend else None

    found = []
    for mend in (False, True):
        with trial(model, loss, dropout=False) as copies:
            for name, part in copies.model.named_modules():
                if isinstance(part, kinds):
                    part.register_forward_pre_hook(partial(look, name, mend))
            found.append(float(copies.loss_at(inputs, targets).detach()))
        if not huge:
            return []
    plain, normal = found
    if not plain > SENSITIVE * normal > 0:
        return []
    name, channels = next(iter(huge.items()))
    scales = [mean**2 + sd**2 for mean, sd in zip(channels.mean, channels.sd, strict=True)]
    column = scales.index(max(scales))
    seen = (
        f"Of what enters '{name}' column {column} has mean {channels.mean[column]:.3g} and sd "
        f"{channels.sd[column]:.3g}: the loss is {plain:.4g}, and {normal:.4g} with each column at mean 0 "
        f"and sd 1."
    )
    remedy = "Subtract the training set's mean and divide by its standard deviation, column by column."
    return [Finding("input-not-normalized", "warn", seen, remedy, name, channels.scale, HUGE_SCALE)]


EXPECTED = f"mean up to {OFF_CENTRE:g} sd, sd {SMALL_SD:g} to {LARGE_SD:g}"


class _OfNumbers(nn.Module):
    """A network of floats and whole numbers as one of the floats alone, the others as in `inputs` (N, D)."""

    def __init__(self, path: Path, inputs: Tensor) -> None:
        super().__init__()
        self.path, self.inputs, self.places = path, inputs, path.numbers()

    def numbers(self, inputs: Tensor) -> Tensor:
        return inputs[:, self.places].contiguous().view(torch.float32)

    def forward(self, numbers: Tensor) -> Tensor:
        whole = self.inputs[: len(numbers)].clone()
        whole[:, self.places] = numbers.float().contiguous().view(torch.int32)
        outputs: Tensor = self.path(whole)
        return outputs


class InputsCheck(Check):
    name = "inputs"
    needs = "network"

    def sizes(self, setup: TrainingSetup, options: Options) -> list[int]:
        return [min(size, setup.samples) for size in (512, 256, 128)]

    def seconds(self, size: int, setup: TrainingSetup, options: Options) -> float:
        pace = options.budget.pace
        tried = 2 * pace.copy + pace.steps(TRIED_BATCH, count=2 * TRIED) if self._tries(setup, size) else 0.0
        return 3 * pace.copy + pace.passes(size, count=2) + tried

    def _tries(self, setup: TrainingSetup, size: int) -> Optimizer | None:
        """The optimizer, where inputs are so far from zero that it is tried what that costs; else None."""
        known = setup.gives == "class numbers" and not setup.loss_is_random and size > JUDGED
        if not known or not setup.inputs.is_floating_point():
            return None
        return setup.optimizer_or_none() if _away(_channels(cut(setup.inputs, size))) > AWAY else None

    def run(self, setup: TrainingSetup, options: Options) -> Outcome:
        if setup.step is not None and setup.step.by_number:
            raise UserError("your batches are lists of samples, which are not compared number by number.")
        size = options.size or 512
        model, inputs, validation = setup.model, cut(setup.inputs, size), setup.validation_inputs
        if isinstance(model, Path) and not inputs.is_floating_point() and bool(model.numbers().any()):
            model = _OfNumbers(model, inputs)
            inputs = model.numbers(inputs)
            validation = None if validation is None else model.numbers(validation)
        if not inputs.is_floating_point():
            raise UserError("the network gets whole numbers, such as token ids, which have no scale.")
        targets, classes, weights = None, 0, list[float]()
        numbers = setup.targets[:size] if isinstance(setup.targets, Tensor) else None
        if setup.gives == "class numbers":
            targets = setup.targets[:size]
            with trial(model, setup.loss) as copies, torch.no_grad():
                outputs = copies.outputs(inputs[:4])
                classes = outputs.shape[-1]
                fit = outputs.ndim == 2 and 0 <= int(targets.min()) <= int(targets.max()) < classes
                if fit and not setup.loss_is_random:
                    weights = class_weights(copies.loss_of, outputs[:1].expand(len(targets), -1), targets)
        tried = None
        if targets is not None and (optimizer := self._tries(setup, size)) is not None:
            tried = try_normalized(model, setup.loss, optimizer, inputs, targets)
        result = check_inputs(
            inputs,
            targets,
            classes,
            tried=tried,
            label_batches=setup.label_batches,
            validation_inputs=validation,
            model=model,
            draws=setup.draws,
            weights=weights,
            numbers=numbers if targets is None else None,
            even=setup.even,
            wears_out=setup.wears_out,
        )
        shown = (result.train.mean[:3], result.train.sd[:3])
        mean, sd = (", ".join(f"{value:.2f}" for value in values) for values in shown)
        expected = EXPECTED + ", shuffled labels" * bool(classes)
        return Outcome(result.findings(), f"mean {mean}; sd {sd}", expected, result)
