"""The wild set: faults, and odd but right runs, taken from public reports of real trainings.

Every case retells one public report in this clinic's terms: the network, the data and the
numbers are new, the mistake is the reported one. Each build function makes the run as its author wrote it;
with fault=False it makes the run the author meant.

Validation accuracy and loss after the last epoch, one seed:

                                             sick     twin or healthy
                                        acc   loss     acc   loss
    rate-hundredfold-for-rmsprop       0.15   2.25    0.44   1.55
    clipped-before-unscaling           0.11   2.38    0.47   1.52
    micro-batches-summed               0.10   3.29    0.32   1.85
    layers-swapped-after-optimizer     0.36   1.77    0.47   1.53
    layer-made-in-forward              0.17   2.22    0.37   1.81
    deep-vgg-without-norm              0.10   2.30    0.33   1.79
    two-zero-layers-in-a-row           0.10   2.30    0.43   1.51
    activations-left-out               0.31   1.94    0.45   1.53
    chain-rule-forgotten               0.10   2.31    0.45   1.53
    sigmoid-before-cross-entropy       0.36   2.03    0.40   1.73
    nll-without-the-log                0.38  -0.35    0.47   1.54
    tenth-of-squared-weights           0.27   2.21    0.44   1.56
    loaded-in-eval-mode                0.10   2.30    0.43   1.58
    running-statistics-never-arrive    0.11   2.24    0.45   1.53
    files-in-lexical-order             0.13   2.30    0.36   1.76
    normalized-twice                   0.15   2.24    0.42   1.60
    augmented-beyond-recognition       0.11   2.30    0.47   1.64
    shuffle-buffer-too-small           0.10   2.36    0.45   1.59
    validation-below-training                         0.40   1.67
    mixup-hides-accuracy                              0.50   1.50
    every-step-clipped                                0.38   1.73
    ten-binary-losses                                 0.50   0.23
    linear-probe                                      0.44   1.54
    averaged-weights-lag                              0.51   1.40
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from clinic import NUM_CLASSES, CaseBook, Classifier, Images, Session, normalized
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, NAdam, Optimizer, RMSprop
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

CASES = CaseBook()

Pair = tuple[Tensor, Tensor]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


# ----------------------------------------------------------------------------------------- networks


def conv_unit(
    inputs: int, outputs: int, stride: int = 1, norm: str | None = None, size: int = 3
) -> nn.Sequential:
    """A convolution, its normalization (`batch`, `group` or none) and a ReLU."""
    unit = nn.Sequential(nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=norm is None))
    if norm == "batch":
        unit.append(nn.BatchNorm2d(outputs))
    if norm == "group":
        unit.append(nn.GroupNorm(4, outputs))
    return unit.append(nn.ReLU())


def plain_cnn(width: int = 24, norm: str | None = None) -> nn.Sequential:
    """Three strided convolutions, then a linear head on 4x4 positions."""
    widths = [3, width, 2 * width, 2 * width]
    units = [conv_unit(a, b, 2, norm) for a, b in pairwise(widths)]
    return nn.Sequential(*units, nn.Flatten(), nn.Linear(16 * widths[-1], NUM_CLASSES))


def lenet(activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 12, 5, stride=2),
        activation(),
        nn.MaxPool2d(2),
        nn.Conv2d(12, 32, 3),
        activation(),
        nn.Flatten(),
        nn.Linear(32 * 25, 96),
        activation(),
        nn.Linear(96, NUM_CLASSES),
    )


class PreActivation(nn.Module):
    """A residual block that normalizes and rectifies before each convolution."""

    def __init__(self, width: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.first = nn.Sequential(norm(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=False))
        self.second = nn.Sequential(norm(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


def group_norm(width: int) -> nn.Module:
    return nn.GroupNorm(4, width)


def residual_net(
    width: int = 24, depth: int = 2, norm: Callable[[int], nn.Module] = nn.BatchNorm2d
) -> nn.Sequential:
    blocks = [PreActivation(width, norm) for _ in range(depth)]
    stem = nn.Conv2d(3, width, 4, 4)
    return nn.Sequential(
        stem, *blocks, norm(width), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * width, 10)
    )


class Mixer(nn.Module):
    """Depthwise mixing with a shortcut, then pointwise mixing; GELU and BatchNorm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.space = nn.Sequential(
            nn.Conv2d(width, width, 5, padding=2, groups=width), nn.GELU(), nn.BatchNorm2d(width)
        )
        self.channels = nn.Sequential(nn.Conv2d(width, width, 1), nn.GELU(), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.channels(x + self.space(x))


def conv_mixer(width: int = 48, depth: int = 2) -> nn.Sequential:
    stem = [nn.Conv2d(3, width, 4, 4), nn.GELU(), nn.BatchNorm2d(width)]
    blocks = [Mixer(width) for _ in range(depth)]
    return nn.Sequential(*stem, *blocks, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * width, NUM_CLASSES))


class TinyViT(nn.Module):
    """A convolutional stem to 8x8, patches of 2x2 as tokens, a class token, pre-norm encoder layers."""

    def __init__(self, width: int = 40, depth: int = 2) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 4, 4), nn.GELU(), nn.Conv2d(width, width, 2, 2))
        self.mark = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(0.02 * torch.randn(1, 17, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, 0.0, F.gelu, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, NUM_CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.mark.expand(len(x), -1, -1), tokens], dim=1) + self.places
        return self.head(self.encoder(tokens)[:, 0])


def dense(*widths: int, activation: Callable[[], nn.Module] = nn.ReLU, norm: bool = False) -> nn.Sequential:
    net = nn.Sequential(nn.Flatten())
    size = 3 * 32 * 32
    for width in widths:
        net.append(nn.Linear(size, width))
        if norm:
            net.append(nn.LayerNorm(width))
        net.append(activation())
        size = width
    return net.append(nn.Linear(size, NUM_CLASSES))


def he_weights(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net


# --------------------------------------------------------------------------------------------- runs


def standard(images: Images) -> tuple[Pair, Pair]:
    return (normalized(images.train_x), images.train_y), (normalized(images.val_x), images.val_y)


def run(
    module: Classifier,
    images: Images,
    epochs: int = 4,
    batch: int = 64,
    train: Pair | None = None,
    val: Pair | None = None,
    **trainer: Any,
) -> Session:
    """The ordinary run of this set, with its data replaced where the case brings its own."""
    usual_train, usual_val = standard(images)
    return Session(
        module,
        DataLoader(TensorDataset(*(train or usual_train)), batch, shuffle=True),
        DataLoader(TensorDataset(*(val or usual_val)), 200),
        {"max_epochs": epochs, **trainer},
    )


# -------------------------------------------------------------------------- optimizer and schedule


@CASES.sick(
    "rate-hundredfold-for-rmsprop",
    "learning-rate-too-high",
    story="Left 0.1 in the example's optimizer where the tutorial's value was 0.001.",
)
def rate_hundredfold_for_rmsprop(images: Images, fault: bool) -> Session:
    net = plain_cnn(norm="group")
    return run(Classifier(net, partial(RMSprop, lr=0.1 if fault else 1e-3)), images)


class LossScaled(Classifier):
    """Backward on a scaled loss as in mixed precision, clipped before or after the scale is taken out."""

    scale = 2.0**16

    def __init__(self, *args: Any, clip_scaled: bool) -> None:
        super().__init__(*args)
        self.automatic_optimization = False
        self.clip_scaled = clip_scaled

    def unscale(self) -> None:
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(self.scale)

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        loss = self.measure(batch, "train")
        self.manual_backward(loss * self.scale)
        if self.clip_scaled:
            nn.utils.clip_grad_norm_(self.parameters(), 1.0)
            self.unscale()
        else:
            self.unscale()
            nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        optimizer.step()
        return loss


@CASES.sick(
    "clipped-before-unscaling",
    "learning-rate-too-low",
    story="Clipped the gradients while they still carried the loss scale; unscaled, next to nothing is left.",
)
def clipped_before_unscaling(images: Images, fault: bool) -> Session:
    optimizer = partial(SGD, lr=0.05, momentum=0.9)
    return run(LossScaled(plain_cnn(norm="batch"), optimizer, clip_scaled=fault), images)


class MicroBatches(Classifier):
    """Gradients of `parts` small batches for one step, summed or averaged."""

    parts = 16

    def __init__(self, *args: Any, averaged: bool) -> None:
        super().__init__(*args)
        self.automatic_optimization = False
        self.averaged = averaged

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        loss = self.measure(batch, "train")
        self.manual_backward(loss / self.parts if self.averaged else loss)
        if (batch_idx + 1) % self.parts == 0:
            optimizer.step()
            optimizer.zero_grad()
        return loss


@CASES.sick(
    "micro-batches-summed",
    "learning-rate-too-high",
    "gradients-accumulate",
    story="Accumulated sixteen small batches a step without dividing the loss by sixteen.",
)
def micro_batches_summed(images: Images, fault: bool) -> Session:
    module = MicroBatches(he_weights(lenet()), partial(SGD, lr=0.05, momentum=0.9), averaged=not fault)
    return run(module, images, 3, 8)


# ----------------------------------------------------------------------------------- what is trained


class Surgery(Classifier):
    """Swaps the trunk's blocks for slimmer ones when training starts, after the optimizer was made."""

    def on_train_start(self) -> None:
        for place in (0, 1, 2):
            old = self.net[place][0]
            self.net[place] = conv_unit(old.in_channels, old.out_channels, 2, "batch")


@CASES.sick(
    "layers-swapped-after-optimizer",
    "frozen-parameters",
    story="Compressed the network by swapping layers after the optimizer was built from the old ones.",
)
def layers_swapped_after_optimizer(images: Images, fault: bool) -> Session:
    module = (Surgery if fault else Classifier)(plain_cnn(norm="batch"), partial(Adam, lr=1e-3))
    return run(module, images)


class LayerMadeInForward(nn.Module):
    """A stem and a head with a hidden layer between them that is made anew in every forward pass."""

    def __init__(self, anew: bool) -> None:
        super().__init__()
        self.stem = nn.Linear(3 * 32 * 32, 96)
        self.hidden = None if anew else nn.Linear(96, 96)
        self.head = nn.Linear(96, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x.flatten(1)))
        hidden = self.hidden if self.hidden is not None else nn.Linear(96, 96)
        return self.head(F.relu(hidden(x)))


@CASES.sick(
    "layer-made-in-forward",
    "frozen-parameters",
    story="Created a layer inside forward(), so that every pass has new weights, unknown to the optimizer.",
)
def layer_made_in_forward(images: Images, fault: bool) -> Session:
    return run(Classifier(LayerMadeInForward(anew=fault), partial(NAdam, lr=1e-3)), images)


@CASES.sick(
    "deep-vgg-without-norm",
    "vanishing-gradients",
    "bad-initialization",
    story="Took the BatchNorm layers out of a deep VGG and kept the default initialization.",
)
def deep_vgg_without_norm(images: Images, fault: bool) -> Session:
    widths = [3, 16, 24, 24, 24, 24, 24, 24, 24, 24, 24, 24]
    strides = [2, 2] + [1] * 9
    units = [conv_unit(a, b, s) for a, b, s in zip(widths, widths[1:], strides, strict=False)]
    net = nn.Sequential(*units, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * 24, NUM_CLASSES))
    if not fault:
        he_weights(net)
    return run(Classifier(net, partial(SGD, lr=0.01, momentum=0.9)), images)


@CASES.sick(
    "two-zero-layers-in-a-row",
    "bad-initialization",
    "frozen-parameters",
    story="Zeroed both layers of a head, so that each keeps the other's gradient at zero.",
)
def two_zero_layers_in_a_row(images: Images, fault: bool) -> Session:
    trunk = [conv_unit(3, 24, 2, "group"), conv_unit(24, 48, 2, "group"), nn.AvgPool2d(2), nn.Flatten()]
    first, second = nn.Linear(16 * 48, 64), nn.Linear(64, NUM_CLASSES)
    for layer in (first, second) if fault else (second,):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    net = nn.Sequential(*trunk, first, nn.ReLU(), second)
    return run(Classifier(net, partial(Adam, lr=1e-3)), images)


@CASES.sick(
    "activations-left-out",
    "underfitting",
    story="Wrote the layers one after the other and forgot the nonlinearities between them.",
)
def activations_left_out(images: Images, fault: bool) -> Session:
    bend = nn.Identity if fault else nn.ReLU
    net = nn.Sequential(
        nn.Conv2d(3, 24, 3, 2, 1),
        bend(),
        nn.Conv2d(24, 40, 3, 2, 1),
        bend(),
        nn.Conv2d(40, 48, 3, 2, 1),
        bend(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 48, NUM_CLASSES),
    )
    return run(Classifier(net, partial(Adam, lr=3e-3)), images, 5)


class RootUnitByHand(torch.autograd.Function):
    """The inverse square root linear unit, whose backward forgot the gradient that comes from above."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        below = x.clamp(max=0)
        slope = torch.rsqrt(1 + below * below)
        ctx.save_for_backward(slope)
        return x * slope

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        return slope**3


class RootUnit(nn.Module):
    def __init__(self, by_hand: bool) -> None:
        super().__init__()
        self.by_hand = by_hand

    def forward(self, x: Tensor) -> Tensor:
        return RootUnitByHand.apply(x) if self.by_hand else x * torch.rsqrt(1 + x.clamp(max=0) ** 2)


@CASES.sick(
    "chain-rule-forgotten",
    "wrong-gradient",
    story="Wrote an activation as an autograd Function whose backward omits the incoming gradient.",
)
def chain_rule_forgotten(images: Images, fault: bool) -> Session:
    return run(Classifier(lenet(partial(RootUnit, by_hand=fault)), partial(Adam, lr=1e-3)), images)


# --------------------------------------------------------------------------------------------- loss


@CASES.sick(
    "sigmoid-before-cross-entropy",
    "double-softmax",
    story="Ended the network in a sigmoid and gave its outputs to cross_entropy, which wants logits.",
)
def sigmoid_before_cross_entropy(images: Images, fault: bool) -> Session:
    net = dense(128, 64, norm=True)
    if fault:
        net.append(nn.Sigmoid())
    return run(Classifier(net, partial(SGD, lr=0.01, momentum=0.9)), images)


class LikelihoodOfProbabilities(Classifier):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.nll_loss(torch.softmax(logits, dim=1), y)


@CASES.sick(
    "nll-without-the-log",
    "wrong-initial-loss",
    story="Gave softmax probabilities to nll_loss, which wants their logarithms; the loss is negative.",
)
def nll_without_the_log(images: Images, fault: bool) -> Session:
    optimizer = partial(SGD, lr=0.01, momentum=0.9)
    return run((LikelihoodOfProbabilities if fault else Classifier)(conv_mixer(32), optimizer), images)


class L2InTheLoss(Classifier):
    """Adds a penalty on the squared weights of every convolution and linear layer to the loss."""

    def __init__(self, *args: Any, factor: float) -> None:
        super().__init__(*args)
        self.factor = factor

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        weights = [m.weight for m in self.net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        return super().loss(logits, y) + self.factor * sum(weight.square().sum() for weight in weights)


@CASES.sick(
    "tenth-of-squared-weights",
    "regularization-too-strong",
    story="Gave every layer an L2 penalty of 0.1, which outweighs the loss itself.",
)
def tenth_of_squared_weights(images: Images, fault: bool) -> Session:
    return run(L2InTheLoss(plain_cnn(), partial(Adam, lr=1e-3), factor=0.1 if fault else 1e-5), images, 5)


# ------------------------------------------------------------------------------- modes, batch norm


@CASES.sick(
    "loaded-in-eval-mode",
    "eval-mode-training",
    story="Loaded the model by a function that returns it in eval mode; the trainer leaves modes alone.",
)
def loaded_in_eval_mode(images: Images, fault: bool) -> Session:
    widths = [3, 24, 24, 32, 32, 32, 32, 32]
    strides = [4, 1, 1, 1, 1, 1, 1]
    units = [conv_unit(a, b, s, "batch") for a, b, s in zip(widths, widths[1:], strides, strict=False)]
    net = nn.Sequential(*units, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * 32, NUM_CLASSES))
    net.train(not fault)
    return run(Classifier(net, partial(SGD, lr=0.05, momentum=0.9)), images)


@CASES.sick(
    "running-statistics-never-arrive",
    "train-val-mismatch",
    story="BatchNorm averages over thousands of steps, in a run of two hundred: validation sees the first.",
)
def running_statistics_never_arrive(images: Images, fault: bool) -> Session:
    net = conv_mixer()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.001 if fault else 0.1
    return run(Classifier(net, partial(AdamW, lr=2e-3)), images, 3)


# --------------------------------------------------------------------------------------------- data


@CASES.sick(
    "files-in-lexical-order",
    "labels-random",
    story="Listed the image files in lexical order (1, 10, 100, 2) and the labels in numerical order.",
)
def files_in_lexical_order(images: Images, fault: bool) -> Session:
    numbered = torch.randperm(len(images.train_y), generator=torch.Generator().manual_seed(3))
    x, y = normalized(images.train_x)[numbered], images.train_y[numbered]
    if fault:
        x = x[sorted(range(len(y)), key=str)]
    return run(Classifier(TinyViT(), partial(AdamW, lr=1e-3)), images, train=(x, y))


@CASES.sick(
    "normalized-twice",
    "input-not-normalized",
    story="Normalized in the loader and again in the training hook, a copy-and-paste slip.",
)
def normalized_twice(images: Images, fault: bool) -> Session:
    def twice(x: Tensor) -> Tensor:
        return (normalized(x) - 0.48) / 0.25 if fault else normalized(x)

    train, val = (twice(images.train_x), images.train_y), (twice(images.val_x), images.val_y)
    net = he_weights(plain_cnn())
    return run(Classifier(net, partial(SGD, lr=0.03, momentum=0.9)), images, train=train, val=val)


class Mangled(Classifier):
    """Training images are rotated, cropped to a sixth of their area, recoloured and inverted at random."""

    def on_after_batch_transfer(self, batch: Pair, dataloader_idx: int) -> Pair:
        x, y = batch
        if not self.trainer.training:
            return batch
        return torch.stack([self.mangle(image) for image in x]), y

    @staticmethod
    def mangle(image: Tensor) -> Tensor:
        row, column = random.randrange(20), random.randrange(20)
        image = image[:, row : row + 12, column : column + 12]
        image = torch.rot90(image, random.randrange(4), (1, 2))
        image = F.interpolate(image[None], size=32, mode="nearest")[0]
        image = image[torch.randperm(3)] * random.uniform(0.1, 2.0) + random.uniform(-1.5, 1.5)
        return -image if random.random() < 0.5 else image


@CASES.sick(
    "augmented-beyond-recognition",
    "regularization-too-strong",
    "underfitting",
    story="Piled up crops, rotations, colour changes and inversion until the loss no longer moved.",
)
def augmented_beyond_recognition(images: Images, fault: bool) -> Session:
    return run(
        (Mangled if fault else Classifier)(plain_cnn(norm="batch"), partial(SGD, lr=0.05, momentum=0.9)),
        images,
        5,
    )


class ShuffleBuffer(IterableDataset):
    """Streams the images in the order of the store through a shuffle buffer."""

    def __init__(self, x: Tensor, y: Tensor, size: int) -> None:
        self.x, self.y, self.size = x, y, size

    def __iter__(self) -> Iterator[Pair]:
        buffer: list[int] = []
        for place in range(len(self.y)):
            buffer.append(place)
            if len(buffer) == self.size:
                yield self.pick(buffer)
        while buffer:
            yield self.pick(buffer)

    def pick(self, buffer: list[int]) -> Pair:
        chosen = random.randrange(len(buffer))
        buffer[chosen], buffer[-1] = buffer[-1], buffer[chosen]
        place = buffer.pop()
        return self.x[place], self.y[place]


@CASES.sick(
    "shuffle-buffer-too-small",
    "data-not-shuffled",
    story="Shuffled a stream sorted by class through a buffer of 100 images, a quarter of one class.",
)
def shuffle_buffer_too_small(images: Images, fault: bool) -> Session:
    session = run(Classifier(plain_cnn(norm="group"), partial(SGD, lr=0.03, momentum=0.9)), images)
    (x, y), _ = standard(images)
    session.train_loader = DataLoader(ShuffleBuffer(x, y, 100 if fault else len(y)), 64)
    return session


# ------------------------------------------------------------------------------------------ healthy


@CASES.healthy(
    "validation-below-training",
    story="Validation loss is below training loss throughout: that is the mean over a fast-moving epoch.",
)
def validation_below_training(images: Images) -> Session:
    return run(Classifier(lenet(nn.GELU), partial(Adam, lr=7e-4)), images, 2)


class MixedUp(Classifier):
    """Mixup: pairs of images and their labels are blended, which keeps training accuracy low."""

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        x, y = batch
        share = float(torch.distributions.Beta(1.0, 1.0).sample())
        other = torch.randperm(len(y))
        logits = self(share * x + (1 - share) * x[other])
        targets = share * F.one_hot(y, NUM_CLASSES) + (1 - share) * F.one_hot(y[other], NUM_CLASSES)
        loss = F.cross_entropy(logits, targets)
        accuracy = (logits.argmax(dim=1) == y).float().mean()
        self.log_dict(
            {"train/loss": loss, "train/acc": accuracy}, on_step=False, on_epoch=True, batch_size=len(y)
        )
        return loss


@CASES.healthy(
    "mixup-hides-accuracy",
    story="Mixup with soft labels: training accuracy is far below validation accuracy.",
)
def mixup_hides_accuracy(images: Images) -> Session:
    return run(MixedUp(conv_mixer(32), partial(AdamW, lr=3e-3)), images, 5)


@CASES.healthy(
    "every-step-clipped",
    story="A transformer whose gradients are clipped to a norm of 0.1 at every step, as published.",
)
def every_step_clipped(images: Images) -> Session:
    return run(
        Classifier(TinyViT(), partial(AdamW, lr=2e-3, weight_decay=1e-4)), images, 4, gradient_clip_val=0.1
    )


class OneAgainstRest(Classifier):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, F.one_hot(y, NUM_CLASSES).float())


@CASES.healthy(
    "ten-binary-losses",
    story="Ten binary losses with a bias for rare positives: the loss starts at a third, not at 2.3.",
)
def ten_binary_losses(images: Images) -> Session:
    net = plain_cnn(norm="group")
    head: Any = net[-1]
    nn.init.constant_(head.bias, -2.2)
    return run(OneAgainstRest(net, partial(Adam, lr=2e-3)), images, 5)


def pretrained(net: nn.Sequential, x: Tensor, y: Tensor, epochs: int) -> nn.Sequential:
    """The network after a plain training loop, as if its weights had been downloaded."""
    optimizer = Adam(net.parameters(), lr=2e-3)
    for _ in range(epochs):
        for part in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(x[part]), y[part]).backward()
            optimizer.step()
    return net


class FrozenTrunk(Classifier):
    """Trains the head on a pretrained trunk that is frozen and stays in eval mode on purpose."""

    def train(self, mode: bool = True) -> FrozenTrunk:
        super().train(mode)
        self.net[:-1].eval()
        return self

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.net[-1].parameters())


@CASES.healthy(
    "linear-probe",
    story="A new head on a pretrained trunk that is frozen and in eval mode, to leave its statistics alone.",
)
def linear_probe(images: Images) -> Session:
    (x, y), _ = standard(images)
    net = pretrained(plain_cnn(norm="batch"), x[::2], y[::2], 3)
    net[:-1].requires_grad_(False)
    head: Any = net[-1]
    net[-1] = nn.Linear(head.in_features, NUM_CLASSES)
    module = FrozenTrunk(net, partial(SGD, lr=0.01, momentum=0.9))
    module.train()
    return run(module, images, 4, train=(x[1::2], y[1::2]))


class Averaged(Classifier):
    """Validates an exponential average of the weights, which lags behind in the first epoch."""

    def __init__(self, *args: Any, keep: float) -> None:
        super().__init__(*args)
        self.keep = keep
        self.average = copy.deepcopy(self.net).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) if self.training else self.average(x)

    def on_train_batch_end(self, *args: Any) -> None:
        for slow, fast in zip(self.average.parameters(), self.net.parameters(), strict=True):
            slow.lerp_(fast.detach(), 1 - self.keep)

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.net.parameters())


@CASES.healthy(
    "averaged-weights-lag",
    story="Validation uses averaged weights: in the first epoch it lags, later it leads.",
)
def averaged_weights_lag(images: Images) -> Session:
    return run(Averaged(residual_net(norm=group_norm), partial(AdamW, lr=2e-3), keep=0.985), images, 5)
