"""The checks before learning alone: everything is built as for a run, and nothing is trained or written."""

import secrets
import tempfile

import lightning as L
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape
from torch import nn

from vitals.checks.layer_variance import LayerVariance
from vitals.checks.sanity_checks import SanityChecks
from vitals.errors import ChecksFailed, UserError
from vitals.findings import worst_level
from vitals.runs.instantiate import FLAGS_OF_A_TRIAL, build_checks, build_trainer, quiet_lightning
from vitals.runs.project import Project
from vitals.runs.resume import fit


def check(config: DictConfig, project: Project) -> SanityChecks:
    """Make the configured checks and print the page of verdicts; returns what they found. `UserError` if no
    check is configured, or for what turns out wrong with the images; `ChecksFailed`, exit code 3, after a
    finding at level `fail`."""
    quiet_lightning()
    OmegaConf.resolve(config)
    if config.seed is None:
        config.seed = secrets.randbelow(2**32)
    L.seed_everything(config.seed, workers=True, verbose=False)
    checks = build_checks(config, on_fail="warn")
    if not checks:
        raise UserError("checks.which is empty: take checks=full, or name the checks to make.")
    module, data = project.build(config)
    _print_summary(getattr(module, "network", module))
    with tempfile.TemporaryDirectory() as folder:
        callbacks = [*checks, _Stop()]
        trainer = build_trainer(config, **FLAGS_OF_A_TRIAL, callbacks=callbacks, default_root_dir=folder)
        fit(trainer, module, data, None)
    for row in checks[0].rows:
        if isinstance(row.result, LayerVariance):
            said = f"\nVariance of what enters each layer\n{row.result.table()}"
            Console().print(said, highlight=False, markup=False)
    if worst_level(checks[0].findings) == "fail":
        raise ChecksFailed("the checks before learning failed")
    return checks[0]


def hessian_bytes(parameters: int) -> int:
    """Memory of the Hessian of so many parameters in float32: 3725 GiB for a million of them."""
    return 4 * parameters**2


def _print_summary(network: nn.Module) -> None:
    parameters = sum(parameter.numel() for parameter in network.parameters())
    name = escape(type(network).__name__)
    Console().print(
        f"[bold]{name}[/] with {parameters:,} parameters; a Hessian of them, as Newton's "
        f"method needs it, would take {hessian_bytes(parameters) / 2**30:,.1f} GiB"
    )


class _Stop(L.Callback):
    """Ends the training before its first step."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = True
