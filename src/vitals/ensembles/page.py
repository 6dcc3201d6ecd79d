"""The page of an ensemble."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vitals.ensembles.members import IN_WORDS
from vitals.ensembles.scores import EnsembleResult, Scores
from vitals.report.confusion import paint_matrix
from vitals.report.drawing import Chart, Key, chart, color, percentages
from vitals.report.numbers import number, percent
from vitals.report.rendering import Column, render
from vitals.runs.quoting import curves_command
from vitals.runs.run_folder import shown
from vitals.runs.terminal import print_as_it_is


def print_ensemble(result: EnsembleResult, folder: Path, console: Console) -> None:
    """The members, the ensemble, what each further member adds, speed, and where the results are."""
    table = Table(title=f"Ensemble on {samples(result)}", title_justify="left")
    for column in COLUMNS:
        table.add_column(column.title, justify="right" if column.amount else "left", overflow="fold")
    *members, mean, vote = _rows(result)
    for row in members:
        table.add_row(*map(escape, row))
    table.add_section()
    table.add_row(*mean, style="bold")
    table.add_row(*vote)
    console.print(table)
    steps = ", ".join(f"{size.members}: {size.accuracy:.2%}" for size in result.sizes)
    console.print(f"accuracy by number of members: {steps}", highlight=False)
    console.print(f"two members disagree on {result.mean_disagreement:.2%} of the samples", highlight=False)
    console.print(speed(result), highlight=False)
    for sentence in result.left_out:
        console.print(f"[yellow]{escape(sentence)}[/]", highlight=False, soft_wrap=True)
    if result.warning:
        console.print(f"[bold red]{escape(result.warning)}[/]", highlight=False, soft_wrap=True)
    else:
        console.print(f"{result.gain:.2%} above the best member", highlight=False)
    print_as_it_is(f"page:     {shown(folder / 'ensemble.html')}")
    print_as_it_is(f"curves:   {curves_command(folder)}")


def samples(result: EnsembleResult) -> str:
    """How many of which split."""
    return f"{result.images:,} {IN_WORDS[result.split]} samples"


def speed(result: EnsembleResult) -> str:
    """Samples per second through the whole ensemble."""
    return f"{result.images_per_second:,.0f} samples per second"


COLUMNS = [
    Column("", amount=True),
    Column("member"),
    Column("accuracy", amount=True),
    Column("negative log-likelihood", amount=True),
    Column("calibration error", amount=True),
]


def page(result: EnsembleResult) -> str:
    """The figures of `result` with the accuracy over the number of members and who disagrees with whom."""
    together = result.together
    return render(
        "ensemble.html",
        source="the runs' checkpoints",
        title=f"Ensemble of {len(result.members)}: {percent(together.accuracy, 2)}",
        subtitle=f"on {samples(result)}",
        key_figures=[
            ("accuracy of the mean", percent(together.accuracy, 2)),
            ("best member", percent(result.members[result.best_member].accuracy, 2)),
            ("samples on which two members differ", percent(result.mean_disagreement, 2)),
        ],
        warning=bool(result.warning),
        verdict=result.warning or f"{percent(result.gain, 2)} above the best member.",
        notes=[speed(result), *result.left_out],
        members=(COLUMNS, _rows(result)),
        charts=[_sizes(result), _disagreement(result)],
    )


def _rows(result: EnsembleResult) -> list[list[str]]:
    """Of the table: a row a member, the mean of their probabilities, and the majority vote."""
    names = zip(result.names, result.members, strict=True)
    rows = [[str(place), name, *_figures(scores)] for place, (name, scores) in enumerate(names, start=1)]
    rows.append(["", "mean of the probabilities", *_figures(result.together)])
    return [*rows, ["", "majority vote", percent(result.vote_accuracy, 2), "", ""]]


def _figures(scores: Scores) -> list[str]:
    return [percent(scores.accuracy, 2), number(scores.nll, 4), number(scores.calibration_error, 4)]


def _sizes(result: EnsembleResult) -> Chart:
    def paint(axes: Axes) -> None:
        members = [size.members for size in result.sizes]
        lowest, highest = ([getattr(size, end) for size in result.sizes] for end in ("lowest", "highest"))
        axes.fill_between(members, lowest, highest, color=color("c1"), alpha=0.2, linewidth=0)
        axes.plot(members, [size.accuracy for size in result.sizes], "o-", color=color("c1"))
        axes.plot(members, [size.vote_accuracy for size in result.sizes], "o--", color=color("c2"))
        best = result.members[result.best_member].accuracy
        axes.axhline(best, color=color("muted"), linewidth=1.2, linestyle=(0, (1, 2)))
        axes.set_xticks(members if len(members) <= 12 else members[:: -(-len(members) // 10)])
        axes.set_xlabel("members", loc="right", labelpad=3)
        percentages(axes)

    keys = [Key("c1", "mean of the probabilities"), Key("c1", "choices of the members", "band")]
    keys += [Key("c2", "majority vote", "dashed"), Key("muted", "best member", "dotted")]
    return chart("sizes", "Accuracy by number of members", paint, keys, height=300)


def _disagreement(result: EnsembleResult) -> Chart:
    shares = result.disagreement.numpy()
    count = len(shares)

    def paint(axes: Axes) -> None:
        cells = [
            ["" if row == column else f"{100 * shares[row, column]:.3g}" for column in range(count)]
            for row in range(count)
        ]
        paint_matrix(axes, shares / max(float(shares.max()), 1e-9), cells)
        places = np.arange(0, count, max(1, count // 12))
        for setting in (axes.set_xticks, axes.set_yticks):
            setting(places, [str(place + 1) for place in places])

    title = "Images on which two members differ, in percent"
    caption = "Rows and columns are the members, by their number in the table."
    return chart("disagreement", title, paint, (), caption, height=330)
