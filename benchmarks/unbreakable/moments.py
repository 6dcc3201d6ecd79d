"""The moments of a run at which something may happen to it, and what does.

A run says where it is: before it opens a file in its folder for writing, renames, links or deletes one, after
each optimizer step, and as each hook of its callbacks begins and ends. At one of these moments it is killed,
or its disk becomes full. `python -m benchmarks.unbreakable.moments <record> <at> <what> <folder> <words…>` is
the train command with such a fate.
"""

from __future__ import annotations

import atexit
import os
import re
import runpy
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT

TRAIN = str(ROOT / "scripts" / "train.py")
SMALL = 64 * 2**20
"""Bytes of the largest disk that is ever filled."""


@dataclass(frozen=True)
class Fate:
    """What befalls a run, and when.

    Args:
        at: name and number of a moment, such as `after step 7`, or `seconds 1.5`; empty for never.
        later: seconds after it.
        what: `kill`, as SIGKILL does; `end`, which is SIGTERM; `fill`, which leaves no room on the disk of
            the run's folder; or `delete`, which takes the folder away.
    """

    at: str = ""
    later: float = 0.0
    what: str = "kill"

    def __str__(self) -> str:
        return (
            "SIGTERM " * (self.what == "end")
            + self.at
            + (f" + {1000 * self.later:.1f} ms" if self.later else "")
        )


@dataclass
class Watched:
    """Counts the moments of the run in this process, and lets its fate come true."""

    folder: str
    """Of the run; absolute."""
    fate: Fate
    seen: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def moment(self, name: str) -> None:
        """The run has come to `name`, for the first time or again."""
        self.counts[name] += 1
        numbered = f"{name} {self.counts[name]}"
        self.seen.append(numbered)
        if numbered == self.fate.at:
            if self.fate.what == "fill":
                fill_disk(Path(self.folder).parent)
            elif self.fate.what == "delete":
                shutil.rmtree(self.folder)
            elif self.fate.what == "end":
                os.kill(os.getpid(), signal.SIGTERM)
            else:
                kill_self(self.fate.later)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """What is about to be done to a file of the run, as `sys.addaudithook` tells it."""
        if event == "open":
            path, mode, flags = arguments
            if any(sign in (mode or "") for sign in "wax+") or (flags or 0) & (os.O_WRONLY | os.O_RDWR):
                self._touched("open", path)
        elif event in ("os.rename", "os.link", "os.symlink"):
            self._touched(event, arguments[1])
        elif event in ("os.remove", "os.rmdir", "os.truncate") and os.path.lexists(arguments[0]):
            self._touched(event, arguments[0])

    def _touched(self, event: str, path: Any) -> None:
        if isinstance(path, str | bytes | os.PathLike):
            place = os.path.abspath(os.fsdecode(path))
            if place.startswith(self.folder + os.sep):
                self.moment(f"{event.removeprefix('os.')} {plain_name(place[len(self.folder) + 1 :])}")


def plain_name(path: str) -> str:
    """A file's name without what is different every time."""
    name = re.sub(r"events\.out\..*", "events", path)
    name = re.sub(r"epoch\d+(\.\d+)?_[a-z_]+\d+\.\d+", "epoch", name)
    return re.sub(r"(?<![a-z])[0-9a-f]{6,}(?![a-z])|tmp[a-z0-9_]{8}", "…", name)


def kill_self(later: float = 0.0) -> None:
    """End this process as SIGKILL does, with no time for anything; at once, or in so many seconds."""
    if later and threading.current_thread() is not threading.main_thread():  # as where TensorBoard writes
        threading.Timer(later, kill_self).start()
    elif later:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # which ends a process wherever it is
        signal.setitimer(signal.ITIMER_REAL, later)
    else:
        os.kill(os.getpid(), signal.SIGKILL)


def fill_disk(folder: Path) -> None:
    """Leave no room on the disk of `folder`, by a file `ballast` in it."""
    disk = os.statvfs(folder)
    assert disk.f_blocks * disk.f_frsize <= SMALL, f"{folder} is not on a small disk of its own"
    with (folder / "ballast").open("ab", buffering=0) as file:
        for size in (2**16, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


def watch(folder: str, fate: Fate) -> Watched:
    """Let this process say where it is, from now on."""
    from lightning.pytorch.trainer import call
    from torch.optim.optimizer import register_optimizer_step_post_hook

    watched = Watched(os.path.abspath(folder), fate)
    sys.addaudithook(watched.audit)
    register_optimizer_step_post_hook(lambda *arguments: watched.moment("after step"))
    hooks: Any = call
    original = hooks._call_callback_hooks

    def around(trainer: Any, hook: str, *arguments: Any, **keywords: Any) -> None:
        watched.moment(f"before {hook}")
        original(trainer, hook, *arguments, **keywords)
        watched.moment(f"after {hook}")

    hooks._call_callback_hooks = around
    if fate.at.startswith("seconds"):
        kill_self(float(fate.at.partition(" ")[2]))
    return watched


def main() -> None:
    record, at, later, what, folder, *words = sys.argv[1:]
    start = time.perf_counter()
    watched = watch(folder, Fate(at, float(later), what))

    def tell() -> None:
        lines = [f"seconds {time.perf_counter() - start:.3f}", *watched.seen]
        Path(record).write_text("\n".join(lines), encoding="utf-8")

    if record:
        atexit.register(tell)
    sys.argv = [TRAIN, *words]
    runpy.run_path(TRAIN, run_name="__main__")


if __name__ == "__main__":
    main()
