"""The wheel of the instrument in an environment of its own, and `vitals` in somebody else's project."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.commands import ROOT

TINY = ["data=digits", "data.limit=100", "network.widths=[4,4]", "debug=fast", "checks=none", "seed=0"]
TINY += ["callbacks=none", "average=none"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of the files that git knows, in a copy: building leaves files behind."""
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "src"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ["pyproject.toml", "README.md", "LICENSE", *files]:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name)
    build = (
        f"from setuptools.build_meta import build_wheel; build_wheel({str(out)!r})"  # as pip does, but once
    )
    done = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [built] = out.glob("vitals-*.whl")
    return built


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder: our configurations, and beside them our code under another name."""
    folder = tmp_path_factory.mktemp("theirs")
    shutil.copytree(ROOT / "configs", folder / "configs")
    shutil.copytree(ROOT / "src" / "project", folder / "theirs", ignore=shutil.ignore_patterns("__pycache__"))
    for file in [*folder.rglob("*.py"), *folder.rglob("*.yaml")]:
        file.write_text(re.sub(r"(?<![\w.])project\.", "theirs.", file.read_text("utf-8")), "utf-8")
    (folder / "below").mkdir()
    return folder


def vitals(*words: str) -> int:
    """`python -m vitals` here, which spares the import of torch; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["vitals", *words])
        patch.setattr(sys, "path", list(sys.path))
        try:
            runpy.run_module("vitals", run_name="__main__", alter_sys=True)
        except SystemExit as end:
            return int(end.code or 0)
    return 0


def test_it_holds_all_that_the_instrument_reads_and_no_project(wheel: Path) -> None:
    names = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    source = ROOT / "src"
    kept = {
        file.relative_to(source).as_posix()
        for folder in ("vitals", "hydra_plugins")
        for file in (source / folder).rglob("*")
        if file.is_file() and file.suffix != ".pyc"
    }
    assert names == kept


def test_it_trains_in_a_project_folder_and_what_it_prints_can_be_pasted(
    wheel: Path, theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    venv.create(tmp_path, with_pip=False)
    paths = sysconfig.get_paths(vars={"base": str(tmp_path), "platbase": str(tmp_path)})
    # The libraries of this environment, without what is installed in it for development.
    (Path(paths["purelib"]) / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    words = ["--python", str(tmp_path), "install", "--no-deps", "--no-index", "--no-compile", str(wheel)]
    command = [sys.executable, "-m", "pip", "--quiet", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    without = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    path = os.pathsep.join([paths["scripts"], without["PATH"]])
    done = subprocess.run(
        ["vitals", "train", *TINY],
        cwd=theirs / "below",
        env=without | {"PATH": path, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    [line] = re.findall(r"^evaluate: (.*)$", done.stdout, re.MULTILINE)
    [folder] = [file.parent for file in (theirs / "below").rglob("status.json")]
    assert shlex.split(line) == ["vitals", "evaluate", f"run={folder.relative_to(theirs / 'below')}"]
    assert "theirs.data.data_module.ImageData" in (folder / "config.yaml").read_text()

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(theirs / "below")
        assert vitals(*shlex.split(line)[1:]) == 0
        capsys.readouterr()
        assert vitals("train", "--help") == 0
        said = capsys.readouterr().out
        assert re.search(r"vitals evaluate run=<run folder>", said)
        assert "scripts/" not in said


@pytest.mark.parametrize(
    ("words", "where", "sentence"),
    [
        (["train"], ".", "is not in a project"),
        (["evaluate", "run=x"], "configured", "a package with build.py, schema.py and train.py"),
        (["trian"], ".", "did you mean train?"),
    ],
)
def test_what_it_cannot_do_gets_a_sentence(
    words: list[str], where: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configured" / "configs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / where)
        assert vitals(*words) == 2
    said = capsys.readouterr().err.strip()
    assert sentence in said
    assert len(said.splitlines()) == 1
