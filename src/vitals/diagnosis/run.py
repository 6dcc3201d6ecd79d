"""What the rules know of a run: its history, put into the terms in which they think."""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate

from vitals.findings import Finding
from vitals.history import History
from vitals.measures.counts import CERTAIN, share_between

Rule = Callable[["Run"], Iterator[Finding]]

ENOUGH = 100
"""Steps in which a run can be expected to do as well as a trial of fifty."""
BARELY = 0.85
"""Share of the first loss above which hardly anything was learned."""
GUESSED = 0.97
"""Share of the loss of the best guess that is one for all above which nothing was learned of the inputs."""


def needs(*tags: str, verdict: str = "") -> Callable[[Rule], Rule]:
    """Declare which measurements a rule needs: one for each of `tags`. In a tag, `|` stands between
    alternatives of which one is enough, and a `/` at the end means any tag that begins so. `verdict` is what
    people call the rule, where that is not its name."""

    def mark(rule: Rule) -> Rule:
        rule.needs, rule.verdict = tags, verdict  # type: ignore[attr-defined]
        return rule

    return mark


class Run:
    """What has been recorded of a run so far.

    Args:
        history: what all monitors have measured, and the facts that `Recorder` records at the start.
        checks: the findings of the checks before the first step.
        finished: whether the run has ended.
        facts: numbers that the checks have measured, by name.
    """

    def __init__(
        self,
        history: History,
        checks: Sequence[Finding] = (),
        finished: bool = True,
        facts: Mapping[str, float] | None = None,
    ) -> None:
        self.history, self.checks, self.finished, self.found = history, checks, finished, facts or {}

    def fact(self, name: str, default: float = math.nan) -> float:
        """One of the numbers that the checks have found, or that `Recorder` has recorded at the start, under
        `facts/<name>`."""
        return float(self.found.get(name, self.history.last(f"facts/{name}", default)))

    def can_judge(self, rule: Rule) -> bool:
        """Whether all that `rule` needs was measured; a rule that declares nothing can always judge."""
        return all(any(map(self._measured, tags.split("|"))) for tags in getattr(rule, "needs", ()))

    def _measured(self, tag: str) -> bool:
        return bool(self.history.tags(tag) if tag.endswith("/") else len(self.history.series(tag)))

    def alarmed(self, cause: str) -> bool:
        """Whether a check before learning raised an alarm with this cause."""
        return any(finding.cause == cause and finding.alarming for finding in self.checks)

    def passed(self, check: str) -> bool:
        """Whether the check whose code is `check` passed before learning."""
        return any(finding.cause == check and finding.level == "ok" for finding in self.checks)

    # ------------------------------------------------------------------------------------ loss

    @cached_property
    def losses(self) -> list[float]:
        """Training loss of every step, those that are not finite left out."""
        return [loss for loss in self.history.series("loss/train_step").values if math.isfinite(loss)]

    @cached_property
    def finite(self) -> bool:
        """Whether the loss was finite in every step."""
        return all(map(math.isfinite, self.history.series("loss/train_step").values))

    @property
    def steps(self) -> int:
        """Optimizer steps taken."""
        return len(self.history.series("loss/train_step"))

    @property
    def steps_before(self) -> int:
        """Optimizer steps taken before the record begins, as where a training goes on in another folder."""
        return int(self.fact("steps_before", 0.0))

    def losses_of(self, first: int, last: int | None = None) -> list[float]:
        """Training losses of the steps after `first` steps of the whole training, up to `last`, those that
        are not finite left out."""
        first = max(0, first - self.steps_before)
        until = None if last is None else max(0, last - self.steps_before)
        return [*filter(math.isfinite, self.history.series("loss/train_step").values[first:until])]

    @property
    def progress(self) -> float:
        """Share of the run that is done, where its length is known; else 1."""
        total, done = self.fact("total_steps"), self.steps + self.steps_before
        return min(1.0, done / total) if math.isfinite(total) and total else 1.0

    @property
    def window(self) -> int:
        """Steps over which losses are averaged: a twentieth of the run, 5 at least."""
        return max(5, len(self.losses) // 20)

    def mean_loss(self, start: float, end: float) -> float:
        """Mean training loss from the share `start` of the steps to the share `end`, over a window at
        least."""
        count = len(self.losses)
        first, last = int(start * count), math.ceil(end * count)
        if last - first < self.window:
            first, last = (max(0, last - self.window), last) if end == 1 else (first, first + self.window)
        chosen = self.losses[first:last]
        return statistics.fmean(chosen) if chosen else math.nan

    @cached_property
    def smoothed(self) -> list[float]:
        """The loss, averaged over successive windows."""
        size = self.window
        return [
            statistics.fmean(self.losses[i : i + size]) for i in range(0, len(self.losses) - size + 1, size)
        ]

    @cached_property
    def first_loss(self) -> float:
        """Median loss of the first steps, before much was learned; infinite where the record begins amid a
        training, as in another folder than that of the first part: how far it had fallen is not known."""
        if self.steps_before:
            return math.inf
        return statistics.median(self.losses[:5]) if self.losses else math.nan

    @property
    def last_loss(self) -> float:
        """Mean loss of the last twentieth."""
        return self.mean_loss(0.95, 1)

    @property
    def last_error(self) -> float:
        """Standard error of `last_loss`."""
        last = self.losses[-self.window :]
        return statistics.stdev(last) / math.sqrt(len(last)) if len(last) > 1 else math.nan

    @cached_property
    def chance_loss(self) -> float:
        """Cross-entropy of always giving the shares of the classes; NaN where labels are not known."""
        return self.fact("chance_loss")

    @property
    def guess_loss(self) -> float:
        """The least loss of outputs that are the same for every sample; NaN where that is not known."""
        return self.fact("chance_loss", self.fact("guess_loss"))

    @property
    def has_class_numbers(self) -> bool:
        """Whether the targets are class numbers, so that accuracies can be told."""
        return math.isfinite(self.chance_accuracy)

    @property
    def validation_share(self) -> float:
        """The least loss on validation samples, by the training step, over that of the best outputs that are
        the same for all of them, or, where no network is known, over the first loss of the training; NaN for
        class numbers."""
        if self.has_class_numbers:
            return math.nan
        guess = self.history.last("validation/guess_loss", self.first_loss)
        return min(self.values("validation/loss"), default=math.nan) / guess if guess > 0 else math.nan

    @property
    def one_loss(self) -> bool:
        """Whether one optimizer does all: the losses of several, as of adversaries, rise and fall with what
        the others do, and say nothing alone."""
        return self.fact("optimizers", 1.0) == 1

    @property
    def plays(self) -> bool:
        """Whether each step makes its data by what the network has said, as the episodes of a game do: losses
        are of other data then, often of more the more is learned."""
        return self.fact("plays", 0.0) > 0

    # -------------------------------------------------------------------------------- accuracy

    @property
    def chance_accuracy(self) -> float:
        """Of always giving the commonest class, on training samples."""
        return self.fact("chance_accuracy")

    def chance(self, part: str) -> float:
        """The same on `part`, and no more than on training samples: where validation has more of one class,
        as where these are drawn evenly, what gives each its due is below that class's share, and no guess."""
        known = self.chance_accuracy
        return min(known, self.history.last("validation/commonest", known)) if part == "val" else known

    def accuracy(self, part: str) -> float:
        """Latest accuracy, 0 to 1, on training or validation images (`part` is `train` or `val`), without
        augmentation and in evaluation mode; NaN where that was not measured, or is no share."""
        for tag in (f"accuracy/{part}_eval", f"accuracy/{part}"):
            if values := self.values(tag):
                return values[-1] if all(0 <= value <= 1 for value in values) else math.nan
        return math.nan

    def above_chance(self, part: str) -> float:
        """The same less the accuracy of always giving the commonest class: −1 to 1."""
        return self.accuracy(part) - self.chance(part)

    def at_chance(self, part: str, best: bool = False) -> bool:
        """Whether the latest accuracy on `part`, or the best one, is no better than chance, as far as its
        samples can tell."""
        chance = self.chance(part)
        error = math.sqrt(max(chance * (1 - chance), 1e-9) / max(self.samples(part), 1))
        above = self.above_chance(part)
        if best:
            measured = [*self.values(f"accuracy/{part}_eval"), *self.values(f"accuracy/{part}")]
            above = max([value - chance for value in measured if math.isfinite(value)], default=above)
        return above < max(CERTAIN * error, 0.03)

    def samples(self, part: str) -> float:
        """On how many samples the accuracy on `part` was measured; where that is not known, a hundred."""
        return self.fact(f"{part}_subset", 100.0)

    def share_right(self, part: str) -> tuple[float, float]:
        """The least and the largest accuracy on `part` that go with what was measured, give or take two
        standard errors."""
        samples = self.samples(part)
        return share_between(self.accuracy(part) * samples, samples, errors=2.0)

    @property
    def few_shown(self) -> bool:
        """Whether most of the samples that are evaluated as the training's were never shown to it."""
        return self.fact("samples_different") < self.samples("train") / 2

    @property
    def learns(self) -> bool:
        """Whether the run has learned something of its training set."""
        if math.isfinite(self.above_chance("train")):
            return not self.at_chance("train")
        return self.last_loss < 0.9 * self.first_loss and not self.guesses

    @property
    def guesses(self) -> bool:
        """Whether the training loss, in evaluation mode, too, is no better than that of the best guess that
        is one for all, where that is known of targets other than class numbers."""
        if self.has_class_numbers:
            return False
        evaluated = self.history.last("loss/train_eval", self.last_loss)
        return min(self.last_loss, evaluated) > GUESSED * self.fact("guess_loss") > 0

    @property
    def barely_learns(self) -> bool:
        """Whether the training loss has hardly fallen, or the run got no further than a short trial."""
        return self.last_loss > BARELY * self.first_loss or self.falls_short or self.guesses

    @property
    def falls_short(self) -> bool:
        """Whether, at its end, fewer training images are right than a trial of fifty steps got right of
        images that it was not shown: what is possible was not done."""
        return self.lasted and self.share_right("train")[1] < self.fact("trial_accuracy")

    @property
    def lasted(self) -> bool:
        """Whether the run is at its end, after `ENOUGH` steps at least."""
        return self.finished and self.steps >= ENOUGH

    @property
    def long_enough(self) -> bool:
        """Whether a run that has learned nothing until now can be called stuck."""
        return self.steps >= 30 and (self.finished or (self.progress >= 0.25 and self.steps >= 200))

    # -------------------------------------------------------------------------------- measures

    def values(self, tag: str) -> list[float]:
        """The measurements of `tag`."""
        return [float(value) for value in self.history.series(tag).values]

    def by_name(self, prefix: str) -> dict[str, list[float]]:
        """The measurements of all tags `<prefix>/<name>`, by name, in the order of the layers."""
        return {tag.removeprefix(f"{prefix}/"): self.values(tag) for tag in self.history.tags(f"{prefix}/")}

    @cached_property
    def hidden_layers(self) -> list[str]:
        """The layers without the last, which gives the logits."""
        return list(self.by_name("activation_variance"))[:-1]

    def has_moved(self, finding: Finding) -> bool:
        """Whether the layer or parameter that a check found frozen has changed since."""
        if finding.cause != "frozen-parameters" or not finding.check:
            return False
        ends = (f".{finding.where}", f".{finding.where}.weight")
        names = [name for name in self.by_name("update_ratio") if f".{name}".endswith(ends)]
        return any(any(self.values(f"update_ratio/{name}")) for name in names)

    def is_kept(self, finding: Finding) -> bool:
        """Whether what a check found frozen as it was drawn belongs to a part that is in evaluation mode
        throughout the training: nobody does that to what is to learn."""
        if finding.cause != "frozen-parameters" or not finding.check:
            return False
        around = list(accumulate(finding.where.split("."), "{}.{}".format))
        parts = self.by_name("modes/kept_evaluating")
        return any(f".{part}".endswith(f".{each}") for part in parts for each in around)

    @property
    def learning_rate(self) -> float:
        """The largest rate of the run so far, over all groups."""
        rates = [rate for tag in self.history.tags("lr/") for rate in self.values(tag)]
        return max(rates, default=self.fact("lr"))

    @property
    def working_rate(self) -> float:
        """A learning rate that was tried from the start, where the run's is at fault; NaN without one."""
        tried = [f.setting["lr"] for f in self.checks if f.setting and "lr" in f.setting]
        return tried[0] if tried else self.fact("working_rate")

    @property
    def batch_size(self) -> float:
        """Samples in an optimizer step; NaN where they cannot be counted, as in a graph."""
        return self.fact("batch_size") or math.nan

    @property
    def over_curvature(self) -> float:
        """Times that the rate is as large as the curvature of the loss bears, from the last rate probe; NaN
        where that is not known."""
        largest = self.history.last("curvature/largest", math.nan)
        return float(largest / self.history.last("curvature/bearable", math.nan))

    def gain(self, factor: float) -> float:
        """By which share less the loss is after some steps at `factor` times the rate than at the rate
        itself; 0 where that was not probed."""
        present, other = self.probe(1), self.probe(factor)
        return (present - other) / present if present > 0 and math.isfinite(other) else 0.0

    def probe(self, factor: float) -> float:
        """Loss after some steps at `factor` times the rate, from the last rate probe; NaN without one."""
        return float(self.history.last(f"rate_probe/{factor:g}", math.nan))
