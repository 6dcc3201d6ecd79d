"""What was measured in a run, in the order of its steps: the material of diagnosis and report.

In a run's folder it is `history.jsonl`, one measurement a line, which any tool can read:

    {"step": 50, "epoch": 0.14, "values": {"update_ratio/conv1.weight": 0.0031}}
    {"step": 50, "epoch": 0.14, "steps": 50, "values": {"loss/train_step": [2.31, 2.30, …]}}

Numbers that JSON does not know are the strings "nan", "inf" and "-inf".
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from vitals.files import NUMBER, append_line, mended_table, set_aside, text_of, write_atomically, write_table


class MetricsTable:
    """Rows of metrics, kept in the CSV file at `path`, which is whole at every moment; what is damaged in it
    ends no training. Rows of later optimizer `steps` are dropped: the run goes on from here."""

    def __init__(self, path: Path, steps: int) -> None:
        self.path = path
        rows = mended_table(path, "epoch", "step")
        self.rows: list[dict[str, Any]] = [row for row in rows if float(row["step"]) <= steps]

    def add(self, row: dict[str, Any]) -> None:
        """Rewrite the file whole, for a later epoch may bring a metric that the earlier ones did not have."""
        if not self.rows:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self.rows.append(row)
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        write_table(self.path, columns, self.rows)


@dataclass(frozen=True)
class Series:
    """One quantity over the run; the three lists go together."""

    steps: list[int] = field(default_factory=list)
    """Optimizer steps taken when it was measured."""
    epochs: list[float] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[tuple[int, float, Any]]:
        return iter(zip(self.steps, self.epochs, self.values, strict=True))


class History:
    """Series by their tags; `vitals.monitors` tells which there are, `vitals.writers.groups` the names under
    which loggers show them. Values are numbers, or for pictures and histograms what their monitor says. The
    file at `path` takes every measurement as it is made; None keeps them in memory alone."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.lines = 0
        """Of the file so far."""
        self._series: dict[str, Series] = {}

    def add(self, step: int, epoch: float, values: Mapping[str, Any]) -> None:
        """Record what was measured after `step` optimizer steps and `epoch` epochs."""
        self._keep({"step": step, "epoch": epoch, "values": rounded(values)})

    def add_steps(self, step: int, epoch: float, values: Mapping[str, list[float]]) -> None:
        """Record lists of one value for each of the last successive steps, the last of which is `step`."""
        count = max(map(len, values.values()), default=0)
        self._keep({"step": step, "epoch": epoch, "steps": count, "values": rounded(values)})

    def tags(self, prefix: str = "") -> list[str]:
        """The tags that begin with `prefix`, in the order in which they first came."""
        return [tag for tag in self._series if tag.startswith(prefix)]

    def series(self, tag: str) -> Series:
        """The measurements of `tag`; empty where there is none."""
        return self._series.get(tag) or Series()

    def last(self, tag: str, default: Any = None) -> Any:
        """The latest value of `tag`."""
        series = self.series(tag)
        return series.values[-1] if len(series) else default

    def resume(self, step: int, count: int | None = None) -> None:
        """Read back the first `count` lines of the file at `path`, up to `step`, and drop the rest of it. If
        one of them but the last, which a crash may have cut off, is damaged, the file is set aside."""
        if self.path is None or not os.path.lexists(self.path):
            return
        try:
            entries, whole = _entries(self.path, count)
        except OSError:
            entries, whole = [], False
        if not whole:
            set_aside(self.path)
        kept = [(line, entry) for line, entry in entries if entry["step"] <= step]
        self.lines = len(kept)
        write_atomically(self.path, "".join(f"{line}\n" for line, _ in kept))
        self._series = {}
        for _, entry in kept:
            self._take(entry)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The history in the file at `path`, not bound to it; lines that are damaged are left out. `OSError`
        if there is no such file, `ValueError` if none of its lines is whole."""
        history = cls()
        entries, whole = _entries(path)
        if not entries and not whole:
            raise ValueError("it is damaged")
        for _, entry in entries:
            history._take(entry)
        return history

    def _take(self, entry: dict[str, Any]) -> None:
        take = self._extend if "steps" in entry else self._append
        for tag, value in entry["values"].items():
            take(tag, entry["step"], entry["epoch"], value)

    def _append(self, tag: str, step: int, epoch: float, value: Any) -> None:
        series = self._series.setdefault(tag, Series())
        series.steps.append(step)
        series.epochs.append(epoch)
        series.values.append(value)

    def _extend(self, tag: str, step: int, epoch: float, block: list[float]) -> None:
        rate = epoch / step if step else 0.0
        for place, value in enumerate(block):
            back = len(block) - 1 - place
            self._append(tag, step - back, epoch - back * rate, value)

    def _keep(self, entry: dict[str, Any]) -> None:
        self._take(entry)
        if self.path is None:
            return
        if not self.lines:  # later no more: where a run's folder is deleted, no half of a new one is made
            self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({**entry, "values": _each(entry["values"], _to_json)}, separators=(",", ":"))
        append_line(self.path, line)
        self.lines += 1


def _entries(path: Path, count: int | None = None) -> tuple[list[tuple[str, dict[str, Any]]], bool]:
    """Of the first `count` lines of the file, or all, those that are whole, as they are and as read, and
    whether all but the last are; `OSError` if there is no such file."""
    lines = text_of(path, "replace").split("\n")[:count]
    read = [(line, _entry(line)) for line in lines if line]
    entries = [(line, entry) for line, entry in read if entry]
    return entries, all(entry for _, entry in read[:-1]) and bool(entries or not read)


def _entry(line: str) -> dict[str, Any] | None:
    """A measurement as it was written; None of a line that is none. A value of no known kind is left out."""
    try:
        entry = json.loads(line)
        step, epoch = int(entry["step"]), float(entry["epoch"])
        values = _each(dict(entry["values"]), _from_json)
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    lists = "steps" in entry
    known = {tag: value for tag, value in values.items() if _is_measured(tag, value, lists)}
    return {**entry, "step": step, "epoch": epoch, "values": known} if math.isfinite(epoch) else None


def _is_measured(tag: str, value: Any, lists: bool) -> bool:
    if lists:
        return isinstance(value, list) and all(isinstance(number, NUMBER) for number in value)
    return isinstance(value, NUMBER) or (isinstance(value, list | dict) and not tag.startswith("facts/"))


def rounded(value: Any) -> Any:
    """A number to seven digits, as it is kept, so that a run reads back what it has written."""
    return _each(value, lambda part: float(f"{part:.7g}") if isinstance(part, float) else part)


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """The same mappings and lists with each value in them changed."""
    if isinstance(value, NUMBER):  # as nearly all are: of histograms thousands
        return change(value)
    if isinstance(value, Mapping):
        return {key: _each(part, change) for key, part in value.items()}
    return [_each(part, change) for part in value] if isinstance(value, list | tuple) else change(value)


def _to_json(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _from_json(value: Any) -> Any:
    return float(value) if isinstance(value, str) and value in ("nan", "inf", "-inf") else value
