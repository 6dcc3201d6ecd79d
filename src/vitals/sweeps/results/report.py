"""The report of a sweep: `results.csv`, `report.html`, and the tables on the terminal."""

import statistics
from urllib.parse import quote

from rich import box
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from vitals.files import write_atomically
from vitals.report.live import Live
from vitals.report.numbers import count, duration
from vitals.report.rendering import render
from vitals.runs.run_folder import shown
from vitals.sweeps.jobs.folder import SweepFolder
from vitals.sweeps.jobs.live_table import COLOURS
from vitals.sweeps.results.levels import importance
from vitals.sweeps.results.next_steps import Step, next_steps
from vitals.sweeps.results.pictures import importance_chart, key_charts, parallel_chart
from vitals.sweeps.results.results import JobResult, SweepResults, read_results, write_csv
from vitals.sweeps.results.tables import TextTable, job_table, ordered, remarks, seed_table

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
    live = None if written is None else Live(f"{counts[:1].upper()}{counts[1:]}.", results.running, written)
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
            figures.append(("reached after", count(best.best_epoch, "epoch")))
        if best.test is not None:
            figures.append(("the same in the test", results.metric.text(best.test)))
    if minutes := sum(job.minutes or 0.0 for job in results.jobs):
        figures.append(("training time of all jobs", duration(60 * minutes)))
    return figures
