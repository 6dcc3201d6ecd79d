"""A disk without room at each write of a run, and a folder that goes away beneath it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.unbreakable.commands import Commands, Ended
from benchmarks.unbreakable.differences import differences, in_short
from benchmarks.unbreakable.kills import TINY, Kills
from benchmarks.unbreakable.moments import Fate

SIZE = "24m"


@dataclass
class Trouble:
    """One run that had it."""

    kind: str
    at: str
    wrong: list[str]
    """What was not as it should be: a traceback, a status that lies, a file that differs in the end."""

    def __str__(self) -> str:
        return f"{self.kind} {self.at}: {in_short(self.wrong) or 'said, and finished afterwards'}"


@contextmanager
def small_disk(place: Path) -> Iterator[Path]:
    """A file system of its own at `place`, in memory.

    Raises:
        OSError: where this user may not mount one.
    """
    place.mkdir(parents=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)], capture_output=True, text=True
    )
    if done.returncode:
        raise OSError(f"no disk can be filled here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def troubles(commands: Commands, folder: Path, say: Callable[[str], None]) -> list[Trouble]:
    """A full disk, and a folder that is deleted, as the run is about to open each kind of its files."""
    kills = Kills(commands, folder, "disk", [])
    opened = [moments for name, moments in kills.by_name().items() if name.startswith("open")]
    places = [moments[len(moments) // 2] for moments in opened]
    found = []
    for kind in ("fill", "delete"):
        for number, moment in enumerate(places):
            found.append(_trouble(commands, folder / f"{kind}-{number}", kind, moment, kills.undisturbed))
            say(str(found[-1]))
    found.append(_read_only(commands, folder / "read-only", kills.undisturbed))
    say(str(found[-1]))
    return found


def _trouble(commands: Commands, folder: Path, kind: str, moment: str, undisturbed: Path) -> Trouble:
    with small_disk(folder) as place:
        run, trouble = place / "run", Trouble(kind, moment, [])
        ended = commands.train(TINY, place, Fate(moment, what=kind))
        trouble.wrong += faults_of(ended)
        if kind == "fill":
            (place / "ballast").unlink()
            if ended.code:
                trouble.wrong += _lies(run)
            again = commands.train([*TINY, "resume=auto"], place)
            if again.code:
                trouble.wrong.append(f"with room again it ends with code {again.code}: {again.last_line}")
            trouble.wrong += differences(run, undisturbed)
    return trouble


def _read_only(commands: Commands, folder: Path, undisturbed: Path) -> Trouble:
    """Continue a run in a folder that may not be written to."""
    trouble = Trouble("read-only", "resume=run", [])
    with small_disk(folder) as place:
        shutil.copytree(undisturbed, place / "run", symlinks=True)
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        ended = commands.script("train", ["resume=run", "trainer.max_epochs=6"], place)
        trouble.wrong += faults_of(ended)
        if not ended.code:
            trouble.wrong.append("it ended with code 0")
    return trouble


def faults_of(ended: Ended) -> list[str]:
    """What is wrong with how a command told that something is: a traceback, a signal, or nothing said."""
    wrong = []
    if ended.has_traceback:
        places = [line.strip() for line in ended.said.splitlines() if line.startswith('  File "')]
        wrong.append(f"a traceback: {ended.last_line[:200]} {' '.join(places[-1:])}")
    if ended.code not in (0, 1, 2, 3, 4):
        wrong.append(f"exit code {ended.code}")
    if ended.code and not ended.last_line:
        wrong.append("nothing was said")
    return wrong


def _lies(run: Path) -> list[str]:
    if not (run / "status.json").exists():
        return []
    status = json.loads((run / "status.json").read_text(encoding="utf-8"))["status"]
    return [f"status.json says {status} of a run that is over"] if status in ("running", "finished") else []
