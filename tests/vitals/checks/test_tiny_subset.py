"""Twenty examples can be learned by heart, and where not, the plateau is named."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_networks import TrainedNetwork, batch, convnet, initialized, mlp, named, same, state_of
from torch import nn
from torch.nn import init
from torch.optim import LBFGS, SGD, Adam, RMSprop

from vitals.checks.tiny_subset import GLANCE, PATIENCE, FewSamples, check_few_samples, check_tiny_subset
from vitals.errors import UserError


def one_against_all(outputs, targets):
    return F.binary_cross_entropy_with_logits(outputs, F.one_hot(targets, 10).float())


def smoothed(outputs, targets):
    return F.cross_entropy(outputs, targets, label_smoothing=0.1)


HEALTHY = {
    "Adam": (convnet, lambda p: Adam(p, 2e-3), F.cross_entropy),
    "SGD": (convnet, lambda p: SGD(p, 0.02, momentum=0.9), F.cross_entropy),
    "RMSprop": (convnet, lambda p: RMSprop(p, 1e-3), F.cross_entropy),
    "LBFGS": (convnet, lambda p: LBFGS(p, 0.1), F.cross_entropy),
    "BatchNorm at a high rate": (
        lambda: convnet(norm=True),
        lambda p: SGD(p, 0.3, momentum=0.9),
        F.cross_entropy,
    ),
    "dropout": (lambda: convnet(dropout=0.5), lambda p: Adam(p, 2e-3), F.cross_entropy),
    "strong decay": (convnet, lambda p: SGD(p, 0.02, momentum=0.9, weight_decay=0.05), F.cross_entropy),
    "tanh at a small rate": (
        lambda: initialized(mlp(64, activation=nn.Tanh), init.xavier_uniform_),
        lambda p: SGD(p, 0.002, momentum=0.9),
        F.cross_entropy,
    ),
    "hidden label smoothing": (convnet, lambda p: Adam(p, 2e-3), smoothed),
    "label smoothing": (convnet, lambda p: Adam(p, 2e-3), nn.CrossEntropyLoss(label_smoothing=0.1)),
    "one against all": (convnet, lambda p: Adam(p, 2e-3), one_against_all),
    "margin loss": (convnet, lambda p: Adam(p, 2e-3), nn.MultiMarginLoss()),
    "log-softmax": (
        lambda: nn.Sequential(convnet(), nn.LogSoftmax(1)),
        lambda p: Adam(p, 2e-3),
        nn.NLLLoss(),
    ),
    "a rate so low that Adam must help": (convnet, lambda p: SGD(p, 1e-6), F.cross_entropy),
    "warm-up from almost nothing": (
        convnet,
        lambda p: SGD([{"params": p, "lr": 1e-9, "initial_lr": 0.02}], momentum=0.9),
        F.cross_entropy,
    ),
}


class Lasso(nn.Module):
    """Cross-entropy and a penalty on all weights of the network."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, outputs, targets):
        return F.cross_entropy(outputs, targets) + 0.02 * sum(p.abs().sum() for p in self.net.parameters())


def test_parameters_that_step_one_after_the_other_learn_the_same(monkeypatch):
    net = convnet()
    arguments = net, F.cross_entropy, *batch(50), SGD(net.parameters(), 0.1, momentum=0.9), 40
    at_once = check_tiny_subset(*arguments)
    monkeypatch.setattr("vitals.probes.trial.LARGE", 0)
    in_turn = check_tiny_subset(*arguments)
    assert at_once.attempts[0].losses == in_turn.attempts[0].losses
    assert at_once.attempts[0].gradient_ratio == in_turn.attempts[0].gradient_ratio


def test_a_penalty_that_falls_is_no_loss_that_rewards_wrong_answers():
    loss = Lasso(convnet())
    result = check_tiny_subset(loss.net, loss, *batch(64), Adam(loss.net.parameters(), 1e-3))
    assert result.final.perfect < 0.5 * result.perfect
    assert "wrong-initial-loss" not in named(result)


def test_what_a_teacher_says_beside_the_labels_is_no_reward_for_wrong_answers():
    def distilled(outputs, targets):
        told = F.one_hot((targets + (targets > 5)) % 10, 10) * 0.5 + 0.05
        return 0.3 * F.cross_entropy(outputs, targets) + 0.7 * F.cross_entropy(outputs, told)

    model = convnet()
    result = check_tiny_subset(model, distilled, *batch(64), Adam(model.parameters(), 1e-3))
    assert not result.fits
    assert named(result) == {}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_networks_fit(name):
    net, make, loss = HEALTHY[name]
    model = net()
    result = check_tiny_subset(model, loss, *batch(256), make(model.parameters()))
    assert result.fits
    assert named(result) == {}
    assert len(result.targets) == 20
    assert result.targets.bincount().tolist() == [2] * 10


@pytest.mark.parametrize("name", ["SGD", "strong decay", "warm-up from almost nothing"])
def test_the_run_s_own_optimizer_is_enough(name):
    net, make, loss = HEALTHY[name]
    model = net()
    assert len(check_tiny_subset(model, loss, *batch(256), make(model.parameters())).attempts) == 1


def test_a_last_step_that_overshoots_does_not_undo_what_was_learned():
    """Momentum goes on after the step whose loss was low enough; Adam is not tried for that."""
    result = check_tiny_subset(model := convnet(), F.cross_entropy, *batch(64), SGD(model.parameters(), 0.02))
    reached = replace(result.attempts[0], losses=(2.3, 0.0093, 0.0106), accuracy=1.0, eval_accuracy=0.0)
    for losses, fits in (((2.3, 0.0093, 0.0106), True), ((2.3, 0.5, 0.0106), False)):
        attempt = replace(reached, losses=losses)
        assert replace(result, attempts=(attempt,)).fits is fits


def test_an_optimizer_that_has_not_come_half_the_way_goes_on_only_where_adam_does_not_learn_either():
    model = convnet()
    first, second = check_tiny_subset(
        model, F.cross_entropy, *batch(64), SGD(model.parameters(), 1e-6)
    ).attempts
    assert len(first.losses) == GLANCE + 1 > len(second.losses)
    dead = dead_net()
    attempts = check_tiny_subset(
        dead, F.cross_entropy, *batch(64), SGD(dead.parameters(), 0.02), 150
    ).attempts
    assert [len(attempt.losses) for attempt in attempts] == [151, 151]


def test_adam_is_not_tried_where_the_run_s_own_optimizer_is_adam_as_it_comes():
    constant = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 1), nn.ReLU(), nn.Linear(1, 10))
    for others in ({}, {"lr": 1e-2}, {"betas": (0.5, 0.9)}):
        result = check_tiny_subset(
            constant, F.cross_entropy, *batch(256), Adam(constant.parameters(), **others), max_steps=20
        )
        assert (len(result.attempts), result.fits) == (1 if not others else 2, False)
    head = Adam(constant[3].parameters())
    assert len(check_tiny_subset(constant, F.cross_entropy, *batch(256), head, max_steps=20).attempts) == 2


def test_a_loss_that_stands_still_is_not_waited_for():
    result = check_tiny_subset(dead_net(), F.cross_entropy, *batch(256))
    assert [len(attempt.losses) for attempt in result.attempts] == [PATIENCE + 1]
    assert result.findings()[0].level == "fail"


def test_no_second_optimizer_is_tried_on_a_softmax_that_is_applied_twice():
    model = nn.Sequential(convnet(), nn.Softmax(1))
    result = check_tiny_subset(model, F.cross_entropy, *batch(64), SGD(model.parameters(), 0.02))
    assert len(result.attempts) == 1
    assert "double-softmax" in named(result)


def dead_net():
    net = convnet()
    for module in net:
        if isinstance(module, nn.Conv2d):
            init.constant_(module.bias, -5.0)
    return net


class Uphill(torch.autograd.Function):
    """The identity, with a backward of the wrong sign."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class UphillNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = convnet()

    def forward(self, x):
        return Uphill.apply(self.net(x))


SICK = {
    "softmax in the network": (
        lambda: nn.Sequential(convnet(), nn.Softmax(1)),
        F.cross_entropy,
        "double-softmax",
    ),
    "softmax in the loss": (convnet, lambda o, t: F.cross_entropy(o.softmax(1), t), "double-softmax"),
    "dead units": (dead_net, F.cross_entropy, "dead-relu"),
    "deep sigmoid": (lambda: mlp(*[32] * 7, activation=nn.Sigmoid), F.cross_entropy, "vanishing-gradients"),
    "equal weights": (
        lambda: initialized(mlp(32, 16), init.constant_, val=0.01),
        F.cross_entropy,
        "bad-initialization",
    ),
    "one-unit bottleneck": (lambda: mlp(32, 1), F.cross_entropy, "underfitting"),
    "loss of the wrong sign": (convnet, lambda o, t: -F.cross_entropy(o, t), "wrong-initial-loss"),
    "backward of the wrong sign": (UphillNet, F.cross_entropy, "wrong-gradient"),
    "division by zero": (
        convnet,
        lambda o, t: F.cross_entropy(o, t) * (0 / o.sum().mul(0)),
        "non-finite-loss",
    ),
}


class OfTheLastStep(nn.Module):
    """A GRU of sequences, with a row of zeros behind each of them, read at the last step."""

    def __init__(self, outputs, padding):
        super().__init__()
        torch.manual_seed(0)
        self.padding = padding
        self.recur, self.head = nn.GRU(8, 16, batch_first=True), nn.Linear(16, outputs)

    def forward(self, x):
        return self.head(self.recur(F.pad(x, (0, 0, 0, self.padding)))[0][:, -1])


@pytest.mark.parametrize("padding", [0, 150])
def test_outputs_to_which_nothing_of_a_sample_arrives_are_named(padding):
    x, y = torch.randn(64, 5, 8, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 4
    classes = check_tiny_subset(OfTheLastStep(4, padding), F.cross_entropy, x, y, max_steps=60)
    values = check_few_samples(OfTheLastStep(1, padding), F.mse_loss, x[:20], x[:20, 0, :1], max_steps=60)
    for result in (classes, values):
        assert ("vanishing-gradients" in named(result)) is bool(padding)


def test_a_rate_that_undoes_the_network_is_no_missing_signal():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    x = torch.randn(20, 16, generator=torch.Generator().manual_seed(1))
    result = check_few_samples(net, F.mse_loss, x, 2 + 0.3 * x[:, :2], Adam(net.parameters(), lr=0.5))
    assert not named(result)


@pytest.mark.parametrize("name", SICK)
def test_the_plateau_is_named(name):
    net, loss, cause = SICK[name]
    torch.manual_seed(0)
    model = net()
    result = check_tiny_subset(model, loss, *batch(256), SGD(model.parameters(), 0.01))
    assert not result.fits
    assert list(named(result)) == [cause]


def test_constant_inputs_are_named():
    inputs, targets = batch(256)
    assert list(named(check_tiny_subset(convnet(), F.cross_entropy, torch.ones_like(inputs), targets))) == [
        "input-constant"
    ]


@pytest.mark.parametrize("classes", [2, 5])
def test_double_softmax_has_another_floor_for_other_class_counts(classes):
    inputs, targets = batch(256)
    net = nn.Sequential(mlp(32, outputs=classes), nn.Softmax(1))
    result = check_tiny_subset(net, F.cross_entropy, inputs, targets % classes)
    (finding,) = result.findings()
    assert finding.cause == "double-softmax"
    assert min(result.final.losses) == pytest.approx(finding.threshold, abs=0.1)


def test_label_smoothing_that_cannot_be_switched_off_is_no_fault():
    result = check_tiny_subset(convnet(), smoothed, *batch(256))
    assert result.perfect == pytest.approx(0.5003, abs=1e-3)


def test_predictions_belong_to_the_examples_given():
    inputs, targets = batch(256)
    result = check_tiny_subset(convnet(), F.cross_entropy, inputs, targets)
    assert torch.equal(targets[result.indices], result.targets)
    assert torch.equal(result.final.predictions, result.targets)


def test_images_that_occur_twice_are_taken_once():
    """Twins with different labels could not be told apart."""
    inputs, targets = batch(256)
    doubled = torch.cat([inputs[:1].expand(100, -1, -1, -1), inputs])
    labels = torch.cat([torch.arange(100) % 10, targets])
    assert check_tiny_subset(convnet(), F.cross_entropy, doubled, labels).distinct == 20


@pytest.mark.parametrize(
    ("inputs", "targets", "word"),
    [
        (batch(19)[0], batch(19)[1], "inputs"),
        (batch(40)[0], torch.zeros(40, dtype=torch.long), "targets"),
    ],
    ids=["too few", "one class"],
)
def test_what_cannot_be_judged_is_an_error(inputs, targets, word):
    with pytest.raises(UserError, match=word):
        check_tiny_subset(convnet(), F.cross_entropy, inputs, targets)


def test_leaves_everything_as_it_was():
    training = TrainedNetwork()
    before = state_of(training.model, training.optimizer)
    check_tiny_subset(training.model, F.cross_entropy, *batch(64), training.optimizer, max_steps=3)
    with pytest.raises(RuntimeError):
        check_tiny_subset(training.model, training.failing_loss, *batch(64), training.optimizer)
    assert same(before, state_of(training.model, training.optimizer))


@pytest.mark.skipif(torch.cuda.is_initialized(), reason="CUDA has started, and takes no notes")
def test_no_seed_is_left_behind_for_a_device_that_starts_later():
    noted = len(torch.cuda._queued_calls)
    check_tiny_subset(model := mlp(), F.cross_entropy, *batch(64), SGD(model.parameters(), 0.1), 1)
    assert len(torch.cuda._queued_calls) == noted


def test_a_loss_that_looks_at_the_original_weights_leaves_no_gradient_there():
    net = convnet()

    def penalized(outputs, targets):
        return F.cross_entropy(outputs, targets) + 1e-3 * net[0].weight.square().sum()

    before = state_of(net)
    check_tiny_subset(net, penalized, *batch(64), max_steps=3)
    assert same(before, state_of(net))


def test_a_loss_that_is_small_as_a_whole_is_zero_further_down():
    net = convnet()
    loss = lambda outputs, targets: F.cross_entropy(outputs, targets) / 200  # noqa: E731
    result = check_tiny_subset(net, loss, *batch(64), Adam(net.parameters(), 2e-3))
    assert result.fits
    assert result.final.losses[-1] < 0.1 * result.chance


def test_a_loss_that_falls_slowly_is_no_fault_where_no_guess_is_known():
    slow = [1 - step / 3000 for step in range(301)]
    result = FewSamples((("AdamW", tuple(slow)),), 20, float("nan"))
    assert [finding.level for finding in result.findings()] == ["note"]
