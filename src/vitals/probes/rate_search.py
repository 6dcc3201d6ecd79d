"""A learning rate that has been tried: of those on a grid, one at which short trainings lower the loss."""

import math
from collections.abc import Callable

from vitals.own_time import own_time

STEPS = 20
"""Of each trial."""
FURTHEST = 16
"""Places of the grid, eight powers of ten, that the search goes away from the rate it begins at."""
LOWERED = 0.01
"""Share of the first loss that a trial must take off to count."""
LEAPS = 1.8
"""Times as long as later ones that the first steps of an optimizer are, from where on the best rate over a
few of them is not too fast for many: half a step of the grid."""
SECONDS = 10.0
"""That a search may take."""


def working_rate(
    loss_after: Callable[[float, float], float],
    start: float,
    rate: float,
    higher: bool,
    seconds: float = SECONDS,
    leaps: float = 1.0,
) -> tuple[float, float]:
    """A rate above `rate` where `higher`, else below, at which a short training lowers the loss from `start`,
    with a margin, and the loss after it; NaN if none was found. `loss_after` gives the loss after `STEPS`
    steps at a rate, always from the same start on the same batches: NaN or infinite where it diverges, or
    where `own_time` comes to the second argument. The rates tried are 1 and 3 times the powers of ten: first
    a tenth of the last one each time, or ten times as much, until the loss gets worse again, then those
    beside the best. The answer is a third of the best, for what is best over a few steps is too fast for
    many, or the best where that does nothing, or where the first steps are `leaps` times as long as later
    ones."""
    end = own_time() + seconds
    losses: dict[int, float] = {}
    enough = start - LOWERED * abs(start)

    def loss(place: int) -> float:
        if place not in losses:
            found = loss_after(_rate(place), end) if own_time() < end else math.inf
            losses[place] = found if math.isfinite(found) else math.inf
        return losses[place]

    direction = 1 if higher else -1
    places = 2 * math.log10(rate)
    first = math.floor(places + 1e-6) + 1 if higher else math.ceil(places - 1e-6) - 1
    best = first
    for place in range(first, first + direction * (FURTHEST + 1), 2 * direction):
        best = min(best, place, key=loss)
        # Far too high, no rate lowers the loss at first; far too low, none changes it.
        if place != best and (loss(best) < enough or (higher and loss(place) > 2 * abs(start))):
            break
    if not loss(best) < enough:
        return math.nan, math.nan
    best = min(best, best - 1, best + 1, key=loss)
    found = best - 1 if leaps < LEAPS and loss(best - 1) < enough else best
    return _rate(found), loss(found)


def rate_helps(higher: bool, rate: float, works: float) -> bool:
    """Whether `works`, what `working_rate` found, is another rate in the direction that was asked for."""
    return math.isfinite(works) and (works > rate) is higher


def rate_remedy(higher: bool, rate: float, works: float) -> str:
    """What to do about a learning rate, too low where `higher`; `works` is what `working_rate` found."""
    remedy = f"{'Raise' if higher else 'Lower'} the learning rate from {rate:.3g}"
    if rate_helps(higher, rate, works):
        return f"{remedy} to about {works:g}: from the same start, {STEPS} steps at it lower the loss."
    if higher and math.isfinite(works):
        return (
            f"At {works:g} already {STEPS} steps of a copy lower the loss, so that the rate is not it: look "
            f"for what makes the training's own steps smaller between backward() and step(), such as "
            f"clipping gradients before they are unscaled."
        )
    return f"{remedy} until the first steps lower the loss."


def _rate(place: int) -> float:
    return float(f"{10 ** (place / 2):.0e}")
