"""The page of a sweep."""

import statistics
from urllib.parse import quote

from vitals.report.live import Live
from vitals.report.numbers import count, duration
from vitals.report.rendering import render
from vitals.sweeps.results.next_steps import Step
from vitals.sweeps.results.pictures import importance_chart, key_charts, parallel_chart
from vitals.sweeps.results.results import JobResult, SweepResults
from vitals.sweeps.results.tables import job_table, ordered, remarks, seed_table


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
