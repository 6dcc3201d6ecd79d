"""What `scripts/report.py` does: find the records that were named, make the page, say where it is."""

from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console

from vitals.diagnosis.curves import diagnose_curves
from vitals.errors import UserError
from vitals.files import CannotWrite, existing_folder
from vitals.findings import print_findings
from vitals.report.foreign import is_foreign, read_foreign
from vitals.report.page import FILE, comparison_name, write_runs
from vitals.report.record import FILES, MATERIAL, RunRecord
from vitals.runs.run_folder import A_RECORD, A_RUN

OURS = "Made by Vitals from"
"""In the footer of every page."""


def report(options: DictConfig) -> Path:
    """Make the page of the run, or of the runs, that `options` name (see `vitals/configs/report.yaml`); print
    and return its path. Of the record of another program the findings that its curves allow are printed, too.
    `UserError` if a folder is missing, holds nothing to report, or cannot be written to."""
    single = options.run is not None
    names = [options.run] if single else list(options.runs)
    records = [record(name, "run" if single else "runs") for name in names]
    folder = records[0].folder
    path = folder / (FILE if single else comparison_name([one.folder for one in records]))
    if single and Path(names[0]).expanduser().is_file():
        path = folder / f"{Path(names[0]).stem}_{FILE}"
    out = options.get("out")
    if out is not None:
        path = Path(out).expanduser()
    elif path.is_file() and OURS not in path.read_text(encoding="utf-8", errors="replace"):
        path = path.with_name(f"vitals_{path.name}")  # that is the page of somebody else
    try:
        page = write_runs(records, path)
    except CannotWrite as problem:
        reason = problem.error.strerror or str(problem.error)
        raise UserError(
            f"the page cannot be written to {path} ({reason}): name another place with out=<page>.html."
        ) from None
    console = Console()
    for one in records if single else []:
        if one.unjudged:
            if any(finding.alarming for finding in one.findings):
                print_findings(one.findings, console)
            else:
                console.print("findings: [green]the curves show no fault[/]", highlight=False)
            console.print(one.unjudged, highlight=False, markup=False)
    said = f"report: {page} ({page.stat().st_size / 1e6:.1f} MB)"
    console.print(said, soft_wrap=True, highlight=False, markup=False)
    return page


def record(name: str, key: str, begun: bool = False) -> RunRecord:
    """The record of a run, the folder or file `name` that the user gave as `key`; one of anybody's project
    will do, and where it has `begun`, one that has nothing to report yet. `UserError` if there is none."""
    path = existing_folder(name, key, A_RECORD, or_file=True)
    if is_foreign(path) and all(map(is_foreign, _runs_in(path))):
        found = read_foreign(path, f"{key}={name}")
        if found is not None:
            return replace(found, findings=diagnose_curves(found.history))
    folder = existing_folder(name, key, A_RUN)
    if any((folder / file).is_file() for file in FILES if begun or file in MATERIAL):
        return RunRecord.read(folder)
    if inside := _runs_in(folder):
        latest = max(inside, key=lambda run: run.stat().st_mtime)
        raise UserError(f"{key}={name} holds {len(inside)} runs: name one of them, such as {latest}.")
    if (folder / "config.yaml").is_file():
        raise UserError(f"{key}={name} has nothing to report yet: it has none of {', '.join(MATERIAL)}.")
    raise UserError(
        f"{key}={name} is not the folder of a run: it has none of {', '.join(MATERIAL)}, nor TensorBoard's "
        f"event files."
    )


def _runs_in(folder: Path) -> list[Path]:
    children = sorted(folder.iterdir()) if folder.is_dir() else []
    return [child for child in children if any((child / file).is_file() for file in MATERIAL)]
