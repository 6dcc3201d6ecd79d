"""What a search varies, the points it draws, and how it goes on after an interruption."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from blobs import WORDS
from hydra.core.override_parser.overrides_parser import OverridesParser
from scipy.stats import kstest

from vitals.errors import UserError
from vitals.metric import Metric
from vitals.runs.run_folder import RunFolder
from vitals.sweeps.search.space import Dimension, search_space

pytest.importorskip("optuna")
from vitals.sweeps.search.study import Study

ACCURACY = Metric("accuracy/val", "max")
RATE = Dimension("optimizer.lr", 1e-6, 1e1, log=True)
DROPOUT = Dimension("network.dropout", 0.0, 1.0)


def space_of(compose, *words: str) -> dict[str, Dimension]:
    config = compose(
        *WORDS, "search=random", *(word for word in words if "(" not in word and "," not in word)
    )
    overrides = OverridesParser.create().parse_overrides(list(words))
    return {part.key: part for part in search_space(config.search.space, overrides, config)}


def value(words: list[str], key: str) -> float:
    return next(float(word.partition("=")[2]) for word in words if word.startswith(key))


def finish(folder: Path, accuracies: list[float], status: str = "finished", **facts: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"{epoch + 1},{accuracy}" for epoch, accuracy in enumerate(accuracies)]
    (folder / "metrics.csv").write_text("\n".join(["epoch,accuracy/val", *rows]))
    RunFolder(folder).write_status(status, error=None, **facts)  # type: ignore[arg-type]
    return folder


def test_random_rates_are_uniform_in_their_logarithm_and_dropout_in_itself(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.db", "s", [RATE, DROPOUT], ACCURACY, "random", seed=0)
    points = [study.propose(number) for number in range(60)]
    rates = [math.log10(value(words, "optimizer.lr")) for words in points]
    dropouts = [value(words, "network.dropout") for words in points]
    assert kstest(rates, "uniform", args=(-6, 7)).pvalue > 0.01
    assert kstest(dropouts, "uniform").pvalue > 0.01


def test_the_default_space_is_the_courses_and_follows_the_command_line(compose) -> None:
    space = space_of(compose)
    assert list(space) == [
        "optimizer.lr",
        "optimizer.weight_decay",
        "network.dropout",
        "optimizer.momentum",
    ]
    assert space["optimizer.lr"] == RATE
    assert space["optimizer.momentum"].choices == ("0.5", "0.9", "0.95", "0.99")
    changed = space_of(compose, "optimizer=adam", "optimizer.lr=tag(log,interval(1e-4,1e-2))", "seed=1,2")
    assert list(changed) == ["optimizer.weight_decay", "network.dropout", "optimizer.lr", "seed"]
    assert changed["optimizer.lr"].high == 0.01
    assert "optimizer.lr" not in space_of(compose, "optimizer.lr=0.1")


def test_a_range_that_falls_or_has_no_logarithm_is_refused(compose) -> None:
    for range_ in ("tag(log,interval(0,1))", "interval(1,0.1)"):
        with pytest.raises(UserError, match="is no range: its ends must rise"):
            space_of(compose, f"optimizer.lr={range_}")


def test_a_narrowed_range_spans_the_survivors_and_half_a_decade_within_the_old_one() -> None:
    narrowed = RATE.narrowed([1e-3, 1e-2])
    assert (math.log10(narrowed.low), math.log10(narrowed.high)) == pytest.approx((-3.5, -1.5))
    assert RATE.narrowed([1e-6, 1e1]) == Dimension(
        "optimizer.lr", pytest.approx(1e-6), pytest.approx(10.0), log=True
    )
    assert Dimension("m", choices=("a", "b", "c")).narrowed(["c", "a"]).choices == ("a", "c")


def test_a_grid_over_a_logarithmic_range_has_equal_ratios() -> None:
    assert Dimension("lr", 1e-3, 1e1, log=True).evenly(5) == pytest.approx([1e-3, 1e-2, 1e-1, 1, 10])


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_continued_search_keeps_its_jobs_and_repeats_no_point(tmp_path: Path, sampler: str) -> None:
    def study() -> Study:
        return Study(tmp_path / "study.db", "s", [RATE], ACCURACY, sampler, seed=0, startup=2)

    first = study()
    points = {number: first.propose(number) for number in range(4)}
    first.record(0, finish(tmp_path / "0", [0.3, 0.5]), "finished")
    first.record(1, finish(tmp_path / "1", [], "failed"), "failed")
    first.record(2, finish(tmp_path / "2", [0.2], "interrupted"), "interrupted")

    folders = {number: tmp_path / str(number) for number in range(3)}
    second = study()
    assert second.known(folders) == points
    second.record(1, finish(tmp_path / "1", [0.9]), "finished")  # run again, and well this time
    second.record(2, finish(tmp_path / "2", [0.7]), "finished")
    finish(tmp_path / "3", [0.1])  # ended after the search had been killed
    third = study()
    assert third.known({**folders, 3: tmp_path / "3"}) == points
    assert [third.best(4)[0], third.best(4)[-1]] == [
        {"optimizer.lr": pytest.approx(value(points[1], "optimizer.lr"), rel=1e-3)},
        {"optimizer.lr": pytest.approx(value(points[3], "optimizer.lr"), rel=1e-3)},
    ]
    assert third.propose(4) not in points.values()


def test_a_job_that_was_stopped_early_is_pruned_in_the_study_with_its_curve(tmp_path: Path) -> None:
    study = Study(tmp_path / "study.db", "s", [RATE], ACCURACY, "random", seed=0)
    study.propose(0)
    folder = finish(tmp_path / "0", [0.1, 0.2], stopped_early="hopeless: …")
    study.record(0, folder, "finished")
    (trial,) = study.study.trials
    assert (trial.state.name, trial.intermediate_values) == ("PRUNED", {1: 0.1, 2: 0.2})
    assert trial.user_attrs["stopped_early"] == "hopeless: …"
