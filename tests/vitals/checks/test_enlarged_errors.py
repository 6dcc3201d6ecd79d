"""Errors with a minus, and what only looks so."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from vitals.checks.enlarged_errors import enlarged_errors
from vitals.checks.training_setup import TrainingSetup


class TwoHeads(nn.Module):
    """Gives its loss, as a training step does that is looked at as a whole."""

    def __init__(self, loss, frozen: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Sequential(nn.Linear(4, 16), nn.ReLU())
        self.first, self.second = nn.Linear(16, 3), nn.Linear(16, 3).requires_grad_(not frozen)
        self.loss = loss

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        hidden = self.trunk(x)
        return self.loss(self.first(hidden), self.second(hidden), y)


def said(loss, frozen: bool = False, maximize: bool = False) -> list[str]:
    """Where, for a loss of the outputs of two heads, (N, 3) each, and numbers (N, 3)."""
    model = TwoHeads(loss, frozen)
    trained = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.SGD(trained, 0.1, maximize=maximize)
    batch = torch.randn(16, 4), torch.randn(16, 3)
    setup = TrainingSetup(model, lambda outputs, targets: outputs, (optimizer,), batch, (), gives="loss")
    found = list(enlarged_errors(setup, 8))
    assert {each.cause for each in found} <= {"wrong-initial-loss"}
    return [each.where for each in found]


def focal(a: Tensor, y: Tensor) -> Tensor:
    log = -F.cross_entropy(a, y.argmax(1), reduction="none")
    return (-((1 - log.exp()) ** 2) * log).mean()


def turned_out(a: Tensor, y: Tensor) -> Tensor:
    return (Normal(a, 1.0).log_prob(y) * (y.mean(dim=1, keepdim=True) - 10)).mean()


SICK = {
    "a squared error": lambda a, b, y: -F.mse_loss(b, y),
    "one of two": lambda a, b, y: F.l1_loss(a, y) + 10 * (1 - F.smooth_l1_loss(b, y)),
    "by hand": lambda a, b, y: F.mse_loss(a, y) - ((y - b) ** 2).mean() / 2,
    "of classes": lambda a, b, y: (
        F.mse_loss(a, y) - 0.1 * F.cross_entropy(b, y.argmax(1), label_smoothing=0.1)
    ),
    "a likelihood": lambda a, b, y: F.mse_loss(a, y) + Normal(b, 1.0).log_prob(y).mean(),
    "one of several": lambda a, b, y: torch.stack([F.mse_loss(a, y), -F.mse_loss(b, y)]).sum(),
}


@pytest.mark.parametrize("name", SICK)
def test_an_error_with_a_minus_is_named(name: str) -> None:
    assert said(SICK[name]) == ["second.bias"]


HEALTHY = {
    "errors": lambda a, b, y: F.mse_loss(a, y) + 2 * F.l1_loss(b, y) + 1e-3 * a.square().sum(),
    "a likelihood": lambda a, b, y: -Normal(a, F.softplus(b) + 0.1).log_prob(y).mean(),
    "focal": lambda a, b, y: focal(a, y) + focal(b, y),
    "weighed by how it turned out": lambda a, b, y: turned_out(a, y) + turned_out(b, y),
    "members that are to differ": lambda a, b, y: (
        F.mse_loss(a, y) + F.mse_loss(b, y) - 0.5 * F.mse_loss(b, a.detach())
    ),
    "a spread": lambda a, b, y: F.mse_loss(a, y) - (b - b.mean(0)).square().mean(),
    "what drawn actions cost": lambda a, b, y: (
        F.mse_loss(a, y) + (b.log_softmax(1).gather(1, y.argmax(1, True)).squeeze(1) * y.exp().sum(1)).mean()
    ),
    "a similarity": lambda a, b, y: -F.cosine_similarity(a, y).mean() - (-(b - y).square()).exp().mean(),
    "an entropy": lambda a, b, y: (
        F.cross_entropy(a, y.argmax(1)) + 0.1 * (b.softmax(1) * b.log_softmax(1)).sum(1).mean()
    ),
    "a margin": lambda a, b, y: F.relu(1 + F.mse_loss(a, y) - F.mse_loss(b, y)),
    "no number": lambda a, b, y: F.mse_loss(a, y) + F.mse_loss(b, y) * float("nan"),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_what_is_no_error_with_a_minus_is_not_blamed(name: str) -> None:
    assert said(HEALTHY[name]) == []


def test_a_network_that_is_to_be_misled_is_not_blamed() -> None:
    assert said(lambda a, b, y: F.mse_loss(a, y) - F.mse_loss(b, y), frozen=True) == []


def test_a_frozen_network_outside_of_the_module_is_to_be_misled() -> None:
    judge = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 3)).requires_grad_(False)
    assert said(lambda a, b, y: F.mse_loss(a, y) - F.cross_entropy(judge(b), y.argmax(1))) == []


def test_an_optimizer_that_goes_up_makes_an_error_with_a_minus_smaller() -> None:
    assert said(SICK["a squared error"], maximize=True) == []
