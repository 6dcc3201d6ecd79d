"""What stands around the road of a run: its folder, its status, where it came from, and how it ends."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import lightning as L
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from vitals.errors import ChecksFailed, FaultsFound, UserError, one_line
from vitals.findings import read_findings, sentence
from vitals.report import write_report
from vitals.runs import terminal
from vitals.runs.instantiate import (
    build_average,
    build_callbacks,
    build_checks,
    build_diagnosis,
    build_trainer,
    plain,
    quiet_lightning,
)
from vitals.runs.prerequisites import require_prerequisites
from vitals.runs.project import Project
from vitals.runs.provenance import provenance
from vitals.runs.resume import require_unfinished
from vitals.runs.run_folder import RunFolder, now

FLAGS_OF_A_TRIAL = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}

Road = Callable[[DictConfig, RunFolder], dict[str, float]]
"""Trains and tests as configured in a folder, and returns the final metrics."""


def prepare(config: DictConfig, project: Project) -> None:
    """Build every component once on trial, and look at what is to be resumed, before anything is written.

    Raises:
        UserError: if something that the run needs is missing, a component refuses its configuration, or there
            is nothing left to resume.
    """
    require_prerequisites(config)
    quiet_lightning()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run itself says it
        project.prepare(config)
        build_trainer(config, **FLAGS_OF_A_TRIAL)
        build_callbacks(config)
        build_average(config)
        build_checks(config)
        build_diagnosis(config)
    if config.resume:
        require_unfinished(config)


def run(config: DictConfig, folder: RunFolder, road: Road) -> dict[str, float]:
    """Walk the whole `road` in `folder`, and return the final metrics.

    Whatever ends the run early is recorded in the folder's `status.json`.

    Raises:
        UserError: for what turns out wrong with the images or a checkpoint.
        ChecksFailed: with code 3, if the checks before learning stop the run.
        FaultsFound: with code 4, if the run ended with a finding at level `fail` and the configuration asks
            for that code.
        SystemExit: after an interruption, with code 130 (Ctrl-C) or 143 (SIGTERM).
    """
    quiet_lightning()
    # Further processes take the configuration as the first has recorded it, the drawn seed included.
    config = _record_start(config, folder) if _is_first_process() else folder.read_config()
    L.seed_everything(config.seed, workers=True, verbose=False)
    try:
        atexit.register(_leave_process_group)
        metrics = road(config, folder)
    except ChecksFailed as stop:
        if _is_first_process():
            folder.write_status("failed", ended=now(), error=stop.reason)
            _report(config, folder)
        raise
    except (KeyboardInterrupt, SystemExit, SIGTERMException) as error:  # Lightning exits on Ctrl-C
        if _is_first_process():
            folder.write_status("interrupted", ended=now(), error=None)
            _report(config, folder)
            terminal.print_interruption(folder)
        sys.exit(128 + 15 if isinstance(error, SIGTERMException) else 128 + 2)
    except BaseException as error:
        logging.getLogger(__name__).info("the run failed", exc_info=error)
        if _is_first_process():
            folder.write_status("failed", ended=now(), error=f"{type(error).__name__}: {error}")
            _report(config, folder)
        if _said_by_trainer(error):
            raise UserError(f"trainer: {one_line(error)}") from error
        raise
    if _is_first_process():
        folder.write_status("finished", ended=now(), error=None, metrics=metrics)
        _report(config, folder)
        gravest = next((f for f in read_findings(folder.findings) if f.level == "fail"), None)
        if config.diagnosis.exit_code and gravest is not None:
            raise FaultsFound(sentence(gravest))
    return metrics


def _said_by_trainer(error: BaseException) -> bool:
    """Whether Lightning's trainer refuses a value of its own, as it may do when it knows the data."""
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    places = ("lightning.pytorch.trainer.", "lightning.pytorch.loops.fit_loop")
    return isinstance(error, ValueError | MisconfigurationException) and frames[-1].startswith(places)


def _leave_process_group() -> None:
    """Lightning does this for NCCL alone; Gloo's threads may abort the process at its very end without it."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _report(config: DictConfig, folder: RunFolder) -> None:
    """Write `report.html`, where it is wanted, and say where it is."""
    if config.diagnosis.report and (page := write_report(folder.path)):
        terminal.print_report(page)


def _record_start(config: DictConfig, folder: RunFolder) -> DictConfig:
    """Write `config.yaml` and `status.json`, and return the configuration with its seed."""
    folder.path.mkdir(parents=True, exist_ok=True)
    OmegaConf.resolve(config)
    earlier: Any = OmegaConf.load(folder.config) if config.resume else {}
    facts = provenance()
    if HydraConfig.initialized():
        choices = {
            key: value for key, value in HydraConfig.get().runtime.choices.items() if "hydra" not in key
        }
        facts["choices"] = choices
        config.name = config.name or choices.get("data")
    if earlier:
        facts = {**earlier.provenance, "resumed": [*earlier.provenance.get("resumed", []), facts]}
    if config.seed is None:
        config.seed = secrets.randbelow(2**32)
    OmegaConf.save({**plain(config), "provenance": facts}, folder.config)
    folder.write_status("running", started=now(), ended=None, error=None, weights=None)
    return config


def _is_first_process() -> bool:
    rank: int = getattr(rank_zero_only, "rank", 0)
    return rank == 0 and int(os.environ.get("LOCAL_RANK", 0)) == 0
