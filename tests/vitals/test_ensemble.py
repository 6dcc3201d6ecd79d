"""Ensembles of real runs: what they reach, how they are shown, and what is left out."""

from __future__ import annotations

import csv
import io
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import commands
import pytest
import torch
from blobs import WORDS
from omegaconf import DictConfig, OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from project import build as project
from project.train import train
from vitals.ensembles.run import ensemble
from vitals.ensembles.scores import EnsembleResult
from vitals.ensembles.selection import select
from vitals.errors import UserError
from vitals.runs.config.overrides import Overrides
from vitals.runs.evaluate import evaluate
from vitals.runs.run import run
from vitals.runs.run_folder import RunFolder

TINY = [*WORDS, "~callbacks.progress", "checks=none", "diagnosis.report=false", "seed=0"]
TINY += [
    "trainer.max_epochs=2",
    "data.batch_size=32",
    "data.limit=300",
    "schedule.warmup_epochs=0",
    "network.widths=[8,8]",
    "optimizer.lr=0.05",
]
TINY += ["callbacks.learning_curves.subset_samples=0", "~callbacks.histograms", "~callbacks.update_ratio"]


def trained(folder: Path, *words: str) -> Path:
    [config] = Overrides(commands.ROOT / "configs", "train", [*TINY, *words]).composed()
    run(config, RunFolder(folder), train)
    return folder


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs of other seeds, the first with a checkpoint of each epoch."""
    folder = tmp_path_factory.mktemp("sweep")
    for seed in range(3):
        keep = ["callbacks.checkpoints.keep_every=1", "trainer.max_epochs=3"] if seed == 0 else []
        trained(folder / f"{seed}_seed-{seed}", f"seed={seed}", *keep)
    return folder


def options(folder: Path, **values: Any) -> DictConfig:
    given = {"runs": [], "sweep": None, "run": None, "top": 10, "checkpoint": "best", "split": "test"}
    return OmegaConf.create({**given, "data_root": None, "folder": str(folder / "out"), **values})


def runs_of(sweep: Path) -> list[str]:
    return [str(folder) for folder in sorted(sweep.iterdir())]


@pytest.fixture(scope="module")
def together(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[EnsembleResult, Path]:
    """The ensemble of the sweep and the folder of its results."""
    folder = tmp_path_factory.mktemp("together")
    return ensemble(options(folder, runs=runs_of(sweep)), project), folder / "out"


def test_members_have_the_figures_that_evaluation_gives_them(
    together: tuple[EnsembleResult, Path], sweep: Path
) -> None:
    result, _ = together
    assert len(result.members) == 3
    for path, member in zip(runs_of(sweep), result.members, strict=True):
        asked = {"run": path, "checkpoint": "best", "split": "test", "data_root": None}
        found = evaluate(OmegaConf.create(asked), project)
        assert member.accuracy == pytest.approx(found["accuracy/test"], abs=1e-6)
        assert member.nll == pytest.approx(found["loss/test"], rel=1e-4)


def test_json_page_and_chart_say_the_same(together: tuple[EnsembleResult, Path]) -> None:
    result, folder = together
    content = json.loads((folder / "ensemble.json").read_text())
    assert content["ensemble"]["accuracy"] == result.together.accuracy
    assert [size["members"] for size in content["by_size"]] == [1, 2, 3]
    assert content["by_size"][2]["accuracy"] == pytest.approx(result.together.accuracy)
    points = EventAccumulator(str(folder)).Reload().Scalars("ensemble/accuracy")
    assert [point.step for point in points] == [1, 2, 3]
    assert points[2].value == pytest.approx(result.together.accuracy)
    page = Page()
    page.feed((folder / "ensemble.html").read_text())
    assert f"{result.together.accuracy:.2%}" in page.text
    assert page.figures == 2
    assert page.loaded == []


class Page(HTMLParser):
    """The text of a page, its figures, and what it would have to load."""

    def __init__(self) -> None:
        super().__init__()
        self.text, self.figures = "", 0
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.figures += tag == "svg"
        places = [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        self.loaded += [place for place in places if not place.startswith(("#", "data:"))]
        self.loaded += [tag] if tag == "script" else []

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_sweep_gives_its_best_runs(sweep: Path, tmp_path: Path) -> None:
    def best(folder: str) -> float:
        with (Path(folder) / "metrics.csv").open(newline="") as file:
            return max(float(row["accuracy/val"]) for row in csv.DictReader(file))

    chosen = select(options(tmp_path, sweep=str(sweep), top=2)).candidates
    ranked = sorted(runs_of(sweep), key=best, reverse=True)
    assert [best(str(candidate.run.path)) for candidate in chosen] == [best(folder) for folder in ranked[:2]]


def test_one_run_gives_the_checkpoints_it_kept(sweep: Path, tmp_path: Path) -> None:
    result = ensemble(options(tmp_path, run=runs_of(sweep)[0], split="val"), project)
    assert sum(name.startswith("epoch00") for name in result.names) + len(result.left_out) >= 3
    assert [sentence for sentence in result.left_out if "holds the same weights as" not in sentence] == []


def test_members_of_several_networks_are_averaged_too(sweep: Path, tmp_path: Path) -> None:
    other = trained(tmp_path / "wider", "network.widths=[8,12]")
    result = ensemble(options(tmp_path, runs=[*runs_of(sweep), str(other)]), project)
    assert len(result.members) == 4


@pytest.fixture
def copies(sweep: Path, tmp_path: Path) -> list[Path]:
    """Copies of the runs, to be spoiled."""
    return [
        Path(shutil.copytree(folder, tmp_path / folder.name, symlinks=True))
        for folder in sorted(sweep.iterdir())
    ]


def damaged(folder: Path) -> str:
    """A file of a thousandth of the memory that it takes, as no checkpoint is."""
    file = (folder / "checkpoints" / "best.ckpt").resolve()
    with ZipFile(io.BytesIO(file.read_bytes())) as whole, ZipFile(file, "w", ZIP_DEFLATED) as packed:
        for part in whole.infolist():
            packed.writestr(part.filename, whole.read(part))
    return "is damaged or no checkpoint of a run: it unpacks to"


def of_other_network(folder: Path) -> str:
    settings = OmegaConf.load(folder / "config.yaml")
    settings.network.widths = [8, 12]
    OmegaConf.save(settings, folder / "config.yaml")
    return "holds the weights of another network"


def of_other_classes(folder: Path) -> str:
    file = (folder / "checkpoints" / "best.ckpt").resolve()
    content = torch.load(file, weights_only=True)
    content["Blobs"]["classes"] = [f"animal {number}" for number in range(10)]
    torch.save(content, file)
    return "the checkpoint is of other classes"


def of_other_images(folder: Path) -> str:
    shutil.rmtree(folder)
    trained(folder, "data.split_seed=5")
    return "was trained for other test samples than"


def gone(folder: Path) -> str:
    shutil.rmtree(folder)
    return "is not a folder"


def without_checkpoint(folder: Path) -> str:
    shutil.rmtree(folder / "checkpoints")
    return "the run has no checkpoint yet"


@pytest.mark.parametrize(
    "spoil", [damaged, of_other_network, of_other_classes, of_other_images, gone, without_checkpoint]
)
@pytest.mark.parametrize("place", [0, 1])
def test_a_member_that_does_not_fit_is_named_and_the_others_are_kept(
    spoil: Any, place: int, copies: list[Path], tmp_path: Path
) -> None:
    reason = spoil(copies[place])
    result = ensemble(options(tmp_path, runs=[str(folder) for folder in copies]), project)
    assert len(result.members) == 2
    [sentence] = result.left_out
    assert reason in sentence
    assert str(copies[place]) in sentence


@pytest.mark.parametrize("values", [{}, {"runs": ["one"], "sweep": "two"}])
def test_the_members_are_named_in_one_way(values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="say in one way where the members are"):
        select(options(tmp_path, **values))


def test_too_few_members_are_refused_with_what_was_left_out(copies: list[Path], tmp_path: Path) -> None:
    for folder in copies[1:]:
        damaged(folder)
    with pytest.raises(UserError) as error:
        ensemble(options(tmp_path, runs=[str(folder) for folder in copies]), project)
    first, *others = str(error.value).splitlines()
    assert "only one member" in first
    assert [str(folder) in line for folder, line in zip(copies[1:], others, strict=True)] == [True, True]
    assert not (tmp_path / "out").exists()


def test_an_ensemble_that_is_worse_than_its_best_member_says_so(
    together: tuple[EnsembleResult, Path],
) -> None:
    from dataclasses import replace

    result = together[0]
    worse = replace(result, together=replace(result.together, accuracy=0.0))
    best = max(member.accuracy for member in result.members)
    assert worse.warning.startswith("The ensemble is worse than its best member")
    assert f"{best:.2%}" in worse.warning
    assert replace(result, together=replace(result.together, accuracy=1.0)).warning == ""


MISTAKES = {
    "sweep=nowhere": "sweep=nowhere is not a folder",
    "runs=[a,b]": "a is not a folder",
    "run=nowhere": "run=nowhere is not a folder",
    "": "say in one way where the members are",
    "sweep=. top=1": "it must be a whole number of 2 or more",
    "sweep=.": "has no run in it",
    "swep=x": "did you mean sweep",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_gets_a_sentence_and_leaves_nothing(words: str, tmp_path: Path) -> None:
    done = commands.run("ensemble", *words.split(), folder=tmp_path)
    assert done.returncode == 2
    assert MISTAKES[words] in done.stderr
    assert not list(tmp_path.iterdir())


def test_what_the_run_chose_is_what_is_evaluated_ranked_and_put_together(tmp_path: Path) -> None:
    words = ["average=swa", "average.start=0", "trainer.max_epochs=4", "optimizer.lr=0.2"]
    for seed in range(2):
        trained(tmp_path / "sweep" / f"{seed}_seed-{seed}", f"seed={seed}", *words)
    runs = [RunFolder(path) for path in runs_of(tmp_path / "sweep")]
    assert "average" in [one.weights for one in runs]
    for one in runs:
        status, metric = one.read_status(), one.read_metric()
        assert (one.weights == "average") == bool(status["metrics"]["test/averaged"])
        scored = one.score(metric)
        assert scored is not None
        asked = {"run": str(one.path), "checkpoint": "chosen", "split": "val", "data_root": None}
        assert evaluate(OmegaConf.create(asked), project)[metric.name] == pytest.approx(scored[0], abs=1e-6)
        assert scored[0] >= one.score(metric, "best")[0]  # type: ignore[index]
    picked = select(options(tmp_path, sweep=str(tmp_path / "sweep"), checkpoint="chosen"))
    assert picked.left_out == []
    assert [c.path.stem for c in picked.candidates] == [c.run.weights for c in picked.candidates]
    scores = [candidate.run.score(metric)[0] for candidate in picked.candidates]  # type: ignore[index]
    assert scores == sorted(scores, reverse=True)
