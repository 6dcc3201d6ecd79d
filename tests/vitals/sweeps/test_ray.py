"""Jobs on a real Ray, with GPUs that are resource counts; they train nothing."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

# Before Ray is loaded, which reads them: clusters of ours ask for a token, whatever the home folder says.
os.environ.setdefault("RAY_AUTH_MODE", "token")
os.environ.setdefault("RAY_AUTH_TOKEN", "0123456789abcdef0123456789abcdef")

import pytest
from no_view import NoView
from omegaconf import OmegaConf

from vitals.errors import UserError
from vitals.runs.run_folder import RunFolder
from vitals.runs.signals import Interrupted
from vitals.sweeps.jobs import ray_backend
from vitals.sweeps.jobs.job import Job
from vitals.sweeps.jobs.queue import JobQueue

ray = pytest.importorskip("ray")
CONFIG = Path(__file__).parents[3] / "src" / "vitals" / "configs" / "launcher" / "ray.yaml"
STUB = """
import json, os, sys, time
seen = {"devices": os.environ.get("CUDA_VISIBLE_DEVICES"), "torch": "torch" in sys.modules}
seen["start"] = time.time()
seen["node"] = os.environ.get("NODE")
exec(sys.argv[1])
print(json.dumps(seen | {"end": time.time()}))
"""


@pytest.fixture
def job(tmp_path: Path):
    script = tmp_path / "stub.py"
    script.write_text(STUB)

    def job(number: int, code: str = "") -> Job:
        return Job(number, [], tmp_path / str(number), [sys.executable, str(script), code])

    return job


def settings(**changed: object):
    return OmegaConf.merge(OmegaConf.load(CONFIG), changed)


def seen_by(job: Job) -> dict:
    content: dict = json.loads(job.log.read_text().splitlines()[-1])
    return content


def run(jobs: list[Job], interrupt_after: Path | None = None, **changed: object) -> None:
    chosen = settings(**changed)
    devices = ray_backend.connect(chosen)
    with ray_backend.ray_starter(chosen, devices) as starter:
        if interrupt_after is not None:

            def interrupt() -> None:
                while not interrupt_after.exists():
                    time.sleep(0.05)
                time.sleep(0.5)
                os.kill(os.getpid(), signal.SIGINT)

            threading.Thread(target=interrupt).start()
        JobQueue(devices, starter, NoView(), patience=20).run(jobs)


def test_eight_jobs_on_two_gpus_of_which_one_raises_and_one_is_killed(job) -> None:
    codes = ["time.sleep(0.3)"] * 8
    codes[2], codes[5] = "1 / 0", "os.kill(os.getpid(), 9)"
    jobs = [job(number, code) for number, code in enumerate(codes)]
    run(jobs, cpus=2, gpus=2)
    states = [RunFolder(job.folder).read_status() for job in jobs]
    assert [number for number, state in enumerate(states) if state["status"] != "finished"] == [2, 5]
    assert states[2]["error"] == "exit code 1: ZeroDivisionError: division by zero"
    assert "Traceback" in jobs[2].log.read_text()
    assert states[5]["error"].startswith("killed by SIGKILL")
    seen = [seen_by(job) for number, job in enumerate(jobs) if number not in (2, 5)]
    assert {entry["devices"] for entry in seen} <= {"0", "1"}
    assert not any(entry["torch"] for entry in seen)
    for gpu in ("0", "1"):
        spans = sorted((entry["start"], entry["end"]) for entry in seen if entry["devices"] == gpu)
        assert all(first[1] <= then[0] for first, then in pairwise(spans))


def test_ctrl_c_interrupts_the_jobs_on_ray(job) -> None:
    jobs = [job(0, f"open({str(job(0).folder / 'begun')!r}, 'w'); time.sleep(100)"), job(1)]
    with pytest.raises(Interrupted):
        run(jobs, jobs[0].folder / "begun", cpus=1, gpus=0)
    assert RunFolder(jobs[0].folder).read_status()["status"] == "interrupted"
    assert not jobs[1].folder.exists()


def test_no_cluster_at_the_address_is_said_in_one_sentence() -> None:
    with pytest.raises(UserError, match=r"127\.0\.0\.1:1 is no Ray cluster .*refused"):
        ray_backend.connect(settings(address="127.0.0.1:1"))


def start_node(node: str, tmp_path: Path, *words: str) -> subprocess.Popen[bytes]:
    """A Ray process of its own, in a folder beside which no job must end up."""
    folder = tmp_path / node
    folder.mkdir(exist_ok=True)
    command = [str(Path(sys.executable).with_name("ray")), "start", *words]
    command += ["--num-cpus=1", "--num-gpus=1", "--block"]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **ray_backend.PATIENCE, "NODE": node},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def test_jobs_on_a_cluster_that_is_joined_by_its_address(job, tmp_path: Path) -> None:
    """A head and a second Ray process: jobs run on both, in the folders of the machine that sweeps."""
    address = "127.0.0.1:6399"
    join = [f"--address={address}", "--dashboard-agent-listen-port=52366"]
    nodes = [start_node("head", tmp_path, "--head", "--port=6399", "--include-dashboard=false")]
    try:
        deadline, gpus = time.monotonic() + 200, 0
        while gpus < 2 and time.monotonic() < deadline:
            if len(nodes) < 2 or nodes[-1].poll() is not None:  # on busy cores Ray gives up on itself
                nodes.append(start_node("second", tmp_path, *join))
            time.sleep(5)
            with contextlib.suppress(UserError):
                gpus = len(ray_backend.connect(settings(address=address)).names)
                ray.shutdown()
        jobs = [job(number, "time.sleep(2)") for number in range(4)]
        run(jobs, address=address)
    finally:
        for process in nodes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(60)
    assert [RunFolder(job.folder).read_status()["status"] for job in jobs] == ["finished"] * 4
    assert {seen_by(job)["node"] for job in jobs} == {"head", "second"}
    assert list((tmp_path / "head").iterdir()) == list((tmp_path / "second").iterdir()) == []
