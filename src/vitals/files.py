"""Files as others find them: written in one step, read with a clear word on what is missing or damaged."""

import csv
import errno
import io
import itertools
import json
import logging
import math
import os
import pickle
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vitals.errors import UserError, nearest

FAILURES = {
    errno.ENOSPC: ("the disk is full", "free some space"),
    errno.EDQUOT: ("the quota of the disk is used up", "free some space"),
    errno.EFBIG: ("it would be larger than files may be here (ulimit -f)", "raise that limit"),
    errno.EROFS: ("the file system is read-only", "make it writable"),
    errno.EACCES: ("there is no permission to write there", "ask for it"),
    errno.EPERM: ("there is no permission to write there", "ask for it"),
    errno.ENOENT: ("its folder is gone", "put it back"),
    errno.ENOTDIR: ("what should be its folder is a file", "move that away"),
    errno.EISDIR: ("a folder has its name", "move that away"),
    errno.ENAMETOOLONG: ("its name is too long", "choose a shorter one"),
    errno.EIO: ("the disk does not work (input/output error)", "mend it"),
}
"""Of the errors of a system that say why nothing can be written: what they mean, and what helps."""

LARGEST = 2**30
"""Bytes of a file that is read whole; the history of a thousand epochs has some ten million."""
OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""Those that come of writing alone."""


class CannotWrite(UserError, OSError):
    """The file at `path` cannot be written, as the system's `error` says: the message says why, what helps,
    and what to do `then`. A command ends with exit code 1."""

    code = 1

    def __init__(self, path: Path, error: OSError, then: str = "start again") -> None:
        number = error.errno or 0
        if number == errno.ENOENT and path.parent.is_dir():  # something else is not there, which it names
            why, help_ = f"{error.filename} is missing", "put it back"
        else:
            why, help_ = FAILURES.get(number, (error.strerror or str(error), "mend that"))
        self.path, self.error = path, error
        super().__init__(f"{path} cannot be written, as {why}: {help_}, then {then}.")


def cannot_write(
    error: BaseException | None, folder: Path = Path(), then: str = "start again"
) -> CannotWrite | None:
    """What to say of `error` where a file could not be written, in `folder` where it names none, and what to
    do `then`; None where it is of another kind. What writes through a library may have the error of the
    system as its context alone, as `torch.save` does."""
    while error is not None:
        if isinstance(error, CannotWrite):
            return CannotWrite(error.path, error.error, then)
        if isinstance(error, OSError) and error.errno in OF_THE_DISK:
            return CannotWrite(Path(error.filename or folder), error, then)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """Within it, an error of the system in writing the file at `path` becomes a `CannotWrite`."""
    try:
        yield
    except CannotWrite:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno and not isinstance(error, UserError):
            raise CannotWrite(path, error) from error
        if (problem := cannot_write(error, path)) is not None:
            raise CannotWrite(path, problem.error) from error
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its place at the end, or goes if something is raised. So a
    reader never sees half of a file, of several writers at the same time one wins, and a cut of the power
    leaves the old file or the new one; which of them, `to_disk` of the folder decides. `CannotWrite` if the
    system cannot write it."""
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with telling(path):
            yield temporary
            if not temporary.is_symlink() and temporary.stat().st_nlink < 2:  # else it is there already
                to_disk(temporary)
            os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def clear_leftovers(folder: Path) -> None:
    """Delete what processes that were killed while they wrote have left in `folder`; none may be writing."""
    for file in folder.rglob("*.tmp"):
        if re.search(r"\.[0-9a-f]{8}\.tmp$", file.name):
            file.unlink(missing_ok=True)


def to_disk(path: Path) -> None:
    """Have the system put on the disk what it still has in memory of a file, or of a folder's names."""
    folder = path.is_dir()
    if folder and os.name != "posix":  # Windows opens none
        return
    number = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # those of a file system that cannot
            raise
    finally:
        os.close(number)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write the whole file at `path` in one step; text in UTF-8, with its line ends as they are."""
    with replacing(path) as temporary:
        # A lone surrogate, as in the name of a file, has no UTF-8.
        temporary.write_bytes(content.encode(errors="replace") if isinstance(content, str) else content)


def copy_atomically(source: Path, path: Path) -> None:
    """Copy the file `source` to `path` in one step."""
    with replacing(path) as temporary:
        shutil.copyfile(source, temporary)


def append_line(path: Path, line: str) -> None:
    """Add `line` and a line end to the text at `path`; its folder must be there. `CannotWrite` if the system
    cannot."""
    with telling(path), path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def save_checkpoint(trainer: Any, path: Path, weights_only: bool = False, **changes: Any) -> None:
    """Save at `path`, whose folder's own folder must be there, what `trainer.save_checkpoint` saves, in one
    step; to be called in all of its processes. `CannotWrite` if the system cannot.

    `weights_only` leaves out the states of optimizers, schedules, loops and callbacks; `changes` are keys of
    the checkpoint with what they are to hold instead. (Lightning itself writes to the folder for temporary
    files, and moves the file from there, which is no one step where that lies on another disk.) A strategy
    with a way of its own to save goes that way.
    """
    import torch  # this file is read without it
    from lightning.pytorch.plugins.io import TorchCheckpointIO
    from lightning.pytorch.strategies import Strategy

    content = trainer._checkpoint_connector.dump_checkpoint(weights_only) | changes
    strategy = trainer.strategy
    plain = type(strategy).save_checkpoint is Strategy.save_checkpoint
    if not plain or type(strategy.checkpoint_io) is not TorchCheckpointIO:
        strategy.save_checkpoint(content, path)
    elif trainer.is_global_zero:
        with telling(path):
            path.parent.mkdir(exist_ok=True)
        with replacing(path) as temporary:
            try:
                with temporary.open("wb") as file:
                    torch.save(content, file)
            except (AttributeError, pickle.PicklingError):  # hyper-parameters: it leaves them out
                strategy.save_checkpoint(content, temporary)
    strategy.barrier()


def write_json(path: Path, content: Any, over: bool = False) -> None:
    """Write `content` for people to read, in one step, or where the disk is full, with `over`, over the file
    as it stands, in its own blocks; `CannotWrite` if the system cannot."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    try:
        write_atomically(path, text)
    except CannotWrite:
        data = text.encode(errors="replace")
        with suppress(OSError), path.open("r+b") as file:
            if over and len(data) <= 512 * getattr(os.fstat(file.fileno()), "st_blocks", 0):
                file.write(data)
                file.truncate()
                return
        raise


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file of `columns`, in one step; what a row lacks is an empty cell."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def renamed(path: Path, word: str) -> Path:
    """Rename `path` to `<word>_<name>`, or `<word>2_<name>` where there is one, and so on; the new path."""
    names = (f"{word}{number if number > 1 else ''}_{path.name}" for number in itertools.count(1))
    return path.rename(next(new for name in names if not (new := path.with_name(name)).exists()))


def set_aside(path: Path) -> None:
    """Rename what is damaged at `path` to `damaged_<name>`, as `renamed` has it."""
    said = "%s is damaged: it is now %s, and what can be read of it is kept"
    logging.getLogger(__name__).warning(said, path, renamed(path, "damaged"))


def log_folder(trainer: Any) -> Path | None:
    """Where what belongs to the training of a Lightning `trainer` is written; asks all of its processes.

    That is what a callback of it calls its `log_folder`, or the folder of its logger. None where its owner
    wants no files: with `fast_dev_run`, and without a logger unless `default_root_dir` was given; and where
    none can be written, see `local_folder`.
    """
    place = trainer.log_dir
    for callback in trainer.callbacks:
        if folder := getattr(callback, "log_folder", None):
            return Path(folder)
    if trainer.fast_dev_run or (trainer.logger is None and Path(trainer.default_root_dir) == Path.cwd()):
        return None
    folder, logger = local_folder(place or trainer.default_root_dir), trainer.logger
    if folder and logger is not None and not getattr(logger, "log_dir", None):
        return folder / str(logger.name) / str(logger.version)  # as Lightning places checkpoints then:
    return folder  # one store may be of many runs


def local_folder(place: Any) -> Path | None:
    """The folder at `place`, a path or an address; None where it is that of a store elsewhere, such as
    `s3://…`, or where nothing may be written, as in a working folder that is read-only."""
    if "://" in str(place):
        return None
    folder = Path(place)
    there = next((each for each in (folder, *folder.absolute().parents) if os.path.exists(each)), folder)
    return folder if there.is_dir() and os.access(there, os.W_OK | os.X_OK) else None


NUMBER = (int, float)
Kinds = Mapping[str, type | tuple[type, ...]]
STATUS: Kinds = {
    **dict.fromkeys(("status", "started", "ended", "error", "weights", "stopped_early", "stopped_by"), str),
    **dict.fromkeys(("epoch", "step", "training_seconds"), NUMBER),
    **dict.fromkeys(("metrics", "loggers"), dict),
}
"""What a run's `status.json` holds, among other things."""


def text_of(path: Path, errors: str = "strict") -> str:
    """The text of a file of ordinary size: a pipe or a device would never come to its end. `OSError` if there
    is no such file, or it is none; `ValueError` if it is no text in UTF-8, unless `errors` says what to do
    then."""
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, "it is missing, or no file", str(path))
    if path.stat().st_size > LARGEST:
        raise OSError(f"{path} is larger than {LARGEST >> 20} MiB")
    return path.read_text(encoding="utf-8-sig", errors=errors)


def read_json(path: Path, kinds: Kinds | None = None) -> dict[str, Any]:
    """What `write_json` wrote of a dictionary; empty where there is no such file, or it is damaged. A value
    that is not of its kind in `kinds`, null apart, is left out; a list must be one of strings."""
    try:
        content = json.loads(text_of(path))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {key: value for key, value in content.items() if _is_of((kinds or {}).get(key), value)}


def _is_of(kind: type | tuple[type, ...] | None, value: Any) -> bool:
    if kind is None or value is None:
        return True
    if isinstance(value, list):
        return kind is list and all(isinstance(part, str) for part in value)
    return isinstance(value, kind) and not (isinstance(value, float) and not math.isfinite(value))


def read_status(path: Path) -> dict[str, Any]:
    """What a run's `status.json` says, of values as they should be; empty where it is missing or damaged."""
    status = read_json(path, STATUS)
    if metrics := status.get("metrics"):
        status["metrics"] = {name: value for name, value in metrics.items() if isinstance(value, NUMBER)}
    return status


def read_table(path: Path, *numeric: str) -> tuple[list[dict[str, str]], bool]:
    """The rows of a CSV file, and whether these are all that is in it; `OSError` if there is no such file.
    Left out are rows that lack a finite number in a column of `numeric`, and what is after a place where the
    file cannot be read."""
    text = text_of(path, "replace").replace("\r\n", "\n")
    rows: list[dict[str, str]] = []
    table, named = csv.DictReader(io.StringIO(text)), False
    with suppress(csv.Error):  # a NUL, or a cell without an end
        named = set(numeric) <= set(table.fieldnames or ())
        for row in table:
            cells = {name: cell for name, cell in row.items() if name is not None and cell is not None}
            if all(math.isfinite(_numbers(cells).get(name, math.nan)) for name in numeric):
                rows.append(cells)
    return rows, named and len(rows) == len(text.splitlines()) - 1 and "\ufffd" not in text


def mended_table(path: Path, *numeric: str) -> list[dict[str, str]]:
    """The rows of a table that is to be gone on with; empty where there is none.

    A damaged one is set aside, and what could be read of it takes its place; `numeric` as of `read_table`.
    """
    try:
        rows, whole = read_table(path, *numeric)
    except OSError:
        rows, whole = [], not os.path.lexists(path)
    if not whole:
        set_aside(path)
        write_table(path, list(dict.fromkeys(name for row in rows for name in row)), rows)
    return rows


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The rows of a `metrics.csv`, one an epoch; a cell that is empty or no number is left out of its row.
    `OSError` if there is no such file, `ValueError` if it holds no row."""
    rows, whole = read_table(path, "epoch")
    if not rows and not whole:
        raise ValueError("it is damaged")
    numbers = map(_numbers, rows)
    return [{k: v for k, v in row.items() if k != "step" or math.isfinite(v)} for row in numbers]


def cache_folder() -> Path:
    """Where what can be made again is kept for later commands; it need not be there."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitals"


def chose_average(status: Mapping[str, Any]) -> bool:
    """Whether the run whose `status.json` this is ended with the averaged weights, not an epoch's."""
    return bool(status.get("weights") == "average")


def _numbers(row: dict[Any, Any]) -> dict[str, float]:
    numbers = {}
    for name, text in row.items():
        with suppress(TypeError, ValueError):
            numbers[name] = float(text)
    return numbers


def require_inside(folder: Path, paths: Iterable[Path]) -> None:
    """Make sure that none of `paths` in `folder` leads out of it, as in one from elsewhere: what is written
    there would go over something else; `UserError` naming the first that does."""
    here = folder.resolve()
    for path in paths:
        target = Path(os.path.realpath(path)) if path.is_symlink() else here
        if not target.is_relative_to(here):
            raise UserError(
                f"{path} leads out of its folder, to {target}, where nothing is written: put the file itself "
                f"in its place."
            )


def require_writable(folder: Path, key: str) -> None:
    """Make sure, without writing, that `folder`, which need not be there yet and is named by `key`, can be
    written to; `UserError` saying why not."""
    here = folder.absolute()
    place = next(path for path in (here, *here.parents) if os.path.lexists(path))
    why = "" if os.access(place, os.W_OK | os.X_OK) else f"there is no permission to write in {place}"
    if why := why if place.is_dir() else f"{place} is no folder":
        raise UserError(f"{folder} cannot be made: {why}; name another one with {key}=<folder>.")


def existing_folder(path: Path | str, key: str, what: str, or_file: bool = False) -> Path:
    """The folder at `path`, where `~` is the home folder, that the user gave as `key`; with `or_file` it may
    be a file. `UserError` if there is none, with the nearest names beside it, or else with `what` should be
    named, such as `the folder of a run, as in logs/<name>/`."""
    folder = Path(str(path)).expanduser()  # Hydra reads [a] as a list, and 2026 as a number
    try:
        if folder.is_dir() or (or_file and folder.is_file()):
            return folder
        children = list(folder.parent.iterdir()) if folder.parent.is_dir() else []
    except OSError as error:  # nobody may look there, or no name is that long
        raise UserError(f"{key}={path} cannot be read: {error.strerror}.") from None
    others = {child.name: child for child in children if or_file or child.is_dir()}
    near = " or ".join(str(others[name]) for name in nearest(folder.name, others))
    hint = f"did you mean {near}?" if near else f"name {what}."
    raise UserError(f"{key}={path} is not a folder{' or a file' * or_file}: {hint}")
