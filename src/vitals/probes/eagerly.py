"""How anything beside the training is run: few times, in shapes of its own."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def eagerly() -> Iterator[None]:
    """Without compilation, and without cuDNN's trial of all its algorithms for every new shape
    (`torch.backends.cudnn.benchmark`), which takes longer than what is run here a few times."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = False
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.backends.cudnn.benchmark = before
