"""The presets: one source for `diagnostics()` and for the configuration, none of which changes a training."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from hydra.utils import instantiate
from monitoring import same
from test_monitors import foreign

from vitals import Diagnostics, diagnostics
from vitals.checks.sanity_checks import SanityChecks
from vitals.diagnosis.callback import Diagnosis
from vitals.errors import UserError
from vitals.monitors.learning_curves import LearningCurves
from vitals.presets import FOLDER, monitors
from vitals.recorder import Recorder

PRESETS = ["none", "light", "default", "full"]


def test_the_files_are_the_presets_each_with_its_cost() -> None:
    assert {file.stem for file in FOLDER.glob("*.yaml")} == {*PRESETS, "early_stopping"}
    for preset in PRESETS:
        assert "Cost: " in (FOLDER / f"{preset}.yaml").read_text(encoding="utf-8"), preset
    with pytest.raises(UserError, match="no preset 'early_stopping'"):
        monitors("early_stopping")


def test_a_monitor_has_one_set_of_defaults() -> None:
    """Those of its constructor are those of the default preset."""
    for monitor in monitors("default"):
        bare = LearningCurves(table=False) if isinstance(monitor, LearningCurves) else type(monitor)()
        assert settings(monitor) == settings(bare)


def settings(monitor: Any) -> dict[str, Any]:
    """What the constructor was given, as far as it keeps it."""
    names = {*inspect.signature(type(monitor)).parameters, "interval", "writes_table", "follows_trainer"}
    return {name: getattr(monitor, name) for name in names if hasattr(monitor, name)}


def test_each_preset_watches_more_and_more_often() -> None:
    assert [type(monitor).__name__ for monitor in monitors("none")] == ["LearningCurves"]
    kinds = [{type(monitor) for monitor in monitors(preset)} for preset in PRESETS]
    assert kinds[0] < kinds[1] < kinds[2] == kinds[3]
    for less, more in [("light", "default"), ("default", "full")]:
        periods = [
            {type(m): m.interval.period(10_000, 500) for m in monitors(preset)} for preset in (less, more)
        ]
        assert all(periods[1][kind] <= period for kind, period in periods[0].items())


def test_diagnostics_check_first_and_judge_last() -> None:
    first, *watching, recorder, last = diagnostics("light")
    assert isinstance(first, SanityChecks)
    assert isinstance(recorder, Recorder)
    assert isinstance(last, Diagnosis)
    assert [type(monitor) for monitor in watching] == [type(monitor) for monitor in monitors("light")]


def test_a_preset_that_does_not_exist_is_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"there is no preset 'lite': did you mean light\?"):
        diagnostics("lite")


def test_a_training_is_the_same_to_the_bit_with_every_preset(tmp_path: Path) -> None:
    alone = foreign(tmp_path)
    for preset in PRESETS:
        watching = diagnostics(preset)[1:]  # the checks take long, and have such a test of their own
        assert same(alone, foreign(tmp_path, *watching)), preset
        found = [finding.message for callback in watching[:-2] for finding in callback.findings]
        assert found == [], preset


def test_one_callback_brings_all_for_a_configuration_that_names_classes(tmp_path: Path) -> None:
    one = instantiate({"_target_": "vitals.Diagnostics", "preset": "light", "budget": 1})
    assert isinstance(one, Diagnostics)
    assert same(foreign(tmp_path / "alone"), foreign(tmp_path / "watched", one))
    assert [type(each) for each in one.callbacks] == [type(each) for each in diagnostics("light")]
    found = next((tmp_path / "watched").rglob("findings.json")).read_text()
    assert found.count('"looks"') == 1
    assert next((tmp_path / "watched").rglob("history.jsonl")).read_text()


def test_a_metrics_csv_of_somebody_else_stays_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("year,value\n2024,1\n")
    foreign(tmp_path, *diagnostics("none")[1:])
    assert [file.name for file in tmp_path.glob("*metrics*")] == ["metrics.csv"]
    assert (tmp_path / "metrics.csv").read_text() == "year,value\n2024,1\n"
