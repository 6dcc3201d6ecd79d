"""The benchmarks whose figures the documents quote: what they say of small problems."""

from __future__ import annotations

import json
import re
import shutil
import sys
from dataclasses import asdict, replace
from importlib.metadata import version

import pytest

from benchmarks.compare import synthetic_images
from benchmarks.machine import ROOT, figure, where_and_when
from benchmarks.monitors import PRESETS, costs, shares
from benchmarks.optimizers import SADDLE, VALLEY, descent, on_surface, race, steps_until_over
from benchmarks.scale import LIMIT, SET, Case, Cost, cache_of, cost_of, exponent, print_growth
from benchmarks.unbreakable.commands import Commands
from project.optim.optimizers import OptimizerFactory, optimizer_factory
from vitals.runs.instantiate import plain


@pytest.fixture
def factory_of(compose):
    """An optimizer from its YAML, with some of the values changed."""

    def factory(name: str, **values: object) -> OptimizerFactory:
        return optimizer_factory(plain(compose(f"optimizer={name}").optimizer) | values)

    return factory


OFF_THE_SADDLE = [
    ("rmsprop", 5),
    ("adadelta", 29),
    ("adam", 43),
    ("nesterov", 124),
    ("momentum", 132),
    ("adagrad", 321),
    ("sgd", 662),
]
DOWN_THE_VALLEY = [
    ("rmsprop", 36),
    ("nesterov", 40),
    ("momentum", 58),
    ("adam", 99),
    ("sgd", 198),
    ("adadelta", 536),
]


@pytest.mark.parametrize(("name", "steps"), OFF_THE_SADDLE)
def test_adaptive_rates_leave_a_saddle_sooner(name, steps):
    """x² − y² from (−1, 10⁻⁶) at rate 0.01: after so many steps |y| ≤ 0.5, and after the next no more.

    For SGD that is ln(0.5 / 10⁻⁶) / ln 1.02 = 662.7.
    """
    path = descent(optimizer_factory(on_surface(name, SADDLE)), SADDLE, steps + 1)
    assert SADDLE.over(path).tolist() == [False] * (steps + 1) + [True]
    assert steps_until_over(path, SADDLE) == steps


@pytest.mark.parametrize(("name", "steps"), DOWN_THE_VALLEY)
def test_momentum_arrives_in_a_long_valley_long_before_plain_descent(name, steps):
    """So many steps until they stay within 0.1 of the bottom, at a rate of 0.03; momentum runs past it."""
    path = descent(optimizer_factory(on_surface(name, VALLEY)), VALLEY, steps + 50)
    assert steps_until_over(path, VALLEY) == steps
    assert (path[:, 0].max() > 0.3) == (name in ("momentum", "nesterov"))


def test_the_race_tells_arriving_from_crawling_and_from_diverging(factory_of):
    shapes = ["quadratic", "exponential"]
    assert race(factory_of("sgd", lr=0.1), ["none"], shapes)["none"]["quadratic"] == "pass"
    assert race(factory_of("sgd", lr=1e-5), ["none"], shapes)["none"] == dict.fromkeys(shapes, "slow")
    assert race(factory_of("sgd", lr=3.0), ["none"], ["quadratic"])["none"] == {"quadratic": "diverged"}


def test_a_mask_over_most_gradients_slows_the_race_but_does_not_stop_it(factory_of):
    assert race(factory_of("sgd", lr=0.1), ["masked"], ["quadratic"])["masked"] == {"quadratic": "pass"}


def test_the_cost_of_every_monitor_is_measured():
    words = ["network.widths=[4,4]"]
    found = costs(words, synthetic_images(200), batch_size=16, measurements=6)
    told = dict(shares(found, 16))
    assert all(cost > 0 for cost in told.values())
    assert told["one set of histograms"] > told["one look into the layers"] > 0
    of_presets = [found.share(preset, 16) for preset in PRESETS]
    assert of_presets[0] > 0
    assert of_presets == sorted(of_presets)


def test_figures_are_told_with_their_spread_and_with_where_and_when():
    assert figure([1.0, 2.0, 3.0]) == "2 ± 1 (1 to 3, n = 3)"
    assert figure([0.5], ".0%") == "50% (n = 1)"
    line = where_and_when()
    assert re.search(
        rf"\d+ cores .*torch {re.escape(version('torch'))}, lightning \d.*20\d\d, commit \w+", line
    )


def test_what_grows_is_told_with_its_exponent(capsys):
    tiny = Case(batch=8, width=4, images=40, steps=2)
    print_growth("images of a batch", [tiny, replace(tiny, batch=16)], "batch", cost_of)
    said = capsys.readouterr().out
    assert re.search(r"\b8 │.*held", said)
    assert "exponent" in said
    assert exponent([1, 2, 4], [3, 6, 12]) == "1.00 ± 0.00"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells memory and limits it")
def test_a_set_twice_as_large_as_memory_is_mapped_and_trained_on(tmp_path):
    """4 GiB of images in a file that is all holes, by a process that may ask for 2 GiB."""
    if shutil.disk_usage(tmp_path).free < 10 * 2**30:
        pytest.skip("a disk without holes in its files would need room for 4 GiB")
    case = Case(batch=8, width=4, images=SET // (3 * 224**2), pixels=224, steps=2, stored=True, limit=LIMIT)
    with cache_of(case, tmp_path, holes=True):
        ended = Commands().run(["-m", "benchmarks.scale", "--one", json.dumps(asdict(case))], ROOT)
    assert ended.code == 0, ended.said
    cost = Cost(**json.loads(ended.last_line))
    assert cost.mapped
    assert cost.memory < LIMIT / 2
