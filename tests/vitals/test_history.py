"""The record of what was measured: what goes in comes out, also through the file and after a resume."""

import math
from pathlib import Path

from vitals.history import History


def test_the_file_holds_what_was_added(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    history.add(10, 0.5, {"update_ratio/a.weight": 0.002, "histogram": {"edges": [0.0, 1.0], "counts": [3]}})
    history.add(20, 1.0, {"update_ratio/a.weight": math.inf})
    read = History.read(tmp_path / "history.jsonl")
    assert list(read.series("update_ratio/a.weight")) == [(10, 0.5, 0.002), (20, 1.0, math.inf)]
    assert read.last("histogram") == {"edges": [0.0, 1.0], "counts": [3]}
    assert read.tags("update") == ["update_ratio/a.weight"]


def test_a_block_of_steps_is_one_point_a_step(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    history.add_steps(2, 0.5, {"loss/train_step": [3.0, 2.0]})
    history.add_steps(4, 1.0, {"loss/train_step": [1.0, math.nan]})
    for each in (history, History.read(tmp_path / "history.jsonl")):
        series = each.series("loss/train_step")
        assert series.steps == [1, 2, 3, 4]
        assert series.epochs == [0.25, 0.5, 0.75, 1.0]
        assert series.values[:3] == [3.0, 2.0, 1.0]
        assert math.isnan(series.values[3])


def test_a_resumed_run_drops_what_it_will_measure_anew(tmp_path: Path) -> None:
    first = History(tmp_path / "history.jsonl")
    for step in (1, 2, 3):
        first.add(step, step / 2, {"lr/0": float(step)})
    second = History(tmp_path / "history.jsonl")
    second.resume(2)
    second.add(3, 1.5, {"lr/0": 30.0})
    assert second.series("lr/0").values == [1.0, 2.0, 30.0]
    assert History.read(tmp_path / "history.jsonl").series("lr/0").values == [1.0, 2.0, 30.0]


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    History(path).add(1, 0.5, {"lr/0": 0.1})
    with path.open("a") as file:
        file.write('{"step": 2, "ep')
    assert History.read(path).series("lr/0").steps == [1]
    second = History(path)
    second.resume(5)
    assert second.series("lr/0").steps == [1]


def test_a_quantity_never_measured_is_empty() -> None:
    assert len(History().series("nothing")) == 0
    assert History().last("nothing", 7) == 7
