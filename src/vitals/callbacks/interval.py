"""When a monitor measures."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vitals.errors import UserError


@dataclass(frozen=True)
class Interval:
    """Every so many optimizer steps, so many times a run, or so many times an epoch; the shortest counts.

    The first and the last step of a run of known length are always measured.

    Args:
        every_n_steps: optimizer steps between two measurements.
        times_per_run: measurements in a run of known length.
        times_per_epoch: measurements in an epoch of known length.

    Raises:
        UserError: if nothing is given, or a number is below 1.
    """

    every_n_steps: int | None = None
    times_per_run: int | None = None
    times_per_epoch: int | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        if not given:
            raise UserError("every_n_steps, times_per_run or times_per_epoch must be a number.")
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise UserError(f"{name}={value!r} must be a whole number of 1 or more.")

    def period(self, total_steps: float, steps_per_epoch: float) -> int:
        """Optimizer steps between two measurements; lengths that are not known are infinite."""
        lengths = [
            (self.every_n_steps, 1.0),
            (1, total_steps / self.times_per_run if self.times_per_run else math.inf),
            (1, steps_per_epoch / self.times_per_epoch if self.times_per_epoch else math.inf),
        ]
        candidates = [count * length for count, length in lengths if count and math.isfinite(length)]
        if not candidates:  # only lengths that are not known: as often as the default
            return 50
        return max(1, math.floor(min(candidates)))
