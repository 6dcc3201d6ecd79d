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
FAST = ["test_metric.py", "test_wall.py"]


@pytest.fixture(scope="module")
def owners(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout without what is ours, and with the small project of the tests as the owner's."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    copy = tmp_path_factory.mktemp("owner") / "checkout"
    for name in files:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
            # With what was compiled: to compile it all again takes seconds.
            for compiled in (ROOT / name).parent.glob(f"__pycache__/{Path(name).stem}.*.pyc"):
                (copy / name).parent.joinpath("__pycache__").mkdir(exist_ok=True)
                shutil.copy(compiled, (copy / name).parent / "__pycache__")
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


TRAINS_AND_TESTS = """
import runpy, sys

import pytest

tests, sys.argv = sys.argv[1], sys.argv[2:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert not end.code
sys.exit(pytest.main(["-q", "tests/vitals", "-k", tests]))
"""


def test_it_trains_on_the_owners_data_and_the_instruments_tests_are_all_found_and_the_fast_ones_pass(
    owners: Path,
) -> None:
    """That all of them pass takes minutes: in such a copy, `pytest tests/vitals`."""
    command = [sys.executable, "-c", TRAINS_AND_TESTS, " or ".join(FAST), "scripts/train.py"]
    command += ["trainer.max_epochs=1", "schedule.warmup_epochs=0", "seed=0", "checks.which=[loss_at_chance]"]
    variables = os.environ | {"PYTHONPATH": str(owners / "src")}
    done = subprocess.run(command, cwd=owners, env=variables, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    [folder] = (owners / "logs" / "mine").iterdir()
    assert "project.mine.Blobs" in (folder / "config.yaml").read_text()
    assert (folder / "report.html").is_file()
