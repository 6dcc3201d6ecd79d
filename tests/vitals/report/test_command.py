"""`scripts/report.py`: which folder is meant, and what is answered where there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import commands
import pytest
from made_runs import FINDINGS, write_config
from omegaconf import OmegaConf

from vitals.errors import UserError
from vitals.findings import write_findings
from vitals.runs.config.validation import check_report
from vitals.runs.report import report


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with the runs `first` and `second`, one that only began, and one of something else."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        write_findings(FINDINGS, tmp_path / name / "findings.json")
    (tmp_path / "begun").mkdir()
    write_config(tmp_path / "begun")
    (tmp_path / "pictures").mkdir()
    return tmp_path


def test_a_run_gets_its_page_and_two_get_one_together(runs: Path) -> None:
    one, other = str(runs / "first"), str(runs / "second")
    assert report(OmegaConf.create({"run": one, "runs": None})) == runs / "first" / "report.html"
    page = report(OmegaConf.create({"run": None, "runs": [one, other]}))
    assert page == runs / "first" / "comparison_with_second.html"
    assert page.is_file()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("frist", ("run=", "is not a folder", "did you mean", "/first?")),
        ("xyz.csv", ("is not a folder or a file", "as in logs/<name>/, or a CSV file")),
        ("pictures", ("is not the folder of a run", "findings.json")),
        ("begun", ("has nothing to report yet", "history.jsonl")),
        ("", ("holds 2 runs", "name one of them")),
    ],
)
def test_a_folder_without_a_run_is_answered_with_what_is_near(
    name: str, words: tuple[str, ...], runs: Path
) -> None:
    with pytest.raises(UserError) as error:
        report(OmegaConf.create({"run": str(runs / name), "runs": None}))
    message = str(error.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == []
    assert not list(runs.rglob("*.html"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"run": None, "runs": None}, ("no run to report on", "run=<run folder>")),
        ({"run": "a", "runs": ["b", "c"]}, ("either run or runs",)),
        ({"run": None, "runs": ["a"]}, ("two to six run folders",)),
        ({"run": None, "runs": "a"}, ("two to six run folders",)),
    ],
)
def test_one_of_run_and_runs_must_be_given(settings: dict[str, object], words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as error:
        check_report(OmegaConf.create(settings))
    assert [word for word in words if word not in str(error.value)] == []


def test_the_script_needs_no_torch_and_ends_with_the_path(runs: Path) -> None:
    command = [
        sys.executable,
        "-X",
        "importtime",
        str(commands.ROOT / "scripts" / "report.py"),
        f"run={runs / 'first'}",
    ]
    done = subprocess.run(command, cwd=runs, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert f"report: {runs / 'first' / 'report.html'}" in done.stdout
    assert "| torch\n" not in done.stderr


def test_a_mistake_ends_the_script_with_code_2_and_one_sentence(runs: Path) -> None:
    done = commands.run("report", "run=frist", folder=runs)
    assert done.returncode == 2
    assert done.stderr.strip() == "run=frist is not a folder or a file: did you mean first?"
