"""What a run tells the terminal: how it starts, and how it ended."""

import math
import re
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, get_args

from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vitals.metric import Metric, Row, averaged_name, bare_name, epoch_in
from vitals.report.numbers import number
from vitals.runs.instantiate import PARTS, asked_for
from vitals.runs.quoting import command_here
from vitals.runs.run_folder import RunFolder, Weights, read_curve, shown
from vitals.writers.registry import writer_of


def print_start(config: DictConfig, module: Any, data: Any, folder: RunFolder) -> None:
    """One line each on the network, the data and the folder."""
    network = getattr(module, "network", module)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    said = [f"[bold]{escape(type(network).__name__)}[/] with {parameters:,} parameters"]
    optimizer = config.get("optimizer") or {}
    unused = [group for group in PARTS if (config.get(group) or {}).get("_target_")]
    for group in asked_for(config.module, unused):
        unused.remove(group)
    if "optimizer" not in unused and network is not module and optimizer.get("lr") is not None:
        said.append(f"{escape(optimizer['_target_'].rpartition('.')[-1])} at lr {optimizer['lr']:g}")
    console = Console()
    console.print(", ".join([*said, f"seed {config.seed}"]))
    if unused:
        what = f"{type(module).__name__} asks for no {' and no '.join(unused)}"
        console.print(f"{what}: what is set there changes nothing", markup=False, highlight=False)
    parts = {"train": "train", "validate": "validation", "test": "test"}
    sets = {words: getattr(data, part, None) for words, part in parts.items()}
    counts = {words: len(part) for words, part in sets.items() if isinstance(part, Sized)}
    if counts:
        said = [
            f"{count:,}{' samples' * (not place)} to {words}"
            for place, (words, count) in enumerate(counts.items())
        ]
        console.print(f"{config.name or 'data'}: {', '.join(said)}", markup=False)
    print_as_it_is(f"run folder: {shown(folder.path)}")


VALIDATED = re.compile(r"(^|[/_])val(id|idation)?([/_]|$)")
OURS = re.compile(r"^(epoch|step|accuracy/gap|val_average/.*)$|/(train|val)_eval$")


def final_metrics(
    folder: RunFolder, metric: Metric, test: Mapping[str, float], averaged: bool = False
) -> dict[str, float]:
    """The figures of a finished run: best and last epoch by `metric` in its `metrics.csv`, the average, and
    what the module logged in the `test` of the chosen weights, empty where there was none. `test/averaged` is
    1 where these are the averaged ones, else 0."""
    status = folder.read_status()
    rows = read_curve(folder.path, metric) or [
        {"epoch": float(status.get("epoch") or 0)}
    ]  # where it is damaged
    last = rows[-1]
    figures: dict[str, float] = {}

    def take(kind: str, row: Row) -> None:
        figures[f"{kind}/epoch"] = epoch_in(row)
        for name in names:
            if math.isfinite(row.get(name, math.nan)):
                figures[f"{kind}/{name.replace('/', '_')}"] = row[name]  # one stroke, that of the kind

    # What was logged, without what our own monitors have measured.
    logged = dict.fromkeys(name for row in rows for name in row if not OURS.search(name))
    # Of a module that validates nothing, all of it.
    names = [name for name in logged if VALIDATED.search(name)] or list(logged)
    best = metric.best(rows)
    if best is not None:
        take("best", best)
    take("last", last)  # without a figure where it was not validated: that of an earlier epoch is not its own
    averages = {name: value for name, value in last.items() if name.startswith("val_average/")}
    if averages:
        figures["average/epoch"] = epoch_in(last)
        for name in names:
            if (value := averages.get(averaged_name(name))) is not None:
                figures[f"average/{name.replace('/', '_')}"] = value
    if test:
        figures["test/averaged"] = int(averaged)
    return figures | {f"test/{bare_name(name)}": value for name, value in test.items() if "test" in name}


def print_results(
    folder: RunFolder,
    metric: Metric,
    metrics: dict[str, float],
    notes: Sequence[str] = (),
    loggers: Sequence[Logger] = (),
) -> None:
    """The table of results, further sentences on them, and what to type next, for the `loggers` too."""
    names = list(dict.fromkeys(bare_name(key.partition("/")[2]) for key in metrics if "/" in key))
    names = [name for name in names if name not in ("epoch", "averaged")]
    table = Table(title="Results", title_justify="left")
    for column in ("weights", "data", "epoch", *names):
        left = column in ("weights", "data")
        table.add_column(escape(column), justify="left" if left else "right")
    raw = "best" if "best/epoch" in metrics else "last"
    validated = any(VALIDATED.search(name) for row in read_curve(folder.path, metric) for name in row)
    chosen = "average" if metrics.get("test/averaged") else raw
    for weights, data, group in [
        *((kind, "validation" if validated else "training", kind) for kind in get_args(Weights)),
        (chosen, "test", "test"),
    ]:
        row = {bare_name(key.partition("/")[2]): key for key in metrics if key.startswith(f"{group}/")}
        if not any(name in row for name in names):
            continue
        figures = [_figure(metric, name, metrics[row[name]] if name in row else None) for name in names]
        table.add_row(weights, data, f"{metrics.get(f'{weights}/epoch', math.nan):g}", *figures)
    console = Console()
    if table.row_count:
        console.print(table)
    for note in notes:
        console.print(note, highlight=False, markup=False)
    status = folder.read_status()
    if status.get("stopped_early"):
        console.print(f"stopped early: {status['stopped_early']}", highlight=False, markup=False)
    minutes = (status.get("training_seconds") or 0) / 60
    said = f"{minutes:.1f} minutes" if minutes >= 1 else f"{60 * minutes:.0f} seconds"
    console.print(f"trained in {said}")
    for profile in sorted(folder.path.glob("*-profile*.txt")):
        print_as_it_is(f"profile:  {shown(profile)}")
    for place in filter(None, (writer_of(logger).where(shown) for logger in loggers)):
        print_as_it_is(f"curves:   {place}")
    split = {} if "test/averaged" in metrics else {"split": "val"}
    if validated or not split:
        print_as_it_is(f"evaluate: {command_here('evaluate', run=shown(folder.path), **split)}")


def print_as_it_is(line: str) -> None:
    """A line to be copied: brackets are no markup, and nothing breaks it."""
    Console().print(line, soft_wrap=True, markup=False, highlight=False)


def print_interruption(folder: RunFolder) -> None:
    """That the run was stopped, and how to go on."""
    how = "goes on from what was saved" if folder.has_checkpoints else "begins again, as nothing is saved"
    print_as_it_is(f"\nInterrupted; this command {how}:\n{command_here('train', resume=shown(folder.path))}")


def print_unfinished(folder: RunFolder) -> None:
    """What has become of a run that has not finished; nothing of one that has."""
    record = folder.read_status()
    status, error = record.get("status", "of unknown status"), record.get("error")
    if status != "finished":
        print_as_it_is(f"{shown(folder.path)} is {status}{f': {error}' if error else ''}")


def print_evaluation(
    checkpoint: Path, split: str, metric: Metric, metrics: dict[str, float], tta: str
) -> None:
    """The metrics of one checkpoint on one split, and with which views of the images."""
    table = Table()
    for column in ("checkpoint", "data", *map(bare_name, metrics)):
        table.add_column(escape(column))
    figures = [_figure(metric, bare_name(name), value) for name, value in metrics.items()]
    data = {"val": "validation"}.get(split, split) + (f", tta={tta}" if tta != "none" else "")
    table.add_row(escape(checkpoint.resolve().name), data, *figures)
    Console().print(table)


def _figure(metric: Metric, name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return metric.text(value) if name == bare_name(metric.name) else number(value, 4)
