"""A run as its folder tells it: everything that the page is made from, and why what is missing is missing.
Importable without torch."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from vitals.bounded_yaml import read_mapping
from vitals.files import read_metrics, read_status
from vitals.findings import Finding, read_findings
from vitals.folder_lock import truthful
from vitals.history import History
from vitals.measures.names import canonical
from vitals.metric import Metric, Row
from vitals.report.predictions import FILE as PREDICTIONS
from vitals.report.predictions import Predictions


class LeftOut(Exception):
    """There is nothing to draw: the message says why in half a sentence, such as `no history was kept`."""


T = TypeVar("T")
PROVENANCE = {**dict.fromkeys(("choices", "git", "versions", "machine"), dict), "resumed": list}
"""Of what kind the page's facts about where a run came from are."""
Numbers = NDArray[np.float64]

LETTERS = "ABCDEF"
"""Names of the runs where there are several."""
ACCURACIES = [Metric(f"accuracy/{part}", "max", f"loss/{part}") for part in ("val", "val_eval")]
"""By which a run is judged whose own metric is not known, such as another program's."""

MATERIAL = ("metrics.csv", "history.jsonl", "findings.json", PREDICTIONS)
"""Files of which one is needed to report anything."""
FILES = ("config.yaml", "status.json", *MATERIAL)
"""All that are read."""


@dataclass(frozen=True)
class Curve:
    """One number over the run; the three arrays go together and may hold NaN and infinities."""

    epochs: Numbers
    steps: Numbers
    values: Numbers

    def __len__(self) -> int:
        return len(self.values)

    @property
    def last(self) -> float:
        """The latest finite value; NaN where there is none."""
        finite = self.values[np.isfinite(self.values)]
        return float(finite[-1]) if len(finite) else float("nan")


@dataclass(frozen=True)
class RunRecord:
    """What a run's folder holds; empty where a file is missing or damaged."""

    folder: Path
    config: dict[str, Any]
    history: History
    missing: dict[str, str]
    """File name to half a sentence on why it could not be used."""
    provenance: dict[str, Any] = field(default_factory=dict)
    status: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, float]] = field(default_factory=list)
    """The rows of `metrics.csv`, without empty cells."""
    findings: list[Finding] = field(default_factory=list)
    predictions: Predictions | None = None
    axis: str = "epochs"
    """What the x-axis counts; `steps` in the record of another program that has no epochs."""
    unjudged: str = ""
    """One sentence on what could not be judged from the record of another program; empty for our own."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read all that is there; nothing that is missing or damaged is an error."""
        missing: dict[str, str] = {}

        def load(name: str, read: Callable[[Path], T], empty: T) -> T:
            path = folder / name
            if not path.is_file():
                missing[name] = f"the run has no {name}"
                return empty
            try:
                return read(path)
            except Exception as error:  # whatever a damaged file makes its reader raise
                missing[name] = f"{name} cannot be read ({' '.join(str(error).split())[:120]})"
                return empty

        nothing: dict[str, Any] = {}
        config = load("config.yaml", read_mapping, nothing)
        came_from = config.pop("provenance", None)
        facts = came_from.items() if isinstance(came_from, dict) else ()
        return cls(
            folder=folder,
            config=config,
            provenance={key: fact for key, fact in facts if isinstance(fact, PROVENANCE.get(key, object))},
            status=load("status.json", _read_status, {}),
            metrics=load("metrics.csv", read_metrics, []),
            findings=load("findings.json", read_findings, []),
            history=load("history.jsonl", History.read, History()),
            predictions=load(PREDICTIONS, Predictions.load, None),
            missing=missing,
        )

    @property
    def name(self) -> str:
        """The folder's name under that of the experiment, or of the folder above it."""
        parent = self.config.get("name") or self.folder.absolute().parent.name
        return f"{parent} / {self.folder.absolute().name}"

    def curve(self, *tags: str) -> Curve:
        """The first of `tags` that was measured at least once, from `metrics.csv` or else the history."""
        for tag in tags:
            rows = [row for row in self.metrics if tag in row]
            if rows:
                columns = ([row.get(key, np.nan) for row in rows] for key in ("epoch", "step", tag))
                return Curve(*(np.array(column, dtype=float) for column in columns))
            series = self.history.series(tag)
            if len(series):
                values = [_number(value) for value in series.values]
                return Curve(np.array(series.epochs, float), np.array(series.steps, float), np.array(values))
        return Curve(*(np.empty(0) for _ in range(3)))

    def kept_predictions(self) -> Predictions:
        """What it predicted for the test images; `LeftOut` if that was not kept."""
        if self.predictions is None:
            raise LeftOut(self.missing.get(PREDICTIONS, "the run kept no predictions"))
        return self.predictions

    @property
    def best(self) -> tuple[Metric, Row] | None:
        """The best epoch so far and the metric that says so: the run's own, or else the accuracy of
        validation, by which a record without a configuration is read; None where neither was recorded."""
        metrics = [*ACCURACIES]
        with suppress(KeyError, TypeError, ValueError):  # a configuration that names none
            metrics.insert(0, Metric.of(self.config))
        for metric in metrics:
            names = [name for name in (metric.name, metric.tie_breaker) if name]
            rows: dict[tuple[float, float], dict[str, float]] = {}
            for name, curve in ((name, self.curve(name, canonical(name))) for name in names):
                for epoch, step, value in zip(curve.epochs, curve.steps, curve.values, strict=True):
                    rows.setdefault((epoch, step), {"epoch": float(epoch)})[name] = float(value)
            if row := metric.best(list(rows.values())):
                return metric, row
        return None

    def tags(self, prefix: str) -> list[str]:
        """The tags of the history that begin with `prefix`, in the order in which they first came."""
        return self.history.tags(prefix)


def _read_status(path: Path) -> dict[str, Any]:
    if not (status := read_status(path)):
        raise ValueError("it is damaged")
    return truthful(path.parent, status)


def _number(value: Any) -> float:
    """`value` as a float; NaN where it is none."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
