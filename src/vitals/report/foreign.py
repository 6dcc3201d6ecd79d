"""The record that another program left: TensorBoard's event files, or a CSV file with a row an epoch or step.
Importable without torch."""

import csv
import math
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from vitals.bounded_yaml import read_mapping
from vitals.errors import UserError, listed
from vitals.history import History
from vitals.measures.names import tag_of_foreign
from vitals.report.record import Numbers, RunRecord

EVENTS = "events.out.tfevents.*"
CSV_NAMES = ("metrics.csv", "training.log", "log.csv", "results.csv", "history.csv")
"""As Lightning, Keras and others call it; the first that is there is read."""
Point = tuple[float, float, float]
"""Wall time, step and value."""
STEPS = {"step", "steps", "global_step", "globalstep", "iteration", "iterations", "iter"}


@dataclass(eq=False)
class Raw:
    """One column or tag, as it was found; the arrays go together, in the order of writing."""

    name: str
    steps: Numbers
    """NaN where the record has none."""
    epochs: Numbers
    """As recorded, mostly counted from 0; NaN where the record has none."""
    values: Numbers
    walls: Numbers
    """Seconds; NaN in a CSV file."""


def is_foreign(path: Path) -> bool:
    """Whether `path` is a file, or a folder without the files that Vitals itself writes."""
    ours = ("history.jsonl", "findings.json", "predictions.npz", "status.json")
    return path.is_file() or (path.is_dir() and not any((path / name).is_file() for name in ours))


def read_foreign(path: Path, said: str) -> RunRecord | None:
    """What can be read of a training that another program recorded at `path`, a folder with event files at
    any depth or a CSV file in it, or one such file; None where nothing was. Nothing is written or changed.

    `said` is how the user named it, such as `run=logs/x`. `UserError` if there are several records, or one
    that holds no curve of a known name.
    """
    found, sources = _raws(path, said)
    if not sources:
        return None
    kept, others, axis = _curves(found)
    if not kept:
        names = sorted({raw.name[:60] for raw in found})
        has = f"it has {listed(names, 5)}" if names else "it is empty"
        raise UserError(
            f"{said} holds no loss, accuracy or learning rate by its names: {has}; names such as train_loss, "
            f"val_loss, accuracy/val and lr are known."
        )
    folder = path if path.is_dir() else path.parent
    config = _hyperparameters(sources)
    history = History()
    counts = [config[key] for key in ("num_classes", "n_classes") if isinstance(config.get(key), int)]
    if counts and (classes := counts[0]) > 1:
        history.add(0, 0.0, {"facts/chance_accuracy": 1 / classes})
    for tag, curve in kept.items():
        for step, epoch, value in zip(curve.steps, curve.epochs, curve.values, strict=True):
            history.add(int(step) if math.isfinite(step) else 0, float(epoch), {tag: float(value)})
    missing = {"config.yaml": "another program's record does not say"}
    return RunRecord(folder, config, history, missing, axis=axis, unjudged=_unjudged(kept, others))


def _unjudged(kept: dict[str, Raw], others: list[str]) -> str:
    """One sentence on what was judged, and what could not be."""
    names = {
        "training loss": ("loss/train",),
        "validation loss": ("loss/val",),
        "training accuracy": ("accuracy/train",),
        "validation accuracy": ("accuracy/val",),
        "learning rate": ("lr/",),
        "norm of the gradient": ("gradient_norm",),
    }
    there = [name for name, tags in names.items() if any(tag.startswith(tags) for tag in kept)]
    missing = [name for name in list(names)[:-1] if name not in there]
    more = f" Not known by name, and left out: {listed(others, 5)}." if others else ""
    return (
        f"Judged from {', '.join(there)} alone. Not in this record, and so not judged: "
        f"{''.join(f'{name}, ' for name in missing)}gradients, updates, activations, inputs, labels, and "
        f"what is checked before learning.{more}"
    )


# ------------------------------------------------------------------------------------------------ files


def _raws(path: Path, said: str) -> tuple[list[Raw], list[Path]]:
    """Everything in the record at `path`, and the files that it is in."""
    if path.is_file():
        events = "tfevents" in path.name
        return (_from_events({"": [path]}) if events else _from_csv(path, said)), [path]
    named = [path / name for name in CSV_NAMES if (path / name).is_file()]
    tables = named[:1] or sorted(path.glob("*.csv"))
    if len(tables) > 1:
        raise UserError(f"{said} holds {len(tables)} CSV files: name one of them, such as {tables[0]}.")
    runs = _event_runs(path)
    if path not in runs:
        if tables:
            return _from_csv(tables[0], said), tables
        inside = list(runs) or sorted({file.parent for name in CSV_NAMES for file in path.rglob(name)})
        if len(inside) > 1:
            latest = max(inside, key=lambda run: max(file.stat().st_mtime for file in run.rglob("*")))
            raise UserError(f"{said} holds {len(inside)} runs: name one of them, such as {latest}.")
        if inside and not runs:
            return _raws(inside[0], said)
    groups = runs.get(path) or next(iter(runs.values()), {})
    raws, sources = _from_events(groups), [file for files in groups.values() for file in files]
    if tables:  # two loggers in one folder
        known = {tag_of_foreign(raw.name) for raw in raws}
        raws += [raw for raw in _from_csv(tables[0], said) if tag_of_foreign(raw.name) not in known]
        sources += tables
    return raws, sources


def _event_runs(path: Path) -> dict[Path, dict[str, list[Path]]]:
    """The runs under `path`: of each its event files, by the words that their folder adds to the tags.

    A folder such as `train`, `validation` or `loss_val` below a run is one of its parts, as Keras and
    `add_scalars` write them, and one that is a time holds the hyper-parameters that torch has written.
    """
    runs: dict[Path, dict[str, list[Path]]] = {}
    for file in sorted(path.rglob(EVENTS)):
        folder, words = file.parent, ""
        while folder != path and (_adds_part(folder.name) or re.fullmatch(r"\d+\.\d+", folder.name)):
            words = f"{folder.name}/{words}" if _adds_part(folder.name) else words
            folder = folder.parent
        runs.setdefault(folder, {}).setdefault(words, []).append(file)
    return runs


def _adds_part(name: str) -> bool:
    """Whether a folder's name says which part of the data its curves are of."""
    found = tag_of_foreign(name if "loss" in name.lower() or "acc" in name.lower() else f"{name}_loss")
    return found is not None and bool(found[1])


def _from_events(groups: dict[str, list[Path]]) -> list[Raw]:
    """The scalars in event files. Of a file that was cut off, what is whole; where a later file begins before
    the end of an earlier one, as after a resume, the later one holds."""
    points: dict[str, list[list[Point]]] = {}
    for words, files in groups.items():
        for file in files:
            of_file: dict[str, list[Point]] = {}
            for tag, wall, step, value in _scalars(file):
                of_file.setdefault(words + tag, []).append((wall, step, value))
            for name, found in of_file.items():
                points.setdefault(name, []).append(found)
    raws = []
    for name, parts in points.items():
        parts.sort(key=lambda part: part[0][0])
        whole: list[Point] = []
        for part in map(_in_order, parts):
            whole = [point for point in whole if point[1] < part[0][1]] + part
        walls, steps, values = (np.array(column, dtype=float) for column in zip(*whole, strict=True))
        raws.append(Raw(name, steps, np.full(len(steps), np.nan), values, walls))
    return raws


def _in_order(points: list[Point]) -> list[Point]:
    """The same with steps that only grow: whoever counts anew in each epoch has them counted through."""
    back = any(after[1] < before[1] for before, after in pairwise(points))
    return [(wall, place, value) for place, (wall, _, value) in enumerate(points)] if back else points


def _scalars(file: Path) -> Iterable[tuple[str, float, float, float]]:
    """Tag, wall time, step and value of every scalar in an event file."""
    import logging

    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util import tensor_util

    log = logging.getLogger("tensorboard")
    level = log.level
    log.setLevel(logging.ERROR)  # of a file that was cut off it says so, and so do we
    try:
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if not value.HasField("tensor") or value.tag.startswith("_hparams_"):
                    continue
                if value.tensor.tensor_shape.dim or value.tensor.dtype in (0, 7):  # no type, or text
                    continue
                try:
                    number = float(tensor_util.make_ndarray(value.tensor))
                except (TypeError, ValueError):
                    continue
                yield value.tag, event.wall_time, float(event.step), number
    except Exception as error:  # whatever a damaged record makes the reader raise: what came before it holds
        logging.getLogger(__name__).info("%s ends in a damaged record", file, exc_info=error)
    finally:
        log.setLevel(level)


def _from_csv(path: Path, said: str) -> list[Raw]:
    """The columns of a CSV file, by its first line."""
    header, rows = _table(path, said)
    columns = {name: np.array([row[place] for row in rows], float) for place, name in enumerate(header)}
    given = {name: np.array([row[place] is not None for row in rows]) for place, name in enumerate(header)}
    named = [name for name in columns if given[name].any()]
    epochs = next((columns[name] for name in named if tag_of_foreign(name) == ("epoch", "", "")), None)
    steps = next((columns[name] for name in named if _counts_steps(name)), None)
    count, nothing = np.arange(len(rows), dtype=float), np.full(len(rows), np.nan)
    if steps is None:
        steps = nothing
        epochs = axis = _filled(count if epochs is None else epochs)
    else:
        epochs = nothing if epochs is None else epochs
        back = np.diff(_filled(steps)) < 0
        if (back & (np.diff(_filled(epochs)) >= 0)).any():
            steps = count  # counted anew in each epoch
        axis = _filled(steps)
    later = np.minimum.accumulate(np.nan_to_num(axis, nan=math.inf)[::-1])[::-1]
    keep = ~(axis > later)  # of a run that was resumed, the later rows hold
    raws = []
    for name, values in columns.items():
        there = keep & given[name]
        there &= ~_only_missing(values, there)
        if there.any():
            raws.append(Raw(name, steps[there], epochs[there], values[there], nothing[there]))
    return raws


def _table(path: Path, said: str) -> tuple[list[str], list[list[float | None]]]:
    """The names in the first line of a CSV file, and the numbers in its whole rows, None in an empty cell:
    any usual separator, with or without a byte order mark."""
    content = path.read_bytes()
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    lines = content.decode(encoding, errors="replace").replace("\0", "").splitlines()
    lines = [line.lstrip("# ") for line in lines if line.strip()]
    if not lines:
        raise UserError(f"{said}: {path.name} is empty.")
    separator = max(",;\t|", key=lines[0].count)
    header, *rows = csv.reader(lines, delimiter=separator, skipinitialspace=True)
    header = [name.strip() for name in header]
    decimal = "," if separator != "," and not any("." in cell for row in rows[:50] for cell in row) else "."
    table = [[_number(cell, decimal) for cell in row] for row in rows]
    whole = [row for row in table if len(row) == len(header) and not all(cell is None for cell in row)]
    if all(_number(name, decimal) is not None for name in header):
        raise UserError(f"{said}: the first line of {path.name} names no columns.")
    if not whole:
        raise UserError(f"{said}: {path.name} has no whole row under its first line.")
    return header, whole


def _counts_steps(name: str) -> bool:
    return name.lower().rpartition("/")[2].replace(" ", "_") in STEPS


def _filled(axis: Numbers) -> Numbers:
    """The axis with what stands above in its gaps."""
    place = np.maximum.accumulate(np.where(np.isfinite(axis), np.arange(len(axis)), 0))
    return axis[place]


def _only_missing(values: Numbers, there: np.ndarray[Any, np.dtype[np.bool_]]) -> np.ndarray[Any, Any]:
    """Which `nan` mean that nothing was measured, as some write an empty cell: those that a number follows,
    and at the end no more of them than have stood between two numbers."""
    missing = there & np.isnan(values)
    numbers = np.flatnonzero(there & ~np.isnan(values))
    if not len(numbers):
        return there
    gaps = np.diff([-1, *numbers])
    tail = np.flatnonzero(missing & (np.arange(len(values)) > numbers[-1]))
    if len(tail) > (gaps.max() - 1):
        missing[tail] = False
    return missing


def _number(cell: str, decimal: str) -> float | None:
    text = cell.strip().removesuffix("%").replace(decimal, ".")
    try:
        return float(text) if text else None
    except ValueError:
        found = re.fullmatch(r"tensor\(([^,()]+).*\)", text)  # str() of a loss
        return _number(found[1], ".") if found else None


def _hyperparameters(sources: list[Path]) -> dict[str, Any]:
    """What `hparams.yaml`, as Lightning writes it, or a `config.yaml` beside the record says."""
    names = ("hparams.yaml", "config.yaml")
    for file in {source.parent / name: None for name in names for source in sources}:
        with suppress(OSError, ValueError):
            return read_mapping(file)
    return {}


# ----------------------------------------------------------------------------------------------- curves


def _curves(found: list[Raw]) -> tuple[dict[str, Raw], list[str], str]:
    """The curves that are known by their names, under our tags and on one axis of epochs trained; the names
    of the others; and what the axis counts: `epochs`, or `steps` where the record has no epochs."""
    known = [(raw, name) for raw in found if (name := tag_of_foreign(raw.name)) is not None]
    axes = [raw for raw, (quantity, *_) in known if quantity == "epoch"]
    known = [(raw, name) for raw, name in known if name[0] != "epoch"]
    others = sorted({raw.name for raw in found} - {raw.name for raw, _ in known} - {raw.name for raw in axes})
    others = [name[:60] for name in others if not _counts_steps(name)]
    counts = _put_on_epochs([raw for raw, _ in known], axes)
    explicit = {(quantity, part) for _, (quantity, part, _) in known}
    kept: dict[str, Raw] = {}
    for raw, (quantity, part, grain) in known:
        if quantity == "gradient_norm":
            tag = "gradient_norm"
        elif quantity == "lr":
            tag = f"lr/{raw.name}"
        elif not part and (quantity, "train") in explicit:
            others.append(raw.name[:60])  # of what, nobody can tell
            continue
        else:
            tag = f"{quantity}/{part or 'train'}"
            if part != "val" and quantity == "loss" and _is_of_steps(raw, grain, known, counts):
                tag += "_step"
        if quantity == "accuracy" and np.nanmax(raw.values, initial=0.0) > 1.5:
            raw.values = raw.values / 100
        if tag not in kept or len(raw.values) > len(kept[tag].values):
            kept[tag] = raw
    rates = [tag for tag in kept if tag.startswith("lr/")]
    for place, tag in enumerate(rates):
        kept[f"lr/{place}"] = kept.pop(tag)
    return kept, others, counts


def _is_of_steps(raw: Raw, grain: str, known: list[tuple[Raw, Any]], counts: str) -> bool:
    """Whether a training loss is that of single steps rather than of whole epochs."""
    if grain:
        return grain == "step"
    validations = [len(other.values) for other, (_, part, _) in known if part == "val"]
    if counts == "epochs":
        return len(raw.values) > 1.5 * max(1.0, raw.epochs[-1] - raw.epochs[0] + 1)
    return len(raw.values) > 2 * max(validations, default=50)


def _put_on_epochs(raws: list[Raw], axes: list[Raw]) -> str:
    """Give every curve its epochs trained, with their fraction, as `epochs`; what the axis counts.

    Where nothing tells of epochs, these are the steps.
    """
    if any(np.isfinite(raw.epochs).any() for raw in raws):  # a CSV file
        marks = [(step, epoch) for raw in raws for step, epoch in zip(raw.steps, raw.epochs, strict=True)]
        for raw in raws:
            raw.epochs = _trained(raw.steps, raw.epochs, marks)
        return "epochs"
    if not raws or np.isnan(raws[0].walls).all():
        for raw in raws:
            raw.epochs = raw.steps
        return "steps"
    return _put_events_on_epochs(raws, axes)


def _put_events_on_epochs(raws: list[Raw], axes: list[Raw]) -> str:
    """The same for curves with times: one that was logged over epochs beside others over steps is brought to
    these by the times at which both were written."""
    longest = max(raws, key=lambda raw: raw.steps[-1])
    over_epochs = _over_epochs(raws, longest)
    first = min((raw.steps[0] for raw in over_epochs), default=0.0)
    offset = max(0.0, 1 - first)
    clock = max(over_epochs, key=lambda raw: len(raw.steps), default=None)
    start = min(raw.walls[0] for raw in raws)
    marks = [pair for axis in axes for pair in zip(axis.steps, axis.values, strict=True)]
    for raw in raws:
        if raw in over_epochs:
            raw.epochs = raw.steps + offset
            if longest not in over_epochs:
                raw.steps = np.interp(raw.walls, longest.walls, longest.steps).round()
        elif marks:
            raw.epochs = _trained(raw.steps, np.full(len(raw.steps), np.nan), marks)
        elif clock is not None:
            raw.epochs = np.interp(raw.walls, [start, *clock.walls], [0.0, *(clock.steps + offset)])
        else:
            raw.epochs = raw.steps
    return "epochs" if over_epochs or marks else "steps"


def _over_epochs(raws: list[Raw], longest: Raw) -> list[Raw]:
    """The curves whose steps are epochs: they go up by one, and are far fewer than those of the `longest`; or
    all are so, and some are of validation or say that they are of epochs."""
    by_one = [raw for raw in raws if len(raw.steps) > 1 and np.median(np.diff(raw.steps)) == 1]
    shorter = [raw for raw in by_one if raw.steps[-1] < longest.steps[-1] / 2]
    if shorter or len(by_one) < sum(len(raw.steps) > 1 for raw in raws):
        return shorter
    names = filter(None, (tag_of_foreign(raw.name) for raw in raws))
    return raws if any(part == "val" or grain == "epoch" for _, part, grain in names) else []


def _trained(steps: Numbers, epochs: Numbers, marks: list[tuple[float, float]]) -> Numbers:
    """Epochs trained at each of `steps`, from `marks` of a step and the number of the epoch that it is in.

    Numbers with a fraction count what has been trained already, and stay as they are.
    """
    known = np.array([mark for mark in marks if math.isfinite(mark[1])])
    counted = not (known[:, 1] % 1).any()
    offset = 1.0 if counted and known[:, 1].min() < 1 else 0.0
    ends: dict[float, float] = {}
    for step, epoch in known.tolist():
        if math.isfinite(step):
            ends[epoch] = max(step, ends.get(epoch, -math.inf))
    if not ends or (np.isfinite(epochs).all() and not counted):
        return epochs + offset
    order = sorted(ends)
    before = order[0] + offset - 1 if counted else 0.0
    at = [0.0, *(ends[epoch] + 1 for epoch in order)]
    found = np.interp(steps + 1, at, [before, *(epoch + offset for epoch in order)])
    return np.where(np.isfinite(steps), found, epochs + offset)
