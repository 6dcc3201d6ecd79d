"""`metrics.csv`: every epoch metric, one row an epoch."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any


class MetricsTable:
    """Rows of metrics, kept in a file that is whole at every moment.

    Args:
        path: of the CSV file.
        epochs: rows of later epochs are dropped: the run goes on from here.
    """

    def __init__(self, path: Path, epochs: int) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= epochs]

    def add(self, row: dict[str, Any]) -> None:
        """Rewrite the file whole, for a later epoch may bring a metric that the earlier ones did not have."""
        self.rows.append(row)
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self.rows)
        temporary.replace(self.path)
