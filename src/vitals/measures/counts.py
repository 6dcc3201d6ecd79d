"""What a count says of the share behind it: one of four right is not a quarter. Importable without torch."""

import math

CERTAIN = 3.0
"""Standard errors from which a difference is taken for one: chance alone gives it once in 700 times."""


def share_between(count: float, trials: float, errors: float = CERTAIN) -> tuple[float, float]:
    """The least and the largest share that go with `count` hits in `trials`, both from 0 to 1.

    Wilson's score interval (1927), which stays honest for few trials and for shares near 0 and 1. No trials
    say nothing: 0 to 1.

    Args:
        count: hits, 0 to `trials`.
        trials: independent tries, 0 or more.
        errors: half the width of the interval in standard errors.
    """
    if not trials > 0:
        return 0.0, 1.0
    share, square = count / trials, errors**2 / trials
    centre = (share + square / 2) / (1 + square)
    half = errors * math.sqrt(share * (1 - share) / trials + square / (4 * trials)) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)
