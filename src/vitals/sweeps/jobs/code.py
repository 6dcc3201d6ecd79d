"""The code of a sweep as it was at its start: a copy in the sweep's folder, which all of its jobs run.

Copied is what jobs may import that is not installed: the folder of the script, of the configurations, and
those on `sys.path`, as far as git would take them; without git the files that look like code.

A mark in the user's cache says which copies were taken here. One without it came with the folder from
elsewhere, and is not run.
"""

import filecmp
import hashlib
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

from vitals.errors import UserError
from vitals.files import cache_folder, read_json, write_atomically, write_json
from vitals.installed import is_installed
from vitals.runs.kept_code import ORIGIN, VARIABLE, copied, environment
from vitals.runs.provenance import answer_of, git_state
from vitals.runs.run_folder import SWEEP, now

LOOKS_LIKE_CODE = {".py", ".pyi", ".yaml", ".yml", ".json", ".toml", ".ini", ".cfg", ".txt", ".html", ".css"}
LOOKS_LIKE_CODE |= {".js", ".so", ".pyd", ".c", ".cpp", ".cu", ".h"}
NOT_CODE = ("pyvenv.cfg", SWEEP, "job.json", "status.json", ORIGIN)
"""A folder with one of these is an environment, a sweep, a job, a run or a copy of code."""
MOST_FILES = 20_000
MOST_FOLDERS = 5_000
LARGEST = 2**20
"""Bytes of a file up to which it is copied; a larger one is data, and linked."""


class SweepCode:
    """The copy in the folder of a sweep that was started with `script`, and with the folders `configs` of
    configurations."""

    def __init__(self, sweep: Path, script: str, configs: Sequence[Path]) -> None:
        self.path, self.configs = sweep / "code", configs
        self.from_elsewhere: Path | None = None
        """Where a copy is now that was in its place and not taken here."""
        here, script_file = Path.cwd(), Path(script).absolute()
        own = [script_file.parent] if script_file.is_file() else []
        on_path = [Path(entry).absolute() for entry in sys.path if entry]
        self.sources = []
        for folder in dict.fromkeys([*own, *configs, *(path for path in on_path if path != here)]):
            if folder.is_dir() and not is_installed(folder):
                self.sources.append(folder)
        if not any(here.is_relative_to(source) for source in self.sources):  # a `_target_` may lie there
            self.sources += [file.parent for file in here.glob("*/__init__.py")]
            self.sources += here.glob("*.py")

    @property
    def taken(self) -> str:
        """When the copy was taken; empty where there is none."""
        return str(self._origin().get("taken") or "")

    def _origin(self) -> dict[str, Any]:
        origin = read_json(self.path / ORIGIN, {"root": str, "taken": str})
        return origin if origin.get("root") else {}

    def keep(self) -> list[str]:
        """Copy the code, unless the sweep has its copy already; what has been edited since is returned. A
        copy that was not taken here makes room for one of the code as it is now. `UserError` if there is too
        much of it."""
        files = self._files()
        root = Path(os.path.commonpath([path if path.is_dir() else path.parent for path in self.sources]))
        if self.path.exists() and not _mark(self.path).is_file():
            aside = self.path.with_name(f"code_from_elsewhere_{secrets.token_hex(3)}")
            self.from_elsewhere = self.path.rename(aside)
        if self.taken:
            for compiled in list(self.path.rglob("__pycache__")):  # of which the mark knows nothing
                shutil.rmtree(compiled)
            root = Path(self._origin()["root"])
            pairs = {path: copied(path, self.path) for path in files}
            return [
                os.path.relpath(path)
                for path, copy in pairs.items()
                if path.is_relative_to(root) and (copy == path or not filecmp.cmp(path, copy, shallow=False))
            ]
        for path in files:
            self._copy(path, self.path / path.relative_to(root))
        first = next(path if path.is_dir() else path.parent for path in self.sources)
        state = git_state(first)
        if state["dirty"]:
            done = subprocess.run(["git", "diff", "HEAD", "--binary"], cwd=first, capture_output=True)
            write_atomically(self.path / "changes.diff", done.stdout)
        write_json(self.path / ORIGIN, {"root": str(root), "taken": now(), **state})
        with suppress(OSError):  # without it, a sweep that goes on takes a new copy
            mark = _mark(self.path)
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        return []

    def copied(self, path: Path | str) -> str:
        """What stands for `path` in the copy, where it is there."""
        found = copied(Path(path), self.path)
        return str(path) if found == Path(path) else str(found)

    def environment(self) -> dict[str, str]:
        """What a job finds in its environment, so that it imports the copy."""
        if not self.taken:
            return {}
        # The working folder comes last, after what is installed: see `run_command`.
        entries = [entry for entry in sys.path if entry and Path(entry) != Path.cwd()]
        paths = [self.copied(entry) for entry in entries if self.copied(entry) != entry]
        paths += filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        return {VARIABLE: str(self.path), "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}

    @contextmanager
    def imported_first(self) -> Iterator[None]:
        """Within it, what this process starts or imports anew imports the copy."""
        paths, further = sys.path[:], self.environment().get("PYTHONPATH", "")
        sys.path[:0] = [path for path in further.split(os.pathsep) if path and path not in paths]
        try:
            with environment("PYTHONPATH", further or os.environ.get("PYTHONPATH")):
                yield
        finally:
            sys.path[:] = paths

    def _files(self) -> list[Path]:
        files: dict[Path, None] = {}
        for source in self.sources:
            if source.is_file():
                files[source] = None
            else:
                files |= dict.fromkeys(_in_git(source) or _looking_like_code(source, source in self.configs))
        if len(files) > MOST_FILES:
            raise UserError(f"there are {len(files):,} files in {', '.join(map(str, self.sources))}")
        return list(files)

    def _copy(self, path: Path, to: Path) -> None:
        to.parent.mkdir(parents=True, exist_ok=True)
        if path.stat().st_size > LARGEST:
            with suppress(OSError):  # a file system without links
                to.symlink_to(path)
            return
        shutil.copy2(path, to)
        if path.suffix == ".py" and os.path.isfile(compiled := cache_from_source(str(path))):
            there = Path(cache_from_source(str(to)))
            there.parent.mkdir(exist_ok=True)
            shutil.copy2(compiled, there)  # spares the first job the compiling


def _mark(copy: Path) -> Path:
    """The file in the user's cache that is there if `copy` was taken here, and is as it was then."""
    digest = hashlib.sha256()
    for path in sorted(copy.rglob("*")):
        if "__pycache__" not in path.parts:
            name = os.fsencode(path.relative_to(copy))
            content = os.fsencode(os.readlink(path)) if path.is_symlink() else b""
            content = path.read_bytes() if path.is_file() and not path.is_symlink() else content
            digest.update(b"%d %s %d %s" % (len(name), name, len(content), content))
    return cache_folder() / "code" / digest.hexdigest()


def _in_git(folder: Path) -> list[Path]:
    """The files of `folder` that git tracks, or would; empty where there is no git."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = []
    for name in filter(None, (answer_of(listing, folder) or b"").split(b"\0")):
        path = folder / os.fsdecode(name)
        if path.is_dir():  # a submodule
            files += _looking_like_code(path)
        elif path.is_file():
            inside = [place for place in path.parents if place.is_relative_to(folder)]
            files += [] if any(map(_has_mark, inside)) else [path]  # or it is of an environment, a run …
    return files


def _looking_like_code(folder: Path, with_links: bool = False) -> list[Path]:
    files = []
    for number, (place, folders, names) in enumerate(os.walk(folder, followlinks=with_links)):
        if number > MOST_FOLDERS:
            raise UserError(f"{folder} has more than {MOST_FOLDERS:,} folders")
        hidden = [name for name in folders if name.startswith(".") or name in ("__pycache__", "node_modules")]
        folders[:] = sorted(set(folders) - set(hidden))
        if _has_mark(Path(place)):
            folders.clear()
        else:
            files += [Path(place, name) for name in names if Path(name).suffix in LOOKS_LIKE_CODE]
    return files


def _has_mark(folder: Path) -> bool:
    return any((folder / name).exists() for name in NOT_CODE)
