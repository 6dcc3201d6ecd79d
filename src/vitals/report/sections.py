"""The parts of the page in their order: each station with its light, its words and its charts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vitals.findings import Finding, ranked
from vitals.report import facts
from vitals.report.confusion import confusion_chart, frequent_mistakes
from vitals.report.curves import accuracy_chart, averages_chart, loss_chart, single_chart
from vitals.report.drawing import Chart
from vitals.report.errors import LeftOut
from vitals.report.histograms import histogram_chart
from vitals.report.layers import share_map, update_ratio_chart, update_ratio_lines, variance_chart
from vitals.report.numbers import percent
from vitals.report.pictures import Pictures, filter_pictures, worst_pictures
from vitals.report.record import RunRecord
from vitals.report.stations import STATIONS, Light, Station, light_of, station_of

_log = logging.getLogger(__name__)


@dataclass
class Verdict:
    """What one run says of one station."""

    light: Light
    headline: str
    findings: list[Finding]


@dataclass
class Section:
    """A part of the page; what could not be shown is said in `left_out`."""

    key: str
    title: str
    advice: str = ""
    verdicts: list[Verdict] = field(default_factory=list)
    """One for each run; none for the parts after the stations."""
    blocks: list[Chart | Pictures] = field(default_factory=list)
    mistakes: list[tuple[str, list[tuple[str, str, str, str]]]] = field(default_factory=list)
    """Run and its most frequent mistakes."""
    left_out: list[str] = field(default_factory=list)

    def add(self, what: str, make: Callable[[], Any]) -> None:
        """Put a chart or pictures in, or say why they are not there."""
        made = self.attempt(what, make)
        if made is not None:
            self.blocks += made if isinstance(made, list) else [made]

    def attempt(self, what: str, make: Callable[[], Any]) -> Any:
        """What `make` returns; None where it raises, and a line that says so."""
        try:
            return make()
        except LeftOut as reason:
            self.left_out.append(f"{what}: {reason}.")
        except Exception as error:  # one chart that fails must not cost the others
            _log.warning("%s could not be drawn", what, exc_info=error)
            self.left_out.append(f"{what}: could not be drawn ({type(error).__name__}).")
        return None


def sections(runs: Sequence[RunRecord]) -> list[Section]:
    """All parts of the page about one run, or about several side by side."""
    found = [_station(station, runs) for station in STATIONS]
    return [*found, _mistakes(runs)]


def _station(station: Station, runs: Sequence[RunRecord]) -> Section:
    section = Section(station.key, station.title, station.advice, [_verdict(station, run) for run in runs])
    draw = _CHARTS.get(station.key)
    if draw is not None:
        draw(section, runs)
    return section


def _verdict(station: Station, run: RunRecord) -> Verdict:
    findings = ranked(finding for finding in run.findings if station_of(finding) == station.key)
    told = [finding for finding in findings if finding.cause != "skipped"]
    measured = True
    try:
        headline = facts.headline(run, station.key)
    except LeftOut as reason:
        headline, measured = f"{str(reason)[:1].upper()}{str(reason)[1:]}.", False
    except Exception as error:  # a file that is not as it should be
        _log.warning("%s could not be summed up", station.key, exc_info=error)
        headline, measured = "The run's files do not say.", False
    if told and (told[0].alarming or not measured):
        headline = _summary(told)
    elif findings and not measured:
        headline = findings[0].message
    return Verdict(light_of(findings, station, measured, bool(run.findings)), headline, findings)


def _summary(findings: Sequence[Finding]) -> str:
    passed = sum(finding.level == "ok" for finding in findings)
    if findings[0].alarming or len(findings) == 1:
        return findings[0].message
    others = len(findings) - passed
    return f"{passed} of {len(findings)} checks passed" + (f", {others} with a note." if others else ".")


def _each(runs: Sequence[RunRecord], make: Callable[[RunRecord, str], Any], name: str) -> Callable[[], list[Any]]:
    """`make` for every run, side by side, with figures of different names."""

    def all_of_them() -> list[Any]:
        made: list[Any] = []
        reasons: list[LeftOut] = []
        for index, run in enumerate(runs):
            try:
                one = make(run, f"{name}-{index}")
            except LeftOut as reason:
                reasons.append(reason)
                continue
            for block in one if isinstance(one, list) else [one]:
                made.append(block if len(runs) == 1 else _labelled(block, "ABCDEF"[index]))
        if not made:
            raise reasons[0]
        return made

    return all_of_them


def _labelled(block: Any, label: str) -> Any:
    from dataclasses import replace

    return replace(block, title=f"{label} · {block.title}")


def _loss(section: Section, runs: Sequence[RunRecord]) -> None:
    section.add("Loss", lambda: [loss_chart(runs, "linear"), loss_chart(runs, "log")])


def _accuracy(section: Section, runs: Sequence[RunRecord]) -> None:
    section.add("Accuracy", lambda: accuracy_chart(runs))


def _updates(section: Section, runs: Sequence[RunRecord]) -> None:
    section.add("Update ratio", lambda: update_ratio_chart(runs))
    section.add("Update ratio of every parameter", _each(runs, update_ratio_lines, "update-ratio-lines"))
    for quantity, title in (
        ("activation_variance", "Variance of the activations"),
        ("gradient_variance", "Variance of the gradients"),
    ):
        section.add(title, lambda quantity=quantity: variance_chart(runs, quantity))
    for quantity, title in (("dead_units", "Dead units"), ("saturated_units", "Saturated units")):
        make = lambda run, name, quantity=quantity: share_map(run, quantity, name)  # noqa: E731
        section.add(title, _each(runs, make, quantity))
    for kind in ("activations", "gradients", "weights"):
        make = lambda run, name, kind=kind: histogram_chart(run, kind, name)  # noqa: E731
        section.add(f"Histograms of the {kind}", _each(runs, make, f"histograms-{kind}"))


def _first_layer(section: Section, runs: Sequence[RunRecord]) -> None:
    section.add("Filters", _each(runs, lambda run, name: filter_pictures(run), "filters"))


def _optimizer(section: Section, runs: Sequence[RunRecord]) -> None:
    for tag, title, log, write in (
        ("gradient_norm", "Norm of the gradient", True, None),
        ("loss_noise", "Wiggle of the loss", False, percent),
        ("gradient_noise_scale", "Gradient noise scale, in examples", True, None),
    ):
        more = {"write": write} if write else {}
        section.add(title, lambda tag=tag, title=title, log=log, more=more: single_chart(runs, tag, title, log=log, **more))


def _averages(section: Section, runs: Sequence[RunRecord]) -> None:
    section.add("Averaged weights", lambda: [averages_chart(runs, "accuracy"), averages_chart(runs, "loss")])


def _mistakes(runs: Sequence[RunRecord]) -> Section:
    section = Section("mistakes", "What it gets wrong")
    section.add("Confusion matrix", _each(runs, confusion_chart, "confusion"))
    section.add("Worst-classified images", _each(runs, lambda run, name: worst_pictures(run), "worst"))
    for index, run in enumerate(runs):
        rows = section.attempt("Most frequent mistakes", lambda run=run: frequent_mistakes(run))
        if rows:
            section.mistakes.append(("" if len(runs) == 1 else "ABCDEF"[index], rows))
    return section


_CHARTS: dict[str, Callable[[Section, Sequence[RunRecord]], None]] = {
    "loss": _loss,
    "accuracy": _accuracy,
    "updates": _updates,
    "first-layer": _first_layer,
    "optimizer": _optimizer,
    "averages": _averages,
}
