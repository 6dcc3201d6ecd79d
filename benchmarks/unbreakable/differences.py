"""What is not the same in two run folders, in words."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SPEEDS = tuple(f"{group}{name}" for group in ("", "run/") for name in ("images_per_second", "memory_gib"))
OF_THE_MOMENT = ("started", "ended", "updated", "host", "process", "process_started", "training_seconds")
"""In `status.json`: times of day, machine and speed."""
LOGS = ("train.log", "output.log", "job.json")
"""What is told of a run and of a job of a sweep, with times of day."""


def differences(folder: Path, other: Path) -> list[str]:
    """What is not the same in two run folders, in words; times of day, speeds and logs of text apart.

    Args:
        folder: the run that was disturbed.
        other: the one that was not.
    """
    said: list[str] = []
    for name, compare in {
        "config.yaml": _configs,
        "metrics.csv": _tables,
        "history.jsonl": _histories,
        "findings.json": _findings,
        "predictions.npz": _arrays,
        "status.json": _statuses,
    }.items():
        if (folder / name).exists() and (other / name).exists():
            try:
                said += [f"{name}: {words}" for words in compare(folder / name, other / name)]
            except Exception as error:
                said.append(f"{name}: cannot be read: {type(error).__name__}: {error}")
    said += [f"TensorBoard: {words}" for words in _events(folder, other)]
    mine, theirs = (_files(place) for place in (folder, other))
    said += [f"{name}: missing" for name in sorted(theirs - mine)]
    said += [f"{name}: one too many" for name in sorted(mine - theirs)]
    for name in sorted(mine & theirs):
        if name.endswith(".ckpt"):
            said += [f"{name}: {words}" for words in _checkpoints(folder / name, other / name)]
    return said


def _files(folder: Path) -> set[str]:
    """Names of the files, those of events as one."""
    names = (
        str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file() or file.is_symlink()
    )
    return {re.sub(r"events\.out\..*", "events", name) for name in names if name not in LOGS}


def _configs(mine: Path, theirs: Path) -> Iterator[str]:
    contents = [yaml.safe_load(path.read_text()) for path in (mine, theirs)]
    for content in contents:
        content.pop("provenance", None)
        content.pop("resume", None)  # says what it was started with, and not what it does
        content.pop("overwrite", None)
    yield from _unequal(*contents)


def _tables(mine: Path, theirs: Path) -> Iterator[str]:
    tables = []
    for path in (mine, theirs):
        with path.open(newline="") as file:
            tables.append(list(csv.DictReader(file)))
    if len(tables[0]) != len(tables[1]):
        yield f"{len(tables[0])} rows instead of {len(tables[1])}"
    if list(tables[0][0]) != list(tables[1][0]) and set(tables[0][0]) == set(tables[1][0]):
        yield "columns in another order"
    for number, (left, right) in enumerate(zip(*tables, strict=False), 1):
        for name in dict.fromkeys([*right, *left]):
            if left.get(name) != right.get(name) and name not in SPEEDS:
                yield f"row {number}, {name}: {left.get(name)} instead of {right.get(name)}"


Points = dict[str, list[tuple[Any, ...]]]


def _histories(mine: Path, theirs: Path) -> Iterator[str]:
    points: list[Points] = []
    orders = []
    for path in (mine, theirs):
        found: Points = {}
        order = []
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            for tag, value in entry["values"].items():
                if tag not in SPEEDS:
                    place = (entry["step"], round(entry["epoch"], 9), entry.get("steps", 1))
                    found.setdefault(tag, []).append((*place, json.dumps(value)))
                    order.append((entry["step"], tag))
        points.append(found)
        orders.append(order)
    unequal = list(_unequal_points(*points))
    yield from unequal
    if not unequal and orders[0] != orders[1]:
        step, tag = next(left for left, right in zip(*orders, strict=True) if left != right)
        yield f"lines in another order from step {step} on: {tag}"


def _unequal_points(mine: Points, theirs: Points) -> Iterator[str]:
    for tag in dict.fromkeys([*theirs, *mine]):
        left, right = mine.get(tag, []), theirs.get(tag, [])
        if left == right:
            continue
        lost, added = Counter(right) - Counter(left), Counter(left) - Counter(right)
        words = []
        if len(left) != len(set(left)) and not added - Counter(right):
            words.append(f"{sum(added.values())} points twice")
        elif added:
            words.append(f"{sum(added.values())} points that are not there without the kill")
        if lost:
            words.append(f"{sum(lost.values())} of {len(right)} points lost")
        odd = sorted([*lost, *added], key=lambda point: point[0])
        where = f", first at step {odd[0][0]}" if odd else ""
        yield f"{tag}: {', '.join(words) or 'in another order'}{where}"


def _findings(mine: Path, theirs: Path) -> Iterator[str]:
    left, right = (_by_cause(json.loads(path.read_text(encoding="utf-8"))) for path in (mine, theirs))
    yield from _unequal(left, right)
    if list(left) != list(right) and set(left) == set(right):
        yield "in another order"


def _by_cause(findings: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each under a name of its own, so that one too few is said once."""
    named: dict[str, dict[str, Any]] = {}
    for finding in findings:
        name = " ".join(str(finding.get(key)) for key in ("cause", "check", "where") if finding.get(key))
        while name in named:
            name += " again"
        named[name] = finding
    return named


def _arrays(mine: Path, theirs: Path) -> Iterator[str]:
    with np.load(mine) as left, np.load(theirs) as right:
        yield from _unequal({name: left[name] for name in left}, {name: right[name] for name in right})


def _statuses(mine: Path, theirs: Path) -> Iterator[str]:
    left, right = (json.loads(path.read_text()) for path in (mine, theirs))
    for name in OF_THE_MOMENT:
        left.pop(name, None)
        right.pop(name, None)
    yield from _unequal(left, right)


def _events(folder: Path, other: Path) -> Iterator[str]:
    found = [_event_points(place) for place in (folder, other)]
    yield from _unequal_points(*found)


def _event_points(folder: Path) -> Points:
    """What TensorBoard shows of a folder: of every tag its points, without the time of day."""
    everything = dict.fromkeys(
        ("scalars", "images", "histograms", "tensors", "compressedHistograms", "audio"), 0
    )
    shown = EventAccumulator(str(folder), size_guidance=everything)
    shown.Reload()
    points: Points = {}
    for tag in shown.Tags()["scalars"]:
        if tag not in SPEEDS:
            points[tag] = [(event.step, event.value) for event in shown.Scalars(tag)]
    for tag in shown.Tags()["histograms"]:
        points[tag] = [(event.step, repr(event.histogram_value)) for event in shown.Histograms(tag)]
    for tag in shown.Tags()["images"]:
        points[tag] = [(event.step, event.encoded_image_string) for event in shown.Images(tag)]
    for tag in shown.Tags()["tensors"]:
        if not tag.startswith(("config/", "_hparams_")):  # the configuration with its folder, and its times
            points[tag] = [(e.step, e.tensor_proto.SerializeToString()) for e in shown.Tensors(tag)]
    return points


def _checkpoints(mine: Path, theirs: Path) -> Iterator[str]:
    contents = [torch.load(path, map_location="cpu", weights_only=False) for path in (mine, theirs)]
    yield from _unequal(*contents)


NOT_COMPARED = re.compile(r"^logs|callbacks/Timer|images_per_second|seconds|/time")
"""In checkpoints: how far the loggers' files go, which have times of day in their names; speeds."""


def _unequal(mine: Any, theirs: Any, where: str = "") -> Iterator[str]:
    """Where two contents of dictionaries, lists, tensors and plain values differ, to the bit."""
    if NOT_COMPARED.search(where):
        return
    if isinstance(mine, Mapping) and isinstance(theirs, Mapping):
        for key in dict.fromkeys([*theirs, *mine]):
            place = f"{where}/{key}" if where else str(key)
            if key not in mine:
                yield f"{place} missing"
            elif key not in theirs:
                yield f"{place} one too many"
            else:
                yield from _unequal(mine[key], theirs[key], place)
    elif isinstance(mine, list | tuple) and isinstance(theirs, list | tuple):
        if len(mine) != len(theirs):
            yield f"{where}: {len(mine)} entries instead of {len(theirs)}"
        for number, (left, right) in enumerate(zip(mine, theirs, strict=False)):
            yield from _unequal(left, right, f"{where}/{number}")
    elif isinstance(mine, np.ndarray) and isinstance(theirs, np.ndarray):
        if mine.dtype != theirs.dtype or mine.shape != theirs.shape or mine.tobytes() != theirs.tobytes():
            yield f"{where}: other values"
    elif isinstance(mine, torch.Tensor) and isinstance(theirs, torch.Tensor):
        if mine.dtype != theirs.dtype or mine.shape != theirs.shape:
            yield f"{where}: {mine.dtype} {tuple(mine.shape)} instead of {theirs.dtype} {tuple(theirs.shape)}"
        elif not torch.equal(mine, theirs) and not torch.equal(mine.nan_to_num(), theirs.nan_to_num()):
            largest = (mine.double() - theirs.double()).abs().max()
            yield f"{where}: values differ by up to {largest:.3g}"
    elif type(mine) is not type(theirs) or (mine != theirs and not (mine != mine and theirs != theirs)):
        yield f"{where}: {_short(mine)} instead of {_short(theirs)}"


def _short(value: Any) -> str:
    return (text if len(text := repr(value)) <= 60 else f"{text[:60]}…").replace("\n", " ")


def in_short(said: Sequence[str], most: int = 3) -> str:
    """The first few of what `differences` says of each file, and how many more there are."""
    by_file: dict[str, list[str]] = {}
    for words in said:
        by_file.setdefault(words.partition(": ")[0], []).append(words)
    parts = []
    for words_of_file in by_file.values():
        more = len(words_of_file) - most
        parts += [*words_of_file[:most], *([f"and {more} more"] if more > 0 else [])]
    return "; ".join(parts)
