"""Mutants of further programs and odd but healthy runs, most of them image classifiers.

The operators are those of DeepCrime and muPRL in forms and strengths that no other file here has, the
symptoms those of DeepDiagnosis and DeepLocalize, the mistakes those of defect4ML and gDefects4DL. Written
before any rule was looked at or changed for them.

Validation accuracy (of regressions the share of the variance that is explained) and loss after the last
epoch, one seed:

                                                   sick        twin or healthy
                                            acc    loss        acc    loss
    three-classes-half-relabelled          0.35    1.84       0.46    1.52
    each-class-half-of-the-one-before      0.24    4.10       0.36    1.96
    unreadable-images-are-grey             0.34    1.87       0.43    1.62
    classes-that-overlap                   0.36    1.76       0.46    1.52
    validation-on-its-side                 0.18    3.01       0.47    1.51
    one-image-in-a-hundred                 0.20    2.47       0.44    1.52
    shrunk-to-nothing                      0.35    1.81       0.47    1.52
    ones-in-one-layer                      0.21    2.19       0.45    1.54
    zeros-in-one-layer                     0.10    2.30       0.47    1.52
    dropout-behind-each-convolution        0.34    1.83       0.42    1.59
    flattened-across-the-batch             0.10    2.30       0.45    1.56
    absolute-errors-of-shares              0.12    0.18       0.43    1.62
    activations-penalized                  0.10    2.30       0.45    1.54
    logarithm-of-a-rounded-share           0.54     nan       1.00    0.00
    plain-descent-at-the-rate-of-adam      0.09    2.30       0.45    1.56
    clipped-by-value                       0.21    2.25       0.43    1.62
    stopped-for-want-of-a-half             0.35    1.87       0.43    1.58
    resilient-on-small-batches             0.29   11.38       0.47    1.49
    missing-is-minus-9999               -307.39  300.78       0.80    0.20
    user-in-place-of-the-film              0.24    0.69       0.85    0.14
    embeddings-decayed                     0.10    0.82       0.86    0.13
    first-state-in-place-of-the-last       0.57    1.19       0.82    0.41
    binary-loss-of-shares                                     0.46    0.23
    resilient-on-the-whole-set                                0.91    0.09
    images-without-a-bias                                     0.46    1.54
    normalizing-itself                                        0.36    1.89
    noise-as-augmentation                                     0.44    1.58
    vectors-side-by-side                                      0.58    0.38
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from clinic import NUM_CLASSES, CaseBook, Classifier, Images, Session
from healthy import Regression, fitting, halves, house_prices
from lightning.pytorch.callbacks import EarlyStopping
from mutants import Order, Sentence, YesOrNo, commonest, layers
from subjects import Factors, Values, recommending
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Rprop
from wild import Pair, dense, lenet, plain_cnn, run, standard

CASES = CaseBook()


# ------------------------------------------------------------------------------------------------- data


@CASES.sick(
    "three-classes-half-relabelled",
    "labels-random",
    "train-val-mismatch",
    story="Six in ten images of three classes were filed under the class after theirs.",
)
def three_classes_half_relabelled(images: Images, fault: bool) -> Session:
    x, y = standard(images)[0]
    moved = (y % 3 == 0) & (y < 9) & (torch.arange(len(y)) % 5 < 3)
    train = x, torch.where(moved, y + 1, y) if fault else y
    return run(Classifier(plain_cnn(norm="batch"), partial(Adam, lr=1e-3)), images, train=train)


@CASES.sick(
    "each-class-half-of-the-one-before",
    "class-imbalance",
    "train-val-mismatch",
    story="Crawled each class as far as the search went: 400 images, then 200, 100 and at last one.",
)
def each_class_half_of_the_one_before(images: Images, fault: bool) -> Session:
    x, y = standard(images)[0]
    place = torch.arange(len(y)) % 400
    kept = place < (400 // 2**y).clamp(min=1) if fault else place < 80
    train = x[kept], y[kept]
    return run(Classifier(plain_cnn(norm="batch"), partial(Adam, lr=2e-3)), images, 10, train=train)


@CASES.sick(
    "unreadable-images-are-grey",
    "input-constant",
    "labels-random",
    story="What cannot be read is replaced by a grey image, without a word: seven in ten of them.",
)
def unreadable_images_are_grey(images: Images, fault: bool) -> Session:
    x, y = standard(images)[0]
    read = (torch.arange(len(y)) % 10 < 3).view(-1, 1, 1, 1) | (not fault)
    train = torch.where(read, x, torch.zeros(())), y
    return run(Classifier(plain_cnn(), partial(SGD, lr=0.02, momentum=0.9)), images, 5, train=train)


@CASES.sick(
    "classes-that-overlap",
    "labels-random",
    story="Of each pair of classes, the images of one stand under the label of the other as well.",
)
def classes_that_overlap(images: Images, fault: bool) -> Session:
    x, y = standard(images)[0]
    if fault:
        again = y % 2 == 0
        x, y = torch.cat([x, x[again]]), torch.cat([y, y[again] + 1])
    return run(Classifier(plain_cnn(norm="batch"), partial(Adam, lr=1e-3)), images, train=(x, y))


@CASES.sick(
    "validation-on-its-side",
    "train-val-mismatch",
    story="Exchanged height and width of the validation images on the way from one library to another.",
)
def validation_on_its_side(images: Images, fault: bool) -> Session:
    x, y = standard(images)[1]
    val = x.transpose(2, 3) if fault else x, y
    return run(Classifier(plain_cnn(norm="batch"), partial(Adam, lr=1e-3)), images, 6, val=val)


@CASES.sick(
    "one-image-in-a-hundred",
    "overfitting",
    story="Kept one image in a hundred for a first try and left that in.",
)
def one_image_in_a_hundred(images: Images, fault: bool) -> Session:
    x, y = standard(images)[0]
    kept = torch.arange(len(y)) % (100 if fault else 1) == 0
    net = plain_cnn(norm="group")
    optimizer = partial(Adam, lr=1e-3)
    epochs, batch = (150, 20) if fault else (4, 64)
    return run(Classifier(net, optimizer), images, epochs, batch, train=(x[kept], y[kept]))


# -------------------------------------------------------------------------------------------- networks


@CASES.sick(
    "shrunk-to-nothing",
    "dead-relu",
    "vanishing-gradients",
    story="Took Hardshrink from the list of activations: what is smaller than a half becomes zero.",
)
def shrunk_to_nothing(images: Images, fault: bool) -> Session:
    net = lenet(nn.Hardshrink if fault else nn.ReLU)
    return run(Classifier(net, partial(SGD, lr=0.02, momentum=0.9)), images, 5)


@CASES.sick(
    "ones-in-one-layer",
    "bad-initialization",
    "exploding-gradients",
    story="Initialized the second convolution with ones.",
)
def ones_in_one_layer(images: Images, fault: bool) -> Session:
    net: Any = lenet()
    if fault:
        nn.init.ones_(net[3].weight)
    return run(Classifier(net, partial(Adam, lr=1e-3)), images)


@CASES.sick(
    "zeros-in-one-layer",
    "bad-initialization",
    "dead-relu",
    "frozen-parameters",
    story="Initialized weights and biases of the hidden dense layer with zeros: its ReLU has no slope there.",
)
def zeros_in_one_layer(images: Images, fault: bool) -> Session:
    net: Any = lenet()
    if fault:
        nn.init.zeros_(net[6].weight)
        nn.init.zeros_(net[6].bias)
    return run(Classifier(net, partial(SGD, lr=0.02, momentum=0.9)), images, 5)


@CASES.sick(
    "dropout-behind-each-convolution",
    "regularization-too-strong",
    story="Put a dropout of 0.6 behind each of three convolutions and the dense layer.",
)
def dropout_behind_each_convolution(images: Images, fault: bool) -> Session:
    share = 0.6 if fault else 0.05
    net = nn.Sequential()
    for a, b in [(3, 24), (24, 48), (48, 48)]:
        net.extend([nn.Conv2d(a, b, 3, 2, 1), nn.ReLU(), nn.Dropout(share)])
    net.extend([nn.Flatten(), nn.Linear(768, 96), nn.ReLU(), nn.Dropout(share), nn.Linear(96, NUM_CLASSES)])
    return run(Classifier(net, partial(Adam, lr=1e-3)), images)


class AcrossTheBatch(nn.Module):
    """Brings channels to the end before they are flattened, as another framework keeps them."""

    def __init__(self, fault: bool) -> None:
        super().__init__()
        self.places = (1, 2, 3, 0) if fault else (0, 2, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(*self.places).reshape(len(x), -1)


@CASES.sick(
    "flattened-across-the-batch",
    "labels-random",
    "underfitting",
    story="Permuted to channel, row, column, image and reshaped to rows: each row is made of all images.",
)
def flattened_across_the_batch(images: Images, fault: bool) -> Session:
    net = plain_cnn()
    net[3] = AcrossTheBatch(fault)
    return run(Classifier(net, partial(Adam, lr=1e-3)), images)


# ------------------------------------------------------------------------------------------------ loss


class AbsoluteErrors(Classifier):
    """Softmax and the mean absolute error from one-hot labels."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.l1_loss(logits.softmax(1), F.one_hot(y, NUM_CLASSES).float())


@CASES.sick(
    "absolute-errors-of-shares",
    "underfitting",
    "learning-rate-too-low",
    "vanishing-gradients",
    story="Compiled with the mean absolute error in place of cross-entropy, on softmax outputs.",
)
def absolute_errors_of_shares(images: Images, fault: bool) -> Session:
    module = (AbsoluteErrors if fault else Classifier)(plain_cnn(), partial(SGD, lr=0.02, momentum=0.9))
    return run(module, images, 5)


class QuietFeatures(Classifier):
    """A penalty on the activations of the hidden layer, as activity_regularizer adds it."""

    factor = 0.0

    def measure(self, batch: Pair, stage: str) -> Tensor:
        x, y = batch
        features = self.net[:-1](x)
        logits = self.net[-1](features)
        loss = self.loss(logits, y) + self.factor * features.abs().sum(1).mean()
        accuracy = (logits.argmax(1) == y).float().mean()
        values = {f"{stage}/loss": loss, f"{stage}/acc": accuracy}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(y))
        return loss


@CASES.sick(
    "activations-penalized",
    "regularization-too-strong",
    story="Gave the activations, not the weights, of one layer an L1 penalty of 0.1.",
)
def activations_penalized(images: Images, fault: bool) -> Session:
    module = QuietFeatures(lenet(), partial(Adam, lr=1e-3))
    module.factor = 0.1 if fault else 1e-4
    return run(module, images)


class LogarithmsByHand(YesOrNo):
    """Binary cross-entropy from shares, which float32 rounds to 1 from logits of 17 on."""

    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        share = self(x).squeeze(1).sigmoid()
        loss = -(y * share.log() + (1 - y) * (1 - share).log()).mean()
        return loss, {"acc": ((share > 0.5).float() == y).float().mean()}


@CASES.sick(
    "logarithm-of-a-rounded-share",
    "non-finite-loss",
    story="Wrote the binary cross-entropy by hand: once a sample is sure, it is the logarithm of zero.",
)
def logarithm_of_a_rounded_share(images: Images, fault: bool) -> Session:
    draw = torch.Generator().manual_seed(42)
    y = torch.randint(2, (2000,), generator=draw).float()
    x = torch.randn(2000, 10, generator=draw)
    x[:, 0] += 6 * y - 3
    module = (LogarithmsByHand if fault else YesOrNo)(layers(10, 64, 64, 1), partial(Adam, lr=5e-3))
    return fitting(module, *halves(x / x.std(0), y), epochs=8, batch=32)


# ----------------------------------------------------------------------------------------------- steps


@CASES.sick(
    "plain-descent-at-the-rate-of-adam",
    "learning-rate-too-low",
    story="Changed the optimizer from Adam to SGD, without momentum, and left the rate of 0.001.",
)
def plain_descent_at_the_rate_of_adam(images: Images, fault: bool) -> Session:
    optimizer = partial(SGD, lr=1e-3) if fault else partial(Adam, lr=1e-3)
    return run(Classifier(plain_cnn(), optimizer), images, 5)


@CASES.sick(
    "clipped-by-value",
    "learning-rate-too-low",
    story="Clips each gradient, by value, at 0.0001.",
)
def clipped_by_value(images: Images, fault: bool) -> Session:
    module = Classifier(plain_cnn(), partial(SGD, lr=0.02, momentum=0.9))
    clipping: dict[str, Any] = {"gradient_clip_val": 1e-4 if fault else 0.5}
    return run(module, images, 5, gradient_clip_algorithm="value", **clipping)


class StopsForWant(Classifier):
    least = 0.0

    def configure_callbacks(self) -> Any:
        return [EarlyStopping("val/acc", mode="max", min_delta=self.least, patience=1)]


@CASES.sick(
    "stopped-for-want-of-a-half",
    "underfitting",
    "learning-rate-too-low",
    story="EarlyStopping's min_delta is half a percent, written as 0.5 where accuracy goes from 0 to 1.",
)
def stopped_for_want_of_a_half(images: Images, fault: bool) -> Session:
    module = StopsForWant(plain_cnn(), partial(SGD, lr=0.01, momentum=0.9))
    module.least = 0.5 if fault else 0.005
    return run(module, images, 8)


@CASES.sick(
    "resilient-on-small-batches",
    "batch-too-small",
    "learning-rate-too-high",
    story="Chose Rprop, which goes by signs from step to step, for batches of 32.",
)
def resilient_on_small_batches(images: Images, fault: bool) -> Session:
    optimizer = partial(Rprop, lr=1e-3) if fault else partial(Adam, lr=1e-3)
    return run(Classifier(plain_cnn(norm="batch"), optimizer), images, 3, batch=32)


# ------------------------------------------------------------------------- tables, sequences, two inputs


@CASES.sick(
    "missing-is-minus-9999",
    "input-not-normalized",
    story="One value in twenty is missing in the table and stands as -9999, beside columns of unit variance.",
)
def missing_is_minus_9999(images: Images, fault: bool) -> Session:
    x, y = house_prices()
    missing = torch.rand(x.shape, generator=torch.Generator().manual_seed(41)) < 0.05
    x = torch.where(missing, -9999.0 if fault else 0.0, x)
    return fitting(Regression(layers(8, 48, 48, 1), partial(Adam, lr=3e-3)), *halves(x, y), epochs=8)


class UserTwice(Factors):
    """Looks the user up in both tables."""

    def forward(self, users: Tensor, films: Tensor) -> Tensor:
        return super().forward(users, users)


@CASES.sick(
    "user-in-place-of-the-film",
    "input-constant",
    "frozen-parameters",
    "underfitting",
    story="Copied a line and forgot to change its argument: the film's vector is looked up by the user.",
)
def user_in_place_of_the_film(images: Images, fault: bool) -> Session:
    return recommending(Values((UserTwice if fault else Factors)(), partial(Adam, lr=5e-3)))


@CASES.sick(
    "embeddings-decayed",
    "regularization-too-strong",
    story="Gave Adam a weight decay of 0.1 for vectors of users and films that are seldom drawn.",
)
def embeddings_decayed(images: Images, fault: bool) -> Session:
    decay = 0.1 if fault else 1e-5
    return recommending(Values(Factors(), partial(Adam, lr=5e-3, weight_decay=decay)))


class FirstState(Order):
    """A GRU over the symbols, read at its last step or, by mistake, at its first."""

    place = -1

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.recur(self.embed(tokens))[0][:, self.place])


@CASES.sick(
    "first-state-in-place-of-the-last",
    "labels-random",
    "underfitting",
    "input-constant",
    story="Reads the recurrent network's state at the first step, which has seen one symbol of ten.",
)
def first_state_in_place_of_the_last(images: Images, fault: bool) -> Session:
    net = FirstState(20, 4)
    net.place = 0 if fault else -1
    return fitting(Sentence(net, partial(Adam, lr=3e-3)), *halves(*commonest(2000)), epochs=6, batch=32)


# ------------------------------------------------------------------------------------- odd but healthy


class BinaryShares(Classifier):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy(logits.softmax(1), F.one_hot(y, NUM_CLASSES).float())


@CASES.healthy("binary-loss-of-shares", story="Softmax outputs and binary cross-entropy from one-hot labels.")
def binary_loss_of_shares(images: Images) -> Session:
    return run(BinaryShares(plain_cnn(norm="batch"), partial(Adam, lr=1e-3)), images)


@CASES.healthy("resilient-on-the-whole-set", story="Rprop on the whole set, for which it was made.")
def resilient_on_the_whole_set(images: Images) -> Session:
    net = layers(8, 32, 32, 1)
    module = Regression(net, partial(Rprop, lr=1e-3))
    return fitting(module, *halves(*house_prices(1500)), epochs=150, batch=1200)


def without_biases(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_parameter("bias", None)
    return net


@CASES.healthy("images-without-a-bias", story="A convnet none of whose layers has a bias or a norm.")
def images_without_a_bias(images: Images) -> Session:
    return run(Classifier(without_biases(plain_cnn()), partial(AdamW, lr=2e-3)), images)


@CASES.healthy("normalizing-itself", story="SELU, LeCun's initialization, alpha dropout.")
def normalizing_itself(images: Images) -> Session:
    net = dense(128, 96, 64, activation=nn.SELU)
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            nn.init.zeros_(module.bias)
    net.insert(len(net) - 1, nn.AlphaDropout(0.1))
    return run(Classifier(net, partial(SGD, lr=0.01, momentum=0.9)), images)


class NoisyPixels(Classifier):
    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        x, y = batch
        return self.measure((x + 0.4 * torch.randn_like(x), y), "train")


@CASES.healthy("noise-as-augmentation", story="A little noise on the pixels in training.")
def noise_as_augmentation(images: Images) -> Session:
    return run(NoisyPixels(lenet(), partial(Adam, lr=1e-3)), images)


class Crossed(nn.Module):
    """Vectors of user and film side by side, through dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.films = nn.Embedding(150, 16), nn.Embedding(150, 16)
        self.dense = layers(32, 64, 32, 1)

    def forward(self, users: Tensor, films: Tensor) -> Tensor:
        both = torch.cat([self.users(users), self.films(films)], 1)
        return 3.3 + self.dense(both).squeeze(1)


@CASES.healthy("vectors-side-by-side", story="Users and films as vectors side by side, dense layers behind.")
def vectors_side_by_side(images: Images) -> Session:
    return recommending(Values(Crossed(), partial(Adam, lr=3e-3)), epochs=6)
