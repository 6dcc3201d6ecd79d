"""What becomes of the weights between one optimizer step and the next."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foreign import ByHand, Foreign, look, mlp
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_post_hooks

from vitals.monitors.weights_kept import _some_gradient


class ValidatesItsAverage(Foreign):
    """Validation puts averaged weights in the place of those that train, and takes them out or not."""

    def __init__(self, takes_out: bool) -> None:
        super().__init__(mlp())
        self.takes_out = takes_out
        self.average = copy.deepcopy(self.net).requires_grad_(False)

    def on_train_batch_end(self, *args: Any) -> None:
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.net.parameters(), strict=True):
                slow.lerp_(fast, 0.03)

    def on_validation_start(self) -> None:
        self.stored = copy.deepcopy(self.net.state_dict())
        self.net.load_state_dict(self.average.state_dict())

    def on_validation_end(self) -> None:
        if self.takes_out:
            self.net.load_state_dict(self.stored)


class BestSoFar(Foreign):
    """Goes back to the weights of before where they are better, here always."""

    def on_validation_end(self) -> None:
        self.best = getattr(self, "best", None) or copy.deepcopy(self.net.state_dict())
        self.net.load_state_dict(self.best)


def test_weights_that_validation_leaves_in_the_place_of_those_that_train_are_told() -> None:
    [finding] = look(ValidatesItsAverage(takes_out=False), max_epochs=3)
    assert finding.cause == "frozen-parameters"
    assert "validation puts other weights in the place of those that train" in finding.message
    assert look(ValidatesItsAverage(takes_out=True), max_epochs=3) == []
    assert look(BestSoFar(mlp()), max_epochs=4) == []


class OneLoopForBoth(Foreign):
    """Steps in validation, too, and puts the weights back or leaves them."""

    def __init__(self, back: bool) -> None:
        super().__init__(mlp())
        self.automatic_optimization, self.back = False, back

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))
        optimizer.step()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        kept = copy.deepcopy(self.net.state_dict())
        with torch.enable_grad():
            self.training_step(batch, batch_idx)
        if self.back:
            self.net.load_state_dict(kept)


class BeginsAnew(Foreign):
    def on_train_epoch_start(self) -> None:
        for layer in self.net.modules():
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()


class Clipped(Foreign):
    def on_train_batch_end(self, *args: Any) -> None:
        for parameter in self.parameters():
            parameter.data.clamp_(-0.01, 0.01)


class OfTwoValues(Foreign):
    """Rounds its weights to a few values after each step."""

    def on_train_batch_end(self, *args: Any) -> None:
        for parameter in self.parameters():
            parameter.data.copy_(0.1 * parameter.sign())


def test_weights_that_are_rounded_are_not_called_clipped() -> None:
    assert {finding.cause for finding in look(OfTwoValues(mlp()))} <= {"frozen-parameters"}


class BoundedImage(Foreign):
    """Trains what is added to images, within a bound, to deceive a network."""

    def __init__(self) -> None:
        super().__init__(mlp().requires_grad_(False))
        self.added = nn.Parameter(torch.zeros(1, 8, 8))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return -F.cross_entropy(self.net(batch[0] + self.added), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam([self.added], lr=0.1)

    def on_train_batch_end(self, *args: Any) -> None:
        self.added.data.clamp_(-0.03, 0.03)


def test_what_is_trained_within_a_bound_is_not_called_clipped() -> None:
    assert look(BoundedImage()) == []


def test_steps_in_validation_are_told_unless_they_are_taken_back() -> None:
    [finding] = look(OneLoopForBoth(back=False), inference_mode=False)
    assert finding.cause == "data-leak"
    assert look(OneLoopForBoth(back=True), inference_mode=False) == []
    assert not _global_optimizer_post_hooks


def test_weights_that_begin_anew_with_each_epoch_are_told() -> None:
    [finding] = look(BeginsAnew(mlp()), max_epochs=4)
    assert finding.cause == "frozen-parameters"
    assert "its beginning puts other weights" in finding.message


def test_weights_that_are_clipped_after_each_step_are_told() -> None:
    [finding] = look(Clipped(mlp()))
    assert finding.cause == "regularization-too-strong"
    assert "0.01 or -0.01 exactly" in finding.message


class Sharpness(ByHand):
    """Takes the gradient some way uphill, and may go back before the step, or behind it, as an adversarial
    perturbation of the weights does."""

    def __init__(self, back: str) -> None:
        super().__init__(None)
        self.back = back

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        ways: list[Tensor] = []
        for uphill in (True, False):
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))
            with torch.no_grad():
                ways = [0.1 * each.grad for each in self.parameters()] if uphill else ways
                for parameter, way in zip(self.parameters(), ways, strict=True):
                    parameter.add_(way if uphill else -way if self.back == "before" else 0.0)
        optimizer.step()
        if self.back == "behind":
            with torch.no_grad():
                for parameter, way in zip(self.parameters(), ways, strict=True):
                    parameter.sub_(way)


def test_a_way_uphill_that_is_never_taken_back_is_told() -> None:
    [finding] = look(Sharpness(back="never"))
    assert finding.cause == "wrong-gradient"
    assert "never takes that back" in finding.message
    assert look(Sharpness(back="before")) == look(Sharpness(back="behind")) == []


class BackInTheHook(Foreign):
    """The same under automatic optimisation, and back when the gradient is there."""

    def __init__(self) -> None:
        super().__init__(mlp())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        self.ways = torch.autograd.grad(loss, list(self.parameters()))
        self.move(0.1)
        return super().training_step(batch, batch_idx)

    def move(self, share: float) -> None:
        with torch.no_grad():
            for parameter, way in zip(self.parameters(), self.ways, strict=True):
                parameter.add_(way, alpha=share)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.move(-0.1)


class Masked(Foreign):
    """Nine tenths of the weights are set to zero before each step, which moves them."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.masks = [torch.rand_like(each) < 0.1 for each in self.parameters()]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        with torch.no_grad():
            for parameter, mask in zip(self.parameters(), self.masks, strict=True):
                parameter.mul_(mask)
        return super().training_step(batch, batch_idx)


class Looked(nn.Embedding):
    """Two thousand rows, of which each pixel takes one."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x.flatten(1) > 0).long()).flatten(1)


class OfTable(Foreign):
    """Its first gradient is sparse."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(Looked(2000, 3, sparse=True), nn.Linear(64 * 3, 10)))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("make", [BackInTheHook, Masked, OfTable])
def test_what_goes_back_before_the_step_or_is_put_where_it_was_does_not_climb(make: Any) -> None:
    assert look(make()) == []


def test_a_sparse_gradient_is_looked_at_where_it_lies() -> None:
    table = nn.Embedding(1000, 3, sparse=True)
    (table(torch.tensor([1, 1, 999])) * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert torch.equal(_some_gradient(table.weight), table.weight.grad.to_dense()[:334])
