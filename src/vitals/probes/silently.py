"""What a training says and writes while it is run beside itself: nothing."""

import builtins
import io
import logging
import os
import pdb
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch


class _Nowhere(io.TextIOBase):
    def write(self, text: str) -> int:
        return len(text)


@contextmanager
def silently() -> Iterator[None]:
    """Inside the block nothing that is printed or logged gets out, and no breakpoint is stopped at, where the
    question could not be seen: a step says what it has to say when the training runs it."""
    if isinstance(sys.stdout, _Nowhere):
        yield
        return
    level, nowhere = logging.root.manager.disable, _Nowhere()
    logging.disable()
    try:
        with (
            redirect_stdout(nowhere),
            redirect_stderr(nowhere),
            patch.object(sys, "breakpointhook", _goes_on),
            patch.object(pdb, "set_trace", _goes_on),
        ):
            yield
    finally:
        logging.disable(level)


@contextmanager
def writing_nothing() -> Iterator[None]:
    """Inside the block nothing is written to files that this thread opens, but into folders that `tempfile`
    has made."""
    with (
        patch.object(builtins, "open", _opening(builtins.open)),
        patch.object(io, "open", _opening(io.open)),
        patch.object(torch, "save", _saving(torch.save)),
    ):
        yield


def _opening(real: Callable[..., Any]) -> Callable[..., Any]:
    here = threading.get_ident()

    def opened(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        writes = set(mode) & set("wax+") and threading.get_ident() == here and "opener" not in options
        if not writes or not _stays(file):
            return real(file, mode, *arguments, **options)
        return real(os.devnull, mode.translate(str.maketrans("ax", "ww")), *arguments, **options)

    return opened


def _saving(real: Callable[..., Any]) -> Callable[..., Any]:
    here = threading.get_ident()

    def saved(thing: Any, file: Any, *arguments: Any, **options: Any) -> None:
        if threading.get_ident() != here or not _stays(file):
            real(thing, file, *arguments, **options)

    return saved


def _stays(file: Any) -> bool:
    """Whether it is a path, and not in a folder that `tempfile` has made for a while."""
    if not isinstance(file, str | os.PathLike):
        return False
    places = Path(os.path.abspath(file)).parents
    return not any(re.fullmatch(r"tmp[a-z0-9_]{8}", place.name) for place in places)


def _goes_on(*arguments: Any, **options: Any) -> None:
    return None
