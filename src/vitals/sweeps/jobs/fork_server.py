"""Jobs forked from a process that has imported torch, Lightning and us already.

Importing them takes some seconds of CPU a job, a fork some milliseconds. Only for jobs on the CPU: a job on a
GPU gets an interpreter of its own, whose devices are set before torch is imported.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import runpy
import signal
import sys
import threading
from collections.abc import Mapping
from multiprocessing import connection
from types import ModuleType

from vitals.sweeps.jobs.job import Job
from vitals.sweeps.jobs.processes import GroupLeader, NewInterpreters, Process

PRELOADED = (
    "vitals.runs.run",
    "vitals.command_line",
    "vitals.runs.config.validation",
    "vitals.report.page",
    "hydra.core.plugins",
    "sklearn.datasets",
    "torch.utils.tensorboard",
)


class ForkServer:
    """Starts jobs by forking `multiprocessing`'s fork server, which ends with our process.

    Args:
        preloaded: modules that it imports first; those that fail to are left out.
    """

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
    """What starts jobs fastest while they see exactly their devices.

    Args:
        gpus: whether the jobs are given GPUs.
        fork: whether a fork server may be used.
    """
    there = "forkserver" in multiprocessing.get_all_start_methods()
    return ForkServer() if fork and not gpus and there else NewInterpreters()


def _run_job(words: list[str], environment: dict[str, str], folder: str, log: str) -> None:
    """In the forked process: be the interpreter that the job's command would have started."""
    os.setsid()
    threading.Thread(target=_end_with_sweep, daemon=True).start()
    gc.freeze()  # a collection would touch, and so copy, every page that is shared with the server
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
