"""Random states: take them, put them back, and run code without disturbing anybody's random numbers, nor what
else lies around the training."""

import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from vitals.probes.alone import alone
from vitals.probes.surroundings import surroundings_kept


def raw_states() -> dict[str, Any]:
    """The states of torch (CPU, and CUDA where it is in use), NumPy and Python; cheap enough for every
    batch."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "numpy": np.random.get_state(legacy=False),  # noqa: NPY002 (others use it)
        "python": random.getstate(),
    }


def plain_states(states: dict[str, Any]) -> dict[str, Any]:
    """The same in tensors and plain types, for a checkpoint."""
    numpy_state = states["numpy"]
    key = np.asarray(numpy_state["state"]["key"]).tolist()
    return {**states, "numpy": {**numpy_state, "state": {**numpy_state["state"], "key": key}}}


def set_random_states(states: dict[str, Any]) -> None:
    """Put back what `raw_states` took."""
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))


def seed_torch(seed: int) -> None:
    """Start torch's random numbers, on the CPU and on CUDA where that is in use, from `seed`.

    `torch.manual_seed` would leave it behind for devices that start later, with the place of the call, which
    takes longer than all else that a look into a small network does.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


@contextmanager
def isolated_rng(seed: int | None = None, together: bool = False) -> Iterator[None]:
    """Restore all random states on the way out, and the user's `surroundings_kept`, which may have generators
    of their own; with `seed`, torch starts inside the block from that. Where not all processes come here
    `together`, this one is `alone` inside."""
    states = raw_states()
    try:
        if seed is not None:
            seed_torch(seed)
        with surroundings_kept(), nullcontext() if together else alone():
            yield
    finally:
        set_random_states(states)
