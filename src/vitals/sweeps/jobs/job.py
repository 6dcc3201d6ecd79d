"""One job of a sweep: a plain command with a run folder of its own, and how it ended.

Whatever starts the job (this machine, Ray, Slurm) runs the same words, which anyone can copy and run alone.
"""

import re
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vitals.files import write_json
from vitals.runs.config.resume import OF_SWEEPS
from vitals.runs.quoting import command_of, hydra_value
from vitals.runs.run_folder import RunFolder, now

OF_THE_SWEEP = (
    *(*OF_SWEEPS, "hydra.sweep", "hydra.launcher", "hydra.mode", "hydra.run.dir"),
    *("hydra.job.config.override_dirname", "hydra/launcher", "hydra/sweeper"),
)
"""Keys, with all below them, that tell how to sweep, and nothing of what a job trains."""


@dataclass
class Job:
    """A job as it is to be run; kept in its folder as `job.json`."""

    number: int
    words: list[str]
    """The overrides that make this job, `key=value`."""
    folder: Path
    command: list[str]
    devices_needed: int = 1
    epochs: int | None = None
    """That it is to train, where known."""
    environment: dict[str, str] = field(default_factory=dict)
    """That its command needs."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What is recorded about it: devices, process, start, end, exit code."""

    @property
    def log(self) -> Path:
        """What the job prints, its traceback included."""
        return self.folder / "output.log"

    @property
    def swept(self) -> str:
        """The folder's name without the number: what tells this job from the others."""
        return self.folder.name.partition("_")[2]

    def record(self, **facts: Any) -> None:
        """Write `job.json`, with `facts` beside what was recorded before."""
        self.facts |= facts
        content = asdict(self) | {"folder": str(self.folder)}
        variables = [f"{name}={value}" for name, value in content.pop("environment").items()]
        content["command"] = shlex.join([*(["env", *variables] if variables else []), *self.command])
        content |= content.pop("facts")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "job.json", content)


def job_words(overrides: Sequence[str]) -> list[str]:
    """Those of a sweep's overrides that belong to its jobs."""
    keys = "|".join(map(re.escape, OF_THE_SWEEP))
    return [word for word in overrides if not re.match(rf"[~+]*({keys})([.=@]|$)", word)]


def command_for(script: str, words: Sequence[str], folder: Path) -> list[str]:
    """The words that run the job in `folder`; the same again go on where it stopped."""
    program = ["-m", *script.split()] if command_of(script) else [script]
    return [sys.executable, *program, *words, f"hydra.run.dir={hydra_value(folder)}", "resume=auto"]


def is_finished(folder: Path) -> bool:
    """Whether the job in `folder` has been done, and need not be run again."""
    run = RunFolder(folder)
    return run.read_status().get("status") == "finished" or run.diverged


def settle(job: Job, code: int, reason: str | None) -> str:
    """Record how a job ended, and return its status.

    One that ended by itself has written that; of one that was killed, or never came to train, it is written
    here. `code` is its exit code, negative for the signal that killed it; `reason` why it was ended from
    outside, `interrupted` where the whole sweep was, None for neither.
    """
    run = RunFolder(job.folder)
    status = str(run.read_status().get("status", ""))
    if reason == "interrupted":
        if status not in ("finished", "failed", "interrupted"):
            run.write_status("interrupted", ended=now(), error=None)
    elif reason is not None:
        if status != "finished":  # else its process was ended while it closed what it had written
            run.write_status("failed", ended=now(), error=reason)
    elif code == 0:
        if status != "finished":
            run.write_status("finished", ended=now(), error=None)
    elif status not in ("failed", "interrupted"):
        run.write_status("failed", ended=now(), error=_error_line(job, code))
    job.record(ended=now(), exit_code=code)
    return str(run.read_status()["status"])


def _error_line(job: Job, code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (out of memory, perhaps)" if name == "SIGKILL" else "")
    lines = job.log.read_text(encoding="utf-8", errors="replace").split("\n") if job.log.exists() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"exit code {code}" + (f": {last}" if last else "")
