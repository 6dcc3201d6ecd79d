"""What stands around the road of a run: its folder, its status, where it came from, and how it ends."""

import atexit
import logging
import os
import secrets
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from vitals.errors import ChecksFailed, Diverged, FaultsFound, UserError, one_line
from vitals.files import CannotWrite, cannot_write, clear_leftovers, read_json, write_atomically
from vitals.findings import read_findings, sentence
from vitals.folder_lock import held
from vitals.report import write_report
from vitals.runs import instantiate, terminal
from vitals.runs.allowed_targets import require_allowed
from vitals.runs.config.resume import fingerprint
from vitals.runs.prerequisites import require_prerequisites
from vitals.runs.project import Project
from vitals.runs.provenance import provenance
from vitals.runs.resume import require_unfinished
from vitals.runs.run_folder import RunFolder, now, shown
from vitals.runs.signals import Interrupted, Signals, in_slurm, requeue

RESTORING = ("checkpoint_to_resume", "on_fit_start", "on_train_start")
"""Where we take up what a checkpoint holds, some of it in hooks, when Lightning has loaded the rest."""

Road = Callable[[DictConfig, RunFolder], dict[str, float]]
"""Trains and tests as configured in a folder, and returns the final metrics."""


def prepare(config: DictConfig, project: Project, trust: Sequence[str] = ()) -> None:
    """Build every component of a run once on trial, and look at what is to be resumed, before anything is
    written. `UserError` if something that the run needs is missing, a component refuses its configuration,
    nothing is left to resume, or the run to resume names what may not be built, see `allowed_targets`."""
    if config.resume:  # what the command line says anew is its owner's own
        folder = RunFolder(config.resume)
        require_allowed(folder.read_config(), folder.config, trust)
    require_prerequisites(config)
    instantiate.quiet_lightning()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run itself says it
        project.prepare(config)
        instantiate.build_trainer(config, **instantiate.FLAGS_OF_A_TRIAL)
        instantiate.build_callbacks(config)
        instantiate.build_average(config)
        instantiate.build_checks(config)
        instantiate.build_diagnosis(config)
    if config.resume:
        try:
            require_unfinished(config)
        except UserError:
            raise
        except Exception as error:  # whatever a damaged checkpoint makes of its reader
            raise _of_checkpoint(folder, error) from error


def run(config: DictConfig, folder: RunFolder, road: Road) -> dict[str, float]:
    """Walk the whole `road` in `folder`, and return the final metrics; whatever ends the run early is
    recorded in the folder's `status.json`.

    `UserError` for what turns out wrong with the images or a checkpoint, or if another process is at work in
    the folder; `ChecksFailed` if the checks before learning stop the run, `Diverged` if a number that is not
    finite does, `FaultsFound` if the run ended with a finding at level `fail` and the configuration asks for
    that; after an interruption `SystemExit` with code 130 (Ctrl-C) or 143 (SIGTERM).
    """
    instantiate.quiet_lightning()
    atexit.register(_leave_process_group)
    with ExitStack() as stack:
        signals = Signals.current() or stack.enter_context(Signals())
        if getattr(rank_zero_only, "rank", 0) or int(os.environ.get("LOCAL_RANK", 0)):
            return _go_along(config, folder, road)
        folder.path.mkdir(parents=True, exist_ok=True)
        new = {place.name for place in folder.path.iterdir()} <= {"train.log"}
        locked = stack.enter_context(held(folder.path, read_json(folder.status)))
        if not config.resume:  # another may have begun, and ended, since the command was looked at
            folder.require_new()
        signals.last_words = lambda: folder.write_status("interrupted", ended=now(), error=None)
        stack.callback(setattr, signals, "last_words", lambda: None)
        return _walk(config, folder, road, signals, locked, new)


def _go_along(config: DictConfig, folder: RunFolder, road: Road) -> dict[str, float]:
    """As a further process: take the configuration as the first has recorded it, the drawn seed included."""
    recorded = folder.read_config()
    recorded.resume = config.resume
    set_threads(recorded)
    L.seed_everything(recorded.seed, workers=True, verbose=False)
    try:
        return road(recorded, folder)
    except (Interrupted, ChecksFailed, Diverged):
        sys.exit()  # Lightning would kill the first process if this one did not end well


def _walk(
    config: DictConfig, folder: RunFolder, road: Road, signals: Signals, locked: bool, new: bool
) -> dict[str, float]:
    """As the first or only process, which alone writes the records. A `new` folder, which nothing but this
    run has written to, is taken away where a value was refused before there was anything to tell."""
    try:
        with signals.deferred():
            config = _record_start(config, folder, locked)
        L.seed_everything(config.seed, workers=True, verbose=False)
        metrics = road(config, folder)
        end: dict[str, Any] = {"status": "finished", "ended": now(), "error": None, "metrics": metrics}
        _report(config, folder, end)
        signals.deferring = True  # nothing is left to be interrupted
        folder.write_status(**end)
    except (ChecksFailed, Diverged) as stop:
        why = {"stopped_early": f"diverged: {stop.reason}"} if isinstance(stop, Diverged) else {}
        folder.write_status("failed", ended=now(), error=stop.reason, **why)
        _report(config, folder)
        raise
    except (KeyboardInterrupt, SystemExit, SIGTERMException) as error:  # Lightning exits on Ctrl-C
        folder.write_status("interrupted", ended=now(), error=None)
        _report(config, folder)
        terminal.print_interruption(folder)
        number = getattr(error, "number", 15 if isinstance(error, SIGTERMException) else 2)
        if in_slurm() and number not in (2, 15):
            requeue()
        sys.exit(128 + number)
    except BaseException as error:
        logging.getLogger(__name__).info("the run failed", exc_info=error)
        if (problem := cannot_write(error, folder.path, folder.to_go_on)) is not None:
            with suppress(CannotWrite):
                folder.write_status("failed", ended=now(), error=str(problem))
            raise problem from error
        if new and isinstance(error, UserError) and not folder.tells_something:
            shutil.rmtree(folder.path, ignore_errors=True)
            raise
        folder.write_status("failed", ended=now(), error=f"{type(error).__name__}: {error}")
        _report(config, folder)
        if _said_by_trainer(error):
            raise UserError(f"trainer: {one_line(error)}") from error
        if config.resume and _said_of_checkpoint(error):
            raise _of_checkpoint(folder, error) from error
        raise
    gravest = next((f for f in read_findings(folder.findings) if f.level == "fail"), None)
    if config.diagnosis.exit_code and gravest is not None:
        raise FaultsFound(sentence(gravest))
    return metrics


def _said_by_trainer(error: BaseException) -> bool:
    """Whether Lightning's trainer refuses a value of its own, as it may do when it knows the data."""
    frames = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    places = ("lightning.pytorch.trainer.", "lightning.pytorch.loops.fit_loop")
    return isinstance(error, ValueError | MisconfigurationException) and frames[-1].startswith(places)


def _said_of_checkpoint(error: BaseException) -> bool:
    """Whether the checkpoint to resume holds something else than Lightning and our callbacks have saved."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module, name = frame.f_globals.get("__name__", ""), frame.f_code.co_name
        if module.endswith(".connectors.checkpoint_connector") and name.startswith(("restore", "resume")):
            return True
        if module.startswith("vitals.") and name in RESTORING:
            return not isinstance(error, UserError)
    return False


def _of_checkpoint(folder: RunFolder, error: BaseException) -> UserError:
    return UserError(f"{folder.last_checkpoint} is damaged, or of another training: {one_line(error)}")


def _leave_process_group() -> None:
    """Lightning does this for NCCL alone; Gloo's threads may abort the process at its very end without it."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


def _report(config: DictConfig, folder: RunFolder, status: dict[str, Any] | None = None) -> None:
    """Write `report.html`, where it is wanted, and say where it is."""
    if config.diagnosis.report and (page := write_report(folder.path, status)):
        terminal.print_as_it_is(f"report:   {shown(page)}")


def _record_start(config: DictConfig, folder: RunFolder, locked: bool) -> DictConfig:
    """Write `config.yaml` and `status.json`, and return the configuration with its seed."""
    clear_leftovers(folder.path)
    OmegaConf.resolve(config)
    earlier = folder.read_provenance() if config.resume else {}
    facts = provenance() | {"fingerprint": fingerprint(config)}
    if HydraConfig.initialized():
        every = HydraConfig.get().runtime.choices
        choices = facts["choices"] = {key: value for key, value in every.items() if "hydra" not in key}
        config.name = config.name or choices.get("data")
    if earlier:
        facts = {**earlier, "resumed": [*earlier.get("resumed", []), facts]}
    if config.seed is None:
        config.seed = secrets.randbelow(2**32)
    set_threads(config)
    write_atomically(folder.config, OmegaConf.to_yaml({**instantiate.plain(config), "provenance": facts}))
    before = folder.read_status()
    if config.resume and folder.begins_again:
        folder.clear_records()
    if before.get("status") == "finished":  # it goes on beyond the end that it had come to
        before["lengthened_at"] = before.get("step")
    if folder.diverged or before.get("status") == "finished":  # what had ended it is to be told anew
        before["stopped_early"] = None
    kept = {key: before.get(key) for key in ("stopped_early", "lengthened_at")}
    anew = dict.fromkeys(("ended", "error", "weights"))
    folder.write_status("running", started=now(), **anew, **kept, locked=locked)
    if not locked:
        print(f"{shown(folder.path)} is on a file system without locks: start no second process in it")
    return config


def set_threads(config: DictConfig) -> None:
    """Give torch, in each process of the run, as many threads as `config.threads` says: they share the terms
    of a sum, and another number of parts is rounded otherwise.

    Where that is null, torch's own number is written into `config`: one for each core that the process may
    use, or as many as OMP_NUM_THREADS says; several processes share the cores.
    """
    devices = config.trainer.devices
    if isinstance(devices, str) or devices == -1:  # auto
        processes = max(1, torch.cuda.device_count())
    else:
        processes = len(devices) if isinstance(devices, Sequence) else devices
    if config.get("threads") is None:
        given = "OMP_NUM_THREADS" in os.environ
        number = torch.get_num_threads() if given else max(1, torch.get_num_threads() // processes)
        OmegaConf.update(config, "threads", number, force_add=True)
    torch.set_num_threads(config.threads)
    if processes > 1:
        os.environ["OMP_NUM_THREADS"] = str(config.threads)  # or Lightning would choose another number
