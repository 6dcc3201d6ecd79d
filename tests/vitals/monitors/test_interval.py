"""When monitors measure: the interval, and what reaches the event file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from foreign import Foreign, Stream, mlp
from monitoring import GAN, some, watched
from torch.utils.data import DataLoader

from vitals.errors import UserError
from vitals.monitors.histograms import Histograms
from vitals.monitors.monitor import Interval
from vitals.monitors.update_ratio import UpdateRatio

PERIODS = [
    ({"every_n_steps": 7}, 100, 10, 7),
    ({"times_per_run": 5}, 100, 10, 20),
    ({"times_per_run": 500}, 100, 10, 1),
    ({"times_per_epoch": 2}, 100, 10, 5),
    ({"every_n_steps": 50, "times_per_run": 20}, 100, 10, 5),
    ({"every_n_steps": 50, "times_per_run": 20}, 100_000, 10, 50),
    ({"every_n_steps": 50, "times_per_run": 20}, math.inf, math.inf, 50),
    ({"times_per_run": 20}, math.inf, 10, 50),
    ({"times_per_epoch": 4}, 10, 2.5, 1),
]


@pytest.mark.parametrize(("options", "run", "epoch", "period"), PERIODS)
def test_the_shortest_interval_counts(options: dict[str, int], run: float, epoch: float, period: int) -> None:
    assert Interval(**options).period(run, epoch) == period


@pytest.mark.parametrize("value", [0, -3, True, 2.5])
def test_a_wrong_interval_is_answered(value: Any) -> None:
    with pytest.raises(UserError, match=r"every_n_steps.*whole number of 1 or more"):
        UpdateRatio(every_n_steps=value)
    with pytest.raises(UserError, match="times_per_epoch must be a number"):
        UpdateRatio(None, None, None)


STEPS = [
    ({"every_n_steps": 3, "times_per_run": None}, {}, [1, 3, 6, 9, 10]),
    ({"every_n_steps": None, "times_per_run": 2}, {}, [1, 5, 10]),
    ({"every_n_steps": None, "times_per_run": None, "times_per_epoch": 1}, {}, [1, 5, 10]),
    ({"every_n_steps": 100, "times_per_run": None}, {}, [1, 10]),
    ({"every_n_steps": 2, "times_per_run": None}, {"accumulate_grad_batches": 2}, [1, 2, 4, 6]),
    ({"every_n_steps": 2, "times_per_run": None}, {"max_steps": 5}, [1, 2, 4, 5]),
]


@pytest.mark.parametrize(("interval", "options", "steps"), STEPS)
def test_entries_stand_at_these_steps_and_no_others(
    interval: dict[str, Any], options: dict[str, Any], steps: list[int], tmp_path: Path
) -> None:
    both = UpdateRatio(**interval), Histograms(**interval, histograms_every=1, samples=4)
    _, events, _ = watched(Foreign(mlp()), tmp_path, *both, train=some(5), max_epochs=2, **options)
    for tag in ("update_ratio/net.1.weight", "activations/variance/net.1"):
        assert list(events.scalars(tag)) == steps
    assert list(events.histograms("weights/net.1.weight")) == steps


def test_a_stream_of_unknown_length_is_measured(tmp_path: Path) -> None:
    stream = DataLoader(Stream(), batch_size=32)
    both = UpdateRatio(None, times_per_run=10), Histograms(4, None)
    _, events, _ = watched(Foreign(mlp()), tmp_path, *both, train=stream)
    assert list(events.scalars("update_ratio/net.1.weight")) == [1]
    assert list(events.scalars("activations/variance/net.1")) == [1, 4, 8]


def test_two_optimizers_do_not_step_over_the_interval(tmp_path: Path) -> None:
    _, events, _ = watched(GAN(), tmp_path, UpdateRatio(5, None), train=some(10))
    assert list(events.scalars("update_ratio/net.weight")) == [2, 6, 10, 16, 20]
    assert list(events.scalars("update_ratio/critic.weight")) == [2, 6, 10, 16, 20]


def test_histograms_come_with_every_so_many_statistics(tmp_path: Path) -> None:
    look = Histograms(2, None, histograms_every=2)
    _, events, _ = watched(Foreign(mlp()), tmp_path, look, train=some(11))
    assert list(events.scalars("activations/variance/net.1")) == [1, 2, 4, 6, 8, 10, 11]
    assert list(events.histograms("weights/net.1.weight")) == [1, 4, 8, 11]
