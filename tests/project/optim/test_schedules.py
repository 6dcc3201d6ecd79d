"""Every schedule, made from its YAML, gives the rates of its closed form and of torch's own scheduler."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.optim import SGD, lr_scheduler

from project.optim import schedules
from project.optim.optimizers import Schedule, optimizer_factory
from vitals.runs.config.overrides import groups
from vitals.runs.instantiate import plain

CHOICES = groups([Path(__file__).parents[3] / "configs"])
BASE = 0.8


def base_optimizer():
    return SGD([torch.zeros(1, requires_grad=True)], lr=BASE)


def walk(optimizer, scheduler, steps):
    """The rates at which the steps are taken."""
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
    return rates


@pytest.fixture
def make(compose):
    """`make("cosine", warmup_epochs=2)`: the schedule of a YAML, with some of its values changed."""
    return lambda name, **values: Schedule.from_config(plain(compose(f"schedule={name}").schedule) | values)


@pytest.fixture
def rates_of(make):
    """`rates_of("cosine", steps_per_epoch=4, run_epochs=6)`: the rate of every step of a run."""

    def rates_of(name, steps_per_epoch, run_epochs, **values):
        optimizer = base_optimizer()
        scheduler = make(name, **values).every_step(optimizer, steps_per_epoch, run_epochs)
        return walk(optimizer, scheduler, steps_per_epoch * run_epochs)

    return rates_of


def half_cosine(start, end, share):
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def one_cycle(t, total):
    if t < 0.3 * total:
        return half_cosine(0.04, 1, t / (0.3 * total))
    return half_cosine(1, 4e-6, (t - 0.3 * total) / (0.7 * total))


CLOSED_FORMS = {
    "constant": lambda t, total: 1,
    "step": lambda t, total: 0.5 ** (t // 5),
    "step_tenth": lambda t, total: 0.1 ** (t // 20),
    "exponential": lambda t, total: math.exp(-0.1 * t),
    "inverse_time": lambda t, total: 1 / (1 + 0.2 * t),
    "cosine": lambda t, total: half_cosine(1, 0, t / total),
    "one_cycle": one_cycle,
}
"""The share of the base rate after t epochs."""


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize(("steps_per_epoch", "epochs"), [(3, 45), (7, 4), (1, 10)])
def test_rates_equal_the_closed_form(rates_of, name, steps_per_epoch, epochs):
    expected = [
        BASE * CLOSED_FORMS[name](step / steps_per_epoch, epochs) for step in range(steps_per_epoch * epochs)
    ]
    assert rates_of(name, steps_per_epoch, epochs, warmup_epochs=0) == pytest.approx(
        expected, rel=1e-12, abs=1e-15
    )


STEPS_PER_EPOCH, EPOCHS = 4, 45
STEPS = STEPS_PER_EPOCH * EPOCHS
TORCHS_OWN = {
    "constant": lambda optimizer: lr_scheduler.ConstantLR(optimizer, factor=1),
    "step": lambda optimizer: lr_scheduler.StepLR(optimizer, 5 * STEPS_PER_EPOCH, gamma=0.5),
    "step_tenth": lambda optimizer: lr_scheduler.StepLR(optimizer, 20 * STEPS_PER_EPOCH, gamma=0.1),
    "exponential": lambda optimizer: lr_scheduler.ExponentialLR(optimizer, math.exp(-0.1 / STEPS_PER_EPOCH)),
    "cosine": lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, STEPS),
    # torch reaches the top and the end one step earlier: with a step more it has the same two lengths.
    "one_cycle": lambda optimizer: lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=BASE,
        total_steps=STEPS + 1,
        pct_start=(0.3 * STEPS + 1) / (STEPS + 1),
        cycle_momentum=False,
    ),
}


@pytest.mark.parametrize("name", TORCHS_OWN)
def test_rates_equal_torchs_own_scheduler(rates_of, name):
    optimizer = base_optimizer()
    expected = walk(optimizer, TORCHS_OWN[name](optimizer), STEPS)
    assert rates_of(name, STEPS_PER_EPOCH, EPOCHS, warmup_epochs=0) == pytest.approx(
        expected, rel=1e-9, abs=1e-12
    )


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("warmup_epochs", [0.5, 1, 2.5])
def test_a_warm_up_raises_the_rates_linearly_to_those_of_the_schedule(rates_of, name, warmup_epochs):
    with_warmup = rates_of(name, 4, 10, warmup_epochs=warmup_epochs)
    without = rates_of(name, 4, 10, warmup_epochs=0)
    length = 4 * warmup_epochs
    expected = [rate * min(1, (step + 1) / length) for step, rate in enumerate(without)]
    assert with_warmup == pytest.approx(expected, rel=1e-12)


def test_torchs_linear_warm_up_is_the_same(rates_of):
    optimizer = base_optimizer()
    scheduler = lr_scheduler.LinearLR(optimizer, start_factor=1 / 8, total_iters=7)
    expected = walk(optimizer, scheduler, 20)
    assert rates_of("constant", 4, 5, warmup_epochs=2) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", CHOICES["schedule"])
def test_no_step_is_taken_at_a_rate_of_0_or_above_the_base(rates_of, name):
    assert all(0 < rate <= BASE for rate in rates_of(name, 5, 6))


def test_a_schedule_made_for_a_longer_run_gives_the_first_rates_of_that_run(rates_of):
    longer = rates_of("cosine", 4, 20)
    assert rates_of("cosine", 4, 10, epochs=20) == longer[:40]


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_a_schedule_stays_at_its_end_beyond_its_length(final):
    assert schedules.cosine(12, 10, final=final) == pytest.approx(final)
    assert schedules.one_cycle(12, 10, rise=0.3, initial=0.1, final=final) == pytest.approx(final)


def test_one_cycle_rises_then_falls(rates_of):
    rates = rates_of("one_cycle", 10, 10)
    assert rates.index(max(rates)) == 30
    assert max(rates) == pytest.approx(BASE)
    assert all(before < after for before, after in pairwise(rates[:31]))
    assert all(before > after for before, after in pairwise(rates[30:]))


def plateau_rates(schedule, accuracies):
    """The rate of every step, four an epoch, of a run with these accuracies."""
    optimizer = base_optimizer()
    plateau = schedule.plateau(optimizer, "max")
    scheduler = schedule.every_step(optimizer, 4, len(accuracies))
    rates = []
    for accuracy in accuracies:
        rates += walk(optimizer, scheduler, 4)
        plateau.step(accuracy)
    return rates


STALLED = [0.3, 0.5, 0.5, 0.5, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6]
"""Better after epochs 1, 2 and 6: three epochs in a row without a better one have passed after 5 and 9."""
AFTER_STALLS = [1.0] * 20 + [0.5] * 16 + [0.25] * 4


def test_plateau_halves_the_rate_after_three_epochs_without_a_better_accuracy(make):
    expected = [BASE * share for share in AFTER_STALLS]
    assert plateau_rates(make("plateau"), STALLED) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("warmup_epochs", [0.25, 0.5, 3, 7])
def test_plateau_with_a_warm_up_multiplies_both(make, warmup_epochs):
    length = 4 * warmup_epochs
    expected = [BASE * share * min(1, (step + 1) / length) for step, share in enumerate(AFTER_STALLS)]
    rates = plateau_rates(make("plateau", warmup_epochs=warmup_epochs), STALLED)
    assert rates == pytest.approx(expected, rel=1e-12)


def test_plateau_leaves_a_rising_accuracy_alone(make):
    rates = plateau_rates(make("plateau"), [0.1 * epoch for epoch in range(10)])
    assert rates == [BASE] * 40


def test_an_argument_that_the_schedule_does_not_take_is_refused(make):
    with pytest.raises(TypeError, match="evry"):
        make("step", evry=3)


@pytest.mark.parametrize("schedule_name", CHOICES["schedule"])
@pytest.mark.parametrize("optimizer_name", CHOICES["optimizer"])
def test_every_optimizer_goes_with_every_schedule(compose, optimizer_name, schedule_name):
    """By name alone: real steps of a small network, each at the rate that the schedule says."""
    steps_per_epoch, epochs = 3, 4
    # Each composed once: to compose every pair of them took most of the time here.
    config = compose(f"optimizer={optimizer_name}")
    config.schedule = compose(f"schedule={schedule_name}").schedule
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    inputs, targets = torch.randn(16, 4), torch.randn(16, 2)
    optimizer = optimizer_factory(plain(config.optimizer))(network)
    schedule = Schedule.from_config(plain(config.schedule))
    plateau = schedule.plateau(optimizer, "max")
    scheduler = schedule.every_step(optimizer, steps_per_epoch, epochs)

    def closure():
        optimizer.zero_grad()
        loss = mse_loss(network(inputs), targets)
        loss.backward()
        return loss

    def share(step):
        """As `Schedule` promises; the plateau sees the same accuracy after every epoch."""
        epoch = step / steps_per_epoch
        if plateau is not None:
            return config.schedule.factor if epoch > 3 + config.schedule.patience else 1.0
        warmup_steps = config.schedule.warmup_epochs * steps_per_epoch
        return min(1.0, (step + 1) / warmup_steps if warmup_steps else 1.0) * schedule.shape(epoch, epochs)

    for step in range(steps_per_epoch * epochs):
        before = [parameter.detach().clone() for parameter in network.parameters()]
        for group in optimizer.param_groups:
            scale = config.optimizer.rest_lr_scale if group.get("name") == "rest" else 1
            assert group["lr"] == pytest.approx(config.optimizer.lr * scale * share(step), rel=1e-9)
        assert optimizer.step(closure).isfinite()
        if optimizer_name != "lbfgs":  # which may have arrived
            changed = [not torch.equal(*pair) for pair in zip(before, network.parameters(), strict=True)]
            assert any(changed)
        if scheduler is not None:
            scheduler.step()
        if plateau is not None and step % steps_per_epoch == steps_per_epoch - 1:
            plateau.step(0.5)


@pytest.mark.parametrize("start", [4, 0.5])
def test_a_late_rate_takes_over_and_is_held(rates_of, start):
    late = {"start": start, "rate": 0.25, "cycle_epochs": None, "low": None}
    rates = rates_of("cosine", 5, 8, late=late, warmup_epochs=1)
    assert rates[:20] == rates_of("cosine", 5, 8, warmup_epochs=1)[:20]
    assert rates[20:] == pytest.approx([BASE * 0.25] * 20, rel=1e-12)


def test_a_late_rate_falls_in_a_straight_line_in_every_cycle(rates_of):
    late = {"start": 2, "rate": 0.5, "cycle_epochs": 2, "low": 0.1}
    rates = rates_of("constant", 3, 6, late=late)
    cycle = [BASE * (0.5 - 0.4 * step / 6) for step in range(6)]
    assert rates == pytest.approx([BASE] * 6 + cycle + cycle, rel=1e-12)
