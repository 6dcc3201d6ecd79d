"""A sweep whose jobs are killed: each must be accounted for, and in the end be what it would have been."""

from __future__ import annotations

import csv
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.unbreakable.commands import Commands
from benchmarks.unbreakable.differences import differences
from benchmarks.unbreakable.kills import OF_JOBS
from vitals.files import read_json
from vitals.sweeps.jobs.folder import SweepFolder
from vitals.sweeps.jobs.processes import signal_group

SHORT = [*OF_JOBS, "trainer.max_epochs=2"]


@dataclass
class Sweep:
    """What became of its jobs."""

    killed: list[int] = field(default_factory=list)
    """Numbers of those that were."""
    finished: int = 0
    rows: int = 0
    """Of `results.csv`."""
    unequal: list[str] = field(default_factory=list)
    """Of the killed ones: what is not as in the same command run alone."""


def killed_sweep(
    commands: Commands,
    place: Path,
    jobs: int,
    share: float,
    chance: random.Random,
    say: Callable[[str], None],
) -> Sweep:
    """Sweep over so many seeds, kill a share of the jobs at any time, continue, and look at every job."""
    place.mkdir(parents=True)
    sweep, folder = Sweep(), SweepFolder(place / "sweep")
    doomed = {number: chance.uniform(0, 2) for number in chance.sample(range(jobs), round(share * jobs))}
    seen: dict[int, float] = {}

    def strike() -> None:
        for job in folder.jobs():
            number, status = int(job.name.partition("_")[0]), read_json(job / "status.json")
            if number not in doomed or number in sweep.killed or status.get("status") != "running":
                continue
            if time.monotonic() - seen.setdefault(number, time.monotonic()) > doomed[number]:
                sweep.killed.append(number)
                signal_group(status["process"], signal.SIGKILL)

    words = ["-m", *SHORT, f"seed=range({jobs})", "hydra.sweep.dir=sweep"]
    first = commands.script("train", words, place, patience=3 * 3600, meanwhile=strike)
    say(f"the sweep ended with code {first.code}, {len(sweep.killed)} of its {jobs} jobs killed")
    again = commands.script("train", ["-m", "resume_sweep=sweep"], place, patience=3 * 3600)
    say(f"continued, it ended with code {again.code}")
    sweep.finished = sum(read_json(job / "status.json").get("status") == "finished" for job in folder.jobs())
    with folder.results.open(newline="", encoding="utf-8") as file:
        sweep.rows = len(list(csv.DictReader(file)))
    for number in sweep.killed:
        alone = place / f"alone-{number}"
        alone.mkdir()
        ended = commands.train([*SHORT, f"seed={number}", "hydra.run.dir=run"], alone)
        assert ended.code == 0, ended.said
        unequal = differences(folder.jobs()[number], alone / "run")
        sweep.unequal += [f"job {number}: {words}" for words in unequal]
    for words_of_job in sweep.unequal:
        say(words_of_job)
    return sweep
