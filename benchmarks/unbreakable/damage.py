"""Run folders with damaged files: every command must answer with a result or with a sentence."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.unbreakable.commands import Commands
from benchmarks.unbreakable.disk import faults_of
from benchmarks.unbreakable.kills import OF_JOBS, TINY
from benchmarks.unbreakable.moments import Fate


def _halved(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _overwritten(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(300))


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for place in random.Random(1).sample(range(len(content)), min(20, len(content))):
        content[place] ^= 0xFF
    path.write_bytes(content)


def _replaced_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _linked_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _of_another_kind(path: Path) -> None:
    path.write_text("[1, [2, null], {}]\n", encoding="utf-8")


def _with_other_values(path: Path) -> None:
    """Every number is a word, as after a wrong search and replace; of a binary file, every byte."""
    content = path.read_bytes()
    path.write_bytes(content.translate(bytes.maketrans(b"0123456789", b"abcdefghij")))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut in half": _halved,
    "other bytes": _overwritten,
    "bits flipped": _flipped,
    "a folder": _replaced_by_folder,
    "a link to itself": _linked_to_itself,
    "of another kind": _of_another_kind,
    "letters for digits": _with_other_values,
}
COMMANDS: dict[str, list[list[str]]] = {
    "finished": [
        ["evaluate", "run=run"],
        ["report", "run=run"],
        ["ensemble", "run=run"],
        ["train", "resume=run", "trainer.max_epochs=3"],
    ],
    "killed": [["train", "resume=run"], ["report", "run=run"]],
    "sweep": [["sweep_report", "sweep"], ["train", "-m", "resume_sweep=sweep"], ["ensemble", "sweep=sweep"]],
}


@dataclass
class Damaged:
    """A command on a damaged folder."""

    file: str
    damage: str
    command: list[str]
    wrong: list[str]

    def __str__(self) -> str:
        answer = "; ".join(self.wrong) or "answered"
        return f"{self.file} is {self.damage}: {' '.join(self.command)}: {answer}"


def folders(commands: Commands, place: Path) -> None:
    """Make the folders `finished`, `killed` and `sweep` in `place`, with what the commands want there."""
    further = ["trainer.max_epochs=2", "callbacks.checkpoints.keep_every=1"]
    swept = ["-m", *OF_JOBS, *further, "hydra.sweep.dir=sweep", "seed=1,2"]
    made = {
        "finished": commands.train([*TINY, *further], _new(place / "finished")),
        "killed": commands.train(
            [*TINY, *further], _new(place / "killed"), Fate("before on_validation_start 2")
        ),
        "sweep": commands.script("train", swept, _new(place / "sweep")),
    }
    for name, ended in made.items():
        if (ended.code == 0) == (name == "killed"):
            raise SystemExit(f"{name}: it ended with code {ended.code}:\n{ended.said}")


def _new(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def damaged(
    commands: Commands, place: Path, most: int, chance: random.Random, say: Callable[[str], None]
) -> list[Damaged]:
    """Damage files, and give commands the folder: so many of all cases, drawn by chance."""
    folders(commands, place)
    cases = [
        (kind, file, damage, command)
        for kind, given in COMMANDS.items()
        for file in _files(place / kind)
        for damage in DAMAGES
        for command in given
    ]
    done = []
    for kind, file, damage, command in chance.sample(cases, min(most, len(cases))):
        copy = place / "copy"
        shutil.copytree(place / kind, copy, symlinks=True)
        DAMAGES[damage](copy / file)
        ended = commands.script(command[0], command[1:], copy, patience=120)
        done.append(Damaged(str(file), damage, command, faults_of(ended)))
        say(str(done[-1]))
        shutil.rmtree(copy)
    return done


def _files(folder: Path) -> list[Path]:
    """One of each kind that has a content: the first of several event files, checkpoints or jobs."""
    found: dict[tuple[str, ...], Path] = {}
    for path in sorted(folder.rglob("*")):
        if (
            path.is_file()
            and not path.is_symlink()
            and path.stat().st_size
            and path.suffix not in (".log", ".py")
        ):
            found.setdefault((path.parent.name[:4], path.suffix, path.name[:6]), path.relative_to(folder))
    return list(found.values())
