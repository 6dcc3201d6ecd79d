"""What people type from habit: Hydra's own words, and names and paths with all kinds of letters."""

from __future__ import annotations

import shlex
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from lightning_utilities.core import rank_zero

from tests.commands import ROOT, run

TINY = ["data=digits", "data.limit=100", "network.widths=[4,4]", "trainer.max_epochs=1", "checks=none"]
TINY += ["callbacks=none", "average=none", "diagnosis.report=false", "seed=0"]
ODD = "größe (1) [2]=3, 50% it's"


def configured(*words: str, folder: Path) -> dict[str, object]:
    said = run("train", *words, "--cfg", "job", folder=folder)
    assert said.returncode == 0, said.stderr
    config: dict[str, object] = yaml.safe_load(said.stdout)
    return config


@pytest.mark.parametrize("word", ["~callbacks", "callbacks=null"])
def test_a_group_that_is_taken_out_is_its_choice_none(word: str, tmp_path: Path) -> None:
    assert configured("data=digits", word, folder=tmp_path) == configured(
        "data=digits", "callbacks=none", folder=tmp_path
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["--lr", "0.1"],
            "no option --lr: values are given as key=value. lr: there is no key or group 'lr'; did "
            "you mean optimizer.lr=0.1?",
        ),
        (["--trainer.max_epochs=3"], "values are given as key=value: write trainer.max_epochs=3."),
        (["--overwrite", "seed=0"], "values are given as key=value: write overwrite=true."),
        (["--cfg", "jobs"], "invalid choice: 'jobs'"),
        (["+callbacks.mine.every=5"], "callbacks.mine names no class, as callbacks.mine._target_="),
        (["+callbacks.histogram.samples=5"], "and is none of ours: did you mean histograms?"),
        (["+logger.mine=3"], "logger.mine names no class, as logger.mine._target_="),
    ],
)
def test_options_that_hydra_does_not_have_are_answered_with_the_words_that_are_meant(
    words: list[str], sentence: str, tmp_path: Path
) -> None:
    said = run("train", "data=digits", *words, folder=tmp_path)
    assert said.returncode == 2
    assert sentence in said.stderr


def test_options_may_stand_between_the_words(tmp_path: Path) -> None:
    said = run("train", "data=digits", "--cfg", "job", "seed=7", folder=tmp_path)
    assert yaml.safe_load(said.stdout)["seed"] == 7


@pytest.mark.parametrize("flags", [[], ["-m"]])
def test_hydras_launchers_are_answered_with_ours(flags: list[str], tmp_path: Path) -> None:
    said = run("train", *flags, "hydra/launcher=joblib", folder=tmp_path)
    assert said.returncode == 2
    assert "launcher=local" in said.stderr


def test_a_configuration_of_ones_own_by_its_name_and_its_path(tmp_path: Path) -> None:
    mine = (ROOT / "configs" / "train.yaml").read_text().replace("seed: null", "seed: 7")
    (tmp_path / "conf").mkdir()
    for folder in (ROOT / "configs").iterdir():
        if folder.is_dir():
            (tmp_path / "conf" / folder.name).symlink_to(folder)
    (tmp_path / "conf" / "mine.yaml").write_text(mine)

    words = ["--config-path", "conf", "--config-name", "mine", "data=digits"]
    assert configured(*words, folder=tmp_path)["seed"] == 7

    done = run("train", "-m", *words[:4], *TINY[:-1], "optimizer.lr=0.1,0.01", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    seeds = [
        yaml.safe_load(file.read_text())["seed"] for file in tmp_path.rglob("checkpoints/../config.yaml")
    ]
    assert seeds == [7, 7]


@pytest.mark.parametrize(
    ("word", "sentence"),
    [("--config-name=tain", "did you mean train"), ("--config-path=nowhere", "is not a folder")],
)
def test_a_configuration_that_is_not_there_is_named(word: str, sentence: str, tmp_path: Path) -> None:
    said = run("train", word, folder=tmp_path)
    assert said.returncode == 2
    assert sentence in said.stderr


def test_folders_of_jobs_by_hydras_number(tmp_path: Path) -> None:
    words = ["-m", *TINY, "optimizer.lr=0.1,0.01", "hydra.sweep.subdir=${hydra.job.num}", "hydra.sweep.dir=s"]
    done = run("train", *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.parent.name for path in tmp_path.glob("s/*/status.json")) == ["0", "1"]


@pytest.mark.parametrize("key", ["name", "hydra.run.dir"])
def test_every_command_that_is_printed_can_be_pasted(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_zero, "log", rank_zero.log)
    for package in ("lightning.pytorch", "pytorch_lightning"):  # as one that a project imports may do
        import_module(package)
    done = run("train", *TINY, f"{key}={ODD}", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith("evaluate:")]
    python, script, *words = shlex.split(line.removeprefix("evaluate:"))
    assert python == "python"
    assert (tmp_path / script).is_file()
    pasted = run(Path(script).stem, *words, folder=tmp_path)
    assert pasted.returncode == 0, pasted.stderr
    assert "accuracy" in pasted.stdout
    assert (pasted.stderr, "GPU available" in pasted.stdout) == ("", False)
