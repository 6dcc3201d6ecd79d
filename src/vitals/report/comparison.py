"""Runs side by side: which settings differ, and how they ended."""

from collections.abc import Sequence

import numpy as np

from vitals.files import chose_average
from vitals.report.facts import flattened
from vitals.report.numbers import duration, number, percent
from vitals.report.record import RunRecord

Table = list[tuple[str, list[str]]]
"""A name and one cell for each run."""


def differences(runs: Sequence[RunRecord]) -> Table:
    """The settings whose values are not the same in all runs, with `–` where a run has none, or null."""
    settings = [flattened(run.config) for run in runs]
    keys = dict.fromkeys(key for flat in settings for key in flat)
    rows = [(key, [str(flat.get(key, "–")) for flat in settings]) for key in keys]
    for key in ("commit", "dirty"):
        cells = [str((run.provenance.get("git") or {}).get(key, "–"))[:12] for run in runs]
        rows.append((f"git {key}", cells))
    return [(key, cells) for key, cells in rows if len(set(cells)) > 1]


def results(runs: Sequence[RunRecord]) -> Table:
    """How the runs ended: status, losses, accuracies, time; rows that no run knows are left out."""
    rows: Table = [("status", [str(run.status.get("status") or "–") for run in runs])]
    for title, tags, write, best in (
        ("best validation accuracy", ("accuracy/val", "accuracy/val_eval"), percent, np.nanmax),
        ("last validation accuracy", ("accuracy/val", "accuracy/val_eval"), percent, None),
        ("least validation loss", ("loss/val", "loss/val_eval"), number, np.nanmin),
        ("last validation loss", ("loss/val", "loss/val_eval"), number, None),
        ("last training accuracy", ("accuracy/train_eval", "accuracy/train"), percent, None),
        ("last training loss", ("loss/train", "loss/train_eval", "loss/train_step"), number, None),
        ("averaged weights, validation accuracy", ("val_average/accuracy",), percent, None),
        ("median update ratio at the end", ("update_ratio_summary/median",), number, None),
        ("images a second", ("images_per_second",), number, np.nanmedian),
    ):
        curves = [run.curve(*tags) for run in runs]
        cells = []
        for curve in curves:
            if not np.isfinite(curve.values).any():
                cells.append("–")
            else:
                cells.append(write(float(best(curve.values)) if best else float(curve.values[-1])))
        rows.append((title, cells))
    if any(chose_average(run.status) for run in runs):
        chosen = ["average" if chose_average(run.status) else "best epoch" for run in runs]
        rows.append(("weights chosen", chosen))
    finals = [run.status.get("metrics") or {} for run in runs]
    for title, key, write in (
        ("test accuracy", "test/accuracy", percent),
        ("test loss", "test/loss", number),
    ):
        rows.append((title, [write(float(final[key])) if key in final else "–" for final in finals]))
    seconds = [run.status.get("training_seconds") for run in runs]
    rows.append(("training time", [duration(float(value)) if value else "–" for value in seconds]))
    alarms = [str(sum(finding.alarming for finding in run.findings)) if run.findings else "–" for run in runs]
    rows.append(("warnings and faults", alarms))
    return [(title, cells) for title, cells in rows if set(cells) != {"–"}]
