"""Faults and odd but healthy runs retold from public reports, of kinds that no other file here has: threads
of GitHub, named where there is one, and what forums ask again and again. Written before any rule was changed.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from clinic import NUM_CLASSES, CaseBook, Classifier, Images, Session
from healthy import Segmentation, SmallUNet, fitting, halves, shapes
from lightning.pytorch.callbacks import StochasticWeightAveraging
from mutants import Cosine, Sentence
from reports import Scheduled
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW
from torch.optim.lr_scheduler import CyclicLR, LambdaLR
from torch.utils.data import DataLoader, Dataset, RandomSampler
from wild import Pair, TinyViT, conv_unit, dense, plain_cnn, pretrained, residual_net, run, standard

CASES = CaseBook()


# ------------------------------------------------------------------------------------------------ data


class MixedByShare(Classifier):
    """Mixup whose labels may get the share of the other image (kornia/kornia#3077)."""

    swapped = False

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        x, y = batch
        share = float(torch.distributions.Beta(0.2, 0.2).sample())
        other = torch.randperm(len(y))
        logits = self(share * x + (1 - share) * x[other])
        own = 1 - share if self.swapped else share
        loss = own * F.cross_entropy(logits, y) + (1 - own) * F.cross_entropy(logits, y[other])
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(y))
        return loss


@CASES.sick(
    "mixed-by-the-wrong-share",
    "labels-random",
    story="Mixup gives each of two labels the share of the other image.",
)
def mixed_by_the_wrong_share(images: Images, fault: bool) -> Session:
    module = MixedByShare(plain_cnn(norm="batch"), partial(Adam, lr=2e-3))
    module.swapped = fault
    return run(module, images)


def standardized_each(x: Tensor, least: float) -> Tensor:
    deviation, mean = torch.std_mean(x.float(), dim=(1, 2, 3), keepdim=True)
    return (x.float() - mean) / deviation.clamp(min=least)


@CASES.sick(
    "blank-image-standardized",
    "non-finite-loss",
    story="Standardizes each image by itself; one in the training set is blank, and 0/0 is in its place.",
)
def blank_image_standardized(images: Images, fault: bool) -> Session:
    blank = images.train_x.clone()
    blank[1234] = 255
    least = 0.0 if fault else 1e-6
    train = standardized_each(blank, least), images.train_y
    val = standardized_each(images.val_x, least), images.val_y
    return run(Classifier(plain_cnn(norm="batch"), partial(Adam, lr=2e-3)), images, train=train, val=val)


class ReadFromMemory(Dataset):
    """Images held as floats of 0 to 1, normalized when they are read, in place or not."""

    def __init__(self, x: Tensor, y: Tensor, in_place: bool) -> None:
        self.x, self.y, self.in_place = x.float() / 255, y, in_place

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, place: int) -> Pair:
        image = self.x[place] if self.in_place else self.x[place].clone()
        image -= 0.48
        image /= 0.25
        return image, self.y[place]


@CASES.sick(
    "normalized-in-place",
    "input-not-normalized",
    "train-val-mismatch",
    story="The data set normalizes in place what it holds in memory: each epoch does it once more.",
)
def normalized_in_place(images: Images, fault: bool) -> Session:
    session = run(Classifier(plain_cnn(), partial(SGD, lr=0.02, momentum=0.9)), images, 5)
    session.train_loader = DataLoader(
        ReadFromMemory(images.train_x, images.train_y, in_place=fault), 64, shuffle=True
    )
    session.val_loader = DataLoader(ReadFromMemory(images.val_x, images.val_y, in_place=False), 200)
    return session


class Weighted(Classifier):
    weights: Tensor

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, self.weights if self.training else None)


@CASES.sick(
    "weighted-by-frequency",
    "class-imbalance",
    story="Weights the classes of an uneven set by how many images they have, not by the inverse.",
)
def weighted_by_frequency(images: Images, fault: bool) -> Session:
    x, y = standard(images)[0]
    kept = torch.cat([torch.nonzero(y == k).flatten()[: 400 if k < 5 else 30] for k in range(NUM_CLASSES)])
    train = x[kept], y[kept]
    counts = train[1].bincount().float()
    module = Weighted(plain_cnn(norm="batch"), partial(Adam, lr=1e-3))
    module.weights = counts / counts.mean() if fault else (1 / counts) / (1 / counts).mean()
    return run(module, images, 5, train=train)


# ------------------------------------------------------------------------------------------------ loss


class Smoothed(Classifier):
    smoothing = 0.1

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, label_smoothing=self.smoothing if self.training else 0.0)


@CASES.sick(
    "confidence-taken-for-smoothing",
    "regularization-too-strong",
    "underfitting",
    story="Gave label_smoothing the confidence of the labels, 0.95, where it takes what is to be taken off.",
)
def confidence_for_smoothing(images: Images, fault: bool) -> Session:
    module = Smoothed(plain_cnn(norm="batch"), partial(SGD, lr=0.05, momentum=0.9))
    module.smoothing = 0.95 if fault else 0.05
    return run(module, images)


class LikelihoodByHand(Classifier):
    sign = -1.0

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return self.sign * torch.log_softmax(logits, 1).gather(1, y.unsqueeze(1)).mean()


@CASES.sick(
    "minus-sign-forgotten",
    "wrong-initial-loss",
    "exploding-gradients",
    "non-finite-loss",
    story="Wrote the negative log likelihood by hand and forgot the minus: the loss falls without end.",
)
def minus_sign_forgotten(images: Images, fault: bool) -> Session:
    module = LikelihoodByHand(plain_cnn(norm="group"), partial(Adam, lr=1e-3))
    module.sign = 1.0 if fault else -1.0
    return run(module, images, 3)


class ForegroundOnly(Segmentation):
    ignored = -100

    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, mask = batch
        logits = self(x)
        loss = F.cross_entropy(logits, mask, ignore_index=self.ignored)
        return loss, {"acc": (logits.argmax(1) == mask).float().mean()}


@CASES.sick(
    "background-ignored",
    "class-imbalance",
    "train-val-mismatch",
    story="Set ignore_index=0 for the padding of masks, where 0 is the background: it is never learned.",
)
def background_ignored(images: Images, fault: bool) -> Session:
    x, mask, _ = shapes(500)
    module = ForegroundOnly(SmallUNet(), partial(Adam, lr=3e-3))
    module.ignored = 0 if fault else -100
    return fitting(module, *halves(x, mask), epochs=4, batch=16)


class Centred(Classifier):
    """Pulls the features of each class to a centre that is learned (KaiyangZhou/pytorch-center-loss)."""

    def __init__(self, *args: Any, pull: float) -> None:
        super().__init__(*args)
        self.pull = pull
        self.centres = nn.Parameter(torch.zeros(NUM_CLASSES, self.net[-1].in_features))

    def measure(self, batch: Pair, stage: str) -> Tensor:
        x, y = batch
        features = self.net[:-1](x)
        logits = self.net[-1](features)
        apart = (features - self.centres[y]).square().sum(1).mean()
        loss = self.loss(logits, y) + self.pull * apart
        accuracy = (logits.argmax(1) == y).float().mean()
        values = {f"{stage}/loss": loss, f"{stage}/acc": accuracy}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(y))
        return loss


@CASES.sick(
    "features-pulled-together",
    "regularization-too-strong",
    story="Gave the centre loss, summed over the features, the weight 1: all features go to one point.",
)
def features_pulled_together(images: Images, fault: bool) -> Session:
    net = nn.Sequential(*plain_cnn(norm="group"))
    return run(Centred(net, partial(Adam, lr=1e-3), pull=1.0 if fault else 1e-4), images)


# ------------------------------------------------------------------------------------------------ steps


@CASES.sick(
    "rate-as-the-factor",
    "learning-rate-too-low",
    story="LambdaLR's function returns the rate, where the factor on it is wanted: the rate is squared.",
)
def rate_as_the_factor(images: Images, fault: bool) -> Session:
    module = Scheduled(plain_cnn(norm="batch"), partial(SGD, lr=0.01, momentum=0.9))
    module.make_schedule = lambda optimizer, steps: LambdaLR(
        optimizer, lambda step: (0.01 if fault else 1.0) * (1 - step / steps)
    )
    return run(module, images)


@CASES.sick(
    "maximize-left-on",
    "wrong-gradient",
    "learning-rate-too-high",
    story="Took the optimizer of a policy's script, with maximize=True: each step raises the loss.",
)
def maximize_left_on(images: Images, fault: bool) -> Session:
    return run(Classifier(plain_cnn(norm="batch"), partial(SGD, lr=0.01, maximize=fault)), images, 3)


class CopiedBack(Classifier):
    """Keeps averaged weights and, by mistake, goes on from them after each step."""

    def __init__(self, *args: Any, back: bool) -> None:
        super().__init__(*args)
        self.back = back
        self.average = copy.deepcopy(self.net).requires_grad_(False)

    def on_train_batch_end(self, *args: Any) -> None:
        with torch.no_grad():
            for slow, fast in zip(self.average.parameters(), self.net.parameters(), strict=True):
                slow.lerp_(fast, 0.005)
                if self.back:
                    fast.copy_(slow)

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.net.parameters())


@CASES.sick(
    "average-copied-back",
    "learning-rate-too-low",
    "frozen-parameters",
    story="Copies the averaged weights into the model after each step, not after training.",
)
def average_copied_back(images: Images, fault: bool) -> Session:
    return run(CopiedBack(plain_cnn(), partial(Adam, lr=1e-3), back=fault), images)


class Half(Classifier):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.half()).float()


@CASES.sick(
    "adam-in-half-precision",
    "non-finite-loss",
    story="Called half() on the network; Adam's eps of 1e-8 is zero there (pytorch/pytorch#8860).",
)
def adam_in_half_precision(images: Images, fault: bool) -> Session:
    net = dense(96, 64).half()
    return run(Half(net, partial(Adam, lr=1e-3, eps=1e-8 if fault else 1e-4)), images, 3)


class Preview(Classifier):
    """Predicts a few images now and then, to look at them."""

    back = True

    def on_train_batch_end(self, outputs: Any, batch: Pair, batch_idx: int) -> None:
        if batch_idx == 4:
            self.net.eval()
            with torch.no_grad():
                self(batch[0][:4])
            if self.back:
                self.net.train()


@CASES.sick(
    "preview-leaves-evaluation-mode",
    "eval-mode-training",
    story="Calls eval() for a preview after five steps and never train() again.",
)
def preview_leaves_evaluation_mode(images: Images, fault: bool) -> Session:
    units = [conv_unit(a, 32, s, "batch") for a, s in [(3, 4), *[(32, 1)] * 6]]
    net = nn.Sequential(*units, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * 32, NUM_CLASSES))
    module = Preview(net, partial(SGD, lr=0.05, momentum=0.9))
    module.back = not fault
    return run(module, images)


# ------------------------------------------------------------------------------------------------ networks


@CASES.sick(
    "attention-over-the-batch",
    "labels-random",
    "underfitting",
    "frozen-parameters",
    story="Left out batch_first=True: tokens attend to the same place of other images, not to their own.",
)
def attention_over_the_batch(images: Images, fault: bool) -> Session:
    net = TinyViT()
    layer = nn.TransformerEncoderLayer(40, 4, 80, 0.0, F.gelu, batch_first=not fault, norm_first=True)
    net.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    return run(Classifier(net, partial(AdamW, lr=2e-3)), images)


class WithoutScale(Cosine):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 16


@CASES.sick(
    "cosines-without-a-scale",
    "underfitting",
    "saturated-activations",
    "double-softmax",
    story="Gave cross_entropy cosines between -1 and 1, without the scale that margin losses have.",
)
def cosines_without_a_scale(images: Images, fault: bool) -> Session:
    net = nn.Sequential(*plain_cnn(norm="batch")[:-1], (WithoutScale if fault else Cosine)(768))
    return run(Classifier(net, partial(SGD, lr=0.05, momentum=0.9)), images)


@CASES.sick(
    "pooled-before-the-convolutions",
    "underfitting",
    story="Put the global pooling first: the convolutions see one pixel, the mean colour.",
)
def pooled_first(images: Images, fault: bool) -> Session:
    units = [conv_unit(3, 24, 2, "batch"), conv_unit(24, 48, 2, "batch"), conv_unit(48, 48, 2, "batch")]
    pool = nn.AdaptiveAvgPool2d(1)
    net = nn.Sequential(*([pool, *units] if fault else [*units, pool]), nn.Flatten(), nn.Linear(48, 10))
    return run(Classifier(net, partial(Adam, lr=3e-3)), images)


@CASES.sick(
    "normalized-to-nothing",
    "vanishing-gradients",
    "frozen-parameters",
    "input-constant",
    story="GroupNorm with a group for each channel behind global pooling: one value less its own mean is 0.",
)
def normalized_to_nothing(images: Images, fault: bool) -> Session:
    norm = nn.GroupNorm(48 if fault else 4, 48)
    net = nn.Sequential(*plain_cnn(norm="batch")[:3], nn.AdaptiveAvgPool2d(1), norm, nn.Flatten())
    return run(Classifier(net.append(nn.Linear(48, NUM_CLASSES)), partial(Adam, lr=2e-3)), images)


class Order(nn.Module):
    """Attention over token ids [N, T] with or without embedded places, and the mean of what it says."""

    def __init__(self, symbols: int, length: int, places: bool, width: int = 32) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, width)
        self.places = nn.Parameter(0.5 * torch.randn(length, width)) if places else None
        layer = nn.TransformerEncoderLayer(width, 4, 64, 0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return self.head(self.blocks(x if self.places is None else x + self.places).mean(1))


def which_first(count: int, length: int = 8) -> Pair:
    """Sequences of 12 symbols, each with one 0 and one 1, and whether the 0 is before the 1."""
    draw = torch.Generator().manual_seed(31)
    tokens = torch.randint(2, 12, (count, length), generator=draw)
    places = torch.rand(count, length, generator=draw).argsort(1)[:, :2]
    tokens.scatter_(1, places, torch.tensor([0, 1]).expand(count, 2))
    return tokens, (places[:, 0] < places[:, 1]).long()


@CASES.sick(
    "order-without-places",
    "underfitting",
    "labels-random",
    story="Forgot the embedding of places: a transformer is to say which of two symbols comes first.",
)
def order_without_places(images: Images, fault: bool) -> Session:
    module = Sentence(Order(12, 8, places=not fault), partial(Adam, lr=2e-3))
    return fitting(module, *halves(*which_first(2500)), epochs=6, batch=32)


# ------------------------------------------------------------------------------------------------ healthy


class Brier(Classifier):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(logits.softmax(1), F.one_hot(y, NUM_CLASSES).float())


@CASES.healthy(
    "brier-score", story="The squared error of softmax probabilities, a proper score, starts at 0.09."
)
def brier_score(images: Images) -> Session:
    return run(Brier(plain_cnn(norm="batch"), partial(Adam, lr=2e-3)), images, 5)


@CASES.healthy("one-block-four-times", story="The same residual block four times over, its weights shared.")
def one_block_four_times(images: Images) -> Session:
    net = residual_net(32, 1, partial(nn.GroupNorm, 4))
    shared = nn.Sequential(net[0], *[net[1]] * 4, *net[2:])
    return run(Classifier(shared, partial(AdamW, lr=2e-3)), images, 4)


class NormsAsTheyCame(Classifier):
    """Fine-tunes all weights and leaves BatchNorm in eval mode, as detectors do."""

    def train(self, mode: bool = True) -> NormsAsTheyCame:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


@CASES.healthy("norms-as-they-came", story="Fine-tunes a pretrained net with BatchNorm's statistics kept.")
def norms_as_they_came(images: Images) -> Session:
    (x, y), _ = standard(images)
    net: Any = pretrained(plain_cnn(norm="batch"), x[::2], y[::2], 3)
    net[-1] = nn.Linear(net[-1].in_features, NUM_CLASSES)
    module = NormsAsTheyCame(net, partial(Adam, lr=5e-4))
    module.train()
    return run(module, images, 4, train=(x[1::2], y[1::2]))


class SlowTrunk(Classifier):
    def configure_optimizers(self) -> Any:
        trunk = {"params": self.net[:-1].parameters(), "lr": 2e-5}
        return AdamW([trunk, {"params": self.net[-1].parameters()}], lr=2e-3)


@CASES.healthy("trunk-at-a-hundredth", story="A pretrained trunk at a hundredth of the head's rate.")
def trunk_at_a_hundredth(images: Images) -> Session:
    (x, y), _ = standard(images)
    net: Any = pretrained(plain_cnn(norm="batch"), x[::2], y[::2], 3)
    net[-1] = nn.Linear(net[-1].in_features, NUM_CLASSES)
    return run(SlowTrunk(net, partial(Adam)), images, 4, train=(x[1::2], y[1::2]))


class Focal(Classifier):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        each = F.cross_entropy(logits, y, reduction="none")
        return ((1 - (-each).exp()).square() * each).mean()


@CASES.healthy("focal-loss", story="The focal loss with gamma 2, on classes of one size.")
def focal_loss(images: Images) -> Session:
    return run(Focal(plain_cnn(norm="group"), partial(AdamW, lr=2e-3)), images, 4)


@CASES.healthy("rate-up-and-down", story="CyclicLR between 1e-3 and 0.05, a cycle an epoch.")
def rate_up_and_down(images: Images) -> Session:
    module = Scheduled(plain_cnn(norm="batch"), partial(SGD, lr=1e-3, momentum=0.9))
    module.make_schedule = lambda optimizer, steps: CyclicLR(optimizer, 1e-3, 0.05, 31, cycle_momentum=False)
    return run(module, images, 4)


@CASES.healthy("drawn-with-replacement", story="A RandomSampler draws 2500 of 4000 images, with replacement.")
def drawn_with_replacement(images: Images) -> Session:
    session = run(Classifier(plain_cnn(norm="batch"), partial(Adam, lr=2e-3)), images, 6)
    data = session.train_loader.dataset
    session.train_loader = DataLoader(data, 64, sampler=RandomSampler(data, True, 2500))  # type: ignore[arg-type]
    return session


class Growing(Classifier):
    """Trains on images of half the size for two epochs, then of the whole."""

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        x, y = batch
        return super().training_step((F.avg_pool2d(x, 2) if self.current_epoch < 2 else x, y), batch_idx)


@CASES.healthy("images-that-grow", story="Progressive resizing: 16x16 for two epochs, then 32x32.")
def images_that_grow(images: Images) -> Session:
    units = [conv_unit(3, 24, 2, "batch"), conv_unit(24, 48, 2, "batch"), conv_unit(48, 64, 1, "batch")]
    net = nn.Sequential(*units, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, NUM_CLASSES))
    return run(Growing(net, partial(Adam, lr=2e-3)), images, 5)


class Swa(Classifier):
    def configure_callbacks(self) -> Any:
        return [StochasticWeightAveraging(swa_lrs=5e-3, swa_epoch_start=2, annealing_epochs=1)]


@CASES.healthy("averaged-by-the-framework", story="Lightning's StochasticWeightAveraging from epoch 2 on.")
def averaged_by_the_framework(images: Images) -> Session:
    return run(Swa(plain_cnn(norm="batch"), partial(SGD, lr=0.03, momentum=0.9)), images, 5)


@CASES.healthy("pixels-of-zero-to-one", story="ToTensor() and nothing more, a network with BatchNorm.")
def pixels_of_zero_to_one(images: Images) -> Session:
    train, val = (images.train_x.float() / 255, images.train_y), (images.val_x.float() / 255, images.val_y)
    return run(Classifier(plain_cnn(norm="batch"), partial(Adam, lr=1e-3)), images, 4, train=train, val=val)
