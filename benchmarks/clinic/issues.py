"""Faults retold from issues of public repositories, named where there is one, of kinds that no other file
here has: what is to be predicted leaks into the inputs or into validation, targets of another scale, a
distillation, a deep graph network, similarities. Written before any rule was changed for them.

Validation accuracy (of numbers: the share of the variance that is explained) and loss after the last epoch,
one seed:

                                                 sick           twin
                                          acc     loss   acc     loss
    future-not-hidden                    0.56     1.02  0.83     0.42
    the-price-among-its-columns          1.00   0.0033  0.90    0.099
    drawn-more-often-before-the-split    1.00   0.0669  0.37      2.2
    masks-through-to-tensor              1.00   0.0401  0.96     0.13
    prices-in-whole-dollars             -2.63 3.45e+10  0.92    0.076
    a-time-stamp-among-the-columns     -47.50     46.2  0.89     0.11
    a-vocabulary-for-each-file           0.12     3.99  0.94     0.19
    word-vectors-frozen-by-default       0.64    0.919  0.94     0.17
    divergence-of-shares                 0.23     11.3  0.44      1.6
    average-over-ten-thousand-steps      0.11      2.3  0.49      1.4
    sixteen-hops                         0.15     1.62  0.99    0.019
    similarities-times-the-temperature   0.59     5.89  0.94      1.1
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from clinic import CaseBook, Classifier, Images, Session, normalized
from healthy import (
    Distilled,
    GraphNet,
    Nodes,
    Segmentation,
    SlowCopy,
    SmallUNet,
    TwoViews,
    fitting,
    halves,
    house_prices,
    shapes,
)
from subjects import Kinds, Values
from torch import Tensor, nn
from torch.optim import SGD, Adam
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset, random_split
from transformers import Attention, letters
from wild import Pair, conv_unit, plain_cnn, pretrained, run, standard

CASES = CaseBook()

# ------------------------------------------------------------------------- what is to be predicted leaks


@CASES.sick(
    "future-not-hidden",
    "data-leak",
    story="Left out the causal mask of a GPT: each place sees the letter that it is to predict "
    "(jadore801120/attention-is-all-you-need-pytorch#19).",
)
def future_not_hidden(images: Images, fault: bool) -> Session:
    return letters(attention=partial(Attention, causal=not fault))


def table_net(columns: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(columns, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))


class Prices(Values):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).squeeze(1)


@CASES.sick(
    "the-price-among-its-columns",
    "data-leak",
    story="Standardized the table before the price was taken out of its columns.",
)
def price_among_its_columns(images: Images, fault: bool) -> Session:
    x, y = house_prices()
    column = (y - y.mean()) / y.std() if fault else torch.randn(len(y))
    return fitting(Prices(table_net(9)), *halves(torch.cat([x, column[:, None]], 1), y), epochs=10)


@CASES.sick(
    "drawn-more-often-before-the-split",
    "data-leak",
    story="Repeats the images of rare classes and splits afterwards: nearly all of validation is in training "
    "(georgymh/ml-fraud-detection#1, MakazhanAlpamys/Soup#680).",
)
def drawn_before_the_split(images: Images, fault: bool) -> Session:
    x, y = normalized(images.train_x[::4]), images.train_y[::4]
    draw = torch.Generator().manual_seed(3)
    if fault:
        order = torch.arange(len(y)).repeat(4)
        train, val = random_split(TensorDataset(x[order], y[order]), [0.8, 0.2], draw)
    else:
        first, val = random_split(TensorDataset(x, y), [0.8, 0.2], draw)
        order = torch.tensor(first.indices).repeat(4)
        train = TensorDataset(x[order], y[order])  # type: ignore[assignment]
    module = Classifier(plain_cnn(norm="batch"), partial(Adam, lr=2e-3))
    return Session(module, DataLoader(train, 64, shuffle=True), DataLoader(val, 200), {"max_epochs": 4})


# ----------------------------------------------------------------------------------- labels and targets


@CASES.sick(
    "masks-through-to-tensor",
    "class-imbalance",
    "labels-random",
    story="Put the masks through ToTensor(), which divides by 255, and then through long(): all are 0 "
    "(pytorch/vision#2497).",
)
def masks_through_to_tensor(images: Images, fault: bool) -> Session:
    x, mask, _ = shapes(600)
    if fault:
        mask = (mask / 255).long()
    return fitting(Segmentation(SmallUNet(), partial(Adam, lr=3e-3)), *halves(x, mask), epochs=4, batch=16)


@CASES.sick(
    "prices-in-whole-dollars",
    "learning-rate-too-low",
    "wrong-initial-loss",
    "underfitting",
    story="Left the prices in dollars, near 200000, for a network whose outputs start near 0 "
    "(DeepRank/deeprank#16, atomistic-machine-learning/schnetpack#336).",
)
def prices_in_dollars(images: Images, fault: bool) -> Session:
    x, y = house_prices()
    return fitting(Prices(table_net(8)), *halves(x, y * 1e5 if fault else y), epochs=10)


# ------------------------------------------------------------------------------------------------ inputs


@CASES.sick(
    "a-time-stamp-among-the-columns",
    "input-not-normalized",
    story="A column of seconds since 1970 beside eight that are standardized.",
)
def time_stamp(images: Images, fault: bool) -> Session:
    x, y = house_prices()
    days = torch.rand(len(y), generator=torch.Generator().manual_seed(8)) * 2000
    column = 1.6e9 + 86400 * days if fault else (days - 1000) / 577
    return fitting(Prices(table_net(9)), *halves(torch.cat([x, column[:, None]], 1), y), epochs=10)


def opinions(count: int = 2500, words: int = 200, length: int = 24) -> Pair:
    """Rows of words, and which of four topics has most of its words in a row."""
    draw = torch.Generator().manual_seed(9)
    y = torch.randint(4, (count,), generator=draw)
    x = torch.randint(words, (count, length), generator=draw)
    own = torch.rand(count, length, generator=draw) < 0.25
    return torch.where(own, y[:, None] + 4 * torch.randint(10, x.shape, generator=draw), x), y


class MeanOfWords(nn.Module):
    """The mean of a row's word vectors, and two layers on it."""

    def __init__(self, words: int = 200, width: int = 12) -> None:
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.top = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.top(self.words(tokens).mean(1))


@CASES.sick(
    "a-vocabulary-for-each-file",
    "train-val-mismatch",
    story="Builds the vocabulary anew from the validation file: the same words have other numbers there "
    "(dennybritz/cnn-text-classification-tf#8).",
)
def vocabulary_for_each_file(images: Images, fault: bool) -> Session:
    x, y = opinions()
    numbers = torch.randperm(200, generator=torch.Generator().manual_seed(4)) if fault else torch.arange(200)
    train, val = TensorDataset(x[:2000], y[:2000]), TensorDataset(numbers[x[2000:]], y[2000:])
    return fitting(Kinds(MeanOfWords(), partial(Adam, lr=5e-3)), train, val, epochs=8)


@CASES.sick(
    "word-vectors-frozen-by-default",
    "frozen-parameters",
    story="nn.Embedding.from_pretrained() on vectors drawn at random: they are frozen unless freeze=False "
    "(huggingface/optimum-graphcore#304).",
)
def word_vectors_frozen(images: Images, fault: bool) -> Session:
    net = MeanOfWords()
    net.words = nn.Embedding.from_pretrained(torch.randn(200, 12), freeze=fault)
    return fitting(Kinds(net, partial(Adam, lr=5e-3)), *halves(*opinions()), epochs=8)


# --------------------------------------------------------------------------------- losses and networks


class OnlyTaught(Distilled):
    """Learns the teacher's outputs alone."""

    of_shares = False

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(x)
        with torch.no_grad():
            soft = F.softmax(self.teacher(x), dim=1)
        found = F.softmax(logits, dim=1) if self.of_shares else F.log_softmax(logits, dim=1)
        loss = F.kl_div(found, soft, reduction="batchmean")
        accuracy = (logits.argmax(1) == y).float().mean()
        values = {"train/loss": loss, "train/acc": accuracy}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(y))
        return loss


@CASES.sick(
    "divergence-of-shares",
    "wrong-initial-loss",
    "double-softmax",
    story="Gave kl_div() the student's softmax where it wants the logarithm; the loss is below zero "
    "(microsoft/ProDA#43).",
)
def divergence_of_shares(images: Images, fault: bool) -> Session:
    (x, y), _ = standard(images)
    teacher = pretrained(plain_cnn(32, norm="batch"), x, y, 3)
    module = OnlyTaught(plain_cnn(12), partial(SGD, lr=0.05, momentum=0.9), teacher=teacher)
    module.of_shares = fault
    return run(module, images, 4)


class SlowerCopy(SlowCopy):
    """Validates an average over many more steps than there are."""

    def __init__(self, *args: Any, decay: float) -> None:
        super().__init__(*args)
        self.average = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        self.average.n_averaged += 1  # from the first weights on


@CASES.sick(
    "average-over-ten-thousand-steps",
    "train-val-mismatch",
    story="Validates an average of the weights with a decay of 0.9999 in a run of 250 steps: it is still "
    "that of the first (open-mmlab/mmpretrain#870).",
)
def average_over_many(images: Images, fault: bool) -> Session:
    optimizer = partial(SGD, lr=0.05, momentum=0.9)
    return run(SlowerCopy(plain_cnn(24, norm="batch"), optimizer, decay=0.9999 if fault else 0.97), images, 4)


class ManyHops(nn.Module):
    def __init__(self, inputs: int, classes: int, hops: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(inputs, 32), nn.Linear(32, classes)
        self.between = nn.ModuleList(nn.Linear(32, 32) for _ in range(hops - 2))

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        x = F.relu(adjacency @ self.first(x))
        for layer in self.between:
            x = F.relu(adjacency @ layer(x))
        return adjacency @ self.last(x)


@CASES.sick(
    "sixteen-hops",
    "vanishing-gradients",
    "bad-initialization",
    "underfitting",
    story="Sixteen layers of graph convolution without shortcuts: all nodes become one.",
)
def sixteen_hops(images: Images, fault: bool) -> Session:
    y = torch.arange(300) % 5
    linked = torch.rand(300, 300) < torch.where(y[:, None] == y[None], 0.08, 0.01)
    linked = (linked | linked.T | torch.eye(300, dtype=torch.bool)).float()
    degree = linked.sum(1).rsqrt()
    adjacency = degree[:, None] * linked * degree[None]
    x = torch.randn(300, 20) + 0.6 * torch.randn(5, 20)[y]
    order = torch.randperm(300)
    known, held = torch.zeros(300, dtype=torch.bool), torch.zeros(300, dtype=torch.bool)
    known[order[:80]], held[order[150:]] = True, True
    net = ManyHops(20, 5, 16) if fault else GraphNet(20, 5)
    return Session(
        Nodes(net, partial(Adam, lr=1e-2, weight_decay=5e-4)),
        DataLoader([(x, adjacency, y, known)], batch_size=None),  # type: ignore[arg-type]
        DataLoader([(x, adjacency, y, held)], batch_size=None),  # type: ignore[arg-type]
        {"max_epochs": 120, "check_val_every_n_epoch": 5},
    )


class TwoTemperatures(TwoViews):
    times = False

    def loss(self, batch: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        (x,) = batch
        features = F.normalize(self(self.views(x)), dim=1)
        alike = features @ features.T
        alike = alike * 0.1 if self.times else alike / 0.1
        alike.fill_diagonal_(-1e9)
        partner = torch.arange(len(features)).roll(len(x))
        loss = F.cross_entropy(alike, partner)
        return loss, {"acc": (alike.argmax(1) == partner).float().mean()}


@CASES.sick(
    "similarities-times-the-temperature",
    "saturated-activations",
    "double-softmax",
    "underfitting",
    story="Multiplies the similarities by the temperature, 0.1, where they are divided by it; the loss stays "
    "near the logarithm of the batch (google-research/simclr#141).",
)
def similarities_times_temperature(images: Images, fault: bool) -> Session:
    net = nn.Sequential(
        conv_unit(3, 24, 2, "batch"),
        conv_unit(24, 48, 2, "batch"),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Linear(9 * 48, 64),
        nn.ReLU(),
        nn.Linear(64, 32),
    )
    (x, _), (val_x, _) = standard(images)
    module = TwoTemperatures(net, partial(Adam, lr=1e-3))
    module.times = fault
    return fitting(module, TensorDataset(x[::2]), TensorDataset(val_x[::5]), epochs=4)
