"""The arguments of Lightning's Trainer, lengths that are no epochs, and keys by others' names for them."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from project.schema import Experiment
from tests.commands import ROOT, run
from vitals.errors import UserError
from vitals.runs.config.other_names import did_you_mean_key
from vitals.runs.config.overrides import Overrides
from vitals.runs.config.trainer_arguments import complaint
from vitals.runs.config.validation import check_run

CONFIGS = ROOT / "configs"
TINY = [
    "data=digits",
    "data.limit=300",
    "data.batch_size=32",
    "network.widths=[4,4]",
    "trainer=cpu",
    "seed=0",
]
TINY += ["checks=none", "diagnosis.report=false", "callbacks=none", "hydra.run.dir=r"]
"""Nine steps an epoch."""


class Trained:
    """A short run in `folder`, and what it has written."""

    def __init__(self, folder: Path, *words: str, place: str = "r") -> None:
        done = run("train", *TINY[:-1], f"hydra.run.dir={place}", *words, folder=folder)
        assert done.returncode == 0, done.stderr
        self.said, self.place = done.stdout, folder / place
        self.status: dict[str, Any] = json.loads((self.place / "status.json").read_text())

    @property
    def rows(self) -> list[dict[str, str]]:
        with (self.place / "metrics.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def history(self, tag: str) -> list[float]:
        entries = map(json.loads, (self.place / "history.jsonl").read_text().splitlines())
        return [entry["values"][tag] for entry in entries if tag in entry["values"]]


@pytest.fixture(scope="module")
def known() -> tuple[DictConfig, Overrides]:
    overrides = Overrides(CONFIGS, "train", ["data=digits"])
    return next(overrides.composed()), overrides


@pytest.mark.parametrize(
    ("word", "meant"),
    {
        "lr=0.1": "optimizer.lr=0.1?",
        "model.optimizer.lr=0.1": "optimizer.lr=0.1?",
        "datamodule.batch_size=64": "data.batch_size=64?",
        "epochs=3": "trainer.max_epochs=3?",
        "max_epochs=3": "trainer.max_epochs=3?",
        "model=resnet18": "network=resnet18?",
        "model=resnet-18": "network=resnet18?",
        "ckpt_path=logs/a b/checkpoints/last.ckpt": "resume='logs/a b'?",
        "weight-decay=1e-4": "optimizer.weight_decay=1e-4?",
        "devices=2": "trainer.devices=2?",
        "trainer.gpus=2": "trainer.devices=2?",
        "precision=16": "trainer.precision=16?",
        "val_check_interval=0.5": "trainer.val_check_interval=0.5?",
        "patience=3": "callbacks=early_stopping callbacks.early_stopping.patience=3?",
        "data_dir=~/my images": "data.root='~/my images'?",
        "num_workers=4": "without workers: leave it out.",
        "data.num_workers=4": "without workers: leave it out.",
        "trainer.max_stepz=3": "max_steps",
        "callbacks.histograms.every=5": "callbacks.histograms.every_n_steps=5?",
        "checkpoint.every=5": "checkpoint.every_minutes=5 or checkpoint.every_n_steps=5 or",
        "stop=true": "stop_hopeless=true?",
    }.items(),
)
def test_a_key_by_the_name_of_another_template_is_answered_with_ours(
    word: str, meant: str, known: tuple[DictConfig, Overrides]
) -> None:
    key, _, value = word.partition("=")
    assert meant in did_you_mean_key(key, value, known[0], known[1].groups)


def test_evaluate_answers_a_checkpoint_with_its_run(tmp_path: Path) -> None:
    said = run("evaluate", "ckpt_path=logs/x/checkpoints/best.ckpt", folder=tmp_path)
    assert said.returncode == 2
    assert "did you mean run=logs/x checkpoint=best.ckpt?" in said.stderr


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("max_steps", 3, None),
        ("max_time", {"hours": 2}, None),
        ("profiler", "simple", None),
        ("val_check_interval", 0.5, None),
        ("plugins", {"_target_": "mine.Plugin"}, None),
        ("num_nodes", "two", "trainer.num_nodes=two is not allowed: it must be a whole number."),
        ("detect_anomaly", "yes", "trainer.detect_anomaly=yes is not allowed: it must be true or false."),
        ("max_step", 3, "did you mean max_steps"),
        ("logger", False, "logger=csv"),
        ("default_root_dir", "x", "hydra.run.dir=<folder>"),
    ],
)
def test_arguments_of_the_trainer_are_checked_against_its_signature(
    name: str, value: object, sentence: str | None
) -> None:
    said = complaint(name, value)
    assert said is None if sentence is None else sentence in (said or "")


def test_with_a_plus_or_without_an_argument_of_the_trainer_is_the_same() -> None:
    composed = []
    for plus in ("", "+", "++"):
        words = [
            f"{plus}trainer.max_steps=30",
            f"{plus}trainer.profiler=simple",
            f"{plus}trainer.precision=32",
        ]
        overrides = Overrides(CONFIGS, "train", ["data=digits", *words])
        [config] = overrides.composed()
        check_run(Experiment, config)
        composed.append(config.trainer)
    assert composed[0] == composed[1] == composed[2]
    assert (composed[0].max_epochs, composed[0].max_steps, composed[0].profiler) == (-1, 30, "simple")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["trainer.max_epochs=-1"], "the run has no end"),
        (["trainer.limit_val_batches=0", "callbacks=early_stopping"], "callbacks=early_stopping needs"),
        (["trainer.limit_val_batches=0", "schedule=plateau"], "schedule=plateau follows the validations"),
        (["trainer.check_val_every_n_epoch=0"], "a whole number of 1 or more, or null"),
        (["~callbacks.learning_curves"], "one of the presets"),
    ],
)
def test_what_cannot_go_together_is_one_sentence(words: list[str], sentence: str) -> None:
    [config] = Overrides(CONFIGS, "train", ["data=digits", *words]).composed()
    with pytest.raises(UserError) as error:
        check_run(Experiment, config)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "preset"),
    [
        (["callbacks=early_stopping"], "default"),
        (["+callbacks=early_stopping"], "default"),
        (["callbacks=[light,early_stopping]"], "light"),
        (["callbacks=light", "+callbacks=early_stopping"], "light"),
    ],
)
def test_early_stopping_is_added_to_a_preset(words: list[str], preset: str) -> None:
    [found] = Overrides(CONFIGS, "train", ["data=digits", *words, "metric.mode=min"]).composed()
    [alone] = Overrides(CONFIGS, "train", [f"callbacks={preset}", "metric.mode=min"]).composed()
    assert {
        name: entry for name, entry in found.callbacks.items() if name in alone.callbacks
    } == alone.callbacks
    assert set(found.callbacks) - set(alone.callbacks) == {"early_stopping"}
    stopping = found.callbacks.early_stopping
    assert (stopping.monitor, stopping.mode) == ("accuracy/val", "min")


def test_a_run_of_so_many_steps_is_the_run_of_their_epochs(tmp_path: Path) -> None:
    words = ["momentum_schedule=ramp", "momentum_schedule.epochs=2", "average.start=0.5"]
    by_epochs = Trained(tmp_path, "trainer.max_epochs=2", *words, place="epochs")
    by_steps = Trained(tmp_path, "trainer.max_steps=18", *words, place="steps")
    assert by_steps.rows == by_epochs.rows
    for tag in ("lr/decay", "momentum/decay", "loss/train_step"):
        assert by_steps.history(tag) == by_epochs.history(tag)


def test_a_run_that_ends_amid_an_epoch_is_validated_there_and_can_be_lengthened(tmp_path: Path) -> None:
    trained = Trained(tmp_path, "trainer.max_steps=13")
    assert [(row["epoch"], row["step"]) for row in trained.rows] == [("1", "9"), ("1.4444", "13")]
    assert all(row["loss/train"] and row["accuracy/val"] for row in trained.rows)
    assert trained.rows[0]["loss/train"] != trained.rows[1]["loss/train"]
    assert trained.history("lr/decay")[-1] == 0.0
    assert trained.status["metrics"]["last/epoch"] == 1.44

    refused = run("train", "resume=r", folder=tmp_path)
    assert "all of its 13 steps: set trainer.max_steps" in refused.stderr
    longer = run("train", "resume=r", "trainer.max_steps=20", folder=tmp_path)
    assert longer.returncode == 0, longer.stderr
    assert [row["step"] for row in trained.rows] == ["9", "18", "20"]  # as if it had never ended there


def test_a_run_of_so_much_time_decays_and_averages_within_it(tmp_path: Path) -> None:
    trained = Trained(tmp_path, "trainer.max_time=00:00:00:02")
    rates = trained.history("lr/decay")
    assert max(rates) > 0.02
    assert rates[-1] < 0.1 * max(rates)
    assert trained.rows[-1]["val_average/accuracy"]
    assert trained.history("facts/total_steps")[-1] == pytest.approx(trained.status["step"], rel=0.1)
    assert "all of its time" in run("train", "resume=r", folder=tmp_path).stderr


def test_a_validation_stands_at_the_epoch_at_which_it_was_taken(tmp_path: Path) -> None:
    rare = Trained(tmp_path, "trainer.check_val_every_n_epoch=2", "trainer.max_epochs=3", "schedule=plateau")
    assert [bool(row["accuracy/val"]) for row in rare.rows] == [False, True, False]
    assert all(row["loss/train"] for row in rare.rows)
    metrics = rare.status["metrics"]
    assert (metrics["best/epoch"], metrics["last/epoch"], metrics["average/epoch"]) == (2, 3, 3)
    assert "last/accuracy_val" not in metrics

    words = ["trainer.val_check_interval=4", "trainer.max_epochs=2", "optimizer=adam", "optimizer.lr=0.02"]
    often = Trained(tmp_path, *words, place="often")
    validated = [row for row in often.rows if row["accuracy/val"]]
    assert [row["epoch"] for row in validated] == ["0.4444", "0.8889", "1.4444", "1.8889"]
    assert [row["epoch"] for row in often.rows if row["loss/train"]] == ["1", "2"]
    best = max(validated, key=lambda row: (float(row["accuracy/val"]), -float(row["loss/val"])))
    assert often.status["metrics"]["best/epoch"] == round(float(best["epoch"]), 2)
    said = run("evaluate", "run=often", "checkpoint=best", "split=val", folder=tmp_path).stdout
    assert f"{100 * float(best['accuracy/val']):.2f}%" in said


def test_arguments_that_shorten_or_look_are_right_in_table_and_status(tmp_path: Path) -> None:
    blind = Trained(tmp_path, "trainer.limit_val_batches=0", "trainer.max_epochs=1", place="blind")
    assert "accuracy/val" not in blind.rows[0]
    assert blind.status["weights"] == "last"

    looks = ["trainer.profiler=simple", "trainer.detect_anomaly=true", "trainer.enable_progress_bar=false"]
    looked = Trained(
        tmp_path, *looks, "trainer.max_epochs=1", "trainer.limit_train_batches=3", place="looked"
    )
    assert "profile:  looked/fit-profile.txt" in looked.said
    assert "Profiler Report" in (looked.place / "fit-profile.txt").read_text()
    assert [row["step"] for row in looked.rows] == ["3"]

    tried = Trained(tmp_path, "trainer.fast_dev_run=2", place="tried")
    assert [(row["epoch"], row["step"]) for row in tried.rows] == [("1", "2")]
    assert (tried.status["epoch"], tried.status["step"]) == (1, 2)

    words = ["trainer.overfit_batches=1", "optimizer=sgd", "optimizer.lr=1e-30", "trainer.max_epochs=2"]
    same = Trained(tmp_path, *words, "network.norm=none", place="same")
    assert math.isclose(*(float(row["loss/train"]) for row in same.rows), rel_tol=1e-6)

    before = sorted(tmp_path.iterdir())
    for word, sentence in {
        "val_check_interval=1000": "is more than the 9 training batches of an epoch: take 9 or less",
        "limit_train_batches=0.1": "leaves none of the 9 batches of train: take a share of at least 0.12",
        "val_check_interval=0": "is not allowed: it must be a whole number of batches of 1 or more, a share",
    }.items():
        refused = run("train", *TINY, f"trainer.{word}", folder=tmp_path)
        assert refused.returncode == 2
        assert f"trainer.{word} {sentence}" in refused.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_early_stopping_says_that_it_stopped(tmp_path: Path) -> None:
    words = ["+callbacks=early_stopping", "callbacks.early_stopping.patience=1", "optimizer.lr=1e-9"]
    stopped = Trained(tmp_path, *words, "trainer.max_epochs=5")
    assert stopped.status["epoch"] == 2
    assert stopped.status["status"] == "finished"
    assert "stopped early: accuracy/val did not become better in 1 validations" in stopped.said
