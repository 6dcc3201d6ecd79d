"""The live table of a sweep's jobs; where the output is no terminal, a line for every job that ended."""

import time
from datetime import timedelta
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from vitals.metric import Metric
from vitals.runs.run_folder import RunFolder
from vitals.sweeps.jobs.job import Job

COLOURS = {"finished": "green", "failed": "red", "interrupted": "yellow", "running": "cyan", "killed": "red"}
"""Of the statuses of jobs."""
ENDED_SHOWN = 8


class LiveTable:
    """Running jobs, those that ended last, counts, the best so far by `metric` and the time left, of a sweep
    of `total` jobs of which `done` need not be run and `at_once` can run side by side."""

    def __init__(self, total: int, done: int, at_once: int, metric: Metric) -> None:
        self.total, self.at_once, self.metric = total, at_once, metric
        self.console = Console()
        self.running: dict[int, tuple[Job, list[str], float]] = {}
        self.ended_jobs: list[tuple[Job, str, float, float | None]] = []
        self.already_done = done
        self.best: tuple[float, Job] | None = None
        self.drawn = 0.0
        self.live = Live(console=self.console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def started(self, job: Job, devices: list[str]) -> None:
        self.running[job.number] = job, devices, time.monotonic()
        self.refresh(now=True)

    def ended(self, job: Job, status: str) -> None:
        _, _, start = self.running.pop(job.number, (job, [], time.monotonic()))
        score = self._score(job)
        self._take(job, score)
        self.ended_jobs.append((job, status, time.monotonic() - start, score))
        if not self.console.is_terminal:
            shown = "" if score is None else f" {self.metric.text(score)}"
            error = RunFolder(job.folder).read_status().get("error")
            why = f": {error}" if error else ""
            line = f"#{job.number} {status}{shown} in {_clock(time.monotonic() - start)}, {job.swept}{why}"
            left = self._time_left()
            line += f"; {left} left" if left else ""
            self.console.print(line, soft_wrap=True, markup=False, highlight=False)
        self.refresh(now=True)

    def refresh(self, now: bool = False) -> None:
        if self.console.is_terminal and (now or time.monotonic() - self.drawn > 1.0):
            self.drawn = time.monotonic()
            self.live.update(self.table(), refresh=True)

    def table(self) -> Group:
        """What is drawn."""
        table = Table(title="Sweep", title_justify="left")
        for column in ("job", "status", "devices", "epoch", "best", "time", "overrides"):
            right = column in ("job", "epoch", "best", "time")
            table.add_column(column, justify="right" if right else "left", overflow="fold")
        for job, status, seconds, score in self.ended_jobs[-ENDED_SHOWN:]:
            colour = COLOURS.get(status, "white")
            said, shown = f"[{colour}]{escape(status)}[/]", self.metric.text(score)
            table.add_row(str(job.number), said, "", "", shown, _clock(seconds), escape(job.swept))
        for job, devices, start in self.running.values():
            score = self._score(job)
            self._take(job, score)
            epoch = RunFolder(job.folder).read_status().get("epoch") or 0
            progress = escape(f"{epoch}/{job.epochs}" if job.epochs else str(epoch))
            shown, clock = self.metric.text(score), _clock(time.monotonic() - start)
            where, swept = escape(" ".join(devices)), escape(job.swept)
            table.add_row(str(job.number), "[cyan]running[/]", where, progress, shown, clock, swept)
        return Group(table, Text(self.summary()))

    def summary(self) -> str:
        """One line of counts, the best so far, and the time left."""
        states = [status for _, status, _, _ in self.ended_jobs]
        finished = states.count("finished") + self.already_done
        failed = len(states) - states.count("finished")
        waiting = self.total - finished - failed - len(self.running)
        parts = [f"{len(self.running)} running, {finished} finished, {failed} failed, {waiting} wait"]
        if self.best is not None:
            parts.append(f"best {self.metric.text(self.best[0])} (job {self.best[1].number})")
        if left := self._time_left():
            parts.append(f"about {left} left")
        return "; ".join(parts)

    def _score(self, job: Job) -> float | None:
        """Of the weights that the job chose, or of its best epoch so far."""
        scored = RunFolder(job.folder).score(self.metric)
        return None if scored is None else scored[0]

    def _take(self, job: Job, score: float | None) -> None:
        rank = self.metric.rank
        if score is not None and (self.best is None or rank(score) < rank(self.best[0])):
            self.best = score, job

    def _time_left(self) -> str:
        """By the mean time of the jobs that have finished; empty before the first, or where none is left."""
        times = [seconds for _, status, seconds, _ in self.ended_jobs if status == "finished"]
        if not times:
            return ""
        mean = sum(times) / len(times)
        waiting = self.total - self.already_done - len(self.ended_jobs) - len(self.running)
        under_way = [max(0.0, mean - (time.monotonic() - start)) for _, _, start in self.running.values()]
        seconds = (waiting * mean + sum(under_way)) / self.at_once
        return _clock(seconds) if waiting or under_way else ""


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
