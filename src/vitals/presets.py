"""The callbacks that watch a training, for anybody's trainer, in four measures."""

from importlib import import_module
from pathlib import Path
from typing import Any

import lightning as L
import yaml

from vitals.checks.sanity_checks import SanityChecks
from vitals.diagnosis.callback import Diagnosis
from vitals.either_package import Callback
from vitals.errors import UserError, did_you_mean
from vitals.on_nonfinite import Action, OnNonFinite
from vitals.recorder import Recorder

FOLDER = Path(__file__).parent / "configs" / "callbacks"
"""The config group `callbacks`: a file for each preset, and for callbacks that are added to one."""


def diagnostics(
    preset: str = "default", budget: float | None = None, on_nonfinite: Action | None = None
) -> list[L.Callback]:
    """All callbacks that watch, for `Trainer(callbacks=vitals.diagnostics())`, of
    `lightning` or of `pytorch_lightning`.

    They say what they find in `findings.json` in the trainer's log folder, keep what they measure in
    `history.jsonl` beside it, write to the trainer's loggers, and never end a training unless asked to.

    Args:
        preset: which monitors there are and how often they measure: `none`, `light`, `default` or `full`, as
            `callbacks=` on the command line. `vitals/configs/callbacks/` says what is in each and its cost.
        budget: seconds that the checks before the first step may take; by default a tenth of the training,
            but no more than 30 s and no less than 10. `float("inf")` sets no limit.
        on_nonfinite: what is done where a number is no longer finite, `stop`, `skip` or `rollback`, as
            `OnNonFinite` has it; None only says so.

    Raises:
        UserError: if there is no such preset or action, or the budget is not above 0.
    """
    acting = [] if on_nonfinite is None else [OnNonFinite(on_nonfinite)]
    return [SanityChecks(on_fail="warn", budget=budget), *monitors(preset), Recorder(), Diagnosis(), *acting]


class Diagnostics(Callback):
    """All of `diagnostics` as one callback, for configurations that name a class for each, such as a YAML of
    LightningCLI or of Hydra: `_target_: vitals.Diagnostics`. They stand where it stands.

    Args:
        preset, budget, on_nonfinite: see `diagnostics`.
    """

    def __init__(
        self, preset: str = "default", budget: float | None = None, on_nonfinite: Action | None = None
    ) -> None:
        self.callbacks = diagnostics(preset, budget, on_nonfinite)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        present: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if self.callbacks[0] not in present:
            # Lightning is walking through this list: they are set up in their turn.
            place = present.index(self) + 1
            present[place:place] = self.callbacks


def monitors(preset: str) -> list[L.Callback]:
    """The monitors of `preset`, without what belongs to a run: checkpoints, progress, and the table
    `metrics.csv`, a name that CSVLogger uses, too; `UserError` if there is no such preset."""
    files = (file.stem for file in FOLDER.glob("*.yaml"))
    presets = sorted(name for name in files if "learning_curves" in _read(name))  # others bring one callback
    if preset not in presets:
        raise UserError(f"there is no preset '{preset}': {did_you_mean(preset, presets)}")
    found = []
    for options in _read(preset).values():
        module, _, name = options.pop("_target_").rpartition(".")
        if module.startswith("vitals.monitors."):
            options |= {"table": False} if "table" in options else {}
            found.append(getattr(import_module(module), name)(**options))
    return found


def _read(preset: str) -> dict[str, dict[str, Any]]:
    """The entries of a file, on top of those of the files that it begins with, as Hydra composes them."""
    content = yaml.safe_load((FOLDER / f"{preset}.yaml").read_text(encoding="utf-8"))
    entries: dict[str, dict[str, Any]] = {}
    for other in content.pop("defaults", []):
        entries |= _read(other)
    for key, options in content.items():
        entries[key] = entries.get(key, {}) | options
    return entries
