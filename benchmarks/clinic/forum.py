"""Faults and odd but healthy runs of image classifiers, retold from what is asked again and again in
forums and issues, of kinds that no other file here has: the issue is named where there is one. Written
before any rule was looked at.

Validation accuracy and loss after the last epoch, one seed:

                                             sick     twin or healthy
                                        acc   loss     acc   loss
    loss-not-returned                  0.11   2.39    0.46   1.52
    initialized-at-each-epoch          0.43   1.62    0.49   1.55
    one-norm-for-all-layers            0.15   2.71    0.44   1.62
    own-norm-without-the-root          0.22  13.62    0.45   1.54
    split-by-two-seeds                 0.65   1.09    0.35   1.84
    folds-share-a-network              0.82   0.60    0.38   1.76
    trained-while-validating           0.51   1.41    0.33   1.89
    last-fifth-of-sorted-files         0.00  12.65    0.46   1.57
    folder-missing-in-validation       0.20   3.21    0.48   1.45
    one-folder-for-all                 1.00   0.00    0.46   1.51
    validation-augmented-too           0.37   1.76    0.44   1.60
    erased-in-place                    0.39   2.25    0.50   1.57
    mixed-with-labels-of-others        0.40   1.77    0.47   1.48
    logits-clamped-like-shares         0.37   2.03    0.46   1.52
    dropout-on-the-logits              0.34   1.90    0.43   1.61
    weights-clipped-as-in-a-wgan       0.25   2.17    0.44   1.58
    decay-not-times-the-rate           0.10   2.30    0.44   1.57
    memory-never-initialized           0.10     NaN    0.46   1.45
    cycle-peaks-too-high               0.10   2.30    0.42   1.62
    thawed-at-the-full-rate            0.34   1.82    0.44   1.80
    line-below-zero                    0.10   1747    0.50   1.42
    batches-of-two-thousand            0.25   2.19    0.48   1.60
    momentum-given-as-epsilon                         0.44   1.52
    means-and-deviations-exchanged                    0.47   1.60
    margins-between-classes                           0.44   0.35
    labels-from-one-to-ten                            0.49   1.41
    summed-for-adam                                   0.47 299.35
    mean-over-classes-as-well                         0.47   0.15
    hardest-half-of-each-batch                        0.41   1.61
    several-dropouts-one-head                         0.46   1.44
    statistics-over-all-steps                         0.43   1.77
    head-of-zeros                                     0.45   1.52
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from clinic import NUM_CLASSES, PIXEL_MEAN, PIXEL_STD, CaseBook, Classifier, Images, Session
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from wild import Pair, dense, lenet, plain_cnn, pretrained, run, standard

CASES = CaseBook()


# ----------------------------------------------------------------------------------- steps that are not taken


class NotReturned(Classifier):
    """Logs the loss and forgets to return it."""

    def training_step(self, batch: Pair, batch_idx: int) -> Any:
        self.measure(batch, "train")


@CASES.sick(
    "loss-not-returned",
    "frozen-parameters",
    story="training_step logs the loss and does not return it: no step is taken (graviraja/MLOps-Basics#14).",
)
def loss_not_returned(images: Images, fault: bool) -> Session:
    kind = NotReturned if fault else Classifier
    return run(kind(plain_cnn(norm="batch"), partial(Adam, lr=1e-3)), images)


def drawn_anew(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
        module.reset_parameters()


class InitializedAtEachEpoch(Classifier):
    def on_train_epoch_start(self) -> None:
        self.net.apply(drawn_anew)


@CASES.sick(
    "initialized-at-each-epoch",
    "frozen-parameters",
    "bad-initialization",
    story="Put the initialization into the function that trains an epoch: each of them starts from nothing.",
)
def initialized_at_each_epoch(images: Images, fault: bool) -> Session:
    kind = InitializedAtEachEpoch if fault else Classifier
    return run(kind(plain_cnn(norm="batch"), partial(Adam, lr=2e-3)), images, 5)


# ------------------------------------------------------------------------------------ training and evaluation


class OneNorm(nn.Module):
    """Three convolutions of one width, each with its BatchNorm, or all with the same one."""

    def __init__(self, one: bool, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 4, 2, 1)
        self.second = nn.Conv2d(width, width, 4, 2, 1)
        self.third = nn.Conv2d(width, width, 3, 1, 1)
        norm = nn.BatchNorm2d(width)
        self.norms = nn.ModuleList([norm if one else nn.BatchNorm2d(width) for _ in range(3)])
        self.head = nn.Linear(16 * width, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norms[0](self.stem(x)))
        x = F.relu(self.norms[1](self.second(x)))
        x = F.relu(self.norms[2](self.third(x)))
        return self.head(F.avg_pool2d(x, 2).flatten(1))


@CASES.sick(
    "one-norm-for-all-layers",
    "train-val-mismatch",
    story="Uses one BatchNorm behind each convolution of the same width: its running statistics are a "
    "mixture (pytorch/pytorch#1738).",
)
def one_norm_for_all_layers(images: Images, fault: bool) -> Session:
    return run(Classifier(OneNorm(one=fault), partial(Adam, lr=2e-3)), images)


class NormByHand(nn.Module):
    """Batch normalization written out; in evaluation the root of the variance is there or forgotten."""

    average: Tensor
    spread: Tensor

    def __init__(self, width: int, root: bool) -> None:
        super().__init__()
        self.root = root
        self.gain, self.offset = nn.Parameter(torch.ones(width, 1, 1)), nn.Parameter(torch.zeros(width, 1, 1))
        self.register_buffer("average", torch.zeros(width, 1, 1))
        self.register_buffer("spread", torch.ones(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            mean = x.mean((0, 2, 3), keepdim=True)[0]
            var = x.var((0, 2, 3), unbiased=False, keepdim=True)[0]
            self.average.lerp_(mean.detach(), 0.1)
            self.spread.lerp_(var.detach(), 0.1)
            x = (x - mean) / (var + 1e-5).sqrt()
        else:
            x = (x - self.average) / ((self.spread + 1e-5).sqrt() if self.root else self.spread + 1e-5)
        return self.gain * x + self.offset


@CASES.sick(
    "own-norm-without-the-root",
    "train-val-mismatch",
    story="A BatchNorm written by hand divides by the root of the variance in training, by the variance "
    "in evaluation.",
)
def own_norm_without_the_root(images: Images, fault: bool) -> Session:
    widths = [3, 24, 48, 48]
    units: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        units += [nn.Conv2d(inputs, outputs, 3, 2, 1), NormByHand(outputs, root=not fault), nn.ReLU()]
    net = nn.Sequential(*units, nn.Flatten(), nn.Linear(16 * 48, NUM_CLASSES))
    return run(Classifier(net, partial(Adam, lr=2e-3)), images)


# ------------------------------------------------------------------------------- training and validation data


def numbered(images: Images, count: int) -> Pair:
    """So many of the training images, in any order."""
    (x, y), _ = standard(images)
    few = torch.randperm(len(y))[:count]
    return x[few], y[few]


@CASES.sick(
    "split-by-two-seeds",
    "data-leak",
    story="The script that trains and the one that validates split the same set by seeds of their own: "
    "four in five of the images for validation are trained on (mariogeiger/feature_lazy#7).",
)
def split_by_two_seeds(images: Images, fault: bool) -> Session:
    whole = TensorDataset(*numbered(images, 2000))
    first = torch.randperm(2000)
    second = torch.randperm(2000) if fault else first
    session = run(Classifier(dense(128, norm=True), partial(Adam, lr=1e-3)), images, 7)
    session.train_loader = DataLoader(Subset(whole, first[:1600].tolist()), 64, shuffle=True)
    session.val_loader = DataLoader(Subset(whole, second[1600:].tolist()), 200)
    return session


@CASES.sick(
    "folds-share-a-network",
    "data-leak",
    story="The second fold of a cross-validation goes on with the network of the first, which was "
    "trained on what the second validates (deepchem/deepchem#926).",
)
def folds_share_a_network(images: Images, fault: bool) -> Session:
    x, y = numbered(images, 2000)
    net = dense(128, norm=True)
    if fault:
        pretrained(net, x[400:], y[400:], 10)
    rest = torch.cat([torch.arange(400), torch.arange(800, 2000)])
    module = Classifier(net, partial(Adam, lr=1e-3))
    return run(module, images, 5, train=(x[rest], y[rest]), val=(x[400:800], y[400:800]))


class OnePhaseForBoth(Classifier):
    """One function for the phases 'train' and 'val', which asks which it is before it steps, or does not."""

    def __init__(self, *args: Any, asks: bool) -> None:
        super().__init__(*args)
        self.automatic_optimization = False
        self.asks = asks

    def phase(self, batch: Pair, stage: str) -> None:
        if stage == "val" and self.asks:
            self.measure(batch, stage)
            return
        optimizer: Any = self.optimizers()
        with torch.enable_grad():
            optimizer.zero_grad()
            self.manual_backward(self.measure(batch, stage))
            optimizer.step()

    def training_step(self, batch: Pair, batch_idx: int) -> Any:
        self.phase(batch, "train")

    def validation_step(self, batch: Pair, batch_idx: int) -> None:
        self.phase(batch, "val")


@CASES.sick(
    "trained-while-validating",
    "data-leak",
    story="One function runs the phases 'train' and 'val' and never asks which it is: it steps on both "
    "(princeton-vl/pose-ae-train#11).",
)
def trained_while_validating(images: Images, fault: bool) -> Session:
    _, (x, y) = standard(images)
    order = torch.randperm(len(y))
    module = OnePhaseForBoth(dense(128, norm=True), partial(Adam, lr=1e-3), asks=not fault)
    train = numbered(images, 1500)
    return run(module, images, 8, train=train, val=(x[order], y[order]), inference_mode=False)


@CASES.sick(
    "last-fifth-of-sorted-files",
    "train-val-mismatch",
    "data-not-shuffled",
    "class-imbalance",
    story="Takes the last fifth of the files for validation; they are sorted by class, so two classes "
    "are in it alone, and eight in training (keras-team/keras#8346).",
)
def last_fifth_of_sorted_files(images: Images, fault: bool) -> Session:
    (x, y), _ = standard(images)
    if not fault:
        order = torch.randperm(len(y))
        x, y = x[order], y[order]
    module = Classifier(plain_cnn(norm="batch"), partial(Adam, lr=2e-3))
    return run(module, images, train=(x[:3200], y[:3200]), val=(x[3200:], y[3200:]))


@CASES.sick(
    "folder-missing-in-validation",
    "train-val-mismatch",
    story="The folder for validation lacks a class, so ImageFolder numbers those behind it one lower "
    "(huggingface/pytorch-image-models#957).",
)
def folder_missing_in_validation(images: Images, fault: bool) -> Session:
    _, (x, y) = standard(images)
    x, y = x[y != 3], y[y != 3]
    if fault:
        y = y - (y > 3).long()
    return run(Classifier(plain_cnn(norm="batch"), partial(Adam, lr=2e-3)), images, val=(x, y))


@CASES.sick(
    "one-folder-for-all",
    "class-imbalance",
    story="Points ImageFolder one level too high: all images are of the class 'images', and the loss is "
    "0 at once (easezyc/deep-transfer-learning#4).",
)
def one_folder_for_all(images: Images, fault: bool) -> Session:
    train, val = standard(images)
    if fault:
        train, val = (train[0], torch.zeros_like(train[1])), (val[0], torch.zeros_like(val[1]))
    return run(Classifier(plain_cnn(norm="batch"), partial(Adam, lr=2e-3)), images, 3, train=train, val=val)


class Changed(Dataset):
    """Images that go through `change` one by one as they are taken out."""

    def __init__(self, x: Tensor, y: Tensor, change: Callable[[Tensor], Tensor]) -> None:
        self.x, self.y, self.change = x, y, change

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, place: int) -> Pair:
        return self.change(self.x[place]), self.y[place]


def cropped_and_toned(image: Tensor) -> Tensor:
    """A random crop of half of the image or more, resized; flips, another contrast, an erased square."""
    size = int(torch.randint(18, 33, ()))
    row, column = (int(torch.randint(0, 33 - size, ())) for _ in range(2))
    part = image[None, :, row : row + size, column : column + size]
    image = F.interpolate(part, (32, 32), mode="bilinear")[0] * (0.6 + 0.8 * torch.rand(3, 1, 1))
    if torch.rand(()) < 0.5:
        image = image.flip(-1)
    row, column = torch.randint(0, 20, (2,)).tolist()
    image[:, row : row + 12, column : column + 12] = 0
    return image


@CASES.sick(
    "validation-augmented-too",
    "train-val-mismatch",
    "train-mode-evaluation",
    story="random_split of a data set that augments: images for validation are cropped and erased at "
    "random as well (gpleiss/efficient_densenet_pytorch#51).",
)
def validation_augmented_too(images: Images, fault: bool) -> Session:
    (x, y), (val_x, val_y) = standard(images)
    session = run(Classifier(plain_cnn(norm="batch"), partial(Adam, lr=2e-3)), images, 5)
    session.train_loader = DataLoader(Changed(x, y, cropped_and_toned), 64, shuffle=True)
    if fault:
        session.val_loader = DataLoader(Changed(val_x, val_y, cropped_and_toned), 200)
    return session


class Erased(Dataset):
    """Erases a square of an image, on a copy or on what is kept in memory."""

    def __init__(self, x: Tensor, y: Tensor, copies: bool, size: int = 14) -> None:
        self.x, self.y, self.copies, self.size = x.clone(), y, copies, size

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, place: int) -> Pair:
        image = self.x[place].clone() if self.copies else self.x[place]
        row, column = torch.randint(0, 33 - self.size, (2,)).tolist()
        image[:, row : row + self.size, column : column + self.size] = 0
        return image, self.y[place]


@CASES.sick(
    "erased-in-place",
    "input-constant",
    "regularization-too-strong",
    "train-val-mismatch",
    story="Erases a random square in the array that the data set keeps, not in a copy: each epoch leaves "
    "less of the images.",
)
def erased_in_place(images: Images, fault: bool) -> Session:
    (x, y), _ = standard(images)
    session = run(Classifier(plain_cnn(norm="batch"), partial(Adam, lr=2e-3)), images, 8)
    session.train_loader = DataLoader(Erased(x, y, copies=not fault), 64, shuffle=True)
    return session


# ------------------------------------------------------------------------------------- losses and last layers


class MixedUp(Classifier):
    """Mixup; the labels are mixed with those of the same other images, or of any."""

    same = True

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        x, y = batch
        target = F.one_hot(y, NUM_CLASSES).float()
        share = float(torch.rand(()))
        other = torch.randperm(len(y))
        others = other if self.same else torch.randperm(len(y))
        mixed = share * target + (1 - share) * target[others]
        logits = self(share * x + (1 - share) * x[other])
        loss = F.cross_entropy(logits, mixed)
        values = {"train/loss": loss, "train/acc": (logits.argmax(1) == y).float().mean()}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(y))
        return loss


@CASES.sick(
    "mixed-with-labels-of-others",
    "labels-random",
    story="Mixup shuffles the images once and the labels once more: the second half of the label is any "
    "image's (xudonmao/VMT#1).",
)
def mixed_with_labels_of_others(images: Images, fault: bool) -> Session:
    module = MixedUp(plain_cnn(norm="batch"), partial(Adam, lr=2e-3))
    module.same = not fault
    return run(module, images, 5)


class ClampedLogits(Classifier):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits.clamp(1e-7, 1 - 1e-7), y)


@CASES.sick(
    "logits-clamped-like-shares",
    "double-softmax",
    "saturated-activations",
    "underfitting",
    story="Clamps the outputs to [1e-7, 1 - 1e-7] as Keras does with shares, and gives them to "
    "cross_entropy as logits.",
)
def logits_clamped_like_shares(images: Images, fault: bool) -> Session:
    kind = ClampedLogits if fault else Classifier
    return run(kind(plain_cnn(norm="batch"), partial(Adam, lr=1e-3)), images)


@CASES.sick(
    "dropout-on-the-logits",
    "regularization-too-strong",
    story="Put nn.Dropout(0.5) behind the last layer: half of the logits are zero at each step.",
)
def dropout_on_the_logits(images: Images, fault: bool) -> Session:
    net = plain_cnn()
    if fault:
        net.append(nn.Dropout(0.5))
    return run(Classifier(net, partial(SGD, lr=0.05, momentum=0.9)), images, 4)


# ---------------------------------------------------------------------------------------------------- weights


class ClippedWeights(Classifier):
    def on_train_batch_end(self, *args: Any) -> None:
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.clamp_(-0.01, 0.01)


@CASES.sick(
    "weights-clipped-as-in-a-wgan",
    "regularization-too-strong",
    "underfitting",
    "vanishing-gradients",
    story="Left `p.data.clamp_(-0.01, 0.01)` in the loop, which came with the critic of a WGAN.",
)
def weights_clipped_as_in_a_wgan(images: Images, fault: bool) -> Session:
    kind = ClippedWeights if fault else Classifier
    return run(kind(plain_cnn(), partial(Adam, lr=1e-3)), images)


class DecayedByItself(Adam):
    """Adam with a decay of its own, which is multiplied by the rate or not."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, share: float) -> None:
        super().__init__(parameters, lr=lr)
        self.share = share

    def step(self, closure: Any = None) -> Any:
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.mul_(1 - self.share)
        return super().step(closure)


@CASES.sick(
    "decay-not-times-the-rate",
    "regularization-too-strong",
    story="An AdamW by hand takes weight_decay=0.1 off at each step, without the rate "
    "(FluxML/Optimisers.jl#182).",
)
def decay_not_times_the_rate(images: Images, fault: bool) -> Session:
    share = 0.1 if fault else 0.1 * 1e-3
    return run(Classifier(plain_cnn(), partial(DecayedByItself, lr=1e-3, share=share)), images)


class OwnLinear(nn.Module):
    """A linear layer of one's own; its weight is drawn, or what was in memory: any bits."""

    def __init__(self, inputs: int, outputs: int, drawn: bool) -> None:
        super().__init__()
        bits = torch.randint(-(2**31), 2**31, (outputs, inputs)).int().view(torch.float32)
        self.weight = nn.Parameter(bits)
        self.bias = nn.Parameter(torch.zeros(outputs))
        if drawn:
            nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


@CASES.sick(
    "memory-never-initialized",
    "bad-initialization",
    "non-finite-loss",
    story="nn.Parameter(torch.empty(...)) in a layer of one's own, and no initialization "
    "(gordicaleksa/pytorch-GAT#11).",
)
def memory_never_initialized(images: Images, fault: bool) -> Session:
    net = nn.Sequential(*plain_cnn(norm="batch")[:-1], OwnLinear(768, NUM_CLASSES, drawn=not fault))
    return run(Classifier(net, partial(Adam, lr=1e-3)), images, 3)


# ------------------------------------------------------------------------------------------------------ rates


class Scheduled(Classifier):
    """A schedule that is stepped with each batch."""

    schedule: Callable[[Optimizer], Any]

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())
        scheduler = {"scheduler": self.schedule(optimizer), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}


@CASES.sick(
    "cycle-peaks-too-high",
    "learning-rate-too-high",
    story="OneCycleLR with max_lr=2: it starts well at 0.08, and where the rate peaks all is lost.",
)
def cycle_peaks_too_high(images: Images, fault: bool) -> Session:
    module = Scheduled(lenet(), partial(SGD, lr=0.01, momentum=0.9))
    module.schedule = partial(OneCycleLR, max_lr=2.0 if fault else 0.1, total_steps=315)
    return run(module, images, 5)


class Thawing(Classifier):
    """Trains the head alone for two epochs, then the trunk as well, at `share` of the rate."""

    share = 0.01

    def configure_optimizers(self) -> Any:
        self.net[:-1].requires_grad_(False)
        return self.make_optimizer(self.net[-1].parameters())

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 2:
            self.net[:-1].requires_grad_(True)
            optimizer: Any = self.optimizers().optimizer  # type: ignore[union-attr]
            rate = optimizer.param_groups[0]["lr"] * self.share
            optimizer.add_param_group({"params": list(self.net[:-1].parameters()), "lr": rate})


@CASES.sick(
    "thawed-at-the-full-rate",
    "learning-rate-too-high",
    story="Thaws a pretrained trunk after two epochs at the rate of the new head: what it knew is gone.",
)
def thawed_at_the_full_rate(images: Images, fault: bool) -> Session:
    (x, y), _ = standard(images)
    net = pretrained(plain_cnn(norm="group"), x[::2], y[::2], 4)
    net[-1] = nn.Linear(768, NUM_CLASSES)
    module = Thawing(net, partial(Adam, lr=0.01))
    module.share = 1.0 if fault else 0.02
    return run(module, images, 4)


@CASES.sick(
    "line-below-zero",
    "learning-rate-too-high",
    "wrong-gradient",
    story="A linear decay over fifty epochs is stepped with each batch: soon the rate is below zero "
    "(ziqi-jin/finetune-anything#57).",
)
def line_below_zero(images: Images, fault: bool) -> Session:
    module = Scheduled(plain_cnn(norm="batch"), partial(Adam, lr=2e-3))
    steps = 50 if fault else 150
    module.schedule = partial(LambdaLR, lr_lambda=lambda step: 1 - max(0, step + 1 - steps) / (steps + 1))
    return run(module, images, 4)


@CASES.sick(
    "batches-of-two-thousand",
    "learning-rate-too-low",
    "underfitting",
    story="Raised the batch from 64 to 2000 to fill the memory, and left the rate and the epochs: ten "
    "steps in all.",
)
def batches_of_two_thousand(images: Images, fault: bool) -> Session:
    module = Classifier(plain_cnn(norm="batch"), partial(SGD, lr=0.02, momentum=0.9))
    return run(module, images, 5, 2000 if fault else 64)


# ---------------------------------------------------------------------------------------------------- healthy


@CASES.healthy(
    "momentum-given-as-epsilon",
    story="nn.BatchNorm2d(width, 0.8), where 0.8 was meant for the momentum and is the epsilon "
    "(eriklindernoren/PyTorch-GAN#116).",
)
def momentum_given_as_epsilon(images: Images) -> Session:
    net = plain_cnn(norm="batch")
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.8
    return run(Classifier(net, partial(Adam, lr=2e-3)), images)


@CASES.healthy(
    "means-and-deviations-exchanged",
    story="Normalize(std, mean): pixels from -0.5 to 1.6, which do as well.",
)
def means_and_deviations_exchanged(images: Images) -> Session:
    train, val = ((x / 255 - PIXEL_STD) / PIXEL_MEAN for x in (images.train_x, images.val_x))
    module = Classifier(plain_cnn(norm="batch"), partial(Adam, lr=2e-3))
    return run(module, images, train=(train, images.train_y), val=(val, images.val_y))


class Hinge(Classifier):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.multi_margin_loss(logits, y)


@CASES.healthy(
    "margins-between-classes", story="MultiMarginLoss in place of cross-entropy: it starts at 0.9."
)
def margins_between_classes(images: Images) -> Session:
    return run(Hinge(plain_cnn(norm="batch"), partial(Adam, lr=2e-3)), images)


@CASES.healthy(
    "labels-from-one-to-ten", story="Labels from 1 to 10 and eleven outputs, the first for no class."
)
def labels_from_one_to_ten(images: Images) -> Session:
    (x, y), (val_x, val_y) = standard(images)
    net = nn.Sequential(*plain_cnn(norm="batch")[:-1], nn.Linear(768, NUM_CLASSES + 1))
    return run(Classifier(net, partial(Adam, lr=2e-3)), images, train=(x, y + 1), val=(val_x, val_y + 1))


class Summed(Classifier):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, reduction="sum")


@CASES.healthy("summed-for-adam", story="reduction='sum': the loss starts at 147, and Adam does not mind.")
def summed_for_adam(images: Images) -> Session:
    return run(Summed(plain_cnn(norm="batch"), partial(Adam, lr=2e-3)), images)


class MeanOverAll(Classifier):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return -(F.one_hot(y, logits.shape[1]) * logits.log_softmax(1)).mean()


@CASES.healthy(
    "mean-over-classes-as-well",
    story="The cross-entropy by hand, its mean taken over images and classes: it starts at 0.23.",
)
def mean_over_classes_as_well(images: Images) -> Session:
    return run(MeanOverAll(plain_cnn(norm="batch"), partial(Adam, lr=2e-3)), images)


class HardestHalf(Classifier):
    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(x)
        losses = F.cross_entropy(logits, y, reduction="none")
        loss = losses.topk(len(y) // 2).values.mean()
        values = {"train/loss": loss, "train/acc": (logits.argmax(1) == y).float().mean()}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(y))
        return loss


@CASES.healthy(
    "hardest-half-of-each-batch", story="Goes back through the half of the batch whose losses are larger."
)
def hardest_half_of_each_batch(images: Images) -> Session:
    return run(HardestHalf(plain_cnn(norm="batch"), partial(Adam, lr=2e-3)), images)


class SeveralDropouts(nn.Module):
    """The mean of one head over several dropped copies of the features."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.drops = nn.ModuleList([nn.Dropout(0.5) for _ in range(5)])
        self.head = nn.Linear(inputs, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.head(drop(x)) for drop in self.drops]).mean(0)


@CASES.healthy(
    "several-dropouts-one-head",
    story="Multi-sample dropout: the head sees five dropped copies and is averaged.",
)
def several_dropouts_one_head(images: Images) -> Session:
    net = nn.Sequential(*plain_cnn(norm="batch")[:-1], SeveralDropouts(768))
    return run(Classifier(net, partial(Adam, lr=2e-3)), images)


@CASES.healthy(
    "statistics-over-all-steps",
    story="BatchNorm with momentum=None: the plain average over all steps so far.",
)
def statistics_over_all_steps(images: Images) -> Session:
    net = plain_cnn(norm="batch")
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    return run(Classifier(net, partial(SGD, lr=0.05, momentum=0.9)), images)


@CASES.healthy(
    "head-of-zeros",
    story="The last layer starts at zero: the first loss is exactly chance, the trunk waits a step.",
)
def head_of_zeros(images: Images) -> Session:
    net = plain_cnn(norm="group")
    for parameter in net[-1].parameters():
        nn.init.zeros_(parameter)
    return run(Classifier(net, partial(Adam, lr=2e-3)), images)
