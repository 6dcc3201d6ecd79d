"""A clock for limits of time: one that stands still while other programs have the processor."""

import time
from pathlib import Path

WAITED = Path("/proc/thread-self/schedstat")
"""Of Linux: nanoseconds that this thread ran, those that it was ready to and did not, and how often."""


def own_time() -> float:
    """Seconds since some moment, less those in which this thread waited for its turn at a processor; where
    the system does not tell, the usual clock. Sleeping, reading and waiting for an accelerator count."""
    try:
        waited = int(WAITED.read_bytes().split()[1])
    except (OSError, IndexError, ValueError):
        waited = 0
    return time.perf_counter() - waited / 1e9
