"""Every optimizer, made from its YAML, does what the course's formulas say (cs231n, "Parameter updates")."""

import pytest
import torch
from torch import nn

from project.optim.optimizers import momentum_schedule, optimizer_factory, set_momentum
from vitals.monitors.learning_curves import momentum_of
from vitals.runs.instantiate import plain

STEPS = 6


@pytest.fixture
def settings_of(compose):
    """The values of one optimizer's YAML, with some of them changed."""
    return lambda name, **values: plain(compose(f"optimizer={name}").optimizer) | values


def sgd(x, lr):
    while True:
        dx = yield x
        x = x - lr * dx


def momentum(x, lr, mu):
    v = 0
    while True:
        dx = yield x
        v = mu * v - lr * dx
        x = x + v


def nesterov(x, lr, mu):
    v = 0
    while True:
        dx = yield x
        v_prev = v
        v = mu * v - lr * dx
        x = x - mu * v_prev + (1 + mu) * v


def adagrad(x, lr, eps):
    cache = 0
    while True:
        dx = yield x
        cache = cache + dx**2
        x = x - lr * dx / (cache**0.5 + eps)


def rmsprop(x, lr, decay_rate, eps):
    cache = 0
    while True:
        dx = yield x
        cache = decay_rate * cache + (1 - decay_rate) * dx**2
        x = x - lr * dx / (cache**0.5 + eps)


def adadelta(x, lr, rho, eps):
    """Zeiler, 2012, algorithm 1."""
    gradients, updates = 0, 0
    while True:
        dx = yield x
        gradients = rho * gradients + (1 - rho) * dx**2
        update = ((updates + eps) ** 0.5) / ((gradients + eps) ** 0.5) * dx
        updates = rho * updates + (1 - rho) * update**2
        x = x - lr * update


def adam(x, lr, beta1, beta2, eps, decay=0.0):
    """With `decay` AdamW (Loshchilov and Hutter, 2019): the weights shrink apart from the gradient."""
    m, v, t = 0, 0, 0
    while True:
        dx = yield x
        t += 1
        m = beta1 * m + (1 - beta1) * dx
        v = beta2 * v + (1 - beta2) * dx**2
        m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
        x = x * (1 - lr * decay) - lr * m_hat / (v_hat**0.5 + eps)


FORMULAS = {
    "sgd": lambda x, c: sgd(x, c["lr"]),
    "momentum": lambda x, c: momentum(x, c["lr"], c["momentum"]),
    "nesterov": lambda x, c: nesterov(x, c["lr"], c["momentum"]),
    "adagrad": lambda x, c: adagrad(x, c["lr"], c["eps"]),
    "rmsprop": lambda x, c: rmsprop(x, c["lr"], c["alpha"], c["eps"]),
    "adadelta": lambda x, c: adadelta(x, c["lr"], c["rho"], c["eps"]),
    "adam": lambda x, c: adam(x, c["lr"], *c["betas"], c["eps"]),
    "adamw": lambda x, c: adam(x, c["lr"], *c["betas"], c["eps"], c["weight_decay"]),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_updates_equal_the_formulas(settings_of, name):
    torch.manual_seed(0)
    network = nn.Linear(5, 4, bias=False).double()
    config = settings_of(name)
    optimizer = optimizer_factory(config)(network)
    x = network.weight.detach().clone()
    formula = FORMULAS[name](x, config)
    next(formula)
    penalty = 0.0 if name == "adamw" else config["weight_decay"]  # elsewhere a part of the gradient
    for step in range(STEPS):
        gradient = torch.randn(4, 5, dtype=torch.double) * 10.0 ** (step - 3)
        network.weight.grad = gradient
        x = formula.send(gradient + penalty * x)
        optimizer.step()
        torch.testing.assert_close(network.weight.detach(), x, rtol=0, atol=1e-12)


def test_nesterov_looks_ahead(settings_of):
    """x_ahead = x + μv, the gradient taken there: the course's first form, in the coordinates of x_ahead."""
    config = settings_of("nesterov", weight_decay=0.0)
    lr, mu = config["lr"], config["momentum"]
    network = nn.Linear(3, 1, bias=False).double()
    x, v = network.weight.detach().clone(), torch.zeros(1, 3, dtype=torch.double)
    optimizer = optimizer_factory(config)(network)
    curvature = torch.tensor([[0.1, 1.0, 3.0]], dtype=torch.double)
    for _ in range(STEPS):
        network.weight.grad = curvature * network.weight.detach()
        optimizer.step()
        v = mu * v - lr * curvature * (x + mu * v)
        x = x + v
        torch.testing.assert_close(network.weight.detach(), x + mu * v, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_full_batch_sgd_with_a_small_rate_never_raises_the_loss(settings_of, seed):
    torch.manual_seed(seed)
    factor = torch.randn(6, 6, dtype=torch.double)
    hessian = factor.T @ factor
    steepest = torch.linalg.eigvalsh(hessian)[-1].item()
    point = nn.ParameterList([torch.randn(6, dtype=torch.double)])
    optimizer = optimizer_factory(settings_of("sgd", lr=1.9 / steepest, weight_decay=0.0))(point)
    losses = []
    for _ in range(100):
        loss = point[0] @ hessian @ point[0] / 2
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_lbfgs_finds_the_minimum_of_a_quadratic_in_one_step(settings_of):
    point = nn.ParameterList([torch.tensor([3.0, -2.0, 1.0], dtype=torch.double)])
    optimizer = optimizer_factory(settings_of("lbfgs"))(point)
    curvature = torch.tensor([0.1, 1.0, 10.0], dtype=torch.double)

    def closure():
        optimizer.zero_grad()
        loss = (curvature * point[0] ** 2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert point[0].abs().max() < 1e-3


def normed_network():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)).double()
    for parameter in network.parameters():
        nn.init.constant_(parameter, 1.0)
        parameter.grad = torch.zeros_like(parameter)
    return network


DECAYING = ["sgd", "momentum", "nesterov", "adamw"]
"""Without a gradient, their first step shrinks what decays and leaves alone what does not."""


@pytest.mark.parametrize("name", DECAYING)
@pytest.mark.parametrize("spared", [True, False])
def test_weight_decay_spares_biases_and_norm_scales_unless_told_otherwise(settings_of, name, spared):
    network = normed_network()
    settings = settings_of(name, weight_decay=0.1)
    if not spared:
        settings["decay_bias_and_norm"] = True
    optimizer_factory(settings)(network).step()
    for parameter in network.parameters():
        decays = parameter.ndim >= 2 or not spared
        assert (parameter < 1).all() if decays else (parameter == 1).all()


def test_groups_without_parameters_are_left_out(settings_of):
    optimizer = optimizer_factory(settings_of("adamw"))(nn.Linear(3, 2, bias=False))
    assert [group["name"] for group in optimizer.param_groups] == ["decay"]


def test_muon_trains_filters_and_adamw_biases_norms_and_the_head(settings_of):
    torch.manual_seed(0)
    convolution, head = nn.Conv2d(3, 4, 3, bias=False), nn.Linear(4, 2)
    network = nn.Sequential(convolution, nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), head)
    optimizer = optimizer_factory(settings_of("muon", weight_decay=0.1, momentum=0.0))(network)
    filters, rest = optimizer.param_groups
    assert [id(p) for p in filters["params"]] == [id(network[0].weight)]
    assert len(rest["params"]) == 4
    assert rest["lr"] == pytest.approx(0.2 * filters["lr"])
    before = [parameter.detach().clone() for parameter in network.parameters()]
    network(torch.randn(8, 3, 3, 3)).square().sum().backward()
    optimizer.step()
    step = (before[0] * (1 - 0.1 * filters["lr"]) - network[0].weight.detach()) / filters["lr"]
    singular = torch.linalg.svdvals(step.flatten(1))  # about 1, after three steps of Newton-Schulz in 16 bits
    assert 0.4 < singular.min() <= singular.max() < 1.6
    for start, parameter in list(zip(before, network.parameters(), strict=True))[1:]:
        moved = (start - parameter.detach()).abs().max().item()
        assert moved == pytest.approx(rest["lr"], rel=0.05)  # Adam's first step


@pytest.mark.parametrize("name", ["nesterov", "adam", "lbfgs", "muon"])
def test_frozen_parameters_are_left_out(settings_of, name):
    network = normed_network()
    network[0].requires_grad_(False)
    optimizer = optimizer_factory(settings_of(name))(network)
    managed = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    assert sorted(map(id, managed)) == sorted(map(id, trainable))


def test_an_argument_that_the_optimizer_does_not_take_is_refused_before_there_is_a_network(settings_of):
    with pytest.raises(TypeError, match="momentun"):
        optimizer_factory(settings_of("sgd", momentun=0.9))


def test_momentum_rises_linearly_from_a_half_to_99_percent_over_five_epochs_and_stays(compose):
    ramp = momentum_schedule(plain(compose("momentum_schedule=ramp").momentum_schedule))
    assert [ramp(epoch) for epoch in (0, 1, 2.5, 5, 5.1, 20)] == pytest.approx(
        [0.5, 0.598, 0.745, 0.99, 0.99, 0.99], abs=1e-12
    )


def test_a_constant_momentum_needs_no_schedule(compose):
    assert momentum_schedule(plain(compose().momentum_schedule)) is None


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw", "muon"])
def test_a_momentum_is_set_in_every_group_and_nothing_else(settings_of, name):
    config = settings_of(name, weight_decay=0.1)  # for two groups
    optimizer = optimizer_factory(config)(normed_network())
    expected = [
        {key: value for key, value in group.items() if key not in ("momentum", "betas", "params")}
        for group in optimizer.param_groups
    ]
    set_momentum(optimizer, 0.7)
    for group, others in zip(optimizer.param_groups, expected, strict=True):
        assert momentum_of(group) == 0.7
        assert {key: group[key] for key in others} == others
        if "betas" in group and group["name"] != "filters":
            assert group["betas"] == (0.7, config["betas"][1])


@pytest.mark.parametrize("name", ["adagrad", "adadelta"])
def test_without_a_momentum_there_is_none_to_tell(settings_of, name):
    [group] = optimizer_factory(settings_of(name))(normed_network()).param_groups
    assert momentum_of(group) is None


def test_a_ramped_momentum_is_the_one_that_the_next_update_uses(settings_of):
    """`momentum_schedule=ramp` with plain SGD, whose YAML says 0."""
    network = nn.Linear(1, 1, bias=False).double()
    x = network.weight.item()
    config = settings_of("sgd", weight_decay=0.0)
    optimizer = optimizer_factory(config)(network)
    v = 0.0
    for mu in (0.5, 0.6, 0.7):
        set_momentum(optimizer, mu)
        network.weight.grad = torch.ones(1, 1, dtype=torch.double)
        optimizer.step()
        v = mu * v - config["lr"]
        x += v
        assert network.weight.item() == pytest.approx(x, abs=1e-12)
