"""What a sweep tells the terminal when it has ended."""

from __future__ import annotations

import math
import shlex

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vitals.run_folder import shown
from vitals.sweeps.borders import Border
from vitals.sweeps.results import JobResult, Repeated, SweepResults, over_seeds

COLOURS = {"finished": "green", "failed": "red", "interrupted": "yellow", "running": "cyan"}
ROWS = 30
TOP = 5


def print_summary(
    results: SweepResults, edges: list[Border], shares: dict[str, float], console: Console | None = None
) -> None:
    """The tables, the warnings, and what can be typed next.

    Args:
        results: of the sweep.
        edges: best values at the edge of their range.
        shares: importance by key.
        console: where to print; the terminal by default.
    """
    console = console or Console()
    ranked = results.ranked
    console.print(_job_table(results, [*ranked, *(job for job in results.jobs if job.best is None)]))
    if len(results.jobs) > ROWS:
        console.print(
            f"… the best {ROWS} of {len(results.jobs)}; all of them are in {results.folder.results.name}"
        )
    if repeated := over_seeds(results):
        console.print(_seed_table(results, repeated))
    if shares:
        parts = [f"{key} {share:.0%}" for key, share in shares.items()]
        console.print(f"importance (share of the variance explained): {', '.join(parts)}", soft_wrap=True)
    for edge in edges:
        console.print(f"[yellow]warning[/]: {escape(edge.message)} To try:", soft_wrap=True)
        console.print(escape(edge.command), soft_wrap=True, highlight=False)
    print_next(results, ranked, console)


def print_next(results: SweepResults, ranked: list[JobResult], console: Console) -> None:
    """Where everything lies, the best jobs together, and what is left to run."""
    folder = shown(results.folder.path)
    best = [job for job in ranked if job.complete][:TOP]
    if len(best) > 1:
        runs = ",".join(shown(job.folder) for job in best)
        command = shlex.join(["python", "scripts/ensemble.py", f"runs=[{runs}]"])
        console.print(
            f"the best {len(best)} together:\n{command}", soft_wrap=True, markup=False, highlight=False
        )
    console.print(f"table and pictures: {folder}/results.csv, {folder}/report.html", soft_wrap=True)
    left = [job for job in results.jobs if not job.complete]
    if left or results.missing:
        states = [f"{len(left)} failed or interrupted"] if left else []
        states += [f"{results.missing} not started"] if results.missing else []
        console.print(f"[yellow]{' and '.join(states)}[/]; to run what is missing:")
        script = results.folder.read_record().get("script", "scripts/train.py")
        console.print(f"python {script} -m resume_sweep={folder}", soft_wrap=True, highlight=False)


def short_names(keys: list[str]) -> list[str]:
    """The last part of each key where that is enough to tell them apart."""
    last = [key.rpartition(".")[2] for key in keys]
    return [name if last.count(name) == 1 else key for name, key in zip(last, keys, strict=True)]


def _job_table(results: SweepResults, jobs: list[JobResult]) -> Table:
    table = Table(title="Jobs", title_justify="left")
    averaged = any(job.average is not None for job in jobs)
    varied = short_names(results.varied)
    for column in ("job", "status", *varied, "seed", "best", "last"):
        table.add_column(column, justify="left" if column in ("status", *varied) else "right")
    for column in (*(["averaged"] if averaged else []), "test", "minutes"):
        table.add_column(column, justify="right")
    table.add_column("error or findings", overflow="ellipsis", no_wrap=True, ratio=1)
    for job in jobs[:ROWS]:
        status = f"[{COLOURS.get(job.status, 'yellow')}]{job.status}[/]"
        values = [escape(job.words.get(key, "")) for key in results.varied]
        figures = [percent(job.best), percent(job.last)]
        figures += [percent(job.average)] if averaged else []
        figures += [percent(job.test), "" if job.minutes is None else f"{job.minutes:.1f}"]
        seed = "" if job.seed is None else str(job.seed)
        said = job.error or ", ".join(job.findings)
        table.add_row(str(job.number), status, *values, seed, *figures, escape(said))
    return table


def _seed_table(results: SweepResults, rows: list[Repeated]) -> Table:
    table = Table(title="Over seeds: mean ± standard deviation", title_justify="left")
    varied = short_names(results.varied)
    for column in (*varied, "seeds", "best validation", "test"):
        table.add_column(column, justify="left" if column in varied else "right")
    for row in rows[:ROWS]:
        values = [escape(row.words.get(key, "")) for key in results.varied]
        test = with_deviation(row.test_mean, row.test_deviation)
        table.add_row(*values, str(row.count), with_deviation(row.best_mean, row.best_deviation), test)
    return table


def percent(share: float | None) -> str:
    """`0.761` as `76.10%`; empty for None."""
    return "" if share is None else f"{share:.2%}"


def with_deviation(mean: float | None, deviation: float | None) -> str:
    """`76.10% ± 0.32`; without the deviation where there is but one value."""
    if mean is None:
        return ""
    return percent(mean) + ("" if deviation is None or math.isnan(deviation) else f" ± {100 * deviation:.2f}")
