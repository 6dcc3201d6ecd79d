"""Starting a job's process, stopping it, and knowing when it has ended.

A starter makes `Process`es. Each is the leader of a process group of its own, so that Ctrl-C in the terminal
does not reach it before we have decided, and so that the further ranks of a job end with it. The fork server
is for jobs on the CPU alone: importing torch, Lightning and us takes some seconds of CPU a job, a fork some
milliseconds. A job on a GPU gets an interpreter of its own, whose devices are set before torch is imported.
"""

import atexit
import contextlib
import ctypes
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing import connection
from pathlib import Path
from types import ModuleType
from typing import Protocol

from vitals.runs.held_memory import hold_memory
from vitals.sweeps.jobs.job import Job

PR_SET_PDEATHSIG = 1
KILL: int = getattr(signal, "SIGKILL", signal.SIGTERM)
"""The signal that no process outlives; on Windows every signal is one."""
PRELOADED = (
    "vitals.runs.run",
    "vitals.command_line",
    "vitals.runs.config.validation",
    "vitals.report.page",
    "hydra.core.plugins",
    "sklearn.datasets",
    "torch.utils.tensorboard",
)


class Process(Protocol):
    """A job that has been started."""

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""

    def stop(self, number: int) -> None:
        """Send a signal to all of its processes."""


class Starter(Protocol):
    """Starts jobs somewhere."""

    def start(self, job: Job, environment: Mapping[str, str]) -> Process:
        """Start `job` with `environment` added to ours."""


def signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group (0 only asks); whether there was any process in it."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError, AttributeError):  # Windows has no process groups
        return False
    return True


def end_group(group: int, patience: float = 5.0) -> None:
    """Wait for the rest of a job's processes once their leader has ended, then kill them."""
    deadline = time.monotonic() + patience
    while signal_group(group, 0):
        if time.monotonic() > deadline:
            signal_group(group, KILL)
            return
        time.sleep(0.02)


class GroupLeader:
    """A job's process on this machine, by its number, the leader of a process group of its own; `code` says
    its exit code, None while it runs."""

    def __init__(self, leader: int, code: Callable[[], int | None]) -> None:
        self.leader, self.code = leader, code

    def poll(self) -> int | None:
        code = self.code()
        if code is not None:
            end_group(self.leader, patience=5.0 if code == 0 else 0.0)
        return code

    def stop(self, number: int) -> None:
        if self.code() is None and not signal_group(self.leader, number):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self.leader, number)  # it has just been forked, or the system knows no groups


class NewInterpreters:
    """Starts every job in an interpreter of its own."""

    def start(self, job: Job, environment: Mapping[str, str]) -> Process:
        process = new_process(job.command, job.log, environment)
        return GroupLeader(process.pid, process.poll)


def new_process(
    command: list[str], log: Path, environment: Mapping[str, str], folder: str | None = None
) -> subprocess.Popen[bytes]:
    """Start `command` in `folder`, or the working folder, in a process group of its own that ends with ours,
    with `environment` added to ours, and add what it prints to the file `log`."""
    with log.open("ab") as file:
        return subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment},
            start_new_session=True,  # without a meaning on Windows
            preexec_fn=end_with_parent if os.name == "posix" else None,
        )


def end_with_parent() -> None:
    """Ask the kernel for a SIGTERM when the process that runs the sweep is gone, however it went."""
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class ForkServer:
    """Starts jobs by forking `multiprocessing`'s fork server, which ends with our process. It imports the
    `preloaded` modules first; those that fail to are left out."""

    def __init__(self, preloaded: tuple[str, ...] = PRELOADED) -> None:
        from multiprocessing import forkserver  # of systems that can fork

        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(list(preloaded))
        forkserver.ensure_running()  # it imports while we compose the first job

    def start(self, job: Job, environment: Mapping[str, str]) -> Process:
        arguments = (job.command[1:], {**os.environ, **environment}, os.getcwd(), str(job.log.absolute()))
        process = self.context.Process(target=_run_job, args=arguments)
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")  # or the child would run our own script first
        try:
            process.start()
        finally:
            sys.modules["__main__"] = main
        assert process.pid is not None
        return GroupLeader(process.pid, lambda: process.exitcode)


def starter_for(gpus: bool, fork: bool) -> ForkServer | NewInterpreters:
    """What starts jobs fastest while they see exactly their devices: a fork server where it may be used
    (`fork`), for jobs without `gpus`."""
    there = "forkserver" in multiprocessing.get_all_start_methods()
    return ForkServer() if fork and not gpus and there else NewInterpreters()


def _run_job(words: list[str], environment: dict[str, str], folder: str, log: str) -> None:
    """In the forked process: be the interpreter that the job's command would have started."""
    os.setsid()
    threading.Thread(target=_end_with_sweep, daemon=True).start()
    hold_memory()  # a collection would touch, and so copy, every page that is shared with the server
    nothing, output = os.open(os.devnull, os.O_RDONLY), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor, onto in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, onto)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    multiprocessing.set_start_method(None, force=True)  # its own workers start as in any interpreter
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if "torch" in sys.modules and threads.isdecimal():  # torch has read the server's when it was loaded
        sys.modules["torch"].set_num_threads(int(threads))
    is_module = words[0] == "-m"
    sys.argv = words[is_module:]
    try:
        if is_module:
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(os.path.abspath(words[0]), run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # which multiprocessing leaves out before Python 3.14


def _end_with_sweep() -> None:
    """Ask the job to stop when the process that runs the sweep is gone, however it went."""
    sweep = multiprocessing.parent_process()
    assert sweep is not None
    connection.wait([sweep.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)
