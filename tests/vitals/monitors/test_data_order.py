"""Order and repetition of the training data, read off the batches of streams."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foreign import Foreign, digits, fit, mlp
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from vitals.checks.sanity_checks import SanityChecks
from vitals.monitors.data_order import DataOrder


class Reader(IterableDataset):
    """A stream that cannot be copied, and never ends."""

    def __init__(self, places: list[int], targets: Tensor | None = None, anew: bool = False) -> None:
        self.images, labels = digits(600)
        self.labels = labels if targets is None else targets
        self.places, self.anew = places, anew
        self.source = self.read()

    def read(self) -> Iterator[int]:
        while True:
            if self.anew:
                random.shuffle(self.places)
            yield from self.places

    def __iter__(self) -> Iterator[Any]:
        for place in self.source:
            yield self.images[place], self.labels[place], place % 7


class Plain(Foreign):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        F.cross_entropy(self.net(batch[0]), batch[1])


def found(folder: Any, reader: Reader, *callbacks: Any, epochs: int = 2) -> list[tuple[str, str]]:
    monitor = DataOrder()
    train = DataLoader(reader, batch_size=8)
    options = {"train": train, "max_epochs": epochs, "limit_train_batches": 75}
    fit(Plain(mlp()), folder, monitor, *callbacks, **options)
    return [(finding.cause, finding.level) for finding in monitor.findings]


SHUFFLED = torch.randperm(600, generator=torch.Generator().manual_seed(0)).tolist()
BY_HALVES = sorted(SHUFFLED, key=lambda place: int(digits(600)[1][place]) > 3)
BY_LABEL = torch.argsort(digits(600)[1], stable=True).tolist()


@pytest.mark.parametrize(
    ("reader", "expected"),
    [
        (lambda: Reader(SHUFFLED, anew=True), []),
        (lambda: Reader(SHUFFLED), [("data-not-shuffled", "note")]),
        (lambda: Reader(BY_LABEL), [("data-not-shuffled", "warn"), ("data-not-shuffled", "note")]),
        (lambda: Reader(BY_HALVES), [("data-not-shuffled", "warn"), ("data-not-shuffled", "note")]),
        (lambda: Reader(SHUFFLED[:30]), [("overfitting", "note"), ("data-not-shuffled", "note")]),
    ],
    ids=[
        "anew each time",
        "always in one order",
        "class after class",
        "four classes before six",
        "thirty over and over",
    ],
)
def test_what_comes_in_which_order(reader, expected, tmp_path) -> None:
    random.seed(0)
    assert found(tmp_path, reader()) == expected


def test_where_each_step_takes_the_whole_set_its_order_does_not_matter(tmp_path) -> None:
    images, labels = digits(600)
    validation = DataLoader(TensorDataset(images[400:], labels[400:]), 200)
    for batch, expected in ((400, []), (200, ["data-not-shuffled"])):
        monitor = DataOrder()
        train = DataLoader(TensorDataset(images[:400], labels[:400]), batch)
        fit(Plain(mlp()), tmp_path, monitor, train=train, validation=validation, max_epochs=2)
        assert [finding.cause for finding in monitor.findings] == expected


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (range(400, 600), []),
        ([*range(30), *range(400, 570)], [("data-leak", "warn")]),
        (range(400), []),
        (range(300), [("data-leak", "warn")]),
    ],
    ids=["none", "some", "the set itself, as one tries things out", "a part of the training"],
)
def test_samples_of_the_training_in_validation(places: Any, expected: list[Any], tmp_path) -> None:
    images, labels = digits(600)
    places = list(places)
    train = DataLoader(TensorDataset(images[:400], labels[:400]), 32, shuffle=True)
    monitor = DataOrder()
    validation = DataLoader(TensorDataset(images[places], labels[places]), 50)
    fit(Plain(mlp()), tmp_path, monitor, train=train, validation=validation)
    assert [(finding.cause, finding.level) for finding in monitor.findings] == expected


def test_blank_images_are_not_one_and_the_same(tmp_path) -> None:
    images, labels = digits(600)
    blank = torch.where(images > images.quantile(0.9), 1.0, 0.0)
    train = DataLoader(TensorDataset(blank[:400], labels[:400]), 32, shuffle=True)
    monitor = DataOrder()
    fit(
        Plain(mlp()),
        tmp_path,
        monitor,
        train=train,
        validation=DataLoader(TensorDataset(blank[400:], labels[400:]), 50),
    )
    assert [finding.cause for finding in monitor.findings if finding.alarming] == []


def test_images_with_an_empty_column_are_told_apart(tmp_path) -> None:
    images, labels = digits(600)
    images = F.interpolate(images, size=(64, 64))
    images[..., 0] = 0.0
    monitor, net = DataOrder(), nn.Sequential(nn.AvgPool2d(8), *mlp())
    fit(
        Plain(net), tmp_path, monitor, train=DataLoader(TensorDataset(images, labels), 8), limit_val_batches=0
    )
    assert monitor.findings == []


def test_rows_of_a_table_of_few_values_may_come_in_both(tmp_path) -> None:
    rows = torch.randint(3, (600, 4), generator=torch.Generator().manual_seed(0)).float()
    data = [TensorDataset(each, each.sum(1).long() % 10) for each in (rows[:400], rows[400:])]
    monitor = DataOrder()
    train, validation = (DataLoader(each, 50) for each in data)
    fit(Plain(nn.Linear(4, 10)), tmp_path, monitor, train=train, validation=validation)
    assert [finding.cause for finding in monitor.findings] == []


class Rated(Plain):
    """Is given the numbers of things before what was measured of them."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch["measured"]), batch["label"])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.training_step(batch, batch_idx)


@pytest.mark.parametrize(("first", "expected"), [(300, []), (0, ["data-leak"])])
def test_samples_are_told_apart_by_what_was_measured(first: int, expected: list[str], tmp_path) -> None:
    draw = torch.Generator().manual_seed(0)
    ids, measured = torch.randint(5, (600, 3), generator=draw), torch.rand(600, 4, generator=draw)
    rows = [{"ids": i, "measured": m, "label": int(m[0] > 0.5)} for i, m in zip(ids, measured, strict=True)]
    train, validation = DataLoader(rows[:300], 32, shuffle=True), DataLoader(rows[first:][:100], 50)
    monitor = DataOrder()
    fit(Rated(nn.Linear(4, 2)), tmp_path, monitor, train=train, validation=validation)
    assert [finding.cause for finding in monitor.findings] == expected


@pytest.mark.parametrize("labels", [2, 1])
def test_samples_that_are_all_the_same_are_named_where_their_labels_differ(labels: int, tmp_path) -> None:
    x, y = torch.full((400, 4), 0.5), torch.arange(400) % labels
    monitor = DataOrder()
    train = DataLoader(TensorDataset(x, y), 32, shuffle=True)
    fit(Plain(nn.Linear(4, 2)), tmp_path, monitor, train=train, limit_val_batches=0)
    expected = ("input-constant", "fail") if labels > 1 else ("overfitting", "note")
    assert [(finding.cause, finding.level) for finding in monitor.findings] == [expected]


class Solved(Plain):
    """Learns a function on a grid that is the same for all samples, from its one parameter."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        grid, rate = batch
        return F.mse_loss(self.net(rate[:, None]), (grid * rate[:, None]).sin())


def test_a_grid_that_all_samples_share_is_no_constant_input(tmp_path) -> None:
    draw = torch.Generator().manual_seed(0)
    monitor = DataOrder()
    data = TensorDataset(torch.linspace(0, 6, 8).expand(400, 8), torch.rand(400, generator=draw))
    train = DataLoader(data, 32, shuffle=True)
    fit(Solved(nn.Linear(1, 8)), tmp_path, monitor, train=train, limit_val_batches=0)
    assert [finding.level for finding in monitor.findings] == ["note"]


class Squared(Plain):
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.mse_loss(self.net(batch[0]).squeeze(1), batch[1])


@pytest.mark.parametrize(("shuffle", "expected"), [(False, ["data-not-shuffled"]), (True, [])])
def test_a_table_in_the_order_of_its_numbers(shuffle: bool, expected: list[str], tmp_path) -> None:
    x = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
    y = x.sum(1)
    order = y.argsort()
    train = DataLoader(TensorDataset(x[order], y[order]), 32, shuffle=shuffle)
    monitor = DataOrder()
    fit(Squared(nn.Linear(4, 1)), tmp_path, monitor, train=train, limit_val_batches=0)
    assert [finding.cause for finding in monitor.findings] == expected


class TaskNumber(Plain):
    """Takes turns between tasks; the loss does not take the number of the task for a label."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]) * (1 + 0.01 * batch[2].max()), batch[1])


def test_a_number_that_goes_with_the_batch_is_no_label(tmp_path) -> None:
    class Tasks(Reader):
        def __iter__(self) -> Iterator[Any]:
            for count, place in enumerate(self.source):
                yield self.images[place], self.labels[place], count // 30 % 4

    random.seed(0)
    monitor = DataOrder()
    train = DataLoader(Tasks(SHUFFLED, anew=True), batch_size=30)
    fit(TaskNumber(mlp()), tmp_path, monitor, train=train, limit_train_batches=20)
    assert monitor.findings == []


def test_labels_of_a_stream_are_held_against_its_images_once_enough_have_come(tmp_path) -> None:
    random.seed(0)
    torch.manual_seed(0)
    others = digits(600)[1][torch.randperm(600)]
    causes = []
    for targets in (None, others):
        checks = SanityChecks(["informative_inputs"], on_fail="warn")
        found(tmp_path, Reader(SHUFFLED, targets), checks, epochs=1)
        causes.append([finding.cause for finding in checks.findings])
        assert checks.missing == []
    assert causes == [["inputs-informative"], ["labels-random"]]


@pytest.mark.parametrize("before", [True, False])
def test_versions_of_one_image_in_training_and_validation(before: bool, tmp_path) -> None:
    """Images mirrored and made noisy, and split afterwards or before."""
    torch.manual_seed(0)
    images, labels = digits(400)
    several = torch.stack([images, images.flip(-1), images + 0.1 * torch.randn_like(images)], 1).flatten(0, 1)
    labels = labels.repeat_interleave(3)
    places = torch.randperm(1200) if before else torch.arange(1200)
    data = [TensorDataset(several[part], labels[part]) for part in (places[:900], places[900:])]
    monitor = DataOrder()
    train, validation = (DataLoader(each, 50, shuffle=each is data[0]) for each in data)
    fit(Plain(mlp()), tmp_path, monitor, train=train, validation=validation)
    found = [finding for finding in monitor.findings if finding.cause == "data-leak"]
    assert [finding.level for finding in found] == (["warn"] if before else [])
