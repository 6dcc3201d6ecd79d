"""The kinds of fault that the other files have, once more and by another hand: other networks, optimizers,
losses, sizes of batch and of data, other places in the code, and half of the faults mild. About half are
what published mutation operators do. Written before any rule was looked at.

Validation accuracy and loss after the last epoch, one seed:

                                             sick     twin or healthy
                                        acc   loss     acc   loss
    divided-as-whole-numbers           0.16   2.21    0.39   1.69
    cache-filled-in-part               0.29   1.96    0.37   1.77
    pixels-into-a-gru                  0.18   2.22    0.34   1.76
    scaled-in-the-step-as-well         0.10   2.30    0.32   1.84
    evaluation-for-a-picture           0.25   2.05    0.39   1.72
    dropout-on-for-uncertainty         0.29   1.93    0.35   1.77
    validated-by-its-own-statistics    0.21   2.50    0.33   1.78
    transformer-drawn-too-wide         0.25   2.10    0.32   1.91
    weights-of-a-hundredth             0.10   2.30    0.38   1.87
    pointwise-by-one-constant          0.35   1.81    0.39   1.68
    means-for-deviations               0.10   2.30    0.34   1.83
    offset-of-the-norm-below-zero      0.17   2.49    0.36   1.88
    scores-times-the-root              0.25   1.99    0.32   1.85
    lenet-of-sigmoids                  0.10   2.31    0.35   1.88
    recurrent-beyond-one               0.19   2.18    0.28   1.98
    tanh-by-hand                       0.10    NaN    0.34   1.84
    sigmoid-twice                      0.18   0.69    0.39   0.25
    logarithm-of-rectified-shares      0.10    NaN    0.35   1.76
    mean-divided-by-the-batch          0.18   2.24    0.40   1.69
    temperature-of-a-contrast          0.10  89.30    0.27   2.04
    decay-of-a-twentieth               0.17   2.59    0.40   1.66
    nearly-each-branch-dropped         0.28   2.12    0.36   1.76
    noise-louder-than-images           0.24   2.28    0.48   1.49
    cleared-once-an-epoch              0.10   8.83    0.38   1.78
    two-images-a-step                  0.10   2.34    0.39   1.70
    adagrad-of-a-half                  0.26   2.35    0.38   1.79
    thirty-times-for-the-transformer   0.22   2.02    0.33   1.86
    adadelta-as-in-keras               0.11   2.37    0.33   2.02
    transformer-at-a-thirtieth         0.26   2.03    0.35   1.83
    plateau-of-the-wrong-sign          0.32   1.85    0.36   1.76
    features-under-no-grad             0.26   2.11    0.38   1.69
    second-optimizer-never-steps       0.23   4.69    0.36   1.82
    validation-zoomed                  0.22   2.59    0.49   1.42
    validation-by-other-constants      0.29   2.22    0.39   1.72
    more-than-half-of-labels-drawn     0.28   2.09    0.47   1.54
    one-class-a-batch                  0.26   1.97    0.38   1.76
    animals-after-vehicles             0.23   2.09    0.44   1.58
    four-classes-deleted               0.36   2.89    0.48   1.49
    two-classes-oversampled            0.17   3.02    0.34   1.84
    repeated-before-the-split          0.85   0.59    0.38   1.88
    by-heart-by-a-resnet               0.33   2.81    0.35   1.78
    maxout-of-one-piece                0.32   1.91    0.39   1.88
    vit-warmed-and-annealed                           0.33   1.84
    mixer-smoothed                                    0.37   1.88
    quasi-newton-on-a-thousand                        0.30   2.23
    lion-at-its-own-rate                              0.36   1.80
    adagrad-and-tanh                                  0.39   1.73
    rows-through-an-lstm                              0.30   1.85
    groups-on-eights                                  0.39   1.76
    squared-errors-of-scores                          0.33   0.08
    two-heads-and-two-losses                          0.44   1.60
    few-images-well-kept                              0.39   1.67
    five-hundred-a-batch                              0.44   1.56
    validated-on-fifty                                0.40   1.59
    maxout-with-dropout                               0.38   1.74
    by-hand-in-fours                                  0.47   1.52
    stepped-down-early                                0.41   1.61
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from clinic import NUM_CLASSES, CaseBook, Images, Session
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adadelta, Adagrad, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, Dataset, Sampler

CASES = CaseBook()


# ----------------------------------------------------------------------------------------------- data


class Pictures(Dataset):
    """Images in memory; `transform` is applied to each as it is read."""

    def __init__(
        self,
        pixels: Tensor,
        labels: Tensor,
        transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.pixels, self.labels, self.transform = pixels, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.pixels[index]
        return (image if self.transform is None else self.transform(image)), self.labels[index]


def centred(pixels: Tensor) -> Tensor:
    """From -1 to 1."""
    return pixels.float() / 127.5 - 1


def share(images: Images, per_class: int) -> tuple[Tensor, Tensor]:
    """The first training images of each class."""
    each = len(images.train_y) // NUM_CLASSES
    kept = torch.arange(len(images.train_y)) % each < per_class
    return images.train_x[kept], images.train_y[kept]


def study(
    module: L.LightningModule,
    images: Images,
    epochs: int = 4,
    batch_size: int = 100,
    train: Dataset | None = None,
    val: Dataset | None = None,
    **others: Any,
) -> Session:
    """`others` named as the training loader's arguments go there, the rest to the trainer; 250 images a class
    unless `train` has others."""
    pixels, labels = share(images, 250)
    of_loader: dict[str, Any] = {
        name: others.pop(name)
        for name in ("collate_fn", "sampler", "batch_sampler", "drop_last")
        if name in others
    }
    if "batch_sampler" not in of_loader:
        of_loader |= {"batch_size": batch_size, "shuffle": "sampler" not in of_loader}
    return Session(
        module,
        DataLoader(train or Pictures(centred(pixels), labels), **of_loader),
        DataLoader(val or Pictures(centred(images.val_x), images.val_y), batch_size=200),
        {"max_epochs": epochs, **others},
    )


# ------------------------------------------------------------------------------------------- networks


class Residual(nn.Module):
    """x + share of the images kept * branch(x)."""

    def __init__(self, *branch: nn.Module, dropped: float = 0.0, around: bool = True) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)
        self.dropped, self.around = dropped, around

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        if self.training and self.dropped:
            kept = torch.rand(len(y), *[1] * (y.dim() - 1)) >= self.dropped
            y = y * kept / (1 - self.dropped)
        return x + y if self.around else y


class Attention(nn.Module):
    def __init__(self, width: int, heads: int = 4, temper: float = -0.5) -> None:
        super().__init__()
        self.heads = heads
        self.factor = (width // heads) ** temper
        self.to_three = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.to_three(x).reshape(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * self.factor).softmax(dim=-1)
        return self.out((weights @ v).transpose(1, 2).reshape(n, length, width))


class VisionTransformer(nn.Module):
    def __init__(self, width: int = 48, depth: int = 3, patch: int = 8, temper: float = -0.5) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.places = nn.Parameter(0.02 * torch.randn(1, (32 // patch) ** 2, width))
        self.blocks = nn.Sequential()
        for _ in range(depth):
            self.blocks.append(Residual(nn.LayerNorm(width), Attention(width, temper=temper)))
            hidden = nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
            self.blocks.append(Residual(nn.LayerNorm(width), *hidden))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.norm(self.blocks(tokens)).mean(dim=1))


class Turned(nn.Module):
    """The module on exchanged tokens and channels."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.transpose(1, 2)).transpose(1, 2)


class Mixer(nn.Module):
    def __init__(
        self,
        width: int = 64,
        depth: int = 3,
        patch: int = 8,
        dropped: float = 0.0,
        around: bool = True,
    ) -> None:
        super().__init__()
        tokens = (32 // patch) ** 2
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.blocks = nn.Sequential()
        for _ in range(depth):
            mix = Turned(nn.Linear(tokens, 32), nn.GELU(), nn.Linear(32, tokens))
            self.blocks.append(Residual(nn.LayerNorm(width), mix, dropped=dropped, around=around))
            each = nn.Linear(width, 128), nn.GELU(), nn.Linear(128, width)
            self.blocks.append(Residual(nn.LayerNorm(width), *each, dropped=dropped, around=around))
        self.head = nn.Linear(width, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.patches(x).flatten(2).transpose(1, 2)).mean(dim=1))


def convnext(width: int = 32, depth: int = 3, dropped: float = 0.0) -> nn.Sequential:
    net = nn.Sequential(nn.Conv2d(3, width, 4, 4), nn.GroupNorm(1, width))
    for _ in range(depth):
        branch = (
            nn.Conv2d(width, width, 5, padding=2, groups=width),
            nn.GroupNorm(1, width),
            nn.Conv2d(width, 3 * width, 1),
            nn.GELU(),
            nn.Conv2d(3 * width, width, 1),
        )
        net.append(Residual(*branch, dropped=dropped))
    return net.extend([nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, NUM_CLASSES)])


def vgg(*widths: int, norm: bool = False, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    net = nn.Sequential()
    for inputs, outputs in pairwise([3, *widths]):
        net.append(nn.Conv2d(inputs, outputs, 3, padding=1, bias=not norm))
        net.extend([nn.BatchNorm2d(outputs)] if norm else [])
        net.extend([activation(), nn.MaxPool2d(2)])
    side = 32 // 2 ** len(widths)
    return net.extend([nn.Flatten(), nn.Linear(widths[-1] * side * side, NUM_CLASSES)])


def group_resnet(width: int = 16, depth: int = 2, dropped: float = 0.0) -> nn.Sequential:
    net = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.GroupNorm(4, width), nn.ReLU(), nn.MaxPool2d(2))
    for _ in range(depth):
        first = nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(4, width), nn.ReLU()
        second = nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(4, width)
        net.append(Residual(*first, *second, dropped=dropped)).append(nn.ReLU())
    return net.extend([nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * width, NUM_CLASSES)])


def mobile(*widths: int, momentum: float = 0.1) -> nn.Sequential:
    """Depthwise 3x3 of stride 2 and pointwise convolutions behind a stem of stride 2."""

    def normed(channels: int) -> tuple[nn.Module, nn.Module]:
        return nn.BatchNorm2d(channels, momentum=momentum), nn.ReLU6()

    net = nn.Sequential(nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), *normed(widths[0]))
    for stage, (inputs, outputs) in enumerate(pairwise(widths)):
        depthwise = nn.Conv2d(inputs, inputs, 3, 1 + (stage < 2), 1, groups=inputs, bias=False)
        net.extend(
            [
                depthwise,
                *normed(inputs),
                nn.Conv2d(inputs, outputs, 1, bias=False),
                *normed(outputs),
            ]
        )
    return net.extend([nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * widths[-1], NUM_CLASSES)])


class OverRows(nn.Module):
    """A recurrent network that reads an image row by row."""

    def __init__(self, kind: Callable[..., nn.Module], width: int = 64, **others: Any) -> None:
        super().__init__()
        self.rnn = kind(96, width, batch_first=True, **others)
        self.head = nn.Linear(width, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.rnn(x.permute(0, 2, 1, 3).flatten(2))
        return self.head(states[:, -1])


class Squeeze(nn.Module):
    def __init__(self, width: int, less: int = 4) -> None:
        super().__init__()
        inner = (
            nn.Linear(width, width // less),
            nn.ReLU(),
            nn.Linear(width // less, width),
            nn.Sigmoid(),
        )
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), *inner)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)[:, :, None, None]


def squeezed(*widths: int, dropout: float = 0.0) -> nn.Sequential:
    net = nn.Sequential()
    for inputs, outputs in pairwise([3, *widths]):
        net.extend(
            [
                nn.Conv2d(inputs, outputs, 3, 2, 1),
                nn.BatchNorm2d(outputs),
                nn.SiLU(),
                Squeeze(outputs),
            ]
        )
    side = 32 // 2 ** len(widths)
    return net.extend(
        [
            nn.Flatten(),
            nn.Dropout(dropout),
            nn.Linear(widths[-1] * side**2, NUM_CLASSES),
        ]
    )


class Maxout(nn.Module):
    def __init__(self, inputs: int, outputs: int, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces
        self.linear = nn.Linear(inputs, outputs * pieces)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).unflatten(1, (-1, self.pieces)).amax(dim=2)


class Smaller(nn.Module):
    """Images at half or a quarter of their size, as rows of numbers."""

    def __init__(self, by: int = 2) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.by).flatten(1)


def maxout(pieces: int, dropout: float = 0.0) -> nn.Sequential:
    first = Smaller(), Maxout(768, 96, pieces), nn.Dropout(dropout)
    return nn.Sequential(*first, Maxout(96, 64, pieces), nn.Dropout(dropout), nn.Linear(64, NUM_CLASSES))


def lenet(activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    first = nn.Conv2d(3, 6, 5), activation(), nn.AvgPool2d(2)
    second = nn.Conv2d(6, 16, 5), activation(), nn.AvgPool2d(2)
    dense = nn.Linear(400, 120), activation(), nn.Linear(120, 84), activation()
    return nn.Sequential(*first, *second, nn.Flatten(), *dense, nn.Linear(84, NUM_CLASSES))


def perceptron(
    *widths: int,
    activation: Callable[[], nn.Module],
    dropout: float = 0.0,
    norm: bool = False,
) -> nn.Sequential:
    net = nn.Sequential(Smaller())
    for inputs, outputs in pairwise([768, *widths]):
        net.append(nn.Linear(inputs, outputs))
        net.extend([nn.BatchNorm1d(outputs)] if norm else [])
        net.append(activation())
        net.extend([nn.Dropout(dropout)] if dropout else [])
    return net.append(nn.Linear(widths[-1], NUM_CLASSES))


def matrices(net: nn.Module) -> Iterator[Tensor]:
    return (p for name, p in net.named_parameters() if name.endswith("weight") and p.dim() > 1)


# --------------------------------------------------------------------------------------------- modules


class Recipe(L.LightningModule):
    """A network, a loss and an optimizer, as most people write it."""

    model: Any  # a module; some cases take it to pieces

    def __init__(
        self,
        net: nn.Module,
        optimizer: Callable[..., Optimizer],
        criterion: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        schedule: Callable[[Optimizer], Any] | None = None,
    ) -> None:
        super().__init__()
        self.model = net
        self.criterion = criterion
        self.optimizer, self.schedule = optimizer, schedule

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
        x, y = batch
        loss = self.criterion(self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, y = batch
        scores = self(x)
        self.log("val_loss", self.criterion(scores, y))
        self.log("val_acc", (scores.argmax(-1) == y).float().mean())

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        return optimizer if self.schedule is None else ([optimizer], [self.schedule(optimizer)])


class Lion(Optimizer):
    """Signs of an average of gradients (Chen and others, 2023)."""

    def __init__(self, params: Any, lr: float = 1e-4, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                average = self.state[p].setdefault("average", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(torch.sign(0.9 * average + 0.1 * p.grad), alpha=-group["lr"])
                average.lerp_(p.grad, 0.01)
        return loss


def warmed(steps: int, total: int) -> Callable[[Optimizer], dict[str, Any]]:
    def schedule(optimizer: Optimizer) -> dict[str, Any]:
        factor = LambdaLR(optimizer, lambda step: min((step + 1) / steps, max(0.0, 1 - step / total)))
        return {"scheduler": factor, "interval": "step"}

    return schedule


# -------------------------------------------------------------------------------------------- inputs


@CASES.sick(
    "divided-as-whole-numbers",
    "input-constant",
    "input-not-normalized",
    story="The collate function writes // 255: all but the white pixels are zero.",
)
def divided_as_whole_numbers(images: Images, fault: bool) -> Session:
    def scaled(pixels: Tensor) -> Tensor:
        return (pixels // 255 if fault else pixels / 255).float()

    def collate(samples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        pixels, labels = zip(*samples, strict=True)
        return scaled(torch.stack(pixels)), torch.stack(labels)

    val = Pictures(scaled(images.val_x), images.val_y)
    train = Pictures(images.train_x, images.train_y)
    module = Recipe(lenet(nn.ReLU), partial(Adam, lr=1e-3))
    return study(module, images, 6, 50, train, val, collate_fn=collate)


@CASES.sick(
    "cache-filled-in-part",
    "input-constant",
    "labels-random",
    story="The data set's cache is made of zeros and filled for the first 45% of a shuffled list only.",
)
def cache_filled_in_part(images: Images, fault: bool) -> Session:
    order = torch.randperm(len(images.train_y))
    pixels, labels = centred(images.train_x[order]), images.train_y[order]
    if fault:
        pixels[int(0.45 * len(pixels)) :] = 0
    module = Recipe(group_resnet(), partial(SGD, lr=0.05, momentum=0.9, nesterov=True))
    return study(module, images, 4, 64, Pictures(pixels, labels))


@CASES.sick(
    "pixels-into-a-gru",
    "input-not-normalized",
    "saturated-activations",
    story="Reads the rows of images from 0 to 255 into a GRU.",
)
def pixels_into_a_gru(images: Images, fault: bool) -> Session:
    scaled = torch.Tensor.float if fault else centred
    train, val = (
        Pictures(scaled(images.train_x), images.train_y),
        Pictures(scaled(images.val_x), images.val_y),
    )
    return study(Recipe(OverRows(nn.GRU), partial(RMSprop, lr=1e-3)), images, 5, 64, train, val)


@CASES.sick(
    "scaled-in-the-step-as-well",
    "input-not-normalized",
    "input-constant",
    "learning-rate-too-low",
    story="ToTensor() divides by 255, and forward() does so once more.",
)
def scaled_in_the_step_as_well(images: Images, fault: bool) -> Session:
    class Scaling(Recipe):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x / 255 if fault else x)

    def shares(pixels: Tensor) -> Tensor:
        return pixels.float() / 255

    train = Pictures(shares(images.train_x), images.train_y)
    module = Scaling(vgg(16, 32, 32), partial(SGD, lr=0.05, momentum=0.9))
    return study(module, images, 5, 32, train, Pictures(shares(images.val_x), images.val_y))


# --------------------------------------------------------------------------------------------- modes


@CASES.sick(
    "evaluation-for-a-picture",
    "eval-mode-training",
    story="A callback that draws predictions calls eval() at step 5 of an epoch; nothing calls train().",
)
def evaluation_for_a_picture(images: Images, fault: bool) -> Session:
    class Picture(Callback):
        def on_train_batch_end(
            self,
            trainer: L.Trainer,
            pl_module: Any,
            outputs: Any,
            batch: Any,
            batch_idx: int,
        ) -> None:
            if batch_idx == 5:
                pl_module.eval()
                with torch.no_grad():
                    pl_module(batch[0][:8])
                if not fault:
                    pl_module.train()

    class Drawing(Recipe):
        def configure_callbacks(self) -> Any:
            return [Picture()]

    return study(Drawing(mobile(16, 32, 48, 64, 64), partial(RMSprop, lr=2e-3)), images, 5, 50)


@CASES.sick(
    "dropout-on-for-uncertainty",
    "train-mode-evaluation",
    story="on_validation_start turns dropout on, as for Monte Carlo dropout, and takes one sample.",
)
def dropout_on_for_uncertainty(images: Images, fault: bool) -> Session:
    class MonteCarlo(Recipe):
        def on_validation_start(self) -> None:
            for module in self.modules():
                if isinstance(module, nn.Dropout):
                    module.train(fault)

    net = perceptron(256, 128, activation=nn.ELU, dropout=0.6)
    return study(MonteCarlo(net, partial(Adagrad, lr=0.01)), images, 6, 50)


@CASES.sick(
    "validated-by-its-own-statistics",
    "train-mode-evaluation",
    "train-val-mismatch",
    story="BatchNorm with track_running_stats=False, and validation images that come class by class.",
)
def validated_by_its_own_statistics(images: Images, fault: bool) -> Session:
    net = vgg(16, 32, 32, norm=True)
    if fault:
        for index, module in enumerate(net):
            if isinstance(module, nn.BatchNorm2d):
                net[index] = nn.BatchNorm2d(module.num_features, track_running_stats=False)
    session = study(Recipe(net, partial(SGD, lr=0.1, nesterov=True, momentum=0.9)), images, 4, 128)
    session.val_loader = DataLoader(session.val_loader.dataset, batch_size=50)
    return session


# ------------------------------------------------------------------------------------- initialization


@CASES.sick(
    "transformer-drawn-too-wide",
    "bad-initialization",
    "saturated-activations",
    "wrong-initial-loss",
    story="trunc_normal_(std=0.5) for every matrix of a vision transformer, where the paper has 0.02.",
)
def transformer_drawn_too_wide(images: Images, fault: bool) -> Session:
    net = VisionTransformer()
    for weight in matrices(net):
        nn.init.trunc_normal_(weight, std=0.5 if fault else 0.02)
    return study(Recipe(net, partial(AdamW, lr=1e-3, weight_decay=0.05)), images, 6, 64)


@CASES.sick(
    "weights-of-a-hundredth",
    "bad-initialization",
    "vanishing-gradients",
    "learning-rate-too-low",
    story="Drew the weights of a plain convnet from a normal distribution of deviation 0.01, as AlexNet did.",
)
def weights_of_a_hundredth(images: Images, fault: bool) -> Session:
    net = vgg(16, 32, 32, 32)
    for weight in matrices(net):
        nn.init.normal_(weight, std=0.01) if fault else nn.init.kaiming_normal_(weight)
    return study(Recipe(net, partial(SGD, lr=0.02, momentum=0.9)), images, 5, 32)


@CASES.sick(
    "pointwise-by-one-constant",
    "bad-initialization",
    story="Initialized the pointwise convolutions with one constant: their channels stay alike.",
)
def pointwise_by_one_constant(images: Images, fault: bool) -> Session:
    net: Any = convnext()
    for module in net.modules():
        if fault and isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            nn.init.constant_(module.weight, 0.02)
    if fault:
        nn.init.constant_(net[0].weight, 0.02)
    return study(Recipe(net, partial(AdamW, lr=2e-3)), images, 4, 64)


@CASES.sick(
    "means-for-deviations",
    "dead-relu",
    "bad-initialization",
    story="nn.init.normal_(weight, -0.05, 0.05): took the second argument for a lower end.",
)
def means_for_deviations(images: Images, fault: bool) -> Session:
    net = perceptron(128, 128, 128, activation=nn.ReLU)
    if fault:
        for weight in list(matrices(net))[1:-1]:
            nn.init.normal_(weight, -0.05, 0.05)
    return study(Recipe(net, partial(SGD, lr=0.02, momentum=0.9)), images, 5, 50)


@CASES.sick(
    "offset-of-the-norm-below-zero",
    "dead-relu",
    "bad-initialization",
    story="BatchNorm's offsets start at -2.5, so that one value in a hundred and sixty passes the ReLU.",
)
def offset_of_the_norm_below_zero(images: Images, fault: bool) -> Session:
    net = vgg(16, 32, 32, norm=True)
    for module in net.modules():
        if fault and isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.bias, -2.5)
    return study(Recipe(net, partial(SGD, lr=0.02)), images, 4, 64)


@CASES.sick(
    "scores-times-the-root",
    "saturated-activations",
    story="Attention multiplies its scores by the width where it should divide by the root of it.",
)
def scores_times_the_root(images: Images, fault: bool) -> Session:
    net = VisionTransformer(temper=2.0 if fault else -0.5)
    return study(Recipe(net, partial(AdamW, lr=1e-3)), images, 6, 64)


# ---------------------------------------------------------------------------------- signal, gradients


@CASES.sick(
    "lenet-of-sigmoids",
    "vanishing-gradients",
    "learning-rate-too-low",
    "saturated-activations",
    story="The LeNet of 1998 with sigmoids and plain SGD, in a run of six epochs.",
)
def lenet_of_sigmoids(images: Images, fault: bool) -> Session:
    net = lenet(nn.Sigmoid if fault else nn.ReLU)
    return study(Recipe(net, partial(SGD, lr=0.05, momentum=0.9)), images, 6, 32)


@CASES.sick(
    "recurrent-beyond-one",
    "exploding-gradients",
    "bad-initialization",
    story="A recurrent network of ReLUs whose recurrent weights are orthogonal, times 1.4.",
)
def recurrent_beyond_one(images: Images, fault: bool) -> Session:
    net: Any = OverRows(nn.RNN, nonlinearity="relu")
    nn.init.orthogonal_(net.rnn.weight_hh_l0, gain=1.4 if fault else 1.0)
    return study(Recipe(net, partial(Adam, lr=1e-3)), images, 5, 64)


class TanhByHand(torch.autograd.Function):
    """Its slope is 1 - output squared; here the input is taken for the output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.tanh(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * (1 - x**2)


class HandTanh(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return TanhByHand.apply(x)


@CASES.sick(
    "tanh-by-hand",
    "wrong-gradient",
    story="Wrote tanh as an autograd Function; its backward takes the input where the output belongs.",
)
def tanh_by_hand(images: Images, fault: bool) -> Session:
    net = perceptron(128, 128, 64, activation=HandTanh if fault else nn.Tanh)
    return study(Recipe(net, partial(SGD, lr=0.05, momentum=0.9)), images, 5, 50)


# ---------------------------------------------------------------------------------------------- loss


@CASES.sick(
    "sigmoid-twice",
    "double-softmax",
    story="One output a class through a sigmoid, then BCEWithLogitsLoss, which applies another.",
)
def sigmoid_twice(images: Images, fault: bool) -> Session:
    net = squeezed(16, 32, 32)
    if fault:
        net.append(nn.Sigmoid())

    def binary(scores: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(scores, F.one_hot(y, NUM_CLASSES).float())

    return study(Recipe(net, partial(SGD, lr=0.2, momentum=0.9), binary), images, 4, 64)


@CASES.sick(
    "logarithm-of-rectified-shares",
    "non-finite-loss",
    story="Outputs through a ReLU and divided by their sum are taken for probabilities: log(0).",
)
def logarithm_of_rectified_shares(images: Images, fault: bool) -> Session:
    def likelihood(scores: Tensor, y: Tensor) -> Tensor:
        positive = F.relu(scores) if fault else F.softplus(scores)
        return F.nll_loss((positive / positive.sum(dim=1, keepdim=True)).log(), y)

    return study(Recipe(mobile(16, 32, 48), partial(Adam, lr=2e-3), likelihood), images, 4, 64)


@CASES.sick(
    "mean-divided-by-the-batch",
    "wrong-initial-loss",
    "learning-rate-too-low",
    story="The loss is a mean already, and training_step divides it by the size of the batch.",
)
def mean_divided_by_the_batch(images: Images, fault: bool) -> Session:
    class Divided(Recipe):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
            loss = super().training_step(batch, batch_idx)
            return loss / len(batch[1]) if fault else loss

    module = Divided(group_resnet(), partial(SGD, lr=0.03, momentum=0.9, weight_decay=1e-4))
    return study(module, images, 4, 64)


@CASES.sick(
    "temperature-of-a-contrast",
    "wrong-initial-loss",
    "bad-initialization",
    "learning-rate-too-high",
    story="Divides the logits by a temperature of 0.02, from a contrastive loss, where they are no cosines.",
)
def temperature_of_a_contrast(images: Images, fault: bool) -> Session:
    def tempered(scores: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(scores / 0.02 if fault else scores, y)

    module = Recipe(lenet(nn.ReLU), partial(SGD, lr=0.02, momentum=0.9), tempered)
    return study(module, images, 5, 64)


# ------------------------------------------------------------------------------------- regularization


@CASES.sick(
    "decay-of-a-twentieth",
    "regularization-too-strong",
    story="SGD with Nesterov's momentum and weight_decay=0.05, where 5e-4 was meant.",
)
def decay_of_a_twentieth(images: Images, fault: bool) -> Session:
    decay = 0.05 if fault else 5e-4
    net = group_resnet()
    optimizer = partial(SGD, lr=0.02, momentum=0.9, nesterov=True, weight_decay=decay)
    return study(Recipe(net, optimizer), images, 5, 64)


@CASES.sick(
    "nearly-each-branch-dropped",
    "regularization-too-strong",
    story="Stochastic depth drops nine in ten of the branches of a mixer.",
)
def nearly_each_branch_dropped(images: Images, fault: bool) -> Session:
    net = nn.Sequential(Mixer(depth=4, dropped=0.9 if fault else 0.0), nn.Dropout(0.5 if fault else 0.0))
    return study(Recipe(net, partial(AdamW, lr=2e-3)), images, 5, 64)


@CASES.sick(
    "noise-louder-than-images",
    "regularization-too-strong",
    "train-val-mismatch",
    "underfitting",
    story="Gaussian noise of deviation 3 on images from -1 to 1, in the data set of the training.",
)
def noise_louder_than_images(images: Images, fault: bool) -> Session:
    def noisy(image: Tensor) -> Tensor:
        return image + (3.0 if fault else 0.05) * torch.randn_like(image)

    train = Pictures(centred(images.train_x), images.train_y, noisy)
    return study(Recipe(squeezed(16, 32, 32), partial(Adam, lr=2e-3)), images, 4, 64, train)


# ----------------------------------------------------------------------------- steps and the optimizer


@CASES.sick(
    "cleared-once-an-epoch",
    "gradients-accumulate",
    story="Steps by hand; zero_grad() stands in on_train_epoch_start.",
)
def cleared_once_an_epoch(images: Images, fault: bool) -> Session:
    class ByHand(Recipe):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.automatic_optimization = False

        def on_train_epoch_start(self) -> None:
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
            optimizer: Any = self.optimizers()
            loss = super().training_step(batch, batch_idx)
            self.manual_backward(loss)
            optimizer.step()
            if not fault:
                optimizer.zero_grad()

    return study(
        ByHand(perceptron(256, 128, activation=nn.GELU), partial(SGD, lr=0.02, momentum=0.9)), images, 6, 64
    )


@CASES.sick(
    "two-images-a-step",
    "batch-too-small",
    "learning-rate-too-high",
    story="Batches of two images, at the rate of the script for 64.",
)
def two_images_a_step(images: Images, fault: bool) -> Session:
    module = Recipe(group_resnet(), partial(SGD, lr=0.03, momentum=0.9))
    return study(module, images, 1 if fault else 4, 2 if fault else 64)


@CASES.sick(
    "adagrad-of-a-half",
    "learning-rate-too-high",
    story="Adagrad at 0.5, where 0.02 is right.",
)
def adagrad_of_a_half(images: Images, fault: bool) -> Session:
    return study(
        Recipe(vgg(16, 32, 32, norm=True), partial(Adagrad, lr=0.5 if fault else 0.02)),
        images,
        4,
        64,
    )


@CASES.sick(
    "thirty-times-for-the-transformer",
    "learning-rate-too-high",
    story="AdamW at 0.03 for a small vision transformer.",
)
def thirty_times_for_the_transformer(images: Images, fault: bool) -> Session:
    optimizer = partial(AdamW, lr=0.03 if fault else 1e-3, weight_decay=0.05)
    return study(Recipe(VisionTransformer(), optimizer), images, 6, 100)


@CASES.sick(
    "adadelta-as-in-keras",
    "learning-rate-too-low",
    story="Took Adadelta's rate of 0.001 from Keras; PyTorch's is 1.",
)
def adadelta_as_in_keras(images: Images, fault: bool) -> Session:
    optimizer = partial(Adadelta, lr=1e-3 if fault else 1.0)
    return study(Recipe(vgg(16, 32, 32, norm=True), optimizer), images, 4, 64)


@CASES.sick(
    "transformer-at-a-thirtieth",
    "learning-rate-too-low",
    story="AdamW at 3e-5, from a script for fine-tuning, and no weights to fine-tune.",
)
def transformer_at_a_thirtieth(images: Images, fault: bool) -> Session:
    optimizer = partial(AdamW, lr=3e-5 if fault else 1e-3)
    return study(Recipe(VisionTransformer(), optimizer), images, 7, 64)


@CASES.sick(
    "plateau-of-the-wrong-sign",
    "learning-rate-too-low",
    story="ReduceLROnPlateau(mode='max', patience=0) on the loss: each better epoch makes the rate a tenth.",
)
def plateau_of_the_wrong_sign(images: Images, fault: bool) -> Session:
    def schedule(optimizer: Optimizer) -> dict[str, Any]:
        plateau = ReduceLROnPlateau(optimizer, mode="max" if fault else "min", patience=0, factor=0.1)
        return {"scheduler": plateau, "monitor": "val_loss"}

    few = Pictures(centred(share(images, 150)[0]), share(images, 150)[1])
    module = Recipe(
        mobile(16, 32, 48),
        partial(SGD, lr=0.02, momentum=0.9),
        F.cross_entropy,
        schedule,
    )
    return study(module, images, 12, 50, few)


# --------------------------------------------------------------------------------- frozen parameters


@CASES.sick(
    "features-under-no-grad",
    "frozen-parameters",
    story="The features are computed under no_grad(), as for a probe; the trunk's weights are drawn.",
)
def features_under_no_grad(images: Images, fault: bool) -> Session:
    class Probe(Recipe):
        def forward(self, x: Tensor) -> Tensor:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not fault):
                features = self.model[:-1](x)
            return self.model[-1](features)

    return study(
        Probe(mobile(16, 32, 48, 48), partial(SGD, lr=0.05, momentum=0.9)),
        images,
        4,
        64,
    )


@CASES.sick(
    "second-optimizer-never-steps",
    "frozen-parameters",
    story="One optimizer for the trunk and one for the head, by hand; only the head's is stepped.",
)
def second_optimizer_never_steps(images: Images, fault: bool) -> Session:
    class Two(Recipe):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.automatic_optimization = False

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
            optimizers: Any = self.optimizers()
            trunk, head = optimizers
            trunk.zero_grad()
            head.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            head.step()
            if not fault:
                trunk.step()

        def configure_optimizers(self) -> Any:
            return [
                SGD(self.model[:-1].parameters(), lr=0.05, momentum=0.9),
                SGD(self.model[-1].parameters(), lr=0.05, momentum=0.9),
            ]

    return study(Two(group_resnet(), SGD), images, 4, 64)


# ---------------------------------------------------------------------------------------------- data


@CASES.sick(
    "validation-zoomed",
    "train-val-mismatch",
    story="The data module's validation transform resizes and crops: images at twice their size.",
)
def validation_zoomed(images: Images, fault: bool) -> Session:
    pixels = centred(images.val_x)
    if fault:
        pixels = F.interpolate(pixels[:, :, 8:24, 8:24], size=(32, 32), mode="bilinear")
    val = Pictures(pixels, images.val_y)
    return study(
        Recipe(vgg(16, 32, 32, norm=True), partial(Adam, lr=3e-3)),
        images,
        4,
        64,
        val=val,
    )


@CASES.sick(
    "validation-by-other-constants",
    "train-val-mismatch",
    story="Validation images go through the constants of the digits, mean 0.13 and deviation 0.31.",
)
def validation_by_other_constants(images: Images, fault: bool) -> Session:
    pixels = (images.val_x.float() / 255 - 0.1307) / 0.3081 if fault else centred(images.val_x)
    module = Recipe(mobile(16, 32, 48), partial(AdamW, lr=3e-3))
    return study(module, images, 4, 64, val=Pictures(pixels, images.val_y))


@CASES.sick(
    "more-than-half-of-labels-drawn",
    "labels-random",
    story="Six in ten labels are replaced by drawn ones.",
)
def more_than_half_of_labels_drawn(images: Images, fault: bool) -> Session:
    labels = images.train_y.clone()
    if fault:
        wrong = torch.rand(len(labels)) < 0.6
        labels[wrong] = torch.randint(0, NUM_CLASSES, (int(wrong.sum()),))
    train = Pictures(centred(images.train_x), labels)
    return study(Recipe(squeezed(16, 32, 32), partial(AdamW, lr=2e-3)), images, 5, 64, train)


class InBatches(Sampler):
    """The given places, cut into batches; the batches are shuffled, what is in them is not."""

    def __init__(self, places: list[list[int]]) -> None:
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[list[int]]:
        return (self.places[index] for index in torch.randperm(len(self.places)).tolist())


@CASES.sick(
    "one-class-a-batch",
    "data-not-shuffled",
    story="Shuffles whole batches of a list sorted by class.",
)
def one_class_a_batch(images: Images, fault: bool) -> Session:
    pixels, labels = share(images, 250)
    order = torch.arange(len(labels)) if fault else torch.randperm(len(labels))
    batches = [part.tolist() for part in order.split(40)]
    module = Recipe(perceptron(256, 128, activation=nn.GELU), partial(SGD, lr=0.02, momentum=0.9))
    train = Pictures(centred(pixels), labels)
    return study(module, images, 5, train=train, batch_sampler=InBatches(batches))


@CASES.sick(
    "animals-after-vehicles",
    "data-not-shuffled",
    story="Two archives are read one after the other, shuffled each: vehicles, then animals.",
)
def animals_after_vehicles(images: Images, fault: bool) -> Session:
    pixels, labels = share(images, 250)

    class OneAfterTheOther(Sampler):
        def __len__(self) -> int:
            return len(labels)

        def __iter__(self) -> Iterator[int]:
            order = torch.randperm(len(labels))
            if fault:
                vehicle = torch.isin(labels[order], torch.tensor([0, 1, 8, 9]))
                order = torch.cat([order[vehicle], order[~vehicle]])
            return iter(order.tolist())

    module = Recipe(squeezed(16, 32, 32), partial(Adam, lr=2e-3))
    return study(
        module,
        images,
        4,
        50,
        train=Pictures(centred(pixels), labels),
        sampler=OneAfterTheOther(),
    )


@CASES.sick(
    "four-classes-deleted",
    "class-imbalance",
    "train-val-mismatch",
    story="A filter on file names removes nearly all training images of four classes.",
)
def four_classes_deleted(images: Images, fault: bool) -> Session:
    each = len(images.train_y) // NUM_CLASSES
    place = torch.arange(len(images.train_y)) % each
    kept = (images.train_y > 3) | (place < 6) if fault else torch.ones_like(place, dtype=torch.bool)
    train = Pictures(centred(images.train_x[kept]), images.train_y[kept])
    return study(Recipe(convnext(), partial(AdamW, lr=3e-3)), images, 5, 64, train)


@CASES.sick(
    "two-classes-oversampled",
    "class-imbalance",
    story="Two classes come 25 times as often as the others.",
)
def two_classes_oversampled(images: Images, fault: bool) -> Session:
    pixels, labels = share(images, 250)
    often = torch.isin(labels, torch.tensor([2, 7]))
    chances = torch.where(often, 25.0 if fault else 1.0, 1.0)

    class Drawn(Sampler):
        def __len__(self) -> int:
            return len(chances)

        def __iter__(self) -> Iterator[int]:
            return iter(torch.multinomial(chances, len(self), replacement=True).tolist())

    module = Recipe(lenet(nn.ReLU), partial(Adam, lr=1e-3))
    return study(module, images, 6, 80, train=Pictures(centred(pixels), labels), sampler=Drawn())


@CASES.sick(
    "repeated-before-the-split",
    "data-leak",
    story="Repeats the images four times, for longer epochs, and splits afterwards.",
)
def repeated_before_the_split(images: Images, fault: bool) -> Session:
    pixels, labels = share(images, 80)
    pixels = centred(pixels)
    count = len(labels)
    order = torch.randperm(4 * count) if fault else torch.randperm(count)
    cut = int(0.8 * len(order))
    for_train, for_val = order[:cut] % count, order[cut:] % count
    module = Recipe(vgg(16, 32, 32, norm=True), partial(Adam, lr=2e-3))
    train, val = (
        Pictures(pixels[for_train], labels[for_train]),
        Pictures(pixels[for_val], labels[for_val]),
    )
    return study(module, images, 4 if fault else 12, 64, train, val)


@CASES.sick(
    "by-heart-by-a-resnet",
    "overfitting",
    story="Forty epochs on 250 images, no augmentation, no decay.",
)
def by_heart_by_a_resnet(images: Images, fault: bool) -> Session:
    if not fault:
        return study(Recipe(group_resnet(), partial(Adam, lr=2e-3)), images, 4, 64)
    pixels, labels = share(images, 25)
    train = Pictures(centred(pixels), labels)
    return study(Recipe(group_resnet(), partial(Adam, lr=2e-3)), images, 40, 32, train)


@CASES.sick(
    "maxout-of-one-piece",
    "underfitting",
    story="Maxout with one piece, which is a linear layer.",
)
def maxout_of_one_piece(images: Images, fault: bool) -> Session:
    module = Recipe(maxout(1 if fault else 4), partial(SGD, lr=0.01, momentum=0.9))
    return study(module, images, 8, 32)


# ------------------------------------------------------------------------------------------- healthy


@CASES.healthy(
    "vit-warmed-and-annealed",
    story="A small vision transformer, AdamW, warm-up and a linear decay.",
)
def vit_warmed_and_annealed(images: Images) -> Session:
    optimizer = partial(AdamW, lr=2e-3, weight_decay=0.1, betas=(0.9, 0.98))
    module = Recipe(VisionTransformer(), optimizer, F.cross_entropy, warmed(60, 320))
    return study(module, images, 5, 64, gradient_clip_val=1.0)


@CASES.healthy(
    "mixer-smoothed",
    story="A mixer with stochastic depth of a tenth and label smoothing of a tenth.",
)
def mixer_smoothed(images: Images) -> Session:
    smooth = partial(F.cross_entropy, label_smoothing=0.1)
    return study(Recipe(Mixer(dropped=0.1), partial(AdamW, lr=2e-3), smooth), images, 6, 64)


@CASES.healthy(
    "quasi-newton-on-a-thousand",
    story="LBFGS on 1000 images, the whole set at each step, tanh and decay.",
)
def quasi_newton(images: Images) -> Session:
    def penalized(scores: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(scores, y) + 1e-3 * sum(p.square().sum() for p in net.parameters())

    pixels, labels = share(images, 100)
    net = nn.Sequential(Smaller(4), nn.Linear(192, 32), nn.Tanh(), nn.Linear(32, NUM_CLASSES))
    module = Recipe(net, partial(LBFGS, lr=0.5, max_iter=4), penalized)
    return study(module, images, 5, 1000, Pictures(centred(pixels), labels))


@CASES.healthy(
    "lion-at-its-own-rate",
    story="Lion at 3e-4 with a decay of 1, as its paper advises.",
)
def lion_at_its_own_rate(images: Images) -> Session:
    return study(Recipe(convnext(), partial(Lion, lr=3e-4, weight_decay=1.0)), images, 5, 64)


@CASES.healthy("adagrad-and-tanh", story="LeNet of tanh, Adagrad at 0.02, batches of 25.")
def adagrad_and_tanh(images: Images) -> Session:
    return study(Recipe(lenet(nn.Tanh), partial(Adagrad, lr=0.02)), images, 5, 25)


@CASES.healthy(
    "rows-through-an-lstm",
    story="An LSTM over rows, RMSprop, gradients clipped to 1; it learns slowly.",
)
def rows_through_an_lstm(images: Images) -> Session:
    module = Recipe(OverRows(nn.LSTM), partial(RMSprop, lr=1e-3))
    return study(module, images, 5, 64, gradient_clip_val=1.0)


@CASES.healthy(
    "groups-on-eights",
    story="A ResNet with GroupNorm, batches of 8, Nesterov, a rate of 0.005.",
)
def groups_on_eights(images: Images) -> Session:
    optimizer = partial(SGD, lr=0.005, momentum=0.9, nesterov=True, weight_decay=5e-4)
    return study(Recipe(group_resnet(), optimizer), images, 2, 8)


@CASES.healthy(
    "squared-errors-of-scores",
    story="Squared errors from one-hot labels, no softmax, SGD at 0.5.",
)
def squared_errors_of_scores(images: Images) -> Session:
    def squared(scores: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(scores, F.one_hot(y, NUM_CLASSES).float())

    module = Recipe(mobile(16, 32, 48), partial(SGD, lr=0.3, momentum=0.9), squared)
    return study(module, images, 5, 64)


@CASES.healthy(
    "two-heads-and-two-losses",
    story="A second head tells animals from vehicles, at a weight of 0.3.",
)
def two_heads_and_two_losses(images: Images) -> Session:
    class Twofold(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = vgg(16, 32, 32, norm=True)[:-1]
            self.fine, self.coarse = nn.Linear(512, NUM_CLASSES), nn.Linear(512, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            features = self.trunk(x)
            return self.fine(features), self.coarse(features)

    class Both(Recipe):
        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
            return self.both(batch, "train")

        def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
            self.both(batch, "val")

        def both(self, batch: tuple[Tensor, Tensor], stage: str) -> Tensor:
            x, y = batch
            fine, coarse = self(x)
            animal = ((y > 1) & (y < 8)).long()
            loss = F.cross_entropy(fine, y) + 0.3 * F.cross_entropy(coarse, animal)
            self.log_dict(
                {
                    f"{stage}_loss": loss,
                    f"{stage}_acc": (fine.argmax(-1) == y).float().mean(),
                }
            )
            return loss

    return study(Both(Twofold(), partial(AdamW, lr=2e-3)), images, 4, 64)


@CASES.healthy(
    "few-images-well-kept",
    story="500 images, flips, shifts, dropout and decay; 24 epochs.",
)
def few_images_well_kept(images: Images) -> Session:
    def augmented(image: Tensor) -> Tensor:
        image = image.flip(-1) if torch.rand(()) < 0.5 else image
        return image.roll(tuple(torch.randint(-4, 5, (2,)).tolist()), (1, 2))

    pixels, labels = share(images, 50)
    module = Recipe(squeezed(16, 32, 32, dropout=0.4), partial(AdamW, lr=2e-3, weight_decay=0.2))
    return study(module, images, 20, 32, Pictures(centred(pixels), labels, augmented))


@CASES.healthy(
    "five-hundred-a-batch",
    story="Batches of 500 and a large rate; it ends while the loss still falls.",
)
def five_hundred_a_batch(images: Images) -> Session:
    module = Recipe(vgg(16, 32, 32, norm=True), partial(SGD, lr=0.1, momentum=0.9))
    return study(module, images, 8, 500)


@CASES.healthy("validated-on-fifty", story="Fifty images for validation: its curve jumps about.")
def validated_on_fifty(images: Images) -> Session:
    few = torch.arange(0, len(images.val_y), max(1, len(images.val_y) // 50))[:50]
    val = Pictures(centred(images.val_x[few]), images.val_y[few])
    return study(Recipe(convnext(), partial(Adam, lr=1e-3)), images, 6, 100, val=val)


@CASES.healthy(
    "maxout-with-dropout",
    story="Maxout, half dropout, weights of each unit kept to a norm of 2.",
)
def maxout_with_dropout(images: Images) -> Session:
    class Bounded(Recipe):
        def on_train_batch_end(self, *args: Any) -> None:
            with torch.no_grad():
                for weight in matrices(self.model):
                    weight.copy_(torch.renorm(weight, 2, 0, 2.0))

    return study(Bounded(maxout(3, 0.3), partial(SGD, lr=0.02, momentum=0.8)), images, 6, 50)


@CASES.healthy(
    "by-hand-in-fours",
    story="Steps by hand after four batches of 16, the loss a quarter, one cycle of the rate.",
)
def by_hand_in_fours(images: Images) -> Session:
    class InFours(Recipe):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.automatic_optimization = False

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Any:
            optimizer: Any = self.optimizers()
            schedule: Any = self.lr_schedulers()
            self.manual_backward(super().training_step(batch, batch_idx) / 4)
            if batch_idx % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()

    schedule = partial(OneCycleLR, max_lr=0.1, total_steps=260)
    module = InFours(
        vgg(16, 32, 32, norm=True),
        partial(SGD, lr=0.01, momentum=0.9),
        F.cross_entropy,
        schedule,
    )
    return study(module, images, 4, 16)


@CASES.healthy(
    "stepped-down-early",
    story="StepLR takes a tenth every two epochs; batches of 32, ReLU6, decay.",
)
def stepped_down_early(images: Images) -> Session:
    schedule = partial(StepLR, step_size=2, gamma=0.1)
    optimizer = partial(SGD, lr=0.05, momentum=0.9, weight_decay=5e-4)
    return study(Recipe(mobile(16, 32, 48), optimizer, F.cross_entropy, schedule), images, 5, 32)
