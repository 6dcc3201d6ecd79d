"""Are layers in the right mode?"""

import math
from collections.abc import Iterator, Sequence

from vitals.checks.running_statistics import UNLIKE
from vitals.diagnosis.run import GUESSED, Run, needs
from vitals.findings import Finding, Level

MANY = 0.5
"""Share of the BatchNorm layers that are idle."""
SURE, LOST, HALF = 4.0, 0.1, 0.6
"""Standard errors and accuracy that evaluation mode loses, and the share of it that is left, from which the
running statistics are said to be apart."""
KNOWN, LEARNED = 0.15, 0.9
"""Accuracy above chance, and share of the loss of a guess, of a network that has learned in training mode."""
WORSE = 1.15
"""Times the loss of a guess that the training samples cost in evaluation mode, at the last two looks, while
they cost less than one in training mode."""
WHOLE = 0.8
"""Share of the modules that are in the wrong mode where the whole network is, in validation."""


@needs("modes/evaluating_in_training")
def evaluating_in_training(run: Run) -> Iterator[Finding]:
    """The network trains in evaluation mode: BatchNorm never sees the batch, dropout does nothing."""
    mode = "evaluation mode while training"
    remedy = "Call model.train() where training goes on after an evaluation, and leave eval() to Lightning."
    yield from _wrong_mode(run, "evaluating_in_training", "eval-mode-training", mode, remedy, 1.0)
    series = run.history.series("modes/norms_without_statistics")
    idle = [(step, share) for step, _, share in series if share >= MANY]
    if idle:  # frozen statistics are an old habit of fine-tuning, but these have none to freeze
        step, share = idle[-1]
        message = (
            f"{share:.0%} of the BatchNorm layers are in evaluation mode while training and have never seen "
            f"a batch, so that they normalize nothing."
        )
        remedy = "Leave them in training mode, unless they come with the statistics of an earlier training."
        yield Finding("eval-mode-training", "fail", message, remedy, "modes", share, MANY, max(step, 1))


@needs("modes/of_batches", verdict="statistics of BatchNorm")
def statistics_apart(run: Run) -> Iterator[Finding]:
    """The network knows the training samples by the statistics of their batch, and not by those it kept."""
    looks = zip(
        *(run.values(f"modes/{name}") for name in ("of_batches", "evaluated", "samples")), strict=True
    )
    last = list(looks)[-2:]
    if len(last) < 2 or not run.lasted:
        return
    for batches, evaluated, samples in last:
        error = math.sqrt(max(batches * (1 - batches) + evaluated * (1 - evaluated), 1e-3) / samples)
        if not batches - evaluated > max(SURE * error, LOST) or not evaluated < HALF * batches:
            return
    message = (
        f"{evaluated:.0%} of the training samples are right in evaluation mode, but {batches:.0%} of the "
        f"same samples with the statistics of their batch: BatchNorm has not kept those of the training set."
    )
    level: Level = "note"
    remedy = (
        "Set the momentum of BatchNorm, torch's share of the new batch, to 0.1, or estimate its statistics "
        "anew after the training (torch.optim.swa_utils.update_bn)."
    )
    if run.fact("norms_unlike", 1.0) > UNLIKE:
        level = "warn"
        message += " One layer is called in several places of the network, and its statistics are a mixture."
        remedy = "Give each place a BatchNorm layer of its own; they may have one weight and bias."
    yield Finding("train-val-mismatch", level, message, remedy, "modes", evaluated, HALF * batches)


@needs("accuracy/train", "accuracy/train_eval", verdict="evaluation mode")
def evaluation_at_chance(run: Run) -> Iterator[Finding]:
    """The network knows the training samples in training mode, and in evaluation mode it knows nothing, or is
    surely wrong."""
    live = run.history.last("accuracy/train", math.nan)
    learned = live - run.chance_accuracy > KNOWN and 0 < run.last_loss < LEARNED * run.chance_loss
    if not run.lasted or not run.finite or not learned:
        return
    evaluated = run.values("loss/train_eval")[-2:]
    worse = len(evaluated) == 2 and min(evaluated) > WORSE * run.chance_loss
    if worse and not run.few_shown:
        message = (
            f"In evaluation mode the training samples cost {evaluated[-1]:.3g}, more than the "
            f"{run.chance_loss:.3g} of a guess; while training they cost {run.last_loss:.3g}: what is "
            f"evaluated is not what was trained."
        )
        remedy = (
            "Look for what is scaled in one mode alone, as a dropout by hand that does not divide by the "
            "share it keeps, and for passes in training mode beside those that train, from which BatchNorm "
            "takes its statistics, too."
        )
        limit = WORSE * run.chance_loss
        yield Finding("train-val-mismatch", "warn", message, remedy, "modes", evaluated[-1], limit)
    elif run.at_chance("train") or _still_guesses(run, evaluated, live):
        message = (
            f"{live:.0%} of the training samples were right while training, at a loss of "
            f"{run.last_loss:.3g}, and {run.accuracy('train'):.0%} are in evaluation mode, hardly better "
            f"than chance: what is evaluated is not what was trained."
        )
        remedy = (
            "Look at what forward() does in evaluation mode alone: an average of the weights that is too "
            "slow for so few steps, running statistics, another branch."
        )
        yield Finding("train-val-mismatch", "warn", message, remedy, "modes", run.accuracy("train"), live)


def _still_guesses(run: Run, evaluated: Sequence[float], live: float) -> bool:
    """Whether the training samples cost what a guess costs in evaluation mode, and few of those are right
    that are while training."""
    guesses = len(evaluated) == 2 and min(evaluated) > GUESSED * run.chance_loss
    return guesses and not run.few_shown and run.accuracy("train") < HALF * live


@needs("modes/training_in_validation")
def training_in_validation(run: Run) -> Iterator[Finding]:
    """The network is validated in training mode: dropout and batch statistics blur what is measured."""
    mode = "training mode in validation"
    remedy = "Leave train() and eval() to Lightning, or call model.eval() before each validation."
    yield from _wrong_mode(run, "training_in_validation", "train-mode-evaluation", mode, remedy, WHOLE)


def _wrong_mode(run: Run, name: str, cause: str, mode: str, remedy: str, most: float) -> Iterator[Finding]:
    series = run.history.series(f"modes/{name}")
    wrong = [(step, share) for step, _, share in series if share >= most]
    if wrong:
        step, share = wrong[-1]
        message = f"{share:.0%} of the modules were in {mode} in {len(wrong)} of {len(series)} epochs."
        yield Finding(cause, "fail", message, remedy, "modes", share, most, max(step, 1))
