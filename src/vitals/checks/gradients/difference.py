"""Centred differences with an error bar: rounding, truncation and kinks are told from a wrong gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from vitals.checks.gradients.kinks import WinnerRecorder

AGREED = 1e-7
"""Relative error below which a gradient is right beyond doubt (cs231n: "you should be happy")."""

UNCOMFORTABLE = 1e-4
"""Relative error above which something is amiss even in a loss with kinks."""

TOO_SMALL = 1e-10
"""Gradients below it, where the largest is about 1, are not told from zero (cs231n: "worrying")."""

UNSETTLED = 0.1
"""Share by which the slopes of the two smallest steps, ten times apart, may differ: where the loss is smooth
on their scale, that is the truncation error of the larger one."""
_RETRIES = 3  # times a tenth of the smallest step, where kinks or unsettled slopes leave no better
_SAFETY = 3.0  # on rounding errors of a difference, which stay below twice the noise / h (measured)
_POINTS = 8  # to measure them at


@dataclass(frozen=True)
class Line:
    """A straight line through one tensor: along one element, or along a direction of unit length."""

    tensor: Tensor
    index: tuple[int, ...] | None = None
    direction: Tensor | None = None

    @classmethod
    def along_element(cls, tensor: Tensor, number: int) -> Line:
        """Through the element that is `number` when all are counted row by row."""
        index = torch.unravel_index(torch.tensor(number), tensor.shape)
        return cls(tensor, index=tuple(int(i) for i in index))

    @contextmanager
    def moved(self, distance: float) -> Iterator[float]:
        """The tensor moved along the line inside the block; gives the distance after rounding."""
        values = self.tensor.detach()
        before = (values if self.index is None else values[self.index]).clone()
        try:
            if self.index is None:
                assert self.direction is not None
                values.copy_(before + distance * self.direction)
                yield distance
            else:
                values[self.index] = before + distance
                yield (values[self.index] - before).item()
        finally:
            (values if self.index is None else values[self.index]).copy_(before)

    def derivative(self, gradient: Tensor) -> float:
        """The slope along the line according to `gradient`."""
        if self.index is not None:
            return gradient[self.index].item()
        assert self.direction is not None
        return (gradient * self.direction).sum().item()


@dataclass(frozen=True)
class Slope:
    """The slope of the scaled loss along a line, by differences of step h."""

    h: float
    centred: float
    forward: float
    bend: float
    """Half of how much the slopes to both sides differ."""
    kink: bool
    """A winner changed between the ends, or the loss is not finite there: nothing follows."""


@dataclass(frozen=True)
class Estimate:
    """Analytic against numeric slope along one line."""

    analytic: float
    numeric: float
    uncertainty: float
    """What rounding and truncation may contribute to their difference."""
    h: float
    kink: bool
    """No step was free of kinks, so that nothing follows from this line."""
    too_small: bool
    """The slopes are too small to be compared: next to nothing, or their difference is within rounding errors
    that are large beside them."""


@dataclass(frozen=True)
class Noise:
    """Rounding errors, of the scaled loss and of the gradient of each tensor."""

    loss: float
    gradients: dict[str, float]


class Differences:
    """Differences of the loss, scaled, along lines through its tensors: of `value`, the loss at where they
    are now, times `scale`, a power of two, so that the largest gradient is about 1, at the step sizes h of
    `steps`; where kinks lie within all of these, or the last slopes differ, smaller ones follow."""

    def __init__(self, value: Callable[[], Tensor], scale: float, steps: Sequence[float]) -> None:
        self._value = value
        self.scale = scale
        ordered = sorted(steps, reverse=True)
        middle = ordered[len(ordered) // 2]
        # The middle first, where rounding and truncation are most often both small: many lines need no other.
        self._steps = [middle, *(h for h in ordered if h != middle)]
        self._retries = [ordered[-1] / 10**power for power in range(1, _RETRIES + 1)]
        with WinnerRecorder() as here:
            self._base = value().item()
        self._winners = here.winners
        self.has_kinks = bool(here.winners)
        """Whether the loss has max-like operations at all."""

    def slope(self, line: Line, h: float) -> Slope:
        """Differences along `line` with step `h`; two evaluations of the loss."""
        with WinnerRecorder(self._winners) as ahead, line.moved(h) as forward:
            above = self._value().item()
        with WinnerRecorder(self._winners) as behind, line.moved(-h) as backward:
            below = self._value().item()
        if not forward or not backward:  # beside a huge value the step is lost in rounding
            return Slope(h, math.nan, math.nan, math.nan, kink=True)
        right, left = (above - self._base) / forward, (below - self._base) / backward
        return Slope(
            h=h,
            centred=self.scale * (above - below) / (forward - backward),
            forward=self.scale * right,
            bend=self.scale * abs(right - left) / 2,
            kink=ahead.crossed or behind.crossed or not math.isfinite(above - below),
        )

    def estimate(
        self, line: Line, analytic: float, noise_of_loss: float, noise_of_gradient: float
    ) -> Estimate:
        """The best numeric slope along `line`, and how far it can be trusted.

        Which step is best is judged by the numeric slopes among themselves, never by how well they agree with
        the analytic one: the luckiest of several steps would hide a small error.
        """

        def rounding(h: float) -> float:
            return _SAFETY * (noise_of_loss / h + noise_of_gradient)

        slopes: list[Slope] = []
        for h in self._steps + self._retries:
            if h in self._retries and _decided(slopes, analytic, rounding):
                break
            slope = self.slope(line, h)
            if slope.kink:
                continue
            slopes.append(slope)
            if _agree(analytic, slope.centred):
                tiny = max(abs(analytic), abs(slope.centred)) < TOO_SMALL
                return Estimate(analytic, slope.centred, rounding(h), h, kink=False, too_small=tiny)
        if not slopes:
            return Estimate(analytic, slope.centred, 0.0, h, kink=True, too_small=False)
        slopes.sort(key=lambda slope: -slope.h)
        # The truncation error falls with h², at a seam of second derivatives with h: assume the slower. Two
        # slopes may agree by chance, as far as the second is blurred by rounding.
        spread = 0.0
        if len(slopes) > 1:
            wide, next_to_it = slopes[:2]
            spread = (2 * abs(wide.centred - next_to_it.centred) + rounding(next_to_it.h)) / wide.h
        uncertainty, best = min(
            ((rounding(slope.h) + spread * slope.h, slope) for slope in slopes), key=lambda pair: pair[0]
        )
        difference = abs(analytic - best.centred)
        hidden = difference > uncertainty and (
            not _settled(slopes, rounding) or _hidden_kink(slopes, difference - uncertainty, rounding)
        )
        size = max(abs(analytic), abs(best.centred))
        tiny = size < TOO_SMALL or difference <= uncertainty > UNCOMFORTABLE * size
        return Estimate(analytic, best.centred, uncertainty, best.h, kink=hidden, too_small=tiny)


def measure_noise(
    value_and_gradients: Callable[[], tuple[float, dict[str, Tensor]]],
    scale: float,
    parameters: Sequence[Tensor],
    generator: torch.Generator,
) -> Noise:
    """Rounding errors of loss and gradients, times `scale`, from points on a line that are √eps apart: high
    differences of a smooth function vanish there, and what is left is noise (Hamming; Moré and Wild,
    "Estimating Computational Noise", 2011). Where a kink lies among the points, they move closer."""
    eps = torch.finfo(parameters[0].dtype).eps
    count = sum(parameter.numel() for parameter in parameters)
    before = [parameter.detach().clone() for parameter in parameters]
    directions = [
        (torch.randint(0, 2, old.shape, generator=generator).to(old) * 2 - 1) / math.sqrt(count)
        for old in before
    ]
    value, gradients = value_and_gradients()
    loss, by_name = eps * abs(value), {name: eps * _largest(g.abs()) for name, g in gradients.items()}
    for spacing in (math.sqrt(eps) / 10**power for power in range(_RETRIES + 1)):
        try:
            found = _noise_along(value_and_gradients, parameters, before, directions, spacing)
        finally:
            for parameter, old in zip(parameters, before, strict=True):
                parameter.detach().copy_(old)
        if found is not None:
            loss = max(loss, found.loss)
            by_name = {name: max(least, found.gradients[name]) for name, least in by_name.items()}
            break
    return Noise(scale * loss, {name: scale * noise for name, noise in by_name.items()})


def _noise_along(
    value_and_gradients: Callable[[], tuple[float, dict[str, Tensor]]],
    parameters: Sequence[Tensor],
    before: Sequence[Tensor],
    directions: Sequence[Tensor],
    spacing: float,
) -> Noise | None:
    """Noise from `_POINTS` points along `directions`; None where a kink lies among them."""
    values: list[float] = []
    recent: list[dict[str, Tensor]] = []
    noise: dict[str, float] = {}
    winners: Sequence[Tensor] | None = None
    for point in range(1, _POINTS + 1):
        for parameter, old, direction in zip(parameters, before, directions, strict=True):
            parameter.detach().copy_(old + point * spacing * direction)
        with WinnerRecorder(winners) as recorder:
            value, gradients = value_and_gradients()
        if recorder.crossed:
            return None
        winners = recorder.winners if winners is None else winners
        values.append(value)
        recent = [*recent[-2:], gradients]
        if len(recent) == 3:
            for name, (first, second, third) in ((n, [g[n] for g in recent]) for n in gradients):
                # A second difference of errors of size 1 has size √6, a third one √20.
                change = _largest((first - 2 * second + third).abs()) / math.sqrt(6)
                noise[name] = max(noise.get(name, 0.0), change)
    if len(set(values)) <= _POINTS / 2:
        # A nearly perfect fit: log(1 + 1e-12) is rounded in steps, and all points lie on one or two of them.
        return Noise(torch.finfo(parameters[0].dtype).eps * max(1.0, abs(values[0])), noise)
    thirds = torch.tensor(values, dtype=torch.float64).diff(n=3)
    return Noise((thirds.square().mean() / 20).sqrt().item(), noise)


def random_direction(shape: torch.Size, start: int, stop: int, generator: torch.Generator) -> Tensor:
    """Of unit length, ± the same in the elements numbered `start` to `stop` of a tensor, zero elsewhere."""
    direction = torch.zeros(shape.numel(), dtype=torch.float64)
    signs = torch.randint(0, 2, (stop - start,), generator=generator).double() * 2 - 1
    direction[start:stop] = signs / math.sqrt(stop - start)
    return direction.view(shape)


def relative_error(analytic: float, numeric: float) -> float:
    """|a − n| / max(|a|, |n|), between 0 and 2; 0 where both are zero, infinite where one is not finite."""
    if not math.isfinite(analytic - numeric):
        return math.inf
    largest = max(abs(analytic), abs(numeric))
    return abs(analytic - numeric) / largest if largest else 0.0


def _largest(values: Tensor) -> float:
    return values.max().item() if values.numel() else 0.0


def _agree(analytic: float, numeric: float) -> bool:
    largest = max(abs(analytic), abs(numeric))
    return largest < TOO_SMALL or abs(analytic - numeric) <= AGREED * largest


def _decided(slopes: Sequence[Slope], analytic: float, rounding: Callable[[float], float]) -> bool:
    if len(slopes) == 1:  # a second step is needed to tell truncation from a wrong gradient
        return abs(analytic - slopes[0].centred) <= rounding(slopes[0].h)
    return len(slopes) > 1 and _settled(slopes, rounding)


def _settled(slopes: Sequence[Slope], rounding: Callable[[float], float]) -> bool:
    """Whether the slopes of the two smallest steps are about the same, as at any smooth place: a norm of
    zeros divides by the root of its epsilon, 1e-6, so that only far smaller steps show a slope there."""
    narrow, wider = sorted(slopes, key=lambda slope: slope.h)[:2] if len(slopes) > 1 else (*slopes, *slopes)
    largest = max(abs(narrow.centred), abs(wider.centred))
    return abs(narrow.centred - wider.centred) <= UNSETTLED * largest + rounding(narrow.h)


def _hidden_kink(slopes: Sequence[Slope], difference: float, rounding: Callable[[float], float]) -> bool:
    """Whether the loss bends as sharply at the smallest step as at the largest, and enough to explain it all,
    as only a kink does: in an operation whose winners nobody recorded."""
    wide, narrow = slopes[0], slopes[-1]
    sharp = narrow.bend > 0.5 * wide.bend and narrow.bend > rounding(narrow.h)
    return wide.h > narrow.h and sharp and difference <= narrow.bend
