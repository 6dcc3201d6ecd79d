"""The config group `callbacks`: the same monitors as `vitals.diagnostics()`, and what belongs to a run."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from vitals.presets import FOLDER, monitors

OF_A_RUN = {"checkpoints", "predictions", "progress"}


@pytest.mark.parametrize("preset", ["none", "light", "default", "full"])
def test_a_choice_has_the_monitors_of_the_preset_and_what_a_run_needs(preset: str) -> None:
    with initialize_config_dir(str(FOLDER), version_base="1.3"):
        chosen = compose(preset, ["learning_curves.table=false"])
    assert set(chosen) >= OF_A_RUN | {"learning_curves"}
    assert OmegaConf.to_container(chosen.checkpoints)["keep_every"] is None
    built = [instantiate(entry) for name, entry in chosen.items() if name not in OF_A_RUN]
    assert [(type(monitor), vars(monitor).keys()) for monitor in built] == [
        (type(monitor), vars(monitor).keys()) for monitor in monitors(preset)
    ]
    for one, other in zip(built, monitors(preset), strict=True):
        plain = {name: value for name, value in vars(one).items() if name != "speed"}
        assert plain == {name: vars(other)[name] for name in plain}
