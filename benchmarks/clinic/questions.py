"""Faults and odd but healthy runs of image classifiers, retold from public questions and issues of kinds that
no other file here has: the issue is named where there is one; the others are what is asked again and again.
Written before any rule was looked at.

Validation accuracy and loss after the last epoch, one seed:

                                             sick     twin or healthy
                                        acc   loss     acc   loss
    stored-state-brings-its-rate       0.31   2.00    0.48   1.49
    average-left-in                    0.37   1.81    0.49   1.48
    thawed-without-the-optimizer       0.41   1.67    0.50   1.40
    frozen-for-validation              0.35   1.79    0.47   1.51
    cleared-at-each-micro-batch        0.34   1.89    0.45   1.62
    clipped-before-backward            0.10   2.31    0.42   1.59
    divided-by-the-size-of-the-set     0.36   0.09    0.45   1.56
    exponentials-in-half-precision     0.10    NaN    0.48   1.73
    teacher-never-loaded               0.39   2.13    0.48   1.48
    reversal-before-the-wrong-head     0.13   2.35    0.46   1.53
    norms-that-start-at-zero           0.10   2.30    0.45   1.58
    dropout-without-its-scale          0.36   5.18    0.39   1.64
    statistics-moved-by-a-blank        0.31   4.03    0.47   1.48
    traced-in-training-mode            0.31   1.91    0.37   1.76
    mean-over-other-images             0.10   2.32    0.39   1.64
    cached-by-the-name-alone           0.08   2.33    0.47   1.48
    augmented-before-the-split         0.77   0.75    0.36   2.32
    overfit-batches-left-on            0.24   2.75    0.38   1.72
    features-of-two-domains                           0.46   1.53
    attacked-while-it-learns                          0.41   1.61
    class-vectors-fixed                               0.44   1.76
    two-steps-back-for-five                           0.49   1.49
    labels-of-its-own                                 0.44   1.63
    three-views-in-a-batch                            0.39   1.71
    grey-three-times                                  0.48   1.52
    loss-that-bears-wrong-labels                      0.47   0.72
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from clinic import NUM_CLASSES, CaseBook, Classifier, Images, Session
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.utils.data import DataLoader, Dataset, TensorDataset, random_split
from wild import Pair, TinyViT, conv_unit, dense, plain_cnn, pretrained, run, standard

CASES = CaseBook()


# ------------------------------------------------------------------------------ optimizers and what they hold


class Resumed(Classifier):
    """Goes on with the stored state of an optimizer, and so with its rate, or with a rate of its own."""

    stored: dict[str, Any]
    own_rate = True

    def configure_optimizers(self) -> Optimizer:
        optimizer = self.make_optimizer(self.parameters())
        rate = optimizer.param_groups[0]["lr"]
        optimizer.load_state_dict(self.stored)
        if self.own_rate:
            for group in optimizer.param_groups:
                group["lr"] = rate
        return optimizer


@CASES.sick(
    "stored-state-brings-its-rate",
    "learning-rate-too-low",
    story="Loads the optimizer's state for a second training: the annealed rate of the first comes with it "
    "(pytorch/pytorch#156846, pytorch/examples#816).",
)
def stored_state_brings_its_rate(images: Images, fault: bool) -> Session:
    (x, y), _ = standard(images)
    net = plain_cnn(norm="batch")
    optimizer = Adam(net.parameters(), lr=1e-3)
    for part in torch.randperm(len(y))[:1000].split(50):
        optimizer.zero_grad()
        F.cross_entropy(net(x[part]), y[part]).backward()
        optimizer.step()
    optimizer.param_groups[0]["lr"] = 1e-6
    module = Resumed(net, partial(Adam, lr=1e-3))
    module.stored, module.own_rate = optimizer.state_dict(), not fault
    return run(module, images)


class AveragedForValidation(Classifier):
    """Puts an average of the weights in for validation, and takes it out again or forgets to."""

    takes_out = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.average = copy.deepcopy(self.net).requires_grad_(False)

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.net.parameters())

    def on_train_batch_end(self, *args: Any) -> None:
        for slow, fast in zip(self.average.parameters(), self.net.parameters(), strict=True):
            slow.lerp_(fast.detach(), 0.01)

    def on_validation_start(self) -> None:
        self.kept = copy.deepcopy(self.net.state_dict())
        self.net.load_state_dict(self.average.state_dict())

    def on_validation_end(self) -> None:
        if self.takes_out:
            self.net.load_state_dict(self.kept)


@CASES.sick(
    "average-left-in",
    "learning-rate-too-low",
    "frozen-parameters",
    story="Puts the averaged weights in for validation and never takes them out: each part of an epoch "
    "starts anew from far back (PKU-YuanGroup/Open-Sora-Plan#186).",
)
def average_left_in(images: Images, fault: bool) -> Session:
    module = AveragedForValidation(plain_cnn(norm="group"), partial(Adam, lr=2e-3))
    module.takes_out = not fault
    return run(module, images, val_check_interval=0.25)


class ThawedInTime(Classifier):
    """Trains the head for an epoch, then all; the optimizer was made of what needed a gradient at first."""

    told = True

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(parameter for parameter in self.parameters() if parameter.requires_grad)

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            self.net[:-1].requires_grad_(True)
            if self.told:
                optimizer: Any = self.optimizers()
                optimizer.add_param_group({"params": [*self.net[:-1].parameters()]})


@CASES.sick(
    "thawed-without-the-optimizer",
    "frozen-parameters",
    story="Sets requires_grad after an epoch; the optimizer was made of what was trainable before, the head.",
)
def thawed_without_the_optimizer(images: Images, fault: bool) -> Session:
    (x, _), _ = standard(images)
    quarters = torch.randint(0, 4, (2000,))
    turned = torch.stack([image.rot90(int(k), (1, 2)) for image, k in zip(x[::2], quarters, strict=True)])
    net = pretrained(plain_cnn(norm="batch"), turned, quarters, 2)
    net[:-1].requires_grad_(False)
    net[-1] = nn.Linear(768, NUM_CLASSES)
    module = ThawedInTime(net, partial(Adam, lr=1e-3))
    module.told = not fault
    return run(module, images, 5)


class FrozenForValidation(Classifier):
    restores = True

    def on_validation_start(self) -> None:
        self.net[:-1].requires_grad_(False)

    def on_validation_end(self) -> None:
        if self.restores:
            self.net[:-1].requires_grad_(True)


@CASES.sick(
    "frozen-for-validation",
    "frozen-parameters",
    story="Switches requires_grad off for validation and never on again; the sanity check is one.",
)
def frozen_for_validation(images: Images, fault: bool) -> Session:
    module = FrozenForValidation(plain_cnn(norm="group"), partial(AdamW, lr=2e-3))
    module.restores = not fault
    return run(module, images)


# ------------------------------------------------------------------------------------------ steps and losses


class MicroBatches(Classifier):
    """A step for every eight batches, whose gradients are cleared after the step or before each batch."""

    parts = 8

    def __init__(self, *args: Any, each: bool) -> None:
        super().__init__(*args)
        self.automatic_optimization = False
        self.each = each

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        if self.each or batch_idx % self.parts == 0:
            optimizer.zero_grad()
        loss = self.measure(batch, "train")
        self.manual_backward(loss / self.parts)
        if (batch_idx + 1) % self.parts == 0:
            optimizer.step()
        return loss


@CASES.sick(
    "cleared-at-each-micro-batch",
    "learning-rate-too-low",
    "batch-too-small",
    story="Accumulates eight batches and clears the gradients before each: an eighth of the last is left.",
)
def cleared_at_each_micro_batch(images: Images, fault: bool) -> Session:
    module = MicroBatches(plain_cnn(norm="group"), partial(SGD, lr=0.05, momentum=0.9), each=fault)
    return run(module, images, 4, 8)


class ClippedByHand(Classifier):
    def __init__(self, *args: Any, before: bool) -> None:
        super().__init__(*args)
        self.automatic_optimization = False
        self.before = before

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        loss = self.measure(batch, "train")
        optimizer.zero_grad()
        if self.before:
            nn.utils.clip_grad_norm_(self.parameters(), 0.3)
        self.manual_backward(loss)
        if not self.before:
            nn.utils.clip_grad_norm_(self.parameters(), 0.3)
        optimizer.step()
        return loss


@CASES.sick(
    "clipped-before-backward",
    "learning-rate-too-high",
    "exploding-gradients",
    story="Clips the gradients before backward(), when there are none: the rate was made for clipped ones "
    "(Cranial-XIX/FAMO#4).",
)
def clipped_before_backward(images: Images, fault: bool) -> Session:
    net = plain_cnn()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return run(ClippedByHand(net, partial(SGD, lr=0.2, momentum=0.9), before=fault), images)


class OverTheSet(Classifier):
    count: float

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, reduction="sum") / (self.count or len(y))


@CASES.sick(
    "divided-by-the-size-of-the-set",
    "learning-rate-too-low",
    "wrong-initial-loss",
    story="Sums the loss of a batch and divides by len(dataset) where len(batch) is due.",
)
def divided_by_the_size_of_the_set(images: Images, fault: bool) -> Session:
    module = OverTheSet(plain_cnn(norm="batch"), partial(SGD, lr=0.03, momentum=0.9))
    module.count = len(images.train_y) if fault else 0
    return run(module, images)


class HandMadeSoftmax(Classifier):
    """A softmax written out, its exponentials in half precision or not."""

    kind = torch.float32

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        exponentials = logits.to(self.kind).exp()
        shares = exponentials / exponentials.sum(1, keepdim=True)
        own = shares.gather(1, y.unsqueeze(1))
        return -own.clamp(min=1e-7).log().float().mean()


@CASES.sick(
    "exponentials-in-half-precision",
    "non-finite-loss",
    story="A softmax by hand in half precision: the exponential of a logit above 11 is infinite there.",
)
def exponentials_in_half_precision(images: Images, fault: bool) -> Session:
    module = HandMadeSoftmax(plain_cnn(48, norm="batch"), partial(Adam, lr=3e-3))
    module.kind = torch.float16 if fault else torch.float32
    return run(module, images, 6)


class Taught(Classifier):
    """Nine tenths of the loss are its divergence from a frozen teacher at a temperature of 4."""

    teacher: nn.Module

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.net.parameters())

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        x, y = batch
        self.teacher.eval()
        with torch.no_grad():
            told = F.log_softmax(self.teacher(x) / 4, 1)
        logits = self(x)
        soft = F.kl_div(F.log_softmax(logits / 4, 1), told, reduction="batchmean", log_target=True)
        loss = 0.9 * 16 * soft + 0.1 * F.cross_entropy(logits, y)
        accuracy = (logits.argmax(1) == y).float().mean()
        values = {"train/loss": loss, "train/acc": accuracy}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(y))
        return loss


@CASES.sick(
    "teacher-never-loaded",
    "labels-random",
    "frozen-parameters",
    story="Distils from a teacher whose weights were never loaded: nine tenths of the loss are its guesses "
    "(NVIDIA-NeMo/Megatron-Bridge#1422).",
)
def teacher_never_loaded(images: Images, fault: bool) -> Session:
    (x, y), _ = standard(images)
    teacher = plain_cnn(40, norm="batch")
    if not fault:
        teacher = pretrained(teacher, x, y, 3)
    module = Taught(plain_cnn(16, norm="batch"), partial(Adam, lr=2e-3))
    module.teacher = teacher.requires_grad_(False)
    return run(module, images)


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> Tensor:
        return -0.3 * above


class TwoDomains(Classifier):
    """Classifies colour images; features are to be the same for grey ones, by a reversed gradient."""

    wrong_head = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.domain = nn.Sequential(nn.Linear(768, 32), nn.ReLU(), nn.Linear(32, 1))

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        x, y = batch
        grey = x.mean(1, keepdim=True).expand_as(x)
        features = self.net[:-1](torch.cat([x, grey]))
        own, both = features[: len(y)], features
        if self.wrong_head:
            own = Reversed.apply(own)
        else:
            both = Reversed.apply(both)
        logits = self.net[-1](own)
        where = torch.arange(2).repeat_interleave(len(y)).float()
        apart = F.binary_cross_entropy_with_logits(self.domain(both).squeeze(1), where)
        loss = F.cross_entropy(logits, y) + apart
        accuracy = (logits.argmax(1) == y).float().mean()
        values = {"train/loss": loss, "train/acc": accuracy}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(y))
        return loss


@CASES.sick(
    "reversal-before-the-wrong-head",
    "wrong-gradient",
    story="Puts the gradient reversal of a domain classifier before the class head: the trunk unlearns.",
)
def reversal_before_the_wrong_head(images: Images, fault: bool) -> Session:
    module = TwoDomains(plain_cnn(norm="group"), partial(Adam, lr=1e-3))
    module.wrong_head = fault
    return run(module, images, 3)


# ---------------------------------------------------------------------------------------------------- layers


@CASES.sick(
    "norms-that-start-at-zero",
    "bad-initialization",
    "dead-relu",
    story="Starts the scale of every BatchNorm at zero, as is done for the last one of a residual branch.",
)
def norms_that_start_at_zero(images: Images, fault: bool) -> Session:
    net = plain_cnn(norm="batch")
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and fault:
            nn.init.zeros_(module.weight)
    return run(Classifier(net, partial(SGD, lr=0.05, momentum=0.9)), images)


class DropoutByHand(nn.Module):
    """Drops seven of ten in training, and divides by what is kept or not."""

    def __init__(self, scaled: bool) -> None:
        super().__init__()
        self.scaled = scaled

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * (torch.rand_like(x) < 0.3) / (0.3 if self.scaled else 1.0)


@CASES.sick(
    "dropout-without-its-scale",
    "train-val-mismatch",
    story="A dropout written by hand neither divides by what it keeps nor scales in evaluation.",
)
def dropout_without_its_scale(images: Images, fault: bool) -> Session:
    trunk = [conv_unit(3, 24, 2), conv_unit(24, 48, 2), nn.AvgPool2d(2), nn.Flatten()]
    head = [DropoutByHand(not fault), nn.Linear(768, 128), nn.ReLU(), DropoutByHand(not fault)]
    net = nn.Sequential(*trunk, *head, nn.Linear(128, NUM_CLASSES))
    return run(Classifier(net, partial(Adam, lr=2e-3)), images, 5)


class LooksAtABlank(Classifier):
    """After each step, passes a blank image through the network for a log of its features."""

    aside = True

    @torch.no_grad()
    def on_train_batch_end(self, *args: Any) -> None:
        self.net.train(not self.aside)
        self.features = self.net[:-2](torch.zeros(2, 3, 32, 32))
        self.net.train()


@CASES.sick(
    "statistics-moved-by-a-blank",
    "train-val-mismatch",
    story="Passes a blank image through the network after each step, in training mode: BatchNorm counts it.",
)
def statistics_moved_by_a_blank(images: Images, fault: bool) -> Session:
    module = LooksAtABlank(plain_cnn(norm="batch"), partial(Adam, lr=2e-3))
    module.aside = not fault
    return run(module, images)


@CASES.sick(
    "traced-in-training-mode",
    "train-mode-evaluation",
    story="Traces the network by torch.jit.trace for speed, in training mode: eval() changes nothing "
    "(pytorch/pytorch#71929, mlverse/torch#1211).",
)
def traced_in_training_mode(images: Images, fault: bool) -> Session:
    trunk = [conv_unit(3, 24, 2, "group"), conv_unit(24, 48, 2, "group"), nn.AvgPool2d(2), nn.Flatten()]
    head = [nn.Dropout(0.7), nn.Linear(768, 128), nn.ReLU(), nn.Dropout(0.7), nn.Linear(128, NUM_CLASSES)]
    net: Any = nn.Sequential(*trunk, *head)
    if fault:
        net = torch.jit.trace(net, torch.zeros(2, 3, 32, 32), check_trace=False)
    return run(Classifier(net, partial(Adam, lr=2e-3)), images, 5)


class OverCrops(nn.Module):
    """The mean of the logits of four crops; the crops lie one after the other, each of all images."""

    def __init__(self, net: nn.Module, crops_first: bool) -> None:
        super().__init__()
        self.net, self.crops_first = net, crops_first

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[:, :, a : a + 28, b : b + 28] for a in (0, 4) for b in (0, 4)]
        logits = self.net(F.interpolate(torch.cat(corners), size=32))
        if self.crops_first:
            return logits.view(4, len(x), -1).mean(0)
        return logits.view(len(x), 4, -1).mean(1)


@CASES.sick(
    "mean-over-other-images",
    "labels-random",
    "underfitting",
    story="Averages over crops by view(images, crops), where they lie the other way: over other images.",
)
def mean_over_other_images(images: Images, fault: bool) -> Session:
    return run(Classifier(OverCrops(plain_cnn(norm="group"), not fault), partial(Adam, lr=2e-3)), images, 2)


# ------------------------------------------------------------------------------------------------------ data


class CachedByName(Dataset):
    """Images in a folder for each class, read once and kept by their path or by their file's name alone."""

    def __init__(self, x: Tensor, y: Tensor, whole_path: bool) -> None:
        self.x, self.y, self.whole_path = x, y, whole_path
        self.cache: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, place: int) -> Pair:
        folder, name = f"{int(self.y[place])}/", f"{place % 400:04d}.png"
        key = folder + name if self.whole_path else name
        if key not in self.cache:
            self.cache[key] = self.x[place]
        return self.cache[key], self.y[place]


@CASES.sick(
    "cached-by-the-name-alone",
    "labels-random",
    story="Keeps images by their file's name; each class has a 0001.png, and the first read stands for all "
    "(webdataset/webdataset#471, rom1504/clip-retrieval#321).",
)
def cached_by_the_name_alone(images: Images, fault: bool) -> Session:
    (x, y), _ = standard(images)
    session = run(Classifier(plain_cnn(norm="batch"), partial(Adam, lr=2e-3)), images)
    session.train_loader = DataLoader(CachedByName(x, y, not fault), 64, shuffle=True)
    return session


def four_ways(x: Tensor) -> Tensor:
    """Each image as it is, mirrored, noisy and shifted."""
    ways = [x, x.flip(-1), x + 0.1 * torch.randn_like(x), x.roll(2, -1)]
    return torch.stack(ways, 1).flatten(0, 1)


@CASES.sick(
    "augmented-before-the-split",
    "data-leak",
    story="Augments the images fourfold, then splits: nearly each for validation has a sister in training "
    "(robinreni96/Font_Recognition-DeepFont#2).",
)
def augmented_before_the_split(images: Images, fault: bool) -> Session:
    (x, y), _ = standard(images)
    few = torch.randperm(len(y))[:1200]
    x, y = x[few], y[few]
    session = run(Classifier(plain_cnn(norm="batch"), partial(Adam, lr=2e-3)), images, 6)
    train: Dataset
    val: Dataset
    if fault:
        train, val = random_split(TensorDataset(four_ways(x), y.repeat_interleave(4)), [3840, 960])
    else:
        train, val = (
            TensorDataset(four_ways(x[:960]), y[:960].repeat_interleave(4)),
            TensorDataset(x[960:], y[960:]),
        )
    session.train_loader, session.val_loader = DataLoader(train, 64, shuffle=True), DataLoader(val, 200)
    return session


@CASES.sick(
    "overfit-batches-left-on",
    "overfitting",
    story="Left overfit_batches=5 in the Trainer after a test of the loop: 320 images are all there is.",
)
def overfit_batches_left_on(images: Images, fault: bool) -> Session:
    (x, y), _ = standard(images)
    order = torch.randperm(len(y))
    module = Classifier(dense(128, norm=True), partial(Adam, lr=1e-3))
    limit: dict[str, Any] = {"overfit_batches": 5} if fault else {}
    return run(module, images, 30 if fault else 3, train=(x[order], y[order]), **limit)


# --------------------------------------------------------------------------------------------------- healthy


@CASES.healthy(
    "features-of-two-domains",
    story="A domain classifier behind a gradient reversal, as in DANN: it does not learn.",
)
def features_of_two_domains(images: Images) -> Session:
    return reversal_before_the_wrong_head(images, False)


class Attacked(Classifier):
    """Trains on images that were moved by the sign of their gradient, one step of a third of a level."""

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        x, y = batch
        near = x.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(F.cross_entropy(self(near), y), near)
        return self.measure((x + 0.05 * slope.sign(), y), "train")


@CASES.healthy("attacked-while-it-learns", story="Adversarial training by the fast gradient sign method.")
def attacked_while_it_learns(images: Images) -> Session:
    return run(Attacked(plain_cnn(norm="batch"), partial(Adam, lr=2e-3)), images)


@CASES.healthy(
    "class-vectors-fixed",
    story="The last layer is an orthogonal matrix that stays as it is, as in 'Fix your classifier'.",
)
def class_vectors_fixed(images: Images) -> Session:
    last = nn.Linear(64, NUM_CLASSES, bias=False).requires_grad_(False)
    nn.init.orthogonal_(last.weight, gain=2.0)
    net = nn.Sequential(*plain_cnn(norm="batch")[:-1], nn.Linear(768, 64), last)
    return run(Classifier(net, partial(Adam, lr=2e-3)), images)


class LookAhead(AdamW):
    """Each fifth step goes back half of the way to where the fifth before it ended."""

    def __init__(self, parameters: Iterable[nn.Parameter], **options: Any) -> None:
        super().__init__(parameters, **options)
        self.taken = 0
        self.slow = [parameter.detach().clone() for parameter in self.param_groups[0]["params"]]

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        self.taken += 1
        if self.taken % 5 == 0:
            with torch.no_grad():
                for slow, fast in zip(self.slow, self.param_groups[0]["params"], strict=True):
                    fast.copy_(slow.lerp_(fast, 0.5))
        return loss


@CASES.healthy(
    "two-steps-back-for-five", story="Lookahead: slow weights go half of the way of every five steps."
)
def two_steps_back_for_five(images: Images) -> Session:
    return run(Classifier(plain_cnn(norm="batch"), partial(LookAhead, lr=3e-3)), images)


class PseudoLabels(Classifier):
    """FixMatch: where the network is sure of a weak view, a strong view is to say the same."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, free = batch
        with torch.no_grad():
            sure, said = self(free.flip(-1)).softmax(1).max(1)
        strong = free + 0.4 * torch.randn_like(free)
        strong[:, :, 8:20, 8:20] = 0
        logits, told = self(torch.cat([x, strong])).split([len(x), len(free)])
        loss = F.cross_entropy(logits, y)
        extra = (F.cross_entropy(told, said, reduction="none") * (sure > 0.8)).mean()
        accuracy = (logits.argmax(1) == y).float().mean()
        values = {"train/loss": loss, "train/acc": accuracy, "train/extra": extra}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(y))
        return loss + extra


@CASES.healthy("labels-of-its-own", story="FixMatch: half of the images have no label but the network's own.")
def labels_of_its_own(images: Images) -> Session:
    (x, y), _ = standard(images)
    session = run(PseudoLabels(plain_cnn(norm="group"), partial(Adam, lr=2e-3)), images)
    session.train_loader = DataLoader(TensorDataset(x[::2], y[::2], x[1::2]), 64, shuffle=True)
    return session


class ThreeViews(Dataset):
    """Repeated augmentation: an image gives three different views, which one batch holds."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, place: int) -> Pair:
        x = self.x[place]
        views = torch.stack([x, x.flip(-1), x.roll(int(torch.randint(-4, 5, ())), -1)])
        return views, self.y[place].expand(3)

    @staticmethod
    def joined(samples: list[Pair]) -> Pair:
        return torch.cat([views for views, _ in samples]), torch.cat([labels for _, labels in samples])


@CASES.healthy(
    "three-views-in-a-batch", story="Repeated augmentation: three views of each image in one batch."
)
def three_views_in_a_batch(images: Images) -> Session:
    (x, y), _ = standard(images)
    session = run(Classifier(TinyViT(), partial(AdamW, lr=1e-3)), images, 3)
    session.train_loader = DataLoader(ThreeViews(x, y), 21, shuffle=True, collate_fn=ThreeViews.joined)
    return session


@CASES.healthy(
    "grey-three-times", story="Grey images for a network of three channels: the same value three times."
)
def grey_three_times(images: Images) -> Session:
    train, val = ((x.mean(1, keepdim=True).repeat(1, 3, 1, 1), y) for x, y in standard(images))
    return run(Classifier(plain_cnn(norm="batch"), partial(Adam, lr=2e-3)), images, train=train, val=val)


class Generalized(Classifier):
    """Between the cross-entropy and the mean absolute error: (1 - p ** q) / q."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        own = logits.softmax(1).gather(1, y.unsqueeze(1)).squeeze(1)
        return ((1 - own.clamp(min=1e-6) ** 0.7) / 0.7).mean()


@CASES.healthy(
    "loss-that-bears-wrong-labels",
    story="The generalized cross-entropy, which is bounded, on labels of which one in six is wrong.",
)
def loss_that_bears_wrong_labels(images: Images) -> Session:
    (x, y), _ = standard(images)
    noisy = torch.where(torch.rand(len(y)) < 1 / 6, torch.randint(0, NUM_CLASSES, y.shape), y)
    return run(Generalized(plain_cnn(norm="batch"), partial(Adam, lr=2e-3)), images, 5, train=(x, noisy))
