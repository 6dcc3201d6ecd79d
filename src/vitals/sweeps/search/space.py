"""What a search varies, written in Hydra's words: `tag(log, interval(1e-6, 10))`, `choice(0.5, 0.9)`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from vitals.errors import UserError
from vitals.runs.config.combinations import Axis

MARGIN_DECADES = 0.5
"""By which a narrowed logarithmic range goes beyond the survivors, at either end: see docs/course.md,
"Search"."""
MARGIN_SHARE = 0.1
"""The same of a linear range, as a share of its width."""


@dataclass(frozen=True)
class Dimension:
    """One hyper-parameter: an interval, or a list of choices.

    The upper end of an interval of real numbers is excluded, as Hydra has it; that of whole numbers included.
    """

    key: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[str, ...] = ()
    together: tuple[tuple[str, ...], ...] = ()
    """The words of each choice, where several keys go together."""

    def distribution(self) -> Any:
        """As Optuna has it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices:
            return CategoricalDistribution(self.choices)
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log)
        return FloatDistribution(self.low, self.high, log=self.log)

    def words(self, value: Any) -> list[str]:
        """`key=value`, a real number with four digits; or the words of all keys that go together."""
        if self.together:
            return next(list(words) for words in self.together if " ".join(words) == value)
        return [f"{self.key}={value:.4g}" if isinstance(value, float) else f"{self.key}={value}"]

    def sweep_word(self) -> str:
        """The override that asks for this range."""
        if self.choices:
            return f"{self.key}={','.join(self.choices)}"
        interval = f"interval({self.low:.4g},{self.high:.4g})"
        interval = f"int({interval})" if self.whole else interval
        return f"{self.key}=tag(log,{interval})" if self.log else f"{self.key}={interval}"

    def scaled(self, value: float) -> float:
        """Where a value lies: its decimal logarithm on a logarithmic range, else itself."""
        return math.log10(value) if self.log else value

    def between(self, low: float, high: float) -> Dimension:
        """The same with other ends, given as `scaled` has them."""
        ends = [10**end if self.log else end for end in (low, high)]
        if self.whole:
            first = max(round(ends[0]), 1 if self.low >= 1 else 0)
            ends = [first, max(round(ends[1]), first + 1)]
        return replace(self, low=ends[0], high=ends[1])

    def narrowed(self, values: Sequence[Any]) -> Dimension:
        """The span of `values` with a margin, within the range as it is; of choices, those among `values`."""
        if self.choices:
            return replace(self, choices=tuple(choice for choice in self.choices if choice in values))
        ends = self.scaled(self.low), self.scaled(self.high)
        margin = MARGIN_DECADES if self.log else MARGIN_SHARE * (ends[1] - ends[0])
        found = [self.scaled(value) for value in values]
        return self.between(max(ends[0], min(found) - margin), min(ends[1], max(found) + margin))

    def evenly(self, count: int) -> list[Any]:
        """`count` values at equal distances on its scale, the ends included; of choices, all."""
        if self.choices:
            return list(self.choices)
        low, high = self.scaled(self.low), self.scaled(self.high)
        places = [low + (high - low) * step / (count - 1) for step in range(count)]
        values = [10**place if self.log else place for place in places]
        return sorted({round(value) for value in values}) if self.whole else values


def dimension(override: Override) -> Dimension:
    """The dimension that an override with several values asks for; `UserError` if an interval is empty, or
    logarithmic and not above zero."""
    key = override.get_key_element()
    value: Any = override.value()
    if not isinstance(value, IntervalSweep):
        return Dimension(key, choices=tuple(override.sweep_string_iterator()))
    low, high = value.start, value.end
    assert low is not None
    assert high is not None
    made = Dimension(key, low, high, "log" in value.tags, isinstance(low, int) and isinstance(high, int))
    if not low < high or (made.log and low <= 0):
        raise UserError(
            f"{override.input_line} is no range: its ends must rise"
            + (", and be greater than 0 on a logarithmic scale." if made.log else ".")
        )
    return made


def search_space(
    configured: Mapping[str, str],
    overrides: Sequence[Override],
    config: DictConfig,
    ways: Sequence[Axis] = (),
) -> list[Dimension]:
    """What is searched: the `configured` space, key and range, changed by the command line.

    An override with several values replaces or adds a range; one with a single value takes its key out of the
    search, and so is what `config` does not have, such as the momentum of Adam. `ways` are the words of the
    overrides, those that go together in one place. `UserError` if a range cannot be read, or none is left.
    """
    parser = OverridesParser.create()
    space: dict[str, Dimension] = {}
    for key, text in configured.items():
        if OmegaConf.select(config, key) is not None:
            try:
                space[key] = dimension(parser.parse_override(f"{key}={text}"))
            except HydraException as error:
                raise UserError(
                    f"search.space: {key}={text} is no range: {str(error).splitlines()[0]}"
                ) from None
    for override in overrides:
        space.pop(override.key_or_group, None)
        if override.is_sweep_override():
            space[override.key_or_group] = dimension(override)
    for way in ways:
        if len(way[0]) > 1:
            keys = [parser.parse_override(word).key_or_group for word in way[0]]
            for key in keys:
                space.pop(key, None)
            name, choices = ",".join(keys), tuple(map(" ".join, way))
            space[name] = Dimension(name, choices=choices, together=tuple(way))
    if not space:
        raise UserError(
            "the search has nothing to vary: give a range, such as 'optimizer.lr=tag(log,interval(1e-4,1))'."
        )
    return list(space.values())
