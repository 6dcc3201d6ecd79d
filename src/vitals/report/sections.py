"""The parts of the page in their order: each station with its light, its words and its charts."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vitals.errors import as_sentence, counted, one_line
from vitals.findings import NO_VERDICTS, Finding, ranked
from vitals.report import confusion, curves, facts, layers, pictures
from vitals.report.confusion import Mistakes
from vitals.report.drawing import Chart
from vitals.report.numbers import percent
from vitals.report.pictures import Pictures
from vitals.report.record import LETTERS, LeftOut, RunRecord
from vitals.report.stations import STATIONS, Light, Station, light_of, station_of

LEAD = {"loss": 3, "accuracy": 3, "updates": 3, "first-layer": 3}
"""Blocks of a station that are seen at first sight."""
GLOSSARY = {
    "decade": "A decade is a factor of ten.",
    "kink": "A kink is a place where the loss has no slope, as where a ReLU begins to let its input through.",
}
"""Words of findings, each explained where it comes first."""
_log = logging.getLogger(__name__)


@dataclass
class Verdict:
    """What one run says of one station."""

    light: Light
    summary: str
    """What matters most: the gravest alarm, or else what was measured."""
    measured: str
    """What was measured, in one sentence; empty where nothing was."""
    findings: list[Finding]


@dataclass
class Section:
    """A part of the page; what could not be shown is said in `left_out`."""

    key: str
    title: str
    advice: str = ""
    number: int = 0
    """In the course's summary; 0 for the parts after it."""
    verdicts: list[Verdict] = field(default_factory=list)
    """One for each run; none for the parts after the stations."""
    summary: str = ""
    """In place of verdicts, where there are none."""
    lead: int = 0
    """The first so many blocks are what to see at first sight; the others are shown on demand."""
    blocks: list[Chart | Mistakes | Pictures] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def applies(self) -> bool:
        """Whether any run has something to say of it."""
        if not self.verdicts:
            return bool(self.blocks)
        return any(verdict.light != "absent" for verdict in self.verdicts)

    @property
    def more(self) -> str:
        """What is shown on demand, in words."""
        pictures = len(self.blocks) - self.lead
        checks = sum(len(verdict.findings) for verdict in self.verdicts)
        parts = [counted(n, noun) for n, noun in ((pictures, "more picture"), (checks, "finding")) if n > 0]
        return " and ".join(parts) or "What the course says"

    def add(self, what: str, draw: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
        """Put the block or blocks that `draw` makes in, or say why they are not there."""
        try:
            made = draw(*arguments, **keywords)
            self.blocks += made if isinstance(made, list) else [made]
        except LeftOut as reason:
            self.left_out.append(f"{what}: {reason}.")
        except Exception as error:  # one chart that fails must not cost the others
            _log.warning("%s could not be drawn: %s", what, one_line(error))
            _log.debug("%s could not be drawn", what, exc_info=error)
            self.left_out.append(f"{what}: could not be drawn ({type(error).__name__}).")

    def add_each(
        self, what: str, runs: Sequence[RunRecord], draw: Callable[..., Any], *arguments: Any, name: str = ""
    ) -> None:
        """Put in the blocks of every run, side by side where there are several, that `draw` makes of one run
        and `arguments`, and with a `name` also of that of a figure, other for each run."""
        if len(runs) == 1:
            self.add(what, draw, runs[0], *arguments, **({"name": name} if name else {}))
            return
        for letter, run in zip(LETTERS, runs, strict=False):
            before = len(self.blocks)
            named = {"name": f"{name}-{letter}"} if name else {}
            self.add(f"{letter} · {what}", draw, run, *arguments, **named)
            for place in range(before, len(self.blocks)):
                block: Any = self.blocks[place]
                first = letter == "A" and not isinstance(block, Pictures)
                row = {"new_row": True} if first and place == before else {}
                self.blocks[place] = replace(block, title=f"{letter} · {block.title}", **row)


def sections(runs: Sequence[RunRecord]) -> list[Section]:
    """All parts of the page about one run, or about several side by side."""
    found = [_station(station, runs) for station in STATIONS]
    for word, meaning in GLOSSARY.items():
        for section in found:
            if any(word in finding.message for verdict in section.verdicts for finding in verdict.findings):
                section.advice += f" {meaning}"
                break
    return found if all(run.unjudged for run in runs) else [*found, _mistakes(runs)]


def _station(station: Station, runs: Sequence[RunRecord]) -> Section:
    advice = f'{station.advice} More in docs/course.md, "{station.course}".'
    number = STATIONS.index(station) + 1
    section = Section(station.key, station.title, advice, number, [_verdict(station, run) for run in runs])
    draw = _CHARTS.get(station.key)
    if draw is not None:
        draw(section, runs)
        section.lead = min(LEAD.get(station.key, 0), len(section.blocks))
        without = [run.missing["history.jsonl"] for run in runs if "history.jsonl" in run.missing]
        if not section.blocks and len(section.left_out) > 1 and len(without) == len(runs):
            section.left_out = [f"Charts: {without[0]}."]
    if all(run.unjudged for run in runs):  # one sentence says it of all
        section.left_out = []
    return section


def _verdict(station: Station, run: RunRecord) -> Verdict:
    told = [finding for finding in run.findings if finding.cause != "looks"]
    findings = ranked(finding for finding in told if station_of(finding) == station.key)
    measured, why = "", ""
    try:
        measured = facts.HEADLINES[station.key](run)
    except LeftOut as reason:
        why = "Not in this record." if run.unjudged else as_sentence(str(reason))
    except Exception as error:  # a file that is not as it should be
        _log.warning("%s could not be summed up: %s", station.key, one_line(error))
        _log.debug("%s could not be summed up", station.key, exc_info=error)
        why = "The run's files do not say."
    diagnosed = not {"findings.json", "history.jsonl"} & run.missing.keys()  # the rules read the history
    diagnosed &= station.key != "accuracy" or facts.has_accuracy(run)
    diagnosed &= station.key != "loss" or facts.has_loss(run)
    light = light_of(findings, station, bool(measured), diagnosed)
    summary = _summary(findings, measured) or why
    return Verdict(light, summary, measured or ("" if findings else why), findings)


def _summary(findings: Sequence[Finding], measured: str) -> str:
    told = [finding for finding in findings if finding.cause not in NO_VERDICTS]
    if told and told[0].alarming:
        more = len([finding for finding in told if finding.alarming]) - 1
        return told[0].message + (f" And {more} more." if more else "")
    if measured or not findings:
        return measured
    if len(told) < 2:
        return (told or findings)[0].message
    passed = sum(finding.level == "ok" for finding in told)
    noted = f", {len(told) - passed} with a note" if passed < len(told) else ""
    others = "; others were skipped" if any(finding.cause == "skipped" for finding in findings) else ""
    return f"{passed} of {len(told)} checks passed{noted}{others}."


def _loss(section: Section, runs: Sequence[RunRecord]) -> None:
    if any(map(facts.has_loss, runs)) or not any(map(facts.own_losses, runs)):
        section.add("Loss", curves.loss_chart, runs, "linear")
        section.add("Loss, logarithmic", curves.loss_chart, runs, "log")
    noise = "Noise of the loss from batch to batch"
    share = "How far it is from its moving average, as a share."
    section.add("Noise of the loss", curves.single_chart, runs, ["loss_noise"], noise, percent, caption=share)
    for tag in dict.fromkeys(tag for run in runs for tag in facts.own_losses(run)):
        section.add(tag, curves.single_chart, runs, [tag], tag)
    scale, title = ["gradient_noise/scale"], "Gradient noise scale, in examples"
    larger = "Batches much larger than that teach little more a step than one of that size."
    section.add("Gradient noise", curves.single_chart, runs, scale, title, log=True, caption=larger)


def _accuracy(section: Section, runs: Sequence[RunRecord]) -> None:
    section.add("Accuracy", curves.accuracy_chart, runs)
    section.add("Gap", curves.gap_chart, runs)
    for name in dict.fromkeys(name for run in runs for name in facts.other_metrics(run)):
        section.add(name, curves.metric_chart, runs, name)


def _updates(section: Section, runs: Sequence[RunRecord]) -> None:
    section.add("Update ratio", layers.update_ratio_chart, runs)
    section.add("Variance of the activations", layers.variance_chart, runs, "activation_variance")
    section.add("Variance of the gradients", layers.variance_chart, runs, "gradient_variance")
    every = "Update ratio of every parameter"
    section.add_each(every, runs, layers.update_ratio_lines, name="update-ratio-lines")
    for kind in ("dead", "saturated"):
        name = f"{kind}_units"
        section.add_each(f"{kind.capitalize()} units", runs, layers.share_map, name, name=name)
    for kind in ("activations", "gradients", "weights"):
        name = f"histograms-{kind}"
        section.add_each(f"Histograms of the {kind}", runs, layers.histogram_chart, kind, name=name)


def _first_layer(section: Section, runs: Sequence[RunRecord]) -> None:
    section.add_each("Filters", runs, pictures.filter_pictures)


def _optimizer(section: Section, runs: Sequence[RunRecord]) -> None:
    norm = "Norm of the gradient"
    section.add(norm, curves.single_chart, runs, ["gradient_norm"], norm, log=True)
    section.add("Norm of the weights", curves.weight_norm_chart, runs)


def _averages(section: Section, runs: Sequence[RunRecord]) -> None:
    section.add("Raw against averaged accuracy", curves.averages_chart, runs, "accuracy")
    section.add("Raw against averaged loss", curves.averages_chart, runs, "loss")


def _mistakes(runs: Sequence[RunRecord]) -> Section:
    section = Section("mistakes", "What it gets wrong", summary=_most_frequent(runs))
    section.add_each("Confusion matrix", runs, confusion.confusion_chart, name="confusion")
    section.add_each("Frequent mistakes", runs, confusion.frequent_mistakes)
    section.add_each("Worst-classified images", runs, pictures.worst_pictures)
    return section


def _most_frequent(runs: Sequence[RunRecord]) -> str:
    """The most frequent mistake of one run in a sentence."""
    if len(runs) > 1:
        return "Of the test images, class by class."
    try:
        label, guess, images, share = confusion.frequent_mistakes(runs[0]).rows[0]
    except LeftOut as reason:
        return as_sentence(str(reason))
    return f"Most often {label} is taken for {guess}: {images} of the test images, {share} of that class."


_CHARTS: dict[str, Callable[[Section, Sequence[RunRecord]], None]] = {
    "loss": _loss,
    "accuracy": _accuracy,
    "updates": _updates,
    "first-layer": _first_layer,
    "optimizer": _optimizer,
    "averages": _averages,
}
