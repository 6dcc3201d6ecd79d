"""Where to look for hyper-parameters, and when to look further."""

from __future__ import annotations

from pathlib import Path

from docs.tour.runs import Runs
from docs.tour.stop import BLUE, GREEN, GREY, ORANGE, Stop, drawing
from vitals.sweeps.jobs.folder import SweepFolder
from vitals.sweeps.results.levels import importance
from vitals.sweeps.results.next_steps import borders
from vitals.sweeps.results.results import SweepResults, read_results

SMALL = (
    *("network=mlp", "network.depth=2", "network.width=64", "optimizer=momentum", "schedule=constant"),
    *("trainer.max_epochs=1", "trainer.limit_train_batches=80", "trainer.limit_test_batches=1"),
    *("callbacks=none", "diagnosis.probe=false", "logger=none"),
)
RATE, DECAY = "optimizer.lr", "optimizer.weight_decay"
RANGES = (f"{RATE}=tag(log,interval(1e-5,1e1))", f"{DECAY}=tag(log,interval(1e-6,1e-2))")


def random_and_grid(runs: Runs) -> Stop:
    """Random against grid search"""
    searches = {"grid": ("search=grid", "search.points=4"), "random": ("search=random", "search.trials=16")}
    figure, axes = drawing(2, 2, height=6.0, sharex=True, sharey="row", height_ratios=(1, 1.3))
    figures = {}
    for column, (name, words) in enumerate(searches.items()):
        off = ("search.stop_hopeless=false", "~search.space") if name == "random" else ()
        results = _results(runs.sweep(*SMALL, *words, *off, *RANGES))
        rates, decays, scores = _points(results)
        above, below = axes[0, column], axes[1, column]
        above.vlines(rates, 0, scores, color=GREY, lw=0.8)
        above.semilogx(rates, scores, "o", color=BLUE)
        best = scores.index(max(scores))
        above.plot(rates[best], scores[best], "*", color=ORANGE, ms=15, label=f"best: {scores[best]:.1f}%")
        above.set(title=f"{name}: {len(scores)} jobs, {len(set(rates))} different rates")
        above.legend(loc="upper left")
        below.loglog(rates, decays, "o", color=BLUE)
        below.plot(rates[best], decays[best], "*", color=ORANGE, ms=15)
        below.set(xlabel="learning rate (important)")
        figures[f"best validation accuracy, {name} [%]"] = scores[best]
        figures[f"different rates tried, {name}"] = len(set(rates))
        figures[f"share of the spread that the rate explains, {name}"] = importance(results)[RATE]
    axes[0, 0].set(ylabel="validation accuracy [%]", ylim=(0, 42))
    axes[1, 0].set(ylabel="weight decay (unimportant)")
    return Stop(figure, figures)


def edge_of_range(runs: Runs) -> Stop:
    """The best value at the edge of its range"""
    figure, axes = drawing()
    figures, word = {}, f"{RATE}=0.0001,0.0003,0.001,0.003"
    for number, colour in enumerate((BLUE, ORANGE, GREEN), 1):
        results = _results(runs.sweep(*SMALL, word))
        points = sorted((rate, 100 * float(job.score or 0)) for rate, job in results.numbers(RATE))
        best = max(points, key=lambda point: point[1])
        axes.semilogx(*zip(*points, strict=True), "o-", color=colour, label=f"sweep {number}")
        axes.plot(*best, "*", color=colour, ms=15)
        figures[f"best rate, sweep {number}"], figures[f"its accuracy [%], sweep {number}"] = best
        edges = borders(results)
        if not edges:
            break
        word = edges[0].word
        axes.axvline(edges[0].edge, color=colour, ls="--", lw=1)
    axes.set(xlabel="learning rate", ylabel="validation accuracy [%]")
    axes.legend(title="★ best, dashed: at the edge")
    return Stop(figure, figures)


def _results(folder: Path) -> SweepResults:
    return read_results(SweepFolder(folder))


def _points(results: SweepResults) -> tuple[list[float], list[float], list[float]]:
    """Rates, decays and validation accuracies [%] of the jobs; a job that diverged guesses."""
    jobs = [(float(job.words[RATE]), float(job.words[DECAY]), job.score) for job in results.jobs]
    rates, decays, scores = zip(*jobs, strict=True)
    return list(rates), list(decays), [100 * score if score else 10.0 for score in scores]
