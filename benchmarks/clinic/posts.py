"""Faults and odd but healthy runs of image classifiers, of the kinds that a practitioner thinks of first,
retold from forum posts, issues and the operators of published fault benchmarks, at other places and strengths
than in the other files, half of the faults mild. Written before any rule was looked at.

Validation accuracy and loss after the last epoch, one seed; the twins of the other faults were not run, so
that the harm of these is not shown:

                                             sick            twin
                                        acc   loss     acc   loss
    momentum-left-out                   0.24   2.17   0.41   1.64
    rate-for-sixteen-devices            0.28   1.98   0.34   1.81
    a-tenth-each-epoch                  0.45   1.48   0.52   1.32
    hundredth-for-adam                  0.37   1.81   0.41   1.62
    accumulated-as-on-the-cluster       0.26   2.04   0.40   1.60
    thawed-after-the-end                0.42   1.71   0.45   1.53
    pasted-and-not-told                 0.34   1.87   0.42   1.57
    crops-of-imagenet                   0.31   1.95   0.39   1.70
    probed-on-other-pixels              0.36   1.84   0.44   1.54
    softmax-in-the-step                 0.36   2.82   0.43   1.58
    two-thirds-of-each-token-dropped    0.29   1.97   0.35   1.80
    clamped-from-zero                   0.24   2.16   0.41   1.68
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from clinic import NUM_CLASSES, CaseBook, Classifier, Images, Session, normalized
from lightning.pytorch.callbacks import BackboneFinetuning, Callback
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, StepLR
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler, random_split
from torchvision.transforms import v2
from variants import VisionTransformer, group_resnet, mobile, perceptron, squeezed, vgg
from wild import Pair, conv_mixer, dense, lenet, plain_cnn, pretrained, residual_net, run, standard

CASES = CaseBook()


class Read(Dataset):
    """Byte images in memory, each brought by `transform` to what the network takes."""

    def __init__(self, pixels: Tensor, labels: Tensor, transform: Callable[[Tensor], Tensor]) -> None:
        self.pixels, self.labels, self.transform = pixels, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Pair:
        return self.transform(self.pixels[index]), self.labels[index]


def reading(
    module: Classifier,
    images: Images,
    train: Callable[[Tensor], Tensor],
    val: Callable[[Tensor], Tensor],
    epochs: int = 4,
    batch: int = 64,
) -> Session:
    return Session(
        module,
        DataLoader(Read(images.train_x, images.train_y, train), batch, shuffle=True),
        DataLoader(Read(images.val_x, images.val_y, val), 250),
        {"max_epochs": epochs},
    )


class Scheduled(Classifier):
    """With a schedule that is stepped once an epoch."""

    def __init__(self, *args: Any, schedule: Callable[[Optimizer], Any] | None = None) -> None:
        super().__init__(*args)
        self.schedule = schedule

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return optimizer if self.schedule is None else ([optimizer], [self.schedule(optimizer)])


def uneven(images: Images, least: float = 0.1) -> Pair:
    """Each class with fewer images than the one before, the last with a share of `least`."""
    kept = []
    for label in range(NUM_CLASSES):
        members = (images.train_y == label).nonzero()[:, 0]
        kept.append(members[: int(len(members) * least ** (label / (NUM_CLASSES - 1)))])
    chosen = torch.cat(kept)
    return normalized(images.train_x[chosen]), images.train_y[chosen]


# ------------------------------------------------------------------------------ the optimizer and its rate


@CASES.sick(
    "momentum-left-out",
    "learning-rate-too-low",
    story="Took the paper's rate for SGD with momentum 0.9 and left the momentum out.",
)
def momentum_left_out(images: Images, fault: bool) -> Session:
    momentum = 0.0 if fault else 0.9
    return run(Classifier(lenet(), partial(SGD, lr=0.01, momentum=momentum)), images, 4)


@CASES.sick(
    "rate-for-sixteen-devices",
    "learning-rate-too-high",
    story="Scales the rate by the number of devices in the paper, sixteen, and trains on one.",
)
def rate_for_sixteen_devices(images: Images, fault: bool) -> Session:
    rate = 1e-3 * (16 if fault else 1)
    return run(Classifier(VisionTransformer(), partial(AdamW, lr=rate, weight_decay=0.05)), images, 4)


@CASES.sick(
    "a-tenth-each-epoch",
    "learning-rate-too-low",
    story="StepLR(step_size=1, gamma=0.1), left from a run in which an epoch was 30 times as long "
    "(hukenovs/hagrid#12).",
)
def a_tenth_each_epoch(images: Images, fault: bool) -> Session:
    schedule = partial(StepLR, step_size=1, gamma=0.1) if fault else partial(CosineAnnealingLR, T_max=5)
    return run(
        Scheduled(vgg(8, 16, 32, norm=True), partial(SGD, lr=0.02, momentum=0.9), schedule=schedule),
        images,
        5,
    )


@CASES.sick(
    "hundredth-for-adam",
    "learning-rate-too-high",
    "dead-relu",
    story="Adam(lr=0.02), the rate that SGD had, for a plain convnet.",
)
def hundredth_for_adam(images: Images, fault: bool) -> Session:
    return run(Classifier(vgg(8, 16, 32), partial(Adam, lr=0.02 if fault else 1e-3)), images, 4)


@CASES.sick(
    "decay-of-ten",
    "regularization-too-strong",
    story="AdamW(weight_decay=20): read it as the strength of a penalty that was to be felt.",
)
def decay_of_ten(images: Images, fault: bool) -> Session:
    decay = 20.0 if fault else 0.02
    return run(Classifier(squeezed(16, 32, 48), partial(AdamW, lr=2e-3, weight_decay=decay)), images, 4)


@CASES.sick(
    "accumulated-as-on-the-cluster",
    "learning-rate-too-low",
    "underfitting",
    story="Trainer(accumulate_grad_batches=16), from the configuration for a hundred times the images: four "
    "steps an epoch.",
)
def accumulated_as_on_the_cluster(images: Images, fault: bool) -> Session:
    every = 16 if fault else 1
    module = Classifier(mobile(16, 32, 64), partial(Adam, lr=2e-3))
    return run(module, images, 4, accumulate_grad_batches=every)


class TwoOptimizers(Classifier):
    """Trunk and head have an optimizer each, stepped by hand."""

    forgets = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.automatic_optimization = False

    def training_step(self, batch: Pair, batch_idx: int) -> None:  # type: ignore[override]
        trunk, head = self.optimizers()  # type: ignore[attr-defined]
        if not self.forgets:
            trunk.zero_grad()
        head.zero_grad()
        self.manual_backward(self.measure(batch, "train"))
        trunk.step()
        head.step()

    def configure_optimizers(self) -> Any:
        return [self.make_optimizer(self.net[:-1].parameters()), Adam(self.net[-1].parameters(), lr=1e-3)]


@CASES.sick(
    "cleared-for-the-head-alone",
    "gradients-accumulate",
    story="Trunk and head have an optimizer each; zero_grad() is called for the head's.",
)
def cleared_for_the_head_alone(images: Images, fault: bool) -> Session:
    module = TwoOptimizers(plain_cnn(16, "group"), partial(SGD, lr=0.02, momentum=0.9))
    module.forgets = fault
    return run(module, images, 4)


# ------------------------------------------------------------------------------------- what does not learn


class Parted(Classifier):
    """Trunk and head apart, as the framework's callback for fine-tuning wants it."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.backbone, self.head = self.net[:-1], self.net[-1]
        self.finetuning: list[Callback] = []

    def configure_callbacks(self) -> list[Callback]:
        return self.finetuning

    def configure_optimizers(self) -> Any:
        return self.make_optimizer([p for p in self.parameters() if p.requires_grad])


@CASES.sick(
    "thawed-after-the-end",
    "frozen-parameters",
    story="BackboneFinetuning thaws after ten epochs, its default, in a run of five, and weights=None.",
)
def thawed_after_the_end(images: Images, fault: bool) -> Session:
    finetuning = BackboneFinetuning(
        unfreeze_backbone_at_epoch=10, lambda_func=lambda epoch: 1.0, verbose=False
    )
    module = Parted(conv_mixer(32, 2), partial(AdamW, lr=2e-3))
    module.finetuning = [finetuning] if fault else []
    return run(module, images, 5)


# ------------------------------------------------------------------------------------------------- labels


class Pasting:
    """A collate function that pastes a part of another image of the batch into each (CutMix)."""

    def __init__(self, told: bool) -> None:
        self.told = told

    def __call__(self, pairs: list[Pair]) -> tuple[Tensor, Tensor]:
        x, y = (torch.stack(part) for part in zip(*pairs, strict=True))
        shares = F.one_hot(y, NUM_CLASSES).float()
        other = torch.randperm(len(y))
        side = int(32 * (1 - torch.rand(()).item()) ** 0.5)
        top, left = torch.randint(33 - side, (2,)).tolist()
        x[:, :, top : top + side, left : left + side] = x[other, :, top : top + side, left : left + side]
        part = (side / 32) ** 2 if self.told else 0.0
        return x, (1 - part) * shares + part * shares[other]


class Shared(Classifier):
    """Labels are shares of classes in training and numbers in validation."""

    def measure(self, batch: Pair, stage: str) -> Tensor:
        x, y = batch
        logits = self(x)
        loss = self.loss(logits, y)
        numbers = y if y.dim() == 1 else y.argmax(1)
        values = {f"{stage}/loss": loss, f"{stage}/acc": (logits.argmax(1) == numbers).float().mean()}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(y))
        return loss


@CASES.sick(
    "pasted-and-not-told",
    "labels-random",
    "regularization-too-strong",
    "train-val-mismatch",
    story="The collate function pastes a part of another image into each (CutMix) and leaves the label as it "
    "was, however large the part.",
)
def pasted_and_not_told(images: Images, fault: bool) -> Session:
    session = run(Shared(plain_cnn(24, "batch"), partial(Adam, lr=2e-3)), images, 4)
    (x, y), _ = standard(images)
    session.train_loader = DataLoader(TensorDataset(x, y), 64, shuffle=True, collate_fn=Pasting(not fault))
    return session


# -------------------------------------------------------------------------------- which images, and how often


@CASES.sick(
    "limited-for-a-test",
    "class-imbalance",
    "data-not-shuffled",
    "train-val-mismatch",
    story="limit_train_batches=0.4 was left in the Trainer, and the loader does not shuffle: the first four "
    "classes of the folder are all it sees.",
)
def limited_for_a_test(images: Images, fault: bool) -> Session:
    session = run(Classifier(mobile(16, 32, 64), partial(SGD, lr=0.05, momentum=0.9)), images, 6, 50)
    (x, y), _ = standard(images)
    session.train_loader = DataLoader(TensorDataset(x, y), 50, shuffle=not fault)
    session.trainer_kwargs["limit_train_batches"] = 0.4
    return session


@CASES.sick(
    "shares-exchanged",
    "overfitting",
    story="random_split(images, [n // 10, n - n // 10]): trains on the tenth and validates on the rest.",
)
def shares_exchanged(images: Images, fault: bool) -> Session:
    (x, y), _ = standard(images)
    few, many = random_split(TensorDataset(x, y), [len(y) // 10, len(y) - len(y) // 10])
    train, val = (few, many) if fault else (many, few)
    return Session(
        Classifier(plain_cnn(32, "batch"), partial(Adam, lr=2e-3)),
        DataLoader(train, 32, shuffle=True),
        DataLoader(val, 250),
        {"max_epochs": 30 if fault else 3},
    )


@CASES.sick(
    "validated-on-training-images",
    "data-leak",
    story="val_dataloader() was copied from train_dataloader(), train=True and all.",
)
def validated_on_training_images(images: Images, fault: bool) -> Session:
    train, val = standard(images)
    part = torch.randperm(len(train[1]))[:1000]
    seen = train[0][part], train[1][part]
    module = Classifier(residual_net(), partial(AdamW, lr=2e-3))
    return run(module, images, 6, val=seen if fault else val)


@CASES.sick(
    "drawn-by-frequency",
    "class-imbalance",
    story="WeightedRandomSampler is given how often an image's class occurs, not the inverse of it.",
)
def drawn_by_frequency(images: Images, fault: bool) -> Session:
    x, y = uneven(images, 0.2)
    count = torch.bincount(y).double()[y]
    sampler = WeightedRandomSampler(list(count**2 if fault else 1 / count), len(y))
    session = run(Classifier(group_resnet(), partial(Adam, lr=2e-3)), images, 6)
    session.train_loader = DataLoader(TensorDataset(x, y), 64, sampler=sampler)
    return session


class Weighed(Classifier):
    weights: Tensor

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, self.weights)


@CASES.sick(
    "weights-in-order-of-frequency",
    "class-imbalance",
    story="Class weights from value_counts(), which sorts by frequency: the list begins with the weight of "
    "the commonest class, wherever that stands (qubvel/segmentation_models#208).",
)
def weights_in_order_of_frequency(images: Images, fault: bool) -> Session:
    x, y = uneven(images, 0.1)
    y = NUM_CLASSES - 1 - y  # the commonest class is the last
    weights = len(y) / torch.bincount(y).float() / NUM_CLASSES
    module = Weighed(lenet(), partial(Adam, lr=1e-3))
    module.register_buffer("weights", weights.sort().values if fault else weights)
    val = normalized(images.val_x), NUM_CLASSES - 1 - images.val_y
    return run(module, images, 8, train=(x, y), val=val)


# ------------------------------------------------------------------------------------ how images are prepared


MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
USUAL = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])


@CASES.sick(
    "crops-of-imagenet",
    "regularization-too-strong",
    "train-val-mismatch",
    "underfitting",
    story="RandomResizedCrop(32) as it comes: from 8% of an image on, which is nine pixels by nine; "
    "and jitter.",
)
def crops_of_imagenet(images: Images, fault: bool) -> Session:
    strong = v2.Compose([v2.RandomResizedCrop(32, antialias=True), v2.ColorJitter(0.8, 0.8, 0.8, 0.2), USUAL])
    mild = v2.Compose([v2.RandomCrop(32, 4), USUAL])
    module = Classifier(plain_cnn(24), partial(Adam, lr=1e-3))
    return reading(module, images, strong if fault else mild, USUAL, 3)


@CASES.sick(
    "jittered-after-normalizing",
    "train-val-mismatch",
    story="ColorJitter stands behind Normalize; it clamps what it makes to 0..1, so that all that is darker "
    "than the mean is black in training.",
)
def jittered_after_normalizing(images: Images, fault: bool) -> Session:
    jitter = v2.ColorJitter(brightness=0.3)
    train = v2.Compose([USUAL, jitter]) if fault else v2.Compose([jitter, USUAL])
    return reading(Classifier(squeezed(16, 32, 48), partial(Adam, lr=2e-3)), images, train, USUAL, 3)


class Probing(Classifier):
    """Trains the head of a pretrained trunk that stays in evaluation mode."""

    def train(self, mode: bool = True) -> Probing:
        super().train(mode)
        self.net[:-1].eval()
        return self

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.net[-1].parameters())


@CASES.sick(
    "probed-on-other-pixels",
    "input-not-normalized",
    "train-val-mismatch",
    story="A frozen pretrained trunk is fed pixels of 0 to 1; it had been trained on normalized ones.",
)
def probed_on_other_pixels(images: Images, fault: bool) -> Session:
    (x, y), val = standard(images)
    net = pretrained(plain_cnn(24, "batch"), x[::2], y[::2], 3)
    net[:-1].requires_grad_(False)
    net[-1] = nn.Linear(net[-1].in_features, NUM_CLASSES)  # type: ignore[arg-type]
    train = x[1::2], y[1::2]
    if fault:
        train, val = (images.train_x[1::2] / 255, y[1::2]), (images.val_x / 255, val[1])
    module = Probing(net, partial(Adam, lr=2e-3))
    module.train()
    return run(module, images, 5, train=train, val=val)


# ---------------------------------------------------------------------------------------------- the network


class Deep(nn.Module):
    """Many plain convolutions, each with its input added to it, or not."""

    def __init__(self, depth: int, added: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, 4)
        self.layers = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(depth))
        self.head = nn.Linear(16 * 16, NUM_CLASSES)
        self.added = added

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer in self.layers:
            out = F.relu(layer(x))
            x = x + 0.5 * out if self.added else out
        return self.head(F.avg_pool2d(x, 2).flatten(1))


@CASES.sick(
    "sum-not-assigned",
    "vanishing-gradients",
    "bad-initialization",
    story="Wrote `out + x` on a line of its own, in place of `out += x`: sixteen convolutions with "
    "no shortcut.",
)
def sum_not_assigned(images: Images, fault: bool) -> Session:
    return run(Classifier(Deep(16, added=not fault), partial(Adam, lr=1e-3)), images, 4)


@CASES.sick(
    "leaky-by-true",
    "underfitting",
    story="nn.LeakyReLU(True), as one writes nn.ReLU(True): True is taken for the slope below zero, 1.",
)
def leaky_by_true(images: Images, fault: bool) -> Session:
    leaky = partial(nn.LeakyReLU, True) if fault else partial(nn.LeakyReLU, inplace=True)
    net = dense(256, 128, 64, activation=leaky)
    return run(Classifier(net, partial(SGD, lr=0.02, momentum=0.9)), images, 5)


class SoftmaxedInTheStep(Classifier):
    softmaxed = False

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        x, y = batch
        scores = self(x)
        if self.softmaxed:
            scores = scores.softmax(dim=-1)
        loss = F.cross_entropy(scores, y, label_smoothing=0.05)
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss


@CASES.sick(
    "softmax-in-the-step",
    "double-softmax",
    story="training_step takes probs = softmax(self(x)) and gives these to cross_entropy; validation_step "
    "gives it the logits.",
)
def softmax_in_the_step(images: Images, fault: bool) -> Session:
    module = SoftmaxedInTheStep(mobile(16, 32, 64), partial(SGD, lr=0.05, momentum=0.9))
    module.softmaxed = fault
    return run(module, images, 5)


class NormsFrozen(Classifier):
    """Keeps BatchNorm in evaluation mode, as code for detection does with pretrained weights."""

    def train(self, mode: bool = True) -> NormsFrozen:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


@CASES.sick(
    "norms-frozen-as-in-a-detector",
    "eval-mode-training",
    story="train() is overridden to keep BatchNorm in evaluation mode, from a repository that "
    "fine-tunes; here "
    "the weights are new.",
)
def norms_frozen_as_in_a_detector(images: Images, fault: bool) -> Session:
    kind = NormsFrozen if fault else Classifier
    module = kind(mobile(16, 32, 48, 64), partial(SGD, lr=0.1, momentum=0.9))
    module.train()
    return run(module, images, 5)


class Noisy(nn.Module):
    def __init__(self, size: float, always: bool) -> None:
        super().__init__()
        self.size, self.always = size, always

    def forward(self, x: Tensor) -> Tensor:
        return x + self.size * torch.randn_like(x) if self.training or self.always else x


@CASES.sick(
    "noise-in-both-modes",
    "train-mode-evaluation",
    story="A layer of one's own that adds noise to the features does not ask whether it trains.",
)
def noise_in_both_modes(images: Images, fault: bool) -> Session:
    net = vgg(8, 16, 32, norm=True)
    net.insert(8, Noisy(2.0, always=fault))
    net.insert(4, Noisy(1.0, always=fault))
    return run(Classifier(net, partial(Adam, lr=2e-3)), images, 5)


class Dropping(nn.Module):
    """Patches as tokens, dropped after their embedding and in each block."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 48, 8, 8)
        self.places = nn.Parameter(0.02 * torch.randn(1, 16, 48))
        self.drop = nn.Dropout(share)
        layer = nn.TransformerEncoderLayer(48, 4, 96, share, F.gelu, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(48), nn.Linear(48, NUM_CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2) + self.places
        return self.head(self.blocks(self.drop(tokens)).mean(dim=1))


@CASES.sick(
    "two-thirds-of-each-token-dropped",
    "regularization-too-strong",
    story="Dropout of 0.7 for the embedding, the attention and the layers of a small vision transformer.",
)
def two_thirds_of_each_token_dropped(images: Images, fault: bool) -> Session:
    return run(Classifier(Dropping(0.7 if fault else 0.1), partial(AdamW, lr=1e-3)), images, 5)


# ---------------------------------------------------------------------------------------- where weights start


@CASES.sick(
    "uniform-as-it-comes",
    "bad-initialization",
    "wrong-initial-loss",
    "exploding-gradients",
    story="nn.init.uniform_(layer.weight), which draws from 0 to 1.",
)
def uniform_as_it_comes(images: Images, fault: bool) -> Session:
    net = perceptron(128, 64, activation=nn.ReLU)
    if fault:
        for layer in net:
            if isinstance(layer, nn.Linear):
                nn.init.uniform_(layer.weight)
    return run(Classifier(net, partial(Adam, lr=1e-3)), images, 5)


# ---------------------------------------------------------------------------------- the loss and its slope


class LikelihoodOfLogits(Classifier):
    raw = False

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.nll_loss(logits if self.raw else logits.log_softmax(dim=1), y)


@CASES.sick(
    "logits-to-the-likelihood",
    "wrong-initial-loss",
    "exploding-gradients",
    "non-finite-loss",
    story="nll_loss on the outputs of the last layer: no log_softmax anywhere, and a loss without a floor.",
)
def logits_to_the_likelihood(images: Images, fault: bool) -> Session:
    module = LikelihoodOfLogits(group_resnet(), partial(Adam, lr=1e-3))
    module.raw = fault
    return run(module, images, 4)


class Hooked(Classifier):
    """Clamps each gradient in a hook of its parameter."""

    def __init__(self, *args: Any, least: float) -> None:
        super().__init__(*args)
        for p in self.net.parameters():
            p.register_hook(lambda gradient: gradient.clamp(least, 1.0))


@CASES.sick(
    "clamped-from-zero",
    "wrong-gradient",
    story="A hook on each parameter clamps its gradient to 0..1, where -1..1 was meant.",
)
def clamped_from_zero(images: Images, fault: bool) -> Session:
    module = Hooked(plain_cnn(16, "group"), partial(SGD, lr=0.05, momentum=0.9), least=0.0 if fault else -1.0)
    return run(module, images, 4)


# ----------------------------------------------------------------------------------------------- healthy runs


@CASES.healthy(
    "slow-and-steady",
    story="SGD with momentum 0.99 and a rate made for it, a twentieth of the usual one.",
)
def slow_and_steady(images: Images) -> Session:
    return run(Classifier(plain_cnn(24, "batch"), partial(SGD, lr=0.003, momentum=0.99)), images, 6)


@CASES.healthy(
    "weighed-by-the-inverse",
    story="Classes of uneven size, the largest with five times the images of the smallest, and weights that "
    "make up for it.",
)
def weighed_by_the_inverse(images: Images) -> Session:
    x, y = uneven(images, 0.2)
    module = Weighed(group_resnet(), partial(Adam, lr=2e-3))
    module.register_buffer("weights", len(y) / torch.bincount(y).float() / NUM_CLASSES)
    return run(module, images, 7, train=(x, y))


@CASES.healthy(
    "shifted-turned-and-jittered",
    story="Shifts, mirror images, ten degrees and colour jitter, for a convnet with BatchNorm.",
)
def shifted_turned_and_jittered(images: Images) -> Session:
    jitter = v2.ColorJitter(0.2, 0.2, 0.2), v2.RandomRotation(10)
    train = v2.Compose([v2.RandomCrop(32, 4), v2.RandomHorizontalFlip(), *jitter, USUAL])
    return reading(Classifier(plain_cnn(24, "batch"), partial(Adam, lr=2e-3)), images, train, USUAL, 3)


@CASES.healthy(
    "thawed-by-the-framework",
    story="BackboneFinetuning thaws a pretrained trunk after two epochs, at a tenth of the rate.",
)
def thawed_by_the_framework(images: Images) -> Session:
    (x, y), _ = standard(images)
    finetuning = BackboneFinetuning(2, lambda_func=lambda epoch: 1.5, verbose=False)
    module = Parted(pretrained(plain_cnn(24, "batch"), x[::2], y[::2], 3), partial(Adam, lr=1e-3))
    module.finetuning = [finetuning]
    return run(module, images, 5, train=(x[1::2], y[1::2]))


class Twice(Classifier):
    """Two passes with dropout of their own that are to agree (R-Drop)."""

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        x, y = batch
        first, second = self(x), self(x)
        usual = 0.5 * (F.cross_entropy(first, y) + F.cross_entropy(second, y))
        one, other = first.log_softmax(1), second.log_softmax(1)
        apart = F.kl_div(one, other, reduction="batchmean", log_target=True)
        apart = apart + F.kl_div(other, one, reduction="batchmean", log_target=True)
        loss = usual + 0.5 * apart
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss


@CASES.healthy(
    "two-passes-that-agree",
    story="R-Drop: two passes through dropout, and a divergence between them in the loss.",
)
def two_passes_that_agree(images: Images) -> Session:
    return run(Twice(squeezed(16, 32, 48, dropout=0.3), partial(AdamW, lr=2e-3)), images, 4)


@CASES.healthy(
    "length-and-direction",
    story="weight_norm on each convolution: a length and a direction for each filter.",
)
def length_and_direction(images: Images) -> Session:
    net = plain_cnn(24)
    for layer in net:
        if isinstance(layer, nn.Sequential):
            weight_norm(layer[0])
    return run(Classifier(net, partial(SGD, lr=0.05, momentum=0.9)), images, 5)


class PowerMean(nn.Module):
    """Pools by a mean of powers, the exponent learned (GeM)."""

    def __init__(self) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp_min(1e-4).pow(self.power).mean((2, 3)).pow(1 / self.power)


@CASES.healthy("mean-of-powers", story="Pools by a mean of powers with a learned exponent, as for retrieval.")
def mean_of_powers(images: Images) -> Session:
    net = vgg(8, 16, 32, norm=True)[:-2]
    net.extend([PowerMean(), nn.Linear(32, NUM_CLASSES)])
    return run(Classifier(net, partial(Adam, lr=3e-3)), images, 5)


@CASES.healthy(
    "clamped-on-both-sides",
    story="A hook on each parameter clamps its gradient to -0.05..0.05.",
)
def clamped_on_both_sides(images: Images) -> Session:
    module = Classifier(residual_net(16, 2), partial(SGD, lr=0.05, momentum=0.9))
    for p in module.parameters():
        p.register_hook(lambda gradient: gradient.clamp(-0.05, 0.05))
    return run(module, images, 4)


@CASES.healthy(
    "trained-on-smaller-crops",
    story="Trains on crops of 24x24 and validates on whole images; the network pools whatever comes.",
)
def trained_on_smaller_crops(images: Images) -> Session:
    net = vgg(8, 16, 32, norm=True)[:-2]
    net.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, NUM_CLASSES)])
    train = v2.Compose([v2.RandomCrop(24), USUAL])
    return reading(Classifier(net, partial(Adam, lr=3e-3)), images, train, USUAL, 4)


class OneHot(Dataset):
    """Labels as rows of nine zeros and a one."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, F.one_hot(y, NUM_CLASSES).float()

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> Pair:
        return self.x[index], self.y[index]


@CASES.healthy(
    "labels-as-rows",
    story="One-hot labels from the data set, gradients over four batches of 16 summed up by the "
    "Trainer, RMSprop.",
)
def labels_as_rows(images: Images) -> Session:
    train, val = standard(images)
    return Session(
        Shared(lenet(), partial(RMSprop, lr=1e-3)),
        DataLoader(OneHot(*train), 16, shuffle=True),
        DataLoader(OneHot(*val), 250),
        {"max_epochs": 5, "accumulate_grad_batches": 4},
    )
