"""The queue of jobs, with jobs that train nothing, on simulated GPUs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path
from textwrap import dedent

import pytest
from no_view import NoView

from vitals.errors import UserError
from vitals.metric import Metric
from vitals.runs.run_folder import RunFolder
from vitals.runs.signals import Interrupted
from vitals.sweeps.jobs.devices import Devices
from vitals.sweeps.jobs.folder import SweepFolder
from vitals.sweeps.jobs.job import Job
from vitals.sweeps.jobs.processes import ForkServer, NewInterpreters
from vitals.sweeps.jobs.queue import JobQueue

STUB = """
import json, os, sys, time
seen = {"devices": os.environ["CUDA_VISIBLE_DEVICES"], "threads": os.environ["OMP_NUM_THREADS"]}
seen |= {"torch": "torch" in sys.modules, "process": os.getpid(), "group": os.getpgid(0)}
seen["start"] = time.time()
exec(sys.argv[1])
seen["end"] = time.time()
print(json.dumps(seen))
"""


@pytest.fixture
def job(tmp_path: Path):
    """`job(3, "raise SystemExit(1)", devices=2)`: a job that runs this code and prints what it has seen."""
    script = tmp_path / "stub.py"
    script.write_text(STUB)

    def job(number: int, code: str = "", devices: int = 1) -> Job:
        folder = tmp_path / str(number)
        return Job(number, [], folder, [sys.executable, str(script), code], devices)

    return job


def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '0\\n1\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert Devices.found([1, 0]).names == ["1", "0"]
    with pytest.raises(UserError, match=r"launcher.devices=\[0, 4\]: there is no GPU 4 here, but 0, 1"):
        Devices.found([0, 4])


def seen_by(job: Job) -> dict:
    content: dict = json.loads(job.log.read_text().splitlines()[-1])
    return content


def statuses(jobs: list[Job]) -> list[str]:
    return [RunFolder(job.folder).read_status()["status"] for job in jobs]


def ended(process: int) -> bool:
    """Whether the process is gone, or is soon."""
    state, deadline = Path(f"/proc/{process}/stat"), time.monotonic() + 5
    while state.exists() and state.read_text().split()[2] != "Z":
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_no_gpu_has_more_jobs_than_allowed_and_a_freed_one_takes_the_next(job) -> None:
    log = str(job(4).log)
    long = f"while not os.path.exists({log!r}): time.sleep(0.01)"  # until the last one has begun
    jobs = [job(number, "" if number else long) for number in range(5)]
    JobQueue(Devices(["4", "7"], are_gpus=True), NewInterpreters(), NoView()).run(jobs)
    seen = [seen_by(job) for job in jobs]
    assert not any(entry["torch"] for entry in seen)
    assert [entry["devices"] for entry in seen] == ["4", "7", "7", "7", "7"]
    on_7 = [entry for entry in seen if entry["devices"] == "7"]
    assert all(first["end"] < then["start"] for first, then in pairwise(on_7))


def test_two_jobs_a_device_and_two_devices_a_job(job) -> None:
    jobs = [job(number, "time.sleep(0.5)", devices=2) for number in range(3)]
    JobQueue(Devices(["0", "1"], 2, are_gpus=True), NewInterpreters(), NoView()).run(jobs)
    seen = [seen_by(job) for job in jobs]
    assert [sorted(entry["devices"].split(",")) for entry in seen] == [["0", "1"]] * 3
    together = [sum(a["start"] <= b["start"] < a["end"] for a in seen) for b in seen]
    assert max(together) == 2


def test_the_cores_are_shared_out_among_cpu_jobs_which_see_no_gpu(job, monkeypatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    one = job(0)
    JobQueue(Devices(["cpu0", "cpu1"], cores=8), NewInterpreters(), NoView()).run([one])
    seen = seen_by(one)
    assert (seen["devices"], seen["threads"]) == ("", "4")


@pytest.mark.parametrize("starter", [NewInterpreters, ForkServer])
def test_a_job_that_raises_is_killed_or_too_slow_takes_nothing_else_with_it(job, starter) -> None:
    codes = [
        "1 / 0",
        "os.kill(os.getpid(), 9)",
        "time.sleep(60)",
        "print(__import__('subprocess').Popen(['sleep', '300']).pid, flush=True); os.kill(os.getpid(), 9)",
        "",
    ]
    jobs = [job(number, code) for number, code in enumerate(codes)]
    made = starter()
    JobQueue(Devices(["cpu0", "cpu1"]), made, NoView(), time_limit=1.0).run(jobs)
    errors = [RunFolder(job.folder).read_status()["error"] for job in jobs]
    assert statuses(jobs) == ["failed"] * 4 + ["finished"]
    assert errors[0] == "exit code 1: ZeroDivisionError: division by zero"
    assert "Traceback" in jobs[0].log.read_text()
    assert errors[1].startswith("killed by SIGKILL")
    assert "time limit" in errors[2]
    assert ended(int(jobs[3].log.read_text())), "what the killed job started lives on"


def test_a_job_that_had_finished_when_its_time_limit_struck_has_finished(job) -> None:
    late = job(0)
    status, written = str(late.folder / "status.json"), '{"status": "finished"}'
    late.command[-1] = f"open({status!r}, 'w').write({written!r}); time.sleep(60)"
    JobQueue(Devices(["cpu0"]), NewInterpreters(), NoView(), time_limit=1.0).run([late])
    assert statuses([late]) == ["finished"]


@pytest.mark.parametrize("starter", [NewInterpreters, ForkServer])
def test_ctrl_c_ends_the_jobs_and_writes_their_statuses(job, starter) -> None:
    jobs = [job(0), *(job(number, "time.sleep(60)") for number in (1, 2, 3))]
    made = starter()
    queue = JobQueue(Devices(["cpu0", "cpu1"]), made, NoView())

    def interrupt() -> None:
        while not (jobs[0].log.exists() and jobs[0].log.read_text() and jobs[2].log.exists()):
            time.sleep(0.05)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(Interrupted):
        queue.run(jobs)
    assert statuses(jobs[:3]) == ["finished", "interrupted", "interrupted"]
    assert not jobs[3].folder.exists(), "a job was started after Ctrl-C"
    assert not queue.running


def test_a_second_ctrl_c_kills_a_job_that_does_not_end(job) -> None:
    stubborn = "signal.signal(signal.SIGINT, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    jobs = [job(0, f"import signal; {stubborn}")]

    def interrupt_twice() -> None:
        while not (jobs[0].log.exists() and jobs[0].log.read_text()):
            time.sleep(0.05)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)

    threading.Thread(target=interrupt_twice).start()
    began = time.monotonic()
    with pytest.raises(Interrupted):
        JobQueue(Devices(["cpu0"]), NewInterpreters(), NoView()).run(jobs)
    assert time.monotonic() - began < 30
    assert statuses(jobs) == ["interrupted"]


def test_ctrl_c_while_a_job_is_started_leaves_no_process_behind(job) -> None:
    class Interrupting(NewInterpreters):
        def start(self, job, environment):
            process = super().start(job, environment)
            os.kill(os.getpid(), signal.SIGINT)
            return process

    jobs = [job(0, "time.sleep(60)"), job(1)]
    with pytest.raises(Interrupted):
        JobQueue(Devices(["cpu0"]), Interrupting(), NoView()).run(jobs)
    assert statuses(jobs[:1]) == ["interrupted"]
    assert not jobs[1].folder.exists()


@pytest.mark.parametrize("starter", ["NewInterpreters()", "ForkServer(())"])
def test_jobs_end_when_the_process_of_the_sweep_is_killed(job, starter: str, tmp_path: Path) -> None:
    one = job(0, "print(os.getpid(), flush=True); time.sleep(60)")
    code = f"""
        from pathlib import Path
        from vitals.sweeps.jobs.processes import ForkServer
        from vitals.sweeps.jobs.job import Job
        from vitals.sweeps.jobs.processes import NewInterpreters
        import time
        job = Job(0, [], Path({str(one.folder)!r}), {one.command!r})
        job.record()
        process = {starter}.start(job, {{"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}})
        time.sleep(60)
    """
    sweep = subprocess.Popen([sys.executable, "-c", dedent(code)])
    while not (one.log.exists() and one.log.read_text().endswith("\n")):
        time.sleep(0.05)
    sweep.kill()
    sweep.wait()
    assert ended(int(one.log.read_text())), "the job outlived its sweep"


def test_a_job_of_the_fork_server_is_the_leader_of_its_group_and_has_its_environment(job) -> None:
    one, server = job(0), ForkServer()
    JobQueue(Devices(["cpu0"]), server, NoView()).run([one])
    seen = seen_by(one)
    assert (seen["group"], seen["devices"]) == (seen["process"], "")


def test_a_job_for_more_devices_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match="a job takes 3 devices, and here 2 can be used"):
        Devices(["0", "1"]).require(3)


def test_a_second_process_of_a_sweep_is_told_which_one_runs_it(tmp_path: Path) -> None:
    folder = SweepFolder(tmp_path)
    with folder.only_one():
        folder.write_record(["optimizer.lr=0.1,0.2"], "scripts/train.py", Metric("accuracy/val", "max"))
        with pytest.raises(UserError, match=rf"process {os.getpid()} on .* is at work"), folder.only_one():
            pass
    with folder.only_one():
        assert folder.read_record()["words"] == ["optimizer.lr=0.1,0.2"]
