"""Run code without disturbing anybody's random numbers."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def isolated_rng(seed: int | None = None) -> Iterator[None]:
    """Restore the random states of torch (CPU and every CUDA device), NumPy and Python on the way out.

    Unlike Lightning's `isolate_rng`, it restores them after an exception too. With `seed`, torch starts
    inside the block from that seed.
    """
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002 (others may use it)
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            if seed is not None:
                torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
