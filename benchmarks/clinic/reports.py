"""Faults and odd but healthy runs of kinds that users report again and again in forums and issue threads, or
that published mutation operators plant; written before any rule was changed for them.
"""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from clinic import NUM_CLASSES, CaseBook, Classifier, Images, Session
from healthy import (
    Causal,
    NextLetter,
    Opinions,
    Regression,
    Sentiment,
    Tags,
    fitting,
    halves,
    house_prices,
    sentences,
    shapes,
)
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.optim import LBFGS, SGD, Adadelta, Adam, AdamW
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau
from wild import Pair, conv_unit, dense, plain_cnn, run, standard

CASES = CaseBook()


# ------------------------------------------------------------------------------------------ the loss


class PricesAgainstAColumn(Regression):
    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        outputs = self(x)
        error = F.mse_loss(outputs, y)
        return error, {"r2": 1 - (outputs.squeeze(1) - y).square().mean() / y.var()}


@CASES.sick(
    "column-against-a-row",
    "underfitting",
    "labels-random",
    story="Compared outputs [N, 1] with targets [N]: the squared loss pairs every output with every target.",
)
def column_against_a_row(images: Images, fault: bool) -> Session:
    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    kind = PricesAgainstAColumn if fault else Regression
    return fitting(kind(net, partial(Adam, lr=3e-3)), *halves(*house_prices()), epochs=8)


@CASES.sick(
    "sigmoid-before-its-loss",
    "double-softmax",
    story="Ended a network for several tags in a sigmoid and used binary_cross_entropy_with_logits.",
)
def sigmoid_before_its_loss(images: Images, fault: bool) -> Session:
    x, mask, numbers = shapes(2400)
    large = (mask > 0).float().mean((1, 2)) > 0.2
    tags = torch.stack([numbers[:, 0] > 0, numbers[:, 1] > 0, numbers.sum(1) > 2, large], 1).float()
    units = [conv_unit(1, 16, 2, "batch"), conv_unit(16, 32, 2, "batch")]
    net = nn.Sequential(*units, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * 32, 4))
    if fault:
        net.append(nn.Sigmoid())
    return fitting(Tags(net, partial(Adam, lr=1e-3)), *halves(x, tags), epochs=5, batch=32)


class LossWithoutGraph(Classifier):
    """Autograd said that the loss needs no gradient, so it was made to need one."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return torch.tensor(super().loss(logits, y).item(), requires_grad=True)


@CASES.sick(
    "loss-made-to-need-a-gradient",
    "frozen-parameters",
    story="Answered 'does not require grad' by torch.tensor(loss.item(), requires_grad=True).",
)
def loss_without_graph(images: Images, fault: bool) -> Session:
    return run((LossWithoutGraph if fault else Classifier)(plain_cnn(), partial(Adam, lr=2e-3)), images, 2)


class Encoded(nn.Module):
    """Attention over padded tokens, averaged; its padding mask may be the wrong way round."""

    def __init__(self, symbols: int, inverted: bool, width: int = 32) -> None:
        super().__init__()
        self.inverted = inverted
        self.embed = nn.Embedding(symbols, width, padding_idx=0)
        self.asks, self.answers, self.says = (nn.Linear(width, width) for _ in range(3))
        self.head = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 2)
        )

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        padding = tokens == 0
        x = self.embed(tokens)
        scores = self.asks(x) @ self.answers(x).transpose(1, 2) / math.sqrt(x.shape[2])
        hidden = (~padding if self.inverted else padding).unsqueeze(1)
        x = x + scores.masked_fill(hidden, -math.inf).softmax(2) @ self.says(x)
        kept = (~padding).unsqueeze(2)
        return self.head((x * kept).sum(1) / kept.sum(1))


@CASES.sick(
    "padding-mask-inverted",
    "non-finite-loss",
    story="Gave the attention True for what is to be read; the longest sequence of a batch has nothing left.",
)
def padding_mask_inverted(images: Images, fault: bool) -> Session:
    return fitting(
        Sentiment(Encoded(40, inverted=fault), partial(Adam, lr=2e-3)),
        Opinions(1200, 1),
        Opinions(400, 2),
        epochs=4,
        batch=32,
        collate=Opinions.collate,
    )


@CASES.sick(
    "tied-to-unit-normal-embeddings",
    "wrong-initial-loss",
    "bad-initialization",
    story="Tied the output layer to nn.Embedding, whose weights start as unit normal: logits of spread 7.",
)
def tied_to_unit_normal(images: Images, fault: bool) -> Session:
    windows, letters = sentences(1200, 32)
    net = Causal(letters, 32)
    if fault:
        nn.init.normal_(net.embed.weight)
    return fitting(NextLetter(net, partial(AdamW, lr=1e-3)), *halves(windows), epochs=3, batch=32)


# -------------------------------------------------------------------------------- rates and schedules


class Scheduled(Classifier):
    """A schedule that is made from the optimizer and the number of steps, and stepped after each batch."""

    make_schedule: Any

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedule = self.make_schedule(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@CASES.sick(
    "one-cycle-over-images",
    "learning-rate-too-low",
    story="Gave OneCycleLR the number of images for the number of batches: the rate stays where it starts.",
)
def one_cycle_over_images(images: Images, fault: bool) -> Session:
    module = Scheduled(plain_cnn(norm="batch"), partial(SGD, lr=0.1, momentum=0.9))
    module.make_schedule = lambda optimizer, steps: OneCycleLR(
        optimizer, 0.1, total_steps=steps * 64 if fault else steps, div_factor=1000
    )
    return run(module, images)


@CASES.sick(
    "adadelta-at-the-rate-of-adam",
    "learning-rate-too-low",
    story="Chose Adadelta and set lr=0.001, as everywhere else; its own rate is 1.",
)
def adadelta(images: Images, fault: bool) -> Session:
    return run(Classifier(plain_cnn(), partial(Adadelta, lr=1e-3 if fault else 1.0)), images)


class OnPlateau(Classifier):
    """Lowers the rate when the training loss stands still, or, in mode max, whenever it falls."""

    mode: Literal["min", "max"] = "min"

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedule = ReduceLROnPlateau(optimizer, self.mode, factor=0.1, patience=0)
        settings = {"scheduler": schedule, "monitor": "train/loss", "interval": "epoch"}
        return {"optimizer": optimizer, "lr_scheduler": settings}


@CASES.sick(
    "plateau-of-a-falling-loss",
    "learning-rate-too-low",
    story="ReduceLROnPlateau watches the loss with mode='max': each epoch that lowers it costs nine tenths.",
)
def plateau(images: Images, fault: bool) -> Session:
    module = OnPlateau(plain_cnn(), partial(SGD, lr=0.02, momentum=0.9))
    module.mode = "max" if fault else "min"
    return run(module, images, 6)


class ScaledLoss(Classifier):
    """Backward on a loss times 65536, as a gradient scaler has it, then the step."""

    scale = 65536.0

    def __init__(self, *args: Any, unscaled: bool) -> None:
        super().__init__(*args)
        self.automatic_optimization = False
        self.unscaled = unscaled

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        loss = self.measure(batch, "train")
        self.manual_backward(loss * self.scale)
        if self.unscaled:
            for parameter in self.parameters():
                assert parameter.grad is not None
                parameter.grad /= self.scale
        optimizer.step()
        return loss


@CASES.sick(
    "scaled-and-never-unscaled",
    "learning-rate-too-high",
    "exploding-gradients",
    "non-finite-loss",
    story="scaler.scale(loss).backward(), then optimizer.step() where scaler.step(optimizer) was due.",
)
def never_unscaled(images: Images, fault: bool) -> Session:
    return run(ScaledLoss(plain_cnn(), partial(SGD, lr=0.05), unscaled=not fault), images, 3)


# ------------------------------------------------------------------------------------------ networks


@CASES.sick(
    "softmax-between-layers",
    "vanishing-gradients",
    "saturated-activations",
    story="Used nn.Softmax as the activation of the hidden layers.",
)
def softmax_between_layers(images: Images, fault: bool) -> Session:
    activation = partial(nn.Softmax, dim=1) if fault else nn.ReLU
    return run(Classifier(dense(128, 128, 64, activation=activation), partial(Adam, lr=1e-3)), images)


class AveragedFor(Classifier):
    """Validates an exponential average of the weights."""

    def __init__(self, *args: Any, decay: float) -> None:
        super().__init__(*args)
        self.average = copy.deepcopy(self.net).requires_grad_(False).eval()
        self.decay = decay

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) if self.training else self.average(x)

    def on_train_batch_end(self, *args: Any) -> None:
        with torch.no_grad():
            for mean, value in zip(
                self.average.state_dict().values(), self.net.state_dict().values(), strict=True
            ):
                mean.copy_(value + self.decay * (mean - value))

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.net.parameters())


@CASES.sick(
    "average-that-never-arrives",
    "train-val-mismatch",
    story="Validates averaged weights of decay 0.9999 in a run of 250 steps: they are the first ones.",
)
def average_never_arrives(images: Images, fault: bool) -> Session:
    module = AveragedFor(plain_cnn(), partial(Adam, lr=2e-3), decay=0.9999 if fault else 0.95)
    return run(module, images)


# ----------------------------------------------------------------------------------------------- data


@CASES.sick(
    "means-of-bytes-on-unit-pixels",
    "input-not-normalized",
    "input-constant",
    story="Normalized pixels of 0 to 1 by means near 125 and deviations near 63: all are near -2.",
)
def means_of_bytes(images: Images, fault: bool) -> Session:
    mean = torch.tensor([125.3, 123.0, 113.9]).view(3, 1, 1)
    deviation = torch.tensor([63.0, 62.1, 66.7]).view(3, 1, 1)
    unit = 255.0 if fault else 1.0
    train, val = (
        ((x.float() / unit - mean) / deviation, y)
        for x, y in ((images.train_x, images.train_y), (images.val_x, images.val_y))
    )
    return run(Classifier(plain_cnn(), partial(SGD, lr=0.02, momentum=0.9)), images, train=train, val=val)


@CASES.sick(
    "each-image-with-two-labels",
    "labels-random",
    story="Joined two exports of a set, of which one numbers its classes otherwise: images are in it twice.",
)
def each_image_with_two_labels(images: Images, fault: bool) -> Session:
    (x, y), _ = standard(images)
    other = torch.tensor([5, 7, 4, 6, 9, 8, 0, 2, 1, 3])[y] if fault else y
    train = torch.cat([x[::2], x[::2]]), torch.cat([y[::2], other[::2]])
    return run(Classifier(plain_cnn(norm="batch"), partial(Adam, lr=1e-3)), images, 2, train=train)


# -------------------------------------------------------------------------------------------- healthy


class LogProbabilities(Classifier):
    """log_softmax, then cross_entropy, which takes it again: the second changes nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.net(x), dim=1)


@CASES.healthy("log-softmax-twice", story="log_softmax before cross_entropy: done twice it is done once.")
def log_softmax_twice(images: Images) -> Session:
    return run(LogProbabilities(plain_cnn(), partial(Adam, lr=2e-3)), images)


@CASES.healthy("head-of-a-thousand", story="Kept the 1000 outputs of another data set for ten classes.")
def head_of_a_thousand(images: Images) -> Session:
    net = plain_cnn(norm="batch")
    net[-1] = nn.Linear(16 * 48, 1000)
    return run(Classifier(net, partial(Adam, lr=2e-3)), images, 5)


class FromBytes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x.float() - 120.0) / 63.0


@CASES.healthy("normalized-in-the-network", story="The loader gives bytes; the first layer normalizes them.")
def normalized_in_the_network(images: Images) -> Session:
    net = nn.Sequential(FromBytes(), *plain_cnn())
    train, val = (images.train_x, images.train_y), (images.val_x, images.val_y)
    return run(Classifier(net, partial(Adam, lr=2e-3)), images, train=train, val=val)


@CASES.healthy("warmed-up-from-zero", story="A linear warm-up whose first rate is exactly 0, then a decay.")
def warmed_up_from_zero(images: Images) -> Session:
    module = Scheduled(plain_cnn(norm="batch"), partial(AdamW, lr=4e-3))
    module.make_schedule = lambda optimizer, steps: LambdaLR(
        optimizer, lambda step: min(step / 50, max(0.0, (steps - step) / (steps - 50)))
    )
    return run(module, images)


class Binary(Classifier):
    """A binary loss for each class, summed over the classes."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, F.one_hot(y, NUM_CLASSES).float())


@CASES.healthy("binary-loss-for-each-class", story="Ten yes-or-no losses in place of one cross-entropy.")
def binary_loss(images: Images) -> Session:
    return run(Binary(plain_cnn(norm="batch"), partial(AdamW, lr=3e-3)), images, 5)


class Dropped(nn.Module):
    """A residual block that half of the batches pass by."""

    def __init__(self, width: int) -> None:
        super().__init__()
        last = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(last.weight)
        self.branch = nn.Sequential(conv_unit(width, width, 1, "batch"), last)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return x + 2 * self.branch(x) if torch.rand(()) < 0.5 else x
        return x + self.branch(x)


@CASES.healthy(
    "blocks-passed-by", story="Stochastic depth: zero-started branches, skipped in half the steps."
)
def blocks_passed_by(images: Images) -> Session:
    blocks = [Dropped(32) for _ in range(4)]
    net = nn.Sequential(nn.Conv2d(3, 32, 4, 4), *blocks, nn.ReLU(), nn.AvgPool2d(2), nn.Flatten())
    return run(Classifier(net.append(nn.Linear(16 * 32, NUM_CLASSES)), partial(Adam, lr=2e-3)), images, 5)


class Adapted(nn.Module):
    """A frozen linear layer and a trained product of two thin ones, the second of which starts at zero."""

    def __init__(self, layer: nn.Linear, rank: int = 8) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Linear(layer.in_features, rank, bias=False)
        self.up = nn.Linear(rank, layer.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.up(self.down(x))


@CASES.healthy(
    "low-rank-adapters", story="Fine-tuned by adapters of rank 8 that start at zero; the rest is frozen."
)
def low_rank_adapters(images: Images) -> Session:
    (x, y), _ = standard(images)
    net = dense(128, 64)
    optimizer = Adam(net.parameters(), lr=1e-3)
    order = torch.Generator().manual_seed(3)
    for _ in range(150):
        drawn = torch.randint(len(y), (64,), generator=order)
        optimizer.zero_grad()
        F.cross_entropy(net(x[drawn]), y[drawn]).backward()
        optimizer.step()
    optimizer.zero_grad()
    for place, layer in enumerate(net):
        if isinstance(layer, nn.Linear):
            net[place] = Adapted(layer) if layer.out_features != NUM_CLASSES else layer
    mirrored = (x.flip(-1), y)
    return run(
        Classifier(net, lambda ps: AdamW([p for p in ps if p.requires_grad], lr=1e-3)),
        images,
        4,
        train=mirrored,
    )


class Sharp(Classifier):
    """Sharpness-aware: the gradient at the worst point nearby moves the weights from where they were."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.automatic_optimization = False

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        loss = self.measure(batch, "train")
        self.manual_backward(loss)
        weights = [p for p in self.net.parameters() if p.grad is not None]
        with torch.no_grad():
            norm = math.sqrt(sum(float(p.grad.square().sum()) for p in weights if p.grad is not None))
            climbs = [0.05 * p.grad / (norm + 1e-12) for p in weights if p.grad is not None]
            torch._foreach_add_(weights, climbs)
        optimizer.zero_grad()
        self.manual_backward(self.loss(self(batch[0]), batch[1]))
        with torch.no_grad():
            torch._foreach_sub_(weights, climbs)
        optimizer.step()
        return loss


@CASES.healthy("sharpness-aware", story="SAM: two backward passes a step, the weights moved and moved back.")
def sharpness_aware(images: Images) -> Session:
    return run(Sharp(plain_cnn(norm="batch"), partial(SGD, lr=0.05, momentum=0.9)), images, 3)


@CASES.healthy(
    "fitted-by-lbfgs", story="A small network for a price by LBFGS on large batches, with a closure."
)
def fitted_by_lbfgs(images: Images) -> Session:
    net = nn.Sequential(
        nn.Linear(8, 32), nn.Tanh(), weight_norm(nn.Linear(32, 32)), nn.Tanh(), nn.Linear(32, 1)
    )
    optimizer = partial(LBFGS, lr=0.5, max_iter=8, line_search_fn="strong_wolfe")
    return fitting(Regression(net, optimizer), *halves(*house_prices()), epochs=6, batch=1200)
