"""What the page says of a run's folder, whatever is in it or is missing."""

from __future__ import annotations

import html
import json
import math
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from made_runs import (
    FINDINGS,
    layer_names,
    write_config,
    write_history,
    write_metrics,
    write_predictions,
    write_run,
)
from matplotlib.axes import Axes

from vitals.findings import Finding, write_findings
from vitals.history import History
from vitals.metric import Metric
from vitals.report.drawing import chart, epochs_below, log_numbers, plain_numbers
from vitals.report.facts import differences
from vitals.report.page import comparison_name, make_report, write_runs
from vitals.report.record import RunRecord
from vitals.runs.run_folder import RunFolder
from vitals.runs.terminal import final_metrics

FILES = ["config.yaml", "status.json", "metrics.csv", "findings.json", "history.jsonl", "predictions.npz"]


def text_of(page: Path) -> str:
    """The words of the page, as a reader sees them."""
    source = re.sub(r"<style>.*?</style>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", source)).split())


def charts_of(page: Path) -> int:
    return page.read_text(encoding="utf-8").count("<svg")


def lights_of(page: Path) -> dict[str, str]:
    """The word of each station's light."""
    verdicts = page.read_text("utf-8").partition('class="verdicts"')[2].partition("</ol>")[0]
    return dict(re.findall(r"href=\"#([\w-]+)\".*?</b>([\w ]+)</span>", verdicts, re.DOTALL))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "run", steps=200, layers=layer_names(2))


def test_a_long_run_of_a_deep_network_stays_under_three_megabytes(tmp_path: Path) -> None:
    page = make_report(write_run(tmp_path / "long", steps=8000, layers=layer_names(60), epochs=20.0))
    assert page.stat().st_size < 3e6
    assert "could not be drawn" not in text_of(page)


def test_the_same_folder_gives_the_same_page(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "run"
    shutil.copytree(run, copy)
    assert make_report(run).read_bytes() == make_report(copy).read_bytes()
    assert sorted(file.name for file in copy.iterdir()) == sorted([*FILES, "report.html"])


@pytest.mark.parametrize(
    ("metric", "best", "score"),
    [
        (Metric("accuracy/val", "max", "loss/val"), 3, "60.0%"),
        (Metric("accuracy/val", "max"), 2, "60.0%"),
        (Metric("mae/val", "min"), 1, "0.2"),
        (None, 3, "60.0%"),  # another program's record
    ],
)
def test_the_best_epoch_is_that_of_the_terminal_also_where_two_are_level(
    metric: Metric | None, best: int, score: str, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    rows = ["1,10,0.5,0.9,0.2", "2,20,0.6,0.8,0.3", "3,30,0.6,0.7,0.4", "4,40,0.6,0.7,0.5"]
    (folder / "metrics.csv").write_text("\n".join(["epoch,step,accuracy/val,loss/val,mae/val", *rows]))
    if metric:
        write_config(folder, **{f"metric.{key}": value for key, value in asdict(metric).items() if value})
        assert final_metrics(RunFolder(folder), metric, {})["best/epoch"] == best
        assert RunFolder(folder).score(metric, "best") == (
            float(score.strip("%")) / (100 if "%" in score else 1),
            best,
        )
    said = text_of(make_report(folder))
    name = "accuracy" if "%" in score else "mae"
    assert f"best validation {name}, of epoch {best}" in said
    assert f"alidation is best in epoch {best} with {'mae ' * (name == 'mae')}{score}" in said


def test_verdicts_come_from_the_findings_in_words(run: Path) -> None:
    lights = lights_of(make_report(run))
    assert list(lights) == [
        *("gradients", "before", "loss", "accuracy", "updates"),
        *("first-layer", "optimizer", "decay", "search", "averages"),
    ]
    assert (lights["gradients"], lights["before"]) == ("fine", "fine")  # a skipped part leaves it fine
    assert (lights["updates"], lights["loss"]) == ("warning", "no alarm")
    assert lights["optimizer"] == "as set"


@pytest.mark.parametrize(
    ("cause", "station"),
    [
        ("wrong-gradient", "gradients"),
        ("double-softmax", "before"),
        ("learning-rate-too-high", "loss"),
        ("overfitting", "accuracy"),
        ("frozen-parameters", "updates"),
    ],
)
def test_a_fault_turns_the_light_of_its_station_and_says_what_to_do(
    cause: str, station: str, tmp_path: Path
) -> None:
    finding = Finding(cause, "fail", "It was seen.", "Do this.", "somewhere", 0.00123, 1e-4, 1250, 3.5)
    write_findings([*FINDINGS, finding], tmp_path / "findings.json")
    page = make_report(tmp_path)
    assert lights_of(page)[station] == "fault"
    said = text_of(page)
    assert "It was seen. Do this." in said
    assert f"{cause} somewhere step 1,250, epoch 3.5 value 0.00123, threshold 1e−4" in said


@pytest.mark.parametrize("missing", FILES)
def test_what_a_missing_file_would_have_told_is_left_out_with_a_reason(
    missing: str, run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns(missing, "*.html"))
    page = make_report(folder)
    said = text_of(page)
    assert "could not be drawn" not in said
    if missing not in ("status.json", "metrics.csv"):  # status has no part of its own, metrics have a second
        assert f"the run has no {missing}" in said
    if missing == "metrics.csv":
        assert "the weights were not averaged" in said


@pytest.mark.parametrize(
    ("damaged", "content"),
    [
        ("config.yaml", b"{["),
        ("status.json", b"[1, 2]"),
        ("metrics.csv", b"\xff\xfe\x00 not what it should be"),
        ("findings.json", b'{"a": 1}'),
        ("history.jsonl", b'[1, 2]\n{"a": 1}\n{"step": 1, "epoch": 0, "values": {}}\n'),
        ("predictions.npz", b""),
    ],
)
def test_a_damaged_file_costs_only_its_own_part(
    damaged: str, content: bytes, run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / damaged).write_bytes(content)
    page = make_report(folder)
    assert "could not be drawn" not in text_of(page)
    least = {"history.jsonl": 7, "metrics.csv": 14, "predictions.npz": 16}.get(damaged, 17)
    assert charts_of(page) >= least


def test_a_foreign_project_has_findings_and_history_alone(tmp_path: Path) -> None:
    write_findings(FINDINGS, tmp_path / "findings.json")
    write_history(tmp_path)
    page = make_report(tmp_path)
    lights = lights_of(page)
    assert (lights["loss"], lights["accuracy"], lights["updates"]) == ("no alarm", "no alarm", "warning")
    assert (lights["optimizer"], lights["averages"]) == ("not measured", "not measured")
    assert charts_of(page) == 4 + 2 + 8 + 2


def test_findings_alone_make_a_page_without_charts(tmp_path: Path) -> None:
    write_findings(FINDINGS, tmp_path / "findings.json")
    page = make_report(tmp_path)
    assert charts_of(page) == 0
    said = text_of(page)
    assert "No loss was recorded." in said
    assert "Charts: the run has no history.jsonl." in said


def test_no_findings_are_not_taken_for_health(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("findings.json", "*.html"))
    page = make_report(folder)
    assert set(lights_of(page).values()) == {"not measured", "measured", "as set"}
    assert "No warnings and no faults" not in text_of(page)


def test_numbers_that_are_none_are_said_and_not_drawn(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    losses = [2.3, 2.4, 900.0, 1e30, math.inf, math.nan, math.nan, math.nan]
    history.add_steps(8, 0.8, {"loss/train_step": losses, "gradient_norm": [math.nan] * 8})
    for step in (4, 8):
        values = {"update_ratio/a.weight": math.inf, "update_ratio/b.weight": 0.0, "lr/0": 0.1}
        values |= {f"update_ratio_summary/{name}": math.nan for name in ("min", "median", "max")}
        values |= {
            "activation_variance/a": math.nan,
            "activation_variance/b": math.inf,
            "dead_units/a": math.nan,
        }
        values |= {"activations/a": {"edges": [0.0, math.nan], "counts": [1]}, "filters/a": {"png": "no png"}}
        history.add(step, step / 10, values)
    said = text_of(make_report(tmp_path))
    assert "could not be drawn" not in said
    assert "Not finite from epoch 0.5 on." in said
    assert "the highest is 1e30" in said
    for reason in (
        "no update ratio was recorded",
        "no variance of the activations",
        "no histogram of the act",
    ):
        assert reason in said


def test_one_epoch_with_one_measurement_is_drawn_as_points(tmp_path: Path) -> None:
    write_metrics(tmp_path, epochs=1)
    write_history(tmp_path, steps=50, every=50, layers=["fc"], epochs=1.0)
    page = make_report(tmp_path)
    assert "could not be drawn" not in text_of(page)
    assert charts_of(page) >= 12


def test_hundreds_of_layers_and_a_hundred_classes_fit(tmp_path: Path) -> None:
    write_history(tmp_path, steps=200, layers=layer_names(400))
    write_predictions(tmp_path, [f"class {index}" for index in range(100)], 2000)
    page = make_report(tmp_path)
    assert page.stat().st_size < 3e6
    said = text_of(page)
    assert "could not be drawn" not in said
    assert "60 of 400 parameters." in said


def test_it_says_how_to_get_the_same_run_again(run: Path) -> None:
    said = text_of(make_report(run))
    assert "python scripts/train.py data=cifar10 trainer.max_epochs=6 seed=7" in said  # the seed was drawn
    assert "0123456789abcdef0123456789abcdef01234567" in said
    assert "torch 2.15.0" in said
    assert "weight_decay: 0.0005" in said


def compared(folders: list[Path]) -> Path:
    return write_runs([RunRecord.read(folder) for folder in folders], folders[0] / comparison_name(folders))


def test_a_comparison_tells_what_differs_and_how_both_ended(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", layers=layer_names(3))
    write_config(other, **{"optimizer.lr": 0.05, "optimizer.nesterov": "false"})
    status = json.loads((other / "status.json").read_text())
    status["metrics"]["test/accuracy"] = 0.7991
    (other / "status.json").write_text(json.dumps(status))
    page = compared([run, other])
    assert page.parent == run
    said = text_of(page)
    differing = said.partition("What differs in the configuration")[2].partition("What was found")[0]
    assert differing.split() == [
        "A",
        "B",
        "optimizer.lr",
        "0.1",
        "0.05",
        "optimizer.nesterov",
        "True",
        "False",
    ]
    assert "test accuracy 83.1% 79.9%" in said
    assert "could not be drawn" not in said


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [
        ({"lr": 0.1, "betas": [0.9, 1]}, {"lr": "1e-1", "betas": ["9e-1", 1.0]}, []),
        ({"nesterov": True}, {"nesterov": "true"}, []),
        ({"epochs": 10, "momentum": None, "groups": {}}, {"epochs": "10.0"}, []),
        ({"lr": ".10", "name": "null"}, {"lr": 1e-1, "name": None}, []),
        ({"lr": 0.1, "name": "a"}, {"lr": 0.01, "name": "b"}, ["lr", "name"]),
        ({"nesterov": True, "depth": 1}, {"nesterov": 1, "depth": True}, ["nesterov", "depth"]),
        ({"momentum": 0}, {}, ["momentum"]),
    ],
)  # fmt: skip
def test_a_comparison_compares_values_and_not_how_they_are_spelled(
    one: dict[str, object], other: dict[str, object], differs: list[str], tmp_path: Path
) -> None:
    records = [replace(RunRecord.read(tmp_path), config=config) for config in (one, other)]
    assert [key for key, _ in differences(records)] == differs


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize(("least", "times"), [(3e-9, 1.0), (418.0, 1.0002), (1.0, 1.5), (3.0, 1e6)])
def test_an_axis_of_numbers_bears_two_labels_at_least(scale: str, least: float, times: float) -> None:
    def paint(axes: Axes) -> None:
        axes.plot([0.0, 0.05], [least, least * times])
        (plain_numbers if scale == "linear" else log_numbers)(axes)
        epochs_below(axes, "")

    svg = chart("chart", "", paint).svg
    texts = re.findall(r"<text [^>]*>([^<]+)</text>", svg)
    anchors = re.findall(r"text-anchor: (\w+)", svg)
    assert len({text for text, anchor in zip(texts, anchors, strict=True) if anchor == "middle"}) >= 2
    assert len({text for text, anchor in zip(texts, anchors, strict=True) if anchor == "end"}) >= 2


def test_a_comparison_with_a_foreign_run_goes_on_without_what_that_lacks(run: Path, tmp_path: Path) -> None:
    write_findings(FINDINGS, tmp_path / "findings.json")
    said = text_of(compared([run, tmp_path]))
    assert "could not be drawn" not in said
    assert "B · Confusion matrix: the run has no predictions.npz." in said
    assert "A · Confusion matrix of the test images" in said


def test_several_losses_are_told_and_not_called_judged(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    for epoch in range(3):
        history.add(8 * epoch, float(epoch), {"d_loss": 1.2 - epoch / 10, "g_loss": 0.6 + epoch / 10})
    write_findings([], tmp_path / "findings.json")
    page = make_report(tmp_path)
    said = text_of(page)
    assert lights_of(page)["loss"] == "measured"
    assert "Losses of its own: d_loss 1.2 → 1, g_loss 0.6 → 0.8." in said
    assert "o loss was recorded" not in said
    assert charts_of(page) == 2


def test_metrics_other_than_accuracy_are_told_and_not_called_judged(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    for epoch in range(3):
        history.add(8 * epoch, float(epoch), {"iou/val": 0.31 + epoch / 10, "loss/val": 1.1 - epoch / 4})
    looks = "20 verdicts were measured, 2 could not be: loss at chance, underfitting."
    findings = [
        Finding("looks", "ok", looks, value=20.0, threshold=22.0),
        Finding("wiring-correct", "ok", "Validation runs in evaluation mode."),
        Finding("tiny-subset-fits", "ok", "On 16 samples the loss goes from 1.8 to 0.25."),
        Finding("skipped", "ok", "Loss at chance: your loss takes no class number.", where="checks"),
    ]
    write_findings(findings, tmp_path / "findings.json")
    page = make_report(tmp_path)
    said = text_of(page)
    assert lights_of(page)["accuracy"] == "measured"
    assert "No accuracy was recorded that could be judged; iou in validation 0.31 → 0.51." in said
    assert "last validation iou" in said
    assert "2 of 2 checks passed; others were skipped." in said
    assert looks in said
