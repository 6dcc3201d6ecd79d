"""How much the training loss wiggles from batch to batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

WINDOW = 15
"""Steps over which the loss is smoothed."""


def loss_noise(losses: Sequence[float], window: int = WINDOW) -> float | None:
    """Standard deviation of the loss around its moving average, as a share of that average.

    Source: cs231n, "Neural Networks Part 3", wiggle of the loss and batch size; spec M2.

    Args:
        losses: of successive steps.
        window: steps in a moving average.

    Returns:
        None for fewer than two windows, or where a loss is not finite or the average not positive.
    """
    if len(losses) < 2 * window or not all(map(math.isfinite, losses)):
        return None
    half = window // 2
    squares, means = 0.0, 0.0
    places = range(half, len(losses) - half)
    for place in places:
        around = losses[place - half : place + half + 1]
        mean = sum(around) / len(around)
        # A value takes part in its own average, which hides a share of 1/window of its variance.
        squares += (losses[place] - mean) ** 2 / (1 - 1 / len(around))
        means += mean
    mean = means / len(places)
    return math.sqrt(squares / len(places)) / mean if mean > 0 else None
