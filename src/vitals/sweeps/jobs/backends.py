"""Where the jobs of a sweep run: this machine, Ray or Slurm, as `launcher=` says."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name

from omegaconf import DictConfig

from vitals.errors import UserError
from vitals.runs.prerequisites import require_package
from vitals.sweeps.jobs.devices import Devices
from vitals.sweeps.jobs.processes import Starter, starter_for


@dataclass
class Backend:
    """Devices to share out, and what starts jobs on them."""

    devices: Devices
    starter: Callable[[], AbstractContextManager[Starter]]


def backend(config: DictConfig, script: str) -> Backend:
    """What `launcher=` asks for: its `_target_` makes it of the configuration of the sweep and its script;
    `UserError` if there is no such thing, or the package, the cluster or the devices for it are missing."""
    target = config.launcher._target_
    try:
        made: Backend = resolve_name(target)(config, script)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"launcher: {target} cannot be used: {error}") from error
    return made


def ray(config: DictConfig, script: str) -> Backend:
    """Ray: an instance of our own, or a cluster."""
    from vitals.sweeps.jobs import ray_backend

    require_package("launcher=ray", "ray")
    devices = ray_backend.connect(config.launcher)
    return Backend(devices, lambda: ray_backend.ray_starter(config.launcher, devices))


def slurm(config: DictConfig, script: str) -> Backend:
    """Slurm: a submission a job."""
    from vitals.sweeps.jobs import slurm_backend

    require_package("launcher=slurm", "submitit")
    settings, folder = config.launcher, Path(config.hydra.sweep.dir).absolute() / ".slurm"
    devices = slurm_backend.connect(settings)
    return Backend(devices, lambda: nullcontext(slurm_backend.SlurmStarter(settings, folder)))


def not_of_hydra(choice: str) -> UserError:
    """What is said where a launcher or a sweeper of Hydra's own is chosen."""
    return UserError(
        f"{choice}: Hydra's own launchers and sweepers are not used here: leave it out; launcher=local, "
        f"launcher=ray or launcher=slurm says where the jobs run, search=random how to search."
    )


def local(config: DictConfig, script: str) -> Backend:
    """A queue on this machine."""
    settings = config.launcher
    wanted = settings.devices if isinstance(settings.devices, str) else list(settings.devices)
    if wanted == "auto" and config.trainer.accelerator == "cpu":
        wanted = "cpu"
    devices = Devices.found(wanted, settings.jobs_per_device)
    return Backend(devices, lambda: nullcontext(starter_for(devices.are_gpus, settings.fork_server)))
