"""Inputs, labels and batches are prepared as they should be."""

import math

import pytest
import torch
import torch.nn.functional as F
from small_networks import TrainedNetwork, batch, convnet, named, same, state_of
from torch import nn

from vitals.checks.chance import class_weights
from vitals.checks.inputs import check_inputs, try_normalized
from vitals.errors import UserError

SHUFFLED = batch(1797)[1]
SORTED = SHUFFLED.sort().values


def from_0_to_1(images):
    return (images - images.min()) / (images.max() - images.min())


def augmented(images):
    """Flips, shifts, noise, contrast and blanked squares."""
    torch.manual_seed(0)
    images = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images, images.flip(-1))
    images = images.roll((3, -2), dims=(2, 3)) * (0.5 + torch.rand(len(images), 1, 1, 1))
    images = images + 0.3 * torch.randn_like(images)
    images[:, :, 8:20, 4:16] = 0
    return images


@pytest.mark.parametrize("change", [lambda x: x, augmented], ids=["as they are", "augmented"])
def test_good_data_raise_no_alarm(change):
    images, labels = batch(512)
    result = check_inputs(
        change(images[:256]),
        labels[:256],
        10,
        label_batches=SHUFFLED.split(64),
        validation_inputs=images[256:],
        model=convnet(),
    )
    assert named(result) == {}


@pytest.mark.parametrize(
    ("change", "causes"),
    [
        (torch.zeros_like, {"input-constant": "fail"}),
        (lambda x: x[:1].expand_as(x), {"input-constant": "fail"}),
        (
            lambda x: torch.where(torch.arange(len(x)).view(-1, 1, 1, 1) % 3 > 0, x, 0),
            {"input-constant": "warn"},
        ),
        (lambda x: torch.rand(len(x), 1, 1, 1).expand_as(x), {"input-constant": "fail"}),
        (lambda x: x / 0, {"non-finite-loss": "fail"}),
        (lambda x: 255 * from_0_to_1(x), {"input-not-normalized": "warn"}),
        (lambda x: from_0_to_1(x) / 255, {"input-not-normalized": "warn"}),
        (lambda x: (from_0_to_1(x) - 125) / 63, {"input-not-normalized": "warn"}),
        (from_0_to_1, {}),
    ],
    ids=[
        "zero",
        "all alike",
        "a third blank",
        "blank",
        "infinite",
        "to 255",
        "divided twice",
        "by means of bytes",
        "to 1",
    ],
)
def test_inputs(change, causes):
    images, labels = batch(256)
    assert named(check_inputs(change(images), labels, 10)) == causes


class OfTable(nn.Module):
    """Looks after what is missing; `mean` and `sd` of the columns are its own."""

    def __init__(self, looks, mean=0.0, sd=1.0):
        super().__init__()
        self.looks, self.mean, self.sd, self.net = looks, mean, sd, nn.Linear(4, 2)

    def forward(self, x):
        x = (x - self.mean) / self.sd
        return self.net(x.nan_to_num(0.0) if self.looks else x)


class Refuses(OfTable):
    def forward(self, x):
        assert x.isfinite().all()
        return self.net(x)


@pytest.mark.parametrize(
    ("network", "factor", "causes"),
    [
        (OfTable(True), 1, {}),
        (OfTable(False), 1, {"non-finite-loss": "fail"}),
        (Refuses(False), 1, {"non-finite-loss": "fail"}),
        (OfTable(True), 1000, {"input-not-normalized": "warn"}),
        (OfTable(True, sd=1000), 1000, {}),
    ],
    ids=["missing", "unseen", "refused", "large", "normalized within"],
)
def test_what_the_network_does_to_its_inputs_first(network, factor, causes):
    inputs = factor * torch.randn(256, 4)
    inputs[::5, 1] = torch.nan
    found = named(check_inputs(inputs, torch.arange(256) % 2, 2, model=network))
    assert found == causes


@pytest.mark.parametrize(("noise", "causes"), [(0.0, {"data-leak": "warn"}), (0.05, {})])
def test_a_column_that_is_what_is_to_be_predicted(noise, causes):
    x, y = torch.randn(256, 4), 200 + 30 * torch.randn(256)
    column = (y - 200) / 30 + noise * torch.randn(256)
    assert named(check_inputs(torch.cat([x, column[:, None]], 1), None, numbers=y)) == causes


class Forecast(nn.Module):
    """The next four numbers of a series; `reversible` normalizes each series, and undoes that at the end."""

    def __init__(self, reversible):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.reversible = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)), reversible

    def forward(self, x):
        if not self.reversible:
            return self.net(x)
        mean, sd = x.mean(1, keepdim=True), x.std(1, keepdim=True)
        return self.net((x - mean) / sd) * sd + mean


@pytest.mark.parametrize("reversible", [True, False])
def test_series_that_the_network_normalizes_itself_may_have_any_scale(reversible):
    random = torch.Generator().manual_seed(0)
    series = 100 * torch.randn(256, 1, generator=random) + torch.randn(256, 20, generator=random)
    result = check_inputs(series[:, :16], None, numbers=series[:, 16:], model=Forecast(reversible))
    assert named(result) == ({} if reversible else {"input-not-normalized": "warn"})


def test_outputs_that_go_with_a_raw_column_by_chance_are_no_forecast():
    random = torch.Generator().manual_seed(0)
    table = torch.rand(256, 4, generator=random) * torch.tensor([200.0, 6.0, 100.0, 1.0])
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1))
    with torch.no_grad():
        price = network(table) + 0.1 * torch.randn(256, 1, generator=random)
    result = check_inputs(table, None, numbers=price, model=network)
    assert named(result) == {"input-not-normalized": "warn"}


@pytest.mark.parametrize("factor", [100, 0.01])
def test_scale_matters_only_to_a_network_that_minds_it(factor):
    images, labels = batch(256)
    causes = {
        norm: named(check_inputs(factor * images, labels, 10, model=convnet(norm))) for norm in (True, False)
    }
    assert causes == {True: {}, False: {"input-not-normalized": "warn"}}


class OverRows(nn.Module):
    def __init__(self, normalizes=False):
        super().__init__()
        torch.manual_seed(0)
        self.rows, self.head = nn.GRU(96, 32, batch_first=True), nn.Linear(32, 10)
        self.norm = nn.InstanceNorm2d(3) if normalizes else nn.Identity()

    def forward(self, x):
        x = self.norm(x)
        return self.head(self.rows(x.permute(0, 2, 1, 3).flatten(2))[0][:, -1])


@pytest.mark.parametrize(
    ("factor", "normalizes", "causes"),
    [(255, False, {"input-not-normalized": "warn"}), (255, True, {}), (1, False, {})],
)
def test_a_recurrent_layer_squashes_what_it_minds(factor, normalizes, causes):
    images, labels = batch(256)
    model = OverRows(normalizes)
    assert named(check_inputs(factor * from_0_to_1(images), labels, 10, model=model)) == causes


@pytest.mark.parametrize(
    "change",
    [
        lambda x: from_0_to_1(x),
        lambda x: 255 * from_0_to_1(x),
        lambda x: x + 1,
        lambda x: x / 2.5,
        torch.zeros_like,
        lambda x: x[:, :1],
    ],
    ids=["not normalized", "raw", "not centred", "not scaled", "zero", "one channel"],
)
def test_validation_prepared_otherwise_is_found(change):
    images, labels = batch(512)
    result = check_inputs(images[:256], labels[:256], 10, validation_inputs=change(images[256:]))
    assert named(result) == {"train-val-mismatch": "warn"}


@pytest.mark.parametrize("wraps", [True, False])
def test_bytes_that_wrap_around_are_found(wraps):
    """Photographs, brightened: what is above 255 begins again at 0, or is clipped."""
    torch.manual_seed(0)
    coarse = 128 + 60 * torch.randn(256, 3, 6, 6)
    plain = F.interpolate(coarse, size=(32, 32), mode="bicubic").clamp(0, 255)
    bright = plain.int() + torch.randint(0, 60, (256, 1, 1, 1))
    bright = bright % 256 if wraps else bright.clamp(0, 255)
    labels = torch.arange(256) % 10
    result = check_inputs(bright / 255, labels, 10, validation_inputs=plain / 255)
    assert named(result) == ({"train-val-mismatch": "warn"} if wraps else {})


def _shifted(images):
    """Cropped at random out of what is padded with black, as RandomCrop(32, padding=4) does."""
    padded = F.pad(images, (4,) * 4)
    places = torch.randint(0, 9, (len(images), 2)).tolist()
    return torch.stack([each[:, y : y + 32, x : x + 32] for each, (y, x) in zip(padded, places, strict=True)])


def _dotted(images):
    """With dots of black and white, as salt and pepper."""
    drawn = torch.rand(len(images), 1, 32, 32)
    return torch.where(drawn < 0.03, 0.0, torch.where(drawn > 0.97, 1.0, images))


@pytest.mark.parametrize("augmented", [_shifted, _dotted])
def test_black_that_is_filled_in_beside_white_is_no_byte_that_wraps_around(augmented):
    """Things on a white ground, as those of a catalogue, and training images with usual augmentation."""
    torch.manual_seed(0)
    across = torch.linspace(-1, 1, 32)
    thing = (8 * (0.6 - (across[:, None] ** 2 + across**2).sqrt())).sigmoid()
    images = 1 - thing * torch.rand(256, 3, 1, 1)
    labels = torch.arange(256) % 10
    assert named(check_inputs(augmented(images), labels, 10, validation_inputs=images)) == {}


@pytest.mark.parametrize("digit", range(10))
def test_validation_images_of_one_class_are_no_mismatch(digit):
    """A validation loader that is not shuffled gives such batches, and rightly so."""
    images, labels = batch(1797)
    result = check_inputs(images[:256], labels[:256], 10, validation_inputs=images[labels == digit])
    assert named(result) == {}


@pytest.mark.parametrize(
    ("order", "batches", "causes"),
    [
        (SORTED, 6, {"data-not-shuffled": "warn"}),
        (SORTED, 28, {"data-not-shuffled": "warn"}),
        (SHUFFLED, 6, {}),
        (torch.arange(640) % 10, 6, {}),
    ],
    ids=["sorted", "sorted, all seen", "shuffled", "cyclic"],
)
def test_order_of_batches(order, batches, causes):
    assert named(check_inputs(*batch(64), 10, label_batches=order.split(64)[:batches])) == causes


def test_batches_of_one_have_an_order_too():
    assert named(check_inputs(*batch(64), 10, label_batches=SORTED[::8].split(1))) == {
        "data-not-shuffled": "warn"
    }
    assert named(check_inputs(*batch(64), 10, label_batches=SHUFFLED[::8].split(1))) == {}


def labels_with(*counts):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize(
    ("counts", "causes"),
    [
        ([100] * 10, {}),
        ([1000, 774, 599, 464, 359, 278, 215, 166, 129, 100], {}),
        ([400, *[100] * 9], {}),
        ([850, 150], {}),
        ([*[10] * 9, 1000], {"class-imbalance": "warn"}),
        ([970, 30], {"class-imbalance": "warn"}),
        ([500, 500, *[0] * 8], {"class-imbalance": "warn"}),
    ],
    ids=["even", "long tail", "one of four", "85 to 15", "nine in ten", "97 to 3", "two of ten"],
)
def test_class_counts(counts, causes):
    labels, classes = labels_with(*counts), len(counts)
    images, targets = batch(64)[0], labels[:64]
    assert named(check_inputs(images, targets, classes, label_batches=labels.split(64))) == causes
    assert named(check_inputs(images, targets, classes, label_batches=labels.split(64)[:8])) == causes


@pytest.mark.parametrize(
    ("counts", "weigh", "causes"),
    [
        ([300, 300, 30, 30], lambda counts: counts, {"class-imbalance": "warn"}),
        ([300, 300, 30, 30], lambda counts: 1 / counts, {}),
        ([960, 40], lambda counts: 1 / counts, {}),
        ([100, 110, 120], lambda counts: counts, {}),
        ([100, 100, 100], lambda counts: torch.tensor([0.0, 1, 1]), {"class-imbalance": "warn"}),
    ],
    ids=["by counts", "by their inverse", "which makes up for much", "all but even", "one left out"],
)
def test_weights_of_classes(counts, weigh, causes):
    labels = labels_with(*counts)
    weights = weigh(torch.tensor(counts).float())
    outputs = torch.zeros(len(labels), len(counts))
    found = class_weights(nn.CrossEntropyLoss(weights), outputs, labels)
    assert found == pytest.approx((weights / weights[labels].mean()).tolist())
    given = {"label_batches": labels.split(64), "weights": found}
    result = check_inputs(batch(64)[0], labels[:64], len(counts), **given)
    assert named(result) == causes


def test_labels_out_of_range_are_found_but_not_ignored_ones():
    images, labels = batch(64)
    assert named(check_inputs(images, labels + 1, 10)) == {"labels-random": "fail"}
    ignored = torch.where(torch.arange(64) % 2 == 0, labels, -100)
    assert named(check_inputs(images, ignored, 10)) == {}


def test_a_head_with_the_outputs_of_another_data_set_is_no_imbalance():
    images, labels = batch(256)
    assert named(check_inputs(images, labels, 1000)) == {}


def test_images_that_are_there_twice_with_two_labels_are_found():
    images, labels = batch(64)
    twice = torch.cat([images, images[:8]])
    assert named(check_inputs(twice, torch.cat([labels, labels[:8]]), 10)) == {}
    other = (labels[:8] + 1) % 10
    assert named(check_inputs(twice, torch.cat([labels, other]), 10)) == {"labels-random": "warn"}


def test_statistics_are_those_of_each_channel():
    images, labels = batch(64)
    shifted = images + torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1)
    channels = check_inputs(shifted, labels, 10).train
    assert channels.mean == pytest.approx(shifted.mean((0, 2, 3)).tolist(), abs=1e-5)
    assert channels.sd == pytest.approx(shifted.std((0, 2, 3)).tolist(), rel=1e-4)


def test_balance_is_one_for_even_classes_and_the_share_of_entropy_otherwise():
    images, labels = batch(64)
    even = torch.arange(1000) % 10
    assert check_inputs(images, labels, 10, label_batches=[even]).balance == pytest.approx(1)
    uneven = (even == 0).long()
    entropy = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    found = check_inputs(images, labels, 10, label_batches=[uneven])
    assert found.balance == pytest.approx(entropy / math.log(2))


def test_a_single_class_is_an_error():
    with pytest.raises(UserError, match="classes"):
        check_inputs(*batch(64), 1)


def test_leaves_everything_as_it_was():
    training = TrainedNetwork()
    before = state_of(training.model, training.optimizer)
    check_inputs(*batch(32), 10, model=training.model)
    with pytest.raises(RuntimeError):
        check_inputs(
            torch.rand(8, 5, 32, 32, generator=torch.Generator()), batch(8)[1], 10, model=training.model
        )
    assert same(before, state_of(training.model, training.optimizer))


def test_pixels_divided_by_255_twice_and_one_array_for_all_samples_are_told_in_words():
    pixels = torch.randint(0, 256, (256, 3, 8, 8), generator=torch.Generator().manual_seed(0)) / 255**2
    pixels[0, 0, 0, 0] = 1 / 255
    labels = torch.arange(256) % 10
    [finding] = [each for each in check_inputs(pixels, labels, 10).findings() if each.alarming]
    assert finding.cause == "input-not-normalized"
    assert "divided by 255 twice" in finding.message
    last = torch.randn(4, 3, 8, 8).repeat_interleave(64, 0)
    finding = check_inputs(last, labels, 10).findings()[0]
    assert finding.cause == "input-constant"
    assert "give out a copy" in finding.remedy


@pytest.mark.parametrize("norm", [False, True])
def test_inputs_far_from_zero_matter_where_the_optimizer_gets_on_worse_with_them(norm):
    images, labels = batch(512)
    torch.manual_seed(0)
    first = [nn.BatchNorm1d(images[0].numel())] if norm else []
    network = nn.Sequential(
        nn.Flatten(), *first, nn.Linear(images[0].numel(), 32), nn.Tanh(), nn.Linear(32, 10)
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9)
    away = images + 4
    tried = try_normalized(network, nn.functional.cross_entropy, optimizer, away, labels)
    result = check_inputs(away, labels, 10, model=network, tried=tried)
    assert named(result) == ({} if norm else {"input-not-normalized": "warn"})
    if not norm:
        assert "40 steps of the optimizer take the loss from 2." in result.findings()[0].message
