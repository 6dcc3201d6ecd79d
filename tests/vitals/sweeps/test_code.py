"""The copy of the code that the jobs of a sweep run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vitals.runs.kept_code import original
from vitals.runs.provenance import git_state
from vitals.sweeps.jobs.code import SweepCode


@pytest.fixture
def project(tmp_path: Path, monkeypatch) -> Path:
    """A project with a script, code and configurations, and a sweep of an earlier day in it."""
    files = {"scripts/train.py": "1", "src/mine/net.py": "2", "configs/train.yaml": "a: 1", "data/x.py": ""}
    files |= {"src/mine/old/sweep.json": "{}", "src/mine/old/code/net.py": "", "src/mine/.hidden.bin": ""}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    installed = [entry for entry in sys.path if "lib/python" in entry]
    layer = tmp_path / "cache" / "site-packages"  # as `uv run --with` puts one beside the interpreter's own
    layer.mkdir(parents=True)
    (layer / "old.py").write_text("")
    own = [str(tmp_path / "scripts"), str(tmp_path / "src")]
    monkeypatch.setattr(sys, "path", [*own, str(layer), *installed])
    return tmp_path


def code(project: Path) -> SweepCode:
    return SweepCode(project / "sweep", "scripts/train.py", [project / "configs"])


def git(*words: str) -> None:
    person = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *person, *words], check=True, capture_output=True)


@pytest.mark.parametrize("in_git", [True, False])
def test_what_jobs_import_is_copied_with_and_without_git(project: Path, in_git: bool) -> None:
    if in_git:
        git("init")
        git("add", "src/mine/net.py", "scripts")
        git("commit", "-m", "x")
        (project / "src/mine/net.py").write_text("3")
    kept = code(project)
    assert kept.keep() == []
    copies = {file.relative_to(kept.path).as_posix() for file in kept.path.rglob("*") if file.is_file()}
    assert {"scripts/train.py", "src/mine/net.py", "configs/train.yaml", "origin.json"} <= copies
    assert not [name for name in copies if "old" in name or "data" in name]
    assert kept.copied("scripts/train.py") == str(kept.path / "scripts" / "train.py")
    assert original(kept.path / "src/mine/net.py") == project / "src/mine/net.py"
    assert str(kept.path / "src") in kept.environment()["PYTHONPATH"]
    if in_git:
        before = git_state(kept.path / "src")
        git("commit", "-am", "y")
        assert git_state(kept.path / "src") == before != git_state(project)
        assert "+3" in (kept.path / "changes.diff").read_text()

    (kept.path / "src/mine/__pycache__").mkdir(exist_ok=True)
    (kept.path / "src/mine/__pycache__/net.cpython-311.pyc").write_bytes(b"of later")
    (project / "src/mine/net.py").write_text("4")
    (project / "src/mine/new.py").write_text("")
    assert sorted(code(project).keep()) == ["src/mine/net.py", "src/mine/new.py"]
    assert (kept.path / "src/mine/net.py").read_text() == ("3" if in_git else "2")


def test_a_copy_that_came_with_the_folder_is_not_run(project: Path) -> None:
    kept = code(project)
    kept.keep()
    (kept.path / "src" / "sitecustomize.py").write_text("import os; os._exit(9)")
    again = code(project)
    assert again.keep() == []
    assert not (again.path / "src" / "sitecustomize.py").exists()
    assert again.from_elsewhere is not None
    assert (again.from_elsewhere / "src" / "sitecustomize.py").is_file()
    assert code(project).keep() == []  # the new one is of here
