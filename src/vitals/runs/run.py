"""The road of a run: config → data → network → fit → evaluate. The only file that knows the whole."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from project.optim.optimizers import Schedule, optimizer_factory
from vitals.checks.page import print_findings, sentence
from vitals.errors import ChecksFailed, FaultsFound, UserError
from vitals.findings import read_findings
from vitals.runs import terminal as results
from vitals.runs.callbacks.run_status import RunStatus
from vitals.runs.callbacks.stop_hopeless import StopHopeless
from vitals.runs.callbacks.tensorboard import RunTensorBoard
from vitals.runs.instantiate import (
    build,
    build_average,
    build_callbacks,
    build_checks,
    build_classifier,
    build_data,
    build_diagnosis,
    build_loggers,
    build_network,
    build_trainer,
    load_checkpoint,
    plain,
    quiet_lightning,
    require_same_network,
)
from vitals.runs.provenance import provenance
from vitals.runs.run_folder import RunFolder, now

FLAGS_OF_A_TRIAL = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}


def prepare(config: DictConfig) -> None:
    """Build every component once on trial, and look at what is to be resumed, before anything is written.

    Raises:
        UserError: if a component refuses its configuration, or there is nothing left to resume.
    """
    quiet_lightning()
    build("optimizer", optimizer_factory, plain(config.optimizer))
    build("schedule", Schedule.from_config, plain(config.schedule))
    build_trainer(config, **FLAGS_OF_A_TRIAL)
    build_callbacks(config)
    build_average(config)
    build_checks(config)
    if config.data.name != "image_folder" or config.data.image_size:
        size = config.data.image_size or 32
        with torch.device("meta"):
            build_network(config, num_classes=10, image_shape=(3, size, size))
    if config.resume:
        _require_unfinished(config)


def train(config: DictConfig) -> None:
    """Train as configured, in the run folder that Hydra has made."""
    run(config, RunFolder(HydraConfig.get().runtime.output_dir))


def run(config: DictConfig, folder: RunFolder) -> dict[str, float]:
    """Walk the whole road in `folder`, and return the final metrics.

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
        metrics = _fit_and_test(config, folder)
    except ChecksFailed as stop:
        if _is_first_process():
            folder.write_status("failed", ended=now(), error=stop.reason)
            _report(config, folder)
        raise
    except (KeyboardInterrupt, SystemExit, SIGTERMException) as error:  # Lightning exits on Ctrl-C
        if _is_first_process():
            folder.write_status("interrupted", ended=now(), error=None)
            _report(config, folder)
            results.print_interruption(folder)
        sys.exit(128 + 15 if isinstance(error, SIGTERMException) else 128 + 2)
    except BaseException as error:
        logging.getLogger(__name__).info("the run failed", exc_info=error)
        if _is_first_process():
            folder.write_status("failed", ended=now(), error=f"{type(error).__name__}: {error}")
            _report(config, folder)
        raise
    if _is_first_process():
        folder.write_status("finished", ended=now(), error=None, metrics=metrics)
        _report(config, folder)
        gravest = next((f for f in read_findings(folder.findings) if f.level == "fail"), None)
        if config.diagnosis.exit_code and gravest is not None:
            raise FaultsFound(sentence(gravest))
    return metrics


def _fit_and_test(config: DictConfig, folder: RunFolder) -> dict[str, float]:
    data = build_data(config)
    classifier = build_classifier(config, data)
    loggers = build_loggers(config, folder.path)
    averages, diagnosis = build_average(config), build_diagnosis(config)
    trainer = build_trainer(
        config,
        logger=loggers,
        # The average first: LearningCurves writes its figures with those of the epoch.
        callbacks=[
            *averages,
            *build_callbacks(config),
            *build_checks(config),
            diagnosis,
            *([StopHopeless(folder)] if config.stop_hopeless else []),
            RunStatus(folder),
        ],
        default_root_dir=str(folder.path),
    )
    checkpoint = None
    if config.resume:
        checkpoint = folder.checkpoint("last")
        _require_same_run(classifier, checkpoint, loggers)
    if trainer.is_global_zero:
        results.print_start(config, classifier, data, folder)
    if trainer.world_size > 1:
        atexit.register(_leave_process_group)
    trainer.fit(classifier, datamodule=data, ckpt_path=checkpoint, weights_only=True)

    best = getattr(trainer.checkpoint_callback, "best_model_path", "")
    averaged = any(average.averaged_is_better for average in averages)
    if averaged:
        best = averages[0].path
    if best:
        classifier.load_state_dict(load_checkpoint(Path(best))["state_dict"])
    trainer.test(classifier, datamodule=data, verbose=False)
    test = {name: value.item() for name, value in trainer.callback_metrics.items()}
    metrics = results.final_metrics(folder, test, averaged)
    for logger in loggers:
        if isinstance(logger, RunTensorBoard):
            logger.log_results(plain(config), metrics)
        else:
            logger.log_hyperparams(plain(config))
            logger.log_metrics(metrics, trainer.global_step)
    if trainer.is_global_zero:
        results.print_results(folder, metrics, [average.verdict() for average in averages])
        print_findings(diagnosis.findings)
        if diagnosis.stopped_by is not None:
            folder.write_status("running", stopped_by=sentence(diagnosis.stopped_by))
    return metrics


def _leave_process_group() -> None:
    """Lightning does this for NCCL alone; Gloo's threads may abort the process at its very end without it."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _report(config: DictConfig, folder: RunFolder) -> None:
    """Write `report.html`; a page that cannot be drawn takes nothing from the run."""
    if not config.diagnosis.report:
        return
    from vitals.report.page import make_report  # takes a second, which the start of a run can do without

    try:
        results.print_report(make_report(folder.path))
    except Exception as error:
        logging.getLogger(__name__).warning("the report could not be made", exc_info=error)


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
    if earlier:
        facts = {**earlier.provenance, "resumed": [*earlier.provenance.get("resumed", []), facts]}
    if config.seed is None:
        config.seed = secrets.randbelow(2**32)
    OmegaConf.save({**plain(config), "provenance": facts}, folder.config)
    folder.write_status("running", started=now(), ended=None, error=None)
    return config


def _require_unfinished(config: DictConfig) -> None:
    """Make sure that the run to resume has epochs left."""
    checkpoint = load_checkpoint(RunFolder(config.resume).checkpoint("last"))
    trained = checkpoint["epoch"] + 1
    if trained >= config.trainer.max_epochs:
        raise UserError(
            f"resume={config.resume} has been trained for all of its {trained} epochs: set "
            f"trainer.max_epochs to more, for example trainer.max_epochs={2 * trained}."
        )


def _require_same_run(classifier: L.LightningModule, checkpoint_path: Path, loggers: list[Any]) -> None:
    checkpoint = load_checkpoint(checkpoint_path)
    require_same_network(classifier, checkpoint, checkpoint_path)
    for logger in loggers:
        if isinstance(logger, RunTensorBoard):
            logger.drop_from(checkpoint["global_step"] + 1)


def _is_first_process() -> bool:
    rank: int = getattr(rank_zero_only, "rank", 0)
    return rank == 0 and int(os.environ.get("LOCAL_RANK", 0)) == 0
