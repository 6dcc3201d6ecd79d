"""A job under a launcher of Hydra's own (basic, joblib, …): in a process of its own there too.

In the launcher's process, Lightning's further DDP ranks would run the whole sweep anew, and a crash would
take other jobs with it.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from vitals.runs.run_folder import RunFolder
from vitals.sweeps.jobs.job import Job, command_for, job_words, settle


class JobFailed(Exception):
    """A job of a sweep did not finish; its folder says why."""


def run_as_command(script: str) -> None:
    """Run the job that Hydra has composed as a plain command, and wait for it.

    Raises:
        JobFailed: with the error line of its `status.json`.
    """
    hydra = HydraConfig.get()
    words = job_words([*hydra.overrides.task, *hydra.overrides.hydra])
    folder = Path(hydra.runtime.output_dir)
    job = Job(hydra.job.num, words, folder, command_for(script, words, folder))
    job.record()
    with job.log.open("ab") as log:
        code = subprocess.run(
            job.command, stdout=log, stderr=subprocess.STDOUT, cwd=hydra.runtime.cwd, env=os.environ
        ).returncode
    if settle(job, code) != "finished":
        raise JobFailed(f"{folder}: {RunFolder(folder).read_status().get('error')}")
