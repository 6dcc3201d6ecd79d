"""The network as a function: layers that collapse into one, outputs cut off at zero or drawn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_networks import batch, convnet, mlp
from torch import Tensor, nn

from vitals.checks.outputs import check_outputs


class Deep(nn.Module):
    """Two linear layers with what is given between and after them."""

    def __init__(self, between: nn.Module, after: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 32), between, nn.Linear(32, 10), after)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class Averages(nn.Dropout):
    """Drops values on purpose, as Monte-Carlo estimates do."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, True)


class Bayesian(nn.Linear):
    """Draws its weights for each pass."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight + 0.1 * torch.randn_like(self.weight), self.bias)


class Spread(nn.Linear):
    """Draws what its weights give for each sample, with a spread that is learned."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.rho = nn.Parameter(torch.full((outputs, inputs), -2.0))

    def forward(self, x: Tensor) -> Tensor:
        middle = super().forward(x)
        return middle + F.linear(x.square(), F.softplus(self.rho).square()).sqrt() * torch.randn_like(middle)


POOLED_FIRST = nn.Sequential(
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 10)
)


def of_patches(side: int) -> nn.Sequential:
    """The mean over what each patch says by itself."""
    convolution = nn.Conv2d(3, 8, side, side)
    return nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))


SICK = {
    "no activation": (Deep(nn.Identity(), nn.Identity()), "underfitting"),
    "normalization alone": (Deep(nn.BatchNorm1d(32), nn.Identity()), "underfitting"),
    "no activation, then softmax": (Deep(nn.Identity(), nn.Softmax(dim=1)), "underfitting"),
    "no activation, then sigmoid": (Deep(nn.Identity(), nn.Sigmoid()), "underfitting"),
    "no activation, then log_softmax": (Deep(nn.Dropout(0.5), nn.LogSoftmax(dim=1)), "underfitting"),
    "ReLU on the logits": (Deep(nn.Tanh(), nn.ReLU()), "dead-relu"),
    "pooled before all else": (POOLED_FIRST, "underfitting"),
    "one pixel at a time": (of_patches(1), "underfitting"),
    "one pixel at a time of half the size": (nn.Sequential(nn.AvgPool2d(2), of_patches(1)), "underfitting"),
    "noise in evaluation": (Deep(nn.Sequential(nn.ReLU(), Noise()), nn.Identity()), "train-mode-evaluation"),
}
HEALTHY = {
    "ReLU": Deep(nn.ReLU(), nn.Identity()),
    "a bag of patches": of_patches(8),
    "nearly straight": Deep(nn.LeakyReLU(0.9), nn.Identity()),
    "softmax": Deep(nn.GELU(), nn.Softmax(dim=1)),
    "layer norm bends": Deep(nn.LayerNorm(32), nn.Identity()),
    "one layer": mlp(),
    "convnet": convnet(norm=True, dropout=0.5),
    "softplus": Deep(nn.ReLU(), nn.Softplus()),
    "a spread that is learned": Deep(nn.Sequential(nn.ReLU(), Spread(32, 32)), nn.Identity()),
    "weights drawn on purpose": Deep(nn.Sequential(nn.ReLU(), Bayesian(32, 32)), nn.Identity()),
    "dropped on purpose": Deep(nn.Sequential(nn.ReLU(), Averages()), nn.Identity()),
}


@pytest.mark.parametrize("name", SICK)
def test_what_the_outputs_cannot_be_is_named(name: str) -> None:
    model, cause = SICK[name]
    assert [finding.cause for finding in check_outputs(model, batch(64)[0]).findings()] == [cause]


@pytest.mark.parametrize("name", HEALTHY)
def test_what_is_free_is_right(name: str) -> None:
    [finding] = check_outputs(HEALTHY[name], batch(64)[0]).findings()
    assert finding.level == "ok"


def ended(end: nn.Module, outputs: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 32), nn.ReLU(), nn.Linear(32, outputs), end)


@pytest.mark.parametrize(
    ("end", "targets", "cause"),
    [
        (nn.Sigmoid(), torch.linspace(-1, 5, 64), "saturated-activations"),
        (nn.ReLU(), torch.linspace(-3, 3, 64), "dead-relu"),
        (nn.Sigmoid(), torch.linspace(0, 1, 64), ""),
        (nn.ReLU(), torch.linspace(0, 6, 64), ""),
        (nn.LayerNorm(1), torch.linspace(-3, 3, 64), ""),
        (nn.Identity(), torch.linspace(-3, 3, 64), ""),
    ],
)
def test_targets_that_the_outputs_cannot_reach_are_named(end: nn.Module, targets: Tensor, cause: str) -> None:
    found = check_outputs(ended(end), batch(64)[0], F.mse_loss, targets.unsqueeze(1)).findings()
    assert [finding.cause for finding in found if finding.alarming] == [cause] * bool(cause)


def test_targets_out_of_reach_are_named_for_numbers_of_things_too() -> None:
    rated, tokens = torch.linspace(-3, 3, 64).unsqueeze(1), torch.randint(20, (64, 4))
    for end, causes in ((nn.ReLU(), ["dead-relu"]), (nn.Identity(), [])):
        model = nn.Sequential(
            nn.Embedding(20, 8), nn.Flatten(), nn.Linear(32, 16), nn.Tanh(), nn.Linear(16, 1), end
        )
        found = check_outputs(model, tokens, F.mse_loss, rated).findings()
        assert [finding.cause for finding in found if finding.alarming] == causes


def test_logits_behind_a_tanh_are_named() -> None:
    found = check_outputs(ended(nn.Tanh(), 10), batch(64)[0], F.cross_entropy, batch(64)[1]).findings()
    assert [finding.cause for finding in found] == ["saturated-activations"]


def test_a_linear_head_on_a_frozen_trunk_is_no_fault() -> None:
    model = Deep(nn.Identity(), nn.Identity())
    model.net[1].requires_grad_(False)
    assert not check_outputs(model, batch(64)[0]).affine


def test_whole_numbers_are_not_mixed() -> None:
    model = nn.Sequential(nn.Embedding(20, 8), nn.Flatten(), nn.Linear(32, 16), nn.Linear(16, 10))
    tokens = torch.randint(20, (32, 4))
    assert check_outputs(model, tokens).findings()[0].level == "ok"


def test_dropout_behind_the_last_layer_is_named() -> None:
    for model, causes in (
        (ended(nn.Dropout(0.5), 10), ["regularization-too-strong"]),
        (convnet(dropout=0.5), ["wiring-correct"]),
    ):
        found = check_outputs(model, batch(64)[0], F.cross_entropy, batch(64)[1]).findings()
        assert [finding.cause for finding in found] == causes


def agreement(features: Tensor, labels: Tensor) -> Tensor:
    """Of all pairs of one class, whatever it is called."""
    alike = F.normalize(features) @ F.normalize(features).T
    return (alike - (labels[:, None] == labels).float()).square().mean()


def test_features_may_be_dropped() -> None:
    images, labels = batch(64)
    found = check_outputs(ended(nn.Dropout(0.5), 10), images, agreement, labels).findings()
    assert [finding.level for finding in found] == ["ok"]


def test_outputs_in_proportion_to_the_inputs_are_those_of_a_network_without_biases() -> None:
    torch.manual_seed(0)
    without = nn.Sequential(nn.Flatten(), nn.Linear(3072, 32, False), nn.ReLU(), nn.Linear(32, 10, False))
    images = batch(64)[0]
    assert check_outputs(without, images).grown < 1e-5
    zeros = Deep(nn.ReLU(), nn.Identity())  # biases that start at zero are there all the same
    for layer in (zeros.net[1], zeros.net[3]):
        nn.init.zeros_(layer.bias)
    assert not check_outputs(zeros, images).grown < 1e-5


class Exponential(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


def test_exponentials_between_layers_burst_and_one_at_the_end_does_not() -> None:
    images = batch(64)[0]
    between = nn.Sequential(Exponential(), nn.Linear(32, 32), Exponential())
    assert check_outputs(Deep(between, nn.Identity()), images).bursts
    for between, after in ((nn.ReLU(), Exponential()), (nn.SELU(), nn.Identity())):
        assert not check_outputs(Deep(between, after), images).bursts
