"""The programs that published benchmarks of faults mutate, retold small, and odd but healthy runs.

Digits by a convnet, films for users, speakers, the angle of a wheel, the direction of a gaze, topics of short
texts, points on circles and opinions by an LSTM: the subjects of DeepCrime and AUTOTRAINER, with faults as
mutation operators plant them and as DeepFD, DeepLocalize and defect4ML collected them. All data are made in
code. Written before any rule was changed for them.

What is logged after the last epoch, accuracy (of regressions the share of the variance explained) and
validation loss, one seed:

                                      sick       twin or healthy
                                         acc    loss     acc    loss
    five-digits-nearly-deleted          0.46    2.30    0.92    0.30
    four-digits-labelled-as-one         0.59    4.86    0.88    0.39
    labels-in-place-of-logits           0.58    1.89    0.89    0.35
    stopped-by-the-wrong-mode           0.55    1.68    0.83    0.53
    eps-of-one                          0.09    2.30    0.88    0.39
    betas-in-the-wrong-order            0.69    0.91    0.88    0.39
    digits-by-a-margin                                  0.88    0.06
    stopped-when-done                                   0.88    0.33
    all-but-ten-are-strangers           0.01    0.90    0.85    0.14
    vectors-that-start-at-zero         -0.05    0.96    0.37    0.58
    vectors-of-unit-normal            -40.69   37.70    0.80    0.19
    binary-loss-for-ratings            -5.39 -328.01    0.83    0.16
    plain-descent-for-embeddings        0.09    0.83    0.85    0.14
    users-and-films-exchanged          -0.74    1.59    0.85    0.14
    films-by-shares                                     0.72    0.26
    noise-on-the-sounds                 0.19    1.94    1.00    0.00
    cut-to-the-silence                  0.20    2.19    1.00    0.02
    sounds-at-any-volume                                1.00    0.02
    exponential-activations             0.16    0.15    0.97    0.00
    mirrored-without-its-sign          -0.12    0.20    0.99    0.00
    angles-scaled-in-training-only      0.07  100.71    0.98    0.00
    dropout-behind-the-last-layer       0.74    0.05    0.98    0.00
    angles-by-an-arc                                    0.96    0.01
    branch-joined-to-itself             0.33    0.07    0.98    0.00
    gaze-by-absolute-errors                             0.99    0.02
    topics-by-their-number              0.14   13.21    0.98    0.15
    the-whole-set-a-batch               0.62    2.58    0.99    0.08
    topics-of-uneven-size                               0.98    0.09
    softmax-on-one-unit                 0.53   46.50    1.00    0.01
    circles-without-a-bias              0.46    0.66    1.00    0.01
    dearest-houses-for-validation     -16.74    0.41    0.85    0.15
    houses-in-order-of-price            0.29    0.68    0.93    0.07
    a-curve-by-sines                                            0.00
    last-step-is-padding                0.50    0.69    0.96    0.09
    opinions-padded-in-front                            0.99    0.03
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from clinic import CaseBook, Images, Session
from healthy import Regression, Task, correct, fitting, halves, house_prices
from lightning.pytorch.callbacks import EarlyStopping
from mutants import YesOrNo, circles, layers
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.utils.data import DataLoader, TensorDataset
from wild import Pair

CASES = CaseBook()


def explained(found: Tensor, y: Tensor) -> Tensor:
    """The share of the variance of `y` that is explained."""
    return 1 - (found - y).square().sum() / (y - y.mean(0)).square().sum()


class Kinds(Task):
    """Classes by their logits."""

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        *x, y = batch
        logits = self(*x)
        return self.distance(logits, y), {"acc": correct(logits, y)}

    def distance(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y)


class Values(Task):
    """One number or more for each example, by a squared loss or another."""

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        *x, y = batch
        found = self(*x)
        return self.distance(found, y), {"acc": explained(found, y)}

    def distance(self, found: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(found, y)


# ---------------------------------------------------------------------------- digits by a convnet


def digits(count: int = 2500, noise: float = 0.7) -> Pair:
    """Ten drawn signs of 16x16 pixels, each moved a little and noisy, and which it is."""
    draw = torch.Generator().manual_seed(31)
    signs = F.interpolate(torch.randn(10, 1, 4, 4, generator=draw), size=(12, 12), mode="bicubic")
    signs = F.pad((signs > 0.2).float(), (2, 2, 2, 2))
    y = torch.randint(10, (count,), generator=draw)
    moves = torch.randint(-2, 3, (count, 2), generator=draw).tolist()
    x = torch.stack([signs[sign].roll(move, (1, 2)) for sign, move in zip(y.tolist(), moves, strict=True)])
    return (x + noise * torch.randn(x.shape, generator=draw) - 0.3) / 0.7, y


def digit_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 12, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 24, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(96, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


@CASES.sick(
    "five-digits-nearly-deleted",
    "class-imbalance",
    "train-val-mismatch",
    story="Lost 98 in 100 of the training images of five classes when the files were copied.",
)
def five_digits_deleted(images: Images, fault: bool) -> Session:
    x, y = digits()
    kept = torch.ones(2000, dtype=torch.bool)
    if fault:
        kept = (y[:2000] < 5) | (torch.arange(2000) % 50 == 0)
    train = TensorDataset(x[:2000][kept], y[:2000][kept])
    return fitting(Kinds(digit_net()), train, TensorDataset(x[2000:], y[2000:]), epochs=8)


@CASES.sick(
    "four-digits-labelled-as-one",
    "labels-random",
    "train-val-mismatch",
    story="A mapping left out three lines: four classes of the training set bear the label of the first.",
)
def four_digits_as_one(images: Images, fault: bool) -> Session:
    x, y = digits()
    labels = torch.where((y > 0) & (y < 4), 0, y) if fault else y
    train = TensorDataset(x[:2000], labels[:2000])
    return fitting(Kinds(digit_net()), train, TensorDataset(x[2000:], y[2000:]), epochs=6)


class Swapped(Kinds):
    def distance(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(F.one_hot(y, 10).float(), logits.softmax(1))


@CASES.sick(
    "labels-in-place-of-logits",
    "double-softmax",
    "wrong-initial-loss",
    story="Gave cross_entropy its arguments in Keras' order: one-hot labels as logits, softmax as labels.",
)
def labels_for_logits(images: Images, fault: bool) -> Session:
    module = (Swapped if fault else Kinds)(digit_net(), partial(SGD, lr=0.05, momentum=0.9))
    return fitting(module, *halves(*digits()), epochs=6)


class StopsEarly(Kinds):
    mode = "max"

    def configure_callbacks(self) -> Any:
        return [EarlyStopping("val/acc", mode=self.mode, patience=2)]


@CASES.sick(
    "stopped-by-the-wrong-mode",
    "underfitting",
    "learning-rate-too-low",
    story="EarlyStopping watches the accuracy with mode='min': it stops because the accuracy rises.",
)
def stopped_by_mode(images: Images, fault: bool) -> Session:
    module = StopsEarly(digit_net(), partial(Adam, lr=5e-4))
    module.mode = "min" if fault else "max"
    return fitting(module, *halves(*digits()), epochs=12)


@CASES.sick(
    "eps-of-one",
    "learning-rate-too-low",
    story="Took Adam's eps=1.0 from an Inception recipe, where the rate was 0.045.",
)
def eps_of_one(images: Images, fault: bool) -> Session:
    optimizer = partial(Adam, lr=2e-3, eps=1.0 if fault else 1e-8)
    return fitting(Kinds(digit_net(), optimizer), *halves(*digits()), epochs=6)


@CASES.sick(
    "betas-in-the-wrong-order",
    "learning-rate-too-high",
    story="Wrote betas=(0.999, 0.9): the step goes on for a thousand, its scale for ten.",
)
def betas_exchanged(images: Images, fault: bool) -> Session:
    optimizer = partial(Adam, lr=2e-3, betas=(0.999, 0.9) if fault else (0.9, 0.999))
    return fitting(Kinds(digit_net(), optimizer), *halves(*digits()), epochs=6)


class Hinged(Kinds):
    def distance(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.multi_margin_loss(logits, y, p=2)


@CASES.healthy("digits-by-a-margin", story="The squared hinge loss of a support vector machine.")
def digits_by_margin(images: Images) -> Session:
    return fitting(Hinged(digit_net()), *halves(*digits()), epochs=6)


@CASES.healthy(
    "stopped-when-done", story="EarlyStopping on the accuracy, which it reaches long before max_epochs."
)
def stopped_when_done(images: Images) -> Session:
    return fitting(StopsEarly(digit_net(), partial(AdamW, lr=4e-3)), *halves(*digits(1500)), epochs=40)


# ------------------------------------------------------------------------------- films for users

USERS, FILMS = 150, 150


def ratings(count: int = 6000) -> tuple[Tensor, Tensor, Tensor]:
    """Users, films and ratings from 1 to 5 by tastes of three dimensions."""
    draw = torch.Generator().manual_seed(32)
    users = torch.randint(USERS, (count,), generator=draw)
    films = torch.randint(FILMS, (count,), generator=draw)
    taste, kind = torch.randn(USERS, 3, generator=draw), torch.randn(FILMS, 3, generator=draw)
    liked, good = torch.randn(USERS, generator=draw), torch.randn(FILMS, generator=draw)
    score = 3.3 + 0.5 * liked[users] + 0.6 * good[films] + 0.3 * (taste[users] * kind[films]).sum(1)
    return users, films, (score + 0.2 * torch.randn(count, generator=draw)).clamp(1, 5)


class Factors(nn.Module):
    """The product of a user's and a film's vector, and what each adds."""

    def __init__(self, scale: float = 0.05, biases: bool = True, width: int = 24) -> None:
        super().__init__()
        self.users, self.films = nn.Embedding(USERS, width), nn.Embedding(FILMS, width)
        for table in (self.users, self.films):
            nn.init.normal_(table.weight, std=scale)
        self.biases = biases
        if biases:
            self.liked, self.good = nn.Embedding(USERS, 1), nn.Embedding(FILMS, 1)
            for table in (self.liked, self.good):
                nn.init.zeros_(table.weight)
            self.mean = nn.Parameter(torch.tensor(3.0))

    def forward(self, users: Tensor, films: Tensor) -> Tensor:
        product = (self.users(users) * self.films(films)).sum(1)
        if not self.biases:
            return product + 3.0
        return product + self.liked(users).squeeze(1) + self.good(films).squeeze(1) + self.mean


def recommending(module: Task, epochs: int = 8, **data: Any) -> Session:
    return fitting(module, *halves(*ratings()), epochs=epochs, **data)


class ShortTable(Factors):
    """Numbers beyond the tables' last are those of the last, a stranger."""

    def forward(self, users: Tensor, films: Tensor) -> Tensor:
        return super().forward(users.clamp(max=9), films.clamp(max=9))


@CASES.sick(
    "all-but-ten-are-strangers",
    "input-constant",
    "underfitting",
    story="Clamps users and films to the tables of a sample: nine in ten share the vector of a stranger.",
)
def strangers(images: Images, fault: bool) -> Session:
    return recommending(Values((ShortTable if fault else Factors)(), partial(Adam, lr=5e-3)))


@CASES.sick(
    "vectors-that-start-at-zero",
    "bad-initialization",
    "frozen-parameters",
    story="Initialized both vectors of a product with zeros: neither gets a gradient.",
)
def zero_vectors(images: Images, fault: bool) -> Session:
    net = Factors(scale=0.0 if fault else 0.3, biases=False, width=8)
    return recommending(Values(net, partial(Adam, lr=5e-3)))


@CASES.sick(
    "vectors-of-unit-normal",
    "bad-initialization",
    "wrong-initial-loss",
    story="Left nn.Embedding's unit normal weights in a product of 64: ratings from -20 to 20 at the start.",
)
def unit_vectors(images: Images, fault: bool) -> Session:
    net = Factors(scale=1.0 if fault else 0.05, width=64)
    return recommending(Values(net, partial(Adam, lr=5e-3)))


class YesOrNoRatings(Values):
    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        users, films, y = batch
        logits = self(users, films)
        return F.binary_cross_entropy_with_logits(logits, y), {"acc": explained(logits.sigmoid(), y)}


class SquaredShares(Values):
    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        users, films, y = batch
        share = self(users, films).sigmoid()
        return F.mse_loss(1 + 4 * share, y), {"acc": explained(1 + 4 * share, y)}


@CASES.sick(
    "binary-loss-for-ratings",
    "wrong-initial-loss",
    "saturated-activations",
    story="Kept a classifier's sigmoid and binary cross-entropy for ratings from 1 to 5.",
)
def binary_ratings(images: Images, fault: bool) -> Session:
    return recommending((YesOrNoRatings if fault else SquaredShares)(Factors(), partial(Adam, lr=5e-3)))


@CASES.sick(
    "plain-descent-for-embeddings",
    "learning-rate-too-low",
    story="Compiled with 'sgd', rate 0.01: a film's vector has a gradient once in three steps.",
)
def plain_descent(images: Images, fault: bool) -> Session:
    optimizer = partial(SGD, lr=0.01) if fault else partial(Adam, lr=5e-3)
    return recommending(Values(Factors(), optimizer))


@CASES.sick(
    "users-and-films-exchanged",
    "train-val-mismatch",
    story="The validation file has its columns in another order: films first, then users.",
)
def exchanged(images: Images, fault: bool) -> Session:
    users, films, y = ratings()
    columns = (films, users) if fault else (users, films)
    train = TensorDataset(users[:4800], films[:4800], y[:4800])
    val = TensorDataset(*(column[4800:] for column in columns), y[4800:])
    return fitting(Values(Factors(), partial(Adam, lr=5e-3)), train, val, epochs=8)


@CASES.healthy("films-by-shares", story="A sigmoid stretched to the ratings' range, 1 to 5, a squared loss.")
def films_by_shares(images: Images) -> Session:
    return recommending(SquaredShares(Factors(scale=0.3, width=8), partial(AdamW, lr=1e-2)))


# --------------------------------------------------------------------------------------- speakers


def sounds(count: int = 1200, length: int = 256, lead: int = 64) -> Pair:
    """Sounds [N, 1, T] of six speakers, a pitch and its overtones behind a silence, and whose they are."""
    draw = torch.Generator().manual_seed(33)
    y = torch.randint(6, (count,), generator=draw)
    pitch = (0.06 + 0.025 * torch.arange(6))[y] * (1 + 0.06 * torch.randn(count, generator=draw))
    colour = torch.rand(6, 4, generator=draw)[y]
    time = torch.arange(length).float()
    phase = 6.28 * torch.rand(count, 4, 1, generator=draw)
    tones = torch.arange(1, 5).view(1, 4, 1) * pitch.view(-1, 1, 1) * 6.28 * time / 3 + phase
    x = (colour.unsqueeze(2) * tones.sin()).sum(1) * (time >= lead)
    return (x + 0.05 * torch.randn(count, length, generator=draw)).unsqueeze(1), y


def sound_net(length: int = 256) -> nn.Sequential:
    net = nn.Sequential()
    for a, b in pairwise((1, 16, 24, 32)):
        net.extend([nn.Conv1d(a, b, 9, 4, 4), nn.BatchNorm1d(b), nn.ReLU()])
    return net.extend([nn.Flatten(), nn.Linear(32 * (length // 64), 6)])


@CASES.sick(
    "noise-on-the-sounds",
    "train-val-mismatch",
    story="Adds noise to the training sounds at a scale meant for 16-bit numbers, far above the sounds.",
)
def noise_on_sounds(images: Images, fault: bool) -> Session:
    x, y = sounds()
    noise = torch.randn(x[:960].shape, generator=torch.Generator().manual_seed(1))
    train = TensorDataset(x[:960] + (12.0 if fault else 0.05) * noise, y[:960])
    return fitting(Kinds(sound_net()), train, TensorDataset(x[960:], y[960:]), epochs=8, batch=32)


@CASES.sick(
    "cut-to-the-silence",
    "input-constant",
    "labels-random",
    story="Cuts all sounds to their first part, which is the silence before anybody speaks.",
)
def cut_to_silence(images: Images, fault: bool) -> Session:
    x, y = sounds()
    x = x[:, :, :64] if fault else x[:, :, 64:128]
    return fitting(Kinds(sound_net(64)), *halves(x, y), epochs=8, batch=32)


@CASES.healthy("sounds-at-any-volume", story="Each training sound at a random volume, softer or louder.")
def sounds_at_any_volume(images: Images) -> Session:
    x, y = sounds()

    def louder(items: list[Pair]) -> Pair:
        volume = torch.empty(len(items), 1, 1).uniform_(0.5, 1.5)
        return torch.stack([x for x, _ in items]) * volume, torch.stack([y for _, y in items])

    session = fitting(Kinds(sound_net()), *halves(x, y), epochs=8, batch=32, collate=louder)
    session.val_loader.collate_fn = torch.utils.data.default_collate
    return session


# ------------------------------------------------------------------------- the angle of the wheel


def roads(count: int = 1600) -> Pair:
    """Grey images [N, 1, 16, 32] of a bending road, and the angle of the wheel in units of 25 degrees."""
    draw = torch.Generator().manual_seed(34)
    bend = torch.randn(count, generator=draw)
    place = 0.15 * torch.randn(count, generator=draw)
    far = torch.linspace(1, 0, 16)
    middle = place.view(-1, 1) * (1 - far) + 0.35 * bend.view(-1, 1) * far**2
    across = torch.linspace(-1, 1, 32)
    road = ((across - middle.unsqueeze(2)).abs() < (0.12 + 0.3 * (1 - far)).view(1, -1, 1)).float()
    x = road + 0.3 * torch.randn(road.shape, generator=draw) - 0.25
    return x.unsqueeze(1), (0.4 * bend + 0.6 * place).unsqueeze(1)


class Exponential(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.exp()


def road_net(activation: Any = nn.ReLU, last: nn.Module | None = None) -> nn.Sequential:
    net = nn.Sequential(
        nn.Conv2d(1, 12, 5, 2, 2),
        activation(),
        nn.Conv2d(12, 24, 3, 2, 1),
        activation(),
        nn.Flatten(),
        nn.Linear(24 * 32, 48),
        activation(),
        nn.Linear(48, 1),
    )
    return net.append(last) if last else net


@CASES.sick(
    "exponential-activations",
    "exploding-gradients",
    "non-finite-loss",
    story="Replaced the activations by exponential, which a list of activations offers between elu and gelu.",
)
def exponential(images: Images, fault: bool) -> Session:
    module = Values(road_net(Exponential if fault else nn.ELU), partial(Adam, lr=1e-3))
    return fitting(module, *halves(*roads()), epochs=6, batch=32)


class MirroredRoads(Values):
    """Mirrors half of the training images, and the sign of their angles with them or not."""

    sign = -1.0

    def training_step(self, batch: Pair, batch_idx: int) -> Any:
        x, y = batch
        mirror = torch.rand(len(x)) < 0.5
        x = torch.where(mirror.view(-1, 1, 1, 1), x.flip(-1), x)
        return super().training_step((x, torch.where(mirror.unsqueeze(1), self.sign * y, y)), batch_idx)


@CASES.sick(
    "mirrored-without-its-sign",
    "labels-random",
    story="Mirrors the road at random, left and right, and leaves the angle of the wheel as it was.",
)
def mirrored(images: Images, fault: bool) -> Session:
    module = MirroredRoads(road_net(), partial(Adam, lr=1e-3))
    module.sign = 1.0 if fault else -1.0
    return fitting(module, *halves(*roads()), epochs=6, batch=32)


@CASES.sick(
    "angles-scaled-in-training-only",
    "train-val-mismatch",
    story="Scales the angles by 25 degrees in the training set; those for validation are in degrees.",
)
def angles_scaled(images: Images, fault: bool) -> Session:
    x, y = roads()
    val = TensorDataset(x[1280:], y[1280:] * (25 if fault else 1))
    module = Values(road_net(), partial(Adam, lr=1e-3))
    return fitting(module, TensorDataset(x[:1280], y[:1280]), val, epochs=6, batch=32)


@CASES.sick(
    "dropout-behind-the-last-layer",
    "regularization-too-strong",
    story="Appended the dropout to the end of the network: half of the angles are zero.",
)
def dropout_last(images: Images, fault: bool) -> Session:
    module = Values(road_net(last=nn.Dropout(0.5 if fault else 0.0)), partial(Adam, lr=1e-3))
    return fitting(module, *halves(*roads()), epochs=6, batch=32)


class Arc(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x.atan()


@CASES.healthy("angles-by-an-arc", story="The driving network's last step: twice the arc tangent.")
def angles_by_arc(images: Images) -> Session:
    module = MirroredRoads(road_net(nn.ELU, Arc()), partial(Adam, lr=1e-3))
    return fitting(module, *halves(*roads()), epochs=6, batch=32)


# ------------------------------------------------------------------------- the direction of a gaze


def gazes(count: int = 1600) -> tuple[Tensor, Tensor, Tensor]:
    """Images of an eye [N, 1, 12, 20], the pose of the head [N, 2], and where the gaze goes [N, 2]."""
    draw = torch.Generator().manual_seed(35)
    eye, head = torch.randn(count, 2, generator=draw), torch.randn(count, 2, generator=draw)
    rows, columns = torch.linspace(-1, 1, 12).view(1, -1, 1), torch.linspace(-1, 1, 20).view(1, 1, -1)
    down, across = (0.3 * eye).unsqueeze(2).unsqueeze(3).unbind(1)
    pupil = (((rows - down) / 0.4) ** 2 + ((columns - across) / 0.25) ** 2 < 1).float()
    x = 0.4 - pupil + 0.2 * torch.randn(pupil.shape, generator=draw)
    return x.unsqueeze(1), head, 0.2 * eye + 0.25 * head


class Gaze(nn.Module):
    """Two branches, the eye's and the head's, joined for two angles."""

    both = True

    def __init__(self) -> None:
        super().__init__()
        self.eye = nn.Sequential(
            nn.Conv2d(1, 12, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(720, 32), nn.ReLU()
        )
        self.head = nn.Sequential(nn.Linear(2, 32), nn.ReLU())
        self.join = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 2))

    def forward(self, x: Tensor, pose: Tensor) -> Tensor:
        seen, held = self.eye(x), self.head(pose)
        return self.join(torch.cat([seen, held if self.both else seen], 1))


@CASES.sick(
    "branch-joined-to-itself",
    "frozen-parameters",
    story="Concatenates the eye's features with themselves: the head's branch goes nowhere.",
)
def joined_to_itself(images: Images, fault: bool) -> Session:
    net = Gaze()
    net.both = not fault
    return fitting(Values(net, partial(Adam, lr=1e-3)), *halves(*gazes()), epochs=6, batch=32)


class Absolute(Values):
    def distance(self, found: Tensor, y: Tensor) -> Tensor:
        return F.l1_loss(found, y)


@CASES.healthy("gaze-by-absolute-errors", story="Two inputs, two outputs, the mean absolute error.")
def gaze_by_absolute_errors(images: Images) -> Session:
    return fitting(Absolute(Gaze(), partial(Adam, lr=2e-3)), *halves(*gazes()), epochs=6, batch=32)


# ------------------------------------------------------------------------- topics of short texts


def topics(count: int = 2500, words: int = 400, kinds: int = 20) -> Pair:
    """Which words a text has [N, W], as zeros and ones, and its topic; the first topics are the commonest."""
    draw = torch.Generator().manual_seed(36)
    common = torch.linspace(4, 1, kinds)
    y = torch.multinomial(common, count, replacement=True, generator=draw)
    own = torch.rand(kinds, words, generator=draw) ** 8
    return (torch.rand(count, words, generator=draw) < 0.02 + 0.35 * own[y]).float(), y


class ByNumber(Kinds):
    """A squared loss on the number of the topic; what is nearest counts."""

    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        found = self(x).squeeze(1)
        return F.mse_loss(found, y.float()), {"acc": (found.round() == y).float().mean()}


@CASES.sick(
    "topics-by-their-number",
    "underfitting",
    "wrong-initial-loss",
    story="Predicts the number of a topic by one output and a squared loss.",
)
def topics_by_number(images: Images, fault: bool) -> Session:
    net = layers(400, 64, 1 if fault else 20)
    return fitting((ByNumber if fault else Kinds)(net), *halves(*topics()), epochs=6)


@CASES.sick(
    "the-whole-set-a-batch",
    "learning-rate-too-low",
    "underfitting",
    story="Took the size of the set for that of a batch: a step an epoch.",
)
def whole_set(images: Images, fault: bool) -> Session:
    module = Kinds(layers(400, 64, 20), partial(Adam, lr=2e-3))
    return fitting(module, *halves(*topics()), epochs=10, batch=2000 if fault else 32)


@CASES.healthy("topics-of-uneven-size", story="Twenty topics, the commonest four times the rarest; dropout.")
def uneven_topics(images: Images) -> Session:
    net = nn.Sequential(nn.Linear(400, 96), nn.ReLU(), nn.Dropout(0.5), nn.Linear(96, 20))
    return fitting(Kinds(net, partial(Adam, lr=3e-3)), *halves(*topics()), epochs=8)


# --------------------------------------------------------------------------- circles, prices, waves


class OneShare(YesOrNo):
    """Binary cross-entropy of the share that an activation at the end makes of one output."""

    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        share = self(x).squeeze(1)
        return F.binary_cross_entropy(share, y), {"acc": ((share > 0.5).float() == y).float().mean()}


@CASES.sick(
    "softmax-on-one-unit",
    "saturated-activations",
    "double-softmax",
    story="Put a softmax behind a single output: it is 1 whatever comes in.",
)
def softmax_on_one(images: Images, fault: bool) -> Session:
    net = layers(2, 32, 32, 1).append(nn.Softmax(1) if fault else nn.Sigmoid())
    return fitting(OneShare(net, partial(Adam, lr=5e-3)), *halves(*circles()), epochs=10, batch=32)


@CASES.sick(
    "circles-without-a-bias",
    "underfitting",
    story="Set bias=False in all layers, with no normalization behind them: a point and its double are one.",
)
def circles_without_bias(images: Images, fault: bool) -> Session:
    net = nn.Sequential()
    for a, b in pairwise((2, 32, 32, 1)):
        net.append(nn.Linear(a, b, bias=not fault)).append(nn.ReLU())
    return fitting(YesOrNo(net[:-1], partial(Adam, lr=5e-3)), *halves(*circles()), epochs=10, batch=32)


@CASES.sick(
    "dearest-houses-for-validation",
    "train-val-mismatch",
    story="Split a table that is sorted by price at four fifths: all dear houses are for validation.",
)
def dearest_houses(images: Images, fault: bool) -> Session:
    x, y = house_prices()
    order = y.argsort() if fault else torch.arange(len(y))
    module = Values(nn.Sequential(layers(8, 48, 48, 1), nn.Flatten(0)), partial(Adam, lr=3e-3))
    return fitting(module, *halves(x[order], y[order]), epochs=8)


@CASES.sick(
    "houses-in-order-of-price",
    "data-not-shuffled",
    story="The training table is sorted by price and read without shuffle=True, a batch of one price each.",
)
def houses_in_order(images: Images, fault: bool) -> Session:
    x, y = house_prices()
    order = y[:2400].argsort()
    train = TensorDataset(x[:2400][order], y[:2400][order])
    module = Values(nn.Sequential(layers(8, 48, 48, 1), nn.Flatten(0)), partial(Adam, lr=1e-2))
    session = fitting(module, train, TensorDataset(x[2400:], y[2400:]), epochs=6, batch=32)
    if fault:
        session.train_loader = DataLoader(train, 32)
    return session


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (20 * x).sin()


@CASES.healthy(
    "a-curve-by-sines", story="A network of sines for one fast curve, with its own initialization."
)
def curve_by_sines(images: Images) -> Session:
    t = torch.rand(2000, 1, generator=torch.Generator().manual_seed(37)) * 2 - 1
    y = (12 * t).sin() + 0.5 * (31 * t).cos()
    net = layers(1, 48, 48, 1, activation=Sine)
    linear: list[Any] = list(net[::2])
    for place, layer in enumerate(linear):
        reach = 1.0 if place == 0 else (6 / 48) ** 0.5 / 20
        nn.init.uniform_(layer.weight, -reach, reach)
    return fitting(Regression(net, partial(Adam, lr=1e-3)), *halves(t, y.squeeze(1)), epochs=10, batch=32)


# ---------------------------------------------------------------------------- opinions by an LSTM


def opinions(count: int = 1600, length: int = 40, first: bool = True) -> Pair:
    """Texts of 8 to 16 of 60 words, padded by zeros in front or behind, and whether they are kind."""
    draw = torch.Generator().manual_seed(38)
    y = torch.randint(2, (count,), generator=draw)
    tokens = torch.zeros(count, length, dtype=torch.long)
    for row, kind in zip(tokens, y.tolist(), strict=True):
        size = int(torch.randint(8, 17, (1,), generator=draw))
        told = torch.rand(size, generator=draw) < 0.3
        own = 1 + 10 * kind + torch.randint(10, (size,), generator=draw)
        text = torch.where(told, own, 21 + torch.randint(40, (size,), generator=draw))
        if first:
            row[-size:] = text
        else:
            row[:size] = text
    return tokens, y.float()


class Reader(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(61, 16, padding_idx=0)
        self.recur = nn.LSTM(16, width, batch_first=True)
        self.head = nn.Linear(width, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.recur(self.embed(tokens))[0][:, -1])


@CASES.sick(
    "last-step-is-padding",
    "vanishing-gradients",
    "input-constant",
    story="Pads texts behind and reads the LSTM's last state, which has seen nothing but zeros for long.",
)
def last_step_padding(images: Images, fault: bool) -> Session:
    module = YesOrNo(Reader(), partial(Adam, lr=2e-3))
    tokens, y = opinions(length=80, first=not fault)
    return fitting(module, *halves(tokens, y), epochs=4, batch=32)


@CASES.healthy("opinions-padded-in-front", story="Texts padded in front, mostly zeros, by the last state.")
def padded_in_front(images: Images) -> Session:
    return fitting(YesOrNo(Reader(), partial(Adam, lr=5e-3)), *halves(*opinions()), epochs=4, batch=32)
