"""Findings: one order of importance, and JSON that every reader takes."""

import io
import json
import math

import pytest
from rich.console import Console

from vitals.findings import Finding, print_findings, ranked, read_findings, worst_level, write_findings


def finding(level="warn", message="", cause="dead-relu", **facts):
    return Finding(cause, level, message, **facts)


def test_the_gravest_come_first_and_equals_keep_their_order():
    levels = ["note", "fail", "ok", "warn", "fail", "note"]
    findings = [finding(level, str(number)) for number, level in enumerate(levels)]
    assert [found.message for found in ranked(findings)] == ["1", "4", "3", "0", "5", "2"]


@pytest.mark.parametrize(
    ("levels", "worst"),
    [([], "ok"), (["ok", "note"], "note"), (["fail", "ok"], "fail"), (["note", "warn", "ok"], "warn")],
)
def test_the_worst_level_is_that_of_the_gravest(levels, worst):
    assert worst_level(finding(level) for level in levels) == worst


@pytest.mark.parametrize(
    ("level", "alarming"), [("ok", False), ("note", False), ("warn", True), ("fail", True)]
)
def test_warnings_and_failures_alarm(level, alarming):
    assert finding(level).alarming is alarming


def test_findings_come_back_from_the_file_as_they_were(tmp_path):
    findings = [
        finding("fail", "µ ≈ 0,\nnot “1”", remedy="Scale.", where="layers.0", value=1e-30, threshold=0.5),
        finding("note", step=12, epoch=1.5),
    ]
    write_findings(findings, tmp_path / "findings.json")
    assert read_findings(tmp_path / "findings.json") == findings


def test_the_file_has_the_gravest_first_and_the_documented_keys(tmp_path):
    path = tmp_path / "findings.json"
    write_findings([finding("note", "later"), finding("fail", "first")], path)
    first, later = json.loads(path.read_text(encoding="utf-8"))
    assert (first["message"], later["message"]) == ("first", "later")
    documented = {"cause", "level", "message", "remedy", "where", "value", "threshold", "step", "epoch"}
    assert set(first) == documented | {"check", "station", "setting", "exact"}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_has_not_is_null(tmp_path, number):
    path = tmp_path / "findings.json"
    write_findings([finding(value=number, threshold=1.0)], path)
    [read] = read_findings(path)
    assert (read.value, read.threshold) == (None, 1.0)
    assert "NaN" not in path.read_text(encoding="utf-8")


def test_no_findings_are_an_empty_list(tmp_path):
    write_findings([], tmp_path / "findings.json")
    assert json.loads((tmp_path / "findings.json").read_text()) == []


def test_keys_of_a_later_version_are_passed_over(tmp_path):
    path = tmp_path / "findings.json"
    write_findings([finding("warn", "seen")], path)
    entries = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps([entry | {"colour": "red"} for entry in entries]), encoding="utf-8")
    assert read_findings(path) == [finding("warn", "seen")]


def test_an_unknown_cause_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="'dead-rleu': did you mean dead-relu"):
        finding(cause="dead-rleu")


def test_an_unknown_level_is_refused_with_the_nearest():
    with pytest.raises(ValueError, match="'warning': did you mean warn"):
        finding("warning")


def test_a_finding_stands_at_the_station_of_its_cause_unless_it_says_otherwise():
    assert finding().station == "updates"
    assert finding(station="first-layer").station == "first-layer"
    assert finding(cause="skipped").station == ""


def test_the_file_of_an_earlier_version_is_read(tmp_path):
    path = tmp_path / "findings.json"
    entry = {"cause": "dead-relu", "level": "warn", "message": "seen", "remedy": "", "where": "", "step": 3}
    path.write_text(json.dumps([entry]), encoding="utf-8")
    assert read_findings(path) == [finding(message="seen", step=3)]
    assert read_findings(path)[0].check == ""


def test_what_another_project_found_is_read_without_its_causes(tmp_path):
    path = tmp_path / "findings.json"
    write_findings([finding("warn", "seen", check="mine", station="loss")], path)
    path.write_text(path.read_text().replace("dead-relu", "of-another-project"), encoding="utf-8")
    [read] = read_findings(path)
    assert (read.cause, read.check, read.station) == ("of-another-project", "mine", "loss")
    assert read.alarming


@pytest.mark.parametrize(("width", "is_table"), [(80, False), (99, False), (100, True), (160, True)])
def test_in_a_narrow_terminal_they_are_paragraphs(width, is_table):
    console = Console(width=width, record=True, file=io.StringIO())
    message = "The outputs [and more] of 'layers.0' are zero for all of the 256 samples that were looked at."
    print_findings([finding("fail", message, remedy="Lower the learning rate.", step=7)], console)
    said = console.export_text()
    assert ("│" in said) == is_table
    assert max(map(len, said.splitlines())) <= width
    if not is_table:
        assert (
            " ".join(said.split()) == f"Findings fail dead-relu, step 7: {message} Lower the learning rate."
        )
