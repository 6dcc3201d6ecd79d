"""Losses of classifiers that stop a gradient, or mix the batch, on purpose."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foreign import Foreign, alarms, fit, mlp, quick
from torch import Tensor


def weighted_by_what_it_knows(outputs: Tensor, y: Tensor) -> Tensor:
    known = outputs.softmax(1).gather(1, y[:, None])[:, 0]
    return ((1 - known).detach() * F.cross_entropy(outputs, y, reduction="none")).mean()


def agrees_with_itself(outputs: Tensor, y: Tensor) -> Tensor:
    soft = (outputs.detach() / 2).softmax(1)
    return F.cross_entropy(outputs, y) + 0.3 * F.cross_entropy(outputs / 2, soft)


def about_the_mean(outputs: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(outputs - 0.1 * outputs.detach().mean(0), y)


class OwnLoss(Foreign):
    def __init__(self, loss: Any) -> None:
        super().__init__(mlp())
        self.loss = loss

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(self.net(batch[0]), batch[1])


class MixesTheBatch(Foreign):
    """Both are put in another order, so that no normalization tells where a sample stood."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        order = torch.randperm(len(batch[0]))
        return F.cross_entropy(self.net(batch[0][order]), batch[1][order])


@pytest.mark.parametrize("loss", [weighted_by_what_it_knows, agrees_with_itself, about_the_mean])
def test_what_the_loss_of_a_classifier_stops_is_meant(loss: Any) -> None:
    checks = quick(checks=["wiring", "loss_at_chance", "gradients"])
    fit(OwnLoss(loss), None, checks)
    assert alarms(checks.findings) == []
    assert "gradients-correct" in {finding.cause for finding in checks.findings}


class StopsInside(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x) * x.detach()


def test_what_its_network_stops_is_not() -> None:
    checks, module = quick(checks=["gradients"]), OwnLoss(about_the_mean)
    module.net[2] = StopsInside()
    fit(module, None, checks)
    assert alarms(checks.findings) == ["wrong-gradient"]


def test_a_step_that_mixes_its_batch_is_not_told_that_its_loss_hears_no_answer() -> None:
    checks = quick(checks=["wiring", "loss_at_chance", "gradients"])
    fit(MixesTheBatch(mlp()), None, checks)
    assert alarms(checks.findings) == []
