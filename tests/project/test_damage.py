"""A run folder with damaged files, and a disk without room: one sentence, no traceback, nothing lost."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tests.commands import run

resource = pytest.importorskip("resource")  # not on Windows
TINY = ["data=digits", "data.limit=100", "network.widths=[4,4]", "trainer.max_epochs=1", "checks=none"]
TINY += ["average=none", "~callbacks.progress", "~callbacks.histograms", "~callbacks.update_ratio"]
TINY += ["diagnosis.report=false", "schedule.warmup_epochs=0", "seed=0"]
GARBAGE = bytes(range(128, 256)) * 3


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch; each test works on a copy."""
    place = tmp_path_factory.mktemp("healthy")
    done = run("train", *TINY, "hydra.run.dir=run", folder=place)
    assert done.returncode == 0, done.stderr
    return place / "run"


@pytest.fixture
def folder(healthy: Path, tmp_path: Path) -> Path:
    shutil.copytree(healthy, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


def status(folder: Path) -> str:
    return str(json.loads((folder / "status.json").read_text())["status"])


def said_in_one_sentence(done: subprocess.CompletedProcess[str], code: int, words: str) -> bool:
    lines = [line for line in done.stderr.splitlines() if line]
    assert (done.returncode, len(lines)) == (code, 1), done.stderr
    assert words in lines[0]
    return True


def test_damaged_records_end_no_training(folder: Path) -> None:
    for name in ("metrics.csv", "history.jsonl", "findings.json", "status.json", "predictions.npz"):
        (folder / name).write_bytes(GARBAGE)
    done = run("train", "resume=run", "trainer.max_epochs=2", folder=folder.parent)
    assert done.returncode == 0, done.stderr
    assert status(folder) == "finished"
    assert "2" in (folder / "metrics.csv").read_text().splitlines()[-1]
    assert (folder / "damaged_metrics.csv").read_bytes() == GARBAGE


@pytest.mark.parametrize("damage", [GARBAGE, b"data: 3\nmetric: loss\n"])
def test_a_damaged_configuration_is_told_before_anything_is_written(folder: Path, damage: bytes) -> None:
    (folder / "config.yaml").write_bytes(damage)
    before = sorted(folder.iterdir())
    for words in (["evaluate", "run=run"], ["train", "resume=run", "trainer.max_epochs=2"]):
        done = run(*words, folder=folder.parent)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
    assert (status(folder), sorted(folder.iterdir())) == ("finished", before)


def test_damaged_checkpoints_are_told(folder: Path) -> None:
    weights = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save(weights | {"state_dict": [1]}, folder / "checkpoints" / "odd.ckpt")
    whole = (folder / "checkpoints" / "last.ckpt").read_bytes()
    (folder / "checkpoints" / "half.ckpt").write_bytes(whole[: len(whole) // 2])
    for name in ("odd", "half"):
        done = run("evaluate", "run=run", f"checkpoint={name}", folder=folder.parent)
        said_in_one_sentence(done, 2, f"{name}.ckpt is damaged or no checkpoint of a run")


def test_the_page_of_a_damaged_run_says_what_is_missing(folder: Path) -> None:
    (folder / "metrics.csv").write_bytes(GARBAGE)
    (folder / "history.jsonl").write_text('{"step": 1, "epoch": "x", "values": [3]}\n')
    (folder / "findings.json").write_text('[{"cause": "nan", "level": "awful", "message": 3}]')
    (folder / "status.json").write_text('{"status": [1], "metrics": {"test/accuracy": "high"}, "error": 3}')
    (folder / "predictions.npz").write_bytes(GARBAGE)
    assert run("report", "run=run", folder=folder.parent).returncode == 0
    page = (folder / "report.html").read_text()
    for name in ("history.jsonl", "findings.json", "predictions.npz"):
        assert f"{name} cannot be read" in page


def test_without_room_the_last_state_stays_and_the_run_goes_on_when_there_is_some(folder: Path) -> None:
    before = (folder / "checkpoints" / "last.ckpt").read_bytes()
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, limit[1]))  # as on a full disk
    try:
        done = run("train", "resume=run", "trainer.max_epochs=2", folder=folder.parent)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    said_in_one_sentence(done, 1, "cannot be written, as it would be larger than files may be here")
    assert "then go on with resume=run." in done.stderr
    assert status(folder) == "failed"
    assert (folder / "checkpoints" / "last.ckpt").read_bytes() == before
    assert not list(folder.rglob("*.tmp"))

    done = run("train", "resume=run", "trainer.max_epochs=2", folder=folder.parent)
    assert (done.returncode, status(folder)) == (0, "finished"), done.stderr
