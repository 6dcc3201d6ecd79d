"""Jobs on a real Slurm, where there is one (docs/slurm_on_one_machine.sh); they train nothing."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from no_view import NoView
from omegaconf import OmegaConf

from vitals.errors import UserError
from vitals.runs.run_folder import RunFolder
from vitals.sweeps.jobs import slurm_backend
from vitals.sweeps.jobs.job import Job
from vitals.sweeps.jobs.queue import JobQueue

CONFIG = Path(__file__).parents[3] / "src" / "vitals" / "configs" / "launcher" / "slurm.yaml"
STUB = """
import json, os, sys, time
names = ("CUDA_VISIBLE_DEVICES", "SLURM_NTASKS", "SLURM_PROCID")
seen = {name: os.environ.get(name) for name in names} | {"start": time.time()}
open(os.path.join(sys.argv[-1].split("'")[1], "config.yaml"), "w").close()  # further ranks wait for it
exec(sys.argv[1])
print(json.dumps(seen | {"end": time.time()}))
"""


@pytest.mark.slurm
@pytest.mark.skipif(shutil.which("sbatch") is None, reason="no Slurm here")
def test_jobs_on_slurm_get_a_gpu_each_and_their_failures_are_recorded(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    script = tmp_path / "stub.py"
    script.write_text(STUB)
    codes = ["time.sleep(1)", "1 / 0", "os.kill(os.getppid(), 9); os.kill(os.getpid(), 9)", "pass"]
    jobs = [
        Job(number, [code], tmp_path / str(number), [sys.executable, str(script), code], 1 + (number == 3))
        for number, code in enumerate(codes)
    ]
    changed = {"cpus_per_device": 1, "memory_gb": 1, "minutes": 5, "gpus_per_device": 1}
    settings = OmegaConf.merge(OmegaConf.load(CONFIG), changed)
    starter = slurm_backend.SlurmStarter(settings, tmp_path / ".slurm")
    JobQueue(slurm_backend.connect(settings), starter, NoView()).run(jobs)
    states = [RunFolder(job.folder).read_status() for job in jobs]
    assert [state["status"] for state in states] == ["finished", "failed", "failed", "finished"]
    assert "ZeroDivisionError" in states[1]["error"]
    assert "Traceback" in jobs[1].log.read_text()
    one = json.loads(jobs[0].log.read_text().splitlines()[-1])
    assert one["CUDA_VISIBLE_DEVICES"] in ("0", "1")
    ranks = [json.loads((jobs[3].folder / name).read_text()) for name in ("output.log", "output_1.log")]
    assert [rank["SLURM_PROCID"] for rank in ranks] == ["0", "1"]
    assert [rank["SLURM_NTASKS"] for rank in ranks] == ["2", "2"]


SAVES = """
import signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: (print("saved", flush=True), sys.exit(138)))
print("ready", flush=True)
time.sleep(60)
"""


def test_a_job_has_saved_its_state_before_it_is_submitted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.chdir(tmp_path)  # to which it goes itself
    job = Job(0, [], tmp_path, [sys.executable, "-c", SAVES])
    task = slurm_backend.SlurmTask(job, str(tmp_path))
    again = []

    def preempted(*arguments: object) -> None:
        while "ready" not in job.log.read_text():
            time.sleep(0.05)
        again.append(task.checkpoint())

    before = signal.signal(signal.SIGALRM, preempted)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        assert task() == 138
    finally:
        signal.signal(signal.SIGALRM, before)
    assert job.log.read_text().split() == ["ready", "saved"]
    assert again[0].function.job == job


@pytest.mark.skipif(shutil.which("sbatch") is not None, reason="there is a Slurm here")
def test_without_slurm_it_is_said_so() -> None:
    with pytest.raises(UserError, match="there is no sbatch on this machine"):
        slurm_backend.connect(OmegaConf.load(CONFIG))
