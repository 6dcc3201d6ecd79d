"""The page of a sweep: one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from vitals.sweeps.borders import Border
from vitals.sweeps.pictures import pictures
from vitals.sweeps.results import SweepResults, over_seeds
from vitals.sweeps.summary import percent, with_deviation

STYLE = """
:root { color-scheme: light }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; color: #222 }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto }
th, td { padding: .2rem .6rem; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.warning { background: #fff4d6; padding: .6rem 1rem; margin: 1rem 0 } code { overflow-wrap: anywhere }
.failed { color: #b22222 } svg { max-width: 100%; height: auto }
"""


def write_page(results: SweepResults, edges: list[Border], shares: dict[str, float]) -> None:
    """Write `report.html` into the sweep's folder: warnings, importance, pictures and the table of jobs."""
    name = results.folder.path.name
    parts = [f"<h1>Sweep {escape(name)}</h1>", f"<p>{escape(_counts(results))}</p>"]
    for edge in edges:
        parts.append(
            f'<div class="warning">Warning: {escape(edge.message)} To try:<br>'
            f"<code>{escape(edge.command)}</code></div>"
        )
    if shares:
        listed = ", ".join(f"{escape(key)} {share:.0%}" for key, share in shares.items())
        parts.append(f"<p>Importance, as share of the variance explained (fANOVA): {listed}</p>")
    for title, svg in pictures(results).items():
        parts.append(
            f'<h2>{escape(title)}</h2><figure role="img" aria-label="{escape(title)}">{svg}</figure>'
        )
    if repeated := over_seeds(results):
        rows = (
            [
                *(row.words.get(key, "") for key in results.varied),
                str(row.count),
                with_deviation(row.best_mean, row.best_deviation),
                with_deviation(row.test_mean, row.test_deviation),
            ]
            for row in repeated
        )
        parts.append("<h2>Over seeds</h2>" + _table([*results.varied, "seeds", "best", "test"], rows))
    parts.append("<h2>Jobs</h2>" + _jobs(results))
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>Sweep {escape(name)}</title><style>{STYLE}</style></head>\n"
        f"<body>{''.join(parts)}</body></html>\n"
    )
    temporary = results.folder.path / "report.tmp"
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(results.folder.path / "report.html")


def _counts(results: SweepResults) -> str:
    states = [job.status for job in results.jobs]
    counts = [f"{states.count(state)} {state}" for state in sorted(set(states))]
    return ", ".join([*counts, *([f"{results.missing} not started"] if results.missing else [])])


def _jobs(results: SweepResults) -> str:
    columns = [
        "job",
        "status",
        *results.varied,
        "seed",
        "best",
        "epoch",
        "last",
        "averaged",
        "test",
        "minutes",
    ]
    order = [*results.ranked, *(job for job in results.jobs if job.best is None)]
    rows = (
        [
            str(job.number),
            job.status,
            *(job.words.get(key, "") for key in results.varied),
            "" if job.seed is None else str(job.seed),
            percent(job.best),
            "" if job.best_epoch is None else str(job.best_epoch),
            *(percent(share) for share in (job.last, job.average, job.test)),
            "" if job.minutes is None else f"{job.minutes:.1f}",
            job.error or ", ".join(job.findings),
        ]
        for job in order
    )
    return _table([*columns, "error or findings"], rows)


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(text: str) -> str:
    number = text[:1].isdigit() or text[:1] == "-"
    kind = "number" if number else "failed" if text == "failed" else ""
    return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"
