"""The loss along the optimizer's own first update."""

import pytest
import torch
import torch.nn.functional as F
from small_networks import TrainedNetwork, batch, convnet, initialized, mlp, named, same, state_of
from torch import nn
from torch.nn import init
from torch.optim import LBFGS, SGD, Adam, AdamW, RMSprop

from vitals.checks.step_size import check_step_size
from vitals.errors import UserError

HEALTHY = {
    "SGD": (convnet, lambda p: SGD(p, 0.05, momentum=0.9)),
    "small SGD": (convnet, lambda p: SGD(p, 0.002, momentum=0.9)),
    "SGD with BatchNorm at 0.5": (lambda: convnet(norm=True), lambda p: SGD(p, 0.5)),
    "Adam": (convnet, lambda p: Adam(p, 2e-3)),
    "small Adam": (lambda: convnet(norm=True), lambda p: Adam(p, 3e-4)),
    "AdamW": (convnet, lambda p: AdamW(p, 2e-3, weight_decay=0.1)),
    "RMSprop": (convnet, lambda p: RMSprop(p, 1e-3)),
    "RMSprop, whose first step overshoots": (lambda: mlp(128, 64), lambda p: RMSprop(p, 3e-3)),
    "tanh": (
        lambda: initialized(mlp(64, 64, activation=nn.Tanh), init.xavier_uniform_),
        lambda p: SGD(p, 0.01, momentum=0.9),
    ),
    "dropout": (lambda: convnet(dropout=0.5), lambda p: Adam(p, 2e-3)),
    "LBFGS": (convnet, lambda p: LBFGS(p, 0.1)),
    "warm-up to a high rate": (
        convnet,
        lambda p: SGD([{"params": p, "lr": 1e-3, "initial_lr": 50.0}], momentum=0.9),
    ),
    "warm-up from 0": (convnet, lambda p: SGD([{"params": p, "lr": 0.0, "initial_lr": 0.05}], momentum=0.9)),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_rates_raise_no_alarm(name):
    net, make = HEALTHY[name]
    model = net()
    result = check_step_size(model, F.cross_entropy, *batch(64), make(model.parameters()), total_steps=250)
    assert named(result) == {}


@pytest.mark.parametrize(
    ("net", "make", "cause"),
    [
        (convnet, lambda p: Adam(p, 0.3), "learning-rate-too-high"),
        (convnet, lambda p: SGD(p, 100.0), "learning-rate-too-high"),
        (lambda: mlp(128, 64), lambda p: RMSprop(p, 0.3), "learning-rate-too-high"),
        (lambda: convnet(norm=True), lambda p: SGD(p, 1e-5, momentum=0.9), "learning-rate-too-low"),
        (lambda: convnet(norm=True), lambda p: Adam(p, 1e-7), "learning-rate-too-low"),
    ],
    ids=["Adam 0.3", "SGD 100", "RMSprop 0.3", "SGD 1e-5", "Adam 1e-7"],
)
def test_rates_far_off_are_named(net, make, cause):
    model = net()
    result = check_step_size(model, F.cross_entropy, *batch(64), make(model.parameters()), total_steps=250)
    assert named(result) == {cause: "warn"}


@pytest.mark.parametrize("make", [SGD, Adam, RMSprop])
def test_steps_that_lead_uphill_are_named(make):
    model = mlp(32)
    result = check_step_size(model, F.cross_entropy, *batch(64), make(model.parameters(), maximize=True))
    assert named(result) == {"wrong-gradient": "fail"}


def test_a_low_rate_may_do_in_a_long_run():
    model = convnet(norm=True)
    optimizer = SGD(model.parameters(), 1e-5, momentum=0.9)
    result = check_step_size(model, F.cross_entropy, *batch(64), optimizer, total_steps=100_000)
    assert named(result) == {}


def test_a_network_that_no_rate_could_move_is_not_blamed_on_the_rate():
    model = initialized(mlp(*[64] * 7), init.normal_, std=0.01)
    optimizer = SGD(model.parameters(), 1e-3)
    assert named(check_step_size(model, F.cross_entropy, *batch(64), optimizer)) == {}


@pytest.mark.parametrize("make", [lambda p: SGD(p, 0.05), lambda p: Adam(p, 1e-3)], ids=["SGD", "Adam"])
def test_the_configured_step_is_the_optimizer_s_own(make):
    inputs, targets = batch(64)
    model = convnet()
    result = check_step_size(model, F.cross_entropy, inputs, targets, make(model.parameters()))
    optimizer = make(model.parameters())
    F.cross_entropy(model(inputs), targets).backward()
    optimizer.step()
    stepped = F.cross_entropy(model(inputs), targets).item()
    assert result.losses[result.factors.index(1.0)] == pytest.approx(stepped, rel=1e-4)


def test_factors_are_log_spaced_and_short_steps_change_nothing():
    model = convnet()
    result = check_step_size(model, F.cross_entropy, *batch(64), SGD(model.parameters(), 0.05))
    assert len(result.factors) == len(result.losses) == 12
    assert torch.tensor(result.factors).log10().diff().tolist() == pytest.approx([0.8] * 11, abs=1e-4)
    assert result.losses[0] == pytest.approx(result.start, rel=1e-4)


@pytest.mark.parametrize(
    ("make", "steps", "word"),
    [(lambda p: SGD(p, 0.0), 10, "optimizer"), (lambda p: SGD(p, 0.1), 0, "total_steps")],
    ids=["rate of 0", "no steps"],
)
def test_what_cannot_be_followed_is_an_error(make, steps, word):
    model = convnet()
    with pytest.raises(UserError, match=word):
        check_step_size(model, F.cross_entropy, *batch(64), make(model.parameters()), total_steps=steps)


def test_leaves_everything_as_it_was():
    training = TrainedNetwork()
    before = state_of(training.model, training.optimizer)
    check_step_size(training.model, F.cross_entropy, *batch(32), training.optimizer)
    with pytest.raises(RuntimeError):
        check_step_size(training.model, training.failing_loss, *batch(32), training.optimizer)
    assert same(before, state_of(training.model, training.optimizer))


def squares(outputs, targets):
    return F.mse_loss(outputs, F.one_hot(targets, 10).float())


def log_density(outputs, targets):
    """Of numbers that are close together, so that their densities are above one."""
    means, scales = outputs.chunk(2, dim=1)
    numbers = targets[:, None].expand_as(means) * 1e-3
    return F.gaussian_nll_loss(means, numbers, F.softplus(scales - 1))


def scored(outputs, targets):
    """A score that is to rise, as a critic gives it: it begins below zero in each batch."""
    return -outputs.mean(0).max()


def barely_alike(outputs, targets):
    """As a similarity of structure, that no outputs take to more than one."""
    size = outputs.square().mean()
    return -0.005 - 0.99 * size / (50 + size)


BELOW_ZERO = {
    "a cross-entropy with a minus": (lambda outputs, targets: -F.cross_entropy(outputs, targets), True),
    "squares with a minus": (lambda outputs, targets: -squares(outputs, targets), True),
    "cosines": (lambda o, y: -F.cosine_similarity(o, F.one_hot(y, 10).float() + 1).abs().mean(), False),
    "densities": (log_density, False),
    "a critic": (lambda outputs, targets: outputs[::2].mean() - outputs[1::2].mean(), False),
    "a score that is to rise": (scored, False),
    "a similarity that begins next to zero": (barely_alike, False),
}


@pytest.mark.parametrize("name", BELOW_ZERO)
def test_a_loss_with_the_wrong_sign_is_told_from_one_that_is_below_zero(name):
    loss, wrong = BELOW_ZERO[name]
    net = mlp(64)
    inputs, targets = batch(256)
    parts = list(zip(inputs.split(32), targets.split(32), strict=True))
    result = check_step_size(net, loss, *parts[0], Adam(net.parameters(), 2e-3), further=parts)
    assert result.start < 0.1
    assert ("wrong-initial-loss" in named(result)) == wrong


def test_no_step_is_followed_beyond_one_that_blows_the_loss_up():
    values = []

    def squares(outputs, targets):
        values.append(F.mse_loss(outputs, F.one_hot(targets, 10).float()))
        return values[-1]

    model = mlp(64, 64, 64, 64)
    result = check_step_size(model, squares, *batch(64), Adam(model.parameters(), 0.01))
    assert result.losses[-1] != result.losses[-1]
    assert sum(float(value.detach()) > 1e9 for value in values) == 1
