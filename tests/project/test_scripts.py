"""The commands that a user types."""

from __future__ import annotations

import json
import os
import pstats
import re
import shlex
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import commands
import pytest
from commands import ROOT
from test_platforms import WINDOWS

from project.schema import Experiment
from vitals.command_line import Command, check_command_line
from vitals.runs.config.validation import check_run

TINY = ["data=digits", "data.limit=100", "data.batch_size=32", "network.widths=[4,4]", "seed=0"]
TINY += ["~callbacks.progress", "checks=none", "diagnosis.report=false"]  # a page takes as long as the run


def run_folders(folder: Path) -> list[Path]:
    return [file.parent for file in sorted(folder.rglob("status.json"))]


def status(folder: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((folder / "status.json").read_text())
    return content


def documented_commands() -> list[str]:
    """The lines of the shell blocks of the README and of the pages in docs/ that run a script, each once."""
    # The runs of the tour are long, and made by docs/make_tour.py.
    pages = [page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "tour.md"]
    pages = [ROOT / "README.md", *pages]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    commands = [line[line.index("python scripts/") :] for line in lines if "python scripts/" in line]
    return list(dict.fromkeys(commands))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, to be evaluated or resumed."""
    folder = tmp_path_factory.mktemp("finished")
    words = [*TINY, "trainer.max_epochs=1", "schedule.warmup_epochs=0", f"hydra.run.dir={folder}"]
    assert commands.run("train", *words, folder=folder).returncode == 0
    return folder


@pytest.fixture(scope="module")
def sweep_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep over two seeds."""
    folder = tmp_path_factory.mktemp("sweep")
    words = [*TINY, "debug=fast", "seed=0,1", f"hydra.sweep.dir={folder}"]
    assert commands.run("train", "-m", *words, folder=folder).returncode == 0
    return folder


@pytest.mark.parametrize("command", documented_commands())
def test_the_commands_of_the_pages_work_on_digits(
    command: str,
    run_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    monkeypatch.chdir(tmp_path)
    _, path, *words = shlex.split(command)
    if "overwrite=true" in words:
        run_folder = shutil.copytree(run_folder, tmp_path / "run", symlinks=True)
    for record in ("lightning_logs/version_0/metrics.csv", "training.log"):  # of other programs
        file = tmp_path / record
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(
            "epoch,loss,val_loss\n" + "".join(f"{i},{1 / (i + 1)},{1.1 / (i + 1)}\n" for i in range(9))
        )
    if path == "scripts/sweep_report.py" or any(word.startswith("resume_sweep=") for word in words):
        pytest.skip("sweeps are run in tests/vitals/sweeps/test_sweep_commands.py")
    if "--watch" in words:
        pytest.skip("it is served in tests/vitals/report/test_live.py")
    if "trainer=ddp" in words:
        pytest.skip("it is run in test_two_processes_train_in_one_folder_and_keep_one_average")
    if "-m" in words:  # many jobs: here only that every one of them is a valid run
        monkeypatch.setattr(sys, "argv", [path, *words])
        check_command_line(Command(ROOT / "configs", "train", partial(check_run, Experiment)))
        return
    folders = {"<run folder>": run_folder}
    if "<sweep folder>" in command or "<another>" in command:
        sweep_folder = request.getfixturevalue("sweep_folder")
        folders |= {"<sweep folder>": sweep_folder, "<another>": next(sweep_folder.glob("0*/"))}
    for name, folder in folders.items():
        words = [word.replace(name, str(folder)) for word in words]
    words = ["trainer.max_epochs=2" if word == "trainer.max_epochs=40" else word for word in words]
    if path in ("scripts/train.py", "scripts/check.py") and not any(
        word == f"resume={run_folder}" or word.startswith("--") for word in words
    ):
        replaced = ("data=", "data.root=", "trainer.max_epochs=", "schedule.warmup_epochs=")
        about_checks = path == "scripts/check.py" or any(word.startswith("checks") for word in words)
        words = [word for word in words if not word.startswith(replaced)] + ["data=digits", "debug=fast"]
        if command != documented_commands()[0]:  # checks and page take longer than all else here
            words += ["diagnosis.report=false", "checks.samples=128" if about_checks else "checks=none"]
        if not any(word.startswith("network=") for word in words):
            words.append("network.widths=[8,8]")
        if path == "scripts/check.py":  # all of them: test_the_command_ends_with_the_page_and_leaves_nothing
            words.append("checks.which=[loss_at_chance]")
    assert commands.run(Path(path).stem, *words, folder=tmp_path).returncode == 0


def test_a_run_in_a_new_interpreter_ends_with_a_table_and_the_tensorboard_command(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "scripts" / "train.py"),
        *TINY,
        "debug=fast",
        "diagnosis.report=true",
    ]
    environment = os.environ | {"COLUMNS": "200"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stderr) == (0, "")
    assert "GPU available" not in done.stdout
    (folder,) = run_folders(tmp_path)
    assert "data=digits" in done.stdout.splitlines()[0]  # what is chosen, at once
    table, _, after = done.stdout.partition("└")
    assert [word for word in ("best", "last", "test", "validation") if word not in table] == []
    assert f"tensorboard --logdir {folder.relative_to(tmp_path)}" in after
    assert f"{folder.relative_to(tmp_path)}/report.html" in after
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[0-9a-f]{6}", folder.name)


WRONG = {
    "optimizer=rmspropp": "did you mean rmsprop",
    "optimizer.lrr=1": "did you mean lr",
    "optimizer.lr=-1": "greater than 0",
    "resume=nowhere": "is not a folder",
    "trainer=gpu data=digits": "sees none here",
    "+optimizer.lrr=1 data=digits": "lrr",
    "data=image_folder data.root=nowhere": "is not a folder",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_mistake_gets_a_sentence_and_code_2_and_leaves_no_folder(words: str, tmp_path: Path) -> None:
    if "gpu" in words:
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
    done = commands.run("train", *words.split(), folder=tmp_path)
    assert done.returncode == 2
    assert WRONG[words] in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["train", "check", "evaluate", "ensemble", "report", "sweep_report"])
def test_the_traceback_of_a_mistake_is_shown_where_it_is_asked_for_alone(name: str, tmp_path: Path) -> None:
    mistake = {"sweep_report": "nowhere", "report": "run=nowhere", "evaluate": "run=nowhere"}
    word = mistake.get(name, "sweep=nowhere" if name == "ensemble" else "optimizer.lr=-1")
    done = commands.run(name, word, folder=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "Traceback" in commands.run(name, word, folder=tmp_path, HYDRA_FULL_ERROR="1").stderr


def test_a_mistake_found_in_the_images_names_the_file_and_leaves_no_folder(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        (tmp_path / "images" / name / "0.png").write_bytes(b"no image")
    done = commands.run("train", "data=image_folder", "data.root=images", folder=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "0.png" in done.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "logs").exists()


def test_help_shows_groups_choices_and_examples_without_torch_and_what_windows_lacks(tmp_path: Path) -> None:
    train = str(ROOT / "scripts" / "train.py")
    command = [sys.executable, "-X", "importtime", "-c", WINDOWS, train, "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (
        "optimizer: adadelta, adagrad, adam, adamw, lbfgs, momentum, muon, nesterov, rmsprop, sgd"
        in done.stdout
    )
    train = os.path.relpath(ROOT / "scripts" / "train.py", tmp_path)  # each can be pasted here
    assert len(re.findall(rf"^  python {train} \S", done.stdout, re.MULTILINE)) >= 3
    assert not re.search(r"\| torch$", done.stderr, re.MULTILINE)


def test_a_command_can_be_profiled(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cProfile", "-o", "profile", str(ROOT / "scripts" / "train.py")]
    done = subprocess.run([*command, "--cfg", "job"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "run_command" in {function for _, _, function in pstats.Stats(str(tmp_path / "profile")).stats}  # type: ignore[attr-defined]


def test_two_runs_started_together_have_folders_of_their_own(tmp_path: Path) -> None:
    both = [commands.Started("train", *TINY, "debug=fast", folder=tmp_path) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert [status(folder)["status"] for folder in run_folders(tmp_path)] == ["finished", "finished"]


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path) -> None:
    process = commands.Started("train", *TINY, "trainer.max_epochs=100000", folder=tmp_path)
    commands.wait_for(tmp_path, "last.ckpt")
    process.send_signal(signal.SIGINT)  # SIGTERM: test_a_terminated_run_keeps_the_average_of_its_whole_epochs
    assert process.wait() == 130
    (folder,) = run_folders(tmp_path)
    assert status(folder)["status"] == "interrupted"
    assert f"scripts/train.py resume={folder.relative_to(tmp_path)}" in process.output
