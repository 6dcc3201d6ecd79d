"""Jobs on Slurm, one submission each, through submitit.

Each of a job's tasks runs the same plain command; Lightning finds its ranks in Slurm's environment. Whether a
job has ended is asked of `squeue`, which needs no accounting data base: with `sacct` alone a killed job is
waited for for ever where there is none.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from vitals.errors import UserError
from vitals.runs.run_folder import RunFolder
from vitals.sweeps.jobs.devices import Devices
from vitals.sweeps.jobs.job import Job
from vitals.sweeps.jobs.processes import KILL, Process

ASK_EVERY = 5.0
"""Seconds between two questions to Slurm."""
SAVES_IN = 60.0
"""Seconds that a job has to save its state before it is submitted again."""
GONE_FOR = 15.0
"""Seconds after which a job that is not in the queue, and has left no result, is lost."""


class SlurmDevices(Devices):
    """How many jobs may be submitted at a time; Slurm gives each its devices."""

    def __str__(self) -> str:
        return "Slurm"

    def at_once(self, count: int) -> int:
        return super().at_once(1)

    def take(self, count: int) -> list[str] | None:
        return super().take(1)

    def require(self, count: int) -> None:
        pass

    def environment(self, taken: list[str]) -> dict[str, str]:  # type: ignore[override]
        return {}


class SlurmTask:
    """What every task of a job runs; submitit calls it again after a preemption or a time-out."""

    def __init__(self, job: Job, cwd: str) -> None:
        self.job, self.log, self.cwd = job, job.log.absolute(), cwd
        self.process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        rank = int(os.environ.get("SLURM_PROCID", 0))
        log = self.log if rank == 0 else self.log.with_stem(f"output_{rank}")
        os.chdir(self.cwd)
        while rank and not RunFolder(self.job.folder).config.exists():  # rank 0 records the configuration
            time.sleep(0.5)
        with log.open("ab") as file:
            environment = {**os.environ, **self.job.environment}
            command = [sys.executable, *self.job.command[1:]]  # with the Python that runs here
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment)
        while (code := self.process.poll()) is None:  # not `wait`, which `checkpoint` could not interrupt
            time.sleep(0.2)
        return code

    def checkpoint(self, *arguments: Any) -> Any:
        """Wait until the job has saved its state, and submit the same again, which goes on from there."""
        from submitit.helpers import DelayedSubmission

        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGUSR1)  # Slurm may have sent it only to this process
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(SAVES_IN)
        return DelayedSubmission(SlurmTask(self.job, self.cwd))


class SlurmProcess:
    """A job in Slurm's queue or on its nodes."""

    def __init__(self, starter: SlurmStarter, job: Any) -> None:
        self.starter, self.job = starter, job
        self.last_seen = time.monotonic()

    def poll(self) -> int | None:
        if self.job.job_id in self.starter.queued():
            self.last_seen = time.monotonic()
            return None
        if all(path.exists() for path in self._results()):
            codes = [task.result() for task in (self.job.task(rank) for rank in range(self.job.num_tasks))]
            return next((code for code in codes if code), 0)
        return -KILL if time.monotonic() - self.last_seen > GONE_FOR else None

    def stop(self, number: int) -> None:
        named = [] if number == KILL else [f"--signal={signal.Signals(number).name[3:]}", "--full"]
        subprocess.run(["scancel", *named, self.job.job_id], capture_output=True)
        if named:  # one that waits in the queue gets no signal
            subprocess.run(["scancel", "--state=PENDING", self.job.job_id], capture_output=True)

    def _results(self) -> list[Path]:
        return [self.job.task(rank).paths.result_pickle for rank in range(self.job.num_tasks)]


class SlurmStarter:
    """Submits jobs with the settings of `vitals/configs/launcher/slurm.yaml`; submitit's own files are in
    `folder`."""

    def __init__(self, settings: DictConfig, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.asked, self.known = 0.0, set[str]()

    def start(self, job: Job, environment: Mapping[str, str]) -> Process:
        import submitit

        settings, devices = self.settings, job.devices_needed
        executor = submitit.SlurmExecutor(folder=self.folder, max_num_timeout=settings.requeues)
        options: dict[str, Any] = {
            "job_name": f"vitals_{job.number}",
            "time": settings.minutes,
            "nodes": 1,
            "ntasks_per_node": devices,
            "cpus_per_task": settings.cpus_per_device,
            "mem": f"{settings.memory_gb}GB",
            "setup": list(settings.setup),
        }
        if settings.partition is not None:
            options["partition"] = settings.partition
        if settings.gpus_per_device:
            options["gpus_per_node"] = devices * settings.gpus_per_device
        executor.update_parameters(**options)
        task = SlurmTask(job, os.getcwd())
        submitted = executor.submit(task)
        job.record(slurm=submitted.job_id)
        self.known.add(submitted.job_id)
        return SlurmProcess(self, submitted)

    def queued(self) -> set[str]:
        """Identifiers of our jobs that wait or run, asked for every few seconds."""
        if time.monotonic() - self.asked > ASK_EVERY:
            said = subprocess.run(["squeue", "--me", "-h", "-o", "%i"], capture_output=True, text=True)
            if said.returncode == 0:
                self.known = set(said.stdout.split())
                self.asked = time.monotonic()
        return self.known


def connect(settings: DictConfig) -> Devices:
    """Make sure that Slurm's commands are here; `UserError` if they are not."""
    if shutil.which("sbatch") is None:
        raise UserError("launcher=slurm needs Slurm's commands, and there is no sbatch on this machine.")
    names = [f"slurm{number}" for number in range(settings.parallel)]
    return SlurmDevices(names, 1, cores=settings.cpus_per_device * len(names))
