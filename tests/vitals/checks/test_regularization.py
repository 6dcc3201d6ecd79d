"""More weight decay raises the loss, and its pull is weighed against that of the data."""

import pytest
import torch
import torch.nn.functional as F
from small_networks import TrainedNetwork, batch, convnet, named, same, state_of
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from vitals.checks.regularization import check_regularization


def test_penalty_is_half_the_squared_norm_of_each_group():
    net = convnet()
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim == 1]
    optimizer = SGD([{"params": decayed, "weight_decay": 0.01}, {"params": others}], lr=0.1)
    result = check_regularization(net, F.cross_entropy, *batch(64), optimizer)
    expected = 0.5 * 0.01 * sum(float(p.detach().square().sum()) for p in decayed)
    data = F.cross_entropy(net(batch(64)[0]), batch(64)[1]).item()
    assert result.penalty == pytest.approx(expected, rel=1e-5)
    assert [result.total_loss(f) for f in (0, 1, 10)] == pytest.approx(
        [data, data + expected, data + 10 * expected], rel=1e-5
    )


def test_the_pull_is_that_of_torch_on_the_first_step():
    """‖λw‖ over ‖g‖: SGD at rate 1 moves by g + λw, and by g alone without decay."""
    net = convnet()
    inputs, targets = batch(64)
    result = check_regularization(
        net, F.cross_entropy, inputs, targets, SGD(net.parameters(), 1.0, weight_decay=0.1)
    )
    gradients = torch.autograd.grad(F.cross_entropy(net(inputs), targets), list(net.parameters()))
    decay = torch.cat([0.1 * p.detach().flatten() for p in net.parameters()])
    data = torch.cat([g.flatten() for g in gradients])
    assert result.groups[0].pull == pytest.approx(float(decay.norm() / data.norm()), rel=1e-4)


class SignsOfGradients(Optimizer):
    """Somebody's own, whose decay is added to the step or, with `within`, to the gradient."""

    def __init__(self, parameters, weight_decay: float, within: bool) -> None:
        super().__init__(parameters, {"lr": 1e-3, "weight_decay": weight_decay})
        self.within = within

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                decay = group["weight_decay"] * p
                step = (p.grad + decay).sign() if self.within else p.grad.sign() + decay
                p.sub_(group["lr"] * step)


@pytest.mark.parametrize(
    ("optimizer", "causes"),
    [
        (lambda p: SGD(p, 0.1, weight_decay=5e-4), {}),
        (lambda p: Adam(p, 1e-3, weight_decay=1e-4), {}),
        (lambda p: AdamW(p, 1e-3, weight_decay=0.1), {}),
        (lambda p: AdamW(p, 1e-3, weight_decay=1.0), {}),
        (lambda p: AdamW(p, 1e-3, weight_decay=30.0), {"regularization-too-strong": "warn"}),
        (lambda p: AdamW(p, 2.0, weight_decay=0.01), {}),  # its rate is
        (lambda p: SGD(p, 0.1), {}),
        (lambda p: Adam(p, 1e-3, weight_decay=1.0), {"regularization-too-strong": "warn"}),
        (lambda p: SGD(p, 0.1, weight_decay=1.0), {"regularization-too-strong": "warn"}),
        (lambda p: SignsOfGradients(p, 1.0, within=False), {}),
        (lambda p: SignsOfGradients(p, 1.0, within=True), {"regularization-too-strong": "warn"}),
    ],
    ids=[
        *(
            "SGD",
            "Adam",
            "AdamW",
            "AdamW strong",
            "AdamW decay of 30",
            "AdamW rate of 2",
            "none",
            "Adam decay of 1",
            "SGD decay of 1",
        ),
        *("own beside the gradient", "own within it"),
    ],
)
def test_strength(optimizer, causes):
    net = convnet()
    result = check_regularization(net, F.cross_entropy, *batch(64), optimizer(net.parameters()))
    assert named(result) == causes


@pytest.mark.parametrize(
    ("make", "rate"),
    [
        (lambda p: SignsOfGradients(p, 1.0, within=False), lambda step: step / 100),
        (lambda p: AdamW(p, 1.0, weight_decay=0.1), lambda step: 1e-5 * (step + 1)),
    ],
    ids=["warm-up from 0", "rates that a schedule gives as they are"],
)
def test_a_decay_apart_from_the_gradient_is_judged_by_the_rates_of_the_schedule(make, rate):
    net = convnet()
    optimizer = make(net.parameters())
    torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    result = check_regularization(net, F.cross_entropy, *batch(64), optimizer)
    assert result.groups[0].decoupled
    assert named(result) == {}


@pytest.mark.parametrize("make", [SGD, Adam])
def test_the_weight_decay_in_the_remedy_is_one_that_passes(make):
    net = convnet()

    def check(decay):
        return check_regularization(
            net, F.cross_entropy, *batch(64), make(net.parameters(), 1e-2, weight_decay=decay)
        )

    (finding,) = [finding for finding in check(3.0).findings() if finding.alarming]
    assert f"{finding.setting['weight_decay']:g}" in finding.remedy
    assert named(check(finding.setting["weight_decay"])) == {}


def test_vanishing_gradients_are_not_blamed_on_usual_decay():
    net = convnet()
    torch.nn.init.zeros_(net[-1].weight)
    inputs, targets = batch(64)
    optimizer = SGD(net.parameters(), 0.1, weight_decay=5e-4)
    assert named(check_regularization(net, lambda o, t: 1e-6 * o.sum(), inputs, targets, optimizer)) == {}


def test_an_empty_group_with_decay_is_found():
    net = convnet()
    optimizer = SGD([{"params": [], "weight_decay": 0.01}, {"params": net.parameters()}], lr=0.1)
    result = check_regularization(net, F.cross_entropy, *batch(64), optimizer)
    assert named(result) == {"frozen-parameters": "warn"}


def test_a_temperature_beside_a_network_that_is_frozen_is_no_penalty():
    temperature = nn.Parameter(torch.ones(1))
    optimizer = SGD([temperature], 0.1)
    net = convnet().requires_grad_(False)
    result = check_regularization(
        net, lambda o, y: F.cross_entropy(o * temperature, y), *batch(64), optimizer
    )
    assert result.in_loss is None


def test_without_decay_the_check_is_skipped():
    net = convnet()
    (finding,) = check_regularization(net, F.cross_entropy, *batch(64), SGD(net.parameters(), 0.1)).findings()
    assert finding.cause == "skipped"


def test_leaves_everything_as_it_was():
    training = TrainedNetwork()
    before = state_of(training.model, training.optimizer)
    check_regularization(training.model, F.cross_entropy, *batch(32), training.optimizer)
    training.calls = 2
    with pytest.raises(RuntimeError):
        check_regularization(training.model, training.failing_loss, *batch(32), training.optimizer)
    assert same(before, state_of(training.model, training.optimizer))


class Penalized(nn.Module):
    """Cross-entropy, and so many times the squared weights of a network."""

    def __init__(self, model: nn.Module, factor: float) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        squares = sum(parameter.square().sum() for parameter in self.model.parameters())
        return F.cross_entropy(outputs, targets) + self.factor * squares


@pytest.mark.parametrize(
    ("factor", "sick"), [(0.1, True), (-0.01, True), (1e-4, False), (-1e-7, False), (0.0, False)]
)
def test_a_penalty_within_the_loss_is_weighed_against_the_data(factor: float, sick: bool) -> None:
    model = convnet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    result = check_regularization(model, Penalized(model, factor), *batch(64), optimizer)
    alarms = [finding.cause for finding in result.findings() if finding.alarming]
    assert alarms == (["regularization-too-strong"] if sick else [])
    if factor:
        assert result.in_loss is not None
        squares = sum(float(parameter.square().sum()) for parameter in model.parameters())
        assert result.in_loss.floor == pytest.approx(factor * squares, abs=5e-3)
