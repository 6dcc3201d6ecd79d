"""Jobs on Ray: this machine's own instance, or a cluster that runs already.

Ray decides where a job goes and sets CUDA_VISIBLE_DEVICES there; the job itself is the same plain command in
a process of its own, so that Lightning's DDP works in it and a crash ends nothing else, as it does in the
worker where Hydra's launcher runs it. The nodes share a file system with the machine that runs the sweep, and
have the same Python environment.
"""

import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from vitals.errors import UserError
from vitals.sweeps.jobs.devices import Devices
from vitals.sweeps.jobs.job import Job
from vitals.sweeps.jobs.processes import KILL, Starter, end_group, new_process, signal_group

PATIENCE = {"RAY_raylet_start_wait_time_s": "150", "RAY_agent_register_timeout_ms": "140000"}
"""Ray gives up after seconds on a machine whose cores are busy."""


class RayDevices(Devices):
    """What Ray's cluster has to give out; Ray itself says in the job which GPU it is."""

    def __str__(self) -> str:
        return f"Ray with {super().__str__()}"

    def environment(self, taken: list[str]) -> dict[str, str]:  # type: ignore[override]
        return {}


class RayProcess:
    """A job that Ray runs somewhere."""

    def __init__(self, reference: Any) -> None:
        self.reference = reference

    def poll(self) -> int | None:
        import ray

        done, _ = ray.wait([self.reference], timeout=0)
        if not done:
            return None
        try:
            return int(ray.get(self.reference))
        except ray.exceptions.RayError:  # the worker or its node is gone, or the job was cancelled
            return -KILL

    def stop(self, number: int) -> None:
        import ray

        ray.cancel(self.reference, force=number == KILL)


class RayStarter:
    """Hands jobs to Ray, each with its `share` of a device, a GPU where `gpus`, and so many `cpus`."""

    def __init__(self, gpus: bool, share: float, cpus: float) -> None:
        import ray

        self.gpus, self.share, self.cpus = gpus, share, cpus
        self.remote = ray.remote(max_retries=0, max_calls=1)(run_command)

    def start(self, job: Job, environment: Mapping[str, str]) -> RayProcess:
        amount = job.devices_needed
        gpus = amount if self.share == 1 else self.share * amount
        task = self.remote.options(num_cpus=self.cpus * amount, num_gpus=gpus if self.gpus else 0)
        log = str(job.log.absolute())
        return RayProcess(task.remote(job.command[1:], log, os.getcwd(), dict(environment)))


def run_command(words: list[str], log: str, folder: str, environment: dict[str, str]) -> int:
    """Run a job's words with this node's Python, and return the exit code. Runs in Ray's worker.

    When the task is cancelled the job gets SIGINT and the time to write its status.
    """
    process = new_process([sys.executable, *words], Path(log), environment, folder)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        signal_group(process.pid, signal.SIGINT)
        code = process.wait()
    end_group(process.pid)
    return code


@contextmanager
def ray_starter(settings: DictConfig, devices: Devices) -> Iterator[Starter]:
    """Within it, jobs can be started; what we started of Ray itself ends with it."""
    import ray

    try:
        yield RayStarter(devices.are_gpus, 1 / settings.jobs_per_device, settings.cpus_per_device)
    finally:
        ray.shutdown()  # which leaves a cluster, and ends our own instance


def _no_cluster(address: str, why: str) -> UserError:
    return UserError(
        f"launcher.address={address} is no Ray cluster ({why}): start one with `ray start --head`, or take "
        f"launcher.address=local."
    )


def _require_listener(address: str) -> None:
    """Make sure that somebody listens at `host:port`; Ray would try for minutes. `UserError` if nobody
    does."""
    host, _, port = address.rpartition(":")
    if port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            raise _no_cluster(address, str(error)) from None


def connect(settings: DictConfig) -> Devices:
    """Start Ray here, or join the cluster at `launcher.address`, and count what it has; `UserError` if there
    is no cluster at the address."""
    _require_listener(settings.address)
    for variable, value in PATIENCE.items():
        os.environ.setdefault(variable, value)
    if settings.address != "local" and (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # as `ray start` does; read when Ray is loaded
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if settings.address == "local":
        options |= {"num_cpus": settings.cpus, "num_gpus": settings.gpus, "include_dashboard": False}
    try:
        ray.init(address=settings.address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        lines = str(error).strip().splitlines()
        why = next((line.strip() for line in lines if "Error: " in line), lines[0])
        raise _no_cluster(settings.address, why[:200]) from error
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    count = gpus or int(resources.get("CPU", 1) // settings.cpus_per_device)
    if not count:
        ray.shutdown()
        raise UserError(
            f"launcher.cpus_per_device={settings.cpus_per_device} is more than the "
            f"{resources.get('CPU', 0):g} CPUs that Ray has."
        )
    names, jobs = [f"ray{number}" for number in range(count)], settings.jobs_per_device
    return RayDevices(names, jobs, bool(gpus), cores=settings.cpus_per_device * count * jobs)
