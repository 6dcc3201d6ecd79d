"""Whether BatchNorm knows the training set by the end of the training."""

from __future__ import annotations

import pytest
import torch
from small_networks import batch, convnet
from torch import nn

from vitals.checks.running_statistics import check_running_statistics


def with_momentum(momentum: float | None) -> nn.Sequential:
    model = convnet(norm=True)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
    return model


@pytest.mark.parametrize(("momentum", "share"), [(0.001, 0.999**200), (0.0, 1.0)])
def test_statistics_that_never_arrive_are_told(momentum: float, share: float) -> None:
    [finding] = check_running_statistics(with_momentum(momentum), 200).findings()
    assert finding.cause == "train-val-mismatch"
    assert finding.value == pytest.approx(share)


@pytest.mark.parametrize(("momentum", "batches"), [(0.1, 200), (0.1, 3), (None, 200), (0.001, 5000)])
def test_those_that_arrive_or_cannot_yet_are_not(momentum: float | None, batches: int) -> None:
    [finding] = check_running_statistics(with_momentum(momentum), batches).findings()
    assert finding.level == "ok"


def test_statistics_of_an_earlier_training_may_stay() -> None:
    model = with_momentum(0.1)
    model(batch(32)[0])
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    assert not check_running_statistics(model, 200).stale


def test_frozen_layers_are_left_alone() -> None:
    assert not check_running_statistics(with_momentum(0.0).eval(), 200).stale
    [finding] = check_running_statistics(nn.Sequential(nn.Linear(2, 2)), torch.inf).findings()
    assert (finding.cause, finding.level) == ("skipped", "note")


class Several(nn.Module):
    """Two places of a network with one BatchNorm layer; in both is the same, or not."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.norm, self.factor = nn.BatchNorm2d(1), factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x) + self.norm(self.factor * x.flip(-1))


def test_one_layer_for_unlike_places_is_noted() -> None:
    x = batch(32)[0][:, :1]
    [finding] = check_running_statistics(Several(3.0), 200, x).findings()
    assert (finding.cause, finding.level) == ("train-val-mismatch", "note")
    assert finding.value == pytest.approx(9, rel=1e-3)
    [finding] = check_running_statistics(Several(1.0), 200, x).findings()
    assert finding.level == "ok"


def trained() -> nn.Sequential:
    """With statistics of an earlier training, and weights that no initialization draws."""
    model = with_momentum(None)  # the plain mean
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.mul_(1.1)
    model(batch(64)[0])
    return model.eval()


@pytest.mark.parametrize(("factor", "cause"), [(0.25, "input-not-normalized"), (1.0, "skipped")])
def test_statistics_of_inputs_on_another_scale_are_told(factor: float, cause: str) -> None:
    [finding] = check_running_statistics(trained(), 200, factor * batch(64)[0] + 0.5).findings()
    assert finding.cause == cause


def test_what_a_new_layer_gives_to_a_frozen_network_says_nothing_of_the_inputs() -> None:
    """As a decoder whose images a trained network judges, and a new first layer."""
    torch.manual_seed(0)
    decoder = nn.Conv2d(3, 3, 3, padding=1)
    decoder.bias.data.zero_()
    model = nn.Sequential(decoder, nn.Tanh(), trained())
    [finding] = check_running_statistics(model, 200, 0.1 * batch(64)[0]).findings()
    assert finding.cause == "skipped"


def test_variances_that_are_apart_otherwise_in_each_channel_are_of_other_things_not_another_scale() -> None:
    model = trained()
    first = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    first.running_var *= torch.logspace(1, 3, len(first.running_var))
    [finding] = check_running_statistics(model, 200, batch(64)[0]).findings()
    assert finding.cause == "skipped"
