"""What an ensemble tells the terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vitals.ensembles.result import Ensemble
from vitals.measures.ensemble import Scores
from vitals.run_folder import shown


def print_ensemble(result: Ensemble, folder: Path, console: Console) -> None:
    """The members, the ensemble, what each further member adds, speed, and where the results are."""
    kind = "test" if result.split == "test" else "validation"
    table = Table(title=f"Ensemble on {result.images:,} {kind} images", title_justify="left")
    for column in ("", "member", "accuracy", "negative log-likelihood", "calibration error"):
        table.add_column(column, justify="left" if column == "member" else "right", overflow="fold")
    for number, (name, of_member) in enumerate(zip(result.names, result.members, strict=True), start=1):
        figures = of_member.accuracy, of_member.nll, of_member.calibration_error
        table.add_row(
            f"{number}", escape(name), f"{figures[0]:.2%}", f"{figures[1]:.4f}", f"{figures[2]:.4f}"
        )
    table.add_section()
    table.add_row("", "[bold]mean of the probabilities[/]", *_figures(result.together))
    table.add_row("", "majority vote", f"{result.vote_accuracy:.2%}", "", "")
    console.print(table)
    steps = ", ".join(f"{size.members}: {size.accuracy:.2%}" for size in result.sizes)
    console.print(f"accuracy by number of members: {steps}", highlight=False)
    console.print(f"two members disagree on {result.mean_disagreement:.2%} of the images", highlight=False)
    console.print(speed(result), highlight=False)
    for sentence in result.left_out:
        console.print(f"[yellow]{escape(sentence)}[/]", highlight=False, soft_wrap=True)
    if result.warning:
        console.print(f"[bold red]{escape(result.warning)}[/]", highlight=False, soft_wrap=True)
    else:
        console.print(f"{result.gain:.2%} above the best member", highlight=False)
    console.print(f"page:     {shown(folder / 'ensemble.html')}", soft_wrap=True)
    console.print(f"curves:   tensorboard --logdir {shown(folder)}", soft_wrap=True)


def _figures(of_member: Scores) -> tuple[str, str, str]:
    return f"{of_member.accuracy:.2%}", f"{of_member.nll:.4f}", f"{of_member.calibration_error:.4f}"


def speed(result: Ensemble) -> str:
    """Images per second, and in which way the members of one architecture were run."""
    said = f"{result.images_per_second:,.0f} images per second"
    for trial in result.trials:
        apart = f"{trial.members} members one by one {trial.one_by_one:,.0f}"
        if trial.batched is None:
            said += f"; {apart}, in one pass not possible: {trial.reason}"
        else:
            chosen = "in one pass" if trial.takes_batched else "one by one"
            said += f"; {apart}, in one pass {trial.batched:,.0f}: run {chosen}"
    return said
