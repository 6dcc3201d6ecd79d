"""The metric by which runs are judged, as `metric` of `train.yaml` names it: nothing else knows the name of
one. Importable without torch."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from vitals.errors import did_you_mean

Mode = Literal["max", "min"]
Row = Mapping[str, float]
"""The metrics of one epoch, by name, with the number of the epoch as `epoch`."""
_SPLIT = "(train|validation|valid|val|test)"


@dataclass(frozen=True)
class Metric:
    """A validation metric, by the `name` under which the module logs it, for example `accuracy/val` or
    `val_loss`, and which end of it is good. Of equal epochs the one where the metric `tie_breaker` is lower
    is best, or else the first."""

    name: str
    mode: Mode
    tie_breaker: str | None = None

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Self:
        """The metric that the configuration of a run or of a sweep names; `KeyError`, `TypeError` or
        `ValueError` if it names none."""
        metric = cls(**config["metric"])
        if not isinstance(metric.name, str) or metric.mode not in get_args(Mode):
            raise ValueError(f"metric={metric} is none")
        return metric

    def rank(self, score: float | None) -> float:
        """A number to sort scores by: the lower, the better; what is missing or no number comes last."""
        if score is None or math.isnan(score):
            return math.inf
        return -score if self.mode == "max" else score

    def best(self, rows: Sequence[Row], within: float = math.inf) -> Row | None:
        """The best epoch among `rows` up to epoch `within`; None where none has a finite score."""
        scored = [row for row in rows if self.has(row) and row["epoch"] <= within]
        return min(scored, key=self._order, default=None)

    def best_score(self, rows: Sequence[Row], within: float = math.inf) -> float | None:
        """The score of that epoch."""
        row = self.best(rows, within)
        return None if row is None else row[self.name]

    def has(self, row: Row) -> bool:
        """Whether an epoch has a finite score."""
        return math.isfinite(row.get(self.name, math.nan))

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """The mode, as Optuna calls it."""
        return "maximize" if self.mode == "max" else "minimize"

    @property
    def is_share(self) -> bool:
        """Whether scores are best read in percent: an accuracy is, an error in its own unit is not."""
        return self.mode == "max"

    def missing_from(self, logged: Iterable[str]) -> str:
        """What is said where a validation does not log this metric, but other names."""
        logged = [name for name in logged if not name.startswith("val_average/")]
        validated = [name for name in logged if bare_name(name) != name and "train" not in name]
        return (
            f"metric.name={self.name} was not logged by the validation, so that no epoch is the best: "
            f"{did_you_mean(self.name, validated or logged)}"
        )

    def text(self, score: float | None, digits: int = 2) -> str:
        """A score as people read it: `76.10%`, or `0.0512` where less is better; `–` where there is none."""
        if score is None or not math.isfinite(score):
            return "–"
        if self.is_share and abs(score) <= 1:
            text = f"{100 * score:.{digits}f}%"
            return text if score == 0 or float(text[:-1]) else f"{100 * score:.1g}%"
        return f"{score:.4g}"

    def _order(self, row: Row) -> tuple[float, float]:
        tie = row.get(self.tie_breaker, math.inf) if self.tie_breaker else 0.0
        return self.rank(row[self.name]), math.inf if math.isnan(tie) else tie


def epoch_in(row: Row) -> float:
    """The epochs trained, a whole number but for a validation, or the end of the training, amid one."""
    return int(row["epoch"]) if row["epoch"] == int(row["epoch"]) else round(row["epoch"], 2)


def bare_name(name: str) -> str:
    """A metric without the split that it was measured on: `mae` for `mae/val`, `val_mae` and `test/mae`."""
    return re.sub(rf"^{_SPLIT}[/_.-]|[/_.-]{_SPLIT}$", "", name, count=1)


def averaged_name(name: str) -> str:
    """The tag of a validation metric of the averaged weights: `val_average/mae`."""
    return f"val_average/{bare_name(name)}"
