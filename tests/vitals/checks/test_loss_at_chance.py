"""The loss before training is that of a uniform guess."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_networks import CLASSES, TrainedNetwork, batch, convnet, initialized, mlp, named, same, state_of
from torch import Tensor, nn
from torch.nn import init
from torch.optim import SGD, Adam

from vitals.checks.chance import constant_loss, prior_entropy
from vitals.checks.loss_at_chance import check_loss_at_chance
from vitals.errors import UserError


def weston_watkins(outputs, targets):
    """Σ_j≠y max(0, 1 + s_j − s_y), averaged: the course's SVM loss."""
    margins = (1 + outputs - outputs.gather(1, targets[:, None])).clamp_min(0)
    return margins.scatter(1, targets[:, None], 0.0).sum(1).mean()


def loud_head() -> nn.Sequential:
    net = convnet()
    init.normal_(net[-1].weight, std=3.0)
    return net


def head_at_priors(targets) -> nn.Sequential:
    net = convnet()
    init.zeros_(net[-1].weight)
    with torch.no_grad():
        net[-1].bias.copy_(torch.log(torch.bincount(targets, minlength=10) / len(targets) + 1e-6))
    return net


@pytest.mark.parametrize(
    ("loss", "chance"),
    [
        (F.cross_entropy, math.log(10)),
        (nn.CrossEntropyLoss(label_smoothing=0.1), math.log(10)),
        (nn.CrossEntropyLoss(weight=torch.arange(1.0, 11.0)), math.log(10)),
        (weston_watkins, 9.0),
        (nn.MultiMarginLoss(), 0.9),
    ],
    ids=["cross-entropy", "label smoothing", "class weights", "Weston–Watkins", "torch's margin loss"],
)
def test_chance_is_known_for_every_loss(loss, chance):
    result = check_loss_at_chance(convnet(norm=True), loss, *batch(256))
    assert result.chance == pytest.approx(chance, rel=1e-4)
    assert named(result) == {}


HEALTHY = {
    "convnet": lambda: convnet(),
    "BatchNorm": lambda: convnet(norm=True),
    "dropout": lambda: convnet(dropout=0.5),
    "He everywhere": lambda: initialized(mlp(*[128] * 4), init.kaiming_normal_),
    "tanh Xavier": lambda: initialized(mlp(128, 128, activation=nn.Tanh), init.xavier_uniform_),
    "softmax twice": lambda: nn.Sequential(convnet(), nn.Softmax(1)),  # chance proves little
    "log-softmax": lambda: nn.Sequential(convnet(), nn.LogSoftmax(1)),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_networks_at_chance_raise_no_alarm(name):
    assert named(check_loss_at_chance(HEALTHY[name](), F.cross_entropy, *batch(256))) == {}


@pytest.mark.parametrize(
    ("net", "scale", "causes"),
    [
        (loud_head, 1, {"wrong-initial-loss": "fail"}),
        (lambda: initialized(mlp(*[128] * 6), init.normal_, std=0.3), 1, {"bad-initialization": "fail"}),
        (
            lambda: initialized(mlp(128, 128, 128, activation=nn.Tanh), init.normal_),
            1,
            {"bad-initialization": "fail"},
        ),
        (lambda: mlp(128, 64), 255, {"input-not-normalized": "fail"}),
    ],
    ids=["loud head", "wide weights", "unit tanh", "raw pixels"],
)
def test_a_high_loss_is_put_down_to_its_root(net, scale, causes):
    inputs, targets = batch(256)
    assert named(check_loss_at_chance(net(), F.cross_entropy, scale * inputs, targets)) == causes


@pytest.mark.parametrize(
    ("optimizer", "level"),
    [
        (lambda p: SGD(p, 0.05, momentum=0.9), "note"),
        (lambda p: Adam(p, 2e-3), "note"),
        (lambda p: Adam(p, 2e-4), "warn"),
        (None, "warn"),
    ],
    ids=["made good by the first step", "by five", "lasting", "unknown"],
)
def test_a_high_loss_is_an_alarm_where_the_first_steps_do_not_make_it_good(optimizer, level):
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 4, 4),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    for module in (net[0], net[2], net[6]):
        init.kaiming_normal_(module.weight)
    with torch.no_grad():
        net[6].weight.mul_(2.5)  # all images get much the same wrong answer, which a step puts right
    made = optimizer(net.parameters()) if optimizer else None
    result = check_loss_at_chance(net, F.cross_entropy, *batch(256), made)
    assert 1 < result.deviation < 2
    assert result.findings()[0].level == level


@pytest.mark.parametrize(("spread", "level"), [(0.4, "note"), (1.4, "fail")], ids=["as drawn", "loud"])
def test_a_squared_error_minds_outputs_as_they_are_drawn(spread, level):
    inputs, targets = batch(256)
    net = convnet().eval()
    with torch.no_grad():
        net[-1].weight.mul_(spread / (net(inputs) - net[-1].bias).std())

    def squared(outputs, targets):
        return F.mse_loss(outputs, F.one_hot(targets, CLASSES).float())

    result = check_loss_at_chance(net, squared, inputs, targets, Adam(net.parameters(), 2e-3))
    assert result.deviation > 1
    assert result.findings()[0].level == level


def test_a_pretrained_network_is_not_at_chance():
    inputs, targets = batch(256)
    net = convnet()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(net(inputs), targets).backward()
        optimizer.step()
    result = check_loss_at_chance(net, F.cross_entropy, inputs, targets)
    assert result.loss < 0.5 * result.chance
    assert named(result) == {}


class KnowsAnswers(nn.Module):
    """Labels leak past the inputs."""

    def __init__(self, targets):
        super().__init__()
        self.net, self.targets = convnet(), targets

    def forward(self, x):
        return self.net(x) + 5 * F.one_hot(self.targets[: len(x)], 10)


def test_an_untrained_network_does_not_know_the_answers():
    inputs, targets = batch(256)
    result = check_loss_at_chance(KnowsAnswers(targets), F.cross_entropy, inputs, targets)
    assert named(result) == {"wrong-initial-loss": "warn"}


def nll_of_logits(outputs, targets):
    return F.nll_loss(outputs, targets)


def nll_of_probabilities(outputs, targets):
    return F.nll_loss(outputs.softmax(1), targets)


@pytest.mark.parametrize(
    ("net", "loss", "word"),
    [
        (convnet, nll_of_logits, "logit"),
        (convnet, nll_of_probabilities, "probability"),
        (lambda: nn.Sequential(convnet(), nn.Softmax(1)), nll_of_logits, "probability"),
        (lambda: nn.Sequential(convnet(), nn.LogSoftmax(1)), nll_of_logits, ""),
    ],
)
def test_a_likelihood_without_its_logarithm_is_found(net, loss, word):
    result = check_loss_at_chance(net(), loss, *batch(256))
    assert result.without_log == word
    assert named(result) == ({"wrong-initial-loss": "fail"} if word else {})


class Rows(nn.Module):
    """Reads the rows of an image, and doubles what it holds at each of 32."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.RNN(3 * 32, 32, nonlinearity="relu", batch_first=True)
        init.orthogonal_(self.rnn.weight_hh_l0, 2.0)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.rnn(x.permute(0, 2, 1, 3).flatten(2))[1][0])


def test_a_recurrence_that_explodes_is_not_put_down_to_the_last_layer():
    assert named(check_loss_at_chance(Rows(), F.cross_entropy, *batch(256))) == {"bad-initialization": "fail"}


def test_biases_at_the_log_of_the_class_shares_are_welcome():
    inputs, targets = batch(1000)
    kept = (targets < 3) | (torch.arange(1000) % 20 == 0)
    inputs, targets = inputs[kept], targets[kept]
    result = check_loss_at_chance(head_at_priors(targets), F.cross_entropy, inputs, targets)
    assert result.loss < 0.8 * result.chance
    assert named(result) == {}


def test_a_loss_of_the_wrong_sign_is_found():
    result = check_loss_at_chance(convnet(), lambda out, y: -F.cross_entropy(out, y), *batch(256))
    assert named(result) == {"wrong-initial-loss": "fail"}


def test_labels_smoothed_to_nothing_are_found():
    result = check_loss_at_chance(convnet(), nn.CrossEntropyLoss(label_smoothing=0.9), *batch(256))
    assert named(result) == {"regularization-too-strong": "warn"}


def test_a_loss_that_is_proportional_to_the_outputs_is_found():
    swapped = check_loss_at_chance(
        convnet(), lambda out, y: F.cross_entropy(F.one_hot(y, CLASSES).float(), out), *batch(256)
    )
    assert named(swapped) == {"wrong-initial-loss": "fail"}
    assert "order of its arguments" in swapped.findings()[0].remedy


def focal(outputs, targets, weight):
    each = F.cross_entropy(outputs, targets, reduction="none")
    return (weight((-each).exp()) * each).mean()


def test_a_loss_that_is_linear_in_probabilities_is_no_softmax_over_the_batch():
    images, labels = batch(256)
    labels = torch.arange(len(labels)) % 10  # each class alike: all guesses for all cost the same

    def absolute_errors(outputs, targets):
        return F.l1_loss(outputs.softmax(1), F.one_hot(targets, 10).float())

    def over_the_batch(outputs, targets):
        return F.nll_loss(outputs.log_softmax(0), targets)

    assert not check_loss_at_chance(convnet(), absolute_errors, images, labels).over_batch
    assert check_loss_at_chance(convnet(), over_the_batch, images, labels).over_batch


def test_a_loss_that_looks_away_from_wrong_answers_is_found():
    upside_down = check_loss_at_chance(convnet(), lambda out, y: focal(out, y, torch.square), *batch(256))
    assert named(upside_down) == {"wrong-initial-loss": "fail"}
    assert "wrong answers cost" in upside_down.findings()[0].message


def hinge(outputs, targets, lowest):
    wanted = F.one_hot(targets, CLASSES) * (1 - lowest) + lowest
    return (1 - wanted * outputs).relu().mean()


@pytest.mark.parametrize(
    "loss",
    [lambda out, y: F.nll_loss(F.logsigmoid(out), y), lambda out, y: hinge(out, y, 0)],
    ids=["logsigmoid", "hinge on 0 and 1"],
)
def test_a_loss_that_is_content_with_every_class_at_once_is_found(loss):
    content = check_loss_at_chance(convnet(), loss, *batch(256))
    assert named(content) == {"wrong-initial-loss": "fail"}
    assert "every class at once" in content.findings()[0].message


def self_paced(outputs, targets):
    """Leaves out the samples that are too hard, as for wrong labels."""
    each = F.cross_entropy(outputs, targets, reduction="none")
    return (each * (each < 4.0)).mean()


@pytest.mark.parametrize(
    "loss",
    [
        self_paced,
        lambda out, y: focal(out, y, lambda p: (1 - p) ** 2),
        lambda out, y: (out.softmax(1) - F.one_hot(y, CLASSES)).abs().mean(),
        lambda out, y: F.mse_loss(out.softmax(1), F.one_hot(y, CLASSES).float()),
        lambda out, y: F.cross_entropy(out, y).clamp(max=4.0),
        lambda out, y: hinge(out, y, -1),
        F.multi_margin_loss,
    ],
    ids=["self-paced", "focal", "absolute", "Brier", "clamped", "hinge", "margins"],
)
def test_losses_that_are_bounded_or_weigh_samples_are_right(loss):
    assert named(check_loss_at_chance(convnet(), loss, *batch(256))) == {}


def test_training_mode_is_measured():
    """Statistics of an untrained BatchNorm make the evaluation loss of this network a different one."""
    net = convnet(norm=True)
    inputs, targets = batch(256)
    net.eval()
    by_check = check_loss_at_chance(net, F.cross_entropy, 10 * inputs, targets).loss
    net.train()
    assert by_check == pytest.approx(F.cross_entropy(net(10 * inputs), targets).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda x, y: (x, y[:-1]), "targets"),
        (lambda x, y: (x, y.float()), "targets"),
        (lambda x, y: (x, y + 5), "targets"),
        (lambda x, y: (x[:, 0, 0, 0], y), "inputs"),
    ],
)
def test_parts_that_do_not_fit_are_errors(change, word):
    with pytest.raises(UserError, match=word):
        check_loss_at_chance(convnet(), F.cross_entropy, *change(*batch(64)))


def test_a_loss_that_is_no_scalar_is_an_error():
    with pytest.raises(UserError, match="loss"):
        check_loss_at_chance(convnet(), nn.CrossEntropyLoss(reduction="none"), *batch(64))


def test_leaves_everything_as_it_was():
    training = TrainedNetwork()
    before = state_of(training.model, training.optimizer)
    check_loss_at_chance(training.model, F.cross_entropy, *batch(64))
    with pytest.raises(RuntimeError):
        check_loss_at_chance(training.model, training.failing_loss, *batch(64))
    assert same(before, state_of(training.model, training.optimizer))


def one_against_rest(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs, F.one_hot(targets, CLASSES).float())


@pytest.mark.parametrize("bias", [0.0, -2.2])
def test_binary_losses_may_begin_at_the_frequency_of_their_classes(bias: float) -> None:
    model = convnet()
    nn.init.constant_(model[-1].bias, bias)
    [finding] = check_loss_at_chance(model, one_against_rest, *batch(256)).findings()
    assert finding.level == "ok"


@pytest.mark.parametrize("loss", [F.cross_entropy, one_against_rest])
def test_the_best_constant_outputs_give_the_classes_their_shares(loss: Any) -> None:
    targets = batch(256)[1]
    shares = torch.bincount(targets) / 256
    binary = torch.special.entr(shares).sum() + torch.special.entr(1 - shares).sum()
    best = prior_entropy(targets) if loss is F.cross_entropy else float(binary) / CLASSES
    assert constant_loss(loss, torch.randn(256, CLASSES), targets) == pytest.approx(best, abs=1e-4)


def divided_again(outputs, targets):
    return F.cross_entropy(outputs, targets) / len(targets)


def summed(by: float):
    return lambda outputs, targets: F.cross_entropy(outputs, targets, reduction="sum") / by


@pytest.mark.parametrize(
    ("loss", "make", "cause"),
    [
        (summed(4000.0), lambda p: SGD(p, 0.03), "wrong-initial-loss"),
        (summed(4000.0), lambda p: Adam(p, 1e-3), "loss-at-chance"),  # which does not go by its size
        (summed(128.0), lambda p: SGD(p, 0.03), "loss-at-chance"),  # in four parts of a step
        (F.cross_entropy, lambda p: SGD(p, 0.03), "loss-at-chance"),
        (divided_again, lambda p: SGD(p, 0.03), "wrong-initial-loss"),
        (divided_again, lambda p: Adam(p, 1e-3), "loss-at-chance"),
    ],
)
def test_a_sum_over_samples_that_is_divided_by_the_size_of_the_set(loss: Any, make: Any, cause: str) -> None:
    net = convnet()
    result = check_loss_at_chance(net, loss, *batch(256), make(net.parameters()), batch_size=32)
    assert result.findings()[0].cause == cause
