"""A folder that holds a run is trained into by nothing but a command that says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.commands import run
from vitals.runs.run_folder import RunFolder

TINY = ["data=digits", "data.limit=100", "network.widths=[4,4]", "trainer.max_epochs=1", "checks=none"]
TINY += ["callbacks=none", "diagnosis.report=false", "seed=0"]


def files(folder: Path) -> dict[str, bytes]:
    """But for the log and TensorBoard's events, which the first run in this process still has open."""
    still_open = ("train.log", "events.out")
    found = [file for file in folder.rglob("*") if file.is_file() and not file.name.startswith(still_open)]
    return {str(file.relative_to(folder)): file.read_bytes() for file in found}


def test_a_folder_that_holds_a_run_is_refused_and_overwrite_moves_it_aside(tmp_path: Path) -> None:
    words = [*TINY, "hydra.run.dir=first"]
    assert run("train", *words, folder=tmp_path).returncode == 0
    before = files(tmp_path / "first")

    refused = run("train", *words, folder=tmp_path)
    assert refused.returncode == 2
    assert "first holds a run already (finished): resume=first goes on with it" in refused.stderr
    assert files(tmp_path / "first") == before

    replaced = run("train", *words, "overwrite=true", folder=tmp_path)
    assert replaced.returncode == 0, replaced.stderr
    assert "the run that was in first is now in old_first" in replaced.stdout
    assert files(tmp_path / "old_first") == before
    assert (tmp_path / "first" / "checkpoints" / "best.ckpt").exists()


@pytest.mark.parametrize(("script", "more"), [("train", []), ("check", []), ("train", ["-m", "seed=0,1"])])
def test_an_error_in_the_images_is_told_before_anything_is_there(
    tmp_path: Path, write_tree: Callable[..., object], script: str, more: list[str]
) -> None:
    write_tree(tmp_path / "images", train=6)
    (tmp_path / "images" / "train" / "bee" / "empty.png").touch()
    done = run(script, *more, "data=image_folder", "data.root=images", "data.crop_padding=2", folder=tmp_path)
    assert done.returncode == 2
    assert "1 of 25: mend or delete them, or set data.skip_unreadable=true" in done.stderr
    assert "report:" not in done.stdout
    assert [place.name for place in tmp_path.iterdir()] == ["images"]


def test_overwrite_moves_nothing_where_the_new_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "config.yaml").write_text("seed: 0\n")

    words = ["hydra.run.dir=first", "overwrite=true", "data=image_folder", "data.root=nowhere"]
    assert run("train", *words, folder=tmp_path).returncode == 2
    assert (tmp_path / "first" / "config.yaml").exists()


def test_data_named_relative_to_where_a_run_was_started_are_found_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (began := tmp_path / "began" / "images").mkdir(parents=True)
    recorded = {"data": {"root": "images"}, "provenance": {"working_folder": str(began.parent)}}
    (tmp_path / "config.yaml").write_text(json.dumps(recorded))
    monkeypatch.chdir(tmp_path)
    assert RunFolder(tmp_path).read_config().data.root == str(began)
    (tmp_path / "images").mkdir()
    assert RunFolder(tmp_path).read_config().data.root == "images"


INTERRUPT = """
import shutil
from pathlib import Path

import pytest

import lightning as L


class Interrupt(L.Callback):
    def on_train_batch_start(self, trainer, *arguments):
        done = Path(trainer.default_root_dir, "interrupted")
        if trainer.current_epoch == 1 and not done.exists():
            done.touch()
            raise KeyboardInterrupt
"""


def test_a_run_goes_wherever_its_folder_is_moved_or_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "interrupting.py").write_text(INTERRUPT)
    monkeypatch.syspath_prepend(tmp_path)
    words = [*TINY[:3], *TINY[4:], "hydra.run.dir=first", "trainer.max_epochs=2"]
    words += ["+callbacks.stop._target_=interrupting.Interrupt", "callbacks.checkpoints.keep_every=1"]
    assert run("train", *words, folder=tmp_path).returncode == 130
    elsewhere = tmp_path / "an other place"
    elsewhere.mkdir()
    shutil.copytree(tmp_path / "first", elsewhere / "copy")
    copy = files(elsewhere / "copy")
    (tmp_path / "first").rename(elsewhere / "moved")

    for command, *further in (
        ("evaluate", "run=moved"),
        ("train", "resume=moved"),
        ("evaluate", "run=moved", "checkpoint=average", "split=val"),
        ("report", "run=moved"),
        ("ensemble", "run=moved"),
        ("train", "resume=moved", "trainer.max_epochs=3"),
    ):
        done = run(command, *further, folder=elsewhere)
        assert done.returncode == 0, done.stderr
    rows = (elsewhere / "moved" / "metrics.csv").read_text().splitlines()
    assert [row.partition(",")[0] for row in rows] == ["epoch", "1", "2", "3"]
    assert files(elsewhere / "copy") == copy
    assert not (tmp_path / "first").exists()
