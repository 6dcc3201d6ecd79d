"""What the loss depends on, against what the module and the optimizers hold."""

from __future__ import annotations

import copy
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from foreign import Foreign, fit, mlp
from torch import Tensor, nn
from torch.optim.optimizer import _global_optimizer_post_hooks

from vitals.findings import Finding
from vitals.monitors.loss_parameters import LossParameters, _some_gradient


def look(module: L.LightningModule, **options: Any) -> list[Finding]:
    monitor = LossParameters()
    fit(module, None, monitor, **{"max_epochs": 2, **options})
    return [finding for finding in monitor.findings if finding.alarming]


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


class ByHand(Foreign):
    """Does what is given with optimizer and loss, under manual optimisation."""

    def __init__(self, act: Any) -> None:
        super().__init__(mlp())
        self.automatic_optimization, self.act = False, act

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.act(self, self.optimizers(), F.cross_entropy(self.net(batch[0]), batch[1]), batch_idx)


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


class NotReturned(Foreign):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        F.cross_entropy(self.net(batch[0]), batch[1])


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


class FillsItsMemory(NotReturned):
    """A game that looks at what its network says, and learns from it later."""

    @torch.no_grad()
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.net(batch[0]).argmax(1)


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


def test_what_is_trained_within_a_bound_and_steps_before_there_is_a_loss_are_not() -> None:
    assert look(BoundedImage()) == []
    assert look(FillsItsMemory(mlp()), max_epochs=8) == []


def test_a_step_that_returns_no_loss_is_told() -> None:
    [finding] = look(NotReturned(mlp()), max_epochs=8)
    assert finding.cause == "frozen-parameters"
    assert "returned no loss" in finding.message


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
    """Takes the gradient some way uphill, and may go back before the step."""

    def __init__(self, back: bool) -> None:
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
                    parameter.add_(way if uphill else -way if self.back else 0.0)
        optimizer.step()


def test_a_way_uphill_that_is_never_taken_back_is_told() -> None:
    [finding] = look(Sharpness(back=False))
    assert finding.cause == "wrong-gradient"
    assert "never takes that back" in finding.message
    assert look(Sharpness(back=True)) == []


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


@pytest.mark.parametrize(("least", "causes"), [(0.0, ["wrong-gradient"]), (-0.1, [])])
def test_hooks_that_let_gradients_of_one_sign_through_are_told(least: float, causes: list[str]) -> None:
    module = Foreign(mlp())
    hooks = [p.register_hook(lambda gradient: gradient.clamp(least, 1.0)) for p in module.parameters()]
    assert [finding.cause for finding in look(module)] == causes
    kept = [list(p._backward_hooks) for p in module.parameters()]
    assert kept == [[hook.id] for hook in hooks]
