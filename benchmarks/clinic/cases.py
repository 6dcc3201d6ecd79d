"""The development set: 25 sick and 8 healthy runs.

Each build function makes the run as its author wrote it; with fault=False it makes the run the author
meant.

Validation accuracy and loss after the last epoch, one seed:

                                 sick          twin or healthy
                                   acc   loss    acc   loss
    adam-rate-of-sgd              0.10   2.31   0.46   1.54
    rate-with-one-zero-too-many   0.10   2.36   0.45   1.60
    only-head-in-optimizer        0.33   1.93   0.46   1.54
    no-zero-grad                  0.10   2.51   0.40   1.78
    weight-decay-of-one           0.10   2.30   0.47   1.54
    batches-of-two                0.10   2.40   0.45   1.60
    wide-normal-weights           0.10    nan   0.33   1.94
    deep-sigmoid-net              0.10   2.31   0.35   1.84
    bias-of-minus-three           0.10   2.30   0.43   1.61
    unit-normal-tanh              0.18   4.74   0.36   1.96
    all-weights-equal             0.19   2.17   0.38   1.90
    loud-last-layer               0.10   2.30   0.43   1.60
    swish-by-hand                 0.24   2.54   0.38   1.80
    one-unit-bottleneck           0.15   2.33   0.40   1.80
    huge-net-few-images           0.32   3.46   0.38   1.73
    root-of-zero                  0.10    nan   0.45   1.58
    softmax-then-cross-entropy    0.26   2.21   0.40   1.70
    eval-in-training-step         0.10   2.31   0.38   1.72
    train-in-validation-step      0.36   1.74   0.43   1.63
    raw-pixels                    0.10   2.30   0.38   1.73
    scaled-then-cast              0.10   2.30   0.44   1.56
    labels-shuffled-alone         0.08   2.34   0.46   1.54
    nine-in-ten-one-class         0.10   5.28   0.46   1.54
    class-after-class             0.10   2.30   0.46   1.54
    validation-unscaled           0.11   3.24   0.46   1.56
    plain-convnet                               0.46   1.54
    high-rate-with-warmup                       0.48   1.43
    small-batch-small-rate                      0.35   1.80
    strong-augmentation                         0.44   1.54
    xavier-tanh                                 0.35   1.87
    half-dropout                                0.44   1.55
    small-rate-adam                             0.41   1.67
    decayed-adamw                               0.45   1.54
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from clinic import NUM_CLASSES, CaseBook, Classifier, Images, Session, loader, normalized
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

CASES = CaseBook()

PIXELS = 3 * 32 * 32


def conv_net(width: int = 32, norm: bool = False, dropout: float = 0.0, depth: int = 2) -> nn.Sequential:
    """A 4x4 convolution, 3x3 convolutions (the first of stride 2), and a linear head on 4x4 positions."""
    layers: list[nn.Module] = []
    for stage in range(depth):
        channels = 3 if stage == 0 else width
        size, stride, padding = [(4, 4, 0), (3, 2, 1), (3, 1, 1)][min(stage, 2)]
        layers.append(nn.Conv2d(channels, width, size, stride, padding))
        layers += [nn.BatchNorm2d(width)] if norm else []
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.Flatten(), nn.Dropout(dropout), nn.Linear(16 * width, NUM_CLASSES))


def mlp(*widths: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    sizes = [PIXELS, *widths]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], NUM_CLASSES))


def weights_of(net: nn.Module) -> list[Tensor]:
    return [module.weight for module in net.modules() if isinstance(module, nn.Linear | nn.Conv2d)]


def session(
    module: Classifier,
    images: Images,
    epochs: int = 4,
    batch_size: int = 64,
    train: tuple[Tensor, Tensor] | None = None,
    val: tuple[Tensor, Tensor] | None = None,
    shuffle: bool = True,
    **trainer_kwargs: Any,
) -> Session:
    """The usual run; `train` and `val` replace its data."""
    train_x, train_y = train or (normalized(images.train_x), images.train_y)
    val_x, val_y = val or (normalized(images.val_x), images.val_y)
    return Session(
        module,
        loader(train_x, train_y, batch_size, shuffle),
        loader(val_x, val_y, 250),
        {"max_epochs": epochs, **trainer_kwargs},
    )


# ------------------------------------------------------------------------------------------ optimizer


@CASES.sick(
    "adam-rate-of-sgd",
    "learning-rate-too-high",
    story="Switched from SGD to Adam and kept the learning rate of 0.1.",
)
def adam_rate_of_sgd(images: Images, fault: bool) -> Session:
    return session(Classifier(conv_net(), partial(Adam, lr=0.1 if fault else 2e-3)), images)


@CASES.sick(
    "rate-with-one-zero-too-many",
    "learning-rate-too-low",
    story="Typed lr=1e-5 for SGD where 1e-1 was meant.",
)
def rate_with_zeros(images: Images, fault: bool) -> Session:
    return session(
        Classifier(conv_net(norm=True), partial(SGD, lr=1e-5 if fault else 1e-1, momentum=0.9)), images
    )


@CASES.sick(
    "only-head-in-optimizer",
    "frozen-parameters",
    story="Handed the optimizer the head's parameters alone, as left over from a fine-tuning script.",
)
def only_head_in_optimizer(images: Images, fault: bool) -> Session:
    net = conv_net()

    def optimizer(parameters: Iterable[nn.Parameter]) -> Optimizer:
        return Adam(net[-1].parameters() if fault else parameters, lr=2e-3)

    return session(Classifier(net, optimizer), images)


class ManualSteps(Classifier):
    """Manual optimization, with or without clearing the gradients."""

    def __init__(self, *args: Any, clear: bool) -> None:
        super().__init__(*args)
        self.automatic_optimization = False
        self.clear = clear

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        loss = self.measure(batch, "train")
        if self.clear:
            optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return loss


@CASES.sick(
    "no-zero-grad",
    "gradients-accumulate",
    story="Wrote the optimization by hand and forgot optimizer.zero_grad().",
)
def no_zero_grad(images: Images, fault: bool) -> Session:
    return session(ManualSteps(conv_net(norm=True), partial(SGD, lr=0.1), clear=not fault), images)


@CASES.sick(
    "weight-decay-of-one",
    "regularization-too-strong",
    story="Read weight_decay as a decay factor per step and set it to 1 in Adam.",
)
def weight_decay_of_one(images: Images, fault: bool) -> Session:
    return session(
        Classifier(conv_net(), partial(Adam, lr=2e-3, weight_decay=1.0 if fault else 1e-4)), images
    )


@CASES.sick(
    "batches-of-two",
    "batch-too-small",
    "learning-rate-too-high",
    story="Cut the batch size to 2 to save memory and kept the learning rate.",
)
def batches_of_two(images: Images, fault: bool) -> Session:
    module = Classifier(conv_net(norm=True), partial(SGD, lr=0.1, momentum=0.9))
    return session(module, images, 1 if fault else 4, 2 if fault else 64, limit_train_batches=1000)


# ---------------------------------------------------------------------------------------- network


@CASES.sick(
    "wide-normal-weights",
    "exploding-gradients",
    "bad-initialization",
    story="Drew the weights of a deep MLP from a normal distribution of standard deviation 0.3.",
)
def wide_normal_weights(images: Images, fault: bool) -> Session:
    net = mlp(*[128] * 6)
    for weight in weights_of(net):
        nn.init.normal_(weight, std=0.3) if fault else nn.init.kaiming_normal_(weight)
    return session(Classifier(net, partial(SGD, lr=0.01)), images)


@CASES.sick(
    "deep-sigmoid-net",
    "vanishing-gradients",
    story="Built eight hidden layers of sigmoids with the default initialization.",
)
def deep_sigmoid_net(images: Images, fault: bool) -> Session:
    net = mlp(*[128] * 8, activation=nn.Sigmoid if fault else nn.ReLU)
    if not fault:
        for weight in weights_of(net):
            nn.init.kaiming_normal_(weight)
    return session(Classifier(net, partial(SGD, lr=0.01, momentum=0.9)), images)


@CASES.sick(
    "bias-of-minus-three",
    "dead-relu",
    "bad-initialization",
    story="Initialized every hidden bias to -3, copied from a detector's output layer.",
)
def bias_of_minus_three(images: Images, fault: bool) -> Session:
    net = conv_net()
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.constant_(module.bias, -3.0 if fault else 0.0)
    return session(Classifier(net, partial(Adam, lr=1e-3)), images)


@CASES.sick(
    "unit-normal-tanh",
    "saturated-activations",
    "bad-initialization",
    story="Initialized a tanh network from the unit normal distribution, whatever the fan-in.",
)
def unit_normal_tanh(images: Images, fault: bool) -> Session:
    net = mlp(128, 128, 128, activation=nn.Tanh)
    for weight in weights_of(net):
        nn.init.normal_(weight) if fault else nn.init.xavier_normal_(weight)
    return session(Classifier(net, partial(SGD, lr=0.02, momentum=0.9)), images)


@CASES.sick(
    "all-weights-equal",
    "bad-initialization",
    story="Initialized every weight to the constant 0.01, so that all units of a layer stay twins.",
)
def all_weights_equal(images: Images, fault: bool) -> Session:
    net = mlp(128, 64)
    for weight in weights_of(net):
        nn.init.constant_(weight, 0.01) if fault else nn.init.kaiming_normal_(weight)
    return session(Classifier(net, partial(Adam, lr=4e-4)), images)


@CASES.sick(
    "loud-last-layer",
    "wrong-initial-loss",
    "bad-initialization",
    story="Scaled up the last layer's weights, so that the untrained network is surely and wildly wrong.",
)
def loud_last_layer(images: Images, fault: bool) -> Session:
    net = conv_net()
    if fault:
        nn.init.normal_(weights_of(net)[-1], std=3.0)
    return session(Classifier(net, partial(SGD, lr=0.02, momentum=0.9)), images)


class WrongSwish(torch.autograd.Function):
    """x * sigmoid(x), whose derivative has lost a minus sign."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(x)
        return grad * -gate * (1 + x * (1 - gate))


class Swish(nn.Module):
    def __init__(self, wrong: bool) -> None:
        super().__init__()
        self.wrong = wrong

    def forward(self, x: Tensor) -> Tensor:
        return WrongSwish.apply(x) if self.wrong else F.silu(x)


@CASES.sick(
    "swish-by-hand",
    "wrong-gradient",
    story="Wrote swish as an autograd Function to save memory and got its derivative wrong.",
)
def swish_by_hand(images: Images, fault: bool) -> Session:
    net = mlp(128, 128, activation=partial(Swish, wrong=fault))
    return session(Classifier(net, partial(Adam, lr=1e-3)), images)


@CASES.sick(
    "one-unit-bottleneck",
    "underfitting",
    story="Typed 1 for the width of a hidden layer.",
)
def one_unit_bottleneck(images: Images, fault: bool) -> Session:
    return session(Classifier(mlp(128, 1 if fault else 64), partial(Adam, lr=1e-3)), images)


@CASES.sick(
    "huge-net-few-images",
    "overfitting",
    story="Trained a wide network for long on 300 images.",
)
def huge_net_few_images(images: Images, fault: bool) -> Session:
    module = Classifier(mlp(512, 256), partial(Adam, lr=5e-4))
    if not fault:
        return session(module, images, 3)
    few = torch.arange(0, len(images.train_y), len(images.train_y) // 300)[:300]
    return session(module, images, 30, train=(normalized(images.train_x[few]), images.train_y[few]))


# ------------------------------------------------------------------------------------------- loss


class NearStart(Classifier):
    """A penalty on the distance from the starting weights, squared or not."""

    def __init__(self, *args: Any, root: bool) -> None:
        super().__init__(*args)
        self.root = root
        self.start = [weight.detach().clone() for weight in weights_of(self.net)]

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        moved: Any = sum(
            ((weight - start) ** 2).sum()
            for weight, start in zip(weights_of(self.net), self.start, strict=True)
        )
        return super().loss(logits, y) + 1e-3 * (moved.sqrt() if self.root else moved)


@CASES.sick(
    "root-of-zero",
    "non-finite-loss",
    story="Penalized the distance from the starting weights by a root, whose slope at zero is infinite.",
)
def root_of_zero(images: Images, fault: bool) -> Session:
    return session(NearStart(conv_net(), partial(Adam, lr=2e-3), root=fault), images)


@CASES.sick(
    "softmax-then-cross-entropy",
    "double-softmax",
    story="Ended the network in a softmax, though cross_entropy expects logits.",
)
def softmax_then_cross_entropy(images: Images, fault: bool) -> Session:
    net = conv_net()
    if fault:
        net.append(nn.Softmax(dim=1))
    return session(Classifier(net, partial(SGD, lr=0.01, momentum=0.9)), images)


# ------------------------------------------------------------------------------------------ modes


class StuckInEval(Classifier):
    """Training steps that call eval(), as after a copy from the evaluation script."""

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.net.eval()
        return super().training_step(batch, batch_idx)


@CASES.sick(
    "eval-in-training-step",
    "eval-mode-training",
    story="Called eval() in training_step, so that BatchNorm never sees the batch.",
)
def eval_in_training_step(images: Images, fault: bool) -> Session:
    module = (StuckInEval if fault else Classifier)(
        conv_net(norm=True, depth=6), partial(SGD, lr=0.1, momentum=0.9)
    )
    return session(module, images)


class ValidatesInTrainMode(Classifier):
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.train()
        super().validation_step(batch, batch_idx)


@CASES.sick(
    "train-in-validation-step",
    "train-mode-evaluation",
    story="Called train() in validation_step, so that dropout is active while the model is measured.",
)
def train_in_validation_step(images: Images, fault: bool) -> Session:
    net = conv_net(dropout=0.6)
    return session((ValidatesInTrainMode if fault else Classifier)(net, partial(Adam, lr=2e-3)), images)


# ------------------------------------------------------------------------------------------- data


@CASES.sick(
    "raw-pixels",
    "input-not-normalized",
    story="Fed pixels from 0 to 255 straight to the network.",
)
def raw_pixels(images: Images, fault: bool) -> Session:
    raw = (images.train_x.float(), images.train_y), (images.val_x.float(), images.val_y)
    train, val = raw if fault else (None, None)
    module = Classifier(mlp(256, 128), partial(SGD, lr=0.01, momentum=0.9))
    return session(module, images, train=train, val=val)


@CASES.sick(
    "scaled-then-cast",
    "input-constant",
    story="Scaled pixels to 0..1 and cast them back to uint8, which makes every image zero.",
)
def scaled_then_cast(images: Images, fault: bool) -> Session:
    def scaled(x: Tensor) -> Tensor:
        return (x / 256).to(torch.uint8).float() if fault else x / 256

    train, val = (scaled(images.train_x), images.train_y), (scaled(images.val_x), images.val_y)
    return session(Classifier(conv_net(norm=True), partial(Adam, lr=2e-3)), images, train=train, val=val)


@CASES.sick(
    "labels-shuffled-alone",
    "labels-random",
    story="Shuffled the training labels but not the images.",
)
def labels_shuffled_alone(images: Images, fault: bool) -> Session:
    labels = images.train_y[torch.randperm(len(images.train_y))] if fault else images.train_y
    return session(
        Classifier(conv_net(), partial(Adam, lr=2e-3)), images, train=(normalized(images.train_x), labels)
    )


@CASES.sick(
    "nine-in-ten-one-class",
    "class-imbalance",
    story="Collected a training set in which one class has more than nine tenths of the images.",
)
def nine_in_ten_one_class(images: Images, fault: bool) -> Session:
    x, y = images.train_x, images.train_y
    if fault:
        place = torch.arange(len(y)) % (len(y) // NUM_CLASSES)
        kept = torch.where((y == 3) | (place < 4))[0]
        kept = torch.cat([kept, kept[y[kept] == 3].repeat(4)])
        x, y = x[kept], y[kept]
    return session(Classifier(conv_net(), partial(Adam, lr=2e-3)), images, train=(normalized(x), y))


@CASES.sick(
    "class-after-class",
    "data-not-shuffled",
    story="Read the images folder by folder and left out shuffle=True.",
)
def class_after_class(images: Images, fault: bool) -> Session:
    return session(Classifier(conv_net(), partial(Adam, lr=2e-3)), images, shuffle=not fault)


@CASES.sick(
    "validation-unscaled",
    "train-val-mismatch",
    story="Normalized the training images and left the validation images at 0 to 1.",
)
def validation_unscaled(images: Images, fault: bool) -> Session:
    val = (images.val_x.float() / 255, images.val_y) if fault else None
    return session(Classifier(conv_net(norm=True), partial(Adam, lr=2e-3)), images, val=val)


# ---------------------------------------------------------------------------------------- healthy


@CASES.healthy("plain-convnet", story="A small convnet without BatchNorm, Adam at 2e-3.")
def plain_convnet(images: Images) -> Session:
    return session(Classifier(conv_net(), partial(Adam, lr=2e-3)), images)


class WarmedUp(Classifier):
    """A linear warm-up of the learning rate over the first 100 steps, then a linear decay."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        steps = self.trainer.estimated_stepping_batches
        schedule = LambdaLR(optimizer, lambda step: min((step + 1) / 100, 1 - step / (steps + 1)))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@CASES.healthy("high-rate-with-warmup", story="SGD at 0.5 with warm-up, decay and BatchNorm.")
def high_rate_with_warmup(images: Images) -> Session:
    return session(WarmedUp(conv_net(norm=True), partial(SGD, lr=0.5)), images)


@CASES.healthy("small-batch-small-rate", story="Batches of 8, with a learning rate made for them.")
def small_batch_small_rate(images: Images) -> Session:
    return session(Classifier(conv_net(), partial(SGD, lr=0.01, momentum=0.9)), images, 2, 8)


class Augmented(Classifier):
    """Flips, shifts, noise and blanked squares on training images, drawn anew for each batch."""

    def on_after_batch_transfer(
        self, batch: tuple[Tensor, Tensor], dataloader_idx: int
    ) -> tuple[Tensor, Tensor]:
        x, y = batch
        if not self.trainer.training:
            return x, y
        x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x, x.flip(-1))
        x = x.roll(shifts=tuple(torch.randint(-4, 5, (2,)).tolist()), dims=(2, 3))
        x = x + 0.3 * torch.randn_like(x)
        row, column = torch.randint(0, 20, (2,)).tolist()
        x[:, :, row : row + 12, column : column + 12] = 0
        return x, y


@CASES.healthy(
    "strong-augmentation", story="Augmentation so strong that training loss exceeds validation loss."
)
def strong_augmentation(images: Images) -> Session:
    return session(Augmented(conv_net(norm=True), partial(AdamW, lr=3e-3)), images, 6)


@CASES.healthy("xavier-tanh", story="A tanh network with Xavier weights, plain SGD.")
def xavier_tanh(images: Images) -> Session:
    net = mlp(128, 128, activation=nn.Tanh)
    for weight in weights_of(net):
        nn.init.xavier_uniform_(weight)
    return session(Classifier(net, partial(SGD, lr=0.002, momentum=0.9)), images, 3)


@CASES.healthy("half-dropout", story="Dropout of one half before the head.")
def half_dropout(images: Images) -> Session:
    return session(Classifier(conv_net(dropout=0.5), partial(Adam, lr=2e-3)), images, 6)


@CASES.healthy("small-rate-adam", story="Adam at 3e-4, a learning rate that would be far too low for SGD.")
def small_rate_adam(images: Images) -> Session:
    return session(Classifier(conv_net(norm=True), partial(Adam, lr=3e-4)), images, 5)


@CASES.healthy("decayed-adamw", story="AdamW with a weight decay of 0.1, which is decoupled and so mild.")
def decayed_adamw(images: Images) -> Session:
    return session(Classifier(conv_net(), partial(AdamW, lr=2e-3, weight_decay=0.1)), images)
