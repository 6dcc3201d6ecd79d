"""Every parameter learns, images do not leak into each other, modes are right."""

import pytest
import torch
import torch.nn.functional as F
import torchvision
from small_networks import TrainedNetwork, batch, convnet, initialized, mlp, named, same, state_of
from torch import nn
from torch.nn import init
from torch.optim import SGD, Adam
from torch.utils.checkpoint import checkpoint

from vitals.checks.wiring import check_wiring
from vitals.errors import UserError


def zero_head():
    net = convnet(norm=True)
    init.zeros_(net[-1].weight)
    return net


class ZeroBranch(nn.Module):
    """A residual branch that ends in zero weights, as in Fixup."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.inner, self.outer = (nn.Conv2d(i, 8, 3, 2, 1) for i in (3, 8, 8))
        init.zeros_(self.outer.weight)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = self.stem(x).relu()
        x = x[:, :, ::4, ::4] + self.outer(self.inner(x).relu())
        return self.head(x.mean((2, 3)))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 16, 8, 8)
        layer = nn.TransformerEncoderLayer(16, 2, 32, norm_first=True, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.encoder(self.patches(x).flatten(2).transpose(1, 2)).mean(1))


class Spectrum(nn.Module):
    """Weights that are complex numbers."""

    def __init__(self):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.filter = nn.Parameter(torch.randn(3, 32, 17, dtype=torch.cfloat, generator=draw))
        self.head = nn.Linear(3 * 32 * 32, 10)

    def forward(self, x):
        return self.head(torch.fft.irfft2(torch.fft.rfft2(x) * self.filter).flatten(1))


def pretrained_norm():
    """BatchNorm that keeps the statistics of an earlier training."""
    net = convnet(norm=True)
    net(batch(64)[0])
    net[1].eval()
    return net


def frozen_stem():
    net = convnet(dropout=0.5)
    net[0].requires_grad_(False)
    return net


HEALTHY = {
    "convnet": convnet,
    "BatchNorm and dropout": lambda: convnet(norm=True, dropout=0.5),
    "zero head": zero_head,
    "zero branch": ZeroBranch,
    "attention": Attention,
    "complex weights": Spectrum,
    "torchvision": lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=10),
    "log-softmax": lambda: nn.Sequential(convnet(), nn.LogSoftmax(1)),
    "ReLU at the end": lambda: nn.Sequential(convnet(), nn.ReLU()),
    "pretrained statistics": pretrained_norm,
    "frozen stem": frozen_stem,
}


@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_networks_raise_no_alarm(name):
    net = HEALTHY[name]()
    assert named(check_wiring(net, F.cross_entropy, *batch(32), Adam(net.parameters()))) == {}


def test_what_is_frozen_on_purpose_is_noted():
    result = check_wiring(frozen_stem(), F.cross_entropy, *batch(32))
    assert result.frozen == ("0.weight", "0.bias")
    assert [finding.level for finding in result.findings()] == ["ok", "note"]


def frozen_body(trained: bool, drawn: str = "default"):
    """A network of which all but the head is frozen."""
    torch.manual_seed(0)
    net = convnet(norm=True)
    if drawn == "he":
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                init.kaiming_normal_(module.weight)
    if trained:
        optimizer = Adam(net.parameters(), 1e-3)
        for _ in range(20):
            optimizer.zero_grad()
            F.cross_entropy(net(batch(64)[0]), batch(64)[1]).backward()
            optimizer.step()
    net[:-1].requires_grad_(False)
    return net


@pytest.mark.parametrize("drawn", ["default", "he"])
def test_layers_frozen_as_they_were_drawn_are_told_from_pretrained_ones(drawn):
    fresh, trained = (
        check_wiring(frozen_body(trained, drawn), F.cross_entropy, *batch(64)) for trained in (False, True)
    )
    assert named(fresh)["frozen-parameters"] == "warn"
    assert "freshly drawn" in fresh.findings()[0].message
    assert "frozen-parameters" not in named(trained)


@pytest.mark.parametrize("filtered", [True, False])
def test_fresh_layers_are_not_meant_to_be_frozen_because_the_optimizer_leaves_them_out(filtered):
    net = frozen_body(trained=False)
    optimizer = SGD((net[-1] if filtered else net).parameters(), 0.1)
    assert "frozen-parameters" in named(check_wiring(net, F.cross_entropy, *batch(64), optimizer))
    teacher = {name for name, _ in net[:-1].named_parameters()}
    found = check_wiring(net, F.cross_entropy, *batch(64), optimizer, left_out=teacher)
    assert "frozen-parameters" not in named(found)


@pytest.mark.parametrize(("place", "named_it"), [(0, False), (1, True), (2, False)])
def test_a_single_fresh_layer_frozen_between_others_is_named(place, named_it):
    """The first may be a random projection, and the last a classifier that is fixed."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 32), nn.ReLU(), nn.Linear(32, 32), nn.Tanh())
    net.append(nn.Linear(32, 10))
    layers = [part for part in net if isinstance(part, nn.Linear)]
    layers[place].requires_grad_(False)
    found = check_wiring(net, F.cross_entropy, *batch(64), Adam(net.parameters()))
    assert named(found) == ({"frozen-parameters": "warn"} if named_it else {})
    if named_it:
        assert "between others that learn" in found.findings()[0].message


class Reservoir(nn.Module):
    """Reads rows with a recurrence of its own, whose weights stay as they were drawn."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.recur, self.leave = nn.Linear(96, 32), nn.Linear(32, 32), nn.Linear(32, 10)
        self.recur.requires_grad_(False)

    def forward(self, images):
        state = torch.zeros(len(images), 32)
        for row in images.transpose(1, 2).flatten(2).unbind(1):
            state = (self.enter(row) + self.recur(state)).tanh()
        return self.leave(state)


def random_filters():
    torch.manual_seed(0)
    filters = nn.Conv2d(8, 16, 3, groups=8, bias=False).requires_grad_(False)
    learned = nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), filters, nn.ReLU(), nn.Conv2d(16, 8, 1), nn.ReLU()
    return nn.Sequential(*learned, nn.Flatten(), nn.Linear(8 * 6 * 6, 10))


@pytest.mark.parametrize("make", [Reservoir, random_filters])
def test_weights_that_are_drawn_and_kept_on_purpose_are_noted(make):
    net = make()
    found = check_wiring(net, F.cross_entropy, *batch(64), Adam(net.parameters()))
    assert named(found) == {}


class Detached(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = mlp(16, outputs=16), nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.body(x).detach())


class Checkpointed(nn.Module):
    """Images need no gradient, so that a reentrant checkpoint passes none to the layers in it."""

    def __init__(self):
        super().__init__()
        self.body, self.head = mlp(16, outputs=16), nn.Linear(16, 10)

    def forward(self, x):
        return self.head(checkpoint(self.body, x, use_reentrant=True))


class OfAZeroHead(Detached):
    """Its head starts at zero, as in diffusion, so that no layer before it changes the outputs yet."""

    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.head.weight)


def test_what_is_cut_off_before_a_head_of_zeros_is_not_said_to_be_left_out():
    net = OfAZeroHead()
    (finding,) = check_wiring(net, F.cross_entropy, *batch(32), Adam(net.parameters())).findings()
    assert "change the outputs, but no gradient gets to them" in finding.message


class WithASideHead(nn.Module):
    """Its forward computes what the loss does not take."""

    def __init__(self):
        super().__init__()
        self.body, self.head, self.side = mlp(16, outputs=16), nn.Linear(16, 10), nn.Linear(16, 4)

    def forward(self, x):
        x = self.body(x)
        self.beside = self.side(x)
        return self.head(x)


def test_a_head_that_the_loss_does_not_take_is_a_warning_that_says_so():
    net = WithASideHead()
    (found,) = check_wiring(net, F.cross_entropy, *batch(32), Adam(net.parameters())).findings()
    assert (found.level, "outputs the loss does not take" in found.remedy) == ("warn", True)


class OverTheBatch(nn.Module):
    """Softmax over the images of a batch instead of the features of each."""

    def __init__(self):
        super().__init__()
        self.body, self.head = mlp(16, outputs=16), nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.body(x).softmax(dim=0))


class Stepped(nn.Module):
    """A function with steps in the middle."""

    def __init__(self, step):
        super().__init__()
        self.body, self.step, self.head = mlp(16, outputs=16), step, nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.step(self.body(x)))


def saturated():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 16), nn.Tanh(), nn.Linear(16, 10))
    init.normal_(net[1].weight, std=100.0)
    return net


def all_zero():
    return initialized(mlp(16, 16), lambda weight: init.zeros_(weight)).apply(
        lambda module: init.zeros_(module.bias) if isinstance(module, nn.Linear) else None
    )


def dead():
    net = convnet()
    init.constant_(net[2].bias, -100.0)
    return net


def stateless_norm():
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(16, track_running_stats=False)
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 16), norm, nn.ReLU(), nn.Linear(16, 10))


SICK = {
    "softmax": (lambda: nn.Sequential(convnet(), nn.Softmax(1)), {"double-softmax": "fail"}),
    "sigmoid": (lambda: nn.Sequential(convnet(), nn.Sigmoid()), {"double-softmax": "fail"}),
    "evaluation mode": (lambda: convnet(norm=True).eval(), {"eval-mode-training": "fail"}),
    "dropout in evaluation mode": (lambda: convnet(dropout=0.5).eval(), {"eval-mode-training": "fail"}),
    "detached": (Detached, {"frozen-parameters": "warn"}),
    "checkpointed": (Checkpointed, {"frozen-parameters": "warn"}),
    "equal weights": (
        lambda: initialized(mlp(32, 16), init.constant_, val=0.01),
        {"bad-initialization": "fail"},
    ),
    "equal weights before BatchNorm": (
        lambda: initialized(convnet(norm=True), init.constant_, val=0.1),
        {"bad-initialization": "fail"},
    ),
    "all zero": (all_zero, {"bad-initialization": "fail"}),
    "dead": (dead, {"dead-relu": "fail"}),
    "over the batch": (OverTheBatch, {"labels-random": "fail"}),
    "softmax over the batch at the end": (
        lambda: nn.Sequential(convnet(), nn.Softmax(dim=0)),
        {"double-softmax": "fail"},
    ),
    "sign": (lambda: Stepped(torch.sign), {"vanishing-gradients": "fail"}),
    "round": (lambda: Stepped(torch.round), {"vanishing-gradients": "fail"}),
    "a comparison": (lambda: Stepped(lambda x: (x > 0).float()), {"frozen-parameters": "warn"}),
    "saturated for good": (saturated, {"vanishing-gradients": "warn"}),
    "batch statistics": (stateless_norm, {"train-mode-evaluation": "warn"}),
}


@pytest.mark.parametrize("name", SICK)
def test_faults_are_named(name):
    net, causes = SICK[name]
    model = net()
    assert named(check_wiring(model, F.cross_entropy, *batch(32), Adam(model.parameters()))) == causes


class Averaged(nn.Module):
    """Keeps an average of its weights beside them."""

    def __init__(self):
        super().__init__()
        self.net, self.average = convnet(norm=True), convnet(norm=True).eval()

    def forward(self, inputs):
        return self.net(inputs)


def test_an_average_kept_beside_may_be_in_evaluation_mode():
    model = Averaged()
    assert named(check_wiring(model, F.cross_entropy, *batch(32), Adam(model.net.parameters()))) == {}
    model.net[1].eval()
    causes = named(check_wiring(model, F.cross_entropy, *batch(32), Adam(model.net.parameters())))
    assert causes == {"eval-mode-training": "fail"}


class ForgetsTheMode(nn.Sequential):
    def train(self, mode=True):
        return super().train()


def test_a_network_that_stays_in_training_mode_has_its_labels_right():
    wiring = check_wiring(ForgetsTheMode(convnet(norm=True)), F.cross_entropy, *batch(32))
    assert named(wiring) == {"train-mode-evaluation": "warn"}


def test_an_infinite_slope_is_found():
    net = convnet()
    start = net[0].weight.detach().clone()

    class Tethered(nn.Module):
        """A penalty on the distance from the starting weights, without its square."""

        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, outputs, targets):
            moved = (self.net[0].weight - start).square().sum().sqrt()
            return F.cross_entropy(outputs, targets) + moved

    assert named(check_wiring(net, Tethered(), *batch(32))) == {"non-finite-loss": "fail"}


def test_a_loss_that_reaches_no_parameter_is_found():
    def cut(outputs, targets):
        return F.cross_entropy(outputs.detach(), targets)

    result = check_wiring(convnet(), cut, *batch(32))
    assert len(result.unreached) == 6


def test_inputs_without_signal_are_not_blamed_on_the_network():
    inputs, targets = batch(32)
    assert named(check_wiring(convnet(), F.cross_entropy, torch.zeros_like(inputs), targets)) == {}


class Recomputed(nn.Module):
    """Lets its first layers be computed anew in the backward pass."""

    def __init__(self):
        super().__init__()
        self.net = convnet()

    def forward(self, inputs):
        hidden = checkpoint(self.net[:3], inputs.detach().requires_grad_(), use_reentrant=True)
        return self.net[3:](hidden)


def test_layers_whose_gradient_comes_in_a_backward_pass_of_their_own_are_reached():
    net = Recomputed()
    assert named(check_wiring(net, F.cross_entropy, *batch(32))) == {}
    assert all(parameter.grad is None for parameter in net.parameters())


class OfAFeature(nn.Module):
    """A branch for the first numbers of an image, and what stands between."""

    def __init__(self, between):
        super().__init__()
        self.net, self.branch, self.between = convnet(), nn.Linear(8, 10), between

    def forward(self, inputs):
        return self.net(inputs) + self.branch(self.between(inputs.flatten(1)[:, :8]))


@pytest.mark.parametrize(
    ("between", "causes"), [(nn.Identity(), {}), (nn.Threshold(100, 0), {"dead-relu": "fail"})]
)
def test_a_feature_without_a_value_is_noted_and_one_that_is_lost_on_the_way_is_not(between, causes):
    inputs, targets = batch(32)
    inputs = inputs.clone()  # they are those of the tests that come later, too
    inputs[:, 0, 0, :8] = 0
    result = check_wiring(OfAFeature(between), F.cross_entropy, inputs, targets)
    assert named(result) == causes
    assert result.empty == (() if causes else ("branch.weight",))


class TrendAndSeason(nn.Module):
    """A forecast of 12 steps from 48, as the mean of the past at the start, after DLinear."""

    def __init__(self, behind):
        super().__init__()
        self.trend, self.season, self.behind = nn.Linear(48, 12), nn.Linear(48, 12), behind
        for layer in (self.trend, self.season):
            init.constant_(layer.weight, 1 / 48)

    def forward(self, past):
        trend = F.avg_pool1d(past[:, None], 5, 1, 2)[:, 0]
        return self.behind(self.trend(trend) + self.season(past - trend))


@pytest.mark.parametrize(
    ("behind", "causes"), [(nn.Identity(), {}), (nn.Linear(12, 12), {"bad-initialization": "fail"})]
)
def test_a_mean_to_start_from_is_no_fault_where_each_unit_has_a_target_of_its_own(behind, causes):
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(32, 60, generator=draw)
    net = TrendAndSeason(behind)
    result = check_wiring(net, F.mse_loss, rows[:, :48], rows[:, 48:], Adam(net.parameters()))
    assert named(result) == causes


def test_logits_that_start_between_zero_and_one_are_no_probabilities():
    net = convnet()
    with torch.no_grad():
        net[-1].weight.mul_(1e-3)
        net[-1].bias.fill_(0.2)
    assert bool(((outputs := net(batch(32)[0])) > 0).all() and (outputs < 1).all())
    assert named(check_wiring(net, F.cross_entropy, *batch(32))) == {}


@pytest.mark.parametrize("smoothing", [0.0, 0.05, 0.3])
def test_softmax_inside_the_loss_is_found(smoothing):
    def twice(outputs, targets):
        return F.cross_entropy(outputs.softmax(1), targets, label_smoothing=smoothing)

    assert named(check_wiring(convnet(), twice, *batch(32))) == {"double-softmax": "fail"}


def test_shares_and_labels_that_have_changed_places_are_found():
    def exchanged(outputs, targets):
        return F.cross_entropy(F.one_hot(targets, outputs.shape[1]).float(), outputs.softmax(1))

    assert named(check_wiring(convnet(), exchanged, *batch(32))) == {"double-softmax": "fail"}


def test_a_bounded_loss_of_shares_is_no_softmax_applied_twice():
    def brier(outputs, targets):
        return F.mse_loss(outputs.softmax(1), F.one_hot(targets, outputs.shape[1]).float())

    def bounded(outputs, targets):  # Zhang and Sabuncu (2018)
        return ((1 - outputs.softmax(1).gather(1, targets[:, None]) ** 0.38) / 0.38).mean()

    def absolute(outputs, targets):
        return F.l1_loss(outputs.softmax(1), F.one_hot(targets, outputs.shape[1]).float(), reduction="sum")

    for loss in (brier, bounded, absolute):
        assert "double-softmax" not in named(check_wiring(convnet(), loss, *batch(32)))


def test_probabilities_are_right_for_a_loss_that_takes_them():
    net = nn.Sequential(convnet(), nn.Softmax(1))
    assert named(check_wiring(net, lambda p, y: F.nll_loss(p.log(), y), *batch(32))) == {}


@pytest.mark.parametrize(
    ("make", "missing"),
    [
        (lambda net: Adam(net[-1].parameters()), 4),
        (lambda net: Adam(convnet().parameters()), 6),
        (lambda net: SGD(net.parameters(), lr=0.0), 6),
        (lambda net: [SGD(net[:2].parameters(), lr=0.1), SGD(net[2:].parameters(), lr=0.1)], 0),
        (lambda net: SGD([{"params": net.parameters(), "lr": 0.0, "initial_lr": 0.1}]), 0),
    ],
    ids=["head alone", "another model", "rate of 0", "two optimizers", "warm-up from 0"],
)
def test_parameters_without_a_step_are_listed(make, missing):
    net = convnet()
    result = check_wiring(net, F.cross_entropy, *batch(32), make(net))
    assert len(result.not_in_optimizer) == missing
    assert named(result) == ({"frozen-parameters": "fail"} if missing else {})


def test_parts_that_do_not_fit_are_errors():
    with pytest.raises(UserError, match="model"):
        check_wiring(nn.Flatten(0), F.cross_entropy, *batch(32))


def test_leaves_everything_as_it_was():
    training = TrainedNetwork()
    before = state_of(training.model, training.optimizer)
    check_wiring(training.model, F.cross_entropy, *batch(32), training.optimizer)
    with pytest.raises(RuntimeError):
        check_wiring(training.model, training.failing_loss, *batch(32), training.optimizer)
    assert same(before, state_of(training.model, training.optimizer))


@pytest.mark.parametrize(("name", "words"), [("sign", "with steps"), ("a comparison", "no gradient gets to")])
def test_what_cuts_the_gradient_off_is_described(name, words):
    model = SICK[name][0]()
    found = check_wiring(model, F.cross_entropy, *batch(32), Adam(model.parameters())).findings()
    assert any(words in finding.message for finding in found)


def test_a_loss_of_the_last_sample_alone_is_named():
    def of_the_last(outputs, targets):
        return F.cross_entropy(outputs[-1:], targets[-1:])

    assert named(check_wiring(mlp(16), of_the_last, *batch(32))) == {"batch-too-small": "fail"}


class Reads(nn.Module):
    """Token ids through a GRU."""

    def __init__(self, batch_first):
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 4)
        self.recur = nn.GRU(8, 8, batch_first=batch_first)

    def forward(self, tokens):
        return self.head(self.recur(self.embed(tokens))[0][:, -1])


@pytest.mark.parametrize("batch_first", [True, False])
def test_sequences_that_run_over_the_batch_are_named(batch_first):
    tokens, labels = torch.randint(20, (16, 6)), torch.arange(16) % 4
    found = named(check_wiring(Reads(batch_first), F.cross_entropy, tokens, labels))
    assert found == ({} if batch_first else {"labels-random": "fail"})


@pytest.mark.parametrize("dim", [1, 2])
def test_a_softmax_over_rows_is_named(dim):
    def loss(outputs, targets):
        return F.nll_loss(outputs.log_softmax(dim), targets)

    found = named(check_wiring(nn.Conv2d(3, 4, 1), loss, batch(16)[0], torch.randint(4, (16, 32, 32))))
    assert found == ({} if dim == 1 else {"wrong-initial-loss": "fail"})


class NeverHeard(nn.Module):
    """A branch whose share is a buffer of 0, so that it never gets to the outputs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.branch, self.head = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.register_buffer("share", torch.zeros(()))

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head(x + self.share * self.branch(x).relu())


def test_layers_whose_results_never_get_to_the_outputs_are_frozen_not_vanishing():
    net = NeverHeard()
    x, y = torch.randn(32, 8), torch.randint(4, (32,))
    [finding] = check_wiring(net, F.cross_entropy, x, y, SGD(net.parameters(), lr=0.1)).findings()
    assert (finding.cause, finding.where) == ("frozen-parameters", "branch.weight")
    assert finding.message.startswith("The outputs do not change with 1 weight(s)")
    del net.share
    net.share = nn.Parameter(torch.zeros(()))  # as in ReZero, which learns it
    [finding] = check_wiring(net, F.cross_entropy, x, y, SGD(net.parameters(), lr=0.1)).findings()
    assert finding.cause == "wiring-correct"


@pytest.mark.parametrize(("sigmoid", "causes"), [(True, {"double-softmax": "fail"}), (False, {})])
def test_binary_losses_of_class_numbers_take_logits(sigmoid, causes):
    def loss(outputs, targets):
        answers = F.one_hot(targets, outputs.shape[1]).to(outputs.dtype)
        return F.binary_cross_entropy_with_logits(outputs, answers)

    net = nn.Sequential(convnet(), *[nn.Sigmoid()] * sigmoid)
    assert named(check_wiring(net, loss, *batch(64))) == causes


def test_a_softmax_over_one_output_is_named_and_small_logits_are_no_sigmoid():
    torch.manual_seed(0)
    images, labels = batch(32)
    ones = (labels[:, None] > 4).float()
    net = nn.Sequential(nn.Flatten(), nn.Linear(3072, 16), nn.ReLU(), nn.Linear(16, 1))
    alone = check_wiring(nn.Sequential(net, nn.Softmax(1)), F.binary_cross_entropy, images, ones)
    assert named(alone) == {"saturated-activations": "fail"}
    reader = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Tanh(), nn.Linear(16, 1))
    init.constant_(reader[3].bias, 0.5)
    init.uniform_(reader[3].weight, -0.05, 0.05)
    words = torch.randint(9, (32, 4))
    assert named(check_wiring(reader, F.binary_cross_entropy_with_logits, words, ones)) == {}
