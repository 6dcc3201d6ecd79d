"""What a training says while it is run beside itself: nothing."""

import io
import logging
import pdb
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any
from unittest.mock import patch


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


def _goes_on(*arguments: Any, **options: Any) -> None:
    return None
