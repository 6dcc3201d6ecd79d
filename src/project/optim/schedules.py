"""Learning-rate schedules as pure functions: the share of the base rate after so many epochs.

Each takes `epoch`, the epochs trained so far with their fraction, and `total`, the epochs of the whole run.
Nothing is remembered between calls, so a resumed run has the same rates as one that never stopped. Sources:
cs231n "Neural Networks Part 3", section "Annealing the learning rate", unless said otherwise.
"""

import math

ROUNDING = 1e-9
"""Epochs by which a quotient of steps may miss the whole number that it stands for."""


def constant(epoch: float, total: float) -> float:
    """1 throughout."""
    return 1.0


def step(epoch: float, total: float, every: int, factor: float) -> float:
    """Times `factor` at the end of every `every` epochs."""
    return factor ** math.floor(epoch / every)


def exponential(epoch: float, total: float, k: float) -> float:
    """e^(−k·epoch)."""
    return math.exp(-k * epoch)


def inverse_time(epoch: float, total: float, k: float) -> float:
    """1 / (1 + k·epoch)."""
    return 1 / (1 + k * epoch)


def cosine(epoch: float, total: float, final: float = 0.0) -> float:
    """Half a cosine from 1 down to `final` (Loshchilov and Hutter, 2017, equation 5, without restarts)."""
    return final + (1 - final) * (1 + math.cos(math.pi * min(epoch / total, 1))) / 2


def one_cycle(epoch: float, total: float, rise: float, initial: float, final: float) -> float:
    """Half a cosine up from `initial` to 1 in the first `rise` of the run, then one down to `final`, as
    torch's `OneCycleLR` has it after Smith and Topin (2019)."""
    progress = min(epoch / total, 1)
    if progress < rise:
        return initial + (1 - initial) * (1 - math.cos(math.pi * progress / rise)) / 2
    return final + (1 - final) * (1 + math.cos(math.pi * (progress - rise) / (1 - rise))) / 2


def linear(epoch: float, total: float, rise: float, initial: float, final: float) -> float:
    """Straight up from `initial` to 1 in the first `rise` of the run, then straight down to `final`."""
    progress = min(epoch / total, 1)
    if progress < rise:
        return initial + (1 - initial) * progress / rise
    return final + (1 - final) * (1 - progress) / (1 - rise)


def late_rate(
    epoch: float, start: float, rate: float, low: float | None, cycle_epochs: float | None
) -> float:
    """The rate of the later epochs, in which weights are averaged: held, or falling in cycles.

    Args:
        epoch: `start` or later.
        start: epochs after which it takes over.
        rate: that is held, or from which every cycle falls.
        low: that a cycle falls to in a straight line (Izmailov et al., 2018, section 3.2); None holds `rate`.
        cycle_epochs: length of a cycle.
    """
    if low is None or cycle_epochs is None:
        return rate
    cycles = (epoch - start) / cycle_epochs
    return rate + (low - rate) * max(0.0, cycles - math.floor(cycles + ROUNDING))


def warmup(epoch: float, epochs: float) -> float:
    """Linear from 0 to 1 over the first `epochs` epochs (Goyal et al., 2017); 1 throughout for 0."""
    return min(1.0, epoch / epochs) if epochs else 1.0


def momentum_ramp(epoch: float, start: float, end: float, epochs: float, total: float = math.inf) -> float:
    """Linear from `start` to `end` over the first `epochs` of at most `total` epochs, then constant."""
    return start + (end - start) * min(1.0, epoch / min(epochs, total))
