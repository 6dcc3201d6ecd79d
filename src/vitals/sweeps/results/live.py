"""The live page of a run, of runs side by side, or of a sweep with its jobs, from their folders alone."""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from vitals.files import read_status
from vitals.folder_lock import truthful
from vitals.report.facts import progress
from vitals.report.foreign import is_foreign
from vitals.report.live import Live, LivePage, Server, newest, stamps
from vitals.report.page import page_of
from vitals.report.record import FILES, LETTERS
from vitals.runs.report import record
from vitals.runs.signals import Interrupted
from vitals.sweeps.jobs.folder import SweepFolder
from vitals.sweeps.results.levels import importance
from vitals.sweeps.results.next_steps import next_steps
from vitals.sweeps.results.report import sweep_page
from vitals.sweeps.results.results import read_results

OF_JOB = ("config.yaml", "status.json", "metrics.csv", "findings.json", "job.json")
"""Files that the page of a sweep is made from."""


def watch(options: DictConfig) -> None:
    """Serve the page of what `options` name (see `vitals/configs/report.yaml`) until Ctrl-C; its address is
    printed first. `UserError` if a folder is missing or holds no run, or the port is taken."""
    if hasattr(os, "nice"):
        os.nice(10)  # what trains on this machine goes first
    with Server(pages(options), options.port or 0) as server:
        Console().print(f"live page: {server.address} (Ctrl-C ends it)", soft_wrap=True, highlight=False)
        try:
            server.serve_forever()
        except Interrupted as end:
            if end.number != signal.SIGINT:
                raise


def pages(options: DictConfig) -> Callable[[str], LivePage | None]:
    """What finds a live page by its path; that of what `options` name is `/`. `UserError` as `watch`, but for
    the port."""
    if options.run is not None:
        sweep = SweepFolder(Path(options.run).expanduser())
        if sweep.record.is_file() or any((job / "job.json").is_file() for job in sweep.jobs()):
            return _sweep_pages(sweep)
    key = "run" if options.run is not None else "runs"
    page = _runs_page([options.run] if key == "run" else list(options.runs), key)
    page.current()  # what is wrong with a folder is told at once
    return {"/": page}.get


def _runs_page(names: Sequence[str], key: str) -> LivePage:
    paths = [Path(name).expanduser() for name in names]

    def make() -> str:
        written = newest({file: stamp for path in paths for file, stamp in stamps(_files(path)).items()})
        runs = [record(name, key, begun=True) for name in names]
        said = [progress(run) for run in runs]
        if len(runs) > 1:
            said = [f"{letter} {words}" for letter, words in zip(LETTERS, said, strict=False)]
        running = any(run.status.get("status") == "running" for run in runs)
        return page_of(runs, Live(" ".join(said), running, written))

    return LivePage(lambda: [_seen(path, _files(path)) for path in paths], make)


def _sweep_pages(folder: SweepFolder) -> Callable[[str], LivePage | None]:
    def seen() -> object:
        return stamps([folder.record]), [_seen(job, _of_job(job)) for job in folder.jobs()]

    def make() -> str:
        written = newest(stamps(file for job in folder.jobs() for file in _of_job(job)))
        results = read_results(folder)
        return sweep_page(results, next_steps(results), importance(results), written)

    own = LivePage(seen, make)
    found: dict[str, LivePage] = {}

    def find(path: str) -> LivePage | None:
        if path == "/":
            return own
        name, _, rest = path.removeprefix("/").partition("/")
        if rest == "report.html" and name in [job.name for job in folder.jobs()]:
            return found.setdefault(name, _runs_page([str(folder.path / name)], "run"))
        return None

    return find


def _seen(path: Path, files: Sequence[Path]) -> object:
    """What the page of a run changes with: its files, and whether the process that writes them lives."""
    return stamps(files), truthful(path, read_status(path / "status.json")).get("status")


def _of_job(path: Path) -> list[Path]:
    return [path / name for name in OF_JOB]


def _files(path: Path) -> list[Path]:
    if is_foreign(path):
        return [path, *path.rglob("*")]
    return [path / name for name in FILES]
