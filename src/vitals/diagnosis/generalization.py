"""Does what was learned hold for the validation samples?"""

import math
import statistics
from collections.abc import Iterator, Sequence
from itertools import pairwise

from vitals.checks.chance import COUNT_ALL
from vitals.diagnosis.capacity import MOST_DROPPED
from vitals.diagnosis.learning_rate import THROWN, TINY_UPDATE, no_rate_does_better, typical_update
from vitals.diagnosis.run import Run, needs
from vitals.diagnosis.signal import death, largest_update
from vitals.findings import Finding, Level
from vitals.measures.counts import CERTAIN, share_between
from vitals.measures.other_preparations import AS_GREY
from vitals.probes.fixed_subset import NEIGHBOURS, RARER

ACCURACIES = ("accuracy/train|accuracy/train_eval", "accuracy/val|accuracy/val_eval")
BEFORE = "what is known before the first step"
RISEN = 1.15
"""Times its lowest to which the validation loss must have risen."""
RENAMED = 0.1
"""Share of the validation samples, by three standard errors, that other numbers of the classes put right:
0.15 where four of ten classes are exchanged, at most 0.02 in 109 healthy runs, 0.09 in others (measured)."""
MOSTLY_LEFT_OUT, LITTLE_MORE = 0.5, 0.05
"""Share of the places of images of a class that the loss leaves out, as the background where 0 is taken for
padding; and what accuracy over all places may be above the rest. Where places without a label are meant, it
leaves them out, too."""
UNSHOWN = 0.05
"""Share of the validation samples of classes that were never shown."""
RARE, UNLEARNED = 0.2, 0.5
"""Share of the validation samples that are of classes rare in training, and the accuracy on them over that on
the others."""
KNOWN_MORE, FADED = 0.05, 0.5
"""Accuracy on validation samples above that on training samples before the first step, and the share of that
at the first look from which it stays."""
AS_OFTEN, ONE_WAY, ONWARD = 0.5, 2.0, 0.8
"""Times as often as its own, by three standard errors, that a sample is given the number of the class after
it, times as often as that of the class before it, and share of the samples in whose class it is, where part
of the labels are off by one: what is biased to one class has it from both sides."""
FARTHER, MIXED = 0.5, 0.6
"""Times as often that they are given the class after the next one, and training samples beside their class
over those that are right, at every look, where classes are steps of a scale along which validation is
shifted: what gives the next class half as often as the own has learned a third of such labels, and has 0.8
times as many of those beside their class as right."""
ROUGHER, ROUGHER_ERRORS = 1.5, 10.0
"""Times that neighbouring pixels differ as much in the images of one set as in those of the other, and
standard errors by which they must: classes and cameras differ by some."""
GAP = 0.1
"""Accuracy on training samples above that on validation samples: ten points."""
BY_HEART, LARGE_GAP = 0.95, 0.35
"""Training accuracy, and its distance to that of validation, of a set that is learned by heart."""
AT_CHANCE, MANY, PASSES = 0.98, 1000, 10
"""Share of the loss of a guess; different samples of which something is learned by any network that can; and
passes through them after which a network has begun to learn them by heart."""
UNSURE = 0.1
"""Two standard errors of the loss in the second half of the steps, over that of a guess, from which it cannot
be told whether it is below: 0.18 in episodes of a few classes of few samples each (measured)."""
NUMBERS = 500
"""Different samples with targets that are no class numbers of which something is learned that holds for
validation at some look, however many passes there are."""
UNPAIRED = 0.1
"""Share by which the loss on validation samples rises, two standard errors included, where what belongs to
one sample is given to another and nothing is known of them: 0.012 to 0.09 with targets shuffled, 1.8 to 350
without, 0.2 of pairs that are hardly learned yet (measured)."""
PLACES, MASKS, UNEVEN = 100, 64, 0.2
"""Places of a sample with a class each, as of a mask, from which so many different samples are many; and the
least loss of a guess of them: where nearly all is background, networks stay with it for long."""
ARRIVED, FLAT = 1.02, 0.01
"""Times the loss of a guess down to which a run has come, and share of it by which the last two quarters may
differ."""
FITTED, NO_BETTER, NEW = 0.5, 0.9, 0.9
"""Shares of the loss of the best guess that is one for all: up to which training targets are learned, from
which those of validation are not, and below which samples that are seen for the first time are known."""
TOLD = 0.1
"""Share of the loss that validation_step logs at first, and never gets below, to which the training step
comes on the same samples."""
OPPOSED = 1e-3
"""Share within which what validation_step logs is the loss of training_step with a minus, at each look."""
OTHER_SIGN = (
    "Check the sign of the loss in training_step: an optimizer makes it smaller, so that a score takes a "
    "minus, and an error none. Log a score under another name than a loss."
)
MIRRORED, MIRRORED_MOVE, MIRRORED_LOOKS = 0.1, 0.15, 3
"""The same share where the samples are others, how far both must have gone from zero meanwhile, in shares of
the first value, and at how many looks."""
SAME_LOSS = 1e-5
"""Share of it within which a loss is the same on other samples: it is not made of them."""
BETTER_THERE = 0.2
"""Share of a guess's loss by which samples that are seen for the first time are better known than those of
validation."""
GAINED = 0.7
"""Share of its first value below which a logged validation loss has become better."""
FIRST_STEPS = 10
"""Steps in the second half of the first epoch whose mean loss says something of samples not seen before."""
SHIFTED, RESCALED = 0.75, 2.0
"""Difference of the means of the targets over the larger spread, and ratio of these, from which they are
prepared, or drawn, otherwise."""
BEGUN = 0.15
"""Training accuracy above chance from which a set counts as learned, if by heart."""
LUCKY, NOT_BELOW = 0.05, 0.995
"""Accuracy above chance on validation samples that says nothing where their loss was never below this share
of a guess's: what a network answers much alike for a class is right or wrong for most of it at once. With
shuffled labels 13% of 1,000 were right, 3.3 binomial standard errors more than 10%, at 0.999 of that loss."""
APART = 2.0
"""Times the training loss that the validation loss is at least."""


@needs("loss/train|loss/train_eval", "loss/val|loss/val_eval|validation/loss")
def overfitting(run: Run) -> Iterator[Finding]:
    """The training loss goes on falling while the validation loss rises."""
    # Some modules log an accuracy alone; then the training step's loss on validation batches stands for it.
    tags = ("loss/val_eval", "loss/val", "validation/loss")
    tag = next((tag for tag in tags if len(run.history.series(tag))), tags[0])
    series = run.history.series(tag)
    validation = [value for value in series.values if math.isfinite(value)]
    training = run.values("loss/train_eval") or run.values("loss/train")
    known, right = run.accuracy("train"), run.share_right("train")
    if run.few_shown:
        training = run.values("loss/train")
        known, shown = run.history.last("accuracy/train", math.nan), run.fact("samples_different")
        right = share_between(known * shown, shown, errors=2.0)
    if len(validation) < 3 or len(training) < 2 or run.at_chance("val", best=True):
        return
    lowest = min(validation)
    place = series.values.index(lowest)
    late = min(validation[-2:])  # one bad epoch is no trend
    gap = known - run.accuracy("val")
    certain = right[0] - run.share_right("val")[1]
    apart = validation[-1] > APART * training[-1] > 0  # losses below zero have no ratio
    by_heart = known > BY_HEART and gap > LARGE_GAP and place < len(validation) - 1
    by_heart = by_heart and certain > GAP
    if by_heart and apart and validation[-1] > 1.02 * lowest:
        message = (
            f"{known:.0%} of the training samples are right, and {run.accuracy('val'):.0%} "
            f"of the validation samples, whose loss has not fallen since epoch {series.epochs[place]:.0f}."
        )
        remedy = "Take more or augmented data, weight decay or dropout, or a smaller network."
        if run.few_shown:
            remedy = (
                f"Only {run.fact('samples_different'):.0f} samples came in the first epoch: look for "
                f"overfit_batches, limit_train_batches or a part of the set left from a trial. Or: "
                f"{remedy[0].lower()}{remedy[1:]}"
            )
        yield Finding("overfitting", "warn", message, remedy, tag, gap, LARGE_GAP)
        return
    behind = gap >= GAP or (math.isnan(gap) and run.one_loss)
    if late > RISEN * lowest and place < len(validation) - 2 and apart and behind:
        message = (
            f"The validation loss rose from {lowest:.3g} at epoch {series.epochs[place]:.0f} to "
            f"{validation[-1]:.3g}, while the training loss fell to {training[-1]:.3g}."
        )
        remedy = (
            f"Stop at epoch {series.epochs[place]:.0f}, take more or augmented data, weight decay or "
            f"dropout, or a smaller network."
        )
        if not place:
            remedy = (
                f"Look at samples with their labels: it has never fallen. Or: {remedy[0].lower()}{remedy[1:]}"
            )
        yield Finding("overfitting", "warn", message, remedy, tag, validation[-1], RISEN * lowest)


@needs(*ACCURACIES, verdict="order of the classes")
def classes_renumbered(run: Run) -> Iterator[Finding]:
    """The network knows the validation samples, by other numbers of their classes."""
    relabelled = run.history.last("validation/relabelled", math.nan)
    accuracy, samples = run.history.last("validation/accuracy", math.nan), run.samples("val")
    # Beside what one name for all puts right; both are of the same samples, so that others do not differ.
    gain = relabelled - max(accuracy, run.history.last("validation/commonest", 0.0))
    least = gain - CERTAIN * math.sqrt(max(gain, 0.0) / max(samples, 1.0))
    known = run.accuracy("train")  # labels at random leave the classes apart, and know none of them
    if not least > RENAMED or not known / 2 < relabelled < 2 * known:
        return
    message = (
        f"{accuracy:.0%} of {samples:.0f} validation samples are right, but {relabelled:.0%} would be if "
        f"each class that is predicted were called what it most often is: classes have other numbers there."
    )
    remedy = (
        "Number the classes by one table (class_to_idx) in both sets, and look at how their folders sort."
    )
    where = "accuracy/val"
    yield Finding("train-val-mismatch", "fail", message, remedy, where, relabelled, accuracy, exact=True)


@needs(*ACCURACIES)
def classes_never_shown(run: Run) -> Iterator[Finding]:
    """Validation has classes that the training set lacks."""
    share = run.history.last("validation/unshown", 0.0)
    if not share > UNSHOWN or run.alarmed("class-imbalance"):
        return  # where one class is nearly all, others are missing
    evenly = bool(run.fact("train_as_is", 0.0))
    message = (
        f"{share:.0%} of {run.samples('val'):.0f} validation samples are of classes of which "
        f"{'the training set has' if evenly else 'the training samples looked at have'} none."
    )
    remedy = "Draw training and validation samples at random, or class by class, from one list of all."
    # What comes first of a stream need not be a fair sample of it.
    yield Finding("train-val-mismatch", "fail", message, remedy, "labels", share, UNSHOWN, exact=evenly)


@needs(*ACCURACIES)
def classes_rare(run: Run) -> Iterator[Finding]:
    """Classes of which training has next to nothing, and validation much, are not learned."""
    parts = ("rare", "rare_right", "accuracy")
    rare, right, accuracy = (run.history.last(f"validation/{part}", 0.0) for part in parts)
    unshown = run.history.last("validation/unshown", 0.0) > UNSHOWN
    if not run.finished or not RARE < rare < 1 or unshown:  # the rare ones are learned last
        return
    others = (accuracy - right) / (1 - rare)
    count = rare * run.samples("val")
    _, most = share_between(right / rare * count, count)
    if not most < UNLEARNED * others:
        return
    message = (
        f"{rare:.0%} of {run.samples('val'):.0f} validation samples are of classes that are more than "
        f"{RARER:g} times as rare among the training samples; {right / rare:.0%} of them are right, "
        f"{others:.0%} of the others."
    )
    remedy = (
        "Look whether training samples of these classes have been lost; else draw them more often, or weight "
        "the loss by class."
    )
    yield Finding("class-imbalance", "warn", message, remedy, "labels", right / rare, UNLEARNED * others)


@needs("accuracy/val|accuracy/val_eval")
def classes_left_out(run: Run) -> Iterator[Finding]:
    """Most places of the images are of a class that the loss leaves out and the accuracy counts."""
    share, accuracy = run.fact("left_out", 0.0), run.accuracy("val")
    if not share > MOSTLY_LEFT_OUT or not accuracy < 1 - share + LITTLE_MORE:
        return
    message = (
        f"The loss leaves out the class of {share:.0%} of the places of an image, and {accuracy:.0%} of all "
        f"places are right in validation: none of those is."
    )
    yield Finding("class-imbalance", "fail", message, COUNT_ALL, "loss", share, MOSTLY_LEFT_OUT, exact=True)


@needs(*ACCURACIES, verdict="preparation of validation")
def prepared_otherwise(run: Run) -> Iterator[Finding]:
    """The network knows the validation samples once they are prepared in another way."""
    accuracy, samples = run.history.last("validation/accuracy", math.nan), run.samples("val")
    looks = run.history.series("validation/accuracy").steps
    changed = {}
    for name in run.by_name("validation/changed"):
        series = run.history.series(f"validation/changed/{name}")
        # Of the same look: a network may have known more before, as one that diverges.
        if looks and series.steps[-1] == looks[-1]:
            changed[name] = series.values[-1]
    best = max(changed, key=lambda name: changed[name], default=None)
    if best is None:
        return
    least, _ = share_between(changed[best] * samples, samples)
    _, most = share_between(accuracy * samples, samples)
    grey = best == AS_GREY and changed[best] > accuracy  # which is seen of the images themselves
    if not least - most > RENAMED / 2 and not grey:
        return
    message = (
        f"{accuracy:.0%} of {samples:.0f} validation samples are right, and {changed[best]:.0%} with {best}: "
        f"they are prepared otherwise than the training samples."
    )
    remedy = "Prepare both by one function: reading, order of channels and axes, scaling."
    value = changed[best]
    yield Finding("train-val-mismatch", "fail", message, remedy, "accuracy/val", value, accuracy, exact=True)


@needs(*ACCURACIES, verdict="roughness of the images")
def rougher_or_smoother(run: Run) -> Iterator[Finding]:
    """Validation images are of another sharpness than training images, and less of them are known."""
    training, validation = run.fact("roughness"), run.fact("roughness_validation")
    ratio = max(training, validation) / max(min(training, validation), 1e-12)
    certain = ratio > ROUGHER and abs(run.fact("roughness_score")) > ROUGHER_ERRORS
    if not certain or run.fact("train_as_is") != 1 or not _behind(run) > GAP:
        return
    rough, smooth = ("training", "validation") if training > validation else ("validation", "training")
    message = (
        f"{run.accuracy('train'):.0%} of the training samples are right and {run.accuracy('val'):.0%} of the "
        f"validation samples, whose images are of another sharpness: neighbouring pixels differ {ratio:.2g} "
        f"times as much in {rough} images as in {smooth} images (by {training:.2g} of the deviation of an "
        f"image in training, {validation:.2g} in validation)."
    )
    remedy = (
        "Look at images of both as they enter the network; read, resize and crop them by one function, and "
        "look for noise in one set."
    )
    yield Finding("train-val-mismatch", "warn", message, remedy, "inputs", ratio, ROUGHER)


def _behind(run: Run) -> float:
    """By how much accuracy is lower on validation than on training samples, at least."""
    return run.share_right("train")[0] - run.share_right("val")[1]


@needs("validation/reweighed|new/accuracy", "accuracy/train_eval", verdict="labels wrong in part")
def labels_wrong_in_part(run: Run) -> Iterator[Finding]:
    """Images of the training set are less often right than those of validation, which were never shown."""
    if run.fact("train_as_is") != 1:
        return
    # Alike, one of them would seem so once in 700 looks; and training lifts what it shows.
    right, losses, others = (
        {step: value for step, _, value in run.history.series(tag)}
        for tag in ("accuracy/train_eval", "loss/train_eval", "validation/loss")
    )
    looks = [
        (score, right[step], value, "")
        for step, _, value in run.history.series("validation/reweighed")
        if step in right and losses.get(step, 0.0) > others.get(step, math.inf)
        if math.isfinite(score := _standard_errors(run, right[step], value))
    ]
    parts = ("accuracy", "validation", "samples", "validation_samples")
    new, known, *samples = (run.history.last(f"new/{part}", math.nan) for part in parts)
    if known - new > KNOWN_MORE:
        looks.append((_standard_errors(run, new, known, samples), new, known, " before their first step"))
    score, training, validation, when = max(looks, default=(0.0, math.nan, math.nan, ""))
    if not score > CERTAIN:
        return
    message = (
        f"{training:.0%} of the training samples are right{when}, as they are stored and in evaluation mode, "
        f"but {validation:.0%} of the validation samples, which the network was never shown: {score:.1f} "
        f"standard errors more. At least about {1 - training / validation:.0%} of the training labels do not "
        f"go with their samples, unless these are harder than those of validation."
    )
    remedy = "Look at the training samples with the largest loss, with their labels, and at who gave them."
    yield Finding("labels-random", "warn", message, remedy, "labels", score, CERTAIN)


@needs("training/next", *ACCURACIES, verdict="labels off by one")
def labels_off_by_one(run: Run) -> Iterator[Finding]:
    """Validation samples are given the number beside their own nearly as often as their own, always on one
    side, and training samples on both."""
    (after, before), (shown_after, shown_before) = (
        [run.history.last(f"{part}/{name}", 0.0) for name in NEIGHBOURS]
        for part in ("validation", "training")
    )
    samples, accuracy = run.samples("val"), run.history.last("validation/accuracy", math.nan)
    if math.isnan(accuracy):  # which is looked at where it is behind alone
        return
    way, side, other = ("after", after, before) if after > before else ("before", before, after)
    leaning = after - before - (shown_after - shown_before)
    onward = run.history.last("validation/onward", 0.0)
    alike = onward if after > before else 1 - onward
    error = math.sqrt(after + before) * math.sqrt(1 / samples + 1 / max(run.samples("train"), 1.0))
    least, _ = share_between(side * samples, samples)
    certain = abs(leaning) > CERTAIN * error and alike > ONWARD
    farther = run.history.last(f"validation/second_{'next' if after > before else 'previous'}", 0.0)
    right, shown = run.values("accuracy/train_eval"), [run.values(f"training/{each}") for each in NEIGHBOURS]
    mixed = any(sum(beside) > MIXED * known for known, *beside in zip(right, *shown, strict=False))
    if farther > FARTHER * side or not mixed:
        return
    if not least > AS_OFTEN * accuracy or not side > ONE_WAY * other or not certain:
        return
    message = (
        f"{accuracy:.0%} of {samples:.0f} validation samples are given their class, and {side:.0%} the one "
        f"{way} it, of the training samples {shown_after:.0%} the one after and {shown_before:.0%} the one "
        f"before: about {side / (side + accuracy):.0%} of the training labels are off by one."
    )
    remedy = (
        "Look for two sources that count classes from 0 and from 1, or with and without a background, and at "
        "how the folders of each sort."
    )
    yield Finding("labels-random", "fail", message, remedy, "labels", side, AS_OFTEN * accuracy, exact=True)


def _standard_errors(
    run: Run, training: float, validation: float, samples: Sequence[float] | None = None
) -> float:
    """By how many of its standard errors the accuracy of validation is above that of training samples; of the
    fixed subsets where no numbers of samples are given."""
    counts = (run.samples("train"), run.samples("val")) if samples is None else samples
    parts = zip((training, validation), counts, strict=True)
    variance = sum(max(share * (1 - share), 1e-3) / max(samples, 1.0) for share, samples in parts)
    return (validation - training) / math.sqrt(variance)


@needs("start/train", "start/validation", "accuracy/train_eval", "validation/reweighed", verdict=BEFORE)
def validation_known_before(run: Run) -> Iterator[Finding]:
    """Trained weights know the samples of validation better than those of the training, until these are
    shown: of harder samples, or wrong labels, that would not change."""
    training, validation = (run.history.last(f"start/{part}", math.nan) for part in ("train", "validation"))
    score = _standard_errors(run, training, validation)
    if not score > CERTAIN or not validation - training > KNOWN_MORE or run.fact("train_as_is") != 1:
        return
    shown = run.values("validation/reweighed")[0] - run.values("accuracy/train_eval")[0]
    if not shown < FADED * (validation - training):
        return
    message = (
        f"Before the first step {validation:.0%} of {run.samples('val'):.0f} validation samples are right, "
        f"{score:.1f} standard errors more than of the training samples ({training:.0%}): the weights come "
        f"from a training on samples that are validated now."
    )
    remedy = "Begin each fold with a new network, and go on from a checkpoint with the split that it had."
    yield Finding("data-leak", "warn", message, remedy, "validation", validation - training, KNOWN_MORE)


@needs(
    "facts/chance_loss|facts/guess_loss|validation/exchanged",
    "facts/samples_different|validation/exchanged",
    verdict="labels of many samples",
)
def nothing_to_learn(run: Run) -> Iterator[Finding]:
    """A network that learns twenty samples by heart learns nothing at all from many that are new to it."""
    different = run.fact("samples_different")
    seen = run.steps * run.batch_size
    # A few of the labels that were shown may be known by heart, where none of the others is.
    at_chance = run.at_chance("train") or (run.above_chance("train") < BEGUN and _nothing_held(run))
    unknown = run.validation_share > AT_CHANCE and _first_seen(run) >= NEW * run.guess_loss
    unknown = unknown and not _other_targets(run)  # then validation says nothing of the labels
    rise, error = (run.history.last(f"validation/exchanged{of}", math.nan) for of in ("", "_error"))
    looks = run.values("validation/loss")
    apart = rise < CERTAIN * error and rise + 2 * error < UNPAIRED
    apart = apart and len(looks) > 2 and looks[-1] >= min(looks[:-1])  # else it may be on its way
    if math.isnan(different) and apart:  # of numbers alone they are not counted, but kept for evaluation
        different = run.fact("train_subset")
    unknown = unknown or apart
    at_chance = run.guesses or unknown or (at_chance and run.last_loss > AT_CHANCE * run.chance_loss > 0)
    many = different >= max(MANY, seen / PASSES)
    sure: Level = "warn" if many or apart or run.guesses else "note"  # a weak signal, too, may be lost in few
    many = many or (unknown and different >= NUMBERS)
    if run.fact("places", 0.0) >= PLACES and run.guess_loss > UNEVEN and _stays_with_a_guess(run):
        many, sure = different >= MASKS, "warn"
    if run.fact("unlabelled", 0.0) > MOSTLY_LEFT_OUT:
        sure = "note"  # a masked language model stays with how often each token is there for long
    if not run.lasted or not many or not at_chance:
        return
    half = run.losses[len(run.losses) // 2 :]
    if run.guesses and not unknown and 2 * _error_of_mean(half) > UNSURE * run.fact("guess_loss"):
        return
    # Of several losses the first step is not looked at.
    tried = run.passed("step-size-sensible") or (apart and not run.one_loss)
    able = run.passed("tiny-subset-fits") and tried
    thrown = largest_update(run, None) >= THROWN and not no_rate_does_better(run)
    moves = typical_update(run) > TINY_UPDATE and not thrown
    if not able or not moves or death(run) or any(finding.alarming for finding in run.checks):
        return
    if run.fact("dropout", 0.0) >= MOST_DROPPED:  # without which the few were learned by heart
        return
    message = (
        f"From {different:.0f} different samples nothing was learned: the loss is {run.last_loss:.3g}, that "
        f"of a guess {run.guess_loss:.3g}, though the network learns a few by heart and its steps are as "
        f"they should be."
    )
    if apart:
        message = (
            f"From {different:.0f} different samples nothing was learned that holds for others: on those of "
            f"validation the loss is the same when what belongs to a sample is given to another "
            f"({rise:+.1%}, standard error {error:.1%}), though the network learns a few by heart and its "
            f"steps are as they should be."
        )
    elif unknown and not run.guesses:
        message = (
            f"From {different:.0f} different samples nothing was learned that holds for others: the loss on "
            f"validation samples was never below {run.validation_share:.0%} of that of one guess for all, "
            f"though the network learns a few by heart and its steps are as they should be."
        )
    remedy = (
        "Look at samples with their labels, and at the code that pairs or augments them: two readers, two "
        "orders, a change of one without the other."
    )
    limit = AT_CHANCE * run.guess_loss
    yield Finding("labels-random", sure, message, remedy, "labels", run.last_loss, limit)


def _error_of_mean(losses: Sequence[float]) -> float:
    return statistics.stdev(losses) / math.sqrt(len(losses)) if len(losses) > 1 else math.inf


def _nothing_held(run: Run) -> bool:
    """Whether nothing that was learned ever held for validation samples, by class numbers."""
    if run.at_chance("val", best=True):
        return True
    best = max(run.values("accuracy/val_eval"), default=math.inf) - run.chance("val")
    return best < LUCKY and min(run.values("loss/val_eval"), default=0.0) > NOT_BELOW * run.chance_loss


def _stays_with_a_guess(run: Run) -> bool:
    """Whether the loss has come down to that of a guess, and falls no further."""
    before, last = run.mean_loss(0.5, 0.75), run.mean_loss(0.75, 1)
    return last < ARRIVED * run.guess_loss and abs(before - last) < FLAT * run.guess_loss


@needs("validation/loss", "loss/train_eval", verdict="validation of numbers at a guess")
def validation_guessed(run: Run) -> Iterator[Finding]:
    """Training targets that are no class numbers are learned, in the first pass already, those of validation
    never."""
    share, training = run.validation_share, run.history.last("loss/train_eval", math.nan)
    guess = run.fact("guess_loss", run.first_loss)
    if not share > NO_BETTER or not training < FITTED * guess or not run.one_loss:
        return
    if not math.isfinite(run.fact("guess_loss")) and not min(run.losses, default=math.nan) > 0:
        return  # a loss that can go below zero has no share of its first value
    logged, others = run.values("loss/val"), _other_targets(run)
    if logged and min(logged) < GAINED * logged[0] and not (others and run.finished):
        return  # validation_step prepares the batch in a way of its own, and gets better at it
    new = _first_seen(run)
    if not new < min(NEW, share - BETTER_THERE) * guess and not others:
        return
    of = "that of one guess for all" if math.isfinite(run.fact("guess_loss")) else "the first one"
    message = (
        f"The loss is {training / guess:.0%} of {of} on training samples, {new / guess:.0%} on those that "
        f"were seen for the first time, and never below {share:.0%} on validation samples"
    )
    remedy = "Prepare both by one function: order of columns and axes, scaling, units; split at random."
    if others:
        message += f": {others}"
        remedy = (
            "Scale the targets of both by the same figures; split at random, not a sorted table, but a "
            "series in time by its order."
        )
    yield Finding("train-val-mismatch", "fail", f"{message}.", remedy, "loss/val", share, NO_BETTER)


@needs("loss/train_eval|loss/train", "loss/val", verdict="sign of the validation loss")
def validation_mirrored(run: Run) -> Iterator[Finding]:
    """The loss falls from zero on training samples as far as it rises from it on those of validation, where
    the training step cannot be tried on these."""
    logs = {step: value for step, _, value in run.history.series("loss/val")}
    tag = "loss/train_eval" if run.values("loss/train_eval") else "loss/train"
    pairs = [(loss, logs[step]) for step, _, loss in run.history.series(tag) if step in logs]
    if len(pairs) < MIRRORED_LOOKS or run.values("validation/loss"):
        return
    mirrored = all(loss < 0 and math.isclose(loss, -value, rel_tol=MIRRORED) for loss, value in pairs)
    apart = all(a > c and b < d for (a, b), (c, d) in pairwise(pairs))
    (first, begun), (last, ended) = pairs[0], pairs[-1]
    if not (mirrored and apart and min(last / first, ended / begun) > 1 + MIRRORED_MOVE):
        return
    message = (
        f"At each of {len(pairs)} looks the validation loss is that of training with the other sign, "
        f"within {MIRRORED:.0%}: from {begun:.4g} to {ended:.4g} and {first:.4g} to {last:.4g}."
    )
    yield Finding("wrong-initial-loss", "warn", message, OTHER_SIGN, "loss/val", ended, MIRRORED)


@needs("validation/loss", "loss/val", verdict="what validation_step gives the network")
def validation_told_less(run: Run) -> Iterator[Finding]:
    """On the same validation samples the training step gets better and better, validation_step never, or has
    the same loss with the other sign."""
    own, logged = run.values("validation/loss"), run.values("loss/val")
    logs = {step: value for step, _, value in run.history.series("loss/val")}
    pairs = [(loss, logs[step]) for step, _, loss in run.history.series("validation/loss") if step in logs]
    opposed = len(pairs) > 1 and all(math.isclose(a, -b, rel_tol=OPPOSED) and a for a, b in pairs)
    if opposed and pairs[-1][0] < pairs[0][0] and not run.alarmed("wrong-initial-loss"):
        message = (
            f"On the same validation samples the loss of training_step came from {pairs[0][0]:.4g} to "
            f"{pairs[-1][0]:.4g}, and what validation_step logs from {pairs[0][1]:.4g} to "
            f"{pairs[-1][1]:.4g}: one of them has the other's sign."
        )
        cause, value = "wrong-initial-loss", pairs[-1][1]
        yield Finding(cause, "fail", message, OTHER_SIGN, "loss/val", value, OPPOSED, exact=True)
        return
    if run.has_class_numbers or min(len(own), len(logged)) < 3 or min(logged) < logged[0]:
        return
    if not 0 < own[-1] < min(FITTED * own[0], TOLD * logged[0]):
        return
    if math.isclose(own[-1], run.history.last("loss/train_eval", math.nan), rel_tol=SAME_LOSS):
        return  # whatever batch it is given: it takes its samples from elsewhere
    message = (
        f"On the same validation samples training_step has come from a loss of {own[0]:.2g} to "
        f"{own[-1]:.2g}, and validation_step logs {logged[-1]:.3g}, never less than at first "
        f"({logged[0]:.3g}): what training gives the network may hold what it is to predict."
    )
    remedy = (
        "Look at what each step gives the network: a decoder gets the symbols before, shifted by one, not "
        "the symbol itself; else prepare both by one function."
    )
    yield Finding("train-val-mismatch", "fail", message, remedy, "loss/val", own[-1] / logged[0], TOLD)


def _other_targets(run: Run) -> str:
    """In which way validation has other targets than training; empty where it has not."""
    (mean, sd), (other_mean, other_sd) = (
        [run.history.last(f"{part}/target_{name}", math.nan) for name in ("mean", "sd")]
        for part in ("facts", "validation")
    )
    large, small = max(sd, other_sd), min(sd, other_sd)
    if not (abs(mean - other_mean) > SHIFTED * large or large > RESCALED * small):
        return ""
    return (
        f"training targets have mean {mean:.3g} and sd {sd:.3g}, those of validation {other_mean:.3g} and "
        f"{other_sd:.3g}"
    )


def _first_seen(run: Run) -> float:
    """Mean loss of the second half of the first epoch, whose samples were not seen before."""
    series = run.history.series("loss/train_step")
    first = [value for epoch, value in zip(series.epochs, series.values, strict=True) if 0.5 < epoch <= 1]
    return statistics.fmean(first) if len(first) >= FIRST_STEPS else math.nan


@needs("facts/chance_accuracy", *ACCURACIES)
def validation_at_chance(run: Run) -> Iterator[Finding]:
    """Training images are learned, validation samples are not even begun to be."""
    if not run.above_chance("train") > BEGUN or not math.isfinite(run.above_chance("val")):
        return
    if any(classes_renumbered(run)) or any(prepared_otherwise(run)):
        return
    chance = run.chance("val")
    most = run.share_right("val")[1] - chance
    if not run.at_chance("val") or most > 0.3 * run.above_chance("train"):
        return
    seen = (
        f"Accuracy is {run.accuracy('train'):.0%} on training samples and {run.accuracy('val'):.0%} on "
        f"{run.samples('val'):.0f} validation samples, no better than chance ({chance:.0%}; "
        f"{chance + most:.0%} at most, by two standard errors)"
    )
    if run.passed("inputs-informative"):
        cause = "train-val-mismatch"
        message = f"{seen}, though a short trial generalized to training samples that were held out."
        remedy = "Prepare both alike: normalization, order of channels and of classes, orientation, size."
    else:
        cause, message = "labels-random", f"{seen}: the labels are learned by heart."
        remedy = "Look at samples with their labels, and at the code that pairs them."
    value = run.accuracy("val")
    yield Finding(cause, "fail", message, remedy, "accuracy/val_eval", value, chance)
