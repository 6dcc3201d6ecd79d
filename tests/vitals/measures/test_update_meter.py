"""The true update of every parameter, against differences of copies in double precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vitals.measures.update_ratio import UpdateMeter, median_ratio, update_ratio


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.LayerNorm(5), nn.Linear(5, 3))


def naive(before: Iterable[Tensor], after: Iterable[Tensor]) -> tuple[list[float], list[float]]:
    pairs = [(old.double(), new.detach().double()) for old, new in zip(before, after, strict=True)]
    return [float((new - old).norm()) for old, new in pairs], [float(old.norm()) for old, _ in pairs]


def measured(model: nn.Module, step: Callable[[], object]) -> tuple[list[float], list[float], UpdateMeter]:
    """What the meter says of `step`, checked against the differences."""
    meter = UpdateMeter(model.named_parameters())
    before = [parameter.detach().clone() for parameter in model.parameters()]
    meter.before()
    step()
    changes, weights = meter.after().tolist()
    expected, norms = naive(before, model.parameters())
    assert changes == pytest.approx(expected, rel=1e-5, abs=1e-12)
    assert weights == pytest.approx(norms, rel=1e-6)
    return changes, weights, meter


def groups(model: nn.Sequential) -> list[dict[str, object]]:
    return [
        {"params": model[0].parameters(), "lr": 1.0},
        {"params": [*model[2].parameters(), *model[3].parameters()]},
    ]


OPTIMIZERS: dict[str, Callable[[nn.Sequential], Optimizer]] = {
    "momentum and decay": lambda net: torch.optim.SGD(net.parameters(), 0.1, 0.9, weight_decay=0.05),
    "nesterov": lambda net: torch.optim.SGD(net.parameters(), 0.1, 0.9, nesterov=True),
    "adam": lambda net: torch.optim.Adam(net.parameters(), 0.01),
    "adamw": lambda net: torch.optim.AdamW(net.parameters(), 0.01, weight_decay=0.5),
    "groups": lambda net: torch.optim.SGD(groups(net), 0.01, 0.9),
}


def test_a_parameter_may_be_given_another_tensor() -> None:
    weight = nn.Parameter(torch.ones(4))
    meter = UpdateMeter([("weight", weight)])
    weight.data = torch.full((4,), 3.0)
    meter.before()
    with torch.no_grad():
        weight += 0.5
    assert meter.after().flatten().tolist() == [1.0, 6.0]


@pytest.mark.parametrize("clip", [None, 0.1])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_update_is_what_the_optimizer_did(name: str, clip: float | None) -> None:
    model = net()
    optimizer = OPTIMIZERS[name](model)

    def step() -> None:
        for _ in range(2):  # accumulated
            model(torch.randn(8, 6)).square().mean().backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(4):
        changes, _, _ = measured(model, step)
    assert min(changes) > 0


def test_momentum_moves_the_weights_far_more_than_lr_times_gradient() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = torch.optim.SGD([weight], 0.1, 0.9)
    meter = UpdateMeter([("w", weight)])
    for _ in range(80):
        weight.grad = torch.ones(2, 2)
        meter.before()
        optimizer.step()
    assert float(meter.after()[0]) == pytest.approx(10 * 0.1 * 2, rel=1e-2)  # lr·|gradient| = 0.2


def test_tied_parameters_count_once_under_their_first_name_and_frozen_ones_not_at_all() -> None:
    model = nn.Module()
    model.a, model.b, model.c = (nn.Linear(3, 3, bias=False) for _ in range(3))
    model.b.weight = model.a.weight
    model.c.requires_grad_(False)
    both = [("a.weight", model.a.weight), ("b.weight", model.b.weight), ("c.weight", model.c.weight)]
    meter = UpdateMeter(both)
    assert meter.names == ["a.weight"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_neither_overflow_nor_fail(dtype: torch.dtype) -> None:
    weight = nn.Parameter(torch.full((200, 200), 300.0, dtype=dtype))  # the sum of squares is 3.6e9
    meter = UpdateMeter([("w", weight)])
    meter.before()
    with torch.no_grad():
        weight.sub_(2.0)
    change, norm = meter.after().flatten().tolist()
    assert change == pytest.approx(400.0, rel=1e-3)
    assert norm == pytest.approx(60000.0, rel=1e-3)


def test_parameters_of_several_precisions_are_measured_together() -> None:
    parameters = [("a", nn.Parameter(torch.ones(4))), ("b", nn.Parameter(torch.ones(4).bfloat16()))]
    meter = UpdateMeter([*parameters, ("c", nn.Parameter(torch.ones(4).double()))])
    meter.before()
    assert meter.after().tolist() == [[0.0] * 3, [2.0] * 3]


def test_a_step_that_the_gradient_scaler_leaves_out_is_no_update() -> None:
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu")
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, math.inf)

    def step() -> None:
        scaler.scale(torch.zeros(()))
        scaler.step(optimizer)
        scaler.update()

    changes, _, _ = measured(model, step)
    assert changes == [0.0] * 6


def test_a_meter_without_parameters_measures_nothing() -> None:
    meter = UpdateMeter([("frozen", torch.ones(2)), ("empty", nn.Parameter(torch.ones(0)))])
    meter.before()
    assert meter.after().shape == (2, 0)


def test_nan_and_infinity_pass_to_the_ratio_and_a_zero_weight_has_none() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    meter = UpdateMeter([("w", weight)])
    meter.before()
    with torch.no_grad():
        weight[0, 0] = math.nan
    change, norm = meter.after().flatten().tolist()
    ratio = update_ratio(change, norm)
    assert ratio is not None
    assert math.isnan(ratio)
    assert update_ratio(math.inf, 1.0) == math.inf
    assert update_ratio(1.0, 1e-9) is None
    assert update_ratio(0.5, 2.0) == 0.25


def test_the_median_is_the_lower_middle_and_infinite_where_most_are_not_finite() -> None:
    assert median_ratio([3.0, 1.0, 2.0]) == 2.0
    assert median_ratio([4.0, 1.0, 2.0, 3.0]) == 2.0
    assert median_ratio([1.0, math.nan, 2.0]) == 2.0
    assert median_ratio([1.0, math.nan, math.inf]) == math.inf
