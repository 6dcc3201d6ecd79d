"""What other systems lack, taken away here: Windows' `fcntl` and links, macOS's processor affinity."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands import ROOT, run

TINY = ["data=digits", "data.limit=100", "network.widths=[4,4]", "trainer.max_epochs=2", "checks=none"]
TINY += ["callbacks=none", "diagnosis.report=false", "seed=0"]
WINDOWS = """
import os, runpy, signal, sys
sys.modules["fcntl"] = sys.modules["resource"] = None
missing = ("killpg", "setsid", "fork", "getpgid", "sched_getaffinity")
for module, names in (os, missing), (signal, ("SIGKILL",)):
    for name in names:
        delattr(module, name)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def refuse(*arguments: Any, **options: Any) -> None:
    raise OSError(1314, "A required privilege is not held by the client")


@pytest.mark.parametrize("without", [["symlink_to"], ["symlink_to", "hardlink_to"]])
def test_without_links_best_is_a_hard_link_or_a_copy(
    without: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in without:
        monkeypatch.setattr(Path, name, refuse)

    done = run("train", *TINY, "hydra.run.dir=first", folder=tmp_path)

    assert done.returncode == 0, done.stderr
    checkpoints = tmp_path / "first" / "checkpoints"
    [named] = checkpoints.glob("best_*.ckpt")
    assert not (checkpoints / "best.ckpt").is_symlink()
    best, again = (torch.load(path, weights_only=True) for path in (checkpoints / "best.ckpt", named))
    assert best["epoch"] == again["epoch"]


def test_a_sweep_runs_where_a_process_cannot_ask_for_its_processors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")

    done = run("train", "-m", *TINY, "data.flip=true,false", "average=none", folder=tmp_path)

    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("best.ckpt"))) == 2


def test_a_sweep_runs_without_what_windows_lacks(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WINDOWS, str(ROOT / "scripts" / "train.py"), "-m", *TINY]
    done = subprocess.run([*command, "average=none"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.rglob("best.ckpt"))) == 1
