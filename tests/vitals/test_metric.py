"""The metric by which runs are judged: which epoch is best, and how a score is read."""

import math

import pytest

from vitals.metric import Metric, bare_name
from vitals.runs.run_folder import RunFolder
from vitals.runs.terminal import final_metrics

ROWS = [
    {"epoch": 1.0, "accuracy/val": 0.5, "loss/val": 1.0, "mae/val": 3.0},
    {"epoch": 2.0, "accuracy/val": 1.0, "loss/val": 0.5, "mae/val": 1.0},
    {"epoch": 3.0, "accuracy/val": 1.0, "loss/val": 0.1, "mae/val": math.nan},
    {"epoch": 4.0, "loss/val": 0.0},
]


@pytest.mark.parametrize(
    ("metric", "epoch"),
    [
        (Metric("accuracy/val", "max", "loss/val"), 3),  # of equals the lower loss
        (Metric("accuracy/val", "max"), 2),  # of equals the first
        (Metric("accuracy/val", "max", "nowhere"), 2),
        (Metric("mae/val", "min"), 2),
        (Metric("accuracy/val", "min"), 1),
    ],
)
def test_the_best_epoch_is_that_of_the_metric_and_its_tie_breaker(metric, epoch):
    assert metric.best(ROWS)["epoch"] == epoch


def test_only_epochs_with_a_finite_score_count_and_only_up_to_the_given_one():
    assert Metric("accuracy/val", "max", "loss/val").best_score(ROWS, within=1) == 0.5
    assert Metric("val_f1", "max").best(ROWS) is None
    assert Metric("mae/val", "min").best_score(ROWS[2:]) is None


def test_the_last_weights_have_no_score_of_an_epoch_before(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,loss/train,loss/val\n1,3,4\n2,2,3\n3,1,\n")
    figures = final_metrics(RunFolder(tmp_path), Metric("loss/val", "min"), {})
    assert figures == {"best/epoch": 2, "best/loss_val": 3.0, "last/epoch": 3}


@pytest.mark.parametrize(
    ("name", "bare"),
    [
        ("mae/val", "mae"),
        ("val_mae", "mae"),
        ("test/mae", "mae"),
        ("valid_loss", "loss"),
        ("val-loss", "loss"),
        ("mae", "mae"),
    ],
)
def test_a_bare_name_is_without_the_split(name, bare):
    assert bare_name(name) == bare


def test_a_score_is_read_in_percent_where_the_largest_is_best_and_in_its_unit_where_the_smallest_is():
    assert Metric("accuracy/val", "max").text(0.7612) == "76.12%"
    assert Metric("mae/val", "min").text(0.05123) == "0.05123"
    assert Metric("accuracy/val", "max").text(None) == "–"


def test_a_metric_that_is_not_logged_is_answered_with_the_names_of_the_validation():
    logged = ["loss/train", "val_average/loss", "loss/val", "val_acc", "grad"]
    said = Metric("accuracy/val", "max").missing_from(logged)
    assert said.endswith("no epoch is the best: valid are loss/val, val_acc.")
    assert "valid are grad" in Metric("accuracy/val", "max").missing_from(["grad"])
