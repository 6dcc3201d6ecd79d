"""A process that has imported torch, Lightning and us already, and forks itself for every job.

Importing them takes some seconds of CPU a job, a fork some milliseconds. Only for jobs on the CPU: a job on a
GPU gets an interpreter of its own, whose devices are set before torch is imported.

The server (`python -m vitals.sweeps.jobs.fork_server`) reads one JSON line for every job and answers with one
line when the job has started and one when it has ended. When its input ends, for whatever reason, so do its
jobs.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from vitals.sweeps.jobs.job import Job
from vitals.sweeps.jobs.processes import (
    NewInterpreters,
    OwnProcess,
    Process,
    end_group,
    end_with_parent,
    signal_group,
)

PRELOADED = (
    "vitals.runs.run",
    "vitals.command_line",
    "vitals.runs.config.validation",
    "hydra.core.plugins",
    "sklearn.datasets",
    "torch.utils.tensorboard",
)


class ForkServer:
    """Starts jobs by forking a server that has everything imported.

    Args:
        preloaded: modules that the server imports first; those that fail to are left out.
    """

    def __init__(self, preloaded: tuple[str, ...] = PRELOADED) -> None:
        self.server = subprocess.Popen(
            [sys.executable, "-m", __name__, *preloaded],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self.server.stdout is not None
        self.answers = selectors.DefaultSelector()
        self.answers.register(self.server.stdout, selectors.EVENT_READ)
        os.set_blocking(self.server.stdout.fileno(), False)
        self.processes: dict[int, ForkedProcess] = {}
        self.rest = ""

    def start(self, job: Job, environment: Mapping[str, str]) -> Process:
        if job.command[0] != sys.executable or self.server.poll() is not None:
            return OwnProcess(job, environment)
        process = ForkedProcess(self, job)
        self.processes[job.number] = process
        order = {
            "number": job.number,
            "words": job.command[1:],
            "environment": dict(environment),
            "folder": os.getcwd(),
            "log": str(job.log.absolute()),
        }
        assert self.server.stdin is not None
        self.server.stdin.write(json.dumps(order) + "\n")
        self.server.stdin.flush()
        return process

    def listen(self) -> None:
        """Take in what the server has said about its jobs."""
        while self.answers.select(timeout=0):
            said = self.server.stdout.read() if self.server.stdout else ""
            if not said:
                break
            *lines, self.rest = (self.rest + said).split("\n")
            for line in map(json.loads, lines):
                process = self.processes[line["number"]]
                process.group = line.get("process", process.group)
                process.code = line.get("code", process.code)
        if self.server.poll() is not None:
            for process in self.processes.values():
                process.code = -signal.SIGKILL if process.code is None else process.code

    def close(self) -> None:
        if self.server.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.server.stdin.close()
        self.server.wait()
        self.answers.close()
        if self.server.stdout is not None:
            self.server.stdout.close()


class ForkedProcess:
    """A job that the server runs in a fork of itself."""

    def __init__(self, server: ForkServer, job: Job) -> None:
        self.server, self.job = server, job
        self.group: int | None = None
        self.code: int | None = None
        self.waiting_signal: int | None = None

    def poll(self) -> int | None:
        self.server.listen()
        if self.waiting_signal is not None and self.group is not None:
            signal_group(self.group, self.waiting_signal)
            self.waiting_signal = None
        if self.code is not None and self.group is not None:
            end_group(self.group, patience=5.0 if self.code == 0 else 0.0)
        return self.code

    def stop(self, number: int) -> None:
        self.waiting_signal = number  # until the server has told us the process


def starter_for(gpus: bool, fork: bool) -> ForkServer | NewInterpreters:
    """What starts jobs fastest while they see exactly their devices.

    Args:
        gpus: whether the jobs are given GPUs.
        fork: whether a fork server may be used.
    """
    return ForkServer() if fork and not gpus and hasattr(os, "fork") else NewInterpreters()


class _Forked(Exception):
    """Raised in the new process, to get out of the server's loop."""


def _serve() -> None:
    """Fork for every line of the input until it ends."""
    for name in sys.argv[1:]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # a collection in a fork would touch, and so copy, every page that it shares with us
    jobs: dict[int, int] = {}
    asked = selectors.DefaultSelector()
    asked.register(sys.stdin, selectors.EVENT_READ)
    os.set_blocking(sys.stdin.fileno(), False)
    rest = ""
    while True:
        if asked.select(timeout=0.02):
            said = os.read(sys.stdin.fileno(), 1 << 20)
            if not said:
                break
            *lines, rest = (rest + said.decode()).split("\n")
            for line in lines:
                _fork(json.loads(line), jobs)
        _reap(jobs)
    for process in jobs:
        signal_group(process, signal.SIGTERM)
    while jobs:
        _reap(jobs)


def _fork(order: dict[str, Any], jobs: dict[int, int]) -> None:
    process = os.fork()
    if process == 0:
        raise _Forked(json.dumps(order))
    with contextlib.suppress(OSError):
        os.setpgid(process, process)  # here too, so that the group is there when it is named
    jobs[process] = order["number"]
    _say({"number": order["number"], "process": process})


def _reap(jobs: dict[int, int]) -> None:
    for process in list(jobs):
        done, status = os.waitpid(process, os.WNOHANG)
        if done:
            _say({"number": jobs.pop(process), "code": os.waitstatus_to_exitcode(status)})


def _say(line: dict[str, Any]) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def _become(order: dict[str, Any]) -> None:
    """In the forked process: be the interpreter that the job's command would have started."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    end_with_parent()
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, onto in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(descriptor, onto)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - the server's was read without a buffer
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    threads = os.environ["OMP_NUM_THREADS"]
    if "torch" in sys.modules and threads.isdecimal():  # torch has read the server's when it was loaded
        sys.modules["torch"].set_num_threads(int(threads))
    sys.argv = order["words"]
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    os._exit(_run(sys.argv[0]))


def _run(script: str) -> int:
    """Run `script` as the main program, and return its exit code when its threads have ended.

    The interpreter is not taken down: that would touch every page shared with the server, for a second a job.
    """
    code: object = None
    try:
        runpy.run_path(os.path.abspath(script), run_name="__main__")
    except SystemExit as end:
        code = end.code
        if code is not None and not isinstance(code, int):
            print(code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    with contextlib.suppress(BaseException):
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else int(code is not None)


if __name__ == "__main__":
    try:
        _serve()
    except _Forked as forked:
        work = json.loads(str(forked))
    else:
        os._exit(0)
    gc.unfreeze()
    _become(work)
