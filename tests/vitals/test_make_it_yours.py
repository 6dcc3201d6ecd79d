"""What a new owner does, as docs/your-own.md tells it: its files are written, and its commands are run."""

from __future__ import annotations

import csv
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "your-own.md"


def files_of(page: Path) -> dict[str, str]:
    """The files of the page by their names, which stand alone in a line above each."""
    blocks = re.findall(
        r"^`([\w/.-]+)`\n\n```\w+\n(.*?)```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE
    )
    return dict(blocks)


def command(name: str, *words: str) -> int:
    """Run `scripts/<name>.py` here, which spares the import of torch, and return its exit code."""
    path = str(ROOT / "scripts" / f"{name}.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [path, *words])
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as end:
            return int(end.code or 0)
    return 0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory):
    """The working folder of the new owner, with the files of the page."""
    folder = tmp_path_factory.mktemp("owner")
    for name, content in files_of(PAGE).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", str(folder), prepend=":")
        yield folder
        for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:
            del sys.modules[name]


MINE = ["--config-dir=configs", "experiment=regression", "seed=0", "~callbacks.progress"]


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    """A run of four epochs."""
    assert command("train", *MINE, "trainer.max_epochs=4", "hydra.run.dir=whole") == 0
    return place / "whole"


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_everything_of_ones_own_takes_part(run: Path) -> None:
    errors = [float(row["mae/val"]) for row in rows(run)]
    assert errors[-1] < 0.8 * errors[0]
    assert len((run / "epochs.txt").read_text().splitlines()) == 4
    tags = {tag for line in (run / "history.jsonl").open() for tag in json.loads(line)["values"]}
    assert "output_scale" in tags
    findings = json.loads((run / "findings.json").read_text())
    assert [found["cause"] for found in findings if found["check"] == "centred_targets"] == [
        "targets-centred"
    ]
    assert not [found for found in findings if found["level"] == "fail"]
    assert "SignDescent" in (run / "config.yaml").read_text()
    assert (run / "report.html").is_file()


def test_a_rule_of_ones_own_is_heard(place: Path) -> None:
    words = [
        "optimizer.lr=10",
        "trainer.max_epochs=1",
        "schedule.warmup_epochs=0",
        "checks=none",
        "average=none",
        "diagnosis.report=false",
    ]
    assert command("train", *MINE, *words, "hydra.run.dir=loud") == 0
    causes = {found["cause"] for found in json.loads((place / "loud" / "findings.json").read_text())}
    assert "output-scale-large" in causes


def test_the_best_checkpoint_and_the_average_are_judged_by_the_own_metric(run: Path) -> None:
    status = json.loads((run / "status.json").read_text())["metrics"]
    errors = [float(row["mae/val"]) for row in rows(run)]
    assert status["best/mae_val"] == pytest.approx(min(errors))
    [best] = (run / "checkpoints").glob("best_*.ckpt")
    assert best.name == f"best_epoch{errors.index(min(errors)) + 1:03d}_mae{min(errors):.4f}.ckpt"
    assert (run / "checkpoints" / "average.ckpt").is_file()
    assert status["average/mae_val"] > 0


def test_it_evaluates_from_its_folder(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("evaluate", "run=whole", "checkpoint=best") == 0
    assert "mae" in capsys.readouterr().out
    assert command("evaluate", "run=whole", "tta=flip") == 2
    assert "tta=flip needs a module whose" in capsys.readouterr().err


def test_it_stops_and_resumes_bit_for_bit(run: Path, place: Path) -> None:
    # The checks and the page, which the whole run has, take longer than all else and change nothing.
    words = ["trainer.max_epochs=2", "schedule.epochs=4", "hydra.run.dir=parts"]
    words += ["checks=none", "diagnosis.report=false"]
    assert command("train", *MINE, *words) == 0
    assert command("train", "resume=parts", "trainer.max_epochs=4") == 0
    whole, parts = (
        torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for folder in (run, place / "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert [row["mae/val"] for row in rows(run)] == [row["mae/val"] for row in rows(place / "parts")]


def test_the_best_of_a_sweep_is_the_lowest(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"hydra.searchpath=[{place}/configs]", *MINE[1:], "trainer.max_epochs=2", "checks=none"]
    assert command("train", "-m", *words, "optimizer.lr=0.0001,0.01", "hydra.sweep.dir=sweep") == 0
    with (place / "sweep" / "results.csv").open(newline="") as file:
        best = {row["optimizer.lr"]: float(row["best/mae_val"]) for row in csv.DictReader(file)}
    assert best["0.01"] < best["0.0001"]
    table = capsys.readouterr().out.partition("Jobs")[2]
    assert table.index(" 0.01 ") < table.index(" 0.0001 ")  # the best first


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["data.sampels=3"], "did you mean samples"),
        (["+data.sampels=3"], "data.sampels"),
        (["--config-dir=nowhere"], "nowhere is not a folder"),
        (["data=tabels"], "did you mean tables"),
        (["model=regression"], "did you mean module=regression?"),
        (["callbacks.output_scale.times_per_run=3"], "write +callbacks.output_scale.times_per_run=3."),
        (["metric.mode=least"], "metric.mode=least is not one of max, min"),
        (["module._target_=mine.module.Regresion"], "Regresion"),
        (["data._target_=mine.data"], "mine.data is no class or function"),
        (["callbacks.histograms=5"], "callbacks.histograms=5 is not allowed: it has keys of its own"),
        (["metric.mode=[max]"], "metric.mode=['max'] is not one of max, min"),
        (["optimizer.lr=[0.1]"], "it must be a number greater than 0: write optimizer.lr=0.1."),
        (["metric.tie_breaker=[]"], "metric.tie_breaker=[] is not allowed: it must be text, or null."),
        (["hydra.run.dir=''"], "hydra.run.dir= names no folder"),
        (["resume=''"], "resume= names no folder"),
        (
            ["trainer.accelerator=cpu", "trainer.devices=9999"],
            "trainer.devices=9999 asks for as many processes",
        ),
    ],
)
def test_a_mistake_in_ones_own_gets_a_sentence(
    place: Path, words: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = MINE if "--config-dir=nowhere" not in words else MINE[1:]
    before = set(place.iterdir())
    assert command("train", *given, *words) == 2
    said = capsys.readouterr().err
    assert answer in said
    assert "Traceback" not in said
    assert set(place.iterdir()) == before


REFUSING = """
from torch import nn

from mine.data import Tables
from mine.module import Regression
from mine.optimizer import SignDescent


class Rows(Tables):
    def __init__(self, samples, batch_size: int, seed: int) -> None:
        super().__init__(int(samples), batch_size, seed)


class Positive(Regression):
    def __init__(self, network, optimizer, schedule, delta: float) -> None:
        if delta <= 0:
            raise ValueError("delta must be positive")
        super().__init__(network, optimizer, schedule, delta)


class Mistaken(Regression):
    def __init__(self, network, optimizer, schedule, delta: float) -> None:
        self.width = self.widht


class Wide(nn.Sequential):
    def __init__(self, inputs: int, width: int, act: str = "tanh") -> None:
        assert width > 0
        made = {"tanh": nn.Tanh, "relu": nn.ReLU}[act]
        super().__init__(nn.Linear(inputs, width), made(), nn.Linear(width, 1))


class Small(SignDescent):
    def __init__(self, params, lr: float) -> None:
        if lr > 1:
            raise ValueError("lr must be 1 at most")
        super().__init__(params, lr)
"""


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["data._target_=mine.refusing.Rows", "data.samples=many"], r"data: invalid literal .*\.Rows, Value"),
        (["data.samples=many"], r"data: randn\(\) received an .*TypeError at `inputs = torch.randn"),
        (["module._target_=mine.refusing.Positive", "module.delta=-1"], "module: delta must be positive (mi"),
        (["network._target_=mine.refusing.Wide", "network.width=0"], "at `assert width > 0` (refusing.py,"),
        (["network._target_=mine.refusing.Wide", "+network.act=thna"], "network: there is no 'thna' (mine"),
        (["optimizer._target_=mine.refusing.Small", "optimizer.lr=9"], "optimizers: lr must be 1 at most ("),
    ],
)
def test_what_ones_own_class_refuses_is_said_with_the_line_that_did_and_leaves_nothing(
    place: Path, words: list[str], answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "mine" / "refusing.py").write_text(REFUSING)
    assert command("train", *MINE, *words, "hydra.run.dir=refused") == 2
    said = capsys.readouterr().err
    assert re.search(answer if "*" in answer else re.escape(answer), said), said
    assert "Traceback" not in said
    assert not (place / "refused").exists()


def test_a_mistake_in_the_code_of_ones_own_class_keeps_its_traceback(place: Path) -> None:
    (place / "mine" / "refusing.py").write_text(REFUSING)
    with pytest.raises(AttributeError, match="widht"):
        command("train", *MINE, "module._target_=mine.refusing.Mistaken", "hydra.run.dir=mistaken")
    assert json.loads((place / "mistaken" / "status.json").read_text())["status"] == "failed"


APPLICATION = """
import hydra
from hydra.utils import instantiate


@hydra.main(version_base="1.3", config_path=".", config_name="main")
def main(config):
    if config.get("only_trainer"):
        print(config.trainer.max_epochs)
        return
    trainer = instantiate(
        config.trainer,
        logger=[instantiate(each) for each in config.logger.values()],
        callbacks=[instantiate(each) for each in config.callbacks.values()],
    )
    print(trainer.default_root_dir, trainer.logger.save_dir, trainer.checkpoint_callback.metric.name)


main()
"""


@pytest.fixture
def application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script with the configuration that the page shows for it."""
    section = PAGE.read_text("utf-8").partition("## An application of your own")[2]
    (tmp_path / "main.yaml").write_text(section.partition("```yaml\n")[2].partition("```")[0])
    (tmp_path / "app.py").write_text(APPLICATION)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "app.py"


def test_an_application_of_ones_own_composes_our_groups(application: Path) -> None:
    words = [sys.executable, str(application), "+only_trainer=true"]  # nothing of ours is imported before
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("20\n", 0), done.stderr


def test_an_application_of_ones_own_builds_what_is_in_our_groups(
    application: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = [f"hydra/{name}_logging=disabled" for name in ("job", "hydra")]
    monkeypatch.setattr(
        sys, "argv", [str(application), "hydra.run.dir=here", "logger=[tensorboard,csv]", *quiet]
    )
    runpy.run_path(str(application), run_name="__main__")
    folder = str(application.parent / "here")
    assert capsys.readouterr().out == f"{folder} {folder} val/loss\n"


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("train", ["--help"], "Train Regression with Perceptron on data=tables, judged by mae/val, and"),
        ("check", ["--help"], "Check Regression with Perceptron on data=tables, judged by mae/val, bef"),
        ("train", ["--cfg", "job", "--resolve"], "_target_: mine.data.Tables"),
        ("train", ["--info", "defaults"], ""),  # what it logs depends on who has set up logging
    ],
)
def test_what_there_is_to_choose_is_told_of_ones_own_configuration(
    place: Path, name: str, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The options stand behind the words, where a further word would not be read."""
    assert command(name, *MINE, *options) == 0
    assert said in capsys.readouterr().out


def test_a_run_that_hydra_puts_into_its_folder_says_what_to_type_outside(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["hydra.job.chdir=true", "checks=none", "average=none", "diagnosis.report=false"]
    assert command("train", *MINE, *words, "trainer.max_epochs=1", "hydra.run.dir=within") == 0
    assert command("train", "resume=within", "trainer.max_epochs=2", "hydra.job.chdir=true") == 0
    script = os.path.relpath(ROOT / "scripts" / "evaluate.py")
    assert capsys.readouterr().out.count(f"{script} run=within\n") == 2
    assert len(rows(place / "within")) == 2


@pytest.mark.parametrize(
    ("where", "answer"),
    [
        ("whole", "hydra.sweep.dir=whole holds a run"),
        ("mine/data.py", "mine/data.py cannot be made: "),
        ("''", "hydra.sweep.dir= names no folder"),
    ],
)
def test_no_sweep_begins_where_it_cannot_or_where_a_run_lies(
    run: Path, where: str, answer: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("train", "-m", *MINE, "optimizer.lr=0.1,0.2", f"hydra.sweep.dir={where}") == 2
    assert answer in capsys.readouterr().err


def test_a_run_goes_on_with_another_value_of_a_key_that_only_its_own_configuration_has(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["checks=none", "average=none", "diagnosis.report=false"]
    assert command("train", *MINE, *words, "trainer.max_epochs=1", "hydra.run.dir=longer") == 0
    assert command("train", "resume=longer", "module.dleta=0.5", "trainer.max_epochs=2") == 2
    assert "'module' has no key 'dleta'" in capsys.readouterr().err
    assert command("train", "resume=longer", "module.delta=0.5", "trainer.max_epochs=2") == 0
    assert "delta: 0.5" in (place / "longer" / "config.yaml").read_text()


def test_recipes_are_stacked(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "configs" / "experiment" / "long.yaml").write_text(
        "# @package _global_\ntrainer:\n  max_epochs: 77\n"
    )
    words = [word.replace("regression", "[regression,long]") for word in MINE]
    assert command("train", *words, "--cfg", "job") == 0
    said = capsys.readouterr().out
    assert "max_epochs: 77" in said
    assert "_target_: mine.data.Tables" in said


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    """As `| head` does."""
    words = [sys.executable, str(ROOT / "scripts" / "train.py"), "--help"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 1
