"""What the loss depends on, against what the module and the optimizers hold."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foreign import ByHand, Foreign, look, mlp
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_post_hooks


class InList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = [nn.Linear(64, 32)]
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.layers[0](x.flatten(1))))


class Outside(Foreign):
    """A scale that wants a gradient and is no parameter."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.scale = torch.ones(1, requires_grad=True)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self.net(batch[0]) * self.scale, batch[1])


class OfTheCopy(Foreign):
    """The optimizer gets the average of the weights in their place, which wants no gradient."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.average = mlp().requires_grad_(False)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.average.parameters(), lr=0.1)


class MadeAnew(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(64, 32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.Linear(32, 32)(F.relu(self.stem(x.flatten(1)))).relu())


class Swapped(Foreign):
    """A layer is exchanged after the optimizer was made."""

    def on_train_start(self) -> None:
        self.net[1] = nn.Linear(64, 32)


class NewHead(Swapped):
    def on_train_start(self) -> None:
        self.net = mlp()


class LaterEpoch(Swapped):
    def on_train_start(self) -> None:
        pass

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            self.net[1] = nn.Linear(64, 32)


class EarlierInstance(Foreign):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(mlp().parameters(), lr=0.1)


class GoesOnFromTheAverage(Foreign):
    def on_train_start(self) -> None:
        self.average = copy.deepcopy(self.net).requires_grad_(False)

    def on_train_batch_end(self, *args: Any) -> None:
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.net.parameters(), strict=True):
                fast.copy_(slow.lerp_(fast, 0.01))


@pytest.mark.parametrize(
    ("module", "said", "step"),
    [
        (lambda: Foreign(InList()), "net.layers[0].weight, net.layers[0].bias", 2),
        (Outside, "that never change: scale", 2),
        (OfTheCopy, "4 parameter(s) of the network get no step", 1),
        (lambda: Foreign(MadeAnew()), "2 new parameter(s) of shape (32, 32), (32,)", 3),
        (lambda: Swapped(mlp()), "2 parameter(s) of the network get no step", 1),
        (lambda: NewHead(mlp()), "4 parameter(s) of the network get no step", 1),
        (lambda: LaterEpoch(mlp()), "it holds 2 that the network no longer has", 9),
        (lambda: GoesOnFromTheAverage(mlp()), "1.0% is left when the next batch begins", 4),
        (lambda: EarlierInstance(mlp()), "it holds 4 that the network no longer has", 1),
    ],
)
def test_what_no_optimizer_trains_is_named(module: Any, said: str, step: int) -> None:
    [finding] = look(module())
    assert finding.cause == "frozen-parameters"
    assert finding.exact
    assert finding.step == step
    assert said in finding.message


class Teacher(Foreign):
    """A teacher whose parameters want gradients, which no optimizer has, as it is left alone as a whole."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.teacher = mlp()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.mse_loss(self.net(batch[0]), self.teacher(batch[0]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.parameters(), lr=0.1)


class GradientPenalty(Foreign):
    """The inputs want a gradient, too."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x = batch[0].clone().requires_grad_()
        loss = F.cross_entropy(self.net(x), batch[1])
        (slope,) = torch.autograd.grad(loss, x, create_graph=True)
        return loss + slope.square().sum()


class FirstOrderMeta(Foreign):
    """A copy learns on a batch, and what it learned is handed over by hand."""

    automatic_optimization = False

    def __init__(self) -> None:
        super().__init__(mlp())
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        learner = copy.deepcopy(self.net)
        self.manual_backward(F.cross_entropy(learner(batch[0]), batch[1]))
        optimizer: Any = self.optimizers()
        for mine, its in zip(self.net.parameters(), learner.parameters(), strict=True):
            mine.grad = its.grad
        optimizer.step()


class UpdatedByHand(Outside):
    """What no optimizer has is trained all the same."""

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        with torch.no_grad():
            self.scale -= 0.1 * self.scale.grad
        self.scale.grad = None


class SumFromABuffer(Foreign):
    """A loss that begins with a number of the module's, as losses with several terms do."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.register_buffer("zero", torch.tensor(0.0), persistent=False)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.zero.requires_grad_() + super().training_step(batch, batch_idx)


class TwoOptimizers(Teacher):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            optimizer.zero_grad()
            self.manual_backward(F.mse_loss(self.net(batch[0]), self.teacher(batch[0])))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(net.parameters(), lr=0.01) for net in (self.net, self.teacher)]


class OneNetworkTwice(TwoOptimizers):
    """Both optimizers were given the parameters of one network."""

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.net.parameters(), lr=0.01) for _ in range(2)]


class EncoderTwice(OneNetworkTwice):
    """As in an adversarial autoencoder: one optimizer has the encoder with its decoder, one has it alone."""

    def configure_optimizers(self) -> Any:
        parts = self.net, self.net[1]
        return [torch.optim.SGD(part.parameters(), lr=0.01) for part in parts]


def test_a_teacher_is_one_where_a_part_is_in_two_optimizers() -> None:
    assert look(EncoderTwice()) == []


def test_a_network_that_no_optimizer_has_is_no_teacher_where_another_has_two() -> None:
    [finding] = look(OneNetworkTwice())
    assert finding.cause == "frozen-parameters"
    assert "others are in two optimizers" in finding.message


@pytest.mark.parametrize(
    "module",
    [
        lambda: Foreign(mlp()),
        Teacher,
        lambda: GradientPenalty(mlp()),
        FirstOrderMeta,
        UpdatedByHand,
        SumFromABuffer,
        TwoOptimizers,
    ],
)
def test_what_is_meant_is_not_blamed(module: Any) -> None:
    assert look(module()) == []


def test_gradient_accumulation_is_no_standstill() -> None:
    assert look(UpdatedByHand(), accumulate_grad_batches=4) == []


def backward_alone(module: Any, optimizer: Any, loss: Tensor, number: int) -> None:
    module.manual_backward(loss)


def cleared_too_late(module: Any, optimizer: Any, loss: Tensor, number: int) -> None:
    module.manual_backward(loss)
    optimizer.zero_grad()
    optimizer.step()


def past_lightning(module: Any, optimizer: Any, loss: Tensor, number: int) -> None:
    module.manual_backward(loss)
    optimizer.optimizer.step()


def once_an_epoch(module: Any, optimizer: Any, loss: Tensor, number: int) -> None:
    module.manual_backward(loss)
    if number == 7:
        optimizer.step()


def new_adam(module: Any, optimizer: Any, loss: Tensor, number: int) -> None:
    own = torch.optim.Adam(module.parameters(), lr=0.01)
    own.zero_grad()
    module.manual_backward(loss)
    own.step()


def new_momentum(module: Any, optimizer: Any, loss: Tensor, number: int) -> None:
    own = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    own.zero_grad()
    module.manual_backward(loss)
    own.step()


def new_and_plain(module: Any, optimizer: Any, loss: Tensor, number: int) -> None:
    own = torch.optim.SGD(module.parameters(), lr=0.01)
    own.zero_grad()
    module.manual_backward(loss)
    own.step()


def two_inner_steps(module: Any, optimizer: Any, loss: Tensor, number: int) -> None:
    """As Reptile does: an optimizer for each task, which takes several steps."""
    own = torch.optim.Adam(module.parameters(), lr=0.01)
    module.manual_backward(loss)
    own.step()
    own.step()


def in_backward(module: Any, optimizer: Any, loss: Tensor, number: int) -> None:
    """As torch's tutorial saves memory: each parameter has an optimizer, which steps within backward."""
    if not hasattr(module, "own"):
        module.deep = nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in range(25))
        module.own = {p: torch.optim.Adam([p], lr=0.01) for p in module.parameters()}
        for p in module.own:
            p.register_post_accumulate_grad_hook(lambda p: module.own[p].step())
    module.manual_backward(loss + sum(part.weight.sum() for part in module.deep))
    module.zero_grad()


@pytest.mark.parametrize(
    ("act", "cause"),
    [
        (in_backward, None),
        (new_adam, "learning-rate-too-high"),
        (new_momentum, "learning-rate-too-low"),
        (new_and_plain, None),
        (two_inner_steps, None),
    ],
)
def test_an_optimizer_that_is_made_for_each_step_forgets(act: Any, cause: str | None) -> None:
    hooks = dict(_global_optimizer_post_hooks)
    assert [finding.cause for finding in look(ByHand(act), max_epochs=4)] == ([cause] if cause else [])
    assert _global_optimizer_post_hooks == hooks


def fails_later(module: Any, optimizer: Any, loss: Tensor, number: int) -> None:
    if number == 2:
        raise ValueError("of the user")


def test_nothing_watches_the_optimizers_of_the_process_after_an_error() -> None:
    hooks = dict(_global_optimizer_post_hooks)
    with pytest.raises(ValueError, match="of the user"):
        look(ByHand(fails_later))
    assert _global_optimizer_post_hooks == hooks


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (backward_alone, "50 losses were given to manual_backward"),
        (cleared_too_late, "In 50 steps no parameter has changed"),
        (lambda *arguments: None, "no loss was given to manual_backward"),
        (past_lightning, None),
        (once_an_epoch, None),
    ],
)
def test_a_training_that_never_steps_is_told(act: Any, said: str | None) -> None:
    found = look(ByHand(act), max_epochs=7)
    assert [said in finding.message for finding in found if said] == ([True] if said else [])
    assert bool(found) is bool(said)


class Halves(ByHand):
    """Two halves of a network, each with an optimizer that keeps no state."""

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(part.parameters(), 1e-2) for part in (self.net[1], self.net[-1])]


def first_alone(module: Any, optimizers: Any, loss: Tensor, number: int) -> None:
    module.manual_backward(loss)
    optimizers[0].step()


def second_past_lightning(module: Any, optimizers: Any, loss: Tensor, number: int) -> None:
    first_alone(module, optimizers, loss, number)
    optimizers[1].optimizer.step()


@pytest.mark.parametrize(("act", "levels"), [(first_alone, ["warn"]), (second_past_lightning, [])])
def test_an_optimizer_that_is_never_asked_for_a_step_is_told(act: Any, levels: list[str]) -> None:
    found = look(Halves(act), max_epochs=7)
    assert [finding.level for finding in found] == levels


class ToggledFirst(Halves):
    """The head's optimizer is toggled before the loss is taken, and, it may be, untoggled after the step."""

    untoggles = False

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizers: Any = self.optimizers()
        self.toggle_optimizer(optimizers[1])
        self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if self.untoggles:
            self.untoggle_optimizer(optimizers[1])
            self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))
            optimizers[0].step()
            optimizers[0].zero_grad()


class FrozenAtFirst(Foreign):
    """The optimizer holds all, and the first layer is frozen on purpose before the first batch."""

    def on_train_epoch_start(self) -> None:
        self.net[1].requires_grad_(False)


@pytest.mark.parametrize("untoggles", [True, False])
def test_what_is_toggled_off_and_never_on_again_is_told(untoggles: bool) -> None:
    module = ToggledFirst(lambda *arguments: None)
    module.untoggles = untoggles
    found = look(module, max_epochs=7)
    assert [finding.cause for finding in found] == ([] if untoggles else ["frozen-parameters"])
    assert all("2 parameter(s) that an optimizer holds" in finding.message for finding in found)


class TrainedBefore(ToggledFirst):
    """What is never trained was, in another training."""

    def __init__(self) -> None:
        super().__init__(lambda *arguments: None)
        with torch.no_grad():
            self.net[1].weight.mul_(torch.linspace(0, 2, 64))


@pytest.mark.parametrize("module", [lambda: FrozenAtFirst(mlp()), TrainedBefore])
def test_what_is_frozen_before_the_first_batch_or_trained_before_it_is_meant(module: Any) -> None:
    assert look(module(), max_epochs=7) == []


class NotReturned(Foreign):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        F.cross_entropy(self.net(batch[0]), batch[1])


class FillsItsMemory(NotReturned):
    """A game that looks at what its network says, and learns from it later."""

    @torch.no_grad()
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.net(batch[0]).argmax(1)


def test_steps_before_there_is_a_loss_are_not_blamed() -> None:
    assert look(FillsItsMemory(mlp()), max_epochs=8) == []


def test_a_step_that_returns_no_loss_is_told() -> None:
    [finding] = look(NotReturned(mlp()), max_epochs=8)
    assert finding.cause == "frozen-parameters"
    assert "returned no loss" in finding.message
