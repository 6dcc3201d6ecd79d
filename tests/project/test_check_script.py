"""`scripts/check.py`, and the checks on the road of a run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import commands
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from project import build as project
from project.train import train
from vitals.errors import ChecksFailed
from vitals.runs.check import check, hessian_bytes
from vitals.runs.run import run
from vitals.runs.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
TINY = ["data=digits", "data.limit=300", "data.batch_size=64", "network.widths=[4,8]", "~callbacks.progress"]
TINY += ["seed=0", "trainer.max_epochs=1", "schedule.warmup_epochs=0", "diagnosis.report=false"]
COLLAPSING = ["network=mlp", "network.initialization=gaussian", "network.width=64", "optimizer=momentum"]


def config(*words: str) -> DictConfig:
    words = tuple(word for word in TINY if "widths" not in word or "network=mlp" not in words) + words
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose(
            "train", [word.replace("network.initialization=", "network/initialization=") for word in words]
        )


def test_a_run_is_the_same_with_the_checks_and_without(tmp_path: Path) -> None:
    for name, words in (("plain", ["checks=none"]), ("checked", ["checks.samples=128"])):
        run(config(*words, "network.dropout=0.3"), RunFolder(tmp_path / name), train)
    plain, checked = RunFolder(tmp_path / "plain"), RunFolder(tmp_path / "checked")
    assert plain.metrics.read_text() == checked.metrics.read_text()
    weights = [
        torch.load(folder.last_checkpoint, weights_only=True)["state_dict"] for folder in (plain, checked)
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert {entry["cause"] for entry in json.loads((checked.path / "findings.json").read_text())}
    found = json.loads((plain.path / "findings.json").read_text())
    assert [entry["cause"] for entry in found] == ["looks"]


def test_a_failed_check_stops_the_run_with_code_3_and_is_recorded(tmp_path: Path) -> None:
    words = [*COLLAPSING, "network.initialization.std=0.01", "checks.which=[layer_variance]"]
    with pytest.raises(ChecksFailed) as stop:
        run(config(*words), RunFolder(tmp_path), train)
    assert stop.value.code == 3
    status = RunFolder(tmp_path).read_status()
    assert status["status"] == "failed"
    assert "Draw the weights at He's scale" in status["error"]
    assert json.loads((tmp_path / "findings.json").read_text())[0]["cause"] == "bad-initialization"


def test_a_collapsed_network_is_told_from_a_healthy_one(capsys: pytest.CaptureFixture[str]) -> None:
    which = "checks.which=[layer_variance]"
    healthy = check(config("network=mlp", "network.width=64", which, "checks=full"), project)
    assert abs(healthy.rows[0].result.slope) < 0.15
    with pytest.raises(ChecksFailed):
        check(config(*COLLAPSING, "network.initialization.std=0.01", which, "checks=full"), project)
    said = capsys.readouterr().out
    assert said.count("Layer 8: Variance:") == 2
    assert "Hessian" in said


def test_the_hessian_of_a_million_parameters_takes_3725_gib() -> None:
    assert hessian_bytes(10**6) / 2**30 == pytest.approx(3725.29, abs=0.01)


def test_the_command_ends_with_the_page_and_leaves_nothing(tmp_path: Path) -> None:
    words = [
        *TINY,
        "network.widths=[4,4]",
        "checks.elements=1",
        "checks.burn_in_steps=0",
        "checks.samples=128",
    ]
    done = commands.run("check", *words, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "loss at chance" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_importing_vitals_does_without_torch() -> None:
    code = "import vitals, sys; vitals.Finding; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
