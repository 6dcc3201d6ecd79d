"""Runs with other loggers than TensorBoard, or with none."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf
from test_run import config

from project.train import train
from vitals.errors import UserError
from vitals.runs.config.overrides import Overrides
from vitals.runs.run import run
from vitals.runs.run_folder import SWEEP, RunFolder

CONFIGS = Path(__file__).parents[2] / "configs"


def ran(folder: Path, *words: str) -> None:
    run(config("callbacks=light", "trainer.log_every_n_steps=1", *words), RunFolder(folder), train)


def resumed(folder: Path) -> None:
    settings: DictConfig = RunFolder(folder).read_config()
    OmegaConf.update(settings, "resume", str(folder))
    OmegaConf.update(settings, "trainer.max_epochs", 3)
    run(settings, RunFolder(folder), train)


def test_without_a_logger_a_run_has_all_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran(tmp_path, "logger=none", "diagnosis.report=true")
    for name in (
        "config.yaml",
        "metrics.csv",
        "history.jsonl",
        "findings.json",
        "report.html",
        "checkpoints",
    ):
        assert (tmp_path / name).exists(), name
    assert not list(tmp_path.glob("events*"))
    assert "tensorboard" not in (capsys.readouterr().out + (tmp_path / "report.html").read_text()).lower()


def test_the_csv_file_goes_on_where_a_resumed_run_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran(tmp_path, "logger=csv")
    said = capsys.readouterr().out
    assert f"curves:   {tmp_path / 'curves.csv'}" in said
    assert "tensorboard" not in said.lower()
    resumed(tmp_path)
    with (tmp_path / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["epoch"]) for row in rows if row["accuracy/val"]] == [1, 2, 3]
    steps = [int(row["step"]) for row in rows if row["lr/no_decay"]]
    assert steps == sorted(set(steps))
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 4
    assert not (tmp_path / "hparams.yaml").exists()


def test_several_loggers_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran(tmp_path, "logger=[tensorboard,csv]")
    assert list(tmp_path.glob("events*"))
    assert (tmp_path / "curves.csv").exists()
    assert capsys.readouterr().out.count("curves:") == 2


@pytest.mark.parametrize("word", ["logger=[tensorboard,nothing]", "optimizer=[adam,sgd]"])
def test_of_several_each_must_exist_and_only_loggers_stand_together(word: str) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Overrides(CONFIGS, "train", [word])


def test_a_job_of_a_sweep_shares_its_group_and_goes_on_in_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trackio = pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    for module in (trackio.utils, trackio.sqlite_storage):  # they look for TRACKIO_DIR on import
        monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    (sweep / SWEEP).write_text("{}")
    words = ["logger=trackio", "logger.trackio.project=ours", "+logger.trackio.auto_log_cpu=false"]
    ran(sweep / "0_lr-1", *words)
    resumed(sweep / "0_lr-1")
    trackio.finish()
    assert SQLiteStorage.get_runs("ours") == ["sweep_0_lr-1"]
    recorded = SQLiteStorage.get_run_config("ours", "sweep_0_lr-1")
    assert recorded["_Group"] == "sweep"
    assert recorded["data"]["batch_size"] == 32
    rows = SQLiteStorage.get_logs("ours", "sweep_0_lr-1")
    assert [row["epoch"] for row in rows if "accuracy/val" in row] == [1, 2, 3]
    status = RunFolder(sweep / "0_lr-1").read_status()
    assert status["loggers"] == {"trackio": "sweep_0_lr-1"}
