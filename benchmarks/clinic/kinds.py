"""Faults of further kinds, each beside the run that its author meant.

Written before the rules that are to find them, and without a look at those rules: a first sight for them.

Validation accuracy and loss after the last epoch, one seed:

                                               sick              twin
                                           acc   loss        acc   loss
    layers-in-a-list                      0.31   1.98       0.46   1.50
    weights-redrawn-as-new-parameters     0.35   1.81       0.47   1.53
    optimizer-of-an-earlier-instance      0.10   2.36       0.48   1.47
    adapter-made-in-forward               0.24   2.19       0.44   1.51
    matrices-as-plain-tensors             0.18   2.21       0.37   1.82
    signs-without-straight-through        0.33   1.86       0.45   1.51
    nearest-code-by-argmin                0.31   2.00       0.44   1.57
    features-kept-detached                0.40   1.67       0.47   1.47
    frozen-trunk-never-loaded             0.27   2.03       0.43   1.53
    relu-called-and-not-assigned          0.32   1.95       0.38   1.85
    relu-on-the-logits                    0.16   2.22       0.48   1.49
    functional-dropout-always-on          0.35   1.72       0.43   1.59
    dropout-keep-confused                 0.10   2.30       0.45   1.53
    batch-norm-momentum-zero              0.28   2.88       0.47   1.56
    batch-norm-on-pairs                   0.21   2.15       0.38   1.73
    loud-residual-branches                0.10    nan       0.36   1.88
    softmax-over-the-batch                0.22   2.30       0.48   1.49
    log-softmax-over-the-batch            0.19   5.36       0.44   1.54
    softmax-then-smoothed-loss            0.33   2.15       0.45   1.73
    absolute-weights-outweigh-the-loss    0.17   2.40       0.41   1.74
    penalty-with-the-wrong-sign           0.10 -39.34       0.44   1.69
    mean-over-an-absent-class             0.10    nan       0.47   1.51
    loss-summed-over-the-batch            0.10    nan       0.39   1.72
    accumulated-and-never-divided         0.10    nan       0.39   1.73
    step-under-a-condition-never-true     0.12   2.31       0.44   1.59
    cleared-before-the-step               0.10   2.30       0.43   1.61
    decay-of-epochs-taken-at-steps        0.25   2.06       0.48   1.47
    warm-up-counted-in-epochs             0.25   2.15       0.43   1.57
    clipped-to-a-millionth                0.10   2.36       0.47   1.60
    tenth-of-the-rate-and-annealed        0.27   2.13       0.44   1.58
    rate-at-the-edge                      0.29   2.03       0.43   1.56
    decay-of-a-third-in-adam              0.35   1.80       0.48   1.45
    weights-kept-in-bfloat16              0.28   2.03       0.37   1.79
    validation-classes-in-another-order   0.08   4.32       0.49   1.47
    validation-in-bgr                     0.29   2.32       0.50   1.43
    validation-reshaped-not-permuted      0.11   3.70       0.46   1.52
    sampler-weights-per-class             0.12   3.93       0.44   1.51
    a-shard-for-each-class                0.12   4.56       0.44   1.53
    crops-of-six-pixels                   0.14   2.25       0.47   1.45
    half-the-labels-off-by-one            0.36   1.92       0.47   1.50
    validation-by-other-figures           0.13  52.25       0.43   1.64
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from clinic import NUM_CLASSES, CaseBook, Classifier, Images, Session, normalized
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, ExponentialLR, LambdaLR, LRScheduler
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler
from wild import Pair, conv_unit, dense, he_weights, run, standard

CASES = CaseBook()


# ----------------------------------------------------------------------------------------- networks


def pyramid(*widths: int, norm: str | None = None, size: int = 4) -> nn.Sequential:
    """Strided convolutions of these widths, pooled to `size` x `size` positions, and a linear head."""
    units = [conv_unit(a, b, 2, norm) for a, b in pairwise((3, *widths))]
    head = nn.Linear(size * size * widths[-1], NUM_CLASSES)
    return nn.Sequential(*units, nn.AdaptiveAvgPool2d(size), nn.Flatten(), head)


class Separable(nn.Module):
    """A depthwise and a pointwise convolution with a shortcut around both."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, width)
        self.space = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.mix = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(F.silu(self.space(self.norm(x))))


def separable_net(width: int = 32, depth: int = 2) -> nn.Sequential:
    stem = nn.Conv2d(3, width, 4, 4)
    head = nn.Linear(16 * width, NUM_CLASSES)
    blocks = [Separable(width) for _ in range(depth)]
    return nn.Sequential(stem, *blocks, nn.SiLU(), nn.MaxPool2d(2), nn.Flatten(), head)


def shuffled_store(images: Images) -> Pair:
    """The training set as stored by somebody who shuffled it once."""
    (x, y), _ = standard(images)
    places = torch.randperm(len(y), generator=torch.Generator().manual_seed(11))
    return x[places], y[places]


# ----------------------------------------------------------------------------------- what is trained


class InAList(nn.Module):
    """Convolutions kept in a list: a python list hides them from parameters(), a ModuleList does not."""

    def __init__(self, registered: bool) -> None:
        super().__init__()
        units = [conv_unit(3, 20, 2), conv_unit(20, 36, 2), conv_unit(36, 48, 2)]
        self.units: Any = nn.ModuleList(units) if registered else units
        self.head = nn.Linear(16 * 48, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for unit in self.units:
            x = unit(x)
        return self.head(x.flatten(1))


@CASES.sick(
    "layers-in-a-list",
    "frozen-parameters",
    story="Kept the convolutions in a python list, where parameters() does not find them.",
)
def layers_in_a_list(images: Images, fault: bool) -> Session:
    return run(Classifier(InAList(registered=not fault), partial(AdamW, lr=2e-3)), images)


class Redrawn(Classifier):
    """Draws orthogonal weights when the fit starts, as new parameters or into those there are."""

    def __init__(self, *args: Any, as_new: bool) -> None:
        super().__init__(*args)
        self.as_new = as_new

    def on_fit_start(self) -> None:
        for layer in self.net.modules():
            if isinstance(layer, nn.Conv2d):
                drawn = nn.init.orthogonal_(torch.empty_like(layer.weight))
                if self.as_new:
                    layer.weight = nn.Parameter(drawn)
                else:
                    layer.weight.data.copy_(drawn)


@CASES.sick(
    "weights-redrawn-as-new-parameters",
    "frozen-parameters",
    story="Initialized weights in on_fit_start by assigning new parameters; the optimizer has the old ones.",
)
def weights_redrawn(images: Images, fault: bool) -> Session:
    return run(Redrawn(pyramid(24, 40, 40), partial(Adam, lr=2e-3), as_new=fault), images)


@CASES.sick(
    "optimizer-of-an-earlier-instance",
    "frozen-parameters",
    story="Built the optimizer from a first network and then made the network anew.",
)
def optimizer_of_earlier_instance(images: Images, fault: bool) -> Session:
    first, second = separable_net(), separable_net()

    def optimizer(parameters: Iterable[nn.Parameter]) -> Optimizer:
        return Adam(first.parameters() if fault else parameters, lr=2e-3)

    return run(Classifier(second, optimizer), images)


class AdapterMadeInForward(nn.Module):
    """Matches the channels of two stages by a 1x1 convolution that forward() makes when it is needed."""

    def __init__(self, anew: bool) -> None:
        super().__init__()
        self.stem = conv_unit(3, 24, 2)
        self.adapter = None if anew else nn.Conv2d(24, 48, 1)
        self.stage = conv_unit(48, 48, 2)
        self.head = nn.Linear(48 * 16, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        adapter = self.adapter if self.adapter is not None else nn.Conv2d(x.shape[1], 48, 1)
        x = F.max_pool2d(self.stage(F.relu(adapter(x))), 2)
        return self.head(x.flatten(1))


@CASES.sick(
    "adapter-made-in-forward",
    "frozen-parameters",
    story="Made the convolution that matches two stages' channels inside forward(), anew in each pass.",
)
def adapter_made_in_forward(images: Images, fault: bool) -> Session:
    return run(Classifier(AdapterMadeInForward(anew=fault), partial(Adam, lr=2e-3)), images)


class ByHand(nn.Module):
    """A dense network whose hidden matrices are written down as tensors, registered or not."""

    def __init__(self, registered: bool) -> None:
        super().__init__()
        sizes = [3 * 32 * 32, 48, 48]
        drawn = [torch.randn(a, b) * (2 / a) ** 0.5 for a, b in pairwise(sizes)]
        self.matrices: Any = (
            nn.ParameterList(drawn) if registered else [matrix.requires_grad_() for matrix in drawn]
        )
        self.head = nn.Linear(sizes[-1], NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for matrix in self.matrices:
            x = F.relu(x @ matrix)
        return self.head(x)


@CASES.sick(
    "matrices-as-plain-tensors",
    "frozen-parameters",
    story="Wrote the hidden matrices as tensors with requires_grad=True instead of nn.Parameter.",
)
def matrices_as_plain_tensors(images: Images, fault: bool) -> Session:
    return run(Classifier(ByHand(registered=not fault), partial(Adam, lr=5e-4)), images)


class Signs(nn.Module):
    """Features turned into -1 and 1; with `through`, gradients pass as through tanh."""

    def __init__(self, through: bool) -> None:
        super().__init__()
        self.through = through

    def forward(self, x: Tensor) -> Tensor:
        soft = torch.tanh(x)
        return soft + (torch.sign(x) - soft).detach() if self.through else torch.sign(x)


@CASES.sick(
    "signs-without-straight-through",
    "frozen-parameters",
    "vanishing-gradients",
    story="Binarized the features by sign(), whose slope is zero: no gradient reaches the layers before it.",
)
def signs_without_straight_through(images: Images, fault: bool) -> Session:
    net = nn.Sequential(
        conv_unit(3, 24, 2, "group"),
        conv_unit(24, 40, 2, "group"),
        nn.Conv2d(40, 40, 3, 2, 1),
        Signs(through=not fault),
        nn.Flatten(),
        nn.Linear(16 * 40, NUM_CLASSES),
    )
    return run(Classifier(net, partial(Adam, lr=1e-3)), images)


class Codebook(nn.Module):
    """Each position's features are replaced by the nearest of 32 codes."""

    def __init__(self, width: int, through: bool) -> None:
        super().__init__()
        self.codes = nn.Embedding(32, width)
        self.through = through

    def forward(self, x: Tensor) -> Tensor:
        rows = x.movedim(1, -1)
        chosen = self.codes(torch.cdist(rows.flatten(0, -2), self.codes.weight).argmin(1)).view_as(rows)
        if self.through:
            chosen = chosen + rows - rows.detach()
        return chosen.movedim(-1, 1)


@CASES.sick(
    "nearest-code-by-argmin",
    "frozen-parameters",
    story="Quantized the features to the nearest code of a codebook and let no gradient past the argmin.",
)
def nearest_code(images: Images, fault: bool) -> Session:
    net = nn.Sequential(
        conv_unit(3, 24, 2),
        nn.Conv2d(24, 24, 3, 2, 1),
        nn.GroupNorm(4, 24),
        Codebook(24, through=not fault),
        conv_unit(24, 40, 2),
        nn.Flatten(),
        nn.Linear(16 * 40, NUM_CLASSES),
    )
    return run(Classifier(net, partial(Adam, lr=2e-3)), images, 5)


class Detaching(nn.Module):
    """Three stages and a head that looks at all of them; two stages may be handed on detached."""

    def __init__(self, detached: bool) -> None:
        super().__init__()
        self.stages = nn.ModuleList([conv_unit(3, 10, 2), conv_unit(10, 12, 2), conv_unit(12, 40, 1)])
        self.detached = detached
        self.head = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * 40, NUM_CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        for place, stage in enumerate(self.stages):
            x = stage(x)
            if self.detached and place < 2:
                x = x.detach()
        return self.head(x)


@CASES.sick(
    "features-kept-detached",
    "frozen-parameters",
    story="Kept the features of two stages for a plot by x = x.detach(), and went on with what was kept.",
)
def features_kept_detached(images: Images, fault: bool) -> Session:
    return run(Classifier(Detaching(fault), partial(Adam, lr=3e-3)), images, 5)


@CASES.sick(
    "frozen-trunk-never-loaded",
    "frozen-parameters",
    story="Froze the trunk and filtered the optimizer by requires_grad; the weights to load never came.",
)
def frozen_trunk_never_loaded(images: Images, fault: bool) -> Session:
    net = pyramid(24, 32, 32, 32, norm="group", size=2)
    if fault:
        net[:4].requires_grad_(False)

    def optimizer(parameters: Iterable[nn.Parameter]) -> Optimizer:
        return AdamW(filter(lambda parameter: parameter.requires_grad, parameters), lr=2e-3)

    return run(Classifier(net, optimizer), images)


# -------------------------------------------------------------------------------------- the network


class UnusedReLU(nn.Module):
    """Dense layers with BatchNorm; F.relu(x) is called, and its result used or thrown away."""

    def __init__(self, used: bool) -> None:
        super().__init__()
        widths = [3 * 32 * 32, 192, 96, 64]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in widths[1:])
        self.head = nn.Linear(widths[-1], NUM_CLASSES)
        self.used = used

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = norm(layer(x))
            bent = F.relu(x)
            x = bent if self.used else x
        return self.head(x)


@CASES.sick(
    "relu-called-and-not-assigned",
    "underfitting",
    story="Called F.relu(x) without assigning its result: dense layers with BatchNorm and no nonlinearity.",
)
def relu_not_assigned(images: Images, fault: bool) -> Session:
    return run(Classifier(UnusedReLU(used=not fault), partial(SGD, lr=0.03, momentum=0.9)), images, 5)


@CASES.sick(
    "relu-on-the-logits",
    "dead-relu",
    "underfitting",
    story="Built every layer by one helper, the last as well: the logits go through a ReLU.",
)
def relu_on_the_logits(images: Images, fault: bool) -> Session:
    net = pyramid(24, 40, 40, norm="group")
    if fault:
        net.append(nn.ReLU())
    return run(Classifier(net, partial(SGD, lr=0.03, momentum=0.9)), images)


class AlwaysDropped(nn.Module):
    def __init__(self, always: bool) -> None:
        super().__init__()
        self.trunk = nn.Sequential(conv_unit(3, 32, 2), conv_unit(32, 48, 2), nn.MaxPool2d(2), nn.Flatten())
        self.head = nn.Linear(16 * 48, NUM_CLASSES)
        self.always = always

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.dropout(self.trunk(x), 0.7, training=self.always or self.training))


@CASES.sick(
    "functional-dropout-always-on",
    "train-mode-evaluation",
    story="Called F.dropout(x, 0.7) in forward() without training=self.training.",
)
def functional_dropout(images: Images, fault: bool) -> Session:
    return run(Classifier(AlwaysDropped(fault), partial(Adam, lr=1e-3)), images, 5)


@CASES.sick(
    "dropout-keep-confused",
    "regularization-too-strong",
    story="Gave nn.Dropout the share to keep, 0.95, where it takes the share to drop.",
)
def dropout_keep_confused(images: Images, fault: bool) -> Session:
    rate = 0.95 if fault else 0.05
    net = nn.Sequential(
        conv_unit(3, 24, 2),
        nn.Dropout(rate),
        conv_unit(24, 40, 2),
        nn.Dropout(rate),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 40, 96),
        nn.ReLU(),
        nn.Dropout(rate),
        nn.Linear(96, NUM_CLASSES),
    )
    return run(Classifier(net, partial(Adam, lr=1e-3)), images)


@CASES.sick(
    "batch-norm-momentum-zero",
    "train-val-mismatch",
    story="Gave BatchNorm momentum=0, so that the running statistics stay at 0 and 1.",
)
def batch_norm_momentum_zero(images: Images, fault: bool) -> Session:
    net = pyramid(24, 40, 40, norm="batch")
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0 if fault else 0.1
    return run(Classifier(net, partial(SGD, lr=0.05, momentum=0.9)), images)


@CASES.sick(
    "batch-norm-on-pairs",
    "batch-too-small",
    story="Trained dense layers with BatchNorm on batches of two, at a rate that such batches allow.",
)
def batch_norm_on_pairs(images: Images, fault: bool) -> Session:
    net = nn.Sequential(nn.Flatten())
    for a, b in pairwise((3 * 32 * 32, 96, 64)):
        net.extend([nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()])
    net.append(nn.Linear(64, NUM_CLASSES))
    return run(
        Classifier(net, partial(SGD, lr=1e-3 if fault else 1e-2, momentum=0.9)),
        images,
        2 if fault else 4,
        2 if fault else 32,
    )


class BranchSum(nn.Module):
    """Residual branches without normalization, whose last layers are drawn as loud as the first."""

    def __init__(self, width: int, depth: int, loud: bool) -> None:
        super().__init__()
        self.stem = nn.Linear(3 * 32 * 32, width)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)) for _ in range(depth)
        )
        self.head = nn.Linear(width, NUM_CLASSES)
        he_weights(self.branches)
        for branch in self.branches:
            last: Any = branch
            last[-1].weight.data.mul_(1.0 if loud else depth**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.flatten(1))
        for branch in self.branches:
            x = x + branch(x)
        return self.head(x)


@CASES.sick(
    "loud-residual-branches",
    "exploding-gradients",
    "bad-initialization",
    story="Stacked twelve residual branches without normalization, each initialized as a plain layer is.",
)
def loud_residual_branches(images: Images, fault: bool) -> Session:
    return run(Classifier(BranchSum(64, 12, loud=fault), partial(SGD, lr=3e-3, momentum=0.9)), images)


# ------------------------------------------------------------------------------------------ the loss


@CASES.sick(
    "softmax-over-the-batch",
    "double-softmax",
    story="Ended the network in Softmax(dim=0), which runs over the images, before cross_entropy.",
)
def softmax_over_the_batch(images: Images, fault: bool) -> Session:
    net = pyramid(24, 40, 40, norm="group")
    if fault:
        net.append(nn.Softmax(dim=0))
    return run(Classifier(net, partial(SGD, lr=0.03, momentum=0.9)), images)


class LogLikelihood(Classifier):
    """log_softmax over a dimension, then nll_loss."""

    def __init__(self, *args: Any, dim: int) -> None:
        super().__init__(*args)
        self.dim = dim

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.nll_loss(F.log_softmax(logits, dim=self.dim), y)


@CASES.sick(
    "log-softmax-over-the-batch",
    "wrong-initial-loss",
    story="Wrote log_softmax(logits, dim=0): each class is shared out among the images of the batch.",
)
def log_softmax_over_the_batch(images: Images, fault: bool) -> Session:
    module = LogLikelihood(separable_net(24), partial(AdamW, lr=2e-3), dim=0 if fault else 1)
    return run(module, images)


class Smoothed(Classifier):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, label_smoothing=0.1)


@CASES.sick(
    "softmax-then-smoothed-loss",
    "double-softmax",
    story="Returned probabilities from forward() and trained them with a label-smoothed cross_entropy.",
)
def softmax_then_smoothed_loss(images: Images, fault: bool) -> Session:
    net = separable_net(32)
    if fault:
        net.append(nn.Softmax(dim=-1))
    return run(Smoothed(net, partial(SGD, lr=0.02, momentum=0.9)), images)


class Penalized(Classifier):
    """Adds `factor` times the absolute or squared weights to the loss."""

    def __init__(self, *args: Any, factor: float, power: int) -> None:
        super().__init__(*args)
        self.factor, self.power = factor, power

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        penalty: Any = sum(
            parameter.abs().pow(self.power).sum() for parameter in self.net.parameters() if parameter.ndim > 1
        )
        return super().loss(logits, y) + self.factor * penalty


@CASES.sick(
    "absolute-weights-outweigh-the-loss",
    "regularization-too-strong",
    story="Added an L1 penalty with the factor 0.005 that a paper had for the mean, to the sum.",
)
def absolute_weights(images: Images, fault: bool) -> Session:
    factor = 5e-3 if fault else 1e-6
    return run(Penalized(dense(128, 64), partial(Adam, lr=5e-4), factor=factor, power=1), images)


@CASES.sick(
    "penalty-with-the-wrong-sign",
    "regularization-too-strong",
    "exploding-gradients",
    story="Subtracted the weight penalty from the loss, which rewards large weights.",
)
def penalty_with_wrong_sign(images: Images, fault: bool) -> Session:
    factor = -1e-2 if fault else 1e-3
    optimizer = partial(SGD, lr=0.05, momentum=0.9)
    return run(Penalized(pyramid(24, 40, 40), optimizer, factor=factor, power=2), images)


class MeanOfClasses(Classifier):
    """Cross-entropy averaged within each class and then over the classes, so that all count alike."""

    def __init__(self, *args: Any, present_only: bool) -> None:
        super().__init__(*args)
        self.present_only = present_only

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        if not self.training:
            return super().loss(logits, y)
        each = F.cross_entropy(logits, y, reduction="none")
        members = F.one_hot(y, NUM_CLASSES).float()
        if self.present_only:
            members = members[:, members.sum(0) > 0]
        return (each @ members / members.sum(0)).mean()


@CASES.sick(
    "mean-over-an-absent-class",
    "non-finite-loss",
    story="Averaged the loss within each class: a batch that lacks a class divides 0 by 0.",
)
def mean_over_absent_class(images: Images, fault: bool) -> Session:
    module = MeanOfClasses(pyramid(24, 40, 40), partial(Adam, lr=2e-3), present_only=not fault)
    return run(module, images)


class Summed(Classifier):
    def __init__(self, *args: Any, reduction: str) -> None:
        super().__init__(*args)
        self.reduction = reduction

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, reduction=self.reduction)


@CASES.sick(
    "loss-summed-over-the-batch",
    "learning-rate-too-high",
    "wrong-initial-loss",
    story="Took reduction='sum' from another script, with a rate made for the mean over 64 images.",
)
def loss_summed(images: Images, fault: bool) -> Session:
    optimizer = partial(SGD, lr=0.02, momentum=0.9)
    return run(Summed(pyramid(24, 40, 40), optimizer, reduction="sum" if fault else "mean"), images)


# ------------------------------------------------------------------------ the optimizer and its steps


class Accumulating(Classifier):
    """A step after every `parts` batches and at the epoch's end, on their summed or averaged gradients."""

    parts = 12

    def __init__(self, *args: Any, averaged: bool) -> None:
        super().__init__(*args)
        self.automatic_optimization = False
        self.averaged = averaged

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        batches = int(self.trainer.num_training_batches)
        last = batch_idx + 1 == batches
        group = batches % self.parts if batch_idx >= batches - batches % self.parts else self.parts
        loss = self.measure(batch, "train")
        self.manual_backward(loss / group if self.averaged else loss)
        if (batch_idx + 1) % self.parts == 0 or last:
            optimizer.step()
            optimizer.zero_grad()
        return loss


@CASES.sick(
    "accumulated-and-never-divided",
    "learning-rate-too-high",
    "gradients-accumulate",
    story="Stepped after twelve batches, and after the rest at the end, on gradients summed over them.",
)
def accumulated_never_divided(images: Images, fault: bool) -> Session:
    optimizer = partial(SGD, lr=0.1, momentum=0.9)
    return run(Accumulating(pyramid(24, 40, 40), optimizer, averaged=not fault), images, 4, 8)


class EveryOther(Classifier):
    """A step after every second batch, if its condition is written right."""

    def __init__(self, *args: Any, slip: bool) -> None:
        super().__init__(*args)
        self.automatic_optimization = False
        self.slip = slip

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        loss = self.measure(batch, "train")
        self.manual_backward(loss / 2)
        due = batch_idx + 1 % 2 == 0 if self.slip else (batch_idx + 1) % 2 == 0
        if due:
            optimizer.step()
            optimizer.zero_grad()
        return loss


@CASES.sick(
    "step-under-a-condition-never-true",
    "frozen-parameters",
    "gradients-accumulate",
    story="Wrote `if batch_idx + 1 % 2 == 0` around optimizer.step(), which is never true.",
)
def step_never_taken(images: Images, fault: bool) -> Session:
    return run(EveryOther(separable_net(24), partial(Adam, lr=2e-3), slip=fault), images, 3, 32)


class Cleared(Classifier):
    """Manual optimization, the gradients cleared before the backward pass or between it and the step."""

    def __init__(self, *args: Any, late: bool) -> None:
        super().__init__(*args)
        self.automatic_optimization = False
        self.late = late

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        loss = self.measure(batch, "train")
        if not self.late:
            optimizer.zero_grad()
        self.manual_backward(loss)
        if self.late:
            optimizer.zero_grad()
        optimizer.step()
        return loss


@CASES.sick(
    "cleared-before-the-step",
    "frozen-parameters",
    story="Put optimizer.zero_grad() between backward and step, which leaves nothing to step on.",
)
def cleared_before_the_step(images: Images, fault: bool) -> Session:
    return run(Cleared(pyramid(24, 40, 40), partial(SGD, lr=0.05, momentum=0.9), late=fault), images, 3)


class Scheduled(Classifier):
    """A schedule, stepped after each batch or each epoch."""

    def __init__(self, *args: Any, schedule: Any, interval: str) -> None:
        super().__init__(*args)
        self.schedule, self.interval = schedule, interval

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedule: LRScheduler = self.schedule(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": self.interval}}


@CASES.sick(
    "decay-of-epochs-taken-at-steps",
    "learning-rate-too-low",
    story="Stepped an exponential decay of 0.8 an epoch after every batch.",
)
def decay_taken_at_steps(images: Images, fault: bool) -> Session:
    module = Scheduled(
        pyramid(24, 40, 40, norm="group"),
        partial(SGD, lr=0.03, momentum=0.9),
        schedule=partial(ExponentialLR, gamma=0.8),
        interval="step" if fault else "epoch",
    )
    return run(module, images)


@CASES.sick(
    "warm-up-counted-in-epochs",
    "learning-rate-too-low",
    story="Warmed up over 200 steps and stepped the schedule once an epoch: the rate never arrives.",
)
def warm_up_in_epochs(images: Images, fault: bool) -> Session:
    module = Scheduled(
        separable_net(),
        partial(AdamW, lr=3e-3),
        schedule=partial(LambdaLR, lr_lambda=lambda step: min(1.0, (step + 1) / 200)),
        interval="epoch" if fault else "step",
    )
    return run(module, images)


@CASES.sick(
    "clipped-to-a-millionth",
    "learning-rate-too-low",
    story="Took the optimizer's eps, 1e-6, for the norm to which gradients are clipped.",
)
def clipped_to_a_millionth(images: Images, fault: bool) -> Session:
    module = Classifier(pyramid(24, 40, 40, norm="batch"), partial(SGD, lr=0.05, momentum=0.9))
    return run(module, images, gradient_clip_val=1e-6 if fault else 1.0)


@CASES.sick(
    "tenth-of-the-rate-and-annealed",
    "learning-rate-too-low",
    story="Left a tenth of the right rate in a cosine schedule: the run learns, but gets half of the way.",
)
def tenth_of_the_rate(images: Images, fault: bool) -> Session:
    net = pyramid(24, 40, 40)
    module = Scheduled(
        net,
        partial(Adam, lr=8e-5 if fault else 2e-3),
        schedule=partial(CosineAnnealingLR, T_max=250),
        interval="step",
    )
    return run(module, images)


@CASES.sick(
    "rate-at-the-edge",
    "learning-rate-too-high",
    story="Raised the rate until it just did not diverge: the run learns, but bounces.",
)
def rate_at_the_edge(images: Images, fault: bool) -> Session:
    net = separable_net(24)
    return run(Classifier(net, partial(SGD, lr=0.12 if fault else 0.02, momentum=0.9)), images)


@CASES.sick(
    "decay-of-a-third-in-adam",
    "regularization-too-strong",
    story="Carried AdamW's weight_decay=0.3 over to Adam, where it goes through the gradient.",
)
def decay_of_a_third(images: Images, fault: bool) -> Session:
    net = pyramid(24, 40, 40, norm="group")
    return run(Classifier(net, partial(Adam if fault else AdamW, lr=2e-3, weight_decay=0.3)), images)


class RoundedWeights(Classifier):
    """Keeps the weights in a short floating point format after each step."""

    def __init__(self, *args: Any, rounded: bool) -> None:
        super().__init__(*args)
        self.rounded = rounded

    def on_train_batch_end(self, *args: Any) -> None:
        if self.rounded:
            for parameter in self.net.parameters():
                parameter.data.copy_(parameter.data.bfloat16())


@CASES.sick(
    "weights-kept-in-bfloat16",
    "learning-rate-too-low",
    "frozen-parameters",
    story="Kept the weights in bfloat16 without a master copy: small updates are rounded away.",
)
def weights_in_bfloat16(images: Images, fault: bool) -> Session:
    module = RoundedWeights(pyramid(16, 24, 24, norm="group"), partial(Adam, lr=1e-4), rounded=fault)
    return run(module, images, 6, 32)


# ------------------------------------------------------------------------------------------ the data


@CASES.sick(
    "validation-classes-in-another-order",
    "train-val-mismatch",
    story="Numbered the validation classes in the order of another listing of the folders.",
)
def validation_classes_reordered(images: Images, fault: bool) -> Session:
    _, (x, y) = standard(images)
    order = torch.tensor([0, 4, 1, 2, 6, 3, 5, 9, 7, 8])
    module = Classifier(pyramid(24, 40, 40, norm="batch"), partial(Adam, lr=2e-3))
    return run(module, images, val=(x, order[y] if fault else y))


@CASES.sick(
    "validation-in-bgr",
    "train-val-mismatch",
    story="Read the validation images with a library that gives blue, green, red.",
)
def validation_in_bgr(images: Images, fault: bool) -> Session:
    _, (x, y) = standard(images)
    module = Classifier(separable_net(40), partial(AdamW, lr=3e-3))
    return run(module, images, 5, val=(x.flip(1) if fault else x, y))


@CASES.sick(
    "validation-reshaped-not-permuted",
    "train-val-mismatch",
    story="Brought the validation images from height, width, channel to channels first by reshape().",
)
def validation_reshaped(images: Images, fault: bool) -> Session:
    _, (x, y) = standard(images)
    val = x.permute(0, 2, 3, 1).reshape(x.shape) if fault else x
    return run(Classifier(pyramid(24, 40, 40), partial(Adam, lr=2e-3)), images, val=(val, y))


@CASES.sick(
    "sampler-weights-per-class",
    "overfitting",
    story="Gave WeightedRandomSampler ten class weights for sample weights: it draws the first ten images.",
)
def sampler_weights_per_class(images: Images, fault: bool) -> Session:
    x, y = shuffled_store(images)
    session = run(Classifier(pyramid(24, 40, 40, norm="group"), partial(Adam, lr=1e-3)), images)
    weights = torch.ones(NUM_CLASSES if fault else len(y))
    sampler = WeightedRandomSampler(weights.tolist(), len(y))
    session.train_loader = DataLoader(TensorDataset(x, y), 64, sampler=sampler)
    return session


class Shards(IterableDataset):
    """Shards of 400 images, read one after the other, each shuffled within itself."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __iter__(self) -> Iterator[Pair]:
        for start in range(0, len(self.y), 400):
            for place in torch.randperm(min(400, len(self.y) - start)) + start:
                yield self.x[place], self.y[place]


@CASES.sick(
    "a-shard-for-each-class",
    "data-not-shuffled",
    story="Wrote each class to a shard of its own and shuffled within the shards only.",
)
def shard_for_each_class(images: Images, fault: bool) -> Session:
    session = run(Classifier(separable_net(), partial(Adam, lr=2e-3)), images)
    (x, y), _ = standard(images)
    session.train_loader = DataLoader(Shards(x, y) if fault else Shards(*shuffled_store(images)), 50)
    return session


class Cropped(Dataset):
    """Images cut to a square of side `side` at a random place and turned, then enlarged to 32x32."""

    def __init__(self, x: Tensor, y: Tensor, side: int, turned: bool) -> None:
        self.x, self.y, self.side, self.turned = x, y, side, turned

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, place: int) -> Pair:
        row, column = (random.randint(0, 32 - self.side) for _ in range(2))
        image = self.x[place][:, row : row + self.side, column : column + self.side]
        if self.turned:
            image = torch.rot90(image, random.randrange(4), (1, 2))[torch.randperm(3)]
        return F.interpolate(image[None], size=32, mode="nearest")[0], self.y[place]


@CASES.sick(
    "crops-of-six-pixels",
    "regularization-too-strong",
    "underfitting",
    story="The data set's transform cuts a scrap of 6x6 pixels from each training image and recolours it.",
)
def crops_of_six_pixels(images: Images, fault: bool) -> Session:
    session = run(Classifier(pyramid(24, 40, 40, norm="group"), partial(Adam, lr=2e-3)), images)
    (x, y), _ = standard(images)
    data = Cropped(x, y, side=6 if fault else 28, turned=fault)
    session.train_loader = DataLoader(data, 64, shuffle=True)
    return session


@CASES.sick(
    "half-the-labels-off-by-one",
    "labels-random",
    story="Joined two stores, in the second of which each label belongs to the image after its own.",
)
def half_off_by_one(images: Images, fault: bool) -> Session:
    x, y = shuffled_store(images)
    if fault:
        half = len(y) // 2
        y = torch.cat([y[:half], y[half:].roll(1)])
    return run(Classifier(pyramid(24, 40, 40, norm="group"), partial(Adam, lr=2e-3)), images, train=(x, y))


@CASES.sick(
    "validation-by-other-figures",
    "train-val-mismatch",
    story="Standardized the training images each by itself, and the validation images by the set's figures.",
)
def validation_by_other_figures(images: Images, fault: bool) -> Session:
    def by_itself(x: Tensor) -> Tensor:
        x = x.float()
        return (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True) * 0.25 + 0.5

    val = normalized(images.val_x) if fault else by_itself(images.val_x)
    return run(
        Classifier(pyramid(24, 40, 40), partial(Adam, lr=2e-3)),
        images,
        train=(by_itself(images.train_x), images.train_y),
        val=(val, images.val_y),
    )
