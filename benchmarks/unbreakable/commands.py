"""Commands that start at once, from a process that has imported everything already."""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT
from benchmarks.unbreakable.moments import Fate
from vitals.sweeps.jobs.job import Job
from vitals.sweeps.jobs.processes import PRELOADED, ForkServer

OURS: tuple[str, ...] = ("benchmarks.compare", "vitals.commands.train", "vitals.runs.report", "project.train")
OURS += ("project.schema", "project.data.data_module", "project.module", "project.networks.convnet", "optuna")


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    """Its exit code, negative for a signal."""
    said: str
    """On both streams."""

    @property
    def last_line(self) -> str:
        return next((line.strip() for line in reversed(self.said.splitlines()) if line.strip()), "")

    @property
    def has_traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.said


class Commands:
    """Starts them in whichever folder, one after the other."""

    def __init__(self) -> None:
        self.server = ForkServer((*PRELOADED, *OURS))
        self.environment = {"COLUMNS": "200", "OMP_NUM_THREADS": "1"}

    def run(
        self,
        words: Sequence[str],
        place: Path,
        patience: float = 300.0,
        meanwhile: Callable[[], None] = lambda: None,
    ) -> Ended:
        """Run `python <words…>` in `place`.

        Args:
            words: of the command.
            place: a folder.
            patience: seconds after which it is killed.
            meanwhile: called again and again while it runs.
        """
        with tempfile.TemporaryDirectory() as logs, contextlib.chdir(place):
            job = Job(0, [], Path(logs), [sys.executable, *words])
            process = self.server.start(job, self.environment)
            deadline = time.monotonic() + patience
            while (code := process.poll()) is None:
                meanwhile()
                time.sleep(0.02)
                if time.monotonic() > deadline:
                    process.stop(signal.SIGKILL)
            said = job.log.read_text(encoding="utf-8", errors="replace") if job.log.exists() else ""
        return Ended(code, said)

    def script(self, name: str, words: Sequence[str], place: Path, *arguments: Any, **options: Any) -> Ended:
        """Run `scripts/<name>.py`, with the further arguments of `run`."""
        return self.run([str(ROOT / "scripts" / f"{name}.py"), *words], place, *arguments, **options)

    def train(
        self, words: Sequence[str], place: Path, fate: Fate | None = None, record: Path | None = None
    ) -> Ended:
        """Train in `place`/run, with a fate or none; `record` gets the moments where it ends by itself."""
        fate = fate or Fate()
        told = [str(record or ""), fate.at, str(fate.later), fate.what, str(place / "run")]
        return self.run(["-m", "benchmarks.unbreakable.moments", *told, *words], place)
