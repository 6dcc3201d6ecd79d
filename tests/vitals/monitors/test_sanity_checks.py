"""The checks before the first step of somebody's training: what they name, and that they leave no trace."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from foreign import (
    Attention,
    EvalInside,
    Foreign,
    FrozenHead,
    Manual,
    NoisyDigits,
    Residual,
    SoftmaxInside,
    TrainsInValidation,
    TwoOptimizers,
    alarms,
    convnet,
    digits,
    fit,
    loader,
    mlp,
    quick,
)
from lightning.pytorch.callbacks import BackboneFinetuning, Callback
from lightning.pytorch.loggers import TensorBoardLogger
from monitoring import GAN, same
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from vitals.checks.registry import BUILT_IN, GROUPS
from vitals.checks.sanity_checks import SanityChecks
from vitals.errors import ChecksFailed, UserError
from vitals.findings import read_findings


def state(trainer: Any, module: Foreign) -> list[Any]:
    """Weights, buffers, modes, optimizer state and random states, copied."""
    return copy.deepcopy(
        [
            module.state_dict(),
            {name: part.training for name, part in module.named_modules()},
            [optimizer.state_dict() for optimizer in trainer.optimizers],
            [torch.get_rng_state(), random.getstate(), np.random.get_state()],  # noqa: NPY002
            sorted(key for key in vars(module)),
        ]
    )


class Watch(Callback):
    """The state right before and after the callback between two of these."""

    def __init__(self) -> None:
        self.state: list[Any] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.state = state(trainer, pl_module)


def breaks(check: Any, setup: Any, options: Any) -> Any:
    torch.manual_seed(99)
    setup.model.train(False)
    raise RuntimeError("out of ink")


@pytest.mark.parametrize("broken", ["", "tiny_subset", "inputs"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_training_is_the_same_to_the_bit_with_the_checks_and_without(
    broken: str, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if broken:
        monkeypatch.setattr(f"{BUILT_IN[broken]}.run", breaks)

    def run(*callbacks: Callback) -> tuple[Foreign, Any]:
        module = Foreign(convnet())
        generator = torch.Generator().manual_seed(3)
        data = DataLoader(
            NoisyDigits(),
            batch_size=64,
            shuffle=True,
            generator=generator,
            num_workers=workers,
            persistent_workers=workers > 0,
        )
        return module, state(fit(module, tmp_path, *callbacks, train=data, max_epochs=2), module)

    before, after = Watch(), Watch()
    plain, plain_end = run()
    checked, checked_end = run(before, quick(burn_in_steps=2), after)
    assert same(before.state, after.state)
    assert plain.seen == checked.seen
    assert same(plain_end, checked_end)
    skipped = [
        finding.where for finding in read_findings(tmp_path / "findings.json") if finding.cause == "skipped"
    ]
    assert (broken in skipped) == bool(broken)


HEALTHY = {
    "mlp": lambda: Foreign(mlp()),
    "residual": lambda: Foreign(Residual()),
    "transformer": lambda: Foreign(Attention()),
    "manual optimisation": lambda: Manual(mlp(norm=True)),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_right_training_raises_no_alarm_and_every_check_has_a_verdict(name: str, tmp_path: Path) -> None:
    checks, module = quick(), HEALTHY[name]()
    fit(module, tmp_path, checks)
    assert alarms(checks.findings) == []
    assert [row.name for row in checks.rows] == [
        name for name in GROUPS["default"] if name != "gradients_after_burn_in"
    ]
    normalizes = any(isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) for part in module.modules())
    skipped = [] if normalizes else ["running_statistics"]
    assert [row.name for row in checks.rows if row.verdict == "skipped"] == skipped


def doubled(scale: float = 255.0) -> Any:
    images, labels = digits()
    return DataLoader(TensorDataset(scale * images + scale, labels), batch_size=32, shuffle=True)


class DropsAlways(nn.Module):
    """Dropout as a function, which is not told of the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return self.net[3](F.dropout(self.net[:3](x), 0.5))


SICK = {
    "eval-mode-training": (lambda: EvalInside(convnet()), None),
    "double-softmax": (lambda: SoftmaxInside(mlp()), None),
    "frozen-parameters": (lambda: FrozenHead(mlp()), None),
    "train-mode-evaluation": (lambda: TrainsInValidation(convnet()), None),
    "train-mode-evaluation ": (lambda: Foreign(DropsAlways()), None),
    "train-val-mismatch": (lambda: Foreign(mlp(norm=True)), lambda: doubled(3.0)),
    "input-not-normalized": (lambda: Foreign(mlp()), doubled),
    "data-not-shuffled": (
        lambda: Foreign(mlp()),
        lambda: DataLoader(
            TensorDataset(digits()[0][digits()[1].argsort()], digits()[1].sort().values), batch_size=32
        ),
    ),
}


@pytest.mark.parametrize("cause", SICK)
def test_what_is_hidden_in_a_foreign_module_is_named(cause: str, tmp_path: Path) -> None:
    make, data = SICK[cause]
    checks = quick()
    fit(make(), tmp_path, checks, train=data and data(), logger=TensorBoardLogger(tmp_path))
    assert cause.strip() in alarms(checks.findings)[:2]


def test_of_several_losses_each_is_looked_at_and_the_rest_is_left_out_with_the_reason(tmp_path: Path) -> None:
    checks = quick()
    fit(TwoOptimizers(), tmp_path, checks)
    each = ["wiring", "running_statistics", "validation_mode", "gradients", "layer_variance"]
    each += ["regularization", "tiny_subset", "step_size"]
    assert [row.name for row in checks.rows] == each
    said = [each.message for each in checks.findings if each.cause == "tiny-subset-fits"]
    assert [message.partition(":")[0] for message in said] == [
        "By the loss of 'net'",
        "By the loss of 'other'",
    ]
    skipped = [each.message for each in read_findings(tmp_path / "findings.json") if each.cause == "skipped"]
    [message] = [each for each in skipped if "2 losses that different optimizers minimise" in each]
    assert "inputs" in message
    assert "tiny subset" not in message


class OneIsOff(TwoOptimizers):
    """The second of two networks that have nothing to do with one another is at fault."""

    def __init__(self, rate: float = 0.1, scale: float = 1.0) -> None:
        super().__init__()
        self.rate = rate
        deep = [part for _ in range(5 * (scale < 1)) for part in (nn.Linear(32, 32), nn.ReLU())]
        self.other = nn.Sequential(*mlp()[:-1], *deep, nn.Linear(32, 10))
        with torch.no_grad():
            for parameter in self.other.parameters():
                parameter.mul_(scale)

    def configure_optimizers(self) -> Any:
        rates = (self.net, 0.1), (self.other, self.rate)
        return [torch.optim.SGD(net.parameters(), lr=rate) for net, rate in rates]


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({}, ""),
        ({"rate": 1e4}, "learning-rate-too-high"),
        ({"rate": 1e-5}, "learning-rate-too-low"),
        ({"scale": 0.02}, "bad-initialization"),
    ],
)
def test_of_two_losses_the_one_at_fault_is_named(
    options: dict[str, float], cause: str, tmp_path: Path
) -> None:
    checks = quick(checks=["layer_variance", "step_size"])
    fit(OneIsOff(**options), tmp_path, checks)
    said = {finding.cause: finding.message for finding in checks.findings if finding.alarming}
    assert cause in said if cause else not said
    assert all(message.startswith("By the loss of 'other': ") for message in said.values())


def test_how_far_a_generator_gets_with_a_critic_that_stands_still_says_nothing_of_its_rate(
    tmp_path: Path,
) -> None:
    checks = quick(checks=["step_size"])
    module = GAN()
    module.configure_optimizers = lambda: [  # type: ignore[method-assign]
        torch.optim.Adam(net.parameters(), 2e-6) for net in (module.net, module.critic)
    ]
    fit(module, tmp_path, checks, limit_val_batches=0)
    assert alarms(checks.findings) == []


def test_tags_pictures_and_findings_can_be_read_back(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    checks = quick(checks=["full"])
    fit(Foreign(convnet(), 0.01), tmp_path, checks, logger=logger)
    events = EventAccumulator(logger.log_dir, size_guidance={"scalars": 0}).Reload()
    scalars = {"loss_at_chance", "regularised_loss", "tiny_subset_loss", "gradient_error"}
    assert {f"checks/{name}" for name in scalars} <= set(events.Tags()["scalars"])
    images = {"inputs", "tiny_subset", "step_size", "layer_variance"}
    assert {f"checks/{name}" for name in images} | {"checks/gradcheck/h_curve"} == set(
        events.Tags()["images"]
    )
    assert "findings/text_summary" in events.Tags()["tensors"]
    [errors] = events.Histograms("checks/gradcheck/rel_error")
    gradients = next(row.result for row in checks.rows if row.name == "gradients")
    assert errors.histogram_value.num == len(gradients.relative_errors)
    assert 10**errors.histogram_value.max == pytest.approx(max(gradients.relative_errors), rel=1e-3)
    curve = [event.value for event in events.Scalars("checks/tiny_subset_loss")]
    tiny = next(row.result for row in checks.rows if row.name == "tiny_subset")
    assert curve == pytest.approx(tiny.final.losses)
    assert read_findings(Path(logger.log_dir) / "findings.json") == checks.findings


def test_a_failure_ends_the_program_with_code_3_before_the_first_step(tmp_path: Path) -> None:
    module = SoftmaxInside(mlp())
    with pytest.raises(ChecksFailed, match="Remove the softmax") as stop:
        fit(module, tmp_path, quick(on_fail="stop"))
    assert stop.value.code == 3
    assert module.seen == []
    assert read_findings(tmp_path / "findings.json")[0].cause == "double-softmax"


def test_warn_goes_on(tmp_path: Path) -> None:
    module = SoftmaxInside(mlp())
    fit(module, tmp_path, quick(checks=["wiring"], on_fail="warn"))
    assert len(module.seen) == 8


def test_a_wrong_name_of_a_check_is_answered() -> None:
    with pytest.raises(UserError, match="did you mean wiring"):
        SanityChecks(["wirin"])


@pytest.mark.parametrize(
    ("sampler", "causes"),
    [
        (list(range(10)) * 20, ["overfitting"]),
        (WeightedRandomSampler([1.0] * 200 + [5.0] * 56, 256), []),
    ],
)
def test_a_sampler_that_draws_a_few_samples_over_and_over_is_told(
    sampler: Any, causes: list[str], tmp_path: Path
) -> None:
    checks = quick(checks=["inputs"])
    fit(Foreign(mlp()), tmp_path, checks, train=loader(shuffle=False, sampler=sampler))
    assert alarms(checks.findings) == causes


class Views(Foreign):
    """Two views of each image in one batch, and the labels in one order or another."""

    def __init__(self, labels: Any) -> None:
        super().__init__(mlp())
        self.labels = labels

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        both = torch.cat([x, x + 0.1 * torch.randn_like(x)])
        return F.cross_entropy(self.net(both), self.labels(y))


class Mixed(Foreign):
    """Each image is mixed with another, and has the labels of both."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        other = torch.randperm(len(y))
        outputs = self.net(0.7 * x + 0.3 * x[other])
        return 0.7 * F.cross_entropy(outputs, y) + 0.3 * F.cross_entropy(outputs, y[other])


class Flipped(Foreign):
    """Half of the batches are turned over along `dim`."""

    def __init__(self, dim: int) -> None:
        super().__init__(mlp())
        self.dim = dim

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return F.cross_entropy(self.net(x.flip(self.dim) if torch.rand(()) < 0.5 else x), y)


class Moved(Foreign):
    """The images are moved on by one, the labels are not."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return F.cross_entropy(self.net(x.roll(1, 0)), y)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (lambda: Views(lambda y: y.repeat_interleave(2)), True),
        (lambda: Views(lambda y: y.repeat(2)), False),
        (lambda: Mixed(mlp()), False),
        (lambda: Foreign(mlp(norm=True)), False),
        (lambda: Moved(mlp()), True),
        (lambda: Flipped(0), True),
        (lambda: Flipped(-1), False),
    ],
    ids=["interleaved", "repeated", "mixed", "plain", "moved", "turned over", "mirrored"],
)
def test_labels_that_go_to_the_outputs_of_others_are_told(module: Any, said: bool) -> None:
    checks = SanityChecks(["wiring"], on_fail="warn")
    fit(module(), None, checks)
    assert [f.cause for f in checks.findings if f.alarming] == ["labels-random"] * said


class Product(nn.Module):
    """Of the vectors of two numbers, the second of which may be left out, or may start at zero."""

    def __init__(self, used: bool = True, start: float = 0.1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.users, self.films, self.used = nn.Embedding(20, 4), nn.Embedding(20, 4), used
        nn.init.normal_(self.users.weight, std=start)

    def forward(self, users: Tensor, films: Tensor) -> Tensor:
        return (self.users(users) * self.films(films if self.used else users)).sum(1)


class Ratings(Foreign):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        users, films, y = batch
        return F.mse_loss(self.net(users, films), y)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        return None


@pytest.mark.parametrize(
    ("net", "said"),
    [(lambda: Product(used=False), True), (lambda: Product(), False), (lambda: Product(start=0.0), False)],
    ids=["left out", "used", "behind zeros"],
)
@pytest.mark.parametrize("alike", [False, True])
def test_an_argument_of_which_the_network_makes_nothing_is_told(net: Any, said: bool, alike: bool) -> None:
    checks = SanityChecks(["wiring"], on_fail="warn")
    users, films = torch.randint(20, (2, 128), generator=torch.Generator().manual_seed(0))
    rows = TensorDataset(users, films.fill_(3) if alike else films, torch.randn(128))
    fit(Ratings(net()), None, checks, train=DataLoader(rows, 32))
    causes = [finding.cause for finding in checks.findings if finding.alarming]
    assert ("input-constant" in causes) is (said and not alike)


class Carried(Foreign):
    """An LSTM's state goes on from batch to batch, and begins anew with each epoch."""

    hidden: Any = None

    def __init__(self) -> None:
        super().__init__(nn.LSTM(8, 12, batch_first=True))
        self.head = nn.Linear(12, 10)

    def on_train_epoch_start(self) -> None:
        self.hidden = None

    def on_validation_epoch_start(self) -> None:
        self.hidden = None

    def loss(self, batch: Any) -> Tensor:
        x, y = batch
        states, hidden = self.net(x.view(-1, 8, 8), self.hidden)
        self.hidden = tuple(each.detach() for each in hidden)
        return F.cross_entropy(self.head(states[:, -1]), y)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.loss(batch)


@pytest.mark.parametrize("tried", [0, 1])
def test_a_state_that_goes_on_from_batch_to_batch_is_not_that_of_validation(
    tried: int, tmp_path: Path
) -> None:
    checks, data = quick(checks=["tiny_subset", "wiring"]), loader(drop_last=True)
    validation = DataLoader(TensorDataset(*(each[:40] for each in digits())), batch_size=20)
    fit(Carried(), tmp_path, checks, train=data, validation=validation, num_sanity_val_steps=tried)
    assert not [each.message for each in checks.findings if each.alarming or "fails" in each.message]
    assert checks.made == 2


class Plays(Foreign):
    """Steps to the left or the right until it falls off; or draws points and asks for their sine."""

    def __init__(self, draws: bool) -> None:
        super().__init__(nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 2)))
        self.draws = draws

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if self.draws:
            x = torch.rand(20, 1)
            return sum(
                (F.mse_loss(self.net(part)[:, :1], part.sin()) for part in x.split(10)), x.new_zeros(())
            )
        place, losses = torch.zeros(1), []
        while place.abs() < 3 and len(losses) < 20:
            choice = torch.distributions.Categorical(logits=self.net(place))
            action = choice.sample()
            losses.append(choice.log_prob(action))
            place = place + 2 * action - 1
        return torch.stack(losses).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        return None


@pytest.mark.parametrize("draws", [False, True])
def test_a_step_that_plays_is_told_from_one_that_draws_its_points(draws: bool, tmp_path: Path) -> None:
    checks = quick(checks=["step_size"])
    fit(Plays(draws), tmp_path, checks, train=DataLoader(TensorDataset(torch.zeros(3))), max_steps=1)
    assert checks.facts["plays"] == (not draws)
    assert not draws or (0 < checks.facts["best_gain"] < 1 and checks.facts["best_length"] > 0)


class TrunkAndHead(Foreign):
    def __init__(self) -> None:
        layers = nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10)
        super().__init__(nn.Sequential(*layers))
        self.backbone = self.net[:-1]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 0.1)


@pytest.mark.parametrize(("epoch", "causes"), [(2, ["frozen-parameters"]), (1, [])])
def test_new_layers_that_thaw_after_the_end_are_told(epoch: int, causes: list[str], tmp_path: Path) -> None:
    checks = quick(checks=["wiring"])
    fit(TrunkAndHead(), tmp_path, BackboneFinetuning(epoch), checks, max_epochs=2)
    assert alarms(checks.findings) == causes


@pytest.mark.parametrize(("epoch", "causes"), [(2, ["underfitting"]), (1, [])])
def test_layers_that_thaw_later_learn_a_few_examples_as_well(
    epoch: int, causes: list[str], tmp_path: Path
) -> None:
    checks = quick(checks=["tiny_subset"])
    fit(TrunkAndHead(), tmp_path, BackboneFinetuning(epoch), checks, max_epochs=2)
    assert alarms(checks.findings) == causes


class Fixpoint(nn.Module):
    """A state that is looked for without a gradient; `once` leaves out the last application, with one."""

    def __init__(self, once: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.below, self.inner, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
        self.once = once

    def forward(self, x: Tensor) -> Tensor:
        x = self.below(x.flatten(1))
        state = torch.zeros_like(x)
        with torch.no_grad():
            for _ in range(3):
                state = torch.tanh(self.inner(state) + x)
        return self.head(state * x if self.once else torch.tanh(self.inner(state) + x))


@pytest.mark.parametrize("once", [False, True])
def test_the_gradient_of_the_last_of_many_applications_may_be_meant(once: bool, tmp_path: Path) -> None:
    checks = quick(checks=["gradients"])
    fit(Foreign(Fixpoint(once)), tmp_path, checks, max_steps=1)
    assert bool(alarms(checks.findings)) == once
