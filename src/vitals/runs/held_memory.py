"""What a script's process does with its memory: what torch loads stays, and what tensors free is kept."""

import atexit
import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Iterator

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names that glibc's mallopt has for the bytes from which freed memory goes back to the system."""


@contextlib.contextmanager
def importing_torch() -> Iterator[None]:
    """Import torch within it as a script should, looking for no garbage meanwhile: it took 1.3 of 5.8 s."""
    first = "torch" not in sys.modules
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
    if first:
        hold_memory()


def hold_memory() -> None:
    """Look for no garbage among what has been imported, a million objects that stay, and let glibc keep what
    tensors have freed, as torch does on a GPU: the system would hand it out again page by page in each step,
    up to 4 of 72 processor milliseconds of the default network (measured). `MALLOC_` variables of the user's
    count more."""
    gc.freeze()
    atexit.register(gc.unfreeze)  # or what a library lets go of last counts as a leak
    if not any(name.startswith("MALLOC_") for name in os.environ):
        with contextlib.suppress(OSError, AttributeError):  # not glibc
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**30)
            ctypes.CDLL(None).mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
