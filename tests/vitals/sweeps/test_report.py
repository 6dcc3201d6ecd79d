"""The report of a sweep, from folders as its jobs leave them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from rich.console import Console

from vitals.findings import Finding, write_findings
from vitals.metric import Metric
from vitals.runs.run_folder import RunFolder
from vitals.sweeps.jobs.folder import SweepFolder
from vitals.sweeps.results.levels import importance, levels
from vitals.sweeps.results.next_steps import borders
from vitals.sweeps.results.report import report, seed_table
from vitals.sweeps.results.results import read_results

LOG_RANGE = "optimizer.lr=tag(log,interval(1e-6,1e1))"

ACCURACY = Metric("accuracy/val", "max")


@pytest.fixture
def sweep(tmp_path: Path):
    """`sweep({"optimizer.lr=0.1 seed=0": [0.3, 0.5]}, space=[…])`: words and curve of each job."""

    def sweep(curves: dict[str, list[float]], words: tuple[str, ...] = (), **record: object) -> SweepFolder:
        folder = SweepFolder(tmp_path / "sweep")
        folder.write_record(words, "scripts/train.py", ACCURACY)
        folder.add_to_record(**record)
        for number, (line, curve) in enumerate(curves.items()):
            path = folder.path / f"{number}_{line.replace(' ', '_').replace('=', '-')}"
            path.mkdir(parents=True)
            (path / "job.json").write_text(json.dumps({"number": number, "words": line.split()}))
            seed = line.partition("seed=")[2].partition(" ")[0] or "7"
            (path / "config.yaml").write_text(f"name: x\nseed: {seed}\n")
            rows = "".join(f"{epoch + 1},{accuracy}\n" for epoch, accuracy in enumerate(curve))
            (path / "metrics.csv").write_text("epoch,accuracy/val\n" + rows)
            test = {"test/accuracy": curve[-1]} if curve else {}
            status = "finished" if curve else "failed"
            error = None if curve else "RuntimeError: CUDA out of memory"
            RunFolder(path).write_status(status, error=error, metrics=test, training_seconds=90.0)  # type: ignore[arg-type]
        return folder

    return sweep


def printed(folder: SweepFolder) -> str:
    console = Console(width=250, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    report(folder, console)
    return console.export_text()


def test_the_table_has_best_last_test_status_findings_and_the_error_of_each_job(sweep) -> None:
    folder = sweep(
        {"optimizer.lr=0.1": [0.6, 0.5], "optimizer.lr=1": [], "optimizer.lr=2": [0.1, 0.2]}, jobs=4
    )
    stopped = RunFolder(folder.jobs()[2])
    stopped.write_status("finished", stopped_early="hopeless: 20.00% after 2 epochs, …")
    fault = Finding("learning-rate-too-high", "fail", "The loss bounces.")
    write_findings([fault], folder.jobs()[0] / "findings.json")
    text = printed(folder)
    with folder.results.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["finished", "failed", "hopeless"]
    first = {"optimizer.lr": "0.1", "best/accuracy_val": "0.6", "best/epoch": "1", "last/accuracy_val": "0.5"}
    first |= {"test/accuracy": "0.5", "minutes": "1.5", "seed": "7", "findings": "learning-rate-too-high"}
    assert first.items() <= rows[0].items()
    assert rows[1]["error"] == "RuntimeError: CUDA out of memory"
    assert "CUDA out of memory" in text
    assert "1 failed or interrupted and 1 not started" in text
    assert "-m resume_sweep=" in text


def test_jobs_that_differ_in_the_seed_alone_are_put_together(sweep) -> None:
    folder = sweep(
        {
            "optimizer.lr=0.1 seed=0": [0.5],
            "optimizer.lr=0.1 seed=1": [0.7],
            "optimizer.lr=0.2 seed=0": [0.8],
        }
    )
    table = seed_table(read_results(folder))
    assert table is not None
    assert [column.title for column in table.columns] == ["lr", "seeds", "best", "test"]  # none was averaged
    both = "60.00% ± 14.14"
    assert table.rows == [["0.2", "1", "80.00%", "80.00%"], ["0.1", "2", both, both]]
    assert "60.00% ± 14.14" in printed(folder)


@pytest.mark.parametrize(
    ("rates", "edge"),
    [
        (["8", "1e-2", "1e-3", "1e-4"], "upper"),  # the best itself
        (["1e-2", "8", "9", "1e-4"], "upper"),  # two of the best three
        (["1e-2", "1.5e-6", "2e-6", "1e-4"], "lower"),
        (["1e-2", "8", "1e-3", "9"], None),  # one of the best three
        (["3", "1e-2", "1e-3", "1e-4"], None),  # 7% of the range from its edge
    ],
)
def test_a_best_value_within_5_percent_of_an_edge_is_a_warning_with_a_wider_range(sweep, rates, edge) -> None:
    jobs = {f"optimizer.lr={rate}": [0.9 - 0.1 * place] for place, rate in enumerate(rates)}
    words = ("search=random", "data=digits", LOG_RANGE, "hydra.sweep.dir=x")
    found = borders(read_results(sweep(jobs, words, space=[LOG_RANGE])))
    assert [border.is_upper for border in found] == ([] if edge is None else [edge == "upper"])
    if edge == "upper":
        new = "optimizer.lr=tag(log,interval(0.1,1000))"
        assert found[0].word == new
        assert found[0].command == (f"python scripts/train.py -m search=random data=digits '{new}'")


@pytest.mark.parametrize(
    ("best_last", "word"),
    [
        ("optimizer.lr=0.001,0.01,0.1", "optimizer.lr=0.01,0.1,1"),
        ("optimizer.lr=0.1,0.05,0.02", "optimizer.lr=0.01,0.02,0.03"),
        ("network.dropout=0.5,0.7,0.9", "network.dropout=0.85,0.9,0.95"),
        ("data.batch_size=128,64,32", "data.batch_size=16,32,48"),
        ("network.depth=9,5,2", "network.depth=1,2,3"),
    ],
)
def test_a_list_of_values_with_the_best_at_its_end_is_continued_with_what_may_be(
    sweep, best_last: str, word: str
) -> None:
    key, _, values = best_last.partition("=")
    jobs = {f"{key}={value}": [0.2 + 0.1 * place] for place, value in enumerate(values.split(","))}
    (border,) = borders(read_results(sweep(jobs, (best_last,))))
    assert border.word == word


def test_a_dropout_of_zero_is_no_edge(sweep) -> None:
    jobs = {"network.dropout=0.01": [0.9], "network.dropout=0.5": [0.3], "network.dropout=0.9": [0.4]}
    assert borders(read_results(sweep(jobs, space=["network.dropout=interval(0,1)"]))) == []


def test_the_parameter_that_makes_the_difference_is_the_important_one(sweep) -> None:
    pytest.importorskip("optuna")
    jobs = {
        f"optimizer.lr={10.0**-rate:g} network.dropout={dropout}": [1 - 0.2 * rate + 0.001 * dropout]
        for rate in range(4)
        for dropout in (0.1, 0.5, 0.9)
    }
    shares = importance(read_results(sweep(jobs)))
    assert next(iter(shares)) == "optimizer.lr"
    assert shares["optimizer.lr"] > 0.9


def test_the_page_holds_everything_and_escapes_what_jobs_said(sweep) -> None:
    folder = sweep({"optimizer.lr=0.1 optimizer=adam": [0.5, 0.6], "optimizer.lr=0.01 optimizer=sgd": []})
    RunFolder(folder.jobs()[1]).write_status("failed", error="<script>alert(1)</script>")
    report(folder, Console(quiet=True))
    page = (folder.path / "report.html").read_text()
    assert page.count("<svg") == 5  # two of each hyper-parameter, parallel coordinates
    assert page.count("<script>") == 1  # our own, which sorts the table
    place, name = folder.jobs()[0].name, "report.html"
    assert f'href="{place}/{name}"' not in page  # which that job has not
    (folder.jobs()[0] / name).write_text("")
    report(folder, Console(quiet=True))
    assert f'<a href="{place}/{name}">0</a>' in (folder.path / "report.html").read_text()
    assert not [
        word for word in ("http://", "https://") if f'src="{word}' in page or f'<link href="{word}' in page
    ]


def test_the_best_of_each_value_has_the_other_keys_free_and_the_mean_of_its_seeds(sweep) -> None:
    words = "optimizer.lr={} network.dropout={} seed={}".format
    jobs = {
        words(0.1, 0, 0): [0.5],
        words(0.1, 0, 1): [0.7],
        words(0.1, 0.5, 0): [0.8],
        words(0.1, 0.5, 1): [0.1],
    }
    jobs |= {words(0.01, 0, 0): [0.3], words(0.01, 0.5, 0): [0.4]}
    results = read_results(sweep(jobs))
    low, high = levels(results, "optimizer.lr")
    assert [(level.label, level.score) for level in (low, high)] == [("0.01", 0.4), ("0.1", 0.6)]
    assert sorted(job.number for job in high.best) == [0, 1]
    assert low.colour != high.colour
    assert {level.label: level.score for level in levels(results, "network.dropout")} == {
        "0": 0.6,
        "0.5": 0.45,
    }


def test_many_rates_are_put_into_parts_of_their_range(sweep) -> None:
    jobs = {f"optimizer.lr={10 ** (-rate / 5):.4g}": [rate / 20] for rate in range(16)}
    found = levels(read_results(sweep(jobs)), "optimizer.lr")
    assert len(found) == 6
    assert sum(len(level.jobs) for level in found) == 16
    assert found[0].label == "0.001 to 0.00251"
    assert found[0].score == 0.75


def test_a_folder_without_any_finished_job_still_gets_its_report(sweep) -> None:
    assert "0 not started" not in printed(sweep({"optimizer.lr=0.1": [], "optimizer.lr=1": []}))


def test_jobs_are_ranked_by_the_weights_that_they_chose(sweep) -> None:
    folder = sweep({"optimizer.lr=0.1 seed=0": [0.6, 0.7], "optimizer.lr=0.2 seed=0": [0.8, 0.5]})
    averaged = RunFolder(folder.jobs()[0])
    averaged.metrics.write_text("epoch,accuracy/val,val_average/accuracy\n1,0.6,\n2,0.7,0.9\n")
    averaged.write_status("finished", weights="average")
    results = read_results(folder)
    assert [(job.number, job.weights, job.score) for job in results.ranked] == [
        (0, "average", 0.9),
        (1, "best", 0.8),
    ]
    text = printed(folder)
    assert "average 90.00%" in text
    assert "best 80.00%" in text
    with folder.results.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["weights"], row["chosen/accuracy_val"]) for row in rows] == [
        ("average", "0.9"),
        ("best", "0.8"),
    ]
    page = (folder.path / "report.html").read_text()
    assert "best accuracy/val, job 0, averaged weights" in page
