"""What `scripts/report.py` does: find the folders that were named, make the page, say where it is."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from vitals.errors import UserError
from vitals.files import existing_folder
from vitals.report.page import make_comparison, make_report
from vitals.report.record import MATERIAL


def report(options: DictConfig) -> Path:
    """Make the page of the run, or of the runs, that `options` names; print and return its path.

    Args:
        options: `run` or `runs`, as `vitals/configs/report.yaml` describes them.

    Raises:
        UserError: if a folder is missing, holds nothing to report, or cannot be written to.
    """
    names = [options.run] if options.run is not None else list(options.runs)
    folders = [run_folder(name, "run" if options.run is not None else "runs") for name in names]
    try:
        page = make_report(folders[0]) if options.run is not None else make_comparison(folders)
    except OSError as error:
        raise UserError(f"the page cannot be written: {error}.") from None
    Console().print(f"report: {page} ({page.stat().st_size / 1e6:.1f} MB)", soft_wrap=True, highlight=False)
    return page


def run_folder(name: str, key: str) -> Path:
    """The folder of a run, which the user gave as `key`; one of anybody's project will do.

    Raises:
        UserError: if there is none, or nothing in it to report.
    """
    folder = existing_folder(name, key, "run")
    if any((folder / file).is_file() for file in MATERIAL):
        return folder
    if inside := _runs_in(folder):
        latest = max(inside, key=lambda run: run.stat().st_mtime)
        raise UserError(f"{key}={name} holds {len(inside)} runs: name one of them, such as {latest}.")
    if (folder / "config.yaml").is_file():
        raise UserError(f"{key}={name} has nothing to report yet: it has none of {', '.join(MATERIAL)}.")
    raise UserError(f"{key}={name} is not the folder of a run: it has none of {', '.join(MATERIAL)}.")


def _runs_in(folder: Path) -> list[Path]:
    return [
        child
        for child in sorted(folder.iterdir())
        if child.is_dir() and any((child / file).is_file() for file in MATERIAL)
    ]
