"""Kinks are told from wrong gradients, and step sizes do what theory says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from right_networks import RIGHT, causes, small_net
from torch import Tensor, nn

from vitals.checks.gradients.check import check_gradients
from vitals.checks.gradients.difference import Differences, Line, relative_error
from vitals.checks.gradients.functional_loss import FunctionalLoss, undisturbed
from vitals.checks.gradients.step_study import step_size_study


def test_large_errors_of_a_right_gradient_are_all_at_kinks() -> None:
    model, loss, inputs, targets = RIGHT["max-pool"].arguments(100, 0)
    with undisturbed(torch.float64, torch.device("cpu")):
        objective = FunctionalLoss(
            model,
            loss,
            inputs,
            targets,
            penalty=None,
            samples=100,
            dtype=torch.float64,
            seed=0,
            check_inputs=False,
        )
        _, gradients = objective.value_and_gradients()
        differences = Differences(objective.value, 1.0, [1e-3])
        errors: dict[bool, list[float]] = {True: [], False: []}
        for number in range(60):
            line = Line.along_element(objective.tensors["0.weight"], number)
            slope = differences.slope(line, 1e-3)
            error = relative_error(line.derivative(gradients["0.weight"]), slope.centred)
            errors[slope.kink].append(error)
    assert max(errors[True]) > 1e-3
    assert errors[False] == [] or max(errors[False]) < 1e-4


def test_an_element_at_a_kink_is_retried_with_smaller_steps() -> None:
    # The sum lies 3e-6 above the kink: all the default steps but the smallest cross it.
    net = nn.Linear(1, 1)
    net.weight.data.fill_(1.0)
    net.bias.data.fill_(3e-6 - 1.0)
    check = check_gradients(net, lambda y, _: F.relu(y).sum(), torch.ones(1, 1), None)
    assert {row.h for row in check.rows} == {1e-6}
    assert not any(row.kink for row in check.rows)


def test_a_step_that_is_lost_in_rounding_is_skipped() -> None:
    net, x, y = small_net()
    check = check_gradients(net, F.cross_entropy, 1e12 * x, y, dtype=torch.float32)
    assert causes(check, "warn", "fail") == [], str(check)


def test_a_parameter_on_a_kink_is_skipped_with_the_reason() -> None:
    net = nn.Linear(1, 4)
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    check = check_gradients(net, lambda y, _: F.relu(y).sum(), torch.ones(2, 1), None)
    assert causes(check, "warn", "fail") == []
    skipped = next(finding for finding in check.findings() if finding.cause == "skipped")
    assert "kinks" in skipped.message


def test_a_kink_in_an_operation_nobody_can_see_into_is_told_from_a_wrong_gradient() -> None:
    class NumpyAbs(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.save_for_backward(x)
            return torch.from_numpy(np.abs(x.detach().numpy()))

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * ctx.saved_tensors[0].sign()

    class Abs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([1e-13, 0.5, -0.5, 0.2]))

        def forward(self, x: Tensor) -> Tensor:
            return x * NumpyAbs.apply(self.weight)

    check = check_gradients(Abs(), lambda y, _: y.sum(), torch.rand(2, 4), None)
    assert causes(check, "warn", "fail") == [], str(check)
    assert [row.index for row in check.rows if row.kink] == [(0,)]


def test_the_centred_error_falls_with_the_square_of_the_step_the_forward_error_with_the_step() -> None:
    net, x, y = small_net()
    study = step_size_study(net, F.cross_entropy, x, y)
    error = {row.h: row for row in study.errors}
    assert error[1e-2].centred / error[1e-3].centred == pytest.approx(100, rel=0.1)
    assert error[1e-2].forward / error[1e-3].forward == pytest.approx(10, rel=0.1)
    assert study.best_step in (1e-4, 1e-5, 1e-6)
    assert error[1e-10].centred > 1e-8


def test_a_norm_of_zeros_is_no_wrong_gradient() -> None:
    class Masked(nn.Module):
        """A token for what is masked that begins at zero, as those of masked autoencoders."""

        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(8))
            self.norm, self.head = nn.LayerNorm(8, eps=1e-12), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(torch.cat([x, self.token.expand(len(x), 8)])))[len(x) :]

    torch.manual_seed(0)
    check = check_gradients(Masked(), lambda y, _: y.sin().sum(), torch.rand(4, 8), None)
    assert causes(check, "warn", "fail") == [], str(check)
