"""The table of causes: every row is whole, and a project can add its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

import pytest

from vitals.causes import CAUSES, Cause, StationKey, register
from vitals.diagnosis.diagnose import RULES, diagnose
from vitals.diagnosis.run import Run
from vitals.errors import UserError
from vitals.findings import Finding, without_consequences
from vitals.history import History
from vitals.report.stations import STATIONS, station_of

MINE = Cause("labels-stale", "labels are older than their images", "before", ("labels-random",), symptom=True)


@pytest.fixture
def mine() -> Iterator[Cause]:
    yield register(MINE)
    del CAUSES[MINE.code]


@pytest.mark.parametrize("cause", CAUSES.values(), ids=str)
def test_every_row_has_a_lower_case_code_a_meaning_and_known_consequences(cause: Cause) -> None:
    assert cause.code == cause.code.lower().replace(" ", "-").replace("_", "-")
    assert cause.meaning
    assert all(CAUSES[code].fault for code in cause.brings)
    assert cause.fault or not (cause.brings or cause.symptom or cause.of_divergence)
    assert cause.station in get_args(StationKey) or cause.code in ("skipped", "looks")


def test_the_report_has_all_stations_in_their_order() -> None:
    assert [station.key for station in STATIONS] == list(get_args(StationKey))


def test_what_a_cause_of_ones_own_brings_about_is_lowered(mine: Cause) -> None:
    register(replace(MINE))  # a second import is no conflict
    root, follows = Finding(mine.code, "fail", "Old."), Finding("labels-random", "warn", "Random.")
    assert station_of(root) == "before"
    assert [finding.level for finding in without_consequences([root, follows])] == ["fail", "note"]


def test_a_rule_of_ones_own_speaks_among_the_others(mine: Cause) -> None:
    def stale(run: Run) -> Iterator[Finding]:
        yield Finding(mine.code, "warn", "Labels are a year old.")

    history = History()
    history.add_steps(3, 1.0, {"loss/train_step": [1.0, 0.9, 0.8]})
    [found] = diagnose(Run(history), [], [*RULES, stale])
    assert (found.cause, found.level, found.step) == (mine.code, "warn", 3)
    before = Finding("double-softmax", "warn", "Twice.")
    assert diagnose(Run(history, [before]), [], [stale])[1].level == "note"  # a symptom, as its row says


REFUSED = {
    "stands for another row already .gradients are not": Cause("gradients-accumulate", "other", "loss"),
    "unknown station 'lss': did you mean loss": Cause("mine", "mine", "lss"),  # type: ignore[arg-type]
    "brings an unknown 'dead-rleu': did you mean dead-relu": Cause("mine", "mine", "loss", ("dead-rleu",)),
}


@pytest.mark.parametrize("said", REFUSED)
def test_a_row_that_cannot_stand_is_refused(said: str) -> None:
    with pytest.raises(UserError, match=said):
        register(REFUSED[said])
    assert "mine" not in CAUSES
