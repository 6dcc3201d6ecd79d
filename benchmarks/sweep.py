"""Jobs per minute of a sweep, beside the same commands one after the other: `python -m benchmarks.sweep`.

Then what a further job costs that trains on one batch, with each launcher that is here. Ray's processes are
not ours, so that their CPU time does not count.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec

from benchmarks.compare import compare
from benchmarks.machine import ROOT, figure, print_where_and_when

TRAIN = [sys.executable, str(ROOT / "scripts" / "train.py")]
WORDS = ["data=digits", "checks=none", "trainer=cpu", "trainer.max_epochs=3", "~callbacks.progress"]


def timed(*commands: list[str]) -> tuple[float, float]:
    """Seconds by the clock and of CPU that the commands take, one after the other, with all cores."""
    own = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    before, start = os.times(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for command in commands:
            subprocess.run(command, cwd=folder, env=own, check=True, stdout=subprocess.DEVNULL)
            with contextlib.suppress(ChildProcessError):
                while True:
                    os.wait()  # a fork server ends after its sweep, and the jobs' time counts with it
    after = os.times()
    return time.perf_counter() - start, sum(after[2:4]) - sum(before[2:4])


def become_subreaper() -> None:
    """Be the parent, on Linux, of what our children leave behind, so that its CPU time is counted as ours."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER


def print_costs_of_a_job(rounds: int) -> None:
    """Seconds for a further job of one batch with each launcher: of six less two, by four."""
    launchers = {
        "local, from a fork server": ["launcher.fork_server=true"],
        "local, in a new interpreter": ["launcher.fork_server=false"],
    }
    if find_spec("ray"):
        launchers["ray"] = ["launcher=ray"]
    for name, choice in launchers.items():
        command = [*TRAIN, "-m", *WORDS, "debug=fast", *choice]
        timed([*command, "seed=0,1"])  # to warm up
        costs = []
        for _ in range(rounds):
            few, many = (timed([*command, f"seed={seeds}"]) for seeds in ("0,1", "0,1,2,3,4,5"))
            costs.append([(more - less) / 4 for more, less in zip(many, few, strict=True)])
        clock, cpu = (figure(seconds, ".1f") for seconds in zip(*costs, strict=True))
        print(f"{name}: for a further job of one batch {clock} s by the clock, {cpu} s of CPU")
    print_where_and_when()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    become_subreaper()
    jobs, seeds = arguments.jobs, f"seed={','.join(map(str, range(arguments.jobs)))}"
    singly = [[*TRAIN, *WORDS, f"seed={seed}"] for seed in range(jobs)]
    arms = {
        "sweep, a job a core": lambda: 60 * jobs / timed([*TRAIN, "-m", *WORDS, seeds])[0],
        "one after the other": lambda: 60 * jobs / timed(*singly)[0],
    }
    compare(f"{jobs} jobs of 3 epochs on the digits, jobs per minute", arms, arguments.rounds)
    print_costs_of_a_job(arguments.rounds)


if __name__ == "__main__":
    main()
