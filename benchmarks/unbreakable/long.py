"""A run of a thousand epochs: in the last it has as much memory, and takes as long, as in the others."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.unbreakable.commands import Commands
from benchmarks.unbreakable.kills import TINY
from vitals.files import read_json


@dataclass
class Long:
    """What was seen at two ends of a run."""

    epochs: int
    early: float
    """MiB resident in the second tenth of the run, the median."""
    late: float
    """In the last tenth."""
    early_seconds: float
    """For an epoch, in the second tenth."""
    late_seconds: float


def long_run(commands: Commands, place: Path, epochs: int) -> Long:
    """Train for so many epochs of a few steps, with every monitor."""
    place.mkdir(parents=True)
    seen: list[tuple[float, float, float]] = []

    def look() -> None:
        status = read_json(place / "run" / "status.json")
        if status.get("status") == "running" and status.get("epoch"):
            pages = Path(f"/proc/{status['process']}/statm").read_text().split()[1]
            seen.append((status["epoch"], int(pages) * 4096 / 2**20, time.monotonic()))
            time.sleep(0.2)

    words = [*TINY, f"trainer.max_epochs={epochs}", "data.batch_size=32", "checks=none"]
    ended = commands.script("train", words, place, patience=6 * 3600, meanwhile=look)
    if ended.code:
        raise SystemExit(f"the long run ended with code {ended.code}:\n{ended.said}")

    def within(start: float, end: float) -> tuple[float, float]:
        rows = [row for row in seen if start * epochs < row[0] <= end * epochs]
        trained = rows[-1][0] - rows[0][0]
        return statistics.median(row[1] for row in rows), (rows[-1][2] - rows[0][2]) / max(trained, 1)

    (early, early_seconds), (late, late_seconds) = within(0.1, 0.2), within(0.9, 1.0)
    return Long(epochs, early, late, early_seconds, late_seconds)
