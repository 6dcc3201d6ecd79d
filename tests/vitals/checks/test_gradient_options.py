"""Penalty and burn-in are checked apart, nothing is disturbed, bad input is named."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from right_networks import RIGHT, causes, small_net
from torch import Tensor, nn

from vitals.checks.gradients.check import check_gradients
from vitals.checks.gradients.functional_loss import FunctionalLoss
from vitals.errors import UserError


def test_data_loss_penalty_and_both_are_checked_apart() -> None:
    net, x, y = small_net()
    check = check_gradients(net, F.cross_entropy, x, y, penalty=1e-3)
    assert [s.part for s in check.summaries if s.parameter == "0.weight"] == ["data", "penalty", "both"]
    assert causes(check, "ok") == ["gradients-correct"]


def test_a_wrong_penalty_is_named_as_such() -> None:
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, weight: Tensor) -> Tensor:
            ctx.save_for_backward(weight)
            return weight.square().sum()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * ctx.saved_tensors[0]  # the 2 is missing

    net, x, y = small_net()
    finding = check_gradients(
        net, F.cross_entropy, x, y, penalty=lambda model: 1e-3 * Doubled.apply(model[0].weight)
    ).findings()[0]
    assert (finding.cause, finding.where) == ("wrong-gradient", "0.weight")
    assert "of the penalty" in finding.message


def test_a_penalty_stronger_than_the_data_is_a_warning_for_its_group() -> None:
    net, x, y = small_net()
    weak = check_gradients(net, F.cross_entropy, x, y, penalty={"0.weight": 1e-4, "2.weight": 1e-4})
    strong = check_gradients(net, F.cross_entropy, x, y, penalty={"0.weight": 10.0, "2.weight": 1e-4})
    assert causes(weak, "warn") == []
    (finding,) = (finding for finding in strong.findings() if finding.level == "warn")
    assert finding.cause == "regularization-too-strong"
    assert "decay 10" in finding.where


def test_the_check_after_a_burn_in_says_when_it_was_made() -> None:
    net, x, y = small_net()
    before = copy.deepcopy(net.state_dict())
    check = check_gradients(net, F.cross_entropy, x, y, burn_in_steps=100)
    assert check.burn_in is not None
    assert 0 < check.burn_in.steps < 100
    assert check.burn_in.loss_after <= 0.9 * check.burn_in.loss_before
    finding = check.findings()[0]
    assert finding.step == check.burn_in.steps
    assert f"checked at step {check.burn_in.steps}, loss" in finding.message
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_nothing_of_the_user_is_disturbed() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 5))
    net[2].eval()
    x, y = torch.randn(8, 6), torch.randint(0, 5, (8,))
    net[0].weight.grad = torch.ones(8, 6)
    modes = [module.training for module in net.modules()]
    before, inputs = copy.deepcopy(net.state_dict()), x.clone()
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    with torch.no_grad():
        check = check_gradients(net, nn.CrossEntropyLoss(), x, y, penalty=1e-4, burn_in_steps=3)
        assert not torch.is_grad_enabled()
    assert causes(check, "ok") == ["gradients-correct"]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(value.dtype == before[name].dtype for name, value in net.state_dict().items())
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(net[0].weight.grad, torch.ones(8, 6))
    assert net[0].bias.grad is None
    assert torch.equal(x, inputs)
    assert not x.requires_grad
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()  # noqa: NPY002
    assert torch.get_default_dtype() == torch.float32


def test_large_weights_that_are_not_compared_are_widened_where_they_lie() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 1100), nn.ReLU(), nn.Linear(1100, 1000), nn.Linear(1000, 5))
    x, y = torch.randn(4, 6), torch.randint(0, 5, (4,))
    options = {"penalty": None, "samples": 4, "dtype": torch.float64, "seed": 0, "check_inputs": True}
    some = FunctionalLoss(net, F.cross_entropy, x, y, choose=lambda tensors: ["0.weight", "input"], **options)
    whole = FunctionalLoss(net, F.cross_entropy, x, y, **options)
    assert some.model[2].weight.data_ptr() == net[2].weight.data_ptr()
    assert (some.model[2].weight.dtype, whole.model[2].weight.dtype) == (torch.float32, torch.float64)
    some.narrow()
    value, gradients = some.value_and_gradients()
    same, all_of_them = whole.value_and_gradients()
    assert value == same
    assert gradients.keys() == {"0.weight", "input"}
    assert all(torch.equal(gradient, all_of_them[name]) for name, gradient in gradients.items())


def test_nothing_is_disturbed_by_a_check_that_raises() -> None:
    net, x, y = small_net()
    state = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        check_gradients(net, F.cross_entropy, x, y, penalty=lambda model: 1 / 0)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == torch.float32
    assert net[0].weight.dtype == torch.float32


def test_the_same_seed_gives_the_same_rows() -> None:
    arguments = RIGHT["relu"].arguments(4, 0)
    first, second, third = (check_gradients(*arguments, seed=seed).rows for seed in (1, 1, 2))
    assert first == second
    assert [row.index for row in first] != [row.index for row in third]


def test_tuples_and_mappings_of_inputs_and_autocast_and_inference_mode() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(6, 5), nn.Linear(6, 5)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.left(a) + self.right(b)

    a, b, y = torch.randn(4, 6), torch.randn(4, 6), torch.randint(0, 5, (4,))
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.inference_mode():
        for inputs, names in (
            ((a, b), ["input[0]", "input[1]"]),
            ({"a": a, "b": b}, ["input[a]", "input[b]"]),
        ):
            check = check_gradients(Two(), F.cross_entropy, inputs, y)
            assert [s.parameter for s in check.summaries][-2:] == names
            assert causes(check, "ok") == ["gradients-correct"]


class WithParameter(nn.Module):
    def __init__(self, parameter: nn.Parameter) -> None:
        super().__init__()
        self.odd = parameter
        self.linear = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"elements": 0}, "elements"),
        ({"steps": (1e-4, 0.0)}, "steps"),
        ({"steps": ()}, "steps"),
        ({"samples": 9}, "samples"),
        ({"samples": 0}, "samples"),
        ({"dtype": torch.float16}, "dtype"),
        ({"burn_in_steps": -1}, "burn_in_steps"),
        ({"loss": lambda out, t: out}, "loss"),
        ({"loss": lambda out, t: 1.0}, "loss"),
        ({"loss": lambda out, t: out.sum() * torch.inf}, "loss"),
        ({"penalty": lambda model: torch.tensor(torch.nan)}, "penalty"),
        ({"penalty": {"0.weigth": 1e-4}}, "0.weight"),
        ({"model": nn.Flatten()}, "model"),
        ({"model": nn.Linear(6, 5).requires_grad_(False)}, "frozen"),
        (
            {"model": WithParameter(nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False))},
            "odd",
        ),
        ({"model": WithParameter(nn.Parameter(torch.zeros(2, dtype=torch.complex64)))}, "odd"),
    ],
)
def test_bad_input_is_an_error_that_names_the_argument(change: dict[str, Any], message: str) -> None:
    net, x, y = small_net()
    arguments = {"model": net, "loss": F.cross_entropy, "inputs": x, "targets": y} | change
    with pytest.raises(UserError, match=message):
        check_gradients(**arguments)


def test_a_right_direction_through_all_stands_for_an_element() -> None:
    net, x, y = small_net()
    check = check_gradients(net, F.cross_entropy, x, y, elements=1)
    assert [row.index is None for row in check.summaries[0].rows] == [False, True]  # the largest, and all
    check = check_gradients(net, F.cross_entropy, x, y, elements=4)
    assert len(check.summaries[0].rows) == 5
