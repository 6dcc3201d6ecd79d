"""Section 9 of the specification: the signal of a network as it is initialised."""

import pytest
import torch
from small_networks import TrainedNetwork, batch, convnet, initialized, mlp, named, same, state_of
from torch import Tensor, nn
from torch.nn import init

from vitals.checks.layer_variance import STEEP, check_layer_variance
from vitals.errors import UserError


def course_net() -> nn.Sequential:
    """The course's network: eight hidden layers of 256 ReLUs."""
    return mlp(*[256] * 8, inputs=256)


def course_inputs() -> torch.Tensor:
    return torch.randn(512, 256, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("rule", "arguments", "slope", "cause"),
    [
        (init.normal_, {"std": 0.01}, -1.92, {"bad-initialization": "fail"}),
        (init.kaiming_normal_, {}, -0.03, {}),
        (None, {}, -0.84, {"bad-initialization": "warn"}),
    ],
    ids=["gaussian 0.01", "He", "torch's default"],
)
def test_course_table(rule, arguments, slope, cause):
    net = initialized(course_net(), rule, **arguments) if rule else course_net()
    result = check_layer_variance(net, course_inputs())
    assert result.slope == pytest.approx(slope, abs=0.1)
    assert named(result) == cause
    assert len(result.layers) == 9


def test_table_reads_as_in_the_course():
    lines = check_layer_variance(course_net(), course_inputs()).table().splitlines()
    assert lines[0].startswith("Layer 0: Variance: 1.004")
    assert lines[8].startswith("Layer 8: Variance: ")


def test_default_initialization_hides_its_collapse_in_the_biases():
    last = check_layer_variance(course_net(), course_inputs()).layers[-1]
    assert last.variance > 1e-4
    assert last.signal_variance < 1e-6


class Residual(nn.Module):
    def __init__(self, blocks: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 16, 4, 4)
        self.branches = nn.ModuleList(nn.Conv2d(16, 16, 3, 1, 1) for _ in range(blocks))
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x).relu()
        for branch in self.branches:
            x = x + branch(x).relu()
        return self.head(x.mean((2, 3)))


class FunctionalSigmoid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(8))

    def forward(self, x):
        for layer in self.layers:
            x = torch.sigmoid(layer(x))
        return x


def at_rest(net: Residual) -> Residual:
    """As the identity: nothing passes the branches, all passes beside them."""
    for layer in (*net.branches, net.head):
        init.zeros_(layer.weight)
    return net


class Divided(nn.Module):
    def forward(self, x):
        return x / 255


class LearnedPosition(nn.Module):
    """An MLP of zero weights on a learned constant, beside which the image goes its way."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.place, self.image = nn.Parameter(torch.randn(1, 8)), nn.Linear(3 * 32 * 32, 8)
        self.mlp, self.head = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)), nn.Linear(8, 10)
        init.zeros_(self.mlp[0].weight)

    def forward(self, x):
        return self.head(self.image(x.flatten(1)) + self.mlp(self.place.expand(len(x), -1)))


def normed_far_below_zero() -> nn.Sequential:
    net = convnet(norm=True)
    for module in net:
        if isinstance(module, nn.BatchNorm2d):
            init.constant_(module.bias, -2.5)
    return net


def biased_convnet() -> nn.Sequential:
    net = convnet()
    for module in net:
        if isinstance(module, nn.Conv2d):
            init.constant_(module.bias, -3.0)
    return net


HEALTHY = {
    "convnet": lambda: convnet(),
    "BatchNorm": lambda: convnet(norm=True),
    "dropout": lambda: convnet(dropout=0.5),
    "residual": lambda: Residual(8),
    "shallow MLP": lambda: mlp(128, 64),
    "tanh Xavier": lambda: initialized(mlp(64, 64, 64, activation=nn.Tanh), init.xavier_normal_),
    "zero head and branches": lambda: at_rest(Residual(4)),
    "deep He": lambda: initialized(mlp(*[64] * 8), init.kaiming_normal_),
    "deep BatchNorm, wild weights": lambda: initialized(
        nn.Sequential(
            *[
                m
                for i in range(8)
                for m in (nn.Conv2d(16 if i else 3, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU())
            ]
        ),
        init.normal_,
        std=0.5,
    ),
}


@pytest.mark.parametrize("net", [LearnedPosition(), convnet(norm=True)], ids=["constants", "small inputs"])
def test_what_only_looks_like_a_lost_or_growing_signal_raises_no_alarm(net):
    assert named(check_layer_variance(net, 1e-3 * batch(64)[0])) == {}


class Features(nn.Module):
    """A layer for each of two features, of which the second has no value."""

    def __init__(self, cut_off: bool) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(32, 4)
        if cut_off:
            nn.init.constant_(self.first.bias, -100.0)

    def forward(self, inputs):
        first = self.first(inputs[:, :8]).relu()
        return self.head(torch.cat([first, self.second(inputs[:, 8:])], 1))


@pytest.mark.parametrize("cut_off", [False, True])
def test_what_the_inputs_have_for_zero_no_layer_has_cut_off(cut_off):
    inputs = torch.cat([torch.randn(64, 8), torch.zeros(64, 8)], 1)
    found = check_layer_variance(Features(cut_off), inputs)
    assert named(found) == {}
    assert found.layers[2].dead >= 0.5 * cut_off  # what is cut off, half of what enters, is seen as before


class TwoHeads(nn.Module):
    """Both behind a dropout that leaves a tenth."""

    def __init__(self, bias: float) -> None:
        super().__init__()
        self.trunk, self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 10), nn.Linear(64, 10)
        self.drop = nn.Dropout(0.9)
        nn.init.constant_(self.trunk.bias, bias)

    def forward(self, inputs):
        shared = self.drop(self.trunk(inputs).relu())
        return self.first(shared) + self.second(shared)


@pytest.mark.parametrize(("bias", "causes"), [(0.0, []), (-1.5, ["dead-relu"])])
def test_zeros_of_dropout_are_none_of_the_activations(bias, causes):
    assert list(named(check_layer_variance(TwoHeads(bias), torch.randn(256, 64)))) == causes


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_networks_raise_no_alarm(name):
    assert named(check_layer_variance(HEALTHY[name](), batch(64)[0])) == {}


def drops_all() -> nn.Module:
    net = convnet()
    return nn.Sequential(*net[:-1], nn.Dropout(1), net[-1])


@pytest.mark.parametrize(
    ("net", "inputs", "cause"),
    [
        (
            lambda: initialized(mlp(*[128] * 6), init.normal_, std=0.3),
            lambda: batch(64)[0],
            "bad-initialization",
        ),
        (lambda: initialized(mlp(64, 64), init.normal_), lambda: batch(64)[0], "bad-initialization"),
        (lambda: initialized(convnet(), init.zeros_), lambda: batch(64)[0], "bad-initialization"),
        (FunctionalSigmoid, lambda: torch.randn(64, 64), "vanishing-gradients"),
        (biased_convnet, lambda: batch(64)[0], "dead-relu"),
        (drops_all, lambda: batch(64)[0], "regularization-too-strong"),
        (normed_far_below_zero, lambda: batch(64)[0], "dead-relu"),
        (
            lambda: initialized(mlp(64, 64, activation=nn.Tanh), init.normal_),
            lambda: batch(64)[0],
            "saturated-activations",
        ),
        (lambda: mlp(64, 64, activation=nn.Tanh), lambda: 255 * batch(64)[0], "input-not-normalized"),
        (lambda: nn.Sequential(Divided(), mlp(64, 64)), lambda: batch(64)[0], "input-not-normalized"),
        (
            lambda: initialized(mlp(64, 64, activation=nn.Sigmoid), init.normal_),
            lambda: batch(64)[0],
            "saturated-activations",
        ),
    ],
    ids=[
        "wide weights",
        "two wide layers",
        "zero weights",
        "deep sigmoid",
        "bias of -3",
        "norms with a bias of -2.5",
        "dropout of one",
        "unit tanh",
        "raw pixels into tanh",
        "divided by 255 in the network as well",
        "unit sigmoid",
    ],
)
def test_sick_networks_are_named(net, inputs, cause):
    assert list(named(check_layer_variance(net(), inputs()))) == [cause]


def test_a_signal_that_wears_off_over_many_layers_is_lost_however_little_each_takes():
    deep = mlp(*[128] * 40, activation=nn.Tanh)
    for layer in deep:
        if isinstance(layer, nn.Linear):
            init.xavier_normal_(layer.weight, gain=0.8)
    found = check_layer_variance(deep, batch(64)[0])
    assert list(named(found)) == ["bad-initialization"]
    assert -STEEP < found.slope < 0


def test_adam_bears_a_collapse_that_sgd_does_not():
    net = mlp(*[128] * 7)
    for make, alarms in ((torch.optim.SGD, 1), (torch.optim.Adam, 0), (torch.optim.Rprop, 0)):
        optimizer = make(net.parameters(), lr=0.01)
        assert len(named(check_layer_variance(net, batch(64)[0], optimizer))) == alarms


@pytest.mark.parametrize(
    ("net", "inputs", "word"),
    [(nn.ReLU(), torch.randn(4, 2), "model"), (nn.Linear(2, 2), torch.randn(1, 2), "inputs")],
)
def test_what_cannot_be_measured_is_an_error(net, inputs, word):
    with pytest.raises(UserError, match=word):
        check_layer_variance(net, inputs)


def test_leaves_everything_as_it_was():
    training = TrainedNetwork()
    before = state_of(training.model, training.optimizer)
    check_layer_variance(training.model, batch(32)[0])
    with pytest.raises(RuntimeError):
        check_layer_variance(training.model, torch.zeros(4, 5, 32, 32))
    assert same(before, state_of(training.model, training.optimizer))
    assert not any(module._forward_pre_hooks for module in training.model.modules())


def test_signs_are_no_saturated_activations():
    class Sign(nn.Module):
        def forward(self, x):
            return x + (x.sign() - x).detach()

    net = nn.Sequential(
        nn.Flatten(), nn.Linear(3072, 32), Sign(), nn.Linear(32, 32), Sign(), nn.Linear(32, 10)
    )
    found = check_layer_variance(net, batch(64)[0]).findings()
    assert "saturated-activations" not in [finding.cause for finding in found if finding.alarming]


def test_values_at_the_very_limits_of_tanh_are_saturated():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 32), nn.Tanh(), nn.Linear(32, 10))
    init.normal_(net[1].weight, std=1e5)
    assert set(net[:3](batch(64)[0]).unique().tolist()) == {-1.0, 1.0}
    found = check_layer_variance(net, batch(64)[0]).findings()
    assert "saturated-activations" in [finding.cause for finding in found if finding.alarming]


class AttentionNet(nn.Module):
    def __init__(self, scale, by_hand):
        super().__init__()
        torch.manual_seed(0)
        self.scale, self.by_hand = scale, by_hand
        self.embed, self.query, self.key = nn.Embedding(20, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.head = nn.Linear(32, 20)

    def forward(self, tokens):
        x = self.embed(tokens)
        query, key = self.query(x), self.key(x)
        if self.by_hand:
            mixed = (self.scale * query @ key.transpose(1, 2)).softmax(-1) @ x
        else:
            mixed = nn.functional.scaled_dot_product_attention(query, key, x, scale=self.scale)
        return self.head(x + mixed)


@pytest.mark.parametrize("by_hand", [True, False])
def test_an_attention_that_looks_at_one_place_alone_before_it_has_learned_is_saturated(by_hand):
    tokens = torch.randint(20, (32, 16), generator=torch.Generator().manual_seed(0))
    net = AttentionNet(32.0, by_hand)
    result = check_layer_variance(net, tokens)
    assert named(result) == {"saturated-activations": "warn"}
    assert result.attention == "key"
    assert named(check_layer_variance(AttentionNet(32**-0.5, by_hand), tokens)) == {}
    with torch.no_grad():
        net.query.weight *= 1.7  # as a trained one may be, on purpose
        net.key.weight *= 0.6
        net.head.weight *= 1.3
    assert named(check_layer_variance(net, tokens)) == {}


class Binarized(nn.Linear):
    def forward(self, x):
        return nn.functional.linear(x.sign(), self.weight.sign())


def test_hard_limits_hold_many_values_by_their_nature_but_not_in_all_layers():
    def net(depth: int) -> nn.Sequential:
        torch.manual_seed(0)
        layers = [nn.Linear(256, 128), nn.BatchNorm1d(128), nn.Hardtanh()]
        for _ in range(depth):  # sums of signs without a normalization, of which 93% are beyond the limits
            layers += [Binarized(128, 128), nn.Hardtanh()]
        return nn.Sequential(*layers, nn.Linear(128, 10))

    assert named(check_layer_variance(net(2), course_inputs())) == {}
    result = check_layer_variance(net(4), course_inputs())
    assert named(result) == {"saturated-activations": "fail"}
    assert "passes all 4 layers" in result.findings()[0].message


class Quantized(nn.Module):
    """An autoencoder with a code book of which one code is the nearest to all."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.encoder, self.decoder = mlp(*[64] * 3, inputs=256, outputs=16), mlp(*[64] * 3, inputs=16)
        self.register_buffer("codes", torch.cat([torch.zeros(1, 16), 9 + torch.randn(7, 16)]))

    def forward(self, x):
        z = self.encoder(x)
        code = self.codes[torch.cdist(z, self.codes).argmin(1)]
        return self.decoder(z + (code - z).detach())


def test_a_quantizer_whose_codes_have_collapsed_is_no_fault_of_the_weights():
    assert named(check_layer_variance(Quantized(), course_inputs())) == {}


class Timed(nn.Module):
    """The step of a diffusion, as sines and cosines, beside the image; or squashed by a tanh."""

    def __init__(self, squashed: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.squashed = squashed
        self.image, self.time, self.head = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        image = self.image(x)
        angles = 100 * x[:, :1].abs() * torch.logspace(0, -4, 16)
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        return self.head(torch.relu(image + self.time(torch.tanh(9 * waves) if self.squashed else waves)))


@pytest.mark.parametrize("squashed", [False, True])
def test_sines_are_at_their_limits_by_their_nature(squashed: bool) -> None:
    result = check_layer_variance(Timed(squashed), torch.randn(64, 8))
    assert [each.cause for each in result.findings() if each.alarming] == ["saturated-activations"] * squashed


class Winners(nn.Module):
    """The k largest of what a layer gives, and zeros, as in networks that are sparse on purpose."""

    def forward(self, x: Tensor) -> Tensor:
        values, places = x.topk(8, dim=1)
        return torch.zeros_like(x).scatter(1, places, values)


def test_as_many_zeros_in_each_sample_are_meant():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 128), Winners(), nn.Linear(128, 128), Winners(), nn.Linear(128, 10))
    assert named(check_layer_variance(net, torch.randn(64, 64))) == {}


class Counted(nn.Module):
    """Of how often each word comes in a text, as a share of it, or as it came over a large number."""

    def __init__(self, normalizes: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.normalizes, self.net = normalizes, mlp(*[64] * 2, inputs=2000)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x / x.sum(dim=1, keepdim=True) if self.normalizes else x / 255)


@pytest.mark.parametrize("normalizes", [False, True])
def test_shares_of_counts_are_not_scaled_away(normalizes: bool) -> None:
    counts = torch.poisson(torch.full((64, 2000), 0.05), generator=torch.Generator().manual_seed(0))
    result = check_layer_variance(Counted(normalizes), counts)
    assert named(result) == ({} if normalizes else {"input-not-normalized": "warn"})


def test_the_zeros_that_a_recurrence_by_hand_begins_with_are_not_dead_units():
    class Recurrence(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.enter, self.recur, self.leave = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 10)

        def forward(self, rows):
            state = torch.zeros(len(rows), 32)
            for row in rows.unbind(1):
                state = (self.enter(row) + self.recur(state)).tanh()
            return self.leave(state)

    result = check_layer_variance(Recurrence(), torch.randn(64, 8, 8))
    assert named(result) == {}
    assert [row.name for row in result.layers] == ["input", "enter", "recur"]
