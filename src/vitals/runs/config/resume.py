"""The configuration of a run that is continued, and which run `resume=auto` means.

`resume=auto` is the run that the same command has begun before, known by its configuration. Two commands are
the same where they compose the same values, however they are spelled; what says only how jobs are run does
not count. Every run has the fingerprint of its values in the provenance of its `config.yaml`. Where the
command names its folder itself, that one is meant, and no other is looked at.
"""

import hashlib
import json
import shlex
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from vitals.bounded_yaml import flat
from vitals.errors import UserError, listed, one_line
from vitals.runs.run_folder import RunFolder, shown

OF_SWEEPS = ("launcher", "search", "resume_sweep", "zip", "repeats")
"""Keys that say how to run several jobs, and nothing of what one run does."""
PATIENCE = 2.0
"""Seconds that an earlier process has to end, as the one before it in a queue."""


def resumed_config(folder: RunFolder, arguments: Sequence[str], groups: Sequence[str]) -> DictConfig:
    """The saved configuration of `folder`, with the values that the checked words of a command line give
    anew; `UserError` if one chooses another component of `groups` than the run was started with, or sets a
    key that its configuration does not have."""
    config = folder.read_config()
    config.trust = []  # of whoever goes on with it, not of the folder
    choices = folder.read_provenance().get("choices")  # the name that was chosen from each group
    chosen = choices if isinstance(choices, dict) else {}
    OmegaConf.set_struct(config, True)
    for override in OverridesParser.create().parse_overrides(list(arguments)):
        key = override.key_or_group
        if key.startswith("hydra"):
            continue
        if key in groups:
            if key not in ("debug", "experiment") and str(override.value()) != str(chosen.get(key)):
                raise UserError(
                    f"{key}={override.value()} cannot continue a run that was started with "
                    f"{key}={chosen.get(key)}: leave {key} out, or start a new run."
                )
            continue
        new = override.is_add() or key.startswith("trainer.")  # a saved one need not have every argument
        try:
            OmegaConf.update(config, key, override.value(), merge=True, force_add=new)
        except Exception as error:
            raise UserError(f"{key} cannot be set in a resumed run: {one_line(error)}") from None
    config.resume = str(folder.path)
    return config


def fingerprint(config: DictConfig) -> str:
    """The same for all configurations that train the same."""
    text = json.dumps(_values(config), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def same_run(
    config: DictConfig, folder: RunFolder, named: bool, patience: float | None = PATIENCE
) -> RunFolder | None:
    """The folder of the run of the same configuration; None where there is none, and it is to be begun.

    `config` is what the command line composes, the seed not yet drawn; `folder` what Hydra would give to a
    new run, and `named` says whether the command line itself names it. For `patience` seconds another process
    that trains the run may end; None does not ask for one. `UserError` if there still is one, or the named
    folder holds a run of another configuration.
    """
    mine = fingerprint(config)
    named = named or folder.config.exists()
    above = folder.path.parent
    names = sorted((path.name for path in above.iterdir()), reverse=True) if above.is_dir() else []
    found = [RunFolder(above / name) for name in names if not name.startswith("old")]
    for run in [folder] if named else found:
        recorded = run.find(r"^  fingerprint: '?(\w+)'?$")
        if recorded is None or not (named or recorded == mine):
            continue
        if patience is not None:
            run.require_free(patience)
        if recorded in (mine, ""):
            return run
        if run.sweep is None:
            raise _other(config, run)
        if not run.begins_again:  # a job of a sweep goes on with the values that it began with
            return run
        run.clear_records()
        run.config.unlink()
    return None


def _values(config: DictConfig) -> dict[str, Any]:
    values: Any = OmegaConf.to_container(config, resolve=True)
    left_out = ("resume", "overwrite", "trust", "provenance", *OF_SWEEPS)
    return {str(key): value for key, value in values.items() if key not in left_out}


def _other(config: DictConfig, folder: RunFolder) -> UserError:
    """What is said where the run in the named folder had other values."""
    there, here = flat(_values(folder.read_config())), flat(_values(config))
    keys = [key for key, value in sorted(here.items()) if value is not None and there.get(key) != value]
    return UserError(
        f"hydra.run.dir={shown(folder.path)} holds a run of another configuration ({listed(keys)}): "
        f"resume={shlex.quote(shown(folder.path))} goes on with it, overwrite=true moves it aside and begins "
        f"anew."
    )
