"""What metrics that a module logs by name say, besides loss and accuracy: IoU, F1, AUC, BLEU, perplexity.

Nothing is known of them but their names and how they scatter, so that a metric whose better way is not known
by its name is not judged; the losses of a GAN, which mean nothing alone, are judged together.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import EarlyStopping
from torch.optim.lr_scheduler import ReduceLROnPlateau

from vitals.diagnosis.curves import points, scatter, turn_of
from vitals.diagnosis.run import Run
from vitals.either_package import either
from vitals.findings import Finding, Level
from vitals.measures.counts import CERTAIN
from vitals.measures.names import ERRORS, parted

HIGHER = frozenset(
    {"accuracy", "acc", "iou", "miou", "jaccard", "dice", "f1", "fbeta", "auc", "auroc", "auprc", "ap", "map"}
    | {"precision", "averageprecision", "recall", "sensitivity", "bleu", "rouge", "rougel", "meteor", "r2"}
    | {"mcc", "kappa", "cohenkappa", "psnr", "ssim", "ndcg", "mrr", "spearman", "pearson", "em"}
)
"""Words of a name by which more is better."""
LOWER = {*ERRORS, "perplexity", "ppl", "wer", "cer", "mape", "brier", "eer", "fid"}
TURNED = frozenset(
    {"neg", "negative", "minus", "inverse", "gap", "diff", "difference", "delta", "drop", "forgetting"}
    | {"improvement", "reduction", "gain", "std", "sd", "var", "variance", "domain", "adv", "adversarial"}
    | {"adversary", "attack", "attacker", "bias", "leakage"}
)
"""Words that turn the better way of a metric round, or leave it open, as of what is to tell domains apart."""
GUESS = dict.fromkeys(("auc", "auroc", "rocauc", "cindex", "concordance"), 0.5)
GUESS |= dict.fromkeys(("mcc", "matthewscorrcoef", "kappa", "cohenkappa"), 0.0)
"""Value that a metric has, whatever the shares of the classes, for answers that mind no input."""
NEAR, LEARNED = 0.05, 0.15
"""Distances to that value: up to which it is one, and from which training is beyond it."""
ADVERSARIES = {
    "generator": {"g", "gen", "generator"},
    "discriminator": {"d", "dis", "disc", "discriminator", "critic"},
}
"""Words of the names of their losses."""
WON, GROWN = 0.02, 3.0
"""Share of its first value to which the loss of a discriminator that has won falls, and times its own that
the generator's is then."""
ASKED = 0.1
"""Rise from 0 to 1 that is asked of a share, from which an end for want of it is no sign of having
arrived."""
FEWEST = 6
"""Measurements without which no metric is judged."""
LOST = 0.15
"""Share of its best value that a metric of validation must have lost."""


def better(quantity: str) -> int:
    """1 where more of a metric is better by its name, -1 where less is, 0 where the name does not say."""
    words = _words(quantity)
    if words & TURNED:
        return 0
    lower = words & LOWER or any(word.endswith("error") for word in words)
    return bool(words & (HIGHER | GUESS.keys())) - bool(lower)


def _words(quantity: str) -> set[str]:
    plain = re.sub(r"binary|multiclass|multilabel|score|index|rate", "", quantity)  # of torchmetrics
    return {*re.split(r"[_@\d]+", plain), *plain.split("_"), quantity.replace("_", "")}


def judged(run: Run) -> dict[str, int]:
    """The metrics of validation that can be judged: their tags, and which way is better."""
    tags = [tag for tag in run.history.tags() if tag.endswith("/val") and tag.count("/") == 1]
    ways = {tag: better(parted(tag)[0]) for tag in tags if not tag.startswith(("loss/", "accuracy/"))}
    return {tag: way for tag, way in ways.items() if way and len(run.history.series(tag)) >= FEWEST}


def logged_metrics(run: Run) -> Iterator[Finding]:
    """A metric of validation that is no number, never changes, or turns while training gets better."""
    for tag, way in judged(run).items():
        series, name = run.history.series(tag), tag.removesuffix("/val")
        epochs, values = points(run, tag)
        missing = len(series) - len(values)
        if missing * 2 > len(series) and not math.isfinite(series.values[-1]):
            message = f"{name} of validation is no number in {missing} of {len(series)} measurements."
            remedy = "Look for a division by zero in the metric, as for a class that does not occur."
            yield Finding("non-finite-loss", "warn", message, remedy, tag, missing, len(series) / 2)
        if len(values) < FEWEST:
            continue
        still = np.ptp(values) == 0 and (values[0] != 1 if way > 0 else values[0] != 0)
        if still and run.finished:  # the mean precision of a detector may be 0 for some epochs
            message = (
                f"{name} of validation is {values[0]:.4g} in all of its {len(values)} measurements, as of a "
                f"network that gives the same answer for every input."
            )
            remedy = "Look at the predictions, and at what the metric is given: logits, thresholds, classes."
            yield Finding("accuracy-constant", "warn", message, remedy, tag, float(values[0]))
            continue
        if run.finished and (found := _at_a_guess(run, tag, values)):
            yield found
            continue
        turn = turn_of(epochs, -way * values, max(2, len(values) // 8))
        best, end = -way * turn.lowest, -way * turn.end
        certain = turn.end - turn.lowest > LOST * abs(best) and turn.certain and turn.later > 1
        if certain and (what := _training_gets_better(run, name, way, turn.epoch)):
            message = (
                f"{name} of validation was best around epoch {turn.epoch:.2g}, {best:.3g}, and is {end:.3g} "
                f"at the end, while {what}."
            )
            remedy = (
                f"Stop around epoch {turn.epoch:.2g}, take more or augmented data, weight decay or dropout, "
                f"or a smaller network."
            )
            yield Finding("overfitting", "warn", message, remedy, tag, end, best)


def watched_the_wrong_way(trainer: L.Trainer) -> Iterator[Finding]:
    """What ends a run, or lowers its rate, because a metric gets better, or though it does."""
    yield from _asked_too_much(trainer)
    watchers: list[tuple[Any, str, str, str, bool]] = [
        (each, str(each.monitor), "underfitting", "ends the run", bool(each.stopped_epoch))
        for each in trainer.early_stopping_callbacks
        if isinstance(each, either(EarlyStopping))
    ]
    watchers += [
        (each.scheduler, str(each.monitor), "learning-rate-too-low", "lowers the learning rate", False)
        for each in trainer.lr_scheduler_configs
        if isinstance(each.scheduler, ReduceLROnPlateau)
    ]
    for watcher, metric, cause, does, ended in watchers:
        quantity = parted(metric)[0]
        words = _words(quantity)
        open_ended = words & TURNED.union(*ADVERSARIES.values())
        way = 0 if open_ended else -1 if "loss" in words else better(quantity)
        if way and watcher.mode != (right := "max" if way > 0 else "min"):
            name = type(watcher).__name__
            message = (
                f"{name} has mode='{watcher.mode}' for {metric}, of which {'more' if way > 0 else 'less'} is "
                f"better: it {does} because the metric gets better"
            )
            message += f", and did so after epoch {watcher.stopped_epoch}." if ended else "."
            level: Level = "fail" if ended else "warn"
            yield Finding(cause, level, message, f"Give it mode='{right}'.", metric, exact=True)


def _asked_too_much(trainer: L.Trainer) -> Iterator[Finding]:
    """What has ended a run that still got better, as it asks for more than a share can rise."""
    for each in trainer.early_stopping_callbacks:
        if not isinstance(each, either(EarlyStopping)) or not each.stopped_epoch:
            continue
        metric, delta, words = str(each.monitor), abs(each.min_delta), _words(parted(str(each.monitor))[0])
        now, best = (
            float(value) for value in (trainer.callback_metrics.get(metric, math.nan), each.best_score)
        )
        share = bool(words & HIGHER) and not words & TURNED and each.mode == "max" and 0 <= best < now <= 1
        if share and delta >= ASKED:
            message = (
                f"EarlyStopping ended the run after epoch {each.stopped_epoch}, where {metric} had risen "
                f"from {best:.3g} to {now:.3g}: it counts no rise below min_delta={delta:g}, and "
                f"{metric} goes from 0 to 1."
            )
            remedy = f"Give it min_delta={delta / 100:g}, if percent were meant."
            yield Finding("underfitting", "warn", message, remedy, metric, delta, ASKED, exact=True)


def adversaries(run: Run) -> tuple[str, str] | None:
    """The tags of the losses of a generator and of its discriminator; None where they are not told apart."""
    named: dict[str, str] = {}
    for tag in run.history.tags():
        words = set(re.split(r"[^a-z]+", tag.lower().replace("loss", " loss ")))
        if "loss" in words and not words & {"val", "valid", "validation"}:
            named |= {who: tag for who, names in ADVERSARIES.items() if words & names and who not in named}
    return (named["generator"], named["discriminator"]) if len(named) == 2 else None


def lost_game(run: Run) -> Iterator[Finding]:
    """A discriminator that tells all samples apart, from which the generator learns nothing any more."""
    tags = adversaries(run)
    generator, discriminator = (points(run, tag)[1] for tag in tags or ("", ""))
    few = min(len(generator), len(discriminator)) < FEWEST
    if tags is None or few or min(generator.min(), discriminator.min()) < 0:  # as of Wasserstein's, no scale
        return
    (mine, its), (my_end, its_end) = (
        [float(part.mean()) for part in parts]
        for parts in (
            (generator[:2], discriminator[:2]),
            (generator[-len(generator) // 3 :], discriminator[-len(discriminator) // 3 :]),
        )
    )
    if its_end < WON * its and my_end > GROWN * mine and generator[-1] > GROWN * mine:
        message = (
            f"The discriminator's loss, {tags[1]}, went from {its:.3g} to {its_end:.2g}, and that of the "
            f"generator, {tags[0]}, from {mine:.3g} to {my_end:.3g}: all samples are told apart with "
            f"certainty, which leaves the generator next to nothing to learn from."
        )
        remedy = "Lower the discriminator's learning rate, let it step less often, or smooth its targets."
        yield Finding("vanishing-gradients", "warn", message, remedy, tags[1], its_end, WON * its)


def _at_a_guess(run: Run, tag: str, values: np.ndarray) -> Finding | None:
    """That validation stays where a guess is while training is learned."""
    name = tag.removesuffix("/val")
    guess = next((GUESS[word] for word in _words(name) if word in GUESS), math.nan)
    late, training = values[len(values) // 2 :], points(run, f"{name}/train")[1][-1:]
    if not np.abs(late - guess).max() < NEAR or not training > guess + LEARNED:
        return None
    message = (
        f"{name} is {training[0]:.3g} on training samples, and {late.min():.3g} to {late.max():.3g} on those "
        f"of validation over the second half of the epochs, where it is {guess:g} for a guess: what is "
        f"learned holds for nothing else."
    )
    remedy = "Look at samples with their labels, and whether those of validation are prepared alike."
    return Finding("labels-random", "warn", message, remedy, tag, float(late[-1]), guess)


def _training_gets_better(run: Run, name: str, way: int, since: float) -> str:
    """By which curve the training has gone on to get better since that epoch; empty where by none."""
    for tag, direction in ((f"{name}/train", way), ("loss/train", -1)):
        epochs, values = points(run, tag)
        later = direction * values[epochs >= since]
        if len(later) >= 3:
            third = max(1, len(later) // 3)
            gained = float(later[-third:].mean() - later[:third].mean())
            error = scatter(later) * math.sqrt(2 / third)
            if gained > CERTAIN * error and gained > 0.02 * abs(later[0]):
                return f"{tag.removesuffix('/train')} of training went on getting better"
            return ""
    return ""
