"""What was measured in a run, in the order of its steps: the material of diagnosis and report.

In a run's folder it is `history.jsonl`, one measurement a line, which any tool can read:

    {"step": 50, "epoch": 0.14, "values": {"update_ratio/conv1.weight": 0.0031}}
    {"step": 50, "epoch": 0.14, "steps": 50, "values": {"loss/train_step": [2.31, 2.30, …]}}

Numbers that JSON does not know are the strings "nan", "inf" and "-inf".
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitals.files import replacing, write_atomically


class MetricsTable:
    """Rows of metrics, kept in a file that is whole at every moment.

    Args:
        path: of the CSV file.
        steps: rows of later optimizer steps are dropped: the run goes on from here.
    """

    def __init__(self, path: Path, steps: int) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self.rows = [row for row in csv.DictReader(file) if float(row["step"]) <= steps]

    def add(self, row: dict[str, Any]) -> None:
        """Rewrite the file whole, for a later epoch may bring a metric that the earlier ones did not have."""
        self.rows.append(row)
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as new, new.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)


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
    """Series by their tags, which are those of TensorBoard.

    Values are numbers, or for pictures and histograms what their monitor says; `vitals.monitors` tells which
    tags there are.

    Args:
        path: of the file that takes every measurement as it is made; None keeps them in memory alone.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.lines = 0
        """Of the file so far."""
        self._series: dict[str, Series] = {}

    def add(self, step: int, epoch: float, values: Mapping[str, Any]) -> None:
        """Record what was measured after `step` optimizer steps and `epoch` epochs."""
        values = {tag: rounded(value) for tag, value in values.items()}
        for tag, value in values.items():
            self._append(tag, step, epoch, value)
        self._write({"step": step, "epoch": epoch, "values": values})

    def add_steps(self, step: int, epoch: float, values: Mapping[str, list[float]]) -> None:
        """Record lists of one value for each of the last successive steps, the last of which is `step`."""
        count = 0
        values = {tag: rounded(block) for tag, block in values.items()}
        for tag, block in values.items():
            count = len(block)
            self._extend(tag, step, epoch, block)
        self._write({"step": step, "epoch": epoch, "steps": count, "values": values})

    def tags(self, prefix: str = "") -> list[str]:
        """The tags that begin with `prefix`, in the order in which they first came."""
        return [tag for tag in self._series if tag.startswith(prefix)]

    def series(self, tag: str) -> Series:
        """The measurements of `tag`; empty where there is none."""
        return self._series.get(tag, Series())

    def last(self, tag: str, default: Any = None) -> Any:
        """The latest value of `tag`."""
        series = self.series(tag)
        return series.values[-1] if len(series) else default

    def resume(self, step: int, count: int | None = None) -> None:
        """Read back the first `count` lines of the file at `path`, up to `step`, and drop the rest of it."""
        if self.path is None or not self.path.exists():
            return
        lines = [line for line, entry in _entries(self.path) if entry["step"] <= step][:count]
        self.lines = len(lines)
        write_atomically(self.path, "".join(f"{line}\n" for line in lines))
        self._series = History.read(self.path)._series

    @classmethod
    def read(cls, path: Path) -> History:
        """The history in the file at `path`, not bound to it; a last line cut off by a crash is left out."""
        history = cls()
        for _, entry in _entries(path):
            add = history.add_steps if "steps" in entry else history.add
            add(entry["step"], entry["epoch"], _from_json(entry["values"]))
        return history

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

    def _write(self, entry: dict[str, Any]) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({**entry, "values": _to_json(entry["values"])}, separators=(",", ":"))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self.lines += 1


def _entries(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The lines of the file that are whole, as they are and as read."""
    for line in path.read_text("utf-8").splitlines():
        try:
            yield line, json.loads(line)
        except json.JSONDecodeError:
            continue


def rounded(value: Any) -> Any:
    """A number to seven digits, as it is kept, so that a run reads back what it has written."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, Mapping):
        return {key: rounded(part) for key, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list | tuple) else value


def _to_json(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {key: _to_json(part) for key, part in value.items()}
    return [_to_json(part) for part in value] if isinstance(value, list | tuple) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, str):
        return float(value) if value in ("nan", "inf", "-inf") else value
    if isinstance(value, dict):
        return {key: _from_json(part) for key, part in value.items()}
    return [_from_json(part) for part in value] if isinstance(value, list) else value
