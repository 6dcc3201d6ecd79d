"""The operators of published mutation benchmarks at several strengths, each on one or two of four recipes.

Where harm begins and where the diagnosis does are two doses; between them lies what it misses. A dose without
harm is no fault, whatever this file lists it under: compare with `--tool none --twins`. Of each name the last
part is the dose.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from clinic import CaseBook, Classifier, Images, Session
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, RMSprop
from wild import ShuffleBuffer, dense, lenet, plain_cnn, residual_net, run, standard

CASES = CaseBook()

Recipe = tuple[Callable[[], nn.Module], Callable[..., Any], float]
Build = Callable[[Images, Recipe, float], Session]

RECIPES: dict[str, Recipe] = {
    "norm-adam": (partial(plain_cnn, norm="batch"), Adam, 1e-3),
    "lenet-momentum": (lenet, partial(SGD, momentum=0.9), 0.02),
    "dense-rmsprop": (partial(dense, 256, 128), RMSprop, 3e-4),
    "residual-adamw": (residual_net, partial(AdamW, weight_decay=0.01), 2e-3),
}


def doses(
    operator: str,
    causes: tuple[str, ...],
    values: tuple[float, ...],
    recipes: tuple[str, ...],
    story: str,
) -> Callable[[Build], Build]:
    """A sick case for each recipe and dose; without the fault it is the recipe itself."""

    def register(build: Build) -> Build:
        for recipe in recipes:
            for value in values:

                def case(
                    images: Images, fault: bool, recipe: Recipe = RECIPES[recipe], value: float = value
                ) -> Session:
                    return build(images, recipe, value) if fault else plain(images, recipe)

                CASES.sick(f"{operator}-{recipe}-{value:g}", *causes, story=story)(case)
        return build

    return register


def plain(
    images: Images, recipe: Recipe, factor: float = 1.0, net: nn.Module | None = None, **changes: Any
) -> Session:
    make, optimizer, rate = recipe
    settings = changes.pop("optimizer", {})
    module = Classifier(net or make(), partial(optimizer, lr=rate * factor, **settings))
    return run(module, images, **changes)


@doses(
    "labels-drawn",
    ("labels-random",),
    (0.3, 0.5, 0.7),
    ("norm-adam", "lenet-momentum"),
    "A share of the labels is drawn at random.",
)
def labels_drawn(images: Images, recipe: Recipe, share: float) -> Session:
    x, y = standard(images)[0]
    drawn = torch.rand(len(y)) < share
    return plain(images, recipe, train=(x, torch.where(drawn, torch.randint(10, y.shape), y)))


@doses(
    "labels-of-the-next",
    ("labels-random", "train-val-mismatch"),
    (0.3, 0.5),
    ("residual-adamw", "dense-rmsprop"),
    "A share of the images of every class is filed under the next class.",
)
def labels_of_the_next(images: Images, recipe: Recipe, share: float) -> Session:
    x, y = standard(images)[0]
    moved = torch.rand(len(y)) < share
    return plain(images, recipe, train=(x, torch.where(moved, (y + 1) % 10, y)))


@doses(
    "rate-times",
    ("learning-rate-too-high",),
    (5, 15, 50),
    ("norm-adam", "lenet-momentum"),
    "The learning rate is so many times what suits.",
)
def rate_times(images: Images, recipe: Recipe, factor: float) -> Session:
    return plain(images, recipe, factor)


@doses(
    "rate-over",
    ("learning-rate-too-low",),
    (5, 20, 100),
    ("norm-adam", "dense-rmsprop"),
    "The learning rate is what suits, divided by so much.",
)
def rate_over(images: Images, recipe: Recipe, factor: float) -> Session:
    return plain(images, recipe, 1 / factor)


@doses(
    "weights-times",
    ("bad-initialization", "exploding-gradients"),
    (3, 6),
    ("lenet-momentum", "dense-rmsprop"),
    "All weights start so many times too large.",
)
@doses(
    "weights-small",
    ("bad-initialization", "vanishing-gradients"),
    (0.3, 0.1),
    ("lenet-momentum",),
    "All weights start at such a share of their size.",
)
def weights_times(images: Images, recipe: Recipe, factor: float) -> Session:
    net = recipe[0]()
    with torch.no_grad():
        for weight in net.parameters():
            if weight.ndim > 1:
                weight.mul_(factor)
    return plain(images, recipe, net=net)


@doses(
    "decay",
    ("regularization-too-strong",),
    (0.03, 0.1),
    ("lenet-momentum",),
    "Weight decay of so much.",
)
def decay(images: Images, recipe: Recipe, strength: float) -> Session:
    return plain(images, recipe, optimizer={"weight_decay": strength})


@doses(
    "dropout",
    ("regularization-too-strong",),
    (0.8, 0.9, 0.97),
    ("dense-rmsprop",),
    "Dropout of so much before the last layer.",
)
def dropout(images: Images, recipe: Recipe, share: float) -> Session:
    *layers, head = recipe[0]().children()
    return plain(images, recipe, net=nn.Sequential(*layers, nn.Dropout(share), head))


@doses(
    "one-class-times",
    ("class-imbalance",),
    (8, 20),
    ("norm-adam", "residual-adamw"),
    "One class has so many times as many images as each other.",
)
def one_class_times(images: Images, recipe: Recipe, times: float) -> Session:
    x, y = standard(images)[0]
    kept = (y == 5) | (torch.rand(len(y)) < 1 / times)
    return plain(images, recipe, train=(x[kept], y[kept]), epochs=16)


@doses(
    "images-left",
    ("overfitting",),
    (0.2, 0.05),
    ("norm-adam", "residual-adamw"),
    "Such a share of the images is left, and as many steps are taken.",
)
def images_left(images: Images, recipe: Recipe, share: float) -> Session:
    x, y = standard(images)[0]
    kept = torch.randperm(len(y))[: int(share * len(y))]
    return plain(images, recipe, train=(x[kept], y[kept]), epochs=min(100, int(4 / share)))


@doses(
    "pixels-times",
    ("input-not-normalized",),
    (5, 20),
    ("lenet-momentum", "dense-rmsprop"),
    "Inputs so many times too large.",
)
def pixels_times(images: Images, recipe: Recipe, factor: float) -> Session:
    (x, y), (val_x, val_y) = standard(images)
    return plain(images, recipe, train=(x * factor, y), val=(val_x * factor, val_y))


@doses(
    "pixels-plus",
    ("input-not-normalized",),
    (3, 10),
    ("lenet-momentum", "dense-rmsprop"),
    "Inputs so far from zero.",
)
def pixels_plus(images: Images, recipe: Recipe, offset: float) -> Session:
    (x, y), (val_x, val_y) = standard(images)
    return plain(images, recipe, train=(x + offset, y), val=(val_x + offset, val_y))


@doses(
    "buffer-of",
    ("data-not-shuffled",),
    (400, 1200),
    ("norm-adam", "lenet-momentum"),
    "Images sorted by class through a shuffle buffer of so many.",
)
def buffer_of(images: Images, recipe: Recipe, size: float) -> Session:
    session = plain(images, recipe)
    session.train_loader = torch.utils.data.DataLoader(
        ShuffleBuffer(*standard(images)[0], int(size)), session.train_loader.batch_size
    )
    return session


@doses(
    "biases-minus",
    ("dead-relu", "bad-initialization"),
    (0.3, 1),
    ("lenet-momentum", "dense-rmsprop"),
    "All biases but the last start at minus so much.",
)
def biases_minus(images: Images, recipe: Recipe, size: float) -> Session:
    net = recipe[0]()
    biases = [each for each in net.parameters() if each.ndim == 1]
    with torch.no_grad():
        for bias in biases[:-1]:
            bias.fill_(-size)
    return plain(images, recipe, net=net)


@doses(
    "sigmoids",
    ("vanishing-gradients", "saturated-activations"),
    (2, 4, 6),
    ("dense-rmsprop",),
    "So many hidden layers, of sigmoids.",
)
def sigmoids(images: Images, recipe: Recipe, depth: float) -> Session:
    return plain(images, recipe, net=dense(*[128] * int(depth), activation=nn.Sigmoid))


@doses(
    "units-left",
    ("underfitting",),
    (1, 2, 4),
    ("lenet-momentum", "dense-rmsprop"),
    "A layer of so many units before the last.",
)
def units_left(images: Images, recipe: Recipe, units: float) -> Session:
    *layers, head = recipe[0]().children()
    assert isinstance(head, nn.Linear)
    narrow = [nn.Linear(head.in_features, int(units)), nn.ReLU(), nn.Linear(int(units), 10)]
    return plain(images, recipe, net=nn.Sequential(*layers, *narrow))


@doses(
    "validation-times",
    ("train-val-mismatch",),
    (0.5, 3),
    ("norm-adam", "dense-rmsprop"),
    "Validation images so many times as bright.",
)
def validation_times(images: Images, recipe: Recipe, factor: float) -> Session:
    x, y = standard(images)[1]
    return plain(images, recipe, val=(x * factor, y))


@doses(
    "validation-plus",
    ("train-val-mismatch",),
    (1, 2),
    ("norm-adam", "lenet-momentum"),
    "Validation images shifted by so many standard deviations.",
)
def validation_plus(images: Images, recipe: Recipe, offset: float) -> Session:
    x, y = standard(images)[1]
    return plain(images, recipe, val=(x + offset, y))


@doses(
    "clipped-to",
    ("learning-rate-too-low",),
    (0.3, 0.03),
    ("lenet-momentum",),
    "Gradients clipped to such a norm.",
)
def clipped_to(images: Images, recipe: Recipe, norm: float) -> Session:
    return plain(images, recipe, gradient_clip_val=norm)


@doses(
    "frozen",
    ("frozen-parameters",),
    (1, 2),
    ("norm-adam", "dense-rmsprop"),
    "The optimizer lacks the last so many tensors of weights.",
)
def frozen(images: Images, recipe: Recipe, count: float) -> Session:
    make, optimizer, rate = recipe
    net = make()
    left_out = {id(each) for each in [each for each in net.parameters() if each.ndim > 1][-int(count) :]}
    trained = [each for each in net.parameters() if id(each) not in left_out]
    return run(Classifier(net, lambda _: optimizer(trained, lr=rate)), images)


@doses(
    "noise",
    ("labels-random", "train-val-mismatch", "underfitting"),
    (1, 3),
    ("norm-adam",),
    "Noise of such a deviation on each training image, drawn once.",
)
def noise(images: Images, recipe: Recipe, deviation: float) -> Session:
    x, y = standard(images)[0]
    noisy: Tensor = x + deviation * torch.randn(x.shape)
    return plain(images, recipe, train=(noisy / (1 + deviation**2) ** 0.5, y))
