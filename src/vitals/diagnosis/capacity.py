"""Is the network given enough room to learn?"""

import math
import statistics
from collections.abc import Iterator
from itertools import pairwise

from vitals.checks.layer_variance import COLLAPSED
from vitals.checks.regularization import TAKEN, takes_away
from vitals.diagnosis.learning_rate import FAR_LEFT, FEW_SAMPLES, too_high, too_low, typical_update
from vitals.diagnosis.run import BARELY, Run, needs
from vitals.diagnosis.signal import death, starved
from vitals.findings import Finding, Level
from vitals.measures.counts import CERTAIN

SHRUNK = 0.3
"""Share of its starting norm to which a healthy weight hardly ever shrinks."""
HALVED = 0.5
"""The same of a run that falls short of a short trial."""
GONE = 0.01
"""The same from which nothing is left of them, where hardly more than a guess is learned."""
OUTWEIGHS, LITTLE = 30.0, 0.1
"""Times that a part of the loss pulls as hard as that of the outputs, and accuracy above an even guess, from
which it is too strong."""
OUTPULLS = 3.0
"""The first of these where a layer has died under it and nothing is learned."""
SAME, KEPT = 0.01, 0.1
"""Share of its first variance over samples that is left of a layer whose outputs a penalty has made the same
for all, and share that the layer after it keeps by what comes from elsewhere, such as noise."""
PULLED = 0.1
"""Share of its first gradient that a layer still gets, over that of the one behind it, from which it is not
lost, but small, as in front of a normalization, or idle beside a shortcut."""
BATCHES_A_STEP = 4.0
"""Batches a step from which it is their number that leaves a run of an epoch and more with few steps."""
FEWEST_STEPS, FEW_STEPS, STEPS_AN_EPOCH = 5, 50, 3.0
"""Steps of a run that is no mere trial, those with which nothing is trained from scratch, and steps an epoch
of batches that are most of the set."""
CUT_SHORT = 0.5
"""Share of the batches of an epoch after which it ends that is cut short."""
MANY = 2000
"""Samples seen from which a network falls short that knows less than a linear classifier of 512."""
POOR = 0.8
"""Share of the loss of a guess above which hardly anything was learned."""
LEVEL = 0.02
"""Share of the loss by which it falls in the last half of a run that has come to its end."""
WORSE = 1.2
"""Times the loss of a guess up to which dropout may keep it there, since a guess is not far: 1.46 where steps
a hundred times too long throw the outputs about (measured)."""
KEPT_BACK = 0.05
"""Accuracy on validation samples by which a linear classifier of what enters a narrow layer is above the
network."""
UNDER_WAY = 0.3
"""Share of all that the loss has fallen by which it falls from the third quarter of the steps to the last,
from which a run has only begun: then a linear classifier is above networks with wide layers, too."""
MOST_DROPPED = 0.9
"""Probability of dropout from which it looks like the share to be kept: the largest in use is 0.8."""


@needs("loss/train_step", "weight_norm/")
def regularization_too_strong(run: Run) -> Iterator[Finding]:
    """The penalty takes the weights away, or what is switched off leaves too little to learn from."""
    if not run.long_enough:
        return
    decay, group = run.fact("decay_apart", 0.0), round(run.fact("decay_group", 0.0))
    rate = statistics.median(run.values(f"lr/{group}") or [0.0])
    if rate * decay > TAKEN:
        yield takes_away(decay, rate, group)
        return
    shrunk = {
        name: norms[-1] / norms[0]
        for name, norms in run.by_name("weight_norm").items()
        if name.endswith("weight") and len(norms) > 2 and norms[0] > 0
    }
    typical = statistics.median_high(shrunk.values()) if shrunk else 1.0
    # What has no weights of that kind, as what each user adds to a rating, may be learned all the same.
    gone = typical < GONE and run.finished and run.last_loss > BARELY * run.guess_loss > 0
    halved = typical < HALVED and run.falls_short
    if ((typical < SHRUNK and not run.learns) or gone or halved) and not starved(run):
        message = (
            f"The weights have shrunk to {typical:.1%} of their starting norm, and "
            f"{'little' if run.learns else 'nothing'} is learned."
        )
        remedy = "Lower the weight decay until they keep their size."
        limit = HALVED if halved else SHRUNK
        yield Finding("regularization-too-strong", "fail", message, remedy, "weight_norm", typical, limit)
        return
    beside, accuracy, chance = run.fact("beside"), run.accuracy("val"), run.fact("even_share")
    died = death(run)
    put_out = died if died and died.later and not run.learns else None  # by what wants to see no activation
    limit = OUTPULLS if put_out else OUTWEIGHS
    moves = typical_update(run) != 0  # else no pull gets through
    if moves and beside > limit and run.lasted and accuracy < chance + LITTLE:
        message = (
            f"What the loss takes beside the outputs of the network, as of features, pulled {beside:.2g} "
            f"times as hard as what it takes of these; {accuracy:.0%} of the validation samples are right."
        )
        message = f"{message} {put_out.sentence}." if put_out else message
        remedy = "Lower the weight of that part of the loss until both pull alike."
        yield Finding("regularization-too-strong", "warn", message, remedy, "loss", beside, limit)
        return
    evaluated = run.values("loss/train_eval")
    # A loss that takes its labels otherwise in training, as smoothed ones, has a guess of its own there.
    chance = max(run.guess_loss, run.fact("own_chance", 0.0))
    if not evaluated or not run.learns:
        return
    dropped, hidden = run.fact("dropout", 0.0), run.last_loss - evaluated[-1]
    # Where hardly anything is to be learned, as of classes that are nearly one, it may be but the batches.
    above, known = hidden > CERTAIN * run.last_error, chance > 0
    half = dropped >= MOST_DROPPED and (hidden > (chance - evaluated[-1]) / 2 > 0 if known else above)
    at_guess = 0.97 * chance < run.last_loss < WORSE * chance
    if half or (above and at_guess and evaluated[-1] < 0.95 * chance):
        message = f"With dropout or augmentation the loss is {run.last_loss:.3g}"
        message += f", that of a guess {chance:.3g}" if known else ""
        message += f"; without it {evaluated[-1]:.3g}."
        remedy = "Lower the dropout, or weaken the augmentation."
        if half:
            remedy = f"Lower the dropout of {dropped:g}: it is the share that is dropped, not that is kept."
        yield Finding(
            "regularization-too-strong", "warn", message, remedy, "loss/train_step", run.last_loss, chance
        )


@needs("activation_variance/", "gradient_variance/", verdict="features the same for all")
def features_lost(run: Run) -> Iterator[Finding]:
    """In a training without classes a layer comes to give the same for every sample, and the one after it
    lives on what comes from elsewhere."""
    if run.has_class_numbers or not run.lasted or starved(run):
        return
    layers = {name: values for name, values in run.by_name("activation_variance").items() if len(values) > 3}
    left = {name: max(values[-3:]) / values[0] for name, values in layers.items() if values[0] > 0}
    gradients = {name: values for name, values in run.by_name("gradient_variance").items() if values}
    pulls = {name: values[-1] / values[0] for name, values in gradients.items() if values[0] > 0}
    for name, after in pairwise(layers):
        lost = left.get(name, 1.0) < SAME and pulls.get(name, math.inf) < PULLED * pulls.get(after, 0.0)
        if lost and left.get(after, 0.0) > KEPT:
            message = (
                f"'{name}' gives nearly the same for every sample: its variance over them has fallen to "
                f"{left[name]:.2%} of what it was at first, while '{after}', behind it, keeps "
                f"{left[after]:.0%} of its own by what comes from elsewhere, such as noise."
            )
            remedy = (
                "Weaken what the loss takes of that layer beside the outputs, as a divergence that is summed "
                "where the rest is averaged; look for a collapse of features that are only to agree."
            )
            yield Finding("regularization-too-strong", "fail", message, remedy, name, left[name], SAME)
            return


@needs("loss/train_step")
def too_few_steps(run: Run) -> Iterator[Finding]:
    """The run ended after a handful of steps, each on much of the set, while the loss still fell."""
    if not FEWEST_STEPS <= run.steps < FEW_STEPS:
        return
    epochs = run.history.series("loss/train_step").epochs
    summed = run.fact("batches_per_step", 1.0)
    whole = summed >= BATCHES_A_STEP and epochs[-1] > 0.99  # part of a pass, by max_steps, is a trial
    few = run.steps < STEPS_AN_EPOCH * epochs[-1] or whole
    if not run.finished or not few or not run.batch_size >= FEW_SAMPLES or run.fact("limited", 0.0):
        return
    # Trained weights may need no more, and a step of LBFGS is many.
    if run.fact("fresh_layers", 1.0) < 0.5 or run.fact("iterations", 1.0) > 1:
        return
    third = run.steps // 3
    start, end = min(run.losses[:third]), max(run.losses[-third:])
    if not FAR_LEFT * run.first_loss < end < start:
        return
    message = (
        f"The run ended after {run.steps} steps in {epochs[-1]:.0f} epochs, on batches of "
        f"{run.batch_size:.0f}, while the loss was still falling: from {run.first_loss:.3g} to "
        f"{run.losses[-1]:.3g}."
    )
    remedy = "Take smaller batches, of 32 to 128 samples, or many more epochs."
    if summed >= BATCHES_A_STEP:
        remedy = (
            f"Step after fewer batches than {summed:.0f} (accumulate_grad_batches), or train for many more "
            f"epochs."
        )
    yield Finding("underfitting", "warn", message, remedy, "loss/train_step", run.steps, FEW_STEPS)


@needs("loss/train_step", "epoch_share")
def epochs_cut_short(run: Run) -> Iterator[Finding]:
    """Epochs end long before their last batch, and much is left to learn."""
    shares = run.values("epoch_share")
    cut = [share for share in shares if share < CUT_SHORT]  # the last may end with the training
    if len(cut) < 2 or not run.finished or not run.last_loss > FAR_LEFT * run.first_loss > 0:
        return
    message = (
        f"{len(cut)} of {len(shares)} epochs ended after {max(cut):.0%} of their batches at most, and the "
        f"loss went from {run.first_loss:.3g} to {run.last_loss:.3g}."
    )
    remedy = (
        "Return None from training_step to leave out a batch: -1 from on_train_batch_start ends the epoch; "
        "or look for a data set that gives fewer samples than its __len__ says."
    )
    # Somebody may cut a large set into short epochs, and go through it in many of them.
    level: Level = "warn" if sum(shares) < 1 else "note"
    yield Finding("underfitting", level, message, remedy, "batches", max(cut), CUT_SHORT)


@needs("loss/train_step", "facts/chance_loss|facts/guess_loss")
def without_biases(run: Run) -> Iterator[Finding]:
    """Hardly anything is learned by a network whose outputs are in proportion to its inputs."""
    guess = run.guess_loss
    if not run.fact("homogeneous", 0.0) or not run.lasted or not _is_level(run):
        return
    if not run.last_loss > POOR * guess > 0:
        return
    message = (
        f"No layer has a bias: twice the input gives exactly twice the output, so that all inputs in one "
        f"direction get one answer, and the loss ended at {run.last_loss:.3g}, where a guess has {guess:.3g}."
    )
    remedy = "Take bias=False away, in the first layer at least, or put a normalization behind it."
    yield Finding("underfitting", "warn", message, remedy, "loss/train_step", run.last_loss, POOR * guess)


@needs("facts/chance_loss", verdict="signal lost from the start")
def signal_lost(run: Run) -> Iterator[Finding]:
    """Hardly anything is learned by a network in which little of the signal arrives, though its optimizer
    makes up for small gradients."""
    lost = run.fact("signal_lost")
    if not lost > COLLAPSED or not run.lasted or death(run):
        return
    if not run.last_loss > POOR * run.chance_loss > 0 or any(too_low(run)) or any(too_high(run)):
        return
    if not _known(run) < run.fact("linear_accuracy"):  # of some data no more can be known
        return
    message = (
        f"Before the first step the variance of the signal shrank by {lost:.1f} decades on its way through "
        f"the network, and after {run.steps} steps the loss is {run.last_loss:.3g}, where a guess has "
        f"{run.chance_loss:.3g}."
    )
    remedy = (
        "Use ReLU instead of sigmoid, draw the weights at He's scale, or put normalization behind layers."
    )
    yield Finding("vanishing-gradients", "warn", message, remedy, "activations", lost, COLLAPSED)


def _known(run: Run) -> float:
    return max(run.accuracy("train"), run.accuracy("val"))


def _is_level(run: Run) -> bool:
    half = run.mean_loss(0.4, 0.6)
    return half - run.mean_loss(0.8, 1) < LEVEL * half


@needs("narrow/layers", "loss/train_step", verdict="narrow layers")
def narrow_layer(run: Run) -> Iterator[Finding]:
    """A linear classifier of what enters a layer of a few units knows more than the network behind it."""
    linear, reached, score = (
        run.history.last(f"narrow/{name}", math.nan) for name in ("linear", "network", "score")
    )
    last = run.mean_loss(0.75, 1)
    begun = run.mean_loss(0.5, 0.75) - last > UNDER_WAY * max(run.first_loss - last, 0.0)
    lost = run.lasted and not begun and linear - reached > KEPT_BACK and score > CERTAIN
    for name, [units, *_] in run.by_name("narrow_layer").items():
        if lost:
            message = (
                f"All goes through the {units:.0f} units of '{name}', fewer than there are classes: a linear "
                f"classifier of what enters them has {linear:.0%} of the validation samples right, the "
                f"network behind them {reached:.0%}, {score:.1f} standard errors less."
            )
            remedy = "Give it more units, several times as many as there are classes."
            yield Finding("underfitting", "warn", message, remedy, name, linear - reached, KEPT_BACK)


@needs("loss/train_step", "facts/chance_loss")
def underfitting(run: Run) -> Iterator[Finding]:
    """The loss has come to its end far above zero, and no other rate would take it on."""
    if not run.finished or run.steps < 100 or death(run) or not run.chance_loss > 0:
        return
    if not run.steps * run.batch_size >= FEW_SAMPLES:
        return
    linear = run.fact("linear_accuracy")
    most = max(run.share_right("train")[1], run.share_right("val")[1])
    # A run that is on its way needs time, and one that weighs its classes evenly gives up on the commonest.
    poor = run.last_loss > POOR * run.chance_loss and not run.fact("limited", 0.0)
    if poor and run.chance_accuracy < linear and most < linear and run.steps * run.batch_size >= MANY:
        message = (
            f"After {run.steps} steps {run.accuracy('train'):.0%} of the training samples are right; a "
            f"linear classifier of a few of them has at least {linear:.0%} of others right."
        )
        cause, dropped = "underfitting", run.fact("dropout", 0.0)
        remedy = (
            "Look for a layer with too few units, or one that passes little on; else the steps are too few."
        )
        if dropped >= MOST_DROPPED:
            cause = "regularization-too-strong"
            remedy = f"Lower the dropout of {dropped:g}: it is the share that is dropped, not that is kept."
        yield Finding(cause, "warn", message, remedy, "accuracy/train_eval", most, linear)
        return
    end = run.mean_loss(0.8, 1)
    poor = run.above_chance("train") < 0.12 and run.last_loss > POOR * run.chance_loss
    probes = [run.probe(factor) for factor in (0.1, 1, 3)]
    stuck = all(math.isfinite(loss) and loss > 0.93 * end for loss in probes)
    moves = max(run.values("update_ratio_summary/median")[-3:], default=0.0) > 1e-4
    if _known(run) >= linear > run.chance_accuracy:  # of some data no more can be known
        return
    if _is_level(run) and poor and stuck and moves and not any(too_low(run)):
        message = (
            f"The training loss has been level at {end:.3g} for half of the run, where a guess has "
            f"{run.chance_loss:.3g}, and neither larger nor smaller steps lower it."
        )
        remedy = "Make the network wider, and look for a layer with too few units."
        yield Finding("underfitting", "warn", message, remedy, "loss/train_step", end, run.chance_loss)
