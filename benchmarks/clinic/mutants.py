"""Mutants of small networks on tables, curves, sequences and images, and odd but healthy runs beside them.

The operators are those of the published mutation benchmarks: an activation, a loss, a rate, an
initialization, the training data or an axis is changed in a run that works. Written before any rule was
changed for them.

What is logged after the last epoch, accuracy (of regressions the share of the variance explained) and
validation loss, one seed:

                                                    sick       twin or healthy
                                                 acc    loss     acc    loss
    sigmoid-on-a-price                        -0.44    1.38    0.85    0.15
    rectified-deviations                       0.43    0.56    0.92    0.08
    prices-in-cents                           -3.04   4e+14    0.92    0.08
    columns-as-they-came                      -2.59    3.49    0.85    0.15
    table-at-a-millionth                      -2.70    3.53    0.93    0.07
    momentum-of-three-nines                   -0.14    1.10    0.93    0.07
    ages-in-years                                              0.92    6.54
    visits-by-their-logarithm                                        -13.62
    circles-by-straight-lines                  0.60    0.69    1.00    0.01
    circles-at-a-thousandfold                  0.46    0.62    1.00    0.01
    circles-in-large-steps                                     0.99    0.02
    three-frauds-in-a-hundred                                  0.98    0.13
    recurrent-over-the-batch                   0.56    1.21    0.82    0.41
    sorted-by-length-without-labels            0.31    1.37    0.84    0.50
    recurrent-weights-of-a-half              -3e+13   3e+13    0.98    0.02
    the-next-value-of-a-curve                                  0.99    0.00
    letters-at-a-rate-of-a-tenth               0.21    2.69    0.82    0.45
    embeddings-by-an-optimizer-of-their-own                    0.85    0.36
    warmed-up-by-an-inverse-root                               0.89    0.61
    four-in-five-dropped                                       0.46    1.48
    loss-of-the-last-image                     0.18    2.20    0.45    1.51
    five-classes-never-shown                   0.31    6.25    0.45    1.66
    validation-labels-shuffled-alone           0.12    4.31
    tanh-on-the-logits                         0.45    1.69
    trunk-at-a-rate-of-nothing                 0.38    1.79
    flipped-without-its-mask                   0.87    0.29
    softmax-over-the-rows                      0.63    2.96
    cosines-times-sixteen                                      0.47    1.52

Twins without figures were not run when the table was made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from clinic import NUM_CLASSES, CaseBook, Classifier, Images, Session
from healthy import (
    Causal,
    NextLetter,
    Segmentation,
    SmallUNet,
    Task,
    fitting,
    halves,
    house_prices,
    sentences,
    shapes,
)
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim import SGD, Adam, AdamW, SparseAdam
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LambdaLR
from torch.utils.data import Dataset
from wild import Pair, plain_cnn, run, standard

CASES = CaseBook()


def layers(*widths: int, activation: Any = nn.ReLU) -> nn.Sequential:
    """Linear layers of these widths with `activation` between them."""
    net = nn.Sequential()
    for a, b in pairwise(widths):
        net.append(nn.Linear(a, b)).append(activation())
    return net[:-1]


# ------------------------------------------------------------------------------------------- tables


class Price(Task):
    """A squared loss, or another; `acc` is the share of the variance that is explained."""

    distance: Callable[[Tensor, Tensor], Tensor] = staticmethod(F.mse_loss)

    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        found = self(x).squeeze(1)
        return self.distance(found, y), {"acc": 1 - (found - y).square().mean() / y.var()}


@CASES.sick(
    "sigmoid-on-a-price",
    "underfitting",
    "saturated-activations",
    story="Kept the sigmoid of a classifier at the end of a network for prices between -1 and 5.",
)
def sigmoid_on_a_price(images: Images, fault: bool) -> Session:
    net = layers(8, 48, 48, 1)
    if fault:
        net.append(nn.Sigmoid())
    return fitting(Price(net, partial(Adam, lr=3e-3)), *halves(*house_prices()), epochs=8)


@CASES.sick(
    "rectified-deviations",
    "dead-relu",
    "underfitting",
    story="Built the last layer by the helper of the others: a ReLU on deviations from a mean.",
)
def rectified_deviations(images: Images, fault: bool) -> Session:
    x, y = house_prices()
    net = layers(8, 48, 48, 1)
    if fault:
        net.append(nn.ReLU())
    return fitting(Price(net, partial(Adam, lr=3e-3)), *halves(x, y - y.mean()), epochs=8)


@CASES.sick(
    "prices-in-cents",
    "wrong-initial-loss",
    "learning-rate-too-low",
    story="Left the prices in cents, 20 million on average; the outputs start near 0.",
)
def prices_in_cents(images: Images, fault: bool) -> Session:
    x, y = house_prices()
    target = y * 1e7 if fault else y - y.mean()
    return fitting(Price(layers(8, 48, 48, 1), partial(Adam, lr=3e-3)), *halves(x, target), epochs=8)


@CASES.sick(
    "columns-as-they-came",
    "input-not-normalized",
    story="Forgot the scaler: a year, an area and an income beside shares between 0 and 1.",
)
def columns_as_they_came(images: Images, fault: bool) -> Session:
    x, y = house_prices()
    if fault:
        x = x * torch.tensor([0.1, 12.0, 300.0, 0.2, 2e4, 1.0, 0.1, 30.0])
        x = x + torch.tensor([0.5, 1980.0, 1200.0, 0.5, 6e4, 3.0, 0.5, 120.0])
    return fitting(Price(layers(8, 48, 48, 1), partial(Adam, lr=3e-3)), *halves(x, y), epochs=8)


@CASES.sick(
    "table-at-a-millionth",
    "learning-rate-too-low",
    story="Took the weight decay for the rate: SGD at 3e-6.",
)
def table_at_a_millionth(images: Images, fault: bool) -> Session:
    optimizer = partial(SGD, lr=3e-6 if fault else 0.03, momentum=0.9)
    return fitting(Price(layers(8, 48, 48, 1), optimizer), *halves(*house_prices()), epochs=8)


@CASES.sick(
    "momentum-of-three-nines",
    "learning-rate-too-high",
    story="Gave SGD the 0.999 of Adam's second moment for its momentum: a step goes on for a thousand.",
)
def momentum_of_three_nines(images: Images, fault: bool) -> Session:
    optimizer = partial(SGD, lr=0.03, momentum=0.999 if fault else 0.9)
    return fitting(Price(layers(8, 48, 48, 1), optimizer), *halves(*house_prices()), epochs=8)


@CASES.healthy(
    "ages-in-years", story="Ages around 40 years as they are; the outputs start near 0 and get there."
)
def ages_in_years(images: Images) -> Session:
    x, y = house_prices()
    age = 40 + 9 * (y - y.mean()) / y.std()
    return fitting(Price(layers(8, 64, 64, 1), partial(Adam, lr=5e-3)), *halves(x, age), epochs=10, batch=32)


class Counts(Task):
    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        return F.poisson_nll_loss(self(x).squeeze(1), y), {}


@CASES.healthy(
    "visits-by-their-logarithm", story="Counts by a Poisson loss, which is below zero for good ones."
)
def visits(images: Images) -> Session:
    x, y = house_prices()
    net = layers(8, 32, 32, 1, activation=nn.SiLU)
    return fitting(
        Counts(net, partial(AdamW, lr=3e-3)), *halves(x, torch.poisson(y.clamp(-1, 4).exp())), epochs=8
    )


# ------------------------------------------------------------------------------ two classes, one logit


class YesOrNo(Task):
    weight = 1.0

    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        logit = self(x).squeeze(1)
        weight = torch.tensor(self.weight)
        loss = F.binary_cross_entropy_with_logits(logit, y, pos_weight=weight)
        return loss, {"acc": ((logit > 0).float() == y).float().mean()}


def circles(count: int = 1500) -> Pair:
    """Points on two circles, the inner one of half the radius, with a little noise; 1 for the inner one."""
    draw = torch.Generator().manual_seed(21)
    y = torch.randint(2, (count,), generator=draw).float()
    angle = 2 * torch.pi * torch.rand(count, generator=draw)
    points = torch.stack([angle.cos(), angle.sin()], 1) * (1 - 0.5 * y).unsqueeze(1)
    return points + 0.1 * torch.randn(count, 2, generator=draw), y


@CASES.sick(
    "circles-by-straight-lines",
    "underfitting",
    story="Lost the activations of a small network when it was rewritten: circles told apart by one line.",
)
def circles_by_lines(images: Images, fault: bool) -> Session:
    net = layers(2, 32, 32, 1, activation=nn.Identity if fault else nn.ReLU)
    return fitting(YesOrNo(net, partial(Adam, lr=5e-3)), *halves(*circles()), epochs=10, batch=32)


@CASES.sick(
    "circles-at-a-thousandfold",
    "learning-rate-too-high",
    story="Gave Adam a rate of 5 where 0.005 was meant: the loss jumps up and down.",
)
def circles_thousandfold(images: Images, fault: bool) -> Session:
    net = layers(2, 32, 32, 1)
    optimizer = partial(Adam, lr=5.0 if fault else 0.005)
    return fitting(YesOrNo(net, optimizer), *halves(*circles()), epochs=10, batch=32)


@CASES.healthy(
    "circles-in-large-steps", story="A net of 2-16-16-1 with tanh, the whole set a batch, SGD at 1."
)
def circles_in_large_steps(images: Images) -> Session:
    net = layers(2, 16, 16, 1, activation=nn.Tanh)
    return fitting(YesOrNo(net, partial(SGD, lr=1.0)), *halves(*circles(400)), epochs=300, batch=400)


class Frauds(YesOrNo):
    weight = 10.0


@CASES.healthy(
    "three-frauds-in-a-hundred", story="Three positives in a hundred by nature, with a weight of ten."
)
def frauds(images: Images) -> Session:
    draw = torch.Generator().manual_seed(22)
    x = torch.randn(3000, 10, generator=draw)
    score = x[:, 0] + x[:, 1] * x[:, 2] + 0.3 * torch.randn(3000, generator=draw)
    y = (score > score.quantile(0.97)).float()
    return fitting(Frauds(layers(10, 48, 48, 1), partial(AdamW, lr=3e-3)), *halves(x, y), epochs=8)


# ------------------------------------------------------------------------------------------ sequences


class Order(nn.Module):
    """A GRU that reads token ids [N, T] and says, by its last state, of which kind the sequence is."""

    def __init__(self, symbols: int, classes: int, batch_first: bool = True, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, 16)
        self.recur = nn.GRU(16, width, batch_first=batch_first)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.recur(self.embed(tokens))
        return self.head(states[:, -1])


class Sentence(Task):
    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        tokens, y = batch
        logits = self(tokens)
        return F.cross_entropy(logits, y), {"acc": (logits.argmax(1) == y).float().mean()}


def commonest(count: int, length: int = 10) -> Pair:
    """Sequences of 20 symbols and in which quarter of them most symbols lie."""
    draw = torch.Generator().manual_seed(23)
    y = torch.randint(4, (count,), generator=draw)
    inside = torch.rand(count, length, generator=draw) < 0.4
    own = 5 * y.unsqueeze(1) + torch.randint(5, (count, length), generator=draw)
    return torch.where(inside, own, torch.randint(20, (count, length), generator=draw)), y


@CASES.sick(
    "recurrent-over-the-batch",
    "labels-random",
    "underfitting",
    story="Forgot batch_first=True: the GRU reads down the batch, from one sentence to the next.",
)
def recurrent_over_the_batch(images: Images, fault: bool) -> Session:
    module = Sentence(Order(20, 4, batch_first=not fault), partial(Adam, lr=3e-3))
    return fitting(module, *halves(*commonest(2000)), epochs=6, batch=32)


class Uneven(Dataset):
    """Sequences of `commonest` cut to 5 to 10 symbols."""

    def __init__(self, tokens: Tensor, y: Tensor) -> None:
        draw = torch.Generator().manual_seed(24)
        lengths = torch.randint(5, 11, (len(y),), generator=draw)
        self.rows = [row[: int(n)] + 1 for row, n in zip(tokens, lengths, strict=True)]
        self.y = y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, place: int) -> Pair:
        return self.rows[place], self.y[place]


def by_length(items: list[Pair], both: bool) -> Pair:
    """A batch with the longest sequence first, as packing once wanted it; its labels likewise, or not."""
    ordered = sorted(items, key=lambda item: -len(item[0]))
    rows = pad_sequence([row for row, _ in ordered], batch_first=True)
    return rows, torch.stack([y for _, y in (ordered if both else items)])


class Bag(nn.Module):
    """The mean of the embeddings of token ids [N, T], 0 left out, and two layers."""

    def __init__(self, symbols: int, classes: int, dropout: float = 0.0, sparse: bool = False) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(symbols, 48, mode="mean", padding_idx=0, sparse=sparse)
        self.net = nn.Sequential(nn.Linear(48, 64), nn.ReLU(), nn.Dropout(dropout), nn.Linear(64, classes))

    def forward(self, tokens: Tensor) -> Tensor:
        return self.net(self.embed(tokens))


@CASES.sick(
    "sorted-by-length-without-labels",
    "labels-random",
    story="The collate function sorts the sentences of a batch by length, and not their labels.",
)
def sorted_without_labels(images: Images, fault: bool) -> Session:
    tokens, y = commonest(2400)
    session = fitting(
        Sentence(Bag(21, 4), partial(Adam, lr=5e-3)),
        Uneven(tokens[:2000], y[:2000]),
        Uneven(tokens[2000:], y[2000:]),
        epochs=5,
        batch=32,
        collate=partial(by_length, both=not fault),
    )
    session.val_loader.collate_fn = partial(by_length, both=True)
    return session


@CASES.sick(
    "recurrent-weights-of-a-half",
    "exploding-gradients",
    "bad-initialization",
    story="Drew all weights of a recurrent network with ReLU from a normal distribution of deviation 0.5.",
)
def recurrent_weights(images: Images, fault: bool) -> Session:
    class Curve(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recur = nn.RNN(1, 32, nonlinearity="relu", batch_first=True)
            self.head = nn.Linear(32, 1)
            if fault:
                for weight in self.recur.parameters():
                    nn.init.normal_(weight, std=0.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.recur(x)[0][:, -1])

    return fitting(Price(Curve(), partial(Adam, lr=2e-3)), *halves(*waves(1600)), epochs=4, batch=32)


def waves(count: int, length: int = 30) -> Pair:
    """Sums of two sines [N, T, 1] with noise, and the value that comes next [N]."""
    draw = torch.Generator().manual_seed(25)
    phase = 2 * torch.pi * torch.rand(count, 2, 1, generator=draw)
    time = torch.arange(length + 1.0)
    curve = (time * torch.tensor([[0.3], [0.8]]) + phase).sin().sum(1)
    curve = curve + 0.05 * torch.randn(count, length + 1, generator=draw)
    return curve[:, :-1].unsqueeze(2), curve[:, -1]


class Robust(Price):
    distance = staticmethod(F.smooth_l1_loss)


@CASES.healthy("the-next-value-of-a-curve", story="An LSTM for the next value, Huber's loss, clipped at 0.5.")
def next_value(images: Images) -> Session:
    class Ahead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recur = nn.LSTM(1, 32, batch_first=True)
            self.head = nn.Linear(32, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.recur(x)[0][:, -1])

    module = Robust(Ahead(), partial(Adam, lr=3e-3))
    return fitting(module, *halves(*waves(1600)), epochs=4, batch=32, gradient_clip_val=0.5)


@CASES.sick(
    "letters-at-a-rate-of-a-tenth",
    "learning-rate-too-high",
    story="Trained a small GPT by AdamW at 0.1, the rate of the recurrent net that it replaced under SGD.",
)
def letters_at_a_tenth(images: Images, fault: bool) -> Session:
    windows, letters = sentences(1280, 24)
    optimizer = partial(AdamW, lr=0.1 if fault else 3e-3)
    return fitting(NextLetter(Causal(letters, 24), optimizer), *halves(windows), epochs=4, batch=32)


class TwoOptimizers(Sentence):
    """SparseAdam for the embeddings and Adam for the rest, each with a schedule, stepped by hand."""

    def __init__(self, net: Bag) -> None:
        super().__init__(net)
        self.automatic_optimization = False

    def training_step(self, batch: Pair, batch_idx: int) -> None:
        loss, others = self.loss(batch)
        optimizers: Any = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()
        schedules: Any = self.lr_schedulers()
        for schedule in schedules:
            schedule.step()
        self.note("train", {"loss": loss, **others})

    def configure_optimizers(self) -> Any:
        sparse = SparseAdam(list(self.net.embed.parameters()), lr=0.01)
        dense = Adam(self.net.net.parameters(), lr=3e-3)
        return [sparse, dense], [CosineAnnealingWarmRestarts(one, 100) for one in (sparse, dense)]


@CASES.healthy(
    "embeddings-by-an-optimizer-of-their-own", story="SparseAdam and Adam by hand, with warm restarts."
)
def two_optimizers(images: Images) -> Session:
    return fitting(TwoOptimizers(Bag(20, 4, sparse=True)), *halves(*commonest(2000)), epochs=6, batch=32)


class Attentive(nn.Module):
    """A transformer encoder over token ids [N, T], its mean and a head."""

    def __init__(self, symbols: int, classes: int, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, width)
        self.places = nn.Parameter(0.02 * torch.randn(10, width))
        layer = nn.TransformerEncoderLayer(width, 4, 64, 0.1, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(tokens) * math.sqrt(32) + self.places).mean(1))


class Smoothed(Sentence):
    """Smoothed labels and the schedule of the first transformer, warmed up for 60 steps."""

    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        tokens, y = batch
        logits = self(tokens)
        loss = F.cross_entropy(logits, y, label_smoothing=0.1)
        return loss, {"acc": (logits.argmax(1) == y).float().mean()}

    def configure_optimizers(self) -> Any:
        optimizer = Adam(self.parameters(), lr=1.0, betas=(0.9, 0.98), eps=1e-9)
        rate = LambdaLR(optimizer, lambda step: 32**-0.5 * min((step + 1) ** -0.5, (step + 1) * 60**-1.5) / 4)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}


@CASES.healthy(
    "warmed-up-by-an-inverse-root", story="The first transformer's schedule: lr=1 times a small factor."
)
def inverse_root(images: Images) -> Session:
    return fitting(Smoothed(Attentive(20, 4)), *halves(*commonest(2000)), epochs=6, batch=32)


@CASES.healthy("four-in-five-dropped", story="Dropout of 0.8 on wide features, which bears it.")
def four_in_five_dropped(images: Images) -> Session:
    net = nn.Sequential(*plain_cnn(24, norm="batch")[:-1], nn.Linear(768, 512), nn.ReLU(), nn.Dropout(0.8))
    return run(Classifier(net.append(nn.Linear(512, NUM_CLASSES)), partial(Adam, lr=2e-3)), images, 5)


# --------------------------------------------------------------------------------------------- images


class OfTheLast(Classifier):
    """Takes the loss of the last image alone; accuracy is of all."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits[-1:], y[-1:]) if self.training else F.cross_entropy(logits, y)


@CASES.sick(
    "loss-of-the-last-image",
    "batch-too-small",
    story="Computed the loss behind a loop over the images: it is that of the last one of each batch.",
)
def loss_of_the_last(images: Images, fault: bool) -> Session:
    return run((OfTheLast if fault else Classifier)(plain_cnn(norm="group"), partial(Adam, lr=3e-3)), images)


@CASES.sick(
    "five-classes-never-shown",
    "train-val-mismatch",
    "class-imbalance",
    story="Cut the sorted training set in half to save time: five of ten classes are gone.",
)
def five_classes(images: Images, fault: bool) -> Session:
    x, y = standard(images)[0]
    kept = torch.arange(2000) if fault else torch.arange(0, 4000, 2)
    return run(
        Classifier(plain_cnn(norm="group"), partial(Adam, lr=2e-3)), images, 6, train=(x[kept], y[kept])
    )


@CASES.sick(
    "validation-labels-shuffled-alone",
    "train-val-mismatch",
    story="Shuffled the labels of the validation set and not its images.",
)
def validation_labels(images: Images, fault: bool) -> Session:
    x, y = standard(images)[1]
    places = (
        torch.randperm(len(y), generator=torch.Generator().manual_seed(4)) if fault else torch.arange(len(y))
    )
    return run(Classifier(plain_cnn(norm="batch"), partial(Adam, lr=2e-3)), images, val=(x, y[places]))


@CASES.sick(
    "tanh-on-the-logits",
    "saturated-activations",
    "double-softmax",
    "underfitting",
    story="Ended the network in a tanh and gave cross_entropy its outputs, which are at most 2 apart.",
)
def tanh_on_the_logits(images: Images, fault: bool) -> Session:
    net = plain_cnn(norm="group")
    return run(Classifier(net.append(nn.Tanh()) if fault else net, partial(Adam, lr=2e-3)), images, 5)


class TrunkAndHead(Classifier):
    def configure_optimizers(self) -> Any:
        trunk = {"params": self.net[:-1].parameters(), "lr": self.share * 2e-3}
        return Adam([trunk, {"params": self.net[-1].parameters()}], lr=2e-3)

    share = 1.0


@CASES.sick(
    "trunk-at-a-rate-of-nothing",
    "frozen-parameters",
    "learning-rate-too-low",
    story="Trained the trunk at a hundred-thousandth of the head's rate, though it was not pretrained.",
)
def trunk_at_nothing(images: Images, fault: bool) -> Session:
    module = TrunkAndHead(plain_cnn(norm="batch"), partial(Adam, lr=2e-3))
    module.share = 1e-5 if fault else 1.0
    return run(module, images)


class Mirrored(Segmentation):
    """Flips the images of training batches at random, and their masks with them or not."""

    masks = True

    def training_step(self, batch: Pair, batch_idx: int) -> Any:
        x, mask = batch
        for dim in (-1, -2):
            flip = torch.rand(len(x)) < 0.5
            x = torch.where(flip.view(-1, 1, 1, 1), x.flip(dim), x)
            if self.masks:
                mask = torch.where(flip.view(-1, 1, 1), mask.flip(dim), mask)
        return super().training_step((x, mask), batch_idx)


@CASES.sick(
    "flipped-without-its-mask",
    "labels-random",
    story="Flips each image at random, up and down and left and right, and leaves its mask where it was.",
)
def flipped_without_mask(images: Images, fault: bool) -> Session:
    x, mask, _ = shapes(500)
    module = Mirrored(SmallUNet(), partial(Adam, lr=3e-3))
    module.masks = not fault
    return fitting(module, *halves(x, mask), epochs=4, batch=16)


class OverRows(Segmentation):
    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, mask = batch
        logs = self(x).log_softmax(self.dim)
        return F.nll_loss(logs, mask), {"acc": (logs.argmax(1) == mask).float().mean()}

    dim = 1


@CASES.sick(
    "softmax-over-the-rows",
    "wrong-initial-loss",
    "double-softmax",
    story="Wrote log_softmax(dim=2) for outputs of shape batch, class, row, column.",
)
def softmax_over_rows(images: Images, fault: bool) -> Session:
    x, mask, _ = shapes(500)
    module = OverRows(SmallUNet(), partial(Adam, lr=3e-3))
    module.dim = 2 if fault else 1
    return fitting(module, *halves(x, mask), epochs=4, batch=16)


class Cosine(nn.Module):
    """Sixteen times the cosines between features and the classes' vectors: outputs of a margin loss."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(NUM_CLASSES, width))

    def forward(self, x: Tensor) -> Tensor:
        return 16 * F.linear(F.normalize(x), F.normalize(self.weight))


@CASES.healthy(
    "cosines-times-sixteen", story="Normalized features and class vectors, scaled: outputs are bounded."
)
def cosines(images: Images) -> Session:
    net = nn.Sequential(*plain_cnn(24, norm="batch")[:-1], Cosine(768))
    return run(Classifier(net, partial(Adam, lr=2e-3)), images, 5)
