"""What can be typed after a sweep: a new range, the best jobs together, what is missing."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Literal

from vitals.runs.quoting import hydra_value
from vitals.runs.run_folder import shown
from vitals.sweeps.results.borders import Border
from vitals.sweeps.results.results import SweepResults

TOP = 5
"""Jobs that are proposed as an ensemble."""


@dataclass(frozen=True)
class Step:
    """A sentence and the command that goes with it."""

    level: Literal["warn", "note"]
    text: str
    command: str


def next_steps(results: SweepResults, edges: list[Border]) -> list[Step]:
    """Warnings first, then what is left to run, then the best jobs as an ensemble."""
    steps = [Step("warn", f"{edge.message} To try:", edge.command) for edge in edges]
    left = sum(not job.complete for job in results.jobs)
    if (left or results.missing) and not results.running:
        states = [f"{left} failed or interrupted"] if left else []
        states += [f"{results.missing} not started"] if results.missing else []
        resume = f"resume_sweep={hydra_value(shown(results.folder.path))}"
        command = shlex.join([*results.folder.program(), "-m", resume])
        steps.append(Step("warn", f"{' and '.join(states)}; to run what is missing:", command))
    best = [job for job in results.ranked if job.status == "finished"][:TOP]
    if len(best) > 1:
        runs = ",".join(hydra_value(shown(job.folder)) for job in best)
        command = shlex.join([*results.folder.program("ensemble"), f"runs=[{runs}]"])
        steps.append(Step("note", f"The best {len(best)} together, as an ensemble:", command))
    return steps
