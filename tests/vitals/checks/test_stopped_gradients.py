"""Gradients that are stopped or let past on purpose: detach, no_grad, straight-through estimates."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitals.checks.gradients.check import check_gradients


class Sign(torch.autograd.Function):
    """A straight-through estimate."""

    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class Reversed(torch.autograd.Function):
    """The gradient turned round, as adversaries of a domain want it."""

    @staticmethod
    def forward(ctx, x, share):
        ctx.share = share
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -ctx.share * gradient, None


class WrongTwice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 3 * gradient


class WrongSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return ctx.saved_tensors[0] * gradient


def under_no_grad(h: Tensor) -> Tensor:
    with torch.no_grad():
        rest = h.sign() - h
    return h + rest


def nearest_code(h: Tensor) -> Tensor:
    codes = torch.randn(8, 16, generator=torch.Generator().manual_seed(0)).to(h)
    return codes[torch.cdist(h, codes).argmin(1)] + h - h.detach()


def moved_in_place(h: Tensor) -> Tensor:
    moved = h.detach().clone()
    moved.data.add_(1.0)
    return h * moved.detach()


MIDDLES = {
    "straight-through by detach": lambda h: h + (h.sign() - h).detach(),
    "straight-through under no_grad": under_no_grad,
    "straight-through by a Function": Sign.apply,
    "rounded, and a path around": lambda h: 2 * h + (h.round() - h).detach(),
    "a Function with steps, and a path around": lambda h: h + Sign.apply(h),
    "the nearest of some codes": nearest_code,
    "the nearest of some codes, and a path around": lambda h: h + nearest_code(h),
    "turned round": lambda h: Reversed.apply(h, 0.5),
    "turned round, and a path around": lambda h: h + Reversed.apply(h, 0.5),
    "not turned round yet, and a path around": lambda h: h + Reversed.apply(h, 0.0),
    "a baseline": lambda h: (h - h.detach().mean(0)) * h.detach().exp(),
    "data": lambda h: torch.tanh(h) * h.data,
    "samples that steps move in place": moved_in_place,
}


class Net(nn.Module):
    def __init__(self, middle) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.below, self.middle, self.above = nn.Linear(8, 16), middle, nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.above(self.middle(torch.tanh(self.below(x))))


def alarms(middle, **options) -> list[str]:
    torch.manual_seed(1)
    x, y = torch.randn(32, 8), torch.randint(4, (32,))
    check = check_gradients(Net(middle), F.cross_entropy, x, y, elements=4, **options)
    return [finding.cause for finding in check.findings() if finding.alarming]


@pytest.mark.parametrize("name", MIDDLES)
def test_what_is_stopped_on_purpose_is_constant(name: str) -> None:
    assert alarms(MIDDLES[name], stops_are_meant=True) == []


@pytest.mark.parametrize("name", list(MIDDLES)[:10])
def test_what_is_let_past_on_purpose_is_no_wrong_gradient_in_a_classifier_either(name: str) -> None:
    assert alarms(MIDDLES[name]) == []


def test_a_wrong_backward_is_found_where_stops_are_meant_too() -> None:
    assert alarms(WrongSquare.apply, stops_are_meant=True) == ["wrong-gradient"]
    assert alarms(WrongTwice.apply, stops_are_meant=True) == ["wrong-gradient"]
    assert alarms(lambda h: WrongSquare.apply(h) + h.detach(), stops_are_meant=True) == ["wrong-gradient"]


def test_a_stop_within_a_classifier_is_told() -> None:
    assert alarms(lambda h: torch.tanh(h) * h.detach()) == ["wrong-gradient"]


class CastsItself(nn.Linear):
    """Brings its weights to the type of what it gets, as it does when it lies on another device."""

    def forward(self, x: Tensor) -> Tensor:
        self.weight.data = self.weight.data.to(x.dtype)
        return super().forward(x)


def test_weights_that_are_given_their_own_data_are_still_perturbed() -> None:
    assert alarms(CastsItself(16, 16), stops_are_meant=True) == []


def measured_in_inference_mode(h: Tensor) -> Tensor:
    """As metrics of a library do, which say themselves whether they need gradients."""
    with torch.inference_mode(), torch.set_grad_enabled(False):
        h.square().mean()
    return torch.tanh(h)


def test_what_stands_behind_a_metric_in_inference_mode_is_not_stopped() -> None:
    assert alarms(measured_in_inference_mode, stops_are_meant=True) == []


class KeepsMean(nn.Module):
    """A loss with a running baseline of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = 0.0

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = F.cross_entropy(outputs, targets)
        self.mean = 0.9 * self.mean + 0.1 * float(loss.detach())
        return loss * self.mean


def test_a_loss_that_keeps_a_baseline_cannot_be_compared_and_is_no_fault() -> None:
    x, y = torch.randn(32, 8), torch.randint(4, (32,))
    check = check_gradients(Net(torch.tanh), KeepsMean(), x, y, elements=2, stops_are_meant=True)
    assert [finding.cause for finding in check.findings()] == ["skipped"]


def test_the_padding_of_an_embedding_gets_no_gradient_on_purpose():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(6, 4, padding_idx=0), nn.Flatten(), nn.Linear(12, 3))
    nn.init.normal_(net[0].weight)
    tokens = torch.arange(24).reshape(8, 3) % 6
    result = check_gradients(net, F.cross_entropy, tokens, torch.arange(8) % 3)
    assert not any(finding.alarming for finding in result.findings())
