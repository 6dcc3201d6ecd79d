"""The page of an ensemble: one HTML file that needs nothing else."""

from __future__ import annotations

from html import escape
from io import StringIO

import matplotlib
from matplotlib.figure import Figure

from vitals.ensembles.result import Ensemble
from vitals.ensembles.table import speed
from vitals.measures.ensemble import Scores

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem; text-align: right; }
td:nth-child(2), th:nth-child(2) { text-align: left; overflow-wrap: anywhere; }
tbody tr { border-top: 1px solid #ccc; } .together { font-weight: bold; } .warning { color: #b00020; }
svg { max-width: 100%; height: auto; }
@media (prefers-color-scheme: dark) { svg { background: #fff; } :root { color-scheme: dark; } }
"""

COLUMNS = ("", "member", "accuracy", "negative log-likelihood", "calibration error")


def page(result: Ensemble) -> str:
    """The figures of `result` with the accuracy over the number of members and who disagrees with whom."""
    kind = "test" if result.split == "test" else "validation"
    rows = [
        _row(f"{number}", name, of_member)
        for number, (name, of_member) in enumerate(zip(result.names, result.members, strict=True), start=1)
    ]
    mean = result.together
    rows.append(_row("", "mean of the probabilities", mean, "together"))
    vote = f"<td>{result.vote_accuracy:.2%}</td><td></td><td></td>"
    rows.append(f"<tr><td></td><td>majority vote</td>{vote}</tr>")
    verdict = result.warning or f"{result.gain:.2%} above the best member."
    notes = [speed(result), *result.left_out]
    return f"""<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Ensemble of {len(result.members)}: {mean.accuracy:.2%}</title><style>{STYLE}</style></head>
<body>
<h1>Ensemble of {len(result.members)}: {mean.accuracy:.2%}</h1>
<p{' class="warning"' if result.warning else ""}>{escape(verdict)}</p>
<table>
<caption>On {result.images:,} {kind} images</caption>
<thead><tr>{"".join(f"<th>{column}</th>" for column in COLUMNS)}</tr></thead>
<tbody>
{chr(10).join(rows)}
</tbody>
</table>
<h2>Accuracy by number of members</h2>
{_svg(_sizes(result))}
<h2>Who disagrees with whom</h2>
<p>Two members give different classes for {result.mean_disagreement:.2%} of the images.</p>
{_svg(_disagreement(result))}
<ul>{"".join(f"<li>{escape(note)}</li>" for note in notes)}</ul>
</body>
</html>
"""


def _row(number: str, name: str, figures: Scores, kind: str = "") -> str:
    cells = (
        f"<td>{figures.accuracy:.2%}</td><td>{figures.nll:.4f}</td><td>{figures.calibration_error:.4f}</td>"
    )
    return f'<tr class="{kind}"><td>{number}</td><td>{escape(name)}</td>{cells}</tr>'


def _sizes(result: Ensemble) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    members = [size.members for size in result.sizes]
    axes.plot(
        members, [100 * size.accuracy for size in result.sizes], "o-", label="mean of the probabilities"
    )
    axes.plot(members, [100 * size.vote_accuracy for size in result.sizes], "s--", label="majority vote")
    lowest, highest = ([100 * getattr(size, end) for size in result.sizes] for end in ("lowest", "highest"))
    axes.fill_between(members, lowest, highest, alpha=0.15, label="choices of the members")
    best = 100 * result.members[result.best_member].accuracy
    axes.axhline(best, color="gray", linestyle=":", label="best member")
    axes.set(xlabel="members", ylabel="accuracy [%]", xticks=members)
    axes.legend()
    return figure


def _disagreement(result: Ensemble) -> Figure:
    count = len(result.members)
    side = min(7.0, 2.5 + 0.45 * count)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(100 * result.disagreement.numpy(), cmap="viridis", vmin=0)
    numbers = range(1, count + 1)
    axes.set(xticks=range(count), yticks=range(count), xticklabels=numbers, yticklabels=numbers)
    figure.colorbar(picture, label="images on which two members differ [%]")
    return figure


def _svg(figure: Figure) -> str:
    """The figure as an element of the page."""
    text = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    content = text.getvalue()
    return content[content.index("<svg") :]
