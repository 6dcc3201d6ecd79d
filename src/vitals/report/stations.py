"""The ten stations of the course's summary, in its order, and which finding belongs to which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vitals.findings import CAUSES, Finding, worst_level

Light = Literal["fail", "warn", "note", "ok", "quiet", "seen", "fact", "absent"]

WORDS: dict[Light, tuple[str, str]] = {
    "fail": ("✕", "fault"),
    "warn": ("!", "warning"),
    "note": ("i", "note"),
    "ok": ("✓", "fine"),
    "quiet": ("✓", "no alarm"),
    "seen": ("·", "measured"),
    "fact": ("·", "as set"),
    "absent": ("–", "not measured"),
}
"""Sign and word of each light, so that its colour is never needed."""


@dataclass(frozen=True)
class Station:
    """One thing to look at, as the course's summary has it."""

    key: str
    title: str
    advice: str
    """What the course says of it."""
    course: str
    """The section of docs/course.md."""
    causes: tuple[str, ...] = ()
    judged: bool = True
    """Whether silence is a good sign; the others are choices, which are stated."""


STATIONS = (
    Station(
        "gradients",
        "Gradient check",
        "Analytic gradients agree with centred differences on a small batch of data.",
        "Gradient checks",
        ("gradients-correct", "difference-step", "wrong-gradient"),
    ),
    Station(
        "before",
        "Before learning",
        "The initial loss is that of chance, and a tiny subset reaches 100%.",
        "Before learning",
        (
            *("loss-at-chance", "wrong-initial-loss", "double-softmax", "regularization-raises-loss"),
            *("tiny-subset-fits", "inputs-informative", "inputs-prepared", "input-not-normalized"),
            *("input-constant", "labels-random", "class-imbalance", "data-not-shuffled", "wiring-correct"),
            *("eval-mode-training", "train-mode-evaluation", "variance-level", "bad-initialization"),
            "step-size-sensible",
        ),
    ),
    Station(
        "loss",
        "Loss",
        "It falls fast at first, then slowly, and wiggles little from batch to batch.",
        "Loss",
        (
            *("learning-rate-too-high", "learning-rate-too-low", "non-finite-loss"),
            *("gradients-accumulate", "batch-too-small"),
        ),
    ),
    Station(
        "accuracy",
        "Training and validation accuracy",
        "A wide gap is overfitting; none at all can mean that the network is too small.",
        "Accuracy of training and validation",
        ("overfitting", "underfitting", "train-val-mismatch", "regularization-too-strong"),
    ),
    Station(
        "updates",
        "Update ratio and signal",
        "Updates are about a thousandth of the weights, and variances stay level through the layers.",
        "Update ratio",
        (
            *("frozen-parameters", "exploding-gradients", "vanishing-gradients"),
            *("dead-relu", "saturated-activations"),
        ),
    ),
    Station("first-layer", "First layer", "Its filters become smooth, clean and diverse.", "First layer"),
    Station(
        "optimizer", "Optimizer", "SGD with Nesterov momentum, or Adam.", "Parameter updates", judged=False
    ),
    Station(
        "decay",
        "Decay of the learning rate",
        "The rate falls over the training, by steps or smoothly.",
        "Annealing",
        judged=False,
    ),
    Station(
        "search",
        "Search",
        "Random rather than grid, from coarse (1 to 5 epochs) to fine.",
        "Search",
        judged=False,
    ),
    Station(
        "averages",
        "Averages and ensembles",
        "Several models, or averaged weights, for the last points.",
        "Ensembles and averages",
        judged=False,
    ),
)

_BY_CAUSE = {cause: station.key for station in STATIONS for cause in station.causes}
assert not (CAUSES.keys() - _BY_CAUSE.keys() - {"skipped"}), "every cause has its station"


def station_of(finding: Finding) -> str:
    """The key of the station that a finding belongs to."""
    where = finding.where.lower()
    if finding.cause == "skipped":
        words = f"{where} {finding.message.lower()}"
        if "gradient" in words:
            return "gradients"
        for station, signs in {
            "first-layer": ("filter", "first layer"),
            "updates": ("update", "activation", "histogram"),
            "averages": ("average",),
        }.items():
            if any(sign in words for sign in signs):
                return station
        return "before" if finding.step == 0 else "loss"
    return "first-layer" if where.startswith("filters") else _BY_CAUSE[finding.cause]


def light_of(findings: Sequence[Finding], station: Station, measured: bool, diagnosed: bool) -> Light:
    """The light of a station.

    Args:
        findings: that belong to it.
        station: of the ten.
        measured: whether the run's folder says anything of it.
        diagnosed: whether anybody looked for faults, so that silence means something.
    """
    told = [finding for finding in findings if finding.cause != "skipped"]
    if told:
        return worst_level(told)
    if not measured:
        return "absent"
    if not station.judged:
        return "fact"
    return "quiet" if diagnosed else "seen"
