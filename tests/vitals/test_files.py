"""Files are whole or as they were, and what cannot be written or read is told in one sentence."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from vitals.errors import UserError
from vitals.files import (
    STATUS,
    CannotWrite,
    append_line,
    cannot_write,
    copy_atomically,
    read_json,
    read_metrics,
    save_checkpoint,
    write_atomically,
)
from vitals.findings import read_findings
from vitals.history import History, MetricsTable

resource = pytest.importorskip("resource")  # not on Windows
FULL = Path("/dev/full")
"""A file of Linux on whose disk there is never any room."""


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Within it, the system refuses to write a file of more than `size` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_that_cannot_be_written_is_as_it_was_and_the_sentence_says_why(tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    write_atomically(file, "old")
    with (
        no_file_above(1000),
        pytest.raises(UserError, match="cannot be written, as it would be larger"),
    ):
        write_atomically(file, "new" * 1000)
    (tmp_path / "large").write_bytes(bytes(2000))
    with no_file_above(1000), pytest.raises(CannotWrite):
        copy_atomically(tmp_path / "large", file)
    assert file.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["large", "page.html"]

    with pytest.raises(CannotWrite, match="its folder is gone: put it back, then start again"):
        write_atomically(tmp_path / "gone" / "page.html", "new")
    with pytest.raises(CannotWrite, match="what should be its folder is a file"):
        write_atomically(file / "page.html", "new")


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full")
def test_a_full_disk_is_found_behind_other_errors_and_only_it() -> None:
    with pytest.raises(
        CannotWrite, match="/dev/full cannot be written, as the disk is full: free some space"
    ):
        append_line(FULL, "more")
    with pytest.raises((RuntimeError, OSError)) as library, FULL.open("wb", buffering=0) as file:
        torch.save({"weight": torch.zeros(10_000)}, file)
    problem = cannot_write(library.value, Path("run"), "go on with resume=run")
    assert (
        str(problem)
        == "run cannot be written, as the disk is full: free some space, then go on with resume=run."
    )

    with pytest.raises(FileNotFoundError) as missing:
        Path("nowhere").read_text()
    assert cannot_write(missing.value) is None


class Line(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(100, 10)

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        return self.layer(batch).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_a_checkpoint_is_whole_or_as_it_was(tmp_path: Path) -> None:
    file, quiet = tmp_path / "checkpoints" / "last.ckpt", {"logger": False, "enable_progress_bar": False}
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", enable_checkpointing=False, enable_model_summary=False, **quiet
    )
    module = Line()
    trainer.fit(module, DataLoader(torch.zeros(4, 100)))
    save_checkpoint(trainer, file, average=torch.ones(1))
    before = file.read_bytes()
    content = torch.load(file, weights_only=True)
    assert (content["global_step"], content["average"].item()) == (4, 1)
    assert content["state_dict"].keys() == module.state_dict().keys()

    with no_file_above(1000), pytest.raises(CannotWrite, match=r"last\.ckpt cannot be written"):
        save_checkpoint(trainer, file)
    assert file.read_bytes() == before
    assert os.listdir(file.parent) == ["last.ckpt"]


DAMAGE = {
    "empty": b"",
    "zeros": bytes(300),
    "binary": os.urandom(300),
    "a list": b"[1, 2]",
    "nested": b"[" * 100_000,
    "UTF-16": '{"step": 1}'.encode("utf-16"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_records_end_no_training(tmp_path: Path, damage: str) -> None:
    for name in ("metrics.csv", "history.jsonl", "findings.json", "status.json"):
        (tmp_path / name).write_bytes(DAMAGE[damage])
    assert read_json(tmp_path / "status.json", STATUS) == {}
    with pytest.raises(ValueError, match=r"\w"):
        read_findings(tmp_path / "findings.json")

    table = MetricsTable(tmp_path / "metrics.csv", 10)
    table.add({"epoch": 1, "step": 5, "loss/val": 0.5})
    assert read_metrics(tmp_path / "metrics.csv") == [{"epoch": 1, "step": 5, "loss/val": 0.5}]
    assert (tmp_path / "damaged_metrics.csv").read_bytes() == DAMAGE[damage]

    history = History(tmp_path / "history.jsonl")
    history.resume(10)
    history.add(5, 1.0, {"loss/train": 0.5})
    assert History.read(tmp_path / "history.jsonl").last("loss/train") == 0.5


def test_what_can_be_read_of_damaged_records_is_kept(tmp_path: Path) -> None:
    table = tmp_path / "metrics.csv"
    table.write_bytes(b"epoch,step,loss\n1,5,0.5\n2,x,0.4\n\xff\xfe,,\n3,15\n4,20,0.2,1\n5,\0\n")
    assert [row["epoch"] for row in MetricsTable(table, 15).rows] == ["1", "3"]
    assert [row["epoch"] for row in read_metrics(table)] == [1, 3, 4]
    assert "damaged_metrics.csv" in os.listdir(tmp_path)

    file = tmp_path / "history.jsonl"
    whole = {"step": 5, "epoch": 1.0, "values": {"loss/train": "nan", "facts/lr": 0.1}}
    odd = {"step": 6, "epoch": 1.1, "values": {"loss/train": "high", "facts/lr": [1], "filters": [[1, 2]]}}
    steps = {"step": 6, "epoch": 1.1, "steps": 2, "values": {"a": 2.0, "b": [0.1, "x"], "c": [0.1, 0.2]}}
    none = [{}, 3, {"step": "a", "epoch": 1, "values": {}}, {"step": 1, "epoch": 1, "values": [1]}]
    file.write_text("\n".join(map(json.dumps, [whole, *none, odd, steps, whole])) + '\n{"step": 7, "ep')
    history = History(file)
    history.resume(6)
    assert {tag: len(history.series(tag)) for tag in history.tags()} == {
        "loss/train": 2,
        "facts/lr": 2,
        "filters": 1,
        "c": 2,
    }
    assert (tmp_path / "damaged_history.jsonl").read_text().endswith('"ep')

    (tmp_path / "status.json").write_text(
        '{"status": 3, "epoch": "x", "step": 7, "error": null, "more": [1]}'
    )
    assert read_json(tmp_path / "status.json", STATUS) == {"step": 7, "error": None, "more": [1]}


def test_a_history_cut_off_by_a_crash_is_not_damaged(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    history.add(1, 0.1, {"loss/train": 0.5})
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"step": 2, "epo')
    history.resume(3)
    assert os.listdir(tmp_path) == ["history.jsonl"]
    assert (tmp_path / "history.jsonl").read_text().count("\n") == history.lines == 1
