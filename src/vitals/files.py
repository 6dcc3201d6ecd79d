"""Files as others find them: written in one step, read with a clear word on what is missing or damaged."""

from __future__ import annotations

import csv
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vitals.errors import UserError, nearest


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its place at the end, or goes if something is raised.

    So a reader never sees half of a file, and of several writers at the same time one wins.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write the whole file at `path` in one step; text in UTF-8, with its line ends as they are."""
    with replacing(path) as temporary:
        # A lone surrogate, as in the name of a file, has no UTF-8.
        temporary.write_bytes(content.encode(errors="replace") if isinstance(content, str) else content)


def write_json(path: Path, content: Any) -> None:
    """Write `content` for people to read, in one step."""
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def log_folder(trainer: Any) -> Path | None:
    """Where what belongs to the training of a Lightning `trainer` is written; asks all of its processes.

    That is what a callback of it calls its `log_folder`, or the folder of its logger. None where its owner
    wants no files: with `fast_dev_run`, and without a logger unless `default_root_dir` was given.
    """
    place = trainer.log_dir
    for callback in trainer.callbacks:
        if folder := getattr(callback, "log_folder", None):
            return Path(folder)
    if trainer.fast_dev_run or (trainer.logger is None and Path(trainer.default_root_dir) == Path.cwd()):
        return None
    folder, logger = Path(place or trainer.default_root_dir), trainer.logger
    if logger is not None and not hasattr(logger, "log_dir"):  # as Lightning itself places checkpoints then
        shared = folder.absolute() == Path.cwd()
        return folder / str(logger.name) / str(logger.version) if shared else folder
    return folder


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote of a dictionary; empty where there is no such file, or it is damaged."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.csv`, one an epoch; a cell that is empty or no number is left out of its row.

    Raises:
        OSError: if there is no such file.
        ValueError: if it is no text.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = [_numbers(row) for row in csv.DictReader(file)]
    return [row for row in rows if "epoch" in row]


def chose_average(status: Mapping[str, Any]) -> bool:
    """Whether the run whose `status.json` this is ended with the averaged weights, not an epoch's.

    It says so as `weights` once the run has chosen. Before that was recorded, the test alone told.
    """
    if "weights" in status:
        return bool(status["weights"] == "average")
    return bool((status.get("metrics") or {}).get("test/averaged"))


def _numbers(row: dict[Any, Any]) -> dict[str, float]:
    numbers = {}
    for name, text in row.items():
        try:
            numbers[name] = float(text)
        except (TypeError, ValueError):
            continue
    return numbers


def existing_folder(path: Path | str, key: str, what: str) -> Path:
    """The folder at `path`, which the user gave as `key`.

    Args:
        path: as it was given; `~` is the home folder.
        key: of the command line.
        what: should be there, such as `run`.

    Raises:
        UserError: if there is none, with the nearest names beside it.
    """
    folder = Path(str(path)).expanduser()  # Hydra reads [a] as a list, and 2026 as a number
    if folder.is_dir():
        return folder
    above = folder.parent
    others = {child.name: child for child in above.iterdir() if child.is_dir()} if above.is_dir() else {}
    near = " or ".join(str(others[name]) for name in nearest(folder.name, others))
    where = "logs/<name>/sweeps/" if what == "sweep" else "logs/<name>/"
    hint = f"did you mean {near}?" if near else f"name the folder of a {what}, as in {where}."
    raise UserError(f"{key}={path} is not a folder: {hint}")
