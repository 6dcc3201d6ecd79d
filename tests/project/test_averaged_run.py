"""A run that averages its later weights, from the command to the test of the better ones."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from typing import Any

import commands
import pytest
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_run import assert_same, charts, checkpoint, config, curves, resumed
from test_scripts import TINY, run_folders, status

from project import build as project
from project.data.data_module import ImageData
from project.train import train
from vitals.report.predictions import Predictions
from vitals.runs.evaluate import evaluate
from vitals.runs.run import run
from vitals.runs.run_folder import RunFolder

SMALL = ["callbacks.learning_curves.subset_samples=0", "~callbacks.histograms", "~callbacks.update_ratio"]


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def evaluated(folder: Path, name: str, split: str) -> dict[str, float]:
    options = {"run": str(folder), "checkpoint": name, "split": split, "data_root": None}
    return evaluate(OmegaConf.create(options), project)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A run of four epochs of which two are averaged, and its final metrics."""
    folder = tmp_path_factory.mktemp("averaged")
    return folder, run(config("trainer.max_epochs=4", "average.start=0.5", *SMALL), RunFolder(folder), train)


def test_the_table_of_metrics_has_the_averaged_figures_once_averaging_has_begun(
    finished: tuple[Path, Any],
) -> None:
    assert [bool(row["val_average/accuracy"]) for row in rows(finished[0])] == [False, False, True, True]


def test_tensorboard_has_raw_and_averaged_weights_on_one_chart_and_the_gain_on_its_own(
    finished: tuple[Path, Any],
) -> None:
    events = EventAccumulator(str(finished[0])).Reload()
    for tag in ("val_average/loss", "val_average/accuracy", "val_average/gain"):
        assert [event.step for event in events.Scalars(tag)] == [3, 4], tag
    assert charts(events)["weight average"] == {
        "accuracy": ["accuracy/val$", "val_average/accuracy$"],
        "loss": ["loss/val$", "val_average/loss$"],
        "gain": ["val_average/gain$"],
    }


def test_the_better_weights_on_validation_are_tested(finished: tuple[Path, dict[str, float]]) -> None:
    folder, metrics = finished
    better = metrics["average/accuracy_val"] > metrics["best/accuracy_val"]
    assert metrics["test/averaged"] == better
    tested = evaluated(folder, "average" if better else "best", "test")
    assert tested["accuracy/test"] == metrics["test/accuracy"]


@pytest.mark.parametrize("sign", [1, -1])
def test_whichever_is_better_is_chosen(sign: int, tmp_path: Path) -> None:
    """At a rate that makes the raw weights jump the average is better; where they still climb it is worse."""
    words = ["optimizer.lr=1.0", "average.start=2"] if sign > 0 else ["optimizer.lr=0.01", "average.start=0"]
    words += ["trainer.max_epochs=6", "schedule=constant", "data.limit=600", "callbacks=none"]
    metrics = run(config(*words), RunFolder(tmp_path), train)
    gain = metrics["average/accuracy_val"] - metrics["best/accuracy_val"]
    assert gain * sign > 0
    assert metrics["test/averaged"] == (sign > 0)


def test_the_averaged_checkpoint_gives_the_figures_of_the_run(finished: tuple[Path, Any]) -> None:
    folder = finished[0]
    found = evaluated(folder, "average", "val")
    assert found["accuracy/val"] == float(rows(folder)[-1]["val_average/accuracy"])
    assert found["loss/val"] == pytest.approx(float(rows(folder)[-1]["val_average/loss"]), rel=1e-6)
    assert checkpoint(folder, "average.ckpt").keys() >= {"state_dict", "epoch", "global_step", "ImageData"}


WAYS = [
    "average=ema average.every=2 network.dropout=0.5",
    "average=last_k average.last=2 trainer.accumulate_grad_batches=2",
    "average.start=1 schedule.late.start=0.25",
    "average.start=1 schedule.late.start=1 schedule.late.low=0.01 schedule.late.cycle_epochs=1",
]


@pytest.mark.parametrize("words", WAYS)
def test_a_resume_in_the_middle_is_exact(words: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    run(config("trainer.max_epochs=4", *words.split(), *SMALL), RunFolder(one), train)
    run(config("schedule.epochs=4", *words.split(), *SMALL), RunFolder(two), train)
    resumed(two)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks"):
        assert_same(checkpoint(one)[part], checkpoint(two)[part])
    assert_same(checkpoint(one, "average.ckpt")["state_dict"], checkpoint(two, "average.ckpt")["state_dict"])
    assert rows(one) == rows(two)
    assert curves(one) == curves(two)


def test_the_raw_run_is_the_same_to_the_bit_without_the_average(tmp_path: Path) -> None:
    for name in ("swa", "none"):
        words = [f"average={name}", "average.start=0.0", "network.dropout=0.5", *SMALL]
        run(config(*words), RunFolder(tmp_path / name), train)
    one, two = (checkpoint(tmp_path / name) for name in ("swa", "none"))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "loops"):
        assert_same(one[part], two[part])
    one, two = (state["callbacks"]["Checkpoints"] for state in (one, two))
    [mine], [theirs] = (state["place"]["processes"] for state in (one, two))
    mine["logged"] = {name: value for name, value in mine["logged"].items() if name in theirs["logged"]}
    assert_same(one, two)  # but for what the average logs
    raw, there = curves(tmp_path / "none"), curves(tmp_path / "swa")
    assert {tag: there[tag] for tag in raw} == raw


def test_two_processes_train_in_one_folder_and_keep_one_average(tmp_path: Path) -> None:
    words = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.max_epochs=2"]
    words += ["average.start=0.0", "schedule.warmup_epochs=0"]
    process = commands.Started("train", *TINY, *words, folder=tmp_path)
    assert process.wait() == 0, process.output
    [folder] = run_folders(tmp_path)
    # 100 images, 50 a process, one batch of 32 each: one step an epoch
    assert [(row["epoch"], row["step"]) for row in rows(folder)] == [("1", "1"), ("2", "2")]
    images = ImageData("digits")
    images.setup()
    kept = Predictions.load(folder / "predictions.npz")  # of both processes, in the order of the test images
    assert kept.labels.tolist() == images.test.labels.tolist()
    last = rows(folder)[-1]
    found = evaluated(folder, "average", "val")
    assert found["accuracy/val"] == pytest.approx(float(last["val_average/accuracy"]), abs=1e-6)
    assert found["loss/val"] == pytest.approx(float(last["val_average/loss"]), rel=1e-4)
    gain = float(last["val_average/accuracy"]) - float(last["accuracy/val"])
    assert float(last["val_average/gain"]) == pytest.approx(gain, abs=1e-6)


def test_a_terminated_run_keeps_the_average_of_its_whole_epochs_and_goes_on(tmp_path: Path) -> None:
    words = [*TINY, *SMALL, "trainer.max_epochs=100000", "average.start=0.0"]
    process = commands.Started("train", *words, folder=tmp_path)
    commands.wait_for(tmp_path, "last.ckpt")
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    [folder] = run_folders(tmp_path)
    assert f"scripts/train.py resume={folder.relative_to(tmp_path)}" in process.output
    last = checkpoint(folder)
    whole = last["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]  # epochs
    assert last["callbacks"]["WeightAverage"]["average"]["count"] == whole
    assert json.loads((folder / "status.json").read_text())["status"] == "interrupted"
    found = evaluated(folder, "average", "val")
    epoch = checkpoint(folder, "average.ckpt")["epoch"] + 1
    more = f"trainer.max_epochs={whole + 2}"
    assert commands.run("train", f"resume={folder}", more, folder=tmp_path).returncode == 0
    # Only now: the end may have come between the average of an epoch and its row, which is then made anew.
    by_epoch = {int(row["epoch"]): row for row in rows(folder)}
    assert found["accuracy/val"] == float(by_epoch[epoch]["val_average/accuracy"])
    assert checkpoint(folder)["callbacks"]["WeightAverage"]["average"]["count"] == whole + 2
    assert status(folder)["status"] == "finished"


CLASHES = {
    "average.start=20": "average.start=20 begins after the run's end: it must be less than",
    "average.start=1.5": "it must be a share of the run from 0",
    "average.kind=mean": "average.kind=mean does not exist: valid are ema, last_k, swa",
    "average.batch_norm_batches=0": "it must be a whole number of 1 or more",
    "average=ema average.decay=2.0": "it must be between 0 and 1, both excluded",
    "schedule=plateau schedule.late.start=0.5": "schedule.late cannot go with schedule=plateau",
    "schedule.late.start=0.5 schedule.late.low=0.1": "set schedule.late.low and schedule.late.cycle_epochs",
    "schedule.late.start=25": "schedule.late.start=25 begins after the run's end",
    "average=swaa": "did you mean swa?",
}


@pytest.mark.parametrize("words", CLASHES)
def test_a_wrong_value_gets_a_sentence_and_leaves_no_folder(words: str, tmp_path: Path) -> None:
    done = commands.run("train", "data=digits", *words.split(), folder=tmp_path)
    assert done.returncode == 2
    assert CLASHES[words] in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_weights_of_the_average_are_those_of_its_epochs(tmp_path: Path) -> None:
    words = ["trainer.max_epochs=3", "average.start=1", *SMALL]
    run(config(*words), RunFolder(tmp_path / "whole"), train)
    parts = []
    for epochs in (2, 3):
        run(
            config("schedule.epochs=3", f"trainer.max_epochs={epochs}", *SMALL),
            RunFolder(tmp_path / str(epochs)),
            train,
        )
        parts.append(checkpoint(tmp_path / str(epochs))["state_dict"]["network.stem.0.weight"])
    averaged = checkpoint(tmp_path / "whole", "average.ckpt")["state_dict"]["network.stem.0.weight"]
    assert torch.allclose(averaged, torch.stack(parts).mean(0), atol=1e-6)
