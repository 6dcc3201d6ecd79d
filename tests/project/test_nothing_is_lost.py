"""A folder that holds a run is trained into by nothing but a command that says so."""

from __future__ import annotations

from pathlib import Path

from tests.commands import run

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


def test_overwrite_moves_nothing_where_the_new_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "config.yaml").write_text("seed: 0\n")

    words = ["hydra.run.dir=first", "overwrite=true", "data=image_folder", "data.root=nowhere"]
    assert run("train", *words, folder=tmp_path).returncode == 2
    assert (tmp_path / "first" / "config.yaml").exists()
