"""How fast the training goes, and how much memory it takes."""

from __future__ import annotations

import sys
import time

import torch


class Speed:
    """Counts samples and the seconds between the ends of successive batches.

    Nothing waits for the device: over many steps the host cannot run ahead of it.
    """

    def __init__(self) -> None:
        self.samples, self.seconds = 0, 0.0
        self.last: float | None = None

    def after_batch(self, samples: int) -> None:
        """A batch of `samples`, over all processes, has been trained on."""
        now = time.perf_counter()
        if self.last is not None:
            self.samples += samples
            self.seconds += now - self.last
        self.last = now

    def pause(self) -> None:
        """What follows, up to the end of the next batch, is not training."""
        self.last = None

    def figures(self, device: torch.device) -> dict[str, float]:
        """`images_per_second` since the last call, and `memory_gib`, the peak so far: of the GPU, or of the
        process."""
        found = {"images_per_second": self.samples / self.seconds} if self.seconds else {}
        self.samples, self.seconds = 0, 0.0
        memory = _peak_memory(device)
        return found | ({"memory_gib": memory / 2**30} if memory else {})


def _peak_memory(device: torch.device) -> int:
    """Bytes; 0 where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
