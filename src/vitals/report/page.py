"""One self-contained page about a run, or about several side by side, from their folders alone. Importable
without torch."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitals.files import write_atomically
from vitals.findings import in_how_many, ranked
from vitals.report import facts
from vitals.report.live import Live
from vitals.report.record import LeftOut, RunRecord
from vitals.report.rendering import render
from vitals.report.sections import sections

FILE = "report.html"


def make_report(folder: Path, status: Mapping[str, Any] | None = None) -> Path:
    """Write `report.html` into a run's folder, and return its path; `OSError` if it cannot be written.

    One of metrics.csv, history.jsonl, findings.json and predictions.npz is enough: whatever the folder lacks
    is left out of the page with half a sentence why. The same folder gives the same page. `status` is what
    `status.json` is going to say, where the page is the last thing that is made.
    """
    record = RunRecord.read(folder)
    return write_runs([replace(record, status={**record.status, **(status or {})})], folder / FILE)


def comparison_name(folders: Sequence[Path]) -> str:
    """Of the file of a comparison."""
    others = [folder.absolute().name for folder in folders[1:]]
    more = f"_and_{len(others) - 1}_more" if len(others) > 1 else ""
    return f"comparison_with_{others[0][:80]}{more}.html"


def write_runs(runs: Sequence[RunRecord], path: Path) -> Path:
    """Write the page about one run, or about several side by side, to `path`, and return it; `OSError` if it
    cannot be written."""
    write_atomically(path, page_of(runs))
    return path


def page_of(runs: Sequence[RunRecord], live: Live | None = None) -> str:
    """The page about one run, or about several side by side, and what is said of them where it is served and
    follows them (`live`)."""
    return render(
        "page.html",
        live,
        source="another program's record" if runs[0].unjudged else "the run's folder",
        runs=runs,
        title=" against ".join(run.name for run in runs),
        sections=sections(runs),
        in_how_many=in_how_many,
        looked=facts.looked,
        alarms=[ranked(finding for finding in run.findings if finding.alarming) for run in runs],
        subtitles=[facts.subtitle(run) for run in runs],
        key_figures=facts.key_figures(runs[0]) if len(runs) == 1 else [],
        results=facts.results(runs) if len(runs) > 1 else [],
        differences=facts.differences(runs) if len(runs) > 1 else [],
        configurations=[_or_reason(facts.configuration, run) for run in runs],
        reproductions=[_or_reason(facts.reproduction, run) for run in runs],
    )


def _or_reason(make: Any, run: RunRecord) -> tuple[Any, str]:
    """What `make` says of the run, or None and why not."""
    try:
        return make(run), ""
    except LeftOut as reason:
        return None, str(reason)
    except Exception as error:  # a file that is not as it should be
        return None, f"config.yaml is not as it should be ({type(error).__name__})"
