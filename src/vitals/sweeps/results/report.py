"""The report of a sweep: `results.csv`, `report.html`, and the tables on the terminal."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import quote

from rich import box
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from vitals.errors import counted
from vitals.files import write_atomically
from vitals.metric import Metric
from vitals.report.live import Live
from vitals.report.numbers import duration
from vitals.report.rendering import Column, render
from vitals.runs.run_folder import shown
from vitals.sweeps.jobs.folder import SweepFolder
from vitals.sweeps.jobs.live_table import COLOURS
from vitals.sweeps.results.levels import importance
from vitals.sweeps.results.next_steps import Step, next_steps
from vitals.sweeps.results.pictures import importance_chart, key_charts, parallel_chart
from vitals.sweeps.results.results import (
    JobResult,
    SweepResults,
    over_seeds,
    read_results,
    short_names,
    write_csv,
)

ROWS = 30


def report(folder: SweepFolder, console: Console | None = None) -> SweepResults:
    """Read the jobs in `folder`, write its table and its page, and print a summary: the tables, what the jobs
    said, the importance of each key, and what can be typed next."""
    results, console = read_results(folder), console or Console()
    steps, shares = next_steps(results), importance(results)
    write_csv(results)
    write_atomically(folder.path / "report.html", sweep_page(results, steps, shares))
    _print_table(console, "Jobs", job_table(results))
    for job, said in remarks(results)[:ROWS]:
        state = f"[{COLOURS.get(job.status, 'yellow')}]{escape(job.status)}[/]"
        console.print(f"job {job.number} {state}: {escape(said)}", soft_wrap=True, highlight=False)
    if len(results.jobs) > ROWS:
        console.print(f"… the best {ROWS} of {len(results.jobs)}; all of them are in {folder.results.name}")
    if (seeds := seed_table(results)) is not None:
        _print_table(console, "Over seeds: mean ± standard deviation", seeds)
    if shares:
        said = escape(", ".join(f"{key} {share:.0%}" for key, share in shares.items()))
        console.print(f"importance (share of the variance explained): {said}", soft_wrap=True)
    for step in steps:
        mark = "[yellow]warning[/]: " if step.level == "warn" else ""
        console.print(f"{mark}{escape(step.text)}", soft_wrap=True, highlight=False)
        console.print(step.command, soft_wrap=True, highlight=False, markup=False)
    place = escape(shown(folder.path))
    console.print(f"table and pictures: {place}/results.csv, {place}/report.html", soft_wrap=True)
    return results


def _print_table(console: Console, title: str, content: TextTable) -> None:
    """Print the first rows."""
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for column in content.columns:
        justify: JustifyMethod = "right" if column.amount else "left"
        table.add_column(escape(column.title), justify=justify, overflow="fold")
    for row in content.rows[:ROWS]:
        table.add_row(*(f"[{COLOURS[cell]}]{cell}[/]" if cell in COLOURS else escape(cell) for cell in row))
    console.print(table)


def sweep_page(
    results: SweepResults, steps: list[Step], shares: dict[str, float], written: str | None = None
) -> str:
    """The page of a sweep, with what can be typed next and the importance by key; where it is served and
    follows the jobs, as of when their newest file was `written`, it links to their live pages."""
    counts = _counts(results)
    live = None if written is None else Live(f"{counts}.", results.running, written)
    charts = [*key_charts(results), parallel_chart(results), importance_chart(shares)]
    return render(
        "sweep.html",
        live,
        "sort.js",
        source="the folders of the jobs",
        title=f"Sweep {results.folder.path.name}",
        counts=counts,
        key_figures=_key_figures(results),
        steps=steps,
        charts=[chart for chart in charts if chart is not None],
        seeds=seed_table(results),
        jobs=job_table(results),
        links=[_link(results, job, live is not None) for job in ordered(results)],
        remarks=[(job, said, _link(results, job, live is not None)) for job, said in remarks(results)],
        running=results.running,
    )


def _counts(results: SweepResults) -> str:
    states = [job.status for job in results.jobs]
    counts = [f"{states.count(state)} {state}" for state in sorted(set(states))]
    return ", ".join([*counts, *([f"{results.missing} not started"] if results.missing else [])])


def _link(results: SweepResults, job: JobResult, live: bool) -> str:
    """The page of a job, or where it has none its output, as it is reached from the sweep's page."""
    if live:
        return quote(f"{job.folder.name}/report.html")
    for name in ("report.html", "output.log"):
        if (job.folder / name).is_file():
            return quote((job.folder / name).relative_to(results.folder.path).as_posix())
    return ""


def _key_figures(results: SweepResults) -> list[tuple[str, str]]:
    figures = [("jobs", str(len(results.jobs) + results.missing))]
    seeds = {job.seed for job in results.jobs if job.seed is not None}
    if len(seeds) == 1:
        figures.append(("seed of all of them", str(*seeds)))
    if results.ranked:
        best = results.ranked[0]
        averaged = ", averaged weights" if best.weights == "average" else ""
        what = f"best {results.metric.name}, job {best.number}{averaged}"
        if len(results.ranked) > 2:
            median = statistics.median(job.score for job in results.ranked if job.score is not None)
            what += f"; half of the jobs reach {results.metric.text(median)}"
        figures.append((what, results.metric.text(best.score)))
        if best.best_epoch is not None and best.weights == "best":
            figures.append(("reached after", counted(best.best_epoch, "epoch")))
        if best.test is not None:
            figures.append(("the same in the test", results.metric.text(best.test)))
    if minutes := sum(job.minutes or 0.0 for job in results.jobs):
        figures.append(("training time of all jobs", duration(60 * minutes)))
    return figures


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
            *(jobs[0].words.get(key, "–") for key in results.varied),
            str(len(jobs)),
            *(
                with_deviation(results.metric, [getattr(job, name) for job in jobs])
                for name in ("score", "best", "average", "test")
            ),
        ]
        for jobs in repeated
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


def with_deviation(metric: Metric, scores: Sequence[float | None]) -> str:
    """Mean and standard deviation (n − 1) of those that are there: `76.10% ± 0.32`; without the deviation
    where there is but one."""
    known = [score for score in scores if score is not None]
    text = metric.text(statistics.fmean(known) if known else None)
    if len(known) < 2:
        return text
    deviation = statistics.stdev(known)
    if not text.endswith("%"):
        return f"{text} ± {deviation:.2g}"
    points = f"{100 * deviation:.2f}"
    return f"{text} ± {points if deviation == 0 or float(points) else f'{100 * deviation:.1g}'}"
