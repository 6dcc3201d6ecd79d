"""Starting a job's process, stopping it, and knowing when it has ended.

A starter makes `Process`es. Each is the leader of a process group of its own, so that Ctrl-C in the terminal
does not reach it before we have decided, and so that the further ranks of a job end with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from vitals.sweeps.jobs.job import Job

PR_SET_PDEATHSIG = 1
KILL: int = getattr(signal, "SIGKILL", signal.SIGTERM)
"""The signal that no process outlives; on Windows every signal is one."""


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
    """A job's process on this machine, the leader of a process group of its own.

    Args:
        leader: the number of the process.
        code: says its exit code, None while it runs.
    """

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
    """Start `command` in a process group of its own that ends with ours, and add what it prints to `log`.

    Args:
        command: its words.
        log: a file.
        environment: added to ours.
        folder: to start it in; None for the working folder.
    """
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
