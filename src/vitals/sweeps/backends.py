"""Where the jobs of a sweep run: this machine, Ray or Slurm, as `launcher=` says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from omegaconf import DictConfig

from vitals.sweeps.devices import Devices
from vitals.sweeps.fork_server import starter_for
from vitals.sweeps.processes import Starter


@dataclass
class Backend:
    """Devices to share out, and what starts jobs on them."""

    devices: Devices
    starter: Callable[[], AbstractContextManager[Starter]]


def backend(config: DictConfig, script: str) -> Backend:
    """What `launcher=` asks for.

    Raises:
        UserError: if the package, the cluster or the devices for it are missing.
    """
    return _local(config)


def _local(config: DictConfig) -> Backend:
    settings = config.launcher
    wanted = settings.devices if isinstance(settings.devices, str) else list(settings.devices)
    if wanted == "auto" and config.trainer.accelerator == "cpu":
        wanted = "cpu"
    devices = Devices.found(wanted, settings.jobs_per_device)

    @contextmanager
    def starter() -> Iterator[Starter]:
        made = starter_for(devices.are_gpus, settings.fork_server)
        try:
            yield made
        finally:
            made.close()

    return Backend(devices, starter)
