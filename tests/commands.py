"""Commands as a user types them, without the seconds that a new interpreter takes to import torch.

`run` walks through a script in this process; `start` forks a process for it, to be interrupted or to have
another beside it.
"""

from __future__ import annotations

import io
import logging
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from vitals.sweeps.jobs.job import Job
from vitals.sweeps.jobs.processes import ForkServer

ROOT = Path(__file__).parents[1]


def run(name: str, *words: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `scripts/<name>.py` in `folder`, where its logs go."""
    command = [str(ROOT / "scripts" / f"{name}.py"), *words]
    said, complained = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, chdir(folder):
        patch.setattr(sys, "argv", list(command))
        patch.setattr(sys, "path", list(sys.path))  # a command looks for modules in its folder
        # Lightning's handler may still have the stream of a command before it in this process, now closed.
        patch.setattr(logging, "raiseExceptions", False)
        for variable, value in ({"COLUMNS": "200"} | environment).items():
            patch.setenv(variable, value)
        with redirect_stdout(said), redirect_stderr(complained):
            code: object = 0
            try:
                runpy.run_path(command[0], run_name="__main__")
            except SystemExit as end:
                code = end.code
            except Exception:
                traceback.print_exc()
                code = 1
    of_folder = [name for name, module in sys.modules.items() if _lies_in(module, folder)]
    for name in of_folder:  # another command may have one of this name in its own folder
        del sys.modules[name]
    return subprocess.CompletedProcess(command, int(code or 0), said.getvalue(), complained.getvalue())


def _lies_in(module: object, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and Path(file).is_relative_to(folder.absolute())


class Started:
    """`scripts/<name>.py`, or a script by its path, in its own process, in `folder`, where its logs go."""

    def __init__(self, name: str | Path, *words: str, folder: Path) -> None:
        place = Path(tempfile.mkdtemp())
        script = name if isinstance(name, Path) else ROOT / "scripts" / f"{name}.py"
        job = Job(0, [], place, [sys.executable, str(script), *words])
        self.log = job.log
        with chdir(folder):
            self.process = ForkServer().start(job, {"COLUMNS": "200"})

    def send_signal(self, number: int) -> None:
        self.process.stop(number)

    def wait(self, timeout: float = 240.0) -> int:
        """Its exit code; after `timeout` seconds it is killed."""
        deadline = time.monotonic() + timeout
        while (code := self.process.poll()) is None:
            if time.monotonic() > deadline:
                self.process.stop(signal.SIGKILL)
            time.sleep(0.05)
        return code

    @property
    def output(self) -> str:
        """What it has said so far, on both streams."""
        return self.log.read_text()


def wait_for(folder: Path, pattern: str, timeout: float = 120.0) -> None:
    """Wait until there is a file of that name in `folder`, or the time is over."""
    deadline = time.monotonic() + timeout
    while not list(folder.rglob(pattern)) and time.monotonic() < deadline:
        time.sleep(0.05)
