"""Weights averaged over a run, and networks that answer together."""

from __future__ import annotations

import torch

from docs.tour.runs import Runs
from docs.tour.stop import BLUE, GREEN, GREY, ORANGE, Stop, drawing
from vitals.ensembles.scores import by_size
from vitals.report.predictions import FILE, Predictions
from vitals.report.record import RunRecord
from vitals.sweeps.jobs.folder import SweepFolder

SMALL = ("network.widths=[16,32,64]", "data.batch_size=64", "callbacks=light")


def averaging(runs: Runs) -> Stop:
    """Averaging at a held and at a decayed rate"""
    figure, axes = drawing(2, sharey=True)
    figures = {}
    length = ("trainer.limit_train_batches=60", "trainer.max_epochs=16", "average=swa", "average.start=0.5")
    for plot, name, schedule in ((axes[0], "held", "constant"), (axes[1], "decayed", "cosine")):
        record = RunRecord.read(
            runs.train(*SMALL, *length, f"schedule={schedule}", "trainer.limit_test_batches=1")
        )
        raw, averaged = record.curve("accuracy/val"), record.curve("val_average/accuracy")
        plot.plot(raw.epochs, 100 * raw.values, color=BLUE, label="raw weights")
        plot.plot(averaged.epochs, 100 * averaged.values, color=ORANGE, label="their average")
        gain = 100 * (averaged.last - raw.last)
        plot.set(xlabel="epochs", title=f"rate {name}: {gain:+.1f} points")
        plot.locator_params(axis="x", integer=True)
        plot.legend(loc="lower right")
        figures[f"rate {name}: raw [%]"] = 100 * raw.last
        figures[f"rate {name}: averaged [%]"] = 100 * averaged.last
    axes[0].set(ylabel="validation accuracy [%]")
    return Stop(figure, figures)


def ensemble(runs: Runs) -> Stop:
    """An ensemble's gain by number of members"""
    seeds = ",".join(map(str, range(8)))
    length = ("trainer.limit_train_batches=150", "trainer.max_epochs=2")
    jobs = SweepFolder(runs.sweep(*SMALL, *length, f"seed={seeds}")).jobs()
    members = [Predictions.load(job / FILE) for job in jobs]
    probabilities = torch.stack([torch.from_numpy(member.probabilities).float() for member in members])
    sizes = by_size(probabilities, torch.from_numpy(members[0].labels))
    counts = [size.members for size in sizes]
    figure, axes = drawing()
    axes.fill_between(
        counts,
        [100 * size.lowest for size in sizes],
        [100 * size.highest for size in sizes],
        color=GREY,
        alpha=0.25,
        lw=0,
        label="worst and best choice",
    )
    axes.plot(
        counts, [100 * size.accuracy for size in sizes], "o-", color=BLUE, label="mean of probabilities"
    )
    axes.plot(counts, [100 * size.vote_accuracy for size in sizes], "s--", color=GREEN, label="majority vote")
    axes.set(xlabel="members", ylabel="test accuracy [%]")
    axes.legend(loc="lower right")
    figures = {f"test accuracy, members: {size.members} [%]": 100 * size.accuracy for size in sizes}
    return Stop(figure, {key: figures[key] for key in list(figures)[:3] + list(figures)[-1:]})
