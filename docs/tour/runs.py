"""Trainings for the tour: `scripts/train.py`, each in a process and a folder of its own."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from vitals.errors import UserError

ROOT = Path(__file__).parents[2]
ALWAYS = ("seed=0", "threads=1", "checks=none", "average=none", "diagnosis.report=false")
"""What every run is given that does not say otherwise; with one thread it is the same to the bit anywhere."""
PR_SET_CHILD_SUBREAPER = 36
"""From Linux's `sys/prctl.h`."""
DIVERGED = 4
"""The exit code of a training that met numbers that are not finite, which may be what a picture is about."""


class Runs:
    """Trains on request, once for each set of overrides.

    Args:
        scratch: folder for the runs. What lies finished in it is not trained again.
        root: of the CIFAR-10 images, `data.root`; None downloads them.
    """

    def __init__(self, scratch: Path, root: str | None = None) -> None:
        self.scratch = scratch
        self.root = root
        self.asked: dict[str, float] = {}
        """The commands of the runs that were asked for, and the CPU seconds that each took."""

    def train(self, *overrides: str) -> Path:
        """The run folder of `python scripts/train.py <overrides>`, one that diverged included.

        Raises:
            UserError: if the run failed.
        """
        words = self._words(overrides)
        folder = self._folder(words)
        self._start(words, f"hydra.run.dir={folder}", folder)
        return folder

    def sweep(self, *overrides: str) -> Path:
        """The folder of the sweep `python scripts/train.py -m <overrides>`, as many jobs at once as there are
        cores; `vitals.sweeps.results.results.read_results` reads it.

        Raises:
            UserError: if one of its jobs failed.
        """
        words = ["-m", *self._words(overrides)]
        folder = self._folder(words)
        self._start(words, f"hydra.sweep.dir={folder}", folder)
        return folder

    def _words(self, overrides: tuple[str, ...]) -> list[str]:
        said = {word.partition("=")[0] for word in overrides}
        words = [*overrides, *(word for word in ALWAYS if word.partition("=")[0] not in said)]
        if self.root is not None and said.isdisjoint(("data", "data.root")):
            words.append(f"data.root={self.root}")
        return words

    def _folder(self, words: list[str]) -> Path:
        return self.scratch / hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]

    def _start(self, words: list[str], place: str, folder: Path) -> None:
        told = [word if not word.startswith("data.root=") else "data.root=<images>" for word in words]
        said = f"python scripts/train.py {' '.join(told)}"
        cost = folder / "cpu_seconds"  # written when all else is
        if not cost.is_file():
            print(f"  {said}", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            command, before = (
                [sys.executable, str(ROOT / "scripts" / "train.py"), *words, place],
                _cpu_seconds_of_children(),
            )
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            if done.returncode not in (0, DIVERGED):
                lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
                raise UserError(f"The training ended with code {done.returncode}: {' '.join(lines[-3:])}")
            seconds = _cpu_seconds_of_children() - before
            cost.write_text(f"{seconds:.1f}\n", encoding="utf-8")
        self.asked[said] = float(cost.read_text(encoding="utf-8"))


def _cpu_seconds_of_children() -> float:
    """Of all that have ended, and of theirs; on Linux alone also of the jobs of a sweep."""
    if sys.platform == "linux":  # become the parent of what a sweep leaves to end by itself, its fork server
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
        with suppress(ChildProcessError):
            while True:
                os.wait()
    return sum(os.times()[2:4])
