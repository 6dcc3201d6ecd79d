"""Faults of how data flow, of noisy labels and of rates near the edge, with odd but
healthy runs of the same looks. Written before the rules that are to find them: a first sight for them.

Validation accuracy and loss after the last epoch, one seed:

                                             sick      twin or healthy
                                          acc   loss     acc   loss
    records-in-order-of-class            0.11   4.45    0.46   1.49
    first-shard-again-and-again          0.27   2.41    0.45   1.54
    labels-from-another-reader           0.11   2.30    0.47   1.47
    records-written-in-random-order                     0.47   1.55
    eight-classes-by-eight-images                       0.45   1.55
    buckets-of-one-class                 0.32   1.88    0.45   1.53
    rare-classes-drawn-more-often                       0.33   2.12
    three-in-five-labels-by-lot          0.28   2.03    0.49   1.48
    a-tenth-of-the-labels-wrong                         0.46   1.69
    all-but-a-corner-erased              0.20   2.22    0.41   1.62
    dropout-by-hand                      0.41   1.62    0.45   1.59
    rate-that-just-holds                 0.10   2.31    0.42   1.69
    at-the-edge-of-stability                            0.39   1.87
    rounded-branches                                    0.46   1.51
    batches-of-one                                      0.31   1.90
    trunk-thawed-by-a-hook                              0.43   1.57
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from clinic import NUM_CLASSES, CaseBook, Classifier, Images, Session
from kinds import pyramid, separable_net, shuffled_store
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    TensorDataset,
    WeightedRandomSampler,
)
from wild import Pair, conv_unit, dense, he_weights, plain_cnn, run, standard

CASES = CaseBook()


# ------------------------------------------------------------------------------------------ streams


class Endless(IterableDataset):
    """Samples as a reader gives them, again and again from the start: a generator that cannot be copied."""

    def __init__(self, x: Tensor, y: Tensor, buffer: int = 1, first: int | None = None) -> None:
        self.x, self.y, self.buffer, self.first = x, y, buffer, first
        self.places = self._read()

    def _read(self) -> Iterator[int]:
        waiting: list[int] = []
        while True:
            for place in range(self.first or len(self.y)):
                waiting.append(place)
                if len(waiting) >= self.buffer:
                    chosen = random.randrange(len(waiting))
                    waiting[chosen], waiting[-1] = waiting[-1], waiting[chosen]
                    yield waiting.pop()

    def __iter__(self) -> Iterator[Pair]:
        for place in self.places:
            yield self.x[place], self.y[place]


def streamed(module: Classifier, images: Images, data: IterableDataset, batch: int = 40) -> Session:
    session = run(module, images, 4, limit_train_batches=4000 // batch)
    session.train_loader = DataLoader(data, batch)
    return session


@CASES.sick(
    "records-in-order-of-class",
    "data-not-shuffled",
    story="Reads records that were written class by class, through a shuffle buffer of 100 of 4000.",
)
def records_in_order(images: Images, fault: bool) -> Session:
    (x, y), _ = standard(images)
    data = Endless(x, y, 100) if fault else Endless(*shuffled_store(images), 100)
    return streamed(Classifier(plain_cnn(norm="group"), partial(Adam, lr=1e-3)), images, data)


@CASES.sick(
    "first-shard-again-and-again",
    "overfitting",
    story="The reader opens its list of shards anew when one is at its end: it reads the first for ever.",
)
def first_shard(images: Images, fault: bool) -> Session:
    data = Endless(*shuffled_store(images), 50, first=200 if fault else None)
    return streamed(Classifier(plain_cnn(norm="group"), partial(Adam, lr=1e-3)), images, data)


class Zipped(IterableDataset):
    """Images and labels from two readers, each with a shuffle buffer of its own or with one for both."""

    def __init__(self, x: Tensor, y: Tensor, apart: bool) -> None:
        self.x, self.y = x, y
        self.images = Endless(x, y, 500).places
        self.labels = Endless(x, y, 500).places if apart else None

    def __iter__(self) -> Iterator[Pair]:
        for place in self.images:
            yield self.x[place], self.y[place if self.labels is None else next(self.labels)]


@CASES.sick(
    "labels-from-another-reader",
    "labels-random",
    story="Zipped a reader of images with a reader of labels; each shuffles by itself.",
)
def labels_from_another_reader(images: Images, fault: bool) -> Session:
    data = Zipped(*shuffled_store(images), apart=fault)
    return streamed(Classifier(pyramid(24, 40, 40, norm="group"), partial(Adam, lr=2e-3)), images, data)


@CASES.healthy(
    "records-written-in-random-order",
    story="A stream through a small buffer, of records that were shuffled when they were written.",
)
def records_in_random_order(images: Images) -> Session:
    data = Endless(*shuffled_store(images), 20)
    return streamed(Classifier(pyramid(24, 40, 40), partial(Adam, lr=2e-3)), images, data, 64)


# ------------------------------------------------------------------------------------------ samplers


class ClassesByImages(Sampler[list[int]]):
    """Batches of 8 images of each of `classes` classes; of all batches, or those of two classes first."""

    def __init__(self, y: Tensor, classes: int) -> None:
        self.places = [torch.where(y == label)[0] for label in range(NUM_CLASSES)]
        self.classes = classes

    def __len__(self) -> int:
        return 4000 // (8 * self.classes)

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(len(self)):
            chosen = torch.randperm(NUM_CLASSES)[: self.classes].tolist()
            drawn = [self.places[label][torch.randint(len(self.places[label]), (8,))] for label in chosen]
            yield torch.cat(drawn).tolist()


@CASES.healthy(
    "eight-classes-by-eight-images",
    story="Each batch has eight images of each of eight classes, class after class, as embeddings like it.",
)
def classes_by_images(images: Images) -> Session:
    session = run(Classifier(pyramid(24, 40, 40, norm="group"), partial(Adam, lr=2e-3)), images)
    x, y = standard(images)[0]
    session.train_loader = DataLoader(TensorDataset(x, y), batch_sampler=ClassesByImages(y, 8))
    return session


class SortedBySize(BatchSampler):
    """Batches of neighbours in some order, the batches themselves shuffled: bucketing."""

    def __init__(self, order: Tensor, batch: int) -> None:
        self.order, self.size = order, batch

    def __len__(self) -> int:
        return len(self.order) // self.size

    def __iter__(self) -> Iterator[list[int]]:
        for number in torch.randperm(len(self)).tolist():
            yield self.order[number * self.size : (number + 1) * self.size].tolist()


@CASES.sick(
    "buckets-of-one-class",
    "data-not-shuffled",
    story="Sorted the list of files and shuffled whole batches: each is of one class.",
)
def buckets_of_one_class(images: Images, fault: bool) -> Session:
    session = run(Classifier(plain_cnn(norm="group"), partial(Adam, lr=1e-3)), images)
    x, y = standard(images)[0]
    order = torch.arange(len(y)) if fault else torch.randperm(len(y))
    session.train_loader = DataLoader(TensorDataset(x, y), batch_sampler=SortedBySize(order, 50))
    return session


@CASES.healthy(
    "rare-classes-drawn-more-often",
    story="Five classes have a tenth of the images; a weighted sampler draws all classes alike.",
)
def rare_classes(images: Images) -> Session:
    x, y = standard(images)[0]
    kept = torch.cat([torch.where(y == c)[0][: 400 if c % 2 else 40] for c in range(NUM_CLASSES)])
    x, y = x[kept], y[kept]
    weights = 1 / torch.bincount(y)[y].double()
    session = run(Classifier(pyramid(24, 40, 40, norm="group"), partial(Adam, lr=1e-3)), images)
    sampler = WeightedRandomSampler(weights.tolist(), 3000)
    session.train_loader = DataLoader(TensorDataset(x, y), 64, sampler=sampler)
    return session


# ------------------------------------------------------------------------------------------- labels


@CASES.sick(
    "three-in-five-labels-by-lot",
    "labels-random",
    story="Three in five labels come from a crowd that clicked at random.",
)
def labels_by_lot(images: Images, fault: bool) -> Session:
    x, y = shuffled_store(images)
    if fault:
        draw = torch.Generator().manual_seed(2)
        lot = torch.randint(NUM_CLASSES, y.shape, generator=draw)
        y = torch.where(torch.rand(y.shape, generator=draw) < 0.6, lot, y)
    return run(Classifier(plain_cnn(norm="group"), partial(AdamW, lr=1e-3)), images, 5, train=(x, y))


@CASES.healthy(
    "a-tenth-of-the-labels-wrong",
    story="One label in ten is wrong, as in many a set, and label smoothing bears it.",
)
def a_tenth_wrong(images: Images) -> Session:
    x, y = shuffled_store(images)
    draw = torch.Generator().manual_seed(3)
    lot = torch.randint(NUM_CLASSES, y.shape, generator=draw)
    y = torch.where(torch.rand(y.shape, generator=draw) < 0.1, lot, y)

    class Smooth(Classifier):
        def loss(self, logits: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(logits, y, label_smoothing=0.1)

    return run(Smooth(pyramid(24, 40, 40, norm="group"), partial(Adam, lr=2e-3)), images, train=(x, y))


class Erased(Dataset):
    """Images of which a square of side `side` is shown, somewhere, and the rest is noise."""

    def __init__(self, x: Tensor, y: Tensor, side: int) -> None:
        self.x, self.y, self.side = x, y, side

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, place: int) -> Pair:
        shown = torch.randn(3, 32, 32)
        row, column = (random.randint(0, 32 - self.side) for _ in range(2))
        part = (slice(None), slice(row, row + self.side), slice(column, column + self.side))
        shown[part] = self.x[place][part]
        return shown, self.y[place]


@CASES.sick(
    "all-but-a-corner-erased",
    "regularization-too-strong",
    "underfitting",
    story="Random erasing in the data set keeps a square of seven pixels instead of erasing one.",
)
def all_but_a_corner(images: Images, fault: bool) -> Session:
    session = run(Classifier(pyramid(24, 40, 40, norm="group"), partial(Adam, lr=2e-3)), images)
    data = Erased(*standard(images)[0], side=7 if fault else 27)
    session.train_loader = DataLoader(data, 64, shuffle=True)
    return session


# ------------------------------------------------------------------------------------- evaluation


class Drops(nn.Module):
    """Dropout by hand, which asks for the mode or does not."""

    def __init__(self, share: float, asks: bool) -> None:
        super().__init__()
        self.share, self.asks = share, asks

    def forward(self, x: Tensor) -> Tensor:
        if self.asks and not self.training:
            return x
        return x * torch.bernoulli(torch.full_like(x, 1 - self.share)) / (1 - self.share)


@CASES.sick(
    "dropout-by-hand",
    "train-mode-evaluation",
    story="Wrote dropout by hand, without a look at self.training.",
)
def dropout_by_hand(images: Images, fault: bool) -> Session:
    net = nn.Sequential(
        conv_unit(3, 32, 2, "group"),
        conv_unit(32, 48, 2, "group"),
        nn.Flatten(),
        Drops(0.6, asks=not fault),
        nn.Linear(64 * 48, NUM_CLASSES),
    )
    return run(Classifier(net, partial(Adam, lr=2e-3)), images)


# ------------------------------------------------------------------------------------------ the rate


@CASES.sick(
    "rate-that-just-holds",
    "learning-rate-too-high",
    story="Took the largest rate at which the loss did not become NaN.",
)
def rate_that_just_holds(images: Images, fault: bool) -> Session:
    net = pyramid(24, 40, 40)
    return run(Classifier(net, partial(SGD, lr=0.17 if fault else 0.03, momentum=0.9)), images)


@CASES.healthy(
    "at-the-edge-of-stability",
    story="Plain SGD at a large rate: the curvature rises to 2/rate and hovers there, and the loss falls.",
)
def edge_of_stability(images: Images) -> Session:
    net = he_weights(dense(160, 80))
    return run(Classifier(net, partial(SGD, lr=0.05)), images, 6, 100)


class Rounded(torch.autograd.Function):
    """Rounds, with the gradient of the identity: a straight-through estimator."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (4 * x).round() / 4

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class QuantizedBranch(nn.Module):
    """A residual branch whose activations are rounded on their way."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(Rounded.apply(F.relu(self.norm(x))))


@CASES.healthy(
    "rounded-branches",
    story="Training for 4 bits: activations are rounded, the gradient passes as if they were not.",
)
def rounded_branches(images: Images) -> Session:
    net = nn.Sequential(
        nn.Conv2d(3, 32, 4, 4),
        QuantizedBranch(32),
        QuantizedBranch(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 32, NUM_CLASSES),
    )
    return run(Classifier(net, partial(Adam, lr=2e-3)), images)


# --------------------------------------------------------------------------------------------- short


@CASES.healthy("batches-of-one", story="Adam on single images at a small rate, for a part of an epoch.")
def batches_of_one(images: Images) -> Session:
    net = pyramid(16, 24, 24, norm="group")
    return run(
        Classifier(net, partial(Adam, lr=3e-4)),
        images,
        1,
        1,
        train=shuffled_store(images),
        limit_train_batches=1200,
    )


class Thawing(Classifier):
    """The trunk is frozen by requires_grad, the optimizer has it, and a hook thaws it after two epochs."""

    def on_train_epoch_start(self) -> None:
        self.net[:-1].requires_grad_(self.current_epoch >= 2)


@CASES.healthy(
    "trunk-thawed-by-a-hook",
    story="The head alone for two epochs, then all: requires_grad set in on_train_epoch_start.",
)
def trunk_thawed(images: Images) -> Session:
    return run(Thawing(separable_net(), partial(Adam, lr=2e-3)), images)
