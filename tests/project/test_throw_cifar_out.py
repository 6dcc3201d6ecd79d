"""The owner throws CIFAR-10 out: what is ours is deleted in a copy, and the rest goes on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ["src/project/data", "src/project/networks", "tests/project"]
OURS += ["configs/data", "configs/network", "configs/experiment"]
FAST = ["test_metric.py", "test_wall.py", "test_predictions.py"]


@pytest.fixture(scope="module")
def owners(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout without what is ours, and with the small project of the tests as the owner's."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    copy = tmp_path_factory.mktemp("owner") / "checkout"
    for name in files:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    for folder in OURS:
        shutil.rmtree(copy / folder)
    blobs = copy / "tests" / "vitals" / "blobs"
    shutil.copy(blobs / "blobs.py", copy / "src" / "project" / "mine.py")
    for group, name, target in (("data", "blobs", "Blobs"), ("network", "tiny", "Tiny")):
        (copy / "configs" / group).mkdir()
        content = (blobs / "configs" / group / f"{name}.yaml").read_text()
        mine = content.replace(f"blobs.{target}", f"project.mine.{target}")
        (copy / "configs" / group / "mine.yaml").write_text(mine)
    train = copy / "configs" / "train.yaml"
    changed = train.read_text().replace("data: cifar10", "data: mine").replace("convnet", "mine")
    train.write_text(changed)
    return copy


def python(checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    variables = os.environ | {"PYTHONPATH": str(checkout / "src")}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=checkout, env=variables, capture_output=True, text=True, timeout=300)


def test_it_trains_on_the_owners_data_without_ours(owners: Path) -> None:
    done = python(owners, "scripts/train.py", "trainer.max_epochs=1", "schedule.warmup_epochs=0", "seed=0")
    assert done.returncode == 0, done.stdout + done.stderr
    [folder] = (owners / "logs" / "mine").iterdir()
    assert "project.mine.Blobs" in (folder / "config.yaml").read_text()
    assert (folder / "report.html").is_file()


def test_the_tests_of_the_instrument_are_all_found_and_the_fast_ones_pass(owners: Path) -> None:
    """That all of them pass takes minutes: in such a copy, `pytest tests/vitals`."""
    done = python(owners, "-m", "pytest", "-q", "tests/vitals", "-k", " or ".join(FAST))
    assert done.returncode == 0, done.stdout
