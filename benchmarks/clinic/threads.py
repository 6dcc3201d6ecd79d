"""Faults and odd but healthy runs retold from public threads, of kinds that no other file here has: the
thread is named where there is one; the others are what forums ask again and again. Written before any rule
was changed.

Validation accuracy (of the autoencoder: the share of the variance that is explained) and loss after
the last epoch, one seed:

                                             sick      twin or healthy
                                        acc     loss     acc     loss
    teacher-without-buffers             0.33      2.11  0.50      1.39
    names-with-a-prefix                 0.16      2.27  0.45      1.51
    checkpointed-without-gradients      0.35      1.79  0.44      1.54
    loss-of-the-side-exit               0.13      2.37  0.47      1.52
    focal-on-the-easy-ones              0.06      0.00  0.48      1.00
    targets-before-outputs              0.11 -13788.47  0.47      1.48
    divergence-summed-over-a-mean       0.00      0.69  0.46      0.65
    views-without-a-stopped-gradient    0.19     -0.84  0.28     -0.70
    optimizer-made-in-each-step         0.39      1.84  0.45      1.50
    epsilon-of-one                      0.22      2.16  0.46      1.49
    decay-of-layers-at-each-step        0.37      1.80  0.46      1.53
    plateau-judged-each-batch           0.39      1.75  0.45      1.58
    each-step-left-out                  0.11      2.39  0.44      1.55
    divided-by-255-twice                0.26      2.05  0.31      1.89
    one-buffer-for-all-images           0.10      2.31  0.44      1.54
    copies-in-another-order             0.12      2.31  0.49      1.40
    turned-before-the-question          0.25      1.39  0.56      1.06
    statistics-of-one-image             0.33      1.89  0.50      1.43
    angles-with-a-margin                                0.48      1.43
    weighed-by-uncertainty                              0.47      0.37
    signs-and-a-decay-of-one                            0.39      1.70
    hidden-patches                                                0.78
    rates-by-depth                                      0.48      1.48
    frozen-and-checkpointed                             0.43      1.57
    features-made-unrelated                             0.28      7.79
    images-asked-which-way-up                           0.56      1.06
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from clinic import NUM_CLASSES, CaseBook, Classifier, Images, Session
from healthy import Task, TwoHeads, Variational, fitting, greys
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset, TensorDataset
from wild import (
    Pair,
    TinyViT,
    dense,
    plain_cnn,
    pretrained,
    run,
    standard,
)

CASES = CaseBook()


# ------------------------------------------------------------------------------------- weights and copies


class AveragedTeacher(Classifier):
    """Validates an average of the weights, which takes BatchNorm's buffers over or forgets them."""

    def __init__(self, *args: Any, buffers: bool) -> None:
        super().__init__(*args)
        self.buffers_too = buffers
        self.teacher = copy.deepcopy(self.net).requires_grad_(False).eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) if self.training else self.teacher(x)

    @torch.no_grad()
    def on_train_batch_end(self, *args: Any) -> None:
        for slow, fast in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
            slow.lerp_(fast, 0.05)
        if self.buffers_too:
            for kept, current in zip(self.teacher.buffers(), self.net.buffers(), strict=True):
                kept.copy_(current)

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.net.parameters())


@CASES.sick(
    "teacher-without-buffers",
    "train-val-mismatch",
    story="Averages the parameters into the teacher and forgets BatchNorm's statistics "
    "(saltoricristiano/cosmix-uda#21).",
)
def teacher_without_buffers(images: Images, fault: bool) -> Session:
    net = plain_cnn(norm="batch")
    return run(AveragedTeacher(net, partial(Adam, lr=2e-3), buffers=not fault), images)


@CASES.sick(
    "names-with-a-prefix",
    "learning-rate-too-low",
    "underfitting",
    story="Loads a checkpoint of DataParallel by strict=False: no name fits, and the rate is for fine-tuning "
    "(megvii-model/ShuffleNet-Series#37).",
)
def names_with_a_prefix(images: Images, fault: bool) -> Session:
    (x, y), _ = standard(images)
    stored = pretrained(plain_cnn(norm="batch"), x[::2], y[::2], 4).state_dict()
    net = plain_cnn(norm="batch")
    net.load_state_dict({("module." if fault else "") + name: value for name, value in stored.items()}, False)
    return run(Classifier(net, partial(AdamW, lr=2e-5)), images, 3, train=(x[1::2], y[1::2]))


class Checkpointed(nn.Module):
    """A trunk whose activations are computed anew in the backward pass, and a head."""

    def __init__(self, trunk: nn.Module, head: nn.Module, reentrant: bool) -> None:
        super().__init__()
        self.trunk, self.head, self.reentrant = trunk, head, reentrant

    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint(self.trunk, x, use_reentrant=self.reentrant))


@CASES.sick(
    "checkpointed-without-gradients",
    "frozen-parameters",
    story="Checkpoints the first stages by the reentrant way: images need no gradient, so these get none "
    "(mlfoundations/open_clip#573).",
)
def checkpointed_without_gradients(images: Images, fault: bool) -> Session:
    trunk = plain_cnn(norm="group")
    net = Checkpointed(trunk[:-2], trunk[-2:], reentrant=fault)
    return run(Classifier(net, partial(Adam, lr=2e-3)), images)


class WithASideExit(Classifier):
    overwritten = False

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        x, y = batch
        logits, side = self(x)
        loss = 0.4 * self.loss(side, y)
        if self.overwritten:
            logits = side
        else:
            loss = loss + self.loss(logits, y)
        accuracy = (logits.argmax(1) == y).float().mean()
        values = {"train/loss": loss, "train/acc": accuracy}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(y))
        return loss


@CASES.sick(
    "loss-of-the-side-exit",
    "frozen-parameters",
    story="Writes the auxiliary logits over the main ones before the loss: the main exit is never trained "
    "(tensorflow/models#1527).",
)
def loss_of_the_side_exit(images: Images, fault: bool) -> Session:
    module = WithASideExit(TwoHeads(), partial(Adam, lr=2e-3))
    module.overwritten = fault
    return run(module, images)


# ------------------------------------------------------------------------------------------------- losses


class FocalByHand(Classifier):
    upside_down = False

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        each = F.cross_entropy(logits, y, reduction="none")
        sure = (-each).exp()
        return ((sure if self.upside_down else 1 - sure) ** 2 * each).mean()


@CASES.sick(
    "focal-on-the-easy-ones",
    "wrong-initial-loss",
    "underfitting",
    story="Wrote the focal loss with p to the gamma instead of 1 - p: it looks away from what is hard.",
)
def focal_on_the_easy_ones(images: Images, fault: bool) -> Session:
    module = FocalByHand(plain_cnn(norm="batch"), partial(Adam, lr=2e-3))
    module.upside_down = fault
    return run(module, images)


class AgainstOneHot(Classifier):
    swapped = False

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        target = F.one_hot(y, NUM_CLASSES).float()
        return F.cross_entropy(target, logits) if self.swapped else F.cross_entropy(logits, target)


@CASES.sick(
    "targets-before-outputs",
    "wrong-initial-loss",
    "exploding-gradients",
    story="Gave the cross-entropy its one-hot targets first and its logits second; the loss goes below zero "
    "(guillaume-chevalier/LSTM-Human-Activity-Recognition#8).",
)
def targets_before_outputs(images: Images, fault: bool) -> Session:
    module = AgainstOneHot(plain_cnn(norm="batch"), partial(Adam, lr=2e-3))
    module.swapped = fault
    return run(module, images)


class AveragedPixels(Variational):
    """The variational autoencoder, its likelihood averaged over pixels, its divergence averaged or not."""

    summed = False

    def loss(self, batch: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        (x,) = batch
        logits, mean, log_var = self(x)
        pixels = F.binary_cross_entropy_with_logits(logits, x.flatten(1))
        each = 0.5 * (mean**2 + log_var.exp() - 1 - log_var)
        divergence = each.sum(1).mean() if self.summed else each.sum(1).mean() / x[0].numel()
        error = (logits.sigmoid() - x.flatten(1)).square().mean()
        return pixels + divergence, {"explained": 1 - error / x.var(), "divergence": divergence}


@CASES.sick(
    "divergence-summed-over-a-mean",
    "regularization-too-strong",
    story="Averages a VAE's likelihood over the pixels and sums its divergence: the latents say nothing "
    "(AppliedDataSciencePartners/WorldModels#12).",
)
def divergence_summed_over_a_mean(images: Images, fault: bool) -> Session:
    module = AveragedPixels()
    module.summed = fault
    train, val = TensorDataset(greys(images.train_x)), TensorDataset(greys(images.val_x))
    return fitting(module, train, val, epochs=8)


class TwoViewsAgree(Task):
    """SimSiam on two views of each image; validation is a vote of neighbours among training images."""

    stop = True

    def __init__(self, encoder: nn.Module, width: int, optimizer: Any, bank: Pair) -> None:
        super().__init__(encoder, optimizer)
        self.predictor = nn.Sequential(
            nn.Linear(width, width // 2), nn.BatchNorm1d(width // 2), nn.ReLU(), nn.Linear(width // 2, width)
        )
        self.bank = bank

    def view(self, x: Tensor) -> Tensor:
        x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x, x.flip(-1))
        x = x * (0.7 + 0.6 * torch.rand(len(x), 1, 1, 1)) + 0.2 * torch.randn(len(x), 3, 1, 1)
        row, column = torch.randint(0, 8, (2,)).tolist()
        return F.interpolate(x[:, :, row : row + 24, column : column + 24], size=32)

    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        first, second = self(self.view(x)), self(self.view(x))
        keep = Tensor.detach if self.stop else (lambda z: z)
        one, other = (
            F.cosine_similarity(self.predictor(a), keep(b)) for a, b in [(first, second), (second, first)]
        )
        loss = -(one + other).mean() / 2
        if self.training:
            return loss, {}
        near = F.normalize(self(x)) @ F.normalize(self(self.bank[0])).T
        votes = F.one_hot(self.bank[1][near.topk(15).indices], NUM_CLASSES).sum(1)
        return loss, {"acc": (votes.argmax(1) == y).float().mean()}


@CASES.sick(
    "views-without-a-stopped-gradient",
    "underfitting",
    "vanishing-gradients",
    story="Left out the detach() of SimSiam: all images go to one point, and the loss to -1 "
    "(PatrickHua/SimSiam#39).",
)
def views_without_a_stopped_gradient(images: Images, fault: bool) -> Session:
    (x, y), (val_x, val_y) = standard(images)
    encoder = nn.Sequential(*plain_cnn(norm="batch")[:-1], nn.Linear(768, 64), nn.BatchNorm1d(64))
    module = TwoViewsAgree(encoder, 64, partial(SGD, lr=0.05, momentum=0.9), (x[::8], y[::8]))
    module.stop = not fault
    train = TensorDataset(x[::2], y[::2])
    return fitting(module, train, TensorDataset(val_x[::2], val_y[::2]), epochs=4)


# -------------------------------------------------------------------------------------------------- steps


class NewOptimizerEachStep(Classifier):
    """Manual optimization, whose optimizer is made where it is used or once."""

    def __init__(self, *args: Any, anew: bool) -> None:
        super().__init__(*args)
        self.automatic_optimization = False
        self.anew = anew

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        optimizer: Any = self.make_optimizer(self.parameters()) if self.anew else self.optimizers()
        loss = self.measure(batch, "train")
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        return loss


@CASES.sick(
    "optimizer-made-in-each-step",
    "learning-rate-too-high",
    story="Makes Adam inside the loop: without its averages each weight moves by the full rate at each step "
    "(haydnv/tinychain#51).",
)
def optimizer_made_in_each_step(images: Images, fault: bool) -> Session:
    return run(NewOptimizerEachStep(plain_cnn(), partial(Adam, lr=3e-3), anew=fault), images)


@CASES.sick(
    "epsilon-of-one",
    "learning-rate-too-low",
    story="Took the default of a script, eps=1, for Adam: the gradient is never divided by its size "
    "(tensorflow/models#779).",
)
def epsilon_of_one(images: Images, fault: bool) -> Session:
    return run(
        Classifier(plain_cnn(norm="batch"), partial(Adam, lr=1e-3, eps=1.0 if fault else 1e-3)), images
    )


class DecayOfLayers(AdamW):
    """The rates of the layers fall from the head down; set once, or by mistake again before each step."""

    def __init__(self, groups: Any, decay: float, again: bool, **options: Any) -> None:
        super().__init__(groups, **options)
        self.decay, self.again = decay, again
        self.apply_decay()

    def apply_decay(self) -> None:
        for depth, group in enumerate(reversed(self.param_groups)):
            group["lr"] *= self.decay**depth

    def step(self, closure: Any = None) -> Any:
        if self.again:
            self.apply_decay()
        return super().step(closure)


def layer_by_layer(net: nn.Module, **options: Any) -> DecayOfLayers:
    layers = [[*part.parameters()] for part in net.children()]
    return DecayOfLayers([{"params": layer} for layer in layers if layer], **options)


class LayerByLayer(Classifier):
    again = False

    def configure_optimizers(self) -> Any:
        return layer_by_layer(self.net, decay=0.75, again=self.again, lr=2e-3)


@CASES.sick(
    "decay-of-layers-at-each-step",
    "learning-rate-too-low",
    "frozen-parameters",
    story="Applies the layer-wise decay of the rate at each step, not once: all but the head stand still "
    "(jaehyunnn/ViTPose_pytorch#20).",
)
def decay_of_layers_at_each_step(images: Images, fault: bool) -> Session:
    module = LayerByLayer(plain_cnn(norm="batch"), partial(Adam))
    module.again = fault
    return run(module, images)


class PlateauOfBatches(Classifier):
    each_batch = False

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())
        self.plateau = ReduceLROnPlateau(optimizer, factor=0.5, patience=3)
        return optimizer

    def on_train_batch_end(self, outputs: Any, batch: Pair, batch_idx: int) -> None:
        if self.each_batch:
            self.plateau.step(float(outputs["loss"]))

    def on_train_epoch_end(self) -> None:
        if not self.each_batch:
            self.plateau.step(float(self.trainer.callback_metrics["train/loss"]))


@CASES.sick(
    "plateau-judged-each-batch",
    "learning-rate-too-low",
    story="Steps ReduceLROnPlateau with the loss of each batch: four that are not the best halve the rate.",
)
def plateau_judged_each_batch(images: Images, fault: bool) -> Session:
    module = PlateauOfBatches(plain_cnn(norm="batch"), partial(SGD, lr=0.05, momentum=0.9))
    module.each_batch = fault
    return run(module, images)


class Scaler(Classifier):
    """The loss scale of mixed precision by hand: a step is left out where a gradient overflows float16."""

    def __init__(self, *args: Any, backs_off: bool) -> None:
        super().__init__(*args)
        self.automatic_optimization = False
        self.backs_off = backs_off
        self.scale = 2.0**24

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        loss = self.measure(batch, "train")
        self.manual_backward(loss * self.scale)
        grads = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        finite = all(bool(grad.half().isfinite().all()) for grad in grads)
        for grad in grads:
            grad.div_(self.scale)
        if finite:
            optimizer.step()
        elif self.backs_off:
            self.scale /= 2
        return loss


@CASES.sick(
    "each-step-left-out",
    "frozen-parameters",
    "non-finite-loss",
    "exploding-gradients",
    story="Left out scaler.update(): the first scale overflows, and each step is skipped without a word "
    "(pytorch/pytorch#67590).",
)
def each_step_left_out(images: Images, fault: bool) -> Session:
    optimizer = partial(SGD, lr=0.05, momentum=0.9)
    return run(Scaler(plain_cnn(norm="batch"), optimizer, backs_off=not fault), images)


# --------------------------------------------------------------------------------------------------- data


@CASES.sick(
    "divided-by-255-twice",
    "input-not-normalized",
    "input-constant",
    story="Divides by 255 what ToTensor() has divided already (facebookresearch/InterHand2.6M#110).",
)
def divided_by_255_twice(images: Images, fault: bool) -> Session:
    by = 255.0**2 if fault else 255.0
    train, val = (images.train_x / by, images.train_y), (images.val_x / by, images.val_y)
    return run(Classifier(dense(128, 64), partial(Adam, lr=1e-3)), images, 5, train=train, val=val)


class IntoABuffer(Dataset):
    """Each image is written into the same array, which is given out itself or as a copy."""

    def __init__(self, x: Tensor, y: Tensor, copied: bool) -> None:
        self.x, self.y, self.copied = x, y, copied
        self.buffer = torch.empty_like(x[0])

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, place: int) -> Pair:
        self.buffer.copy_(self.x[place])
        return (self.buffer.clone() if self.copied else self.buffer), self.y[place]


@CASES.sick(
    "one-buffer-for-all-images",
    "input-constant",
    "labels-random",
    story="The data set reads into one buffer and gives that out: when a batch is stacked, all are the last.",
)
def one_buffer_for_all_images(images: Images, fault: bool) -> Session:
    (x, y), _ = standard(images)
    session = run(Classifier(plain_cnn(norm="group"), partial(Adam, lr=2e-3)), images)
    session.train_loader = DataLoader(IntoABuffer(x, y, copied=not fault), 64, shuffle=True)
    return session


class TwoCopies(Classifier):
    """Each image twice in a batch, changed differently, its labels repeated in one order or the other."""

    interleaved = False

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        x, y = batch
        both = torch.cat([x.flip(-1), x + 0.2 * torch.randn_like(x)])
        labels = y.repeat_interleave(2) if self.interleaved else y.repeat(2)
        return super().training_step((both, labels), batch_idx)


@CASES.sick(
    "copies-in-another-order",
    "labels-random",
    story="Puts the second views behind the first ones and repeats the labels one by one: few fit.",
)
def copies_in_another_order(images: Images, fault: bool) -> Session:
    module = TwoCopies(plain_cnn(norm="batch"), partial(Adam, lr=2e-3))
    module.interleaved = fault
    return run(module, images, 3)


class TurnedImages(Dataset):
    """The task of saying by which quarter an image was turned; `also` turns it by chance before."""

    def __init__(self, x: Tensor, also: bool) -> None:
        self.x, self.also = x, also

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        quarter, by_chance = torch.randint(0, 4, (2,)).tolist()
        return self.x[place].rot90(quarter + by_chance * self.also, (1, 2)), quarter


@CASES.sick(
    "turned-before-the-question",
    "labels-random",
    story="Asks by which quarter an image was turned, and augments by quarter turns as well.",
)
def turned_before_the_question(images: Images, fault: bool) -> Session:
    (x, _), (val_x, _) = standard(images)
    net = nn.Sequential(*plain_cnn(norm="batch")[:-1], nn.Linear(768, 4))
    session = run(Classifier(net, partial(Adam, lr=2e-3)), images)
    session.train_loader = DataLoader(TurnedImages(x, also=fault), 64, shuffle=True)
    session.val_loader = DataLoader(TurnedImages(val_x, also=False), 200)
    return session


@CASES.sick(
    "statistics-of-one-image",
    "train-mode-evaluation",
    "train-val-mismatch",
    "batch-too-small",
    story="BatchNorm without running statistics: validation, an image at a time, goes by that image's own "
    "(sahagobinda/GPM#9).",
)
def statistics_of_one_image(images: Images, fault: bool) -> Session:
    net = plain_cnn(norm="batch")
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and fault:
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    session = run(Classifier(net, partial(Adam, lr=2e-3)), images)
    few = [*range(0, 1000, 2)]
    session.val_loader = DataLoader(torch.utils.data.Subset(session.val_loader.dataset, few), 1)
    return session


# ------------------------------------------------------------------------------------------------ healthy


class Margin(Classifier):
    """ArcFace: the angle to the own class is made larger by a margin, in training only."""

    scale, margin = 16.0, 0.3

    def measure(self, batch: Pair, stage: str) -> Tensor:
        x, y = batch
        features = F.normalize(self.net[:-1](x))
        cosines = features @ F.normalize(self.net[-1].weight).T
        own = F.one_hot(y, NUM_CLASSES).bool() if stage == "train" else torch.zeros_like(cosines).bool()
        angles = cosines.clamp(-1 + 1e-6, 1 - 1e-6).arccos()
        logits = self.scale * torch.where(own, (angles + self.margin).cos(), cosines)
        loss = self.loss(logits, y)
        values = {f"{stage}/loss": loss, f"{stage}/acc": (logits.argmax(1) == y).float().mean()}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(y))
        return loss


@CASES.healthy(
    "angles-with-a-margin",
    story="ArcFace: the loss starts at three times chance, the accuracy of training near 0 "
    "(heshuting555/AICITY2020_DMT_VehicleReID#3).",
)
def angles_with_a_margin(images: Images) -> Session:
    net = nn.Sequential(*plain_cnn(norm="batch")[:-1], nn.Linear(768, NUM_CLASSES, bias=False))
    return run(Margin(net, partial(Adam, lr=1e-3)), images, 5)


class Uncertain(Classifier):
    """Class and brightness of an image, each loss weighed by a learned uncertainty."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.log_variances = nn.Parameter(torch.zeros(2))

    def measure(self, batch: Pair, stage: str) -> Tensor:
        x, y = batch
        logits, brightness = self(x).split([NUM_CLASSES, 1], dim=1)
        losses = torch.stack(
            [F.cross_entropy(logits, y), F.mse_loss(brightness.squeeze(1), x.mean((1, 2, 3)))]
        )
        loss = (losses * (-self.log_variances).exp() + self.log_variances).sum()
        values = {f"{stage}/loss": loss, f"{stage}/acc": (logits.argmax(1) == y).float().mean()}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(y))
        return loss


@CASES.healthy(
    "weighed-by-uncertainty",
    story="Two tasks weighed by learned uncertainties: the loss goes below zero (wayveai/fiery#15).",
)
def weighed_by_uncertainty(images: Images) -> Session:
    net = nn.Sequential(*plain_cnn(norm="group")[:-1], nn.Linear(768, NUM_CLASSES + 1))
    return run(Uncertain(net, partial(Adam, lr=3e-3)), images, 6)


class Lion(Optimizer):
    """EvoLved Sign Momentum: each weight moves by the rate, and decays by the rate times a large decay."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "betas": (0.9, 0.99)})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            near, far = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                average = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(average.lerp(parameter.grad, 1 - near).sign_(), alpha=-group["lr"])
                average.lerp_(parameter.grad, 1 - far)
        return loss


@CASES.healthy(
    "signs-and-a-decay-of-one",
    story="Lion at 2e-4 with a weight decay of 1, as its authors say (lucidrains/lion-pytorch#2).",
)
def signs_and_a_decay_of_one(images: Images) -> Session:
    return run(Classifier(TinyViT(), partial(Lion, lr=2e-4, weight_decay=1.0)), images, 5)


class MaskedPatches(Task):
    """A masked autoencoder: three of four patches are hidden, their standardized pixels asked for."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), partial(AdamW, lr=1.5e-3, betas=(0.9, 0.95), weight_decay=0.05))
        self.embed = nn.Linear(48, 64)
        self.places = nn.Parameter(0.02 * torch.randn(64, 64))
        self.hidden = nn.Parameter(0.02 * torch.randn(64))
        layer = partial(
            nn.TransformerEncoderLayer, 64, 4, 128, 0.0, F.gelu, batch_first=True, norm_first=True
        )
        self.encoder, self.decoder = layer(), layer()
        self.head = nn.Linear(64, 48)

    def loss(self, batch: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        patches = F.unfold(batch[0], 4, stride=4).transpose(1, 2)
        count = len(patches)
        order = torch.rand(count, 64).argsort(1)
        shown, rest = order[:, :16], order[:, 16:]
        tokens = self.embed(patches) + self.places
        told = self.encoder(tokens.gather(1, shown.unsqueeze(2).expand(-1, -1, 64)))
        asked = self.hidden + self.places[rest]
        said = self.head(self.decoder(torch.cat([told, asked], 1))[:, 16:])
        wanted = patches.gather(1, rest.unsqueeze(2).expand(-1, -1, 48))
        wanted = (wanted - wanted.mean(2, keepdim=True)) / (wanted.var(2, keepdim=True) + 1e-6).sqrt()
        return F.mse_loss(said, wanted), {}


@CASES.healthy(
    "hidden-patches",
    story="A masked autoencoder: the loss goes from 1 to 0.8, no further (pengzhiliang/MAE-pytorch#103).",
)
def hidden_patches(images: Images) -> Session:
    (x, _), (val_x, _) = standard(images)
    return fitting(MaskedPatches(), TensorDataset(x[::2]), TensorDataset(val_x[::2]), epochs=4)


@CASES.healthy(
    "rates-by-depth",
    story="The rate falls by a quarter from each layer to the one below; deeper ones learn faster "
    "(facebookresearch/mae#177).",
)
def rates_by_depth(images: Images) -> Session:
    (x, y), _ = standard(images)
    net = pretrained(plain_cnn(norm="batch"), x[::2], y[::2], 3)
    return run(LayerByLayer(net, partial(Adam)), images, 3, train=(x[1::2], y[1::2]))


@CASES.healthy(
    "frozen-and-checkpointed",
    story="A pretrained trunk, frozen and checkpointed: torch warns that no input needs a gradient, rightly "
    "(2U1/Llama3.2-Vision-Finetune#27).",
)
def frozen_and_checkpointed(images: Images) -> Session:
    (x, y), _ = standard(images)
    net: Any = pretrained(plain_cnn(norm="group"), x[::2], y[::2], 3)
    trunk = net[:-1].requires_grad_(False)
    head = nn.Linear(768, NUM_CLASSES)
    return run(
        Classifier(Checkpointed(trunk, head, reentrant=True), partial(Adam, lr=2e-3)), images, 4,
        train=(x[1::2], y[1::2]),
    )  # fmt: skip


class Decorrelated(TwoViewsAgree):
    """Barlow Twins: the features of two views are to be the same one by one, and otherwise unrelated."""

    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        _, values = super().loss(batch)
        first, second = (F.batch_norm(self(self.view(batch[0])), None, None, training=True) for _ in "ab")
        related = first.T @ second / len(first)
        own = related.diagonal()
        return (own - 1).square().sum() + 0.01 * (related.square().sum() - own.square().sum()), values

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.net.parameters())


@CASES.healthy(
    "features-made-unrelated",
    story="Barlow Twins: the loss is a sum over features, in the tens, and never near zero.",
)
def features_made_unrelated(images: Images) -> Session:
    (x, y), (val_x, val_y) = standard(images)
    encoder = nn.Sequential(*plain_cnn(norm="batch")[:-1], nn.Linear(768, 64))
    module = Decorrelated(encoder, 64, partial(Adam, lr=1e-3), (x[::8], y[::8]))
    return fitting(module, TensorDataset(x[::2], y[::2]), TensorDataset(val_x[::2], val_y[::2]), epochs=4)


@CASES.healthy(
    "images-asked-which-way-up", story="Predicts by which quarter an image was turned: four classes."
)
def images_asked_which_way_up(images: Images) -> Session:
    return turned_before_the_question(images, False)
