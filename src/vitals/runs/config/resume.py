"""The configuration of a run that is continued: its own, changed by what the command line says."""

from __future__ import annotations

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from vitals.errors import UserError, one_line
from vitals.runs.run_folder import RunFolder


def resumed_config(folder: RunFolder, arguments: Sequence[str], groups: Sequence[str]) -> DictConfig:
    """The saved configuration of `folder`, with the values that `arguments` give anew.

    Args:
        folder: the run to continue.
        arguments: checked `key=value` words of the command line.
        groups: names of the config groups.

    Raises:
        UserError: if a word chooses another component than the run was started with, or sets a key that
            its configuration does not have.
    """
    config = folder.read_config()
    config.trust = []  # of whoever goes on with it, not of the folder
    chosen = folder.read_choices()
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
        try:
            new = override.is_add() or key.startswith(
                "trainer."
            )  # of which a saved one need not have every argument
            OmegaConf.update(config, key, override.value(), merge=True, force_add=new)
        except Exception as error:
            raise UserError(f"{key} cannot be set in a resumed run: {one_line(error)}") from None
    config.resume = str(folder.path)
    return config
