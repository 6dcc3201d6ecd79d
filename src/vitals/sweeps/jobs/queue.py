"""The queue of a sweep's jobs: each starts as soon as its devices are free."""

import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from vitals.files import CannotWrite
from vitals.runs.run_folder import now
from vitals.runs.signals import Interrupted, Signals
from vitals.sweeps.jobs.devices import Devices
from vitals.sweeps.jobs.job import Job, settle
from vitals.sweeps.jobs.live_table import LiveTable
from vitals.sweeps.jobs.processes import KILL, Process, Starter


@dataclass
class _Running:
    job: Job
    process: Process
    devices: list[str]
    deadline: float
    reason: str | None = None


@dataclass
class JobQueue:
    """Runs jobs on `devices`, one process a job, which `starter` makes; `view` is told of every start and
    end. A job may take `time_limit` seconds, or any number of them, and has `patience` seconds to write its
    status when it is interrupted, before it is killed."""

    devices: Devices
    starter: Starter
    view: LiveTable
    time_limit: float | None = None
    patience: float = 60.0
    running: list[_Running] = field(default_factory=list, init=False)

    def run(self, jobs: Iterable[Job], ended: Callable[[Job, str], None] = lambda job, status: None) -> None:
        """Run all `jobs`, which are taken one by one as devices become free, so that a search can choose the
        next by what the earlier ones gave; `ended` is called with each and its status. `Interrupted`
        after Ctrl-C or SIGTERM, when all have been ended, and their statuses are written."""
        with Signals() as signals:

            def interrupt(number: int) -> None:
                if not signals.deferring:
                    raise Interrupted(number)

            signals.again = interrupt
            try:
                self._run(jobs, ended, signals)
            except BaseException:
                self._stop_all(ended)
                raise

    def _run(self, jobs: Iterable[Job], ended: Callable[[Job, str], None], signals: Signals) -> None:
        waiting, coming = None, iter(jobs)
        while True:
            self._collect(ended)
            free = any(count < self.devices.jobs_per_device for count in self.devices.jobs.values())
            if waiting is None and free:
                waiting = next(coming, None)
                if waiting is None and not self.running:
                    return
            if waiting is not None and (taken := self.devices.take(waiting.devices_needed)) is not None:
                with signals.deferred():  # or a process would be left that nobody knows
                    self._start(waiting, taken)
                waiting = None
                continue
            self.view.refresh()
            time.sleep(0.05)

    def _start(self, job: Job, taken: list[str]) -> None:
        job.record(started=now(), ended=None, exit_code=None, devices=taken)
        process = self.starter.start(job, {**self.devices.environment(taken), **job.environment})
        limit = float("inf") if self.time_limit is None else time.monotonic() + self.time_limit
        self.running.append(_Running(job, process, taken, limit))
        self.view.started(job, taken)

    def _collect(self, ended: Callable[[Job, str], None]) -> None:
        for entry in list(self.running):
            code = entry.process.poll()
            if code is None:
                if entry.reason is None and time.monotonic() > entry.deadline:
                    entry.reason = f"stopped after its time limit of {(self.time_limit or 0) / 60:g} minutes"
                    entry.deadline = time.monotonic() + self.patience
                    entry.process.stop(signal.SIGTERM)
                elif time.monotonic() > entry.deadline:
                    entry.process.stop(KILL)
                continue
            self.running.remove(entry)
            self.devices.give_back(entry.devices)
            status = settle(entry.job, code, entry.reason)
            self.view.ended(entry.job, status)
            ended(entry.job, status)

    def _stop_all(self, ended: Callable[[Job, str], None]) -> None:
        """Ask every job to stop and wait; a second Ctrl-C, or the end of our patience, kills them."""
        for entry in self.running:
            entry.reason = entry.reason or "interrupted"
            entry.deadline = time.monotonic() + self.patience
            entry.process.stop(signal.SIGINT)
        while self.running:
            try:
                self._collect(ended)
                time.sleep(0.05)
            except CannotWrite:  # how the job ended; the sweep ends as it is
                continue
            except Interrupted:
                for entry in self.running:
                    entry.process.stop(KILL)
