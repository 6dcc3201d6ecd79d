"""What the first command takes, as who types it sees it: `python -m benchmarks.first`.

    python -m benchmarks.first --rounds 5
    python -m benchmarks.first data=digits checks=none trainer.max_epochs=1  # another training

Each round runs `python scripts/train.py optimizer=rmsprop data=digits`, or with the words given, in a process
and an empty folder of its own, on a terminal. Said are the seconds by the clock, and of CPU on all cores, to
where something is shown, network, data and folder are shown, the first step is done, and the command ends.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

import lightning as L
from rich.console import Console
from rich.table import Table

from benchmarks.machine import ROOT, figure, print_where_and_when

FIRST = ["optimizer=rmsprop", "data=digits"]
STEP = "the first step is done"
MARKS = {"something is shown": "", "network, data and folder are shown": "run folder: ", STEP: STEP}
"""What is on the terminal at a moment."""


class SaysFirstStep(L.Callback):
    """Prints that the first step is done."""

    def on_train_batch_end(self, trainer: L.Trainer, *_: object) -> None:
        if trainer.global_step == 1:
            print(STEP, flush=True)


@dataclass(frozen=True)
class Moment:
    """When something happened: seconds since the command was started.

    Attributes:
        clock: by the clock.
        cpu: of CPU, of all threads.
    """

    clock: float
    cpu: float


def watched(words: list[str]) -> list[Moment]:
    """When each of the `MARKS` was there, and the end."""
    watch = ["+callbacks.says_first_step._target_=benchmarks.first.SaysFirstStep"]
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *words, *watch]
    own = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    own["TERM"] = "xterm"
    own["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [own.get("PYTHONPATH")])])
    with tempfile.TemporaryDirectory() as folder:
        shown, terminal = os.openpty()
        start, before = time.perf_counter(), os.times()
        process = subprocess.Popen(command, cwd=folder, env=own, stdout=terminal, stderr=terminal)
        os.close(terminal)
        found: list[Moment] = []
        text = b""
        while piece := _read(shown):
            now = Moment(time.perf_counter() - start, cpu_of(process.pid))
            text += piece
            for mark in list(MARKS.values())[len(found) :]:
                if mark.encode() not in text:
                    break
                found.append(now)
        code = process.wait()
        os.close(shown)
    if code:
        raise SystemExit(f"the command failed:\n{text.decode(errors='replace')[-2000:]}")
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return [*found, Moment(time.perf_counter() - start, cpu)]


def _read(terminal: int) -> bytes:
    """What has been shown; nothing once the command has ended."""
    try:
        return os.read(terminal, 65536)
    except OSError:  # so Linux says it
        return b""


def cpu_of(process: int) -> float:
    """Seconds of CPU that a process has taken so far, as Linux counts them."""
    with open(f"/proc/{process}/stat", encoding="utf-8") as file:
        counts = file.read().rpartition(")")[2].split()
    return (int(counts[11]) + int(counts[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="*", default=FIRST, help=f"of the training; {' '.join(FIRST)}")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_intermixed_args()
    rounds = [watched(arguments.words) for _ in range(arguments.rounds)]
    table = Table(title=f"scripts/train.py {' '.join(arguments.words)}", title_justify="left")
    for column in ("to where", "seconds by the clock", "seconds of CPU"):
        table.add_column(column)
    for name, moments in zip([*MARKS, "the command ends"], zip(*rounds, strict=True), strict=True):
        clock, cpu = ([getattr(moment, kind) for moment in moments] for kind in ("clock", "cpu"))
        table.add_row(name, figure(clock), figure(cpu))
    Console().print(table)
    print_where_and_when()


if __name__ == "__main__":
    main()
