"""Faults and odd but healthy runs of image classifiers, retold from issues and pull requests of kinds that
the other files do not have, or do not have like this: other places in the code, other networks, half of the
faults mild. Written before any rule was looked at.

Validation accuracy and loss after the last epoch, one seed; a training whose epochs a hook ends is never
validated, and comes to a training loss of 1.63 where its twin has 0.93:

                                             sick     twin or healthy
                                        acc   loss     acc   loss
    flipped-along-the-batch             0.26   2.17   0.52   1.37
    labels-of-the-batch-before          0.13   2.31   0.41   1.59
    teacher-in-another-order            0.43   1.88   0.47   1.48
    viewed-in-place-of-transposed       0.10   2.32   0.46   1.54
    one-taken-off-twice                 0.12   3.40   0.40   1.64
    brightness-wraps-around             0.29   1.88   0.38   1.73
    read-as-grey-for-training           0.36   2.11   0.48   1.42
    upside-down-by-fliplr               0.23   2.37   0.39   1.72
    batches-of-two-classes              0.28   1.92   0.51   1.35
    first-batch-in-each-step            0.24   2.89   0.45   1.52
    trained-on-both                     0.81   0.64   0.37   1.99
    average-moved-once-an-epoch         0.16   2.33   0.42   1.59
    goes-back-to-the-worst              0.41   1.66   0.48   1.48
    initialized-after-loading           0.29   2.00   0.51   1.38
    warm-up-anew-in-each-epoch          0.27   2.00   0.36   1.81
    polynomial-over-one-epoch           0.36   1.77   0.49   1.43
    milestones-in-batches               0.28   2.05   0.48   1.46
    burnt-in-to-the-fourth-power        0.09   2.31   0.38   1.82
    dampened-by-position                0.26   2.14   0.43   1.65
    betas-exchanged                     0.46   1.61   0.47   1.45
    sharpness-never-taken-back          0.07   2.39   0.40   1.71
    cleared-between-two-losses          0.11   2.38   0.48   1.45
    groups-by-type-of-layer             0.34   1.85   0.46   1.49
    left-out-where-the-loss-is-large    0.12   2.35   0.46   1.51
    rest-of-the-epoch-skipped                         0.48   1.60
    normalized-over-the-batch           0.44   1.73   0.48   1.45
    largest-loss-of-the-batch           0.14   2.38   0.44   1.53
    smoothed-labels-that-sum-to-more                  0.48   1.67
    bias-of-a-detector                                0.45   1.59
    shuffled-once                                     0.41   1.85
    shortcut-rectified-in-place                       0.51   1.39
    cosine-of-epochs-in-steps                         0.44   1.59
    distances-to-points                               0.41   1.75
    in-double-precision                               0.40   1.72
    flips-averaged-in-validation                      0.49   1.44
    whitening-that-stays                              0.53   1.32
    eighth-of-the-logits                              0.52 274.37
    weights-standardized                              0.46   1.56
    no-momentum-and-validated-twice                   0.46   1.54
    augmented-once-and-kept                           0.39   1.71
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from clinic import NUM_CLASSES, CaseBook, Classifier, Images, Session
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, MultiStepLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Sampler, TensorDataset
from variants import VisionTransformer, convnext, group_resnet, mobile, perceptron, squeezed, vgg
from wild import Pair, conv_mixer, dense, lenet, plain_cnn, pretrained, residual_net, run, standard

CASES = CaseBook()


class ByHand(Classifier):
    """The usual step, written out."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.automatic_optimization = False


class Read(Dataset):
    """Byte images in memory, brought by `transform` to what the network takes."""

    def __init__(self, pixels: Tensor, labels: Tensor, transform: Callable[[Tensor], Tensor]) -> None:
        self.pixels, self.labels, self.transform = pixels, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Pair:
        return self.transform(self.pixels[index]), self.labels[index]


def standardized(pixels: Tensor) -> Tensor:
    return pixels.float() / 64 - 2


def reading(
    module: Classifier,
    images: Images,
    train: Callable[[Tensor], Tensor] = standardized,
    val: Callable[[Tensor], Tensor] = standardized,
    epochs: int = 4,
    batch: int = 50,
) -> Session:
    return Session(
        module,
        DataLoader(Read(images.train_x, images.train_y, train), batch, shuffle=True),
        DataLoader(Read(images.val_x, images.val_y, val), 250),
        {"max_epochs": epochs},
    )


# ------------------------------------------------------------------------------------ images and their labels


class FlippedInTheStep(Classifier):
    """Flips the batch in half of the steps."""

    along = 3

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        x, y = batch
        if torch.rand(()) < 0.5:
            x = x.flip(self.along)
        return super().training_step((x, y), batch_idx)


@CASES.sick(
    "flipped-along-the-batch",
    "labels-random",
    story="Flips along axis 0, which is the batch: in half of the steps the images are in reverse order, "
    "their labels are not (lavi135246/pytorch-Learning-to-See-in-the-Dark#11).",
)
def flipped_along_the_batch(images: Images, fault: bool) -> Session:
    module = FlippedInTheStep(vgg(8, 24, 48, norm=True), partial(SGD, lr=0.05, momentum=0.9))
    module.along = 0 if fault else 3
    return run(module, images, 4, 100)


class Prefetching(Classifier):
    """Hands over a batch while the next is on its way; the labels are read too early."""

    labels: Tensor | None = None

    def on_after_batch_transfer(self, batch: Pair, dataloader_idx: int) -> Pair:
        x, y = batch
        if not self.trainer.training:
            return batch
        before, self.labels = self.labels, y
        return (x, y) if before is None or len(before) != len(y) else (x, before)


@CASES.sick(
    "labels-of-the-batch-before",
    "labels-random",
    story="The buffer of a prefetcher is overwritten too early: each batch comes with the labels of another "
    "(apache/mxnet#11793).",
)
def labels_of_the_batch_before(images: Images, fault: bool) -> Session:
    kind = Prefetching if fault else Classifier
    return run(kind(group_resnet(), partial(AdamW, lr=2e-3)), images, 3)


class Distilled(Classifier):
    """Half of the loss is what a teacher said of the images, computed once and stored."""

    said: Tensor

    def __init__(self, *args: Any, said: Tensor, in_order: bool) -> None:
        super().__init__(*args)
        self.register_buffer("said", said, persistent=False)
        self.in_order = in_order

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y, index = batch
        if not self.in_order:
            index = batch_idx * 64 + torch.arange(len(y))
        logits = self(x)
        told = F.cross_entropy(logits, self.said[index])
        loss = 0.4 * F.cross_entropy(logits, y) + 0.6 * told
        self.log("train/loss", loss, on_epoch=True, on_step=False)
        return loss


@CASES.sick(
    "teacher-in-another-order",
    "labels-random",
    story="What the teacher says is stored batch by batch; the student's loader shuffles anew, and the two "
    "are of different images (haitongli/knowledge-distillation-pytorch#16).",
)
def teacher_in_another_order(images: Images, fault: bool) -> Session:
    (x, y), val = standard(images)
    teacher = pretrained(plain_cnn(24, "batch"), x, y, 3).eval()
    with torch.no_grad():
        said = torch.cat([teacher(part).softmax(1) for part in x.split(500)])
    said = said[torch.randperm(len(y))] if fault else said
    module = Distilled(lenet(), partial(Adam, lr=2e-3), said=said, in_order=not fault)
    session = run(module, images, 4, val=val)
    session.train_loader = DataLoader(TensorDataset(x, y, torch.arange(len(y))), 64, shuffle=True)
    return session


class ClassesFirst(Classifier):
    """Its loss is written for outputs of shape [classes, images]."""

    viewed = False

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        turned = logits.view(NUM_CLASSES, -1) if self.viewed and self.training else logits.T
        return -turned.log_softmax(dim=0)[y, torch.arange(len(y))].mean()


@CASES.sick(
    "viewed-in-place-of-transposed",
    "labels-random",
    "underfitting",
    story="The loss wants classes first and gets them by view(), which deals out the outputs of all images "
    "anew, where a transpose is due.",
)
def viewed_in_place_of_transposed(images: Images, fault: bool) -> Session:
    module = ClassesFirst(squeezed(16, 32, 48), partial(Adam, lr=2e-3))
    module.viewed = fault
    return run(module, images, 3)


@CASES.sick(
    "one-taken-off-twice",
    "train-val-mismatch",
    "labels-random",
    story="The list of training files counts classes from 0 already; the reader takes 1 off, as for the "
    "older list from 1, and clamps at 0. Validation is read by another reader.",
)
def one_taken_off_twice(images: Images, fault: bool) -> Session:
    (x, y), _ = standard(images)
    return run(
        Classifier(convnext(24, 2), partial(AdamW, lr=2e-3)),
        images,
        train=(x, (y - 1).clamp_min(0) if fault else y),
    )


# ------------------------------------------------------------------------------------ how images are prepared


def brighter(clip: bool) -> Callable[[Tensor], Tensor]:
    def transform(pixels: Tensor) -> Tensor:
        bright = pixels.int() * torch.empty(()).uniform_(1, 3.5)
        return standardized((bright.clamp(0, 255) if clip else bright % 256).byte())

    return transform


@CASES.sick(
    "brightness-wraps-around",
    "train-val-mismatch",
    "regularization-too-strong",
    story="Brightens bytes by a factor and never clips: what is above 255 starts again at 0 "
    "(vxy10/p5_VehicleDetection_Unet#2).",
)
def brightness_wraps_around(images: Images, fault: bool) -> Session:
    module = Classifier(vgg(8, 24, 48), partial(Adam, lr=1e-3))
    return reading(module, images, brighter(clip=not fault))


def grey(pixels: Tensor) -> Tensor:
    return standardized(pixels.float().mean(0, keepdim=True).expand(3, -1, -1))


@CASES.sick(
    "read-as-grey-for-training",
    "train-val-mismatch",
    story="imread(path, 0) in the reader of the training images gives grey ones; validation is in colour.",
)
def read_as_grey_for_training(images: Images, fault: bool) -> Session:
    module = Classifier(plain_cnn(24, "batch"), partial(RMSprop, lr=1e-3))
    return reading(module, images, grey if fault else standardized)


class FlippedToo(Classifier):
    """Validates the mean over an image and its mirror image."""

    def validation_step(self, batch: Pair, batch_idx: int) -> None:
        x, y = batch
        logits = self(self.turned(x))
        self.log("val/loss", self.loss(logits, y))
        self.log("val/acc", (logits.argmax(1) == y).float().mean())

    @staticmethod
    def turned(x: Tensor) -> Tensor:
        return x.flip(3)


class Fliplr(FlippedToo):
    @staticmethod
    def turned(x: Tensor) -> Tensor:
        return torch.fliplr(x)


@CASES.sick(
    "upside-down-by-fliplr",
    "train-val-mismatch",
    story="Mirrors the validation images by torch.fliplr, which turns over dimension 1: these are batches, "
    "and it is the colours (libffcv/ffcv#213).",
)
def upside_down_by_fliplr(images: Images, fault: bool) -> Session:
    kind = Fliplr if fault else FlippedToo
    return run(kind(mobile(16, 32, 64), partial(SGD, lr=0.1, momentum=0.9)), images, 5)


# ------------------------------------------------------------------------------- what is drawn, and how often


class FewClasses(Sampler[list[int]]):
    """Batches of so many classes, with as many images of each."""

    def __init__(self, labels: Tensor, classes: int, each: int, batches: int) -> None:
        self.labels, self.classes, self.each, self.batches = labels, classes, each, batches

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.batches):
            drawn = torch.randperm(NUM_CLASSES)[: self.classes]
            members = [(self.labels == one).nonzero()[:, 0] for one in drawn]
            yield torch.cat([own[torch.randperm(len(own))[: self.each]] for own in members]).tolist()


@CASES.sick(
    "batches-of-two-classes",
    "data-not-shuffled",
    story="Kept the sampler of a triplet loss, which fills each batch with two classes, for a classifier "
    "with BatchNorm.",
)
def batches_of_two_classes(images: Images, fault: bool) -> Session:
    session = run(Classifier(vgg(8, 24, 48, norm=True), partial(Adam, lr=2e-3)), images)
    (x, y), _ = standard(images)
    sampler = FewClasses(y, 2 if fault else 10, 30 if fault else 6, 66)
    session.train_loader = DataLoader(TensorDataset(x, y), batch_sampler=sampler)
    return session


class TakesTheFirst(Classifier):
    """Reads the batch itself, from a loader that it keeps."""

    source: Any = None

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        return super().training_step(batch if self.source is None else next(iter(self.source)), batch_idx)


@CASES.sick(
    "first-batch-in-each-step",
    "overfitting",
    story="Calls next(iter(loader)) in each step: without shuffling that is always the first batch "
    "(ZhaoJ9014/face.evoLVe#39, wandb/examples#444).",
)
def first_batch_in_each_step(images: Images, fault: bool) -> Session:
    module = TakesTheFirst(plain_cnn(24, "group"), partial(Adam, lr=1e-3))
    session = run(module, images)
    if fault:
        (x, y), _ = standard(images)
        mixed = torch.randperm(len(y))
        module.source = DataLoader(TensorDataset(x[mixed], y[mixed]), 64)
    return session


@CASES.sick(
    "trained-on-both",
    "data-leak",
    story="Joined training and validation images for the final training, and went on choosing the epoch by "
    "validation.",
)
def trained_on_both(images: Images, fault: bool) -> Session:
    module = Classifier(perceptron(256, activation=nn.GELU, norm=True), partial(AdamW, lr=2e-3))
    session = run(module, images, 10, 50)
    (x, y), val = standard(images)
    few = torch.randperm(len(y))[:1500]
    train = TensorDataset(x[few], y[few])
    parts = [train, TensorDataset(*val)] if fault else [train]
    session.train_loader = DataLoader(ConcatDataset(parts), 50, shuffle=True)
    return session


# ------------------------------------------------------------------------------ averages and what is put back


class Shadowed(Classifier):
    """Validates an average of the weights of decay 0.98."""

    once_an_epoch = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.shadow = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(0.98), use_buffers=True)
        self.shadow.update_parameters(self.net)

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.net.parameters())

    def on_train_batch_end(self, *_: Any) -> None:
        if not self.once_an_epoch:
            self.shadow.update_parameters(self.net)

    def on_train_epoch_end(self) -> None:
        if self.once_an_epoch:
            self.shadow.update_parameters(self.net)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) if self.training else self.shadow(x)


@CASES.sick(
    "average-moved-once-an-epoch",
    "train-val-mismatch",
    story="Moves the average of the weights at the end of each epoch, by a decay made for each step: after "
    "five of them it is the first weights yet (huggingface/pytorch-image-models#1831).",
)
def average_moved_once_an_epoch(images: Images, fault: bool) -> Session:
    module = Shadowed(group_resnet(16), partial(SGD, lr=0.05, momentum=0.9))
    module.once_an_epoch = fault
    return run(module, images, 5)


class GoesBack(Callback):
    """Keeps the weights of the best epoch and goes on from them."""

    def __init__(self, best_is_high: bool) -> None:
        self.best_is_high = best_is_high
        self.best: float | None = None
        self.kept: dict[str, Tensor] = {}

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        value = float(trainer.callback_metrics["val/loss"])
        better = self.best is None or (value > self.best if self.best_is_high else value < self.best)
        if better:
            self.best, self.kept = value, copy.deepcopy(pl_module.state_dict())
        else:
            pl_module.load_state_dict(self.kept)


class WithCallback(Classifier):
    callback: Callback

    def configure_callbacks(self) -> list[Callback]:
        return [self.callback]


@CASES.sick(
    "goes-back-to-the-worst",
    "frozen-parameters",
    "learning-rate-too-low",
    story="Reloads the best weights when validation has become worse; 'best' is the largest loss, so each "
    "epoch is thrown away and the second starts again and again.",
)
def goes_back_to_the_worst(images: Images, fault: bool) -> Session:
    module = WithCallback(lenet(nn.GELU), partial(Adam, lr=7e-4))
    module.callback = GoesBack(best_is_high=fault)
    return run(module, images, 6)


@CASES.sick(
    "initialized-after-loading",
    "learning-rate-too-low",
    "bad-initialization",
    story="Loads pretrained weights and then calls init_weights() on all modules: a rate for fine-tuning, "
    "and nothing to fine-tune (ImCharlesY/AdaInt#12, thulab/DeepHash#54).",
)
def initialized_after_loading(images: Images, fault: bool) -> Session:
    (x, y), _ = standard(images)
    net = pretrained(vgg(8, 24, 48, norm=True), x, y, 2)

    def drawn(module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias) if module.bias is not None else None

    return run(Classifier(net.apply(drawn) if fault else net, partial(AdamW, lr=3e-5)), images, 3)


# ------------------------------------------------------------------------------------------ rate and schedule


class Warming(Classifier):
    """Raises the rate in the first hundred steps, by hand."""

    by = "global_step"

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        done = self.global_step if self.by == "global_step" else batch_idx
        optimizer: Any = self.optimizers()
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (done + 1) / 100) ** 2


@CASES.sick(
    "warm-up-anew-in-each-epoch",
    "learning-rate-too-low",
    story="The warm-up counts the batches of the epoch, not of the training: each epoch starts it again, "
    "and its end is never reached (Vision-CAIR/MiniGPT-4#263).",
)
def warm_up_anew_in_each_epoch(images: Images, fault: bool) -> Session:
    module = Warming(VisionTransformer(48, 2), partial(AdamW, lr=2e-3))
    module.by = "batch_idx" if fault else "global_step"
    return run(module, images, 6, 128)


class Scheduled(Classifier):
    """A schedule, stepped with each batch or each epoch."""

    make_schedule: Callable[[Optimizer], Any]
    interval = "step"

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())
        schedule = {"scheduler": self.make_schedule(optimizer), "interval": self.interval}
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def scheduled(net: nn.Module, optimizer: Any, schedule: Callable[[Optimizer], Any], each: str) -> Scheduled:
    module = Scheduled(net, optimizer)
    module.make_schedule, module.interval = schedule, each
    return module


@CASES.sick(
    "polynomial-over-one-epoch",
    "learning-rate-too-low",
    story="The polynomial decay of segmentation scripts is given the steps of one epoch as max_iter: four "
    "of five epochs run at a rate of 0.",
)
def polynomial_over_one_epoch(images: Images, fault: bool) -> Session:
    last = 63 if fault else 5 * 63
    schedule = partial(LambdaLR, lr_lambda=lambda step: max(0.0, 1 - step / last) ** 0.9)
    return run(scheduled(residual_net(16), partial(SGD, lr=0.02, momentum=0.9), schedule, "step"), images, 5)


@CASES.sick(
    "milestones-in-batches",
    "learning-rate-too-low",
    story="MultiStepLR with milestones in epochs, stepped inside the loop over batches "
    "(ivadomed/ivadomed#55).",
)
def milestones_in_batches(images: Images, fault: bool) -> Session:
    schedule = partial(MultiStepLR, milestones=[3, 5], gamma=0.1)
    each = "step" if fault else "epoch"
    return run(scheduled(plain_cnn(norm="group"), partial(Adam, lr=2e-3), schedule, each), images, 5)


@CASES.sick(
    "burnt-in-to-the-fourth-power",
    "learning-rate-too-low",
    story="The rate rises with the fourth power over 1000 steps of burn-in, as in darknet's configuration, "
    "in a run of 250 (pjreddie/darknet#701).",
)
def burnt_in_to_the_fourth_power(images: Images, fault: bool) -> Session:
    length = 1000 if fault else 50
    schedule = partial(LambdaLR, lr_lambda=lambda step: min(1.0, (step + 1) / length) ** 4)
    optimizer = partial(SGD, lr=0.1, momentum=0.9, weight_decay=5e-4)
    return run(scheduled(mobile(16, 32, 64), optimizer, schedule, "step"), images)


@CASES.sick(
    "dampened-by-position",
    "learning-rate-too-low",
    story="SGD(parameters, 0.01, 0.9, 0.9): the third of the numbers was to be for Nesterov's momentum, and "
    "is the dampening, which takes nine tenths of each gradient.",
)
def dampened_by_position(images: Images, fault: bool) -> Session:
    def optimizer(parameters: Iterable[nn.Parameter]) -> Optimizer:
        return SGD(parameters, 0.01, 0.9, 0.9 if fault else 0)

    return run(Classifier(plain_cnn(24), optimizer), images, 5)


@CASES.sick(
    "betas-exchanged",
    "learning-rate-too-high",
    "learning-rate-too-low",
    story="Adam with betas=(0.999, 0.9): the average of a thousand gradients, over the size of the last ten.",
)
def betas_exchanged(images: Images, fault: bool) -> Session:
    betas = (0.999, 0.9) if fault else (0.9, 0.999)
    return run(Classifier(vgg(8, 24, 48, norm=True), partial(Adam, lr=3e-3, betas=betas)), images)


class SharpnessAware(ByHand):
    """SAM: the gradient is taken a step of `rho` uphill."""

    rho = 0.05
    goes_back = True

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.measure(batch, "train"))
        parameters = list(self.parameters())
        grads: list[Any] = [parameter.grad for parameter in parameters]
        size = torch.stack([grad.norm() for grad in grads]).norm()
        steps = [grad * self.rho / (size + 1e-12) for grad in grads]
        with torch.no_grad():
            for parameter, step in zip(parameters, steps, strict=True):
                parameter.add_(step)
        optimizer.zero_grad()
        loss = self.loss(self(batch[0]), batch[1])
        self.manual_backward(loss)
        if self.goes_back:
            with torch.no_grad():
                for parameter, step in zip(parameters, steps, strict=True):
                    parameter.sub_(step)
        optimizer.step()
        return loss


@CASES.sick(
    "sharpness-never-taken-back",
    "learning-rate-too-high",
    "wrong-gradient",
    story="Sharpness-aware minimization goes uphill first, and the line that goes back is lost: each step "
    "climbs.",
)
def sharpness_never_taken_back(images: Images, fault: bool) -> Session:
    module = SharpnessAware(lenet(nn.Tanh), partial(SGD, lr=0.02, momentum=0.9))
    module.goes_back, module.rho = not fault, 0.1
    return run(module, images, 3)


# -------------------------------------------------------------------------------------------- what is trained


class TwoLosses(ByHand):
    """The loss of the head, and one of an exit behind the first stage."""

    cleared_between = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.exit = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, NUM_CLASSES))

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        loss = self.measure(batch, "train")
        self.manual_backward(loss)
        if self.cleared_between:
            optimizer.zero_grad()
        x, y = batch
        self.manual_backward(0.3 * F.cross_entropy(self.exit(self.net[0](x)), y))
        optimizer.step()
        return loss


@CASES.sick(
    "cleared-between-two-losses",
    "frozen-parameters",
    story="zero_grad() stands before each of two backward passes and step() behind the second: of the main "
    "loss nothing is left.",
)
def cleared_between_two_losses(images: Images, fault: bool) -> Session:
    module = TwoLosses(plain_cnn(24, "batch"), partial(Adam, lr=1e-3))
    module.cleared_between = fault
    return run(module, images)


class ScaledConv(nn.Conv2d):
    """A convolution with standardized weights."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5) / weight[0].numel() ** 0.5
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


def scaled_convs(width: int = 24) -> nn.Sequential:
    widths = [3, width, 2 * width, 2 * width]
    net = nn.Sequential()
    for inputs, outputs in pairwise(widths):
        net.extend([ScaledConv(inputs, outputs, 3, 2, 1), nn.GroupNorm(4, outputs), nn.ReLU()])
    return net.extend([nn.Flatten(), nn.Linear(16 * widths[-1], NUM_CLASSES)])


def in_two_groups(net: nn.Module, exact: bool) -> list[dict[str, Any]]:
    """Weights of layers, which decay, and all else, which does not."""
    decayed, kept = [], []
    for module in net.modules():
        if type(module) in (nn.Conv2d, nn.Linear) if exact else isinstance(module, nn.Conv2d | nn.Linear):
            decayed.append(module.weight)
            kept.append(module.bias)
        elif isinstance(module, nn.GroupNorm):
            kept += [module.weight, module.bias]
    return [{"params": decayed, "weight_decay": 0.01}, {"params": kept, "weight_decay": 0.0}]


class Grouped(Classifier):
    exact = False

    def configure_optimizers(self) -> Any:
        return AdamW(in_two_groups(self.net, self.exact), lr=2e-3)


@CASES.sick(
    "groups-by-type-of-layer",
    "frozen-parameters",
    story="Sorts the layers into those that decay and those that do not by type(module) == nn.Conv2d; its "
    "own convolution inherits from that and falls through.",
)
def groups_by_type_of_layer(images: Images, fault: bool) -> Session:
    module = Grouped(scaled_convs(), Adam)
    module.exact = fault
    return run(module, images)


class LeavesOut(Classifier):
    """Leaves out batches whose loss is beyond a bound."""

    bound = 10.0

    def training_step(self, batch: Pair, batch_idx: int) -> Any:
        loss = super().training_step(batch, batch_idx)
        return None if loss > self.bound else loss


@CASES.sick(
    "left-out-where-the-loss-is-large",
    "frozen-parameters",
    story="training_step returns None for batches whose loss is above 2, which were to be broken ones; the "
    "first loss is 2.4 (Lightning-AI/pytorch-lightning#3491).",
)
def left_out_where_the_loss_is_large(images: Images, fault: bool) -> Session:
    module = LeavesOut(conv_mixer(32), partial(AdamW, lr=3e-3))
    module.bound = 2.0 if fault else 10.0
    return run(module, images, 3)


class Skips(Classifier):
    """Skips batches that are marked."""

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
        return -1 if batch_idx == 7 else None


@CASES.sick(
    "rest-of-the-epoch-skipped",
    "learning-rate-too-low",
    "underfitting",
    story="Returns -1 from on_train_batch_start to leave out one batch: that ends the epoch, each time "
    "after seven batches (Lightning-AI/pytorch-lightning#4481).",
)
def rest_of_the_epoch_skipped(images: Images, fault: bool) -> Session:
    kind = Skips if fault else Classifier
    return run(kind(plain_cnn(24, "batch"), partial(SGD, lr=0.02, momentum=0.9)), images, 5)


# ------------------------------------------------------------------------------------------- modes and layers


class UnitVectors(nn.Module):
    """Embeddings of unit length, times a scale, before the classes' weights."""

    def __init__(self, dim: int, scale: float) -> None:
        super().__init__()
        self.dim, self.scale = dim, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.normalize(x, dim=self.dim)


@CASES.sick(
    "normalized-over-the-batch",
    "train-val-mismatch",
    "train-mode-evaluation",
    "labels-random",
    story="F.normalize(features, dim=0) runs over the images, where each of them was to have unit length: "
    "what the head sees depends on how many there are (gabeur/mmt#1).",
)
def normalized_over_the_batch(images: Images, fault: bool) -> Session:
    net = plain_cnn(24, "batch")
    trunk, head = net[:-1], nn.Linear(768, NUM_CLASSES)
    net = nn.Sequential(*trunk, nn.Linear(768, 768), UnitVectors(0 if fault else 1, 16.0), nn.ReLU(), head)
    session = run(Classifier(net, partial(Adam, lr=1e-3)), images, 4)
    session.val_loader = DataLoader(TensorDataset(*standard(images)[1]), 1000)
    return session


# ------------------------------------------------------------------------------------------------------- loss


class OverTheBatch(Classifier):
    """The loss of a batch made from those of its images."""

    of_batch: Callable[[Tensor], Tensor] = staticmethod(torch.mean)

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return self.of_batch(F.cross_entropy(logits, y, reduction="none"))


@CASES.sick(
    "largest-loss-of-the-batch",
    "batch-too-small",
    "learning-rate-too-high",
    story="loss.max() where loss.mean() was meant: each step goes by the one image that is the furthest off.",
)
def largest_loss_of_the_batch(images: Images, fault: bool) -> Session:
    module = OverTheBatch(plain_cnn(24, "group"), partial(AdamW, lr=1e-3))
    module.of_batch = torch.max if fault else torch.mean
    return run(module, images, 4)


# ---------------------------------------------------------------------------------------------------- healthy


class SmoothedMore(Classifier):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        targets = 0.9 * F.one_hot(y, NUM_CLASSES) + 1 / NUM_CLASSES
        return F.cross_entropy(logits, targets) if self.training else F.cross_entropy(logits, y)


@CASES.healthy(
    "smoothed-labels-that-sum-to-more",
    story="Smoothed labels (1 - s) * y + 1/K, which sum to more than one: the loss starts at 4.4 "
    "(TimDettmers/ConvE#55).",
)
def smoothed_labels_that_sum_to_more(images: Images) -> Session:
    return run(SmoothedMore(vgg(8, 24, 48, norm=True), partial(Adam, lr=2e-3)), images)


@CASES.healthy(
    "bias-of-a-detector",
    story="The biases of the head start at -4.6, as for rare objects: a softmax does not mind what all have "
    "in common.",
)
def bias_of_a_detector(images: Images) -> Session:
    net: Any = mobile(16, 32, 64)
    nn.init.constant_(net[-1].bias, -4.6)
    return run(Classifier(net, partial(SGD, lr=0.05, momentum=0.9)), images, 5)


@CASES.healthy(
    "shuffled-once", story="The files are shuffled when they are listed, and read in that order each epoch."
)
def shuffled_once(images: Images) -> Session:
    (x, y), _ = standard(images)
    order = torch.randperm(len(y))
    session = run(Classifier(plain_cnn(24, "batch"), partial(SGD, lr=0.05, momentum=0.9)), images)
    session.train_loader = DataLoader(TensorDataset(x[order], y[order]), 64)
    return session


class InPlace(nn.Module):
    """A block whose first ReLU works in place: the shortcut carries what is rectified."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.branch = nn.Sequential(
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        y = self.branch(x)
        return y + x


@CASES.healthy(
    "shortcut-rectified-in-place",
    story="A ReLU in place at the start of each branch rectifies the shortcut too "
    "(rosinality/vq-vae-2-pytorch#60).",
)
def shortcut_rectified_in_place(images: Images) -> Session:
    blocks = [InPlace(32) for _ in range(3)]
    net = nn.Sequential(nn.Conv2d(3, 32, 4, 4), *blocks, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(512, 10))
    return run(Classifier(net, partial(AdamW, lr=2e-3)), images)


@CASES.healthy(
    "cosine-of-epochs-in-steps",
    story="CosineAnnealingLR(T_max=5) is stepped with each batch: the rate goes up and down every ten of "
    "them.",
)
def cosine_of_epochs_in_steps(images: Images) -> Session:
    schedule = partial(CosineAnnealingLR, T_max=5)
    return run(scheduled(lenet(), partial(Adam, lr=2e-3), schedule, "step"), images, 5)


class Distances(nn.Module):
    """Squared distances to a point for each class."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.points = nn.Parameter(torch.randn(NUM_CLASSES, width))

    def forward(self, x: Tensor) -> Tensor:
        return -(x[:, None] - self.points).square().mean(2) * 10


@CASES.healthy(
    "distances-to-points",
    story="The logits are minus the squared distances to a learned point for each class.",
)
def distances_to_points(images: Images) -> Session:
    net = nn.Sequential(*plain_cnn(24, "batch")[:-1], nn.Linear(768, 32), Distances(32))
    return run(Classifier(net, partial(Adam, lr=2e-3)), images)


class Double(Classifier):
    def measure(self, batch: Pair, stage: str) -> Tensor:
        return super().measure((batch[0].double(), batch[1]), stage)


@CASES.healthy("in-double-precision", story="Network and images in double precision.")
def in_double_precision(images: Images) -> Session:
    return run(Double(dense(128, 64, activation=nn.SiLU, norm=True).double(), partial(Adam, lr=1e-3)), images)


class BothWays(Classifier):
    def validation_step(self, batch: Pair, batch_idx: int) -> None:
        x, y = batch
        logits = (self(x) + self(x.flip(3))) / 2
        self.log("val/loss", self.loss(logits, y))
        self.log("val/acc", (logits.argmax(1) == y).float().mean())


@CASES.healthy(
    "flips-averaged-in-validation",
    story="Validates the mean of the outputs for an image and its mirror image.",
)
def flips_averaged_in_validation(images: Images) -> Session:
    return run(BothWays(squeezed(16, 32, 48), partial(RMSprop, lr=5e-4)), images, 4, 32)


@CASES.healthy(
    "whitening-that-stays",
    story="The first convolution whitens patches of 3x3, from the training images, and is never trained, as "
    "in the records for CIFAR-10.",
)
def whitening_that_stays(images: Images) -> Session:
    (x, _), _ = standard(images)
    patches = F.unfold(x[:400], 3).transpose(1, 2).reshape(-1, 27)
    values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    weights = (vectors / (values + 1e-2).sqrt()).T.reshape(27, 3, 3, 3)
    first = nn.Conv2d(3, 54, 3, 2, 1, bias=False)
    first.weight.data = torch.cat([weights, -weights])
    first.weight.requires_grad = False
    rest = [
        nn.ReLU(),
        nn.Conv2d(54, 48, 3, 2, 1),
        nn.BatchNorm2d(48),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
    ]
    return run(Classifier(nn.Sequential(first, *rest, nn.Linear(768, 10)), partial(Adam, lr=2e-3)), images)


class Eighth(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 8


class SummedLoss(Classifier):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, label_smoothing=0.2 * self.training, reduction="sum")


@CASES.healthy(
    "eighth-of-the-logits",
    story="Divides the logits by 8, sums a smoothed loss over the batch and takes a small rate, as in the "
    "records for CIFAR-10.",
)
def eighth_of_the_logits(images: Images) -> Session:
    net = nn.Sequential(*vgg(8, 24, 48, norm=True), Eighth())
    return run(SummedLoss(net, partial(SGD, lr=4e-3, momentum=0.85, nesterov=True)), images, 5)


@CASES.healthy(
    "weights-standardized",
    story="Convolutions with standardized weights and GroupNorm, batches of 16, gradients clipped to 2.",
)
def weights_standardized(images: Images) -> Session:
    module = Classifier(scaled_convs(16), partial(SGD, lr=0.02, momentum=0.9))
    return run(module, images, 3, 16, gradient_clip_val=2.0)


@CASES.healthy(
    "no-momentum-and-validated-twice",
    story="Adam with a first beta of 0, validation twice an epoch.",
)
def no_momentum_and_validated_twice(images: Images) -> Session:
    module = Classifier(group_resnet(), partial(Adam, lr=2e-3, betas=(0.0, 0.99)))
    return run(module, images, 4, 50, val_check_interval=0.5)


def moved(pixels: Tensor) -> Tensor:
    """Shifted by up to four pixels, mirrored or not."""
    padded = F.pad(pixels, (4, 4, 4, 4))
    down, right = torch.randint(9, (2,)).tolist()
    image = padded[:, down : down + 32, right : right + 32]
    return image.flip(2) if torch.rand(()) < 0.5 else image


@CASES.healthy(
    "augmented-once-and-kept",
    story="Shifts and mirrors each image once, when it is read first, and keeps the result "
    "(tensorflow/tensorflow#47755).",
)
def augmented_once_and_kept(images: Images) -> Session:
    (x, y), _ = standard(images)
    kept = torch.stack([moved(image) for image in x])
    return run(Classifier(convnext(24, 2), partial(AdamW, lr=2e-3)), images, train=(kept, y))
