"""The tables of a sweep, as its page and the terminal show them."""

from __future__ import annotations

import math
from typing import NamedTuple

from vitals.metric import Metric
from vitals.report.rendering import Column
from vitals.sweeps.results.results import JobResult, SweepResults, over_seeds


class TextTable(NamedTuple):
    """Columns, and rows of as many cells."""

    columns: list[Column]
    rows: list[list[str]]

    def without(self, *titles: str) -> TextTable:
        """The same less the columns of these titles."""
        kept = [index for index, column in enumerate(self.columns) if column.title not in titles]
        rows = [[row[index] for index in kept] for row in self.rows]
        return TextTable([self.columns[index] for index in kept], rows)


def ordered(results: SweepResults) -> list[JobResult]:
    """The jobs, the best first; at the end those that have no score."""
    return [*results.ranked, *(job for job in results.jobs if job.score is None)]


def job_table(results: SweepResults) -> TextTable:
    """A row a job, the best first. What no job has (averaged weights, a test) has no column, nor has a seed
    that all share, nor have the weights that were chosen where all chose those of their best epoch."""
    varied = [Column(name) for name in short_names(results.varied)]
    figures = [
        Column(title, amount=True)
        for title in ("seed", "chosen", "best", "epoch", "last", "averaged", "test", "minutes")
    ]
    rows = [
        [
            str(job.number),
            job.status,
            *(job.words.get(key, "–") for key in results.varied),
            "–" if job.seed is None else str(job.seed),
            f"{job.weights} {results.metric.text(job.score)}",
            results.metric.text(job.best),
            "–" if job.best_epoch is None else str(job.best_epoch),
            *map(results.metric.text, (job.last, job.average, job.test)),
            "–" if job.minutes is None else f"{job.minutes:.1f}",
        ]
        for job in ordered(results)
    ]
    table = TextTable([Column("job", amount=True), Column("status"), *varied, *figures], rows)
    unknown = _unknown(results)
    unknown += ["seed"] * (len({job.seed for job in results.jobs}) == 1)
    return table.without(*unknown)


def _unknown(results: SweepResults) -> list[str]:
    """The titles of what no job has, and of what was chosen where that was the best epoch everywhere."""
    figures = {"averaged": "average", "test": "test"}
    unknown = [title for title in figures if all(getattr(j, figures[title]) is None for j in results.jobs)]
    return unknown + ["chosen"] * all(job.weights == "best" for job in results.jobs)


def seed_table(results: SweepResults) -> TextTable | None:
    """Mean ± standard deviation of the jobs that differ in the seed alone; None where no two do."""
    repeated = over_seeds(results)
    if not repeated:
        return None
    varied = [Column(name) for name in short_names(results.varied)]
    figures = [Column(title, amount=True) for title in ("seeds", "chosen", "best", "averaged", "test")]
    rows = [
        [
            *(row.words.get(key, "–") for key in results.varied),
            str(row.count),
            *(with_deviation(results.metric, *pair) for pair in (row.score, row.best, row.average, row.test)),
        ]
        for row in repeated
    ]
    return TextTable([*varied, *figures], rows).without(*_unknown(results))


def remarks(results: SweepResults) -> list[tuple[JobResult, str]]:
    """The jobs of which there is something to say, best first: an error, why it was stopped, its findings,
    and other code than that of the sweep's start."""
    start = min((job.code for job in results.jobs if job.code), default=None)
    said = []
    for job in ordered(results):
        parts = [*filter(None, [job.error]), *dict.fromkeys(job.findings)]
        if job.code == "":
            parts.append("ran the code as it was when it began, no copy of it was kept")
        elif job.code != start and job.code is not None:
            parts.append(f"ran the code as it was at {job.code}, not at the sweep's start")
        said.append((job, ", ".join(parts)))
    return [(job, words) for job, words in said if words]


def short_names(keys: list[str]) -> list[str]:
    """The last part of each key where that is enough to tell them apart."""
    last = [key.rpartition(".")[2] for key in keys]
    return [name if last.count(name) == 1 else key for name, key in zip(last, keys, strict=True)]


def with_deviation(metric: Metric, mean: float | None, deviation: float | None) -> str:
    """`76.10% ± 0.32`; without the deviation where there is but one value."""
    if mean is None or deviation is None or math.isnan(deviation):
        return metric.text(mean)
    text = metric.text(mean)
    if not text.endswith("%"):
        return f"{text} ± {deviation:.2g}"
    points = f"{100 * deviation:.2f}"
    return f"{text} ± {points if deviation == 0 or float(points) else f'{100 * deviation:.1g}'}"
