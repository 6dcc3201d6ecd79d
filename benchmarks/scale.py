"""How time and memory of a training grow, with fitted exponents: `python -m benchmarks.scale`.

    python -m benchmarks.scale batch width                      # some of the parts
    python -m benchmarks.scale images large --most 100000 --steps 4

| part | what grows |
| --- | --- |
| `batch` | images of a batch |
| `width` | channels of every layer of the network |
| `images` | images of 32 pixels to train on, in memory |
| `large` | images of 224 pixels, from files that are all holes: nothing is read from a disk |
| `processes` | processes of `trainer=ddp` on the CPU |
| `mapped` | nothing: 4 GiB of images on the disk under a limit of 2 GiB, beside a few in memory |

Each measurement has a process of its own, with the default network, narrower for the large images. Seconds of
CPU are those of one process, `start` those up to its second step; other work on the machine changes them
little. Memory is the most that it held beyond what it had held before, its images included, the pages of
mapped files left out. An exponent is the slope of a straight line through the logarithms, with its standard
error: 1 is in proportion, 0 not at all.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.compare import composed, data_of, fit, in_turn, synthetic_images
from benchmarks.machine import ROOT, figure, print_where_and_when
from vitals.files import cache_folder
from vitals.runs.array_cache import Made, cached
from vitals.runs.image_set import ImageSet
from vitals.runs.memory import gib

LIMIT, SET = 2 * 2**30, 4 * 2**30
"""Bytes of memory, and of the images that do not fit into it."""
BLOCK = 2**26
"""Random bytes that are written again and again."""
SOURCE = "images of benchmarks.scale"


@dataclass(frozen=True)
class Case:
    """A training of a few steps.

    Attributes:
        batch: images of a batch.
        width: channels of the first stage; the two stages after it have two and four times as many.
        images: to train on.
        pixels: a side.
        processes: of DDP.
        steps: that are timed; one more goes before.
        stored: whether the images are those of the cache file, else they are made in memory.
        limit: bytes of memory that the process may ask for; none if 0.
    """

    batch: int = 128
    width: int = 32
    images: int = 10_000
    pixels: int = 32
    processes: int = 1
    steps: int = 16
    stored: bool = False
    limit: int = 0


@dataclass(frozen=True)
class Cost:
    """What a training took: CPU seconds up to the second step and of a step, that by the clock, and bytes."""

    start: float
    step: float
    step_by_clock: float
    memory: float
    mapped: bool

    def epoch(self, case: Case) -> float:
        """CPU seconds of a training of one epoch, in one process of its."""
        return self.start + self.step * case.images / case.batch / case.processes


class Clock(L.Callback):
    """When each step ended, by the clock and in seconds of CPU."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.ends.append((time.perf_counter(), time.process_time()))


def cost_of(case: Case) -> Cost:
    """Train in this process, and in others beside it where there are to be several."""
    if case.limit:
        import resource  # of Linux and macOS

        resource.setrlimit(resource.RLIMIT_DATA, (case.limit, case.limit))
    before, start, clock = held("VmRSS"), time.process_time(), Clock()
    if case.stored:
        kept = cached(SOURCE, "", unreadable)
        training = ImageSet(kept.array, torch.arange(case.images) % 10, list("0123456789"), None, kept.mapped)
    else:
        training = synthetic_images(case.images, case.pixels)
    words = [
        "data=digits",
        f"data.batch_size={case.batch}",
        "data.crop_padding=4",
        "data.flip=true",
        "seed=0",
    ]
    words += [f"network.widths=[{case.width},{2 * case.width},{4 * case.width}]", "schedule.warmup_epochs=0"]
    words += [
        "trainer.max_epochs=1",
        "trainer.limit_val_batches=0",
        f"trainer.limit_train_batches={case.steps + 1}",
    ]
    if case.processes > 1:
        words += ["trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={case.processes}"]
    config = composed(*words)
    silent: dict[str, Any] = {"enable_progress_bar": False, "enable_checkpointing": False}
    fit(config, data_of(config, training), [clock], log=False, **silent)
    (began, idle), (ended, busy) = clock.ends[0], clock.ends[-1]
    steps = len(clock.ends) - 1
    memory = held("VmHWM") - before
    return Cost(idle - start, (busy - idle) / steps, (ended - began) / steps, memory, training.mapped)


def unreadable() -> Made:
    raise SystemExit(f"the images in {cache_folder()} cannot be read")


def held(kind: str) -> int:
    """Bytes that this process holds (`VmRSS`) or held at its peak (`VmHWM`) without pages of files; Linux."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    found = {words[0].rstrip(":"): int(words[1]) for words in lines if words[-1] == "kB"}
    return 1024 * (found[kind] - found["RssFile"])


@contextmanager
def cache_of(case: Case, folder: Path | None, holes: bool) -> Iterator[None]:
    """While it lasts, this process and those it starts find the images of `case` in a cache on disk.

    With `holes` the file takes no room. Else it is random, and the system has forgotten it when this begins.
    """
    shape, before = (case.images, 3, case.pixels, case.pixels), os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        try:
            cached(SOURCE, "", lambda: Made((1, *shape[1:]), [np.zeros(shape[1:], np.uint8)], {}))
            [path] = Path(cache).rglob("*.npy")  # as the cache has named it, and now the whole of it
            with path.open("wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                end, block = file.tell() + math.prod(shape), random.Random(0).randbytes(BLOCK)
                while not holes and file.tell() < end:
                    file.write(block[: end - file.tell()])
                file.seek(end)
                file.write(json.dumps({"key": ""}).encode())
                file.flush()
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            yield
        finally:
            os.environ.pop("XDG_CACHE_HOME")
            os.environ |= {"XDG_CACHE_HOME": before} if before else {}


@contextmanager
def group_of(limit: int) -> Iterator[Path | None]:
    """A control group of the system with so many bytes of memory, or None where we may not make one."""
    for root, name in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):  # version 1, and 2
        group = Path("/sys/fs/cgroup", root, f"vitals-{os.getpid()}")
        try:
            group.mkdir()
            (group / name).write_text(str(limit))
        except OSError:
            with suppress(OSError):
                group.rmdir()
            continue
        try:
            yield group
        finally:
            with suppress(OSError):  # a process in it has only just ended
                group.rmdir()
        return
    yield None


def apart(case: Case, group: Path | None = None) -> Cost:
    """`cost_of` in a process of its own, in a control group if there is one."""
    words = [sys.executable, "-W", "ignore", "-m", "benchmarks.scale", "--one", json.dumps(asdict(case))]

    def join() -> None:
        if group:
            (group / "cgroup.procs").write_text(str(os.getpid()))

    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        words, stdout=subprocess.PIPE, env=environment, cwd=ROOT, text=True, preexec_fn=join
    )
    if done.returncode:
        raise SystemExit(f"{case} ended with code {done.returncode}")
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def print_growth(title: str, cases: Sequence[Case], what: str, measure: Callable[[Case], Cost]) -> None:
    """Measure the cases, which differ in their field `what`, and fit how their costs grow with it."""
    costs = [measure(case) for case in cases]
    columns = {
        "step, CPU s": [cost.step for cost in costs],
        "step, clock s": [cost.step_by_clock for cost in costs],
        "start, CPU s": [cost.start for cost in costs],
        "epoch, CPU s": [cost.epoch(case) for case, cost in zip(cases, costs, strict=True)],
        "memory, MiB": [cost.memory / 2**20 for cost in costs],
    }
    table = Table(title=title, title_justify="left")
    for name in (what, *columns, "images"):
        table.add_column(name, justify="right")
    for case, cost, *values in zip(cases, costs, *columns.values(), strict=True):
        told = [f"{value:,.3g}" if value < 100 else f"{value:,.0f}" for value in values]
        table.add_row(f"{getattr(case, what):,}", *told, "mapped" if cost.mapped else "held")
    grown = [getattr(case, what) for case in cases]
    told = [exponent(grown, values) for values in columns.values()]
    table.add_section()
    table.add_row("exponent", *told, "")
    Console().print(table)


def exponent(grown: Sequence[float], values: Sequence[float]) -> str:
    """`0.97 ± 0.02`: p and its standard error in values ∝ grown^p, by least squares of the logarithms."""
    points = np.log(grown), np.log(np.maximum(values, 1e-9))
    if len(grown) < 3:  # through two points the line is exact
        return f"{np.polyfit(*points, 1)[0]:.2f}"
    (slope, _), covariance = np.polyfit(*points, 1, cov=True)
    return f"{slope:.2f} ± {math.sqrt(covariance[0, 0]):.2f}"


def print_mapped(rounds: int, steps: int, folder: Path | None) -> None:
    """The speed of a training on images twice as large as its memory, beside one on images that are in it."""
    large = Case(images=SET // (3 * 32**2), steps=steps, stored=True)
    small = replace(large, images=20_000, stored=False)
    taken: dict[str, list[Cost]] = {"mapped": [], "in memory": []}
    with cache_of(large, folder, holes=False), group_of(LIMIT) as group:
        if group is None:
            large = replace(large, limit=LIMIT)
        for arm in in_turn(list(taken), rounds):
            taken[arm].append(apart(large, group) if arm == "mapped" else apart(small))
    pairs = list(zip(taken["mapped"], taken["in memory"], strict=True))
    if not all(mine.mapped for mine, _ in pairs):
        raise SystemExit(f"{gib(SET)} of images were not mapped under a limit of {gib(LIMIT)}")
    limited = "a control group" if group else "RLIMIT_DATA"
    table = Table(
        title=f"{steps} steps on {large.images:,} images of 32 pixels, {gib(SET)}", title_justify="left"
    )
    for column in (f"mapped, under {gib(LIMIT)} by {limited}", "over as many steps on 20,000 in memory"):
        table.add_column(column, justify="right" if table.columns else "left")
    table.add_row("by the clock", figure([mine.step_by_clock / other.step_by_clock for mine, other in pairs]))
    table.add_row("seconds of CPU", figure([mine.step / other.step for mine, other in pairs]))
    Console().print(table)


PARTS = ("batch", "width", "images", "large", "processes", "mapped")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all by default")
    parser.add_argument(
        "--steps",
        type=int,
        default=16,
        help="that are timed in each training, eight times as many of the mapped images",
    )
    parser.add_argument("--most", type=int, default=500_000, help="images to train on")
    parser.add_argument("--rounds", type=int, default=3, help="of the mapped images")
    parser.add_argument("--folder", type=Path, help="on a disk with room for 4 GiB of images")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        cost = cost_of(Case(**json.loads(arguments.one)))
        if not int(os.environ.get("LOCAL_RANK", 0)):
            print(json.dumps(asdict(cost)))
        return
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(unknown)}: the parts are {', '.join(PARTS)}")
    base = Case(steps=arguments.steps)
    counts = [count for count in (10_000, 30_000, 100_000, 250_000, 500_000) if count <= arguments.most]
    large = replace(base, pixels=224, batch=16, width=8, stored=True)
    values = {
        "batch": ("images of a batch", [replace(base, batch=2**power) for power in range(5, 11)]),
        "width": ("channels of the first stage", [replace(base, width=2**power) for power in range(3, 8)]),
        "images": ("images of 32 pixels", [replace(base, images=count) for count in counts]),
        "large": ("images of 224 pixels", [replace(large, images=count) for count in counts]),
        "processes": ("processes of DDP", [replace(base, processes=count) for count in (1, 2)]),
    }
    for part in arguments.parts or PARTS:
        if part == "mapped":
            print_mapped(arguments.rounds, 8 * arguments.steps, arguments.folder)
        else:
            what = "images" if part == "large" else part
            print_growth(*values[part], what, partial(hollow, arguments.folder) if part == "large" else apart)
    print_where_and_when()


def hollow(folder: Path | None, case: Case) -> Cost:
    """`apart` with images from a file that is all holes."""
    with cache_of(case, folder, holes=True):
        return apart(case)


if __name__ == "__main__":
    main()
