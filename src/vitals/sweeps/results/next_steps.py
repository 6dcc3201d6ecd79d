"""What can be typed after a sweep: the best jobs together, what is missing, and a new range where the best
values lie at the edge of the one that was searched: docs/course.md, "Search"."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from hydra.core.override_parser.overrides_parser import OverridesParser

from vitals.report.predictions import FILE as PREDICTIONS
from vitals.runs.quoting import hydra_value
from vitals.runs.run_folder import shown
from vitals.sweeps.results.results import NOT_VARIED, SweepResults
from vitals.sweeps.search.space import Dimension, dimension

NEAR = 0.05
"""Share of the range, on its scale, that counts as its edge."""
FEWEST_VALUES = 3
FARTHEST_DECADES = 2.0
"""From an edge to the end of the next range."""
TOP = 5
"""Jobs that are proposed as an ensemble."""


@dataclass(frozen=True)
class Border:
    """A best value at an edge, and the range to try next."""

    key: str
    edge: float
    is_upper: bool
    word: str
    """The override that asks for the new range."""
    command: str

    @property
    def message(self) -> str:
        """One sentence."""
        side = "upper" if self.is_upper else "lower"
        return (
            f"the best values of {self.key} lie at the {side} edge of its range, {self.edge:g}: "
            f"better ones may lie beyond."
        )


def borders(results: SweepResults) -> list[Border]:
    """A border for each key whose best value, or two of the best three, lie within 5% of an edge."""
    found = []
    record = results.folder.read_record()
    parser = OverridesParser.create()
    searched_for = (dimension(parser.parse_override(word)) for word in record.get("space") or [])
    ranges = {part.key: part for part in searched_for}
    for key in results.varied:
        pairs = [] if key in NOT_VARIED else results.numbers(key)
        values = sorted({value for value, _ in pairs})
        listed = key not in ranges
        if len(values) < (FEWEST_VALUES if listed else 1):
            continue
        log = values[0] > 0 and values[-1] >= 10 * values[0]
        whole = listed and all(float(value).is_integer() for value in values)
        searched = ranges.get(key) or Dimension(key, values[0], values[-1], log, whole)
        if searched.choices:
            continue
        upper = _edge(searched, [value for value, _ in pairs[:3]])
        if upper is None:
            continue
        new = _beyond(searched, upper)
        listing = ",".join(f"{value:.3g}" for value in new.evenly(len(values)))
        word = f"{key}={listing}" if listed else new.sweep_word()
        edge = searched.high if upper else searched.low
        others = (f"{key}=", "hydra.sweep.dir=")
        kept = [old for old in record.get("words") or [] if not old.startswith(others)]
        command = shlex.join([*results.folder.program(), "-m", *kept, word])
        found.append(Border(key, edge, upper, word, command))
    return found


def _edge(searched: Dimension, top: Sequence[float]) -> bool | None:
    """Whether the `top` values, best first, crowd at the upper edge (True) or the lower one (False)."""
    low, high = searched.scaled(searched.low), searched.scaled(searched.high)
    for upper in (False, True):
        end = searched.high if upper else searched.low
        if end in (0, 1) and (searched.whole or not searched.log):  # nothing lies beyond, of a dropout say
            continue
        scaled_end = high if upper else low
        near = [abs(searched.scaled(value) - scaled_end) <= NEAR * (high - low) for value in top]
        if near and (near[0] or sum(near) >= 2):
            return upper
    return None


def _beyond(searched: Dimension, upper: bool) -> Dimension:
    """A range with the edge in its middle, as wide or four decades; on a linear scale positive numbers stay
    so, and shares, which all below 1 are but rates, below it."""
    low, high = searched.scaled(searched.low), searched.scaled(searched.high)
    middle, half = (high if upper else low), (high - low) / 2
    half = min(half, FARTHEST_DECADES) if searched.log else half
    if not searched.log and searched.low > 0:
        share = searched.high < 1 and not searched.key.endswith("lr")
        half = min(half, middle / 2, (1 - middle) / 2 if share else half)
    ends = middle - half, middle + half
    if not searched.log and searched.low >= 0:
        ends = max(0.0, ends[0]), ends[1]
    return replace(searched.between(*ends), key=searched.key)


@dataclass(frozen=True)
class Step:
    """A sentence and the command that goes with it."""

    level: Literal["warn", "note"]
    text: str
    command: str


def next_steps(results: SweepResults) -> list[Step]:
    """Warnings first, then what is left to run, then the best jobs as an ensemble."""
    steps = [Step("warn", f"{edge.message} To try:", edge.command) for edge in borders(results)]
    left = sum(not job.complete for job in results.jobs)
    if (left or results.missing) and not results.running:
        states = [f"{left} failed or interrupted"] if left else []
        states += [f"{results.missing} not started"] if results.missing else []
        resume = f"resume_sweep={hydra_value(shown(results.folder.path))}"
        command = shlex.join([*results.folder.program(), "-m", resume])
        steps.append(Step("warn", f"{' and '.join(states)}; to run what is missing:", command))
    # An ensemble is of classifiers, whose runs have kept class probabilities.
    done = [job for job in results.ranked if job.status == "finished"]
    best = [job for job in done if (job.folder / PREDICTIONS).is_file()][:TOP]
    if len(best) > 1:
        runs = ",".join(hydra_value(shown(job.folder)) for job in best)
        command = shlex.join([*results.folder.program("ensemble"), f"runs=[{runs}]"])
        steps.append(Step("note", f"The best {len(best)} together, as an ensemble:", command))
    return steps
