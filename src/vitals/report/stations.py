"""The ten stations of the course's summary, in its order, and what light each of them shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vitals.causes import StationKey
from vitals.findings import NO_VERDICTS, Finding, worst_level

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

    key: StationKey
    title: str
    advice: str
    """What the course says of it."""
    course: str
    """The section of docs/course.md."""
    judged: bool = True
    """Whether silence is a good sign; the others are choices, which are stated."""


STATIONS = (
    Station(
        "gradients",
        "Gradient check",
        "Analytic gradients agree with centred differences on a small batch of data.",
        "Gradient checks",
    ),
    Station(
        "before",
        "Before learning",
        "The initial loss is that of chance, and a tiny subset reaches 100%.",
        "Before learning",
    ),
    Station(
        "loss",
        "Loss",
        "It falls fast at first, then slowly, with little noise from batch to batch.",
        "Loss",
    ),
    Station(
        "accuracy",
        "Training and validation accuracy",
        "A wide gap is overfitting; none at all can mean that the network is too small.",
        "Accuracy of training and validation",
    ),
    Station(
        "updates",
        "Update ratio and signal",
        "Updates are about a thousandth of the weights, and variances stay level through the layers.",
        "Update ratio",
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


def station_of(finding: Finding) -> StationKey:
    """The key of the station that a finding belongs to; what belongs to none stands where it was seen."""
    return finding.station or ("loss" if finding.step else "before")


def light_of(findings: Sequence[Finding], station: Station, measured: bool, diagnosed: bool) -> Light:
    """The light of one of the ten stations: of the findings that belong to it, or of whether the run's folder
    says anything of it (`measured`), and anybody looked for faults (`diagnosed`), so that silence means
    something."""
    told = [finding for finding in findings if finding.cause not in NO_VERDICTS]
    if told:
        return worst_level(told)
    if not measured:
        return "absent"
    if not station.judged:
        return "fact"
    return "quiet" if diagnosed else "seen"
