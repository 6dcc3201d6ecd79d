"""The report of a sweep: `results.csv`, `report.html`, and the tables on the terminal."""

from rich import box
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from vitals.files import write_atomically
from vitals.runs.run_folder import shown
from vitals.sweeps.jobs.folder import SweepFolder
from vitals.sweeps.jobs.live_table import COLOURS
from vitals.sweeps.results.levels import importance
from vitals.sweeps.results.next_steps import next_steps
from vitals.sweeps.results.page import sweep_page
from vitals.sweeps.results.results import SweepResults, read_results, write_csv
from vitals.sweeps.results.tables import TextTable, job_table, remarks, seed_table

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
