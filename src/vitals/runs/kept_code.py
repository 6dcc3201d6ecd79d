"""The copy of the code that the jobs of a sweep run: where it lies, and where it came from."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vitals.files import read_json

ORIGIN = "origin.json"
"""In the folder of a copy: `root`, the folder whose place it takes, `taken`, when, and git's `commit` and
`dirty` at that time."""
VARIABLE = "VITALS_CODE"
"""Of the environment of a job: the folder of the copy that it runs."""


@contextmanager
def environment(name: str, value: str | None) -> Iterator[None]:
    """Within it, the variable `name` of the environment has this value, or is not there."""
    before = os.environ.pop(name, None)
    os.environ.update({} if value is None else {name: value})
    try:
        yield
    finally:
        os.environ.pop(name, None)
        os.environ.update({} if before is None else {name: before})


def origin_of(path: Path) -> tuple[Path, dict[str, Any]] | None:
    """The copy in which `path` lies, and what its `origin.json` says; None of any other path."""
    folder = next((place for place in path.parents if (place / ORIGIN).is_file()), None)
    return None if folder is None else (folder, read_json(folder / ORIGIN))


def original(path: Path) -> Path:
    """The file that a path in a copy was copied from; of any other path itself."""
    found = origin_of(path.absolute())
    if found is None or "root" not in found[1]:
        return path
    return Path(found[1]["root"], path.absolute().relative_to(found[0]))


def copied(path: Path, copy: Path | None = None) -> Path:
    """The file that stands for `path` in `copy`, by default the one that this job runs; else itself."""
    if copy is None and VARIABLE not in os.environ:
        return path
    copy = copy or Path(os.environ[VARIABLE])
    root = read_json(copy / ORIGIN).get("root")
    if root is None or not path.absolute().is_relative_to(root):
        return path
    there = copy / path.absolute().relative_to(root)
    return there if there.exists() else path
