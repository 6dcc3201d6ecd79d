"""Arrays on disk, such as decoded images: made once, and mapped where they do not fit in memory.

A cache file belongs to one source: the array as `numpy.save` writes it, and after it, as JSON, what else is
known, and a key made of the names, sizes and times of the source's files. A file that is truncated, foreign,
or of another key is not used.

Not `joblib.Memory`: it loads with pickle, which runs whatever code a file brings along, keeps the arrays of
every earlier state of a folder, and ends the run where the cache folder cannot be made.
"""

import ctypes
import hashlib
import json
import math
import mmap
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vitals.errors import UserError
from vitals.files import cache_folder, replacing
from vitals.runs.memory import available_memory, gib
from vitals.terminal import status_line

COPIES = 4
"""Of an array, in memory at the same time at most: as read, a part of it, padded, and in another layout."""

BYTES_AT_ONCE = 2**27
"""Of rows that are read and not yet stored."""


class Made(NamedTuple):
    """An array of bytes as it is made: of `shape`, its uint8 `rows`, each of `shape[1:]`, made as they are
    gone through, and `facts` for JSON, complete when they have been."""

    shape: tuple[int, ...]
    rows: Iterable[np.ndarray]
    facts: dict[str, Any]


class Kept(NamedTuple):
    """An array of bytes, in memory, or `mapped` from the cache file."""

    array: Tensor
    facts: dict[str, Any]
    mapped: bool


def key_of(files: Iterable[Path | str], *settings: object) -> str:
    """A key that changes when a file is added, removed, renamed or rewritten, or a setting changes."""
    digest = hashlib.sha256(repr(settings).encode())
    for file in files:
        digest.update(os.fsencode(file))
        with suppress(OSError):  # a link that leads nowhere
            facts = os.stat(file)
            digest.update(f"\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def made_of_files(
    files: Sequence[str],
    read: Callable[[str], np.ndarray | str],
    row_shape: tuple[int, ...],
    judge: Callable[[dict[str, str], int], object],
) -> Made:
    """One row of `row_shape` of each file, in their order, read by several threads; zeros of those that
    cannot be read: `read` says why instead, and the fact `unreadable` has it, by file. `judge` gets these and
    the number of files read so far, to raise what ends the reading."""
    unreadable: dict[str, str] = {}
    at_once = min(1000, 1 + BYTES_AT_ONCE // math.prod(row_shape))

    def rows() -> Iterator[np.ndarray]:
        with ThreadPoolExecutor() as pool, warnings.catch_warnings(), status_line("reading files") as say:
            warnings.simplefilter("ignore")  # of a decoder, about files that are odd and yet readable
            for start in range(0, len(files), at_once):
                say(f"reading files: {start:,} of {len(files):,}")
                several = files[start : start + at_once]
                read_rows = list(pool.map(read, several))
                bad = zip(several, read_rows, strict=True)
                unreadable.update((file, why) for file, why in bad if isinstance(why, str))
                judge(unreadable, start + len(several))
                nothing = np.zeros(row_shape, np.uint8)
                yield from (nothing if isinstance(row, str) else row for row in read_rows)

    return Made((len(files), *row_shape), rows(), {"unreadable": unreadable})


def cached(source: str, key: str, make: Callable[[], Made], mapped: bool | None = None) -> Kept:
    """The array of `source`: from the cache where it holds it under `key` (see `key_of`), else of `make` and
    stored.

    The source, such as the path of a folder, names the cache file, so that one that has changed replaces its
    own. `mapped` says whether the array is mapped from that; None does so where it would not fit in memory.
    `UserError` if it fits neither there nor on the disk of the cache.
    """
    folder = cache_folder()
    path = folder / f"{hashlib.sha256(os.fsencode(source)).hexdigest()[:16]}.npy"
    if found := _load(path, key, mapped):
        return found
    made = make()
    size = math.prod(made.shape)
    with suppress(OSError):  # a disk that is full or read-only is no error
        folder.mkdir(parents=True, exist_ok=True)
        if size < shutil.disk_usage(folder).free:
            with replacing(path) as temporary:  # in one step, for several jobs can start at once
                _store(temporary, made, key)
            if found := _load(path, key, mapped):
                return found
            made = make()
    if mapped or COPIES * size > available_memory():
        raise UserError(
            f"{source} takes {gib(COPIES * size)} of memory, or {gib(size)} on the disk of {folder}, which "
            f"neither has: take less or smaller data, or set XDG_CACHE_HOME to a folder on a larger disk."
        )
    array = np.empty(made.shape, dtype=np.uint8)
    for index, row in enumerate(made.rows):
        array[index] = row
    return Kept(torch.from_numpy(array), made.facts, mapped=False)


def will_need(array: Tensor, rows: Tensor) -> None:
    """Have the system begin to read `rows` (int64, in any order) of a mapped `array` (M×…, contiguous), so
    that their user waits for no single page."""
    if len(rows):
        ordered, size = rows.sort().values, array[0].nbytes
        apart, end = ordered.diff() > 1, torch.tensor([True])
        firsts, lasts = ordered[torch.cat([end, apart])], ordered[torch.cat([apart, end])]
        for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True):
            _advise(array, first * size, (last - first + 1) * size, "MADV_WILLNEED")


def _advise(array: Tensor, start: int, length: int, what: str) -> None:
    """Tell the system how `length` bytes of a mapped array from `start` on will be read."""
    if madvise := _madvise():
        address = array.data_ptr() + start
        before = address % mmap.PAGESIZE
        madvise(ctypes.c_void_p(address - before), ctypes.c_size_t(length + before), getattr(mmap, what))


@cache
def _madvise() -> Any:
    """The function of the system's library; `mmap.madvise` wants the file, which a tensor does not name."""
    return getattr(ctypes.CDLL(None), "madvise", None) if os.name == "posix" else None  # Windows takes none


def _load(path: Path, key: str, mapped: bool | None) -> Kept | None:
    try:
        if mapped is None:
            mapped = COPIES * path.stat().st_size > available_memory()
        with path.open("rb") as file:
            # To be read alone: what could be written to counts as memory, and may be no larger than that.
            array = np.load(path, mmap_mode="r") if mapped else np.load(file)
            if mapped:
                file.seek(array.offset + array.nbytes)
            facts = json.load(file)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            kept = Kept(torch.from_numpy(array), facts, mapped) if facts.pop("key") == key else None
        if kept and mapped:
            # Or the system reads megabytes around every image, which come from anywhere in the file.
            _advise(kept.array, 0, kept.array.nbytes, "MADV_RANDOM")
        return kept
    except Exception:  # whatever a foreign or truncated file makes of the loader, it is no cache of ours
        return None


def _store(path: Path, made: Made, key: str) -> None:
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": made.shape}
        np.lib.format.write_array_header_1_0(file, header)
        for row in made.rows:
            file.write(row.tobytes())
        file.write(json.dumps({**made.facts, "key": key}).encode())
