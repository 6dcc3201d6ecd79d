"""Numbers made fit for a page: thinned before drawing, short when written."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitals.report.record import Curve, Numbers

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Band:
    """A curve in at most so many buckets: of each the middle in epochs, the mean and two percentiles."""

    x: Numbers
    mean: Numbers
    low: Numbers
    high: Numbers


def thinned(curve: Curve, points: int = 200) -> tuple[Numbers, Numbers]:
    """Epochs and values at no more than `points` places, evenly spread, first and last among them."""
    places = spread(range(len(curve)), points)
    return curve.epochs[places], finite(curve.values[places])


def spread(items: Sequence, amount: int) -> list:
    """No more than `amount` of `items`, evenly spread, first and last among them."""
    places = np.unique(np.linspace(0, len(items) - 1, min(amount, len(items))).round().astype(int))
    return [items[place] for place in places]


def bucketed(curve: Curve, buckets: int = 160) -> Band:
    """Mean, 10th and 90th percentile in no more than `buckets` successive parts of the curve."""
    size = max(1, math.ceil(len(curve) / buckets))
    count = math.ceil(len(curve) / size)
    padding = (0, count * size - len(curve))

    def rows(values: Numbers) -> Numbers:
        return np.pad(values, padding, constant_values=np.nan).reshape(count, size)

    values = np.sort(rows(finite(curve.values)), axis=1)  # NaN comes last
    counts = np.isfinite(values).sum(axis=1)

    def percentile(share: float) -> Numbers:
        place = np.clip(np.round(share * (counts - 1)), 0, None).astype(int)
        return np.asarray(values[np.arange(count), place])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a bucket of nothing but NaN stays NaN
        x, mean = np.nanmean(rows(curve.epochs), axis=1), np.nanmean(values, axis=1)
    return Band(x, mean, percentile(0.1), percentile(0.9))


def finite(values: Numbers) -> Numbers:
    """The same numbers with NaN in place of infinities, and of what is too large to be drawn."""
    return np.where(np.isfinite(values) & (np.abs(values) < 1e300), values, np.nan)


def first_not_finite(curve: Curve) -> float | None:
    """The epoch, with its fraction, at which the curve is NaN or infinite for the first time."""
    bad = np.flatnonzero(~np.isfinite(curve.values))
    return float(curve.epochs[bad[0]]) if len(bad) else None


def number(value: float | None, digits: int = 3) -> str:
    """A number in `digits` significant digits, such as 0.0312, 12,800 or 1.2e−5; whole where it is larger."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if value == 0:
        return "0"
    rounded = abs(float(f"{value:.{digits - 1}e}"))
    if min(1e3, 10**digits) <= rounded < 1e7:
        return f"{value:,.0f}".replace("-", "−")
    if not 1e-3 <= rounded < 1e7:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    return f"{value:.{digits}g}".replace("-", "−")


def percent(value: float | None, decimals: int = 1) -> str:
    """A share from 0 to 1 as a percentage; 0% and 100% are exact, and what is near them has more decimals."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0 or abs(value - 1) < 1e-6:  # a mean in single precision misses 1 by that much
        return f"{abs(100 * value):.0f}%"
    text = f"{100 * value:.{decimals}f}"
    if abs(float(text)) == 0:
        return f"{number(100 * value, 1)}%"
    return percent(value, decimals + 1) if float(text) == 100 else f"{text}%".replace("-", "−")


def points(value: float) -> str:
    """A difference of two shares in percentage points, with its sign where there is any."""
    if not math.isfinite(value):
        return "–"
    text = f"{100 * value:+.1f}"
    if float(text) == 0:
        least = round(value, 6)  # less is the noise of single precision
        return "+" * (least > 0) + number(100 * least, 1)
    return text.replace("-", "−")


def at_regular_times(epochs: Numbers, moments: int = 120) -> NDArray[np.intp]:
    """Of `moments` times, evenly spread from the first epoch to the last, the nearest measurement each."""
    if len(epochs) < 2:
        return np.zeros(len(epochs), dtype=np.intp)
    between = (epochs[1:] + epochs[:-1]) / 2
    return np.searchsorted(between, np.linspace(epochs[0], epochs[-1], moments))


def power_of_ten(value: float) -> str:
    """10⁻³ for 0.001; other numbers as `number` has them."""
    exponent = math.log10(value) if value > 0 else math.nan
    if math.isfinite(exponent) and abs(exponent - round(exponent)) < 1e-6:
        return "10" + str(round(exponent)).translate(_SUPERSCRIPTS)
    return number(value)


def duration(seconds: float) -> str:
    """Seconds in words of two units, such as 7 min 42 s; parts of one in two digits."""
    whole = round(seconds)
    if seconds < 1:
        return f"{number(seconds, 2)} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def shortened(name: str, length: int = 22) -> str:
    """`name`, its middle left out where it is longer than `length`."""
    if len(name) <= length:
        return name
    head = (length - 1) // 2
    return f"{name[:head]}…{name[-(length - 1 - head) :]}"
