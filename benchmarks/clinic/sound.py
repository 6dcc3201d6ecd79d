"""Healthy runs that look as different from the others as the field allows, most of them image classifiers:
recipes of much-used repositories and papers with their own settings, shrunk to a few seconds. A tool is to
keep silent on each. Written before any rule was looked at.

Validation accuracy, validation and training loss after the last epoch, one seed; those without a figure have
only been tried for a few steps:

                                            acc     val   train
    resnet-of-ninety-five-percent          0.37    1.66    1.67
    patches-are-all-you-need               0.39    1.64    1.74
    without-any-normalization              0.44    1.54    1.28
    vit-as-deit-trains-it                  0.31    1.95
    resnet-strikes-back                    0.29    0.30
    mixer-by-sharpness                     0.31    1.81    1.75
    efficient-net-as-tensorflow-has-it     0.40    1.89    1.70
    densely-connected                      0.40    1.61    1.60
    binarized                              0.40    0.30    0.29
    four-bits-with-learned-steps           0.50    1.42    1.01
    spikes-with-a-surrogate                0.39    1.64    1.61
    maxout-and-max-norm                    0.43    1.61    1.72
    blocks-dropped-and-cut-out             0.45    1.07    0.93
    keras-small-convnet                    0.41    1.70    1.73
    angles-with-a-margin                   0.46    2.36    2.78
    two-that-teach-each-other              0.47    1.47
    exits-on-the-way                               1.61    1.52
    mean-teacher                           0.40    1.67    1.03
    easy-images-first                      0.46    1.50    1.04
    larger-images-later                    0.47    1.41    1.36
    fine-tuned-as-fast-ai-does             0.43    1.57    1.24
    rates-by-depth                         0.31    1.91    1.89
    large-batches-by-lars                  0.45    1.54    1.39
    adafactor-by-itself
    muon-and-adam                          0.36    1.79    1.77
    centred-and-noisy-gradients
    averaged-by-lightning                  0.47    1.48    1.31
    triangles                              0.49    1.41    0.98
    warm-restarts                          0.42    1.64    1.52
    two-images-at-a-time                   0.36    1.80    1.77
    whole-set-each-step
    long-tail-adjusted
    known-noise-corrected                  0.41    1.60    1.67
    four-greys                             0.32    1.87    1.93
    larger-and-each-by-itself              0.46    1.47    1.38
    twenty-shots-by-lbfgs                  0.35    1.84    0.72
    norms-frozen-as-in-detection           0.52    1.17    1.25
    deep-tanh-delta-orthogonal             0.42    1.63    1.53
    weights-parametrized
    one-block-three-times                  0.33    1.86    1.83
    four-experts                           0.44    1.57    1.38
    three-tasks-by-uncertainty             0.45    0.85    0.64
    classes-that-come-later                0.47    1.49    1.12
    trades                                 0.41    1.66    1.54
    six-passes-with-dropout                0.46    1.51    1.35
    endless-stream-of-dicts                0.49    1.38    1.37
    autocast-and-four-parts
    thirty-steps                                           2.08
    stopped-in-time
    goes-on-from-a-checkpoint
    which-way-is-up
    contrast-and-a-probe-beside            0.34    2.19
    average-swapped-in-for-validation      0.49    1.45    1.07
    prototypes-in-episodes
    points-by-a-flow                               0.17    0.28
    one-image-by-fourier-features
    clicks-by-a-factorization-machine
    letters-from-frames-by-ctc
    neighbours-by-negative-sampling
    eight-months-ahead
    codes-for-images
    hazards-of-a-batch
    where-a-spiral-goes
    peaks-in-heat-maps
    digits-written-backwards
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from clinic import NUM_CLASSES, CaseBook, Classifier, Images, Session, normalized
from healthy import Task, fitting, halves
from lightning.pytorch.callbacks import Callback, EarlyStopping, StochasticWeightAveraging
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm
from torch.optim import LBFGS, SGD, Adadelta, Adafactor, Adam, AdamW, Muon, NAdam, Optimizer, RAdam, RMSprop
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    ExponentialLR,
    LambdaLR,
    MultiStepLR,
    OneCycleLR,
    ReduceLROnPlateau,
)
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, TensorDataset
from torchvision.ops import DropBlock2d, FrozenBatchNorm2d, SqueezeExcitation, StochasticDepth
from torchvision.transforms import v2
from wild import Pair, conv_unit, plain_cnn, pretrained, residual_net, run, standard

CASES = CaseBook()


def each_step(optimizer: Optimizer, scheduler: Any) -> dict[str, Any]:
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Scheduled(Classifier):
    """`schedule(optimizer, steps)` for each step of the run."""

    schedule: Callable[[Optimizer, int], Any]

    def groups(self) -> Any:
        return self.parameters()

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.groups())
        steps = int(self.trainer.estimated_stepping_batches)
        return each_step(optimizer, self.schedule(optimizer, steps))


def cosine(optimizer: Optimizer, steps: int) -> Any:
    return CosineAnnealingLR(optimizer, steps)


def warm_cosine(optimizer: Optimizer, steps: int, share: float = 0.1) -> Any:
    warm = max(1, int(share * steps))
    return LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * min(1.0, step / steps))),
    )


def scheduled(
    net: nn.Module, optimizer: Any, schedule: Callable[[Optimizer, int], Any], kind: Any = Scheduled
) -> Any:
    module = kind(net, optimizer)
    module.schedule = schedule
    return module


def decayed_in_part(net: nn.Module, decay: float) -> list[dict[str, Any]]:
    """No decay of biases, norms and whatever has one dimension, as timm does."""
    flat = [p for p in net.parameters() if p.ndim < 2]
    deep = [p for p in net.parameters() if p.ndim >= 2]
    return [{"params": deep, "weight_decay": decay}, {"params": flat, "weight_decay": 0.0}]


class Augmented(Dataset):
    """Transforms of torchvision on bytes, image by image, and then the statistics of the set."""

    def __init__(self, x: Tensor, y: Tensor, *transforms: Any, after: Any = None) -> None:
        self.x, self.y, self.after = x, y, after
        self.transform = v2.Compose(transforms) if transforms else None

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = self.x[index]
        image = normalized(self.transform(image) if self.transform else image)
        return (self.after(image) if self.after else image), self.y[index]


def shifted(x: Tensor, most: int = 4) -> Tensor:
    """Crops after padding and mirrors, drawn for the whole batch: an idiom of fast loaders."""
    down, across = torch.randint(2 * most + 1, (2,)).tolist()
    x = F.pad(x, [most] * 4)[:, :, down : down + 32, across : across + 32]
    return x.flip(3) if torch.rand(()) < 0.5 else x


# -------------------------------------------------------------------------- repositories and papers


class BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


def narrow_resnet(width: int = 8, blocks: tuple[int, ...] = (1, 1, 1), zero: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    inputs = width
    for stage, count in enumerate(blocks):
        for number in range(count):
            outputs = width * 2**stage
            layers.append(BasicBlock(inputs, outputs, 2 if stage and not number else 1))
            inputs = outputs
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, NUM_CLASSES))
    for module in net.modules():
        if zero and isinstance(module, BasicBlock):
            nn.init.zeros_(module.bn2.weight)
    return net


@CASES.healthy(
    "resnet-of-ninety-five-percent",
    story="The recipe of kuangliu/pytorch-cifar: SGD at 0.1, momentum, decay of 5e-4, cosine, crops and "
    "mirrors.",
)
def resnet_of_ninety_five(images: Images) -> Session:
    optimizer = partial(SGD, lr=0.1, momentum=0.9, weight_decay=5e-4)
    train = Augmented(images.train_x, images.train_y, v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip())
    session = run(scheduled(narrow_resnet(), optimizer, cosine), images, 4)
    session.train_loader = DataLoader(train, 128, shuffle=True)
    return session


class PatchMixer(nn.Sequential):
    """ConvMixer in its fifteen lines."""

    def __init__(self, width: int = 40, depth: int = 2, kernel: int = 5, patch: int = 4) -> None:
        def residual(*layers: nn.Module) -> nn.Module:
            inner = nn.Sequential(*layers)
            inner.forward = lambda x: x + nn.Sequential.forward(inner, x)  # type: ignore[method-assign]
            return inner

        blocks = [
            nn.Sequential(
                residual(
                    nn.Conv2d(width, width, kernel, groups=width, padding="same"),
                    nn.GELU(),
                    nn.BatchNorm2d(width),
                ),
                nn.Conv2d(width, width, 1),
                nn.GELU(),
                nn.BatchNorm2d(width),
            )
            for _ in range(depth)
        ]
        super().__init__(
            nn.Conv2d(3, width, patch, patch),
            nn.GELU(),
            nn.BatchNorm2d(width),
            *blocks,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, NUM_CLASSES),
        )


@CASES.healthy(
    "patches-are-all-you-need",
    story="ConvMixer as its authors train it on CIFAR-10: AdamW at 0.01 up and down, RandAugment, colours, "
    "random erasing, clipped at 1.",
)
def patches_are_all(images: Images) -> Session:
    train = Augmented(
        images.train_x,
        images.train_y,
        v2.RandomResizedCrop(32, scale=(0.75, 1.0), ratio=(1.0, 1.0), antialias=True),
        v2.RandomHorizontalFlip(),
        v2.RandAugment(num_ops=1, magnitude=8),
        v2.ColorJitter(0.2, 0.2, 0.2),
        after=v2.RandomErasing(p=0.25),
    )

    def up_and_down(optimizer: Optimizer, steps: int) -> Any:
        points = [0.0, 0.4, 0.8, 1.0]
        heights = [0.0, 1.0, 0.05, 0.0]

        def factor(step: int) -> float:
            at = min(step / steps, 1.0)
            place = next(i for i in range(1, 4) if at <= points[i])
            inside = (at - points[place - 1]) / (points[place] - points[place - 1])
            return max(1e-3, heights[place - 1] + inside * (heights[place] - heights[place - 1]))

        return LambdaLR(optimizer, factor)

    module = scheduled(PatchMixer(), partial(AdamW, lr=0.01, weight_decay=0.01), up_and_down)
    session = run(module, images, 3, gradient_clip_val=1.0)
    session.train_loader = DataLoader(train, 64, shuffle=True)
    return session


class ScaledConv(nn.Conv2d):
    """Scaled weight standardization with a gain, as in networks without normalization."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True)
        fan = self.weight[0].numel()
        weight = (self.weight - mean) * torch.rsqrt((variance * fan).clamp(min=1e-4)) * self.gain
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, groups=self.groups)


class FreeBlock(nn.Module):
    """x + alpha * skip_gain * f(gamma * relu(x) / beta), with a skip gain that starts at zero."""

    def __init__(self, width: int, beta: float, alpha: float = 0.2) -> None:
        super().__init__()
        self.conv1, self.conv2 = (
            ScaledConv(width, width, 3, padding=1),
            ScaledConv(width, width, 3, padding=1),
        )
        self.skip_gain = nn.Parameter(torch.zeros(()))
        self.alpha, self.beta = alpha, beta

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(x / self.beta) * 1.7139
        out = F.relu(self.conv1(out)) * 1.7139
        return x + self.alpha * self.skip_gain * self.conv2(out)


class ClippedByUnit(Scheduled):
    """Adaptive gradient clipping at 0.02 of each unit's norm, all but the head."""

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        for name, p in self.net.named_parameters():
            if p.grad is None or p.ndim < 2 or name.startswith(f"{len(self.net) - 1}."):
                continue
            shape = (-1, *(1 for _ in range(1, p.ndim)))
            most = p.detach().flatten(1).norm(dim=1).view(shape).clamp(min=1e-3) * 0.02
            norm = p.grad.flatten(1).norm(dim=1).view(shape).clamp(min=1e-6)
            p.grad.mul_(torch.clamp(most / norm, max=1.0))


@CASES.healthy(
    "without-any-normalization",
    story="NFNet small: scaled weight standardization, skip gains of zero, adaptive clipping, Nesterov.",
)
def without_any_normalization(images: Images) -> Session:
    net = nn.Sequential(
        ScaledConv(3, 24, 4, 4),
        *(FreeBlock(24, math.sqrt(1 + 0.04 * i)) for i in range(3)),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(384, NUM_CLASSES),
    )
    nn.init.zeros_(net[-1].weight)  # type: ignore[arg-type]
    optimizer = partial(SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=2e-5)
    return run(scheduled(net, optimizer, warm_cosine, ClippedByUnit), images, 4)


class Attending(nn.Module):
    """A pre-norm transformer block with layer scale and stochastic depth, as in CaiT and DeiT III."""

    def __init__(self, width: int, heads: int, scale: float | None, drop: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))
        self.heads, self.drop_path = heads, StochasticDepth(drop, "row")
        start = torch.full((width,), scale or 1.0)
        self.gamma1 = nn.Parameter(start.clone(), requires_grad=scale is not None)
        self.gamma2 = nn.Parameter(start.clone(), requires_grad=scale is not None)

    def attend(self, x: Tensor) -> Tensor:
        count, tokens, width = x.shape
        q, k, v = self.qkv(x).view(count, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return self.proj(
            F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(count, tokens, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.gamma1 * self.attend(self.norm1(x)))
        return x + self.drop_path(self.gamma2 * self.mlp(self.norm2(x)))


class Vision(nn.Module):
    def __init__(
        self,
        width: int = 48,
        depth: int = 3,
        patch: int = 8,
        scale: float | None = 1e-1,
        shared: bool = False,
    ) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, patch, patch)
        tokens = (32 // patch) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens + 1, width))
        blocks = [Attending(width, 4, scale, 0.1 * i / depth) for i in range(1 if shared else depth)]
        self.blocks = nn.ModuleList(blocks * depth if shared else blocks)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, NUM_CLASSES)
        self.apply(self.start)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    @staticmethod
    def start(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class SoftLabels(Scheduled):
    """Mixup or CutMix of torchvision on each batch, whose labels are shares then."""

    mix: Any = v2.RandomChoice([v2.MixUp(alpha=0.8, num_classes=10), v2.CutMix(alpha=1.0, num_classes=10)])
    binary = False

    def groups(self) -> Any:
        return decayed_in_part(self.net, 0.05)

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        x, y = self.mix(*batch)
        logits = self(x)
        if self.binary:
            loss = F.binary_cross_entropy_with_logits(logits, (y > 0.2).float())
        else:
            loss = F.cross_entropy(logits, y, label_smoothing=0.1)
        self.log("train_loss", loss, on_epoch=True)
        return loss


@CASES.healthy(
    "vit-as-deit-trains-it",
    story="A ViT with layer scale, stochastic depth, warm-up, mixup and CutMix and smoothed labels, no "
    "decay of flat "
    "weights.",
)
def vit_as_deit(images: Images) -> Session:
    return run(scheduled(Vision(64), partial(AdamW, lr=1e-3), warm_cosine, SoftLabels), images, 5)


class Lamb(Optimizer):
    def __init__(
        self, params: Any, lr: float = 5e-3, weight_decay: float = 0.02, larger: float = 10.0
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.larger = larger

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
                state = self.state[p]
                if not state:
                    state.update(step=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
                state["step"] += 1
                state["m"].lerp_(p.grad, 0.1)
                state["v"].mul_(0.999).addcmul_(p.grad, p.grad, value=0.001)
                m = state["m"] / (1 - 0.9 ** state["step"])
                v = state["v"] / (1 - 0.999 ** state["step"])
                update = m / (v.sqrt() + 1e-6) + group["weight_decay"] * p
                trust = p.norm() / update.norm() if p.norm() > 0 and update.norm() > 0 else torch.ones(())
                p.sub_(group["lr"] * trust.clamp(max=self.larger) * update)
        return loss


@CASES.healthy(
    "resnet-strikes-back",
    story="The A3 recipe: LAMB, binary cross-entropy of one class against the rest on mixed labels, "
    "zero-initialized "
    "residual branches.",
)
def resnet_strikes_back(images: Images) -> Session:
    module = scheduled(narrow_resnet(10, zero=True), partial(Lamb, lr=0.02), warm_cosine, SoftLabels)
    module.binary = True
    module.loss = lambda logits, y: F.binary_cross_entropy_with_logits(logits, F.one_hot(y, 10).float())
    return run(module, images, 5)


class TokensThenChannels(nn.Module):
    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(tokens, 32), nn.GELU(), nn.Linear(32, tokens))
        self.channels = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class MLPMixer(nn.Module):
    def __init__(self, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 4, 4)
        self.blocks = nn.Sequential(*(TokensThenChannels(64, width) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, NUM_CLASSES)
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.stem(x).flatten(2).transpose(1, 2))).mean(1))


class SharpnessAware(Classifier):
    """SAM by hand: up by rho along the gradient, the gradient there, back, and the step."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.automatic_optimization = False

    def training_step(self, batch: Pair, batch_idx: int) -> None:  # type: ignore[override]
        x, y = batch
        opt: Any = self.optimizers()
        logits = self(x)
        loss = self.loss(logits, y)
        self.manual_backward(loss)
        with torch.no_grad():
            ps = [p for p in self.net.parameters() if p.grad is not None]
            norm = torch.stack([p.grad.norm() for p in ps]).norm() + 1e-12
            ups = [0.05 * p.grad / norm for p in ps]
            for p, up in zip(ps, ups, strict=True):
                p.add_(up)
        opt.zero_grad()
        self.manual_backward(self.loss(self(x), y))
        with torch.no_grad():
            for p, up in zip(ps, ups, strict=True):
                p.sub_(up)
        opt.step()
        opt.zero_grad()
        accuracy = (logits.argmax(1) == y).float().mean()
        self.log_dict({"train/loss": loss, "train/acc": accuracy}, on_step=False, on_epoch=True)


@CASES.healthy(
    "mixer-by-sharpness", story="MLP-Mixer with a head of zeros, trained by SAM over Adam, two passes a step."
)
def mixer_by_sharpness(images: Images) -> Session:
    return run(SharpnessAware(MLPMixer(48, 2), partial(Adam, lr=2e-3)), images, 3)


class MBConv(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, drop: float) -> None:
        super().__init__()
        wide = 4 * inputs
        norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)
        self.block = nn.Sequential(
            nn.Conv2d(inputs, wide, 1, bias=False),
            norm(wide),
            nn.SiLU(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
            norm(wide),
            nn.SiLU(),
            SqueezeExcitation(wide, max(4, inputs // 4), activation=nn.SiLU),
            nn.Conv2d(wide, outputs, 1, bias=False),
            norm(outputs),
        )
        self.depth = StochasticDepth(drop, "row")
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.depth(self.block(x)) if self.skip else self.block(x)


@CASES.healthy(
    "efficient-net-as-tensorflow-has-it",
    story="MBConv with squeeze and excitation, BatchNorm's momentum of 0.01, RMSprop with momentum and an "
    "epsilon "
    "of 0.001, the rate 3% less each epoch.",
)
def efficient_net(images: Images) -> Session:
    net = nn.Sequential(
        nn.Conv2d(3, 16, 4, 4, bias=False),
        nn.BatchNorm2d(16, eps=1e-3, momentum=0.01),
        nn.SiLU(),
        MBConv(16, 16, 1, 0.0),
        MBConv(16, 24, 2, 0.1),
        MBConv(24, 24, 1, 0.2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(24, NUM_CLASSES),
    )

    def decayed(optimizer: Optimizer, steps: int) -> Any:
        return ExponentialLR(optimizer, 0.97 ** (1 / 125))

    optimizer = partial(RMSprop, lr=1e-3, alpha=0.9, momentum=0.9, eps=1e-3, weight_decay=1e-5)
    module = scheduled(net, optimizer, decayed)
    module.loss = partial(F.cross_entropy, label_smoothing=0.1)
    return run(module, images, 4, 32)


class DenseLayer(nn.Module):
    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, F.dropout(self.conv(F.relu(self.norm(x))), 0.2, self.training)], 1)


@CASES.healthy(
    "densely-connected",
    story="DenseNet with a growth of 12 and dropout of 0.2, Nesterov at 0.1, divided by ten at half and "
    "three quarters.",
)
def densely_connected(images: Images) -> Session:
    def stage(inputs: int, outputs: int) -> list[nn.Module]:
        layers = [DenseLayer(inputs + 12 * i, 12) for i in range(3)]
        wide = inputs + 36
        return [
            *layers,
            nn.BatchNorm2d(wide),
            nn.ReLU(),
            nn.Conv2d(wide, outputs, 1, bias=False),
            nn.AvgPool2d(2),
        ]

    net = nn.Sequential(
        nn.Conv2d(3, 24, 3, 2, 1, bias=False),
        *stage(24, 24),
        *stage(24, 32),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, NUM_CLASSES),
    )

    def steps_down(optimizer: Optimizer, steps: int) -> Any:
        return MultiStepLR(optimizer, [steps // 2, 3 * steps // 4], 0.1)

    return run(
        scheduled(net, partial(SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4), steps_down),
        images,
        3,
    )


class Signs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sign() + (x == 0).to(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grad * (x.abs() <= 1)


class BinaryConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(Signs.apply(x), Signs.apply(self.weight), self.bias)


class Binarized(Classifier):
    """Weights are kept within -1..1 after each step, as in BinaryNet."""

    def on_train_batch_end(self, *args: Any) -> None:
        with torch.no_grad():
            for module in self.net.modules():
                if isinstance(module, BinaryConv):
                    module.weight.clamp_(-1, 1)

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        target = 2 * F.one_hot(y, NUM_CLASSES).float() - 1
        return F.relu(1 - target * logits).square().mean()


@CASES.healthy(
    "binarized",
    story="BinaryNet: weights and activations are signs with straight-through gradients, weights clamped, "
    "the squared "
    "hinge loss.",
)
def binarized(images: Images) -> Session:
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1),
        nn.BatchNorm2d(32),
        BinaryConv(32, 64, 3, 2, 1),
        nn.BatchNorm2d(64),
        BinaryConv(64, 64, 3, 2, 1),
        nn.BatchNorm2d(64),
        nn.Hardtanh(),
        nn.Flatten(),
        nn.Linear(1024, NUM_CLASSES),
        nn.BatchNorm1d(NUM_CLASSES),
    )
    return run(Binarized(net, partial(Adam, lr=5e-3)), images, 5)


class Steps(nn.Module):
    """LSQ: rounds to 4 bits with a learned step; the gradient of the step is scaled."""

    def __init__(self, low: int, high: int, start: float) -> None:
        super().__init__()
        self.low, self.high, self.size = low, high, nn.Parameter(torch.tensor(start))

    def forward(self, x: Tensor) -> Tensor:
        scale = 1 / math.sqrt(x[0].numel() * self.high)
        size = (self.size - self.size * scale).detach() + self.size * scale
        ratio = (x / size).clamp(self.low, self.high)
        return ((ratio.round() - ratio).detach() + ratio) * size


class QuantizedConv(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
        self.weights = Steps(-8, 7, 2 * float(self.conv.weight.abs().mean()) / math.sqrt(7))
        self.inputs = Steps(0, 15, 0.2)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out = F.conv2d(self.inputs(x), self.weights(self.conv.weight), None, 2, 1)
        return F.relu(self.norm(out))


@CASES.healthy(
    "four-bits-with-learned-steps", story="Quantization-aware training: LSQ for weights and activations."
)
def four_bits(images: Images) -> Session:
    net = nn.Sequential(
        conv_unit(3, 24, 2, "batch"),
        QuantizedConv(24, 48),
        QuantizedConv(48, 48),
        nn.Flatten(),
        nn.Linear(768, 10),
    )
    return run(scheduled(net, partial(SGD, lr=0.02, momentum=0.9, weight_decay=1e-4), cosine), images, 4)


class Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, potential: Tensor) -> Tensor:
        ctx.save_for_backward(potential)
        return (potential > 0).float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (potential,) = ctx.saved_tensors
        return grad / (1 + (math.pi * potential) ** 2)


class Spiking(nn.Module):
    """Leaky integrate-and-fire units over four time steps; the mean of the last potentials is the output."""

    def __init__(self, times: int = 4) -> None:
        super().__init__()
        self.times = times
        self.conv1, self.bn1 = nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24)
        self.conv2, self.bn2 = nn.Conv2d(24, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32)
        self.fc = nn.Linear(32 * 16, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        drive = self.bn1(self.conv1(x))
        v1, v2, total = torch.zeros_like(drive), 0.0, 0.0
        for _ in range(self.times):
            v1 = 0.5 * v1 + drive
            s1 = Spike.apply(v1 - 1.0)
            v1 = v1 * (1 - s1.detach())
            v2 = 0.5 * v2 + self.bn2(self.conv2(s1))
            s2 = Spike.apply(v2 - 1.0)
            v2 = v2 * (1 - s2.detach())
            total = total + self.fc(F.avg_pool2d(s2, 2).flatten(1))
        return total / self.times  # type: ignore[return-value]


@CASES.healthy(
    "spikes-with-a-surrogate", story="A spiking net over four time steps, surrogate gradients, Adam at 1e-3."
)
def spikes(images: Images) -> Session:
    return run(Classifier(Spiking(), partial(Adam, lr=1e-3)), images, 3)


class Maxout(nn.Module):
    def __init__(self, inputs: int, outputs: int, pieces: int = 2) -> None:
        super().__init__()
        self.conv, self.pieces = nn.Conv2d(inputs, outputs * pieces, 3, padding=1), pieces

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        return out.view(len(x), -1, self.pieces, *out.shape[2:]).amax(2)


class MaxNorm(Classifier):
    """The norm of what comes into each unit is held to at most 1.9, as in pylearn2; momentum grows."""

    def on_train_epoch_start(self) -> None:
        for group in self.trainer.optimizers[0].param_groups:
            group["momentum"] = min(0.9, 0.5 + 0.1 * self.current_epoch)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        with torch.no_grad():
            for p in self.net.parameters():
                if p.ndim > 1:
                    p.copy_(p.renorm(2, 0, 1.9))


@CASES.healthy(
    "maxout-and-max-norm",
    story="Maxout units with dropout from the input on, incoming norms held to 1.9, momentum growing from "
    "0.5.",
)
def maxout(images: Images) -> Session:
    net = nn.Sequential(
        nn.AvgPool2d(2),
        nn.Dropout(0.1),
        Maxout(3, 24),
        nn.MaxPool2d(2),
        nn.Dropout2d(0.2),
        Maxout(24, 32),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.4),
        nn.Linear(512, NUM_CLASSES),
    )
    return run(MaxNorm(net, partial(SGD, lr=0.02, momentum=0.5)), images, 5)


class Cutout:
    def __call__(self, x: Tensor) -> Tensor:
        x = x.clone()
        row, column = torch.randint(-4, 29, (2,)).tolist()
        x[:, max(0, row) : row + 8, max(0, column) : column + 8] = 0.0
        return x


@CASES.healthy(
    "blocks-dropped-and-cut-out",
    story="A residual net with DropBlock, images with cutout of 8, NAdam and focal loss.",
)
def blocks_dropped(images: Images) -> Session:
    net = residual_net(20)
    net.insert(2, DropBlock2d(0.1, 3))

    def focal(logits: Tensor, y: Tensor) -> Tensor:
        ce = F.cross_entropy(logits, y, reduction="none")
        return ((1 - (-ce).exp()) ** 2 * ce).mean()

    module = Classifier(net, partial(NAdam, lr=2e-3))
    module.loss = focal  # type: ignore[method-assign]
    session = run(module, images, 4)
    session.train_loader = DataLoader(
        Augmented(images.train_x, images.train_y, after=Cutout()), 64, shuffle=True
    )
    return session


@CASES.healthy(
    "keras-small-convnet",
    story="The old example of Keras: pixels in 0..1, RMSprop at 1e-4 times ten, batches of 32, dropout of "
    "0.25 and 0.5, "
    "plateau.",
)
def keras_small(images: Images) -> Session:
    def pair(inputs: int, outputs: int) -> list[nn.Module]:
        return [
            nn.Conv2d(inputs, outputs, 3, padding="same"),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.25),
        ]

    net = nn.Sequential(
        nn.AvgPool2d(2),
        *pair(3, 16),
        *pair(16, 32),
        nn.Flatten(),
        nn.Linear(128, 256),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(256, NUM_CLASSES),
    )
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    class Keras(Classifier):
        def configure_optimizers(self) -> Any:
            optimizer = RMSprop(self.parameters(), lr=1e-3, alpha=0.9, eps=1e-7)
            plateau = ReduceLROnPlateau(optimizer, factor=0.5, patience=1)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val/loss"}}

    train = images.train_x.float() / 255, images.train_y
    val = images.val_x.float() / 255, images.val_y
    return run(Keras(net, Adam), images, 6, 32, train, val)


# ------------------------------------------------------------------------------ losses and teaching


class Margin(Classifier):
    """ArcFace: an angle is added for the right class in training; validated by plain cosines."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.centres = nn.Parameter(torch.empty(NUM_CLASSES, 64))
        nn.init.xavier_uniform_(self.centres)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(self.net(x)), F.normalize(self.centres))

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        if not self.training:
            return F.cross_entropy(16 * logits, y)
        angle = torch.acos(logits.clamp(-1 + 1e-6, 1 - 1e-6))
        right = F.one_hot(y, NUM_CLASSES).bool()
        return F.cross_entropy(16 * torch.where(right, torch.cos(angle + 0.2), logits), y)


@CASES.healthy(
    "angles-with-a-margin", story="ArcFace with a scale of 16 and a margin of 0.2 in training alone."
)
def angles_with_a_margin(images: Images) -> Session:
    net = plain_cnn(24, norm="batch")
    net[-1] = nn.Sequential(nn.Linear(768, 64), nn.BatchNorm1d(64))
    return run(Margin(net, partial(AdamW, lr=2e-3, weight_decay=0.05)), images, 4)


class Mutual(L.LightningModule):
    """Deep mutual learning: two networks and two optimizers, each learns from the other's shares too."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.one, self.two = plain_cnn(16, norm="batch"), residual_net(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) + self.two(x)

    def training_step(self, batch: Pair, batch_idx: int) -> None:
        x, y = batch
        outputs = [self.one(x), self.two(x)]
        for i, opt in enumerate(self.optimizers()):
            mine, other = outputs[i], outputs[1 - i].detach()
            mimicry = F.kl_div(
                F.log_softmax(mine, 1), F.log_softmax(other, 1), reduction="batchmean", log_target=True
            )
            opt.zero_grad()
            self.manual_backward(F.cross_entropy(mine, y) + mimicry)
            opt.step()
            self.log(f"loss_{i}", F.cross_entropy(mine, y).detach(), prog_bar=True)

    def validation_step(self, batch: Pair, batch_idx: int) -> None:
        x, y = batch
        logits = self(x) / 2
        self.log("val/loss", F.cross_entropy(logits, y))
        self.log("val/acc", (logits.argmax(1) == y).float().mean())

    def configure_optimizers(self) -> Any:
        return [SGD(net.parameters(), lr=0.02, momentum=0.9) for net in (self.one, self.two)]


@CASES.healthy(
    "two-that-teach-each-other", story="Deep mutual learning: two networks, two optimizers, by hand."
)
def two_that_teach(images: Images) -> Session:
    return run(Mutual(), images, 3)  # type: ignore[arg-type]


class Exits(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        widths = [3, 24, 48, 48]
        self.stages = nn.ModuleList(conv_unit(a, b, 2, "batch") for a, b in itertools.pairwise(widths))
        self.exits = nn.ModuleList(nn.Linear(b, NUM_CLASSES) for b in widths[1:])

    def forward(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for stage, leave in zip(self.stages, self.exits, strict=True):
            x = stage(x)
            outputs.append(leave(x.mean((2, 3))))
        return outputs


class EarlyExits(Classifier):
    def measure(self, batch: Pair, stage: str) -> Tensor:
        x, y = batch
        outputs = self(x)
        losses = [F.cross_entropy(output, y) for output in outputs]
        for i, output in enumerate(outputs):
            self.log(
                f"{stage}/acc_exit{i}", (output.argmax(1) == y).float().mean(), on_step=False, on_epoch=True
            )
        self.log(f"{stage}/loss", losses[-1], on_step=False, on_epoch=True)
        return 0.2 * losses[0] + 0.3 * losses[1] + losses[2]


@CASES.healthy(
    "exits-on-the-way", story="BranchyNet: a list of three outputs, a weighted sum of three losses."
)
def exits_on_the_way(images: Images) -> Session:
    return run(EarlyExits(Exits(), partial(Adam, lr=3e-3)), images, 4)


class MeanTeacher(Classifier):
    """Most labels are -1: those images are for the consistency with an average, whose weight ramps up."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.teacher = copy.deepcopy(self.net).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) if self.training else self.teacher(x)

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        x, y = batch
        student = self.net(shifted(x, 2))
        with torch.no_grad():
            teacher = self.teacher(shifted(x, 2))
        supervised = F.cross_entropy(student, y, ignore_index=-1)
        weight = 5.0 * math.exp(-5 * (1 - min(1.0, self.global_step / 150)) ** 2)
        consistency = F.mse_loss(student.softmax(1), teacher.softmax(1))
        self.log_dict({"train/loss": supervised, "train/consistency": consistency})
        return supervised + weight * consistency

    def on_train_batch_end(self, *args: Any) -> None:
        with torch.no_grad():
            share = min(0.97, self.global_step / (self.global_step + 1))
            for slow, fast in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                slow.lerp_(fast, 1 - share)
            for slow, fast in zip(self.teacher.buffers(), self.net.buffers(), strict=True):
                slow.copy_(fast)

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.net.parameters())


@CASES.healthy(
    "mean-teacher",
    story="Semi-supervised: labels of three in four images are -1, a mean teacher gives the consistency.",
)
def mean_teacher(images: Images) -> Session:
    (x, y), _ = standard(images)
    y = torch.where(torch.arange(len(y)) % 4 == 0, y, -1)
    return run(MeanTeacher(plain_cnn(20, norm="batch"), partial(Adam, lr=2e-3)), images, 4, train=(x, y))


class Growing(Sampler[int]):
    """A curriculum: the easiest images first, more of them each epoch."""

    def __init__(self, order: Tensor) -> None:
        self.order, self.share = order, 0.25

    def __len__(self) -> int:
        return int(self.share * len(self.order))

    def __iter__(self) -> Iterator[int]:
        chosen = self.order[: len(self)]
        return iter(chosen[torch.randperm(len(chosen))].tolist())


class Curriculum(Classifier):
    def on_train_epoch_end(self) -> None:
        sampler: Any = self.trainer.train_dataloader.sampler  # type: ignore[union-attr]
        sampler.share = min(1.0, 0.25 * (self.current_epoch + 2))


@CASES.healthy(
    "easy-images-first",
    story="A curriculum by the losses of a small net: the easiest quarter first, a quarter more each epoch.",
)
def easy_first(images: Images) -> Session:
    (x, y), _ = standard(images)
    judge = pretrained(plain_cnn(8, norm="batch"), x, y, 1).eval()
    with torch.no_grad():
        hard = F.cross_entropy(judge(x), y, reduction="none")
    order = torch.cat(
        [torch.where(y == c)[0][hard[y == c].argsort()].unsqueeze(1) for c in range(10)], 1
    ).flatten()
    session = run(Curriculum(plain_cnn(24, norm="batch"), partial(Adam, lr=2e-3)), images, 6)
    session.train_loader = DataLoader(TensorDataset(x, y), 64, sampler=Growing(order))
    session.trainer_kwargs["reload_dataloaders_every_n_epochs"] = 1
    return session


class Resized(Scheduled):
    """16 pixels at first, then 24, then all 32."""

    def on_before_batch_transfer(self, batch: Pair, dataloader_idx: int) -> Pair:
        x, y = batch
        if self.trainer.training:
            size = (16, 24, 24, 32, 32)[min(4, self.current_epoch)]
            x = F.interpolate(x, size=size, mode="bilinear", antialias=True) if size < 32 else x
        return x, y


@CASES.healthy(
    "larger-images-later", story="Progressive resizing: 16, 24 and 32 pixels, validated at 32; one cycle."
)
def larger_later(images: Images) -> Session:
    def cycle(optimizer: Optimizer, steps: int) -> Any:
        return OneCycleLR(optimizer, 4e-3, total_steps=steps)

    net = narrow_resnet(12)
    return run(scheduled(net, partial(AdamW, weight_decay=1e-2), cycle, Resized), images, 5)


class FineTuneOne(Scheduled):
    """fast.ai's fine_tune: one epoch of the head, then all with rates from lr/100 to lr, BatchNorm "
    "always trains."""

    def on_train_epoch_start(self) -> None:
        for module in self.net[:-1].modules():
            if not isinstance(module, nn.BatchNorm2d):
                for p in module.parameters(recurse=False):
                    p.requires_grad = self.current_epoch >= 1

    def configure_optimizers(self) -> Any:
        thirds = [self.net[:1], self.net[1:-1], self.net[-1:]]
        rates = [3e-5, 3e-4, 3e-3]
        groups = [
            {"params": list(part.parameters()), "lr": rate} for part, rate in zip(thirds, rates, strict=True)
        ]
        optimizer = Adam(groups, betas=(0.9, 0.99), eps=1e-5)
        steps = int(self.trainer.estimated_stepping_batches)
        return each_step(optimizer, OneCycleLR(optimizer, rates, total_steps=steps, pct_start=0.3))


@CASES.healthy(
    "fine-tuned-as-fast-ai-does",
    story="The head for one epoch, then all at rates from lr/100 to lr, in one cycle.",
)
def fine_tuned_as_fast_ai(images: Images) -> Session:
    (x, y), _ = standard(images)
    net = pretrained(plain_cnn(20, norm="batch"), x[::2], y[::2], 2)
    net[-1] = nn.Linear(640, NUM_CLASSES)
    return run(FineTuneOne(net, Adam), images, 4, train=(x[1::2], y[1::2]))


class LayerDecay(Scheduled):
    def groups(self) -> Any:
        net = self.net
        parts = [[*net.patch_embed.parameters(), net.cls_token, net.pos_embed]]
        parts += [list(block.parameters()) for block in net.blocks]
        parts += [[*net.norm.parameters(), *net.head.parameters()]]
        last = len(parts) - 1
        return [{"params": part, "lr": 2e-3 * 0.65 ** (last - i)} for i, part in enumerate(parts)]


@CASES.healthy(
    "rates-by-depth", story="BEiT's fine-tuning of a ViT: each layer's rate is 0.65 of the next one's."
)
def rates_by_depth(images: Images) -> Session:
    (x, y), _ = standard(images)
    net: Any = pretrained(Vision(64, 3), x[::2], y[::2], 4)  # type: ignore[arg-type]
    nn.init.trunc_normal_(net.head.weight, std=2e-5)
    module = scheduled(net, partial(AdamW, weight_decay=0.05), warm_cosine, LayerDecay)
    return run(module, images, 3, train=(x[1::2], y[1::2]))


# --------------------------------------------------------------------------- optimizers and schedules


class Lars(SGD):
    """Layer-wise rates: a thousandth of the weights' norm by the gradient's, flat weights as they are."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p.ndim > 1:
                    p.grad.add_(p, alpha=5e-4)
                    p.grad.mul_(1e-3 * p.norm() / (p.grad.norm() + 1e-9))
        super().step()
        return loss


@CASES.healthy(
    "large-batches-by-lars", story="Batches of 500, LARS at 12 with a warm-up over a quarter of the steps."
)
def large_batches_by_lars(images: Images) -> Session:
    net = residual_net(20)
    module = scheduled(net, partial(Lars, lr=12.0, momentum=0.9), partial(warm_cosine, share=0.25))
    return run(module, images, 8, 500)


@CASES.healthy(
    "adafactor-by-itself",
    story="Adafactor with its relative steps, on a dense net with LayerNorm and pixels in -1..1.",
)
def adafactor_by_itself(images: Images) -> Session:
    layers: list[nn.Module] = [nn.AvgPool2d(2), nn.Flatten()]
    for inputs, outputs in ((768, 256), (256, 128)):
        layers += [nn.Linear(inputs, outputs), nn.LayerNorm(outputs), nn.GELU()]
    net = nn.Sequential(*layers, nn.Linear(128, NUM_CLASSES))
    train = images.train_x.float() / 127.5 - 1, images.train_y
    val = images.val_x.float() / 127.5 - 1, images.val_y
    return run(Classifier(net, Adafactor), images, 4, 64, train, val)


class TwoOptimizers(Classifier):
    """Muon for the matrices within, AdamW for the rest, as in the speed runs; both step each time."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.automatic_optimization = False

    def training_step(self, batch: Pair, batch_idx: int) -> None:  # type: ignore[override]
        loss = self.measure(batch, "train")
        opts: Any = self.optimizers()
        self.manual_backward(loss)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)

    def configure_optimizers(self) -> Any:
        matrices = [p for p in self.net.blocks.parameters() if p.ndim == 2]
        known = {id(p) for p in matrices}
        rest = [p for p in self.net.parameters() if id(p) not in known]
        return Muon(matrices, lr=0.01, weight_decay=0.0), AdamW(rest, lr=2e-3)


@CASES.healthy("muon-and-adam", story="Muon for the matrices of a transformer, AdamW for the rest, by hand.")
def muon_and_adam(images: Images) -> Session:
    return run(TwoOptimizers(Vision(64, 2), Adam), images, 4)


class NoisyAndCentred(Classifier):
    """Gradients centred for each unit, with noise that dies away; plain SGD."""

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        spread = (0.01 / (1 + self.global_step) ** 0.55) ** 0.5
        for p in self.parameters():
            if p.grad is not None:
                if p.ndim > 1:
                    p.grad.sub_(p.grad.mean(tuple(range(1, p.ndim)), keepdim=True))
                p.grad.add_(torch.randn_like(p.grad), alpha=spread * 0.1)


@CASES.healthy(
    "centred-and-noisy-gradients",
    story="Plain SGD without momentum, gradients centralized, noise on them that dies away, GroupNorm.",
)
def centred_and_noisy(images: Images) -> Session:
    return run(NoisyAndCentred(plain_cnn(24, norm="group"), partial(SGD, lr=0.1)), images, 4, 32)


class Averaging(Classifier):
    def configure_callbacks(self) -> list[Callback]:
        return [StochasticWeightAveraging(swa_lrs=0.02, swa_epoch_start=0.5, annealing_epochs=1)]


@CASES.healthy(
    "averaged-by-lightning",
    story="Lightning's StochasticWeightAveraging from half of the epochs on, no norms.",
)
def averaged_by_lightning(images: Images) -> Session:
    return run(Averaging(plain_cnn(24), partial(SGD, lr=0.03, momentum=0.9)), images, 6)


@CASES.healthy(
    "triangles", story="CyclicLR between 0.001 and 0.08 each hundred steps, momentum the other way round."
)
def triangles(images: Images) -> Session:
    def cyclic(optimizer: Optimizer, steps: int) -> Any:
        return CyclicLR(optimizer, 1e-3, 0.08, step_size_up=50, mode="triangular2")

    return run(scheduled(plain_cnn(24, norm="batch"), partial(SGD, lr=0.01, momentum=0.9), cyclic), images, 5)


@CASES.healthy(
    "warm-restarts", story="SGDR: cosines of one, two and four epochs, RAdam, residual net with GroupNorm."
)
def warm_restarts(images: Images) -> Session:
    def restarts(optimizer: Optimizer, steps: int) -> Any:
        return CosineAnnealingWarmRestarts(optimizer, steps // 7, 2, 1e-5)

    net = residual_net(20, 2, lambda width: nn.GroupNorm(4, width))
    return run(scheduled(net, partial(RAdam, lr=3e-3), restarts), images, 7, 100)


@CASES.healthy(
    "two-images-at-a-time",
    story="Batches of two, GroupNorm, Adam at 2e-4, a part of an epoch, validated at times.",
)
def two_at_a_time(images: Images) -> Session:
    module = Classifier(plain_cnn(24, norm="group"), partial(Adam, lr=2e-4, betas=(0.9, 0.99)))
    return run(module, images, 2, 2, limit_train_batches=800, val_check_interval=400)


@CASES.healthy(
    "whole-set-each-step", story="Three classes, the whole of 600 images in each step, SGD with momentum."
)
def whole_set(images: Images) -> Session:
    (x, y), (val_x, val_y) = standard(images)
    chosen = torch.cat([torch.where(y == c)[0][:200] for c in range(3)])
    seen = val_y < 3
    net = plain_cnn(12, norm="batch")
    net[-1] = nn.Sequential(nn.Dropout(0.5), nn.Linear(16 * 24, 3))
    module = Classifier(net, partial(SGD, lr=0.05, momentum=0.9, weight_decay=1e-2))
    train, val = (F.avg_pool2d(x[chosen], 1), y[chosen]), (val_x[seen], val_y[seen])
    return run(module, images, 25, 600, train, val, check_val_every_n_epoch=5)


class Logarithmic(Classifier):
    """Logit adjustment: in training the logarithms of the classes' shares are added."""

    priors: Tensor

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits + self.priors.log() if self.training else logits, y)


@CASES.healthy(
    "long-tail-adjusted",
    story="The rarest class has a twentieth of the images of the commonest; logit adjustment; validation "
    "is even.",
)
def long_tail(images: Images) -> Session:
    (x, y), _ = standard(images)
    counts = [int(400 * 20 ** (-c / 9)) for c in range(10)]
    chosen = torch.cat([torch.where(y == c)[0][: counts[c]] for c in range(10)])
    module = Logarithmic(plain_cnn(20, norm="batch"), partial(AdamW, lr=2e-3, weight_decay=0.1))
    module.priors = torch.tensor(counts) / sum(counts)
    return run(module, images, 4, 32, train=(x[chosen], y[chosen]))


class Corrected(Classifier):
    """Forward correction: the shares pass through the known matrix of how labels go wrong."""

    wrong = 0.3

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        if not self.training:
            return F.cross_entropy(logits, y)
        matrix = torch.full((10, 10), self.wrong / 10).fill_diagonal_(1 - 0.9 * self.wrong)
        return F.nll_loss((logits.softmax(1) @ matrix).clamp(min=1e-7).log(), y)


@CASES.healthy(
    "known-noise-corrected",
    story="Three labels in ten drawn at random on purpose, the loss knows how often; validation is clean.",
)
def known_noise(images: Images) -> Session:
    (x, y), _ = standard(images)
    drawn = torch.where(torch.rand(len(y)) < 0.3, torch.randint(10, (len(y),)), y)
    return run(Corrected(plain_cnn(24, norm="batch"), partial(Adam, lr=1e-3)), images, 4, train=(x, drawn))


# ------------------------------------------------------------------------------ images of other kinds


@CASES.healthy(
    "four-greys", story="One channel of 16x16 pixels with four levels of grey, not normalized, Adadelta at 1."
)
def four_greys(images: Images) -> Session:
    def greys(x: Tensor) -> Tensor:
        return (F.avg_pool2d(x.float().mean(1, keepdim=True), 2) / 64).floor().clamp(max=3) / 3

    net = nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(1152, 96),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(96, 10),
    )
    train, val = (greys(images.train_x), images.train_y), (greys(images.val_x), images.val_y)
    return run(Classifier(net, partial(Adadelta, lr=1.0)), images, 4, 64, train, val)


@CASES.healthy(
    "larger-and-each-by-itself",
    story="Images of 64x64, each standardized by itself, a stem of 7x7 and pooling.",
)
def larger_by_itself(images: Images) -> Session:
    def prepared(x: Tensor) -> Tensor:
        x = F.interpolate(x.float(), scale_factor=2, mode="bilinear")
        return (x - x.mean((1, 2, 3), keepdim=True)) / x.std((1, 2, 3), keepdim=True).clamp(min=1 / 64)

    body = narrow_resnet(12, (1, 1, 1))
    net = nn.Sequential(
        nn.Conv2d(3, 12, 7, 2, 3, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *body[3:]
    )
    train, val = (prepared(images.train_x), images.train_y), (prepared(images.val_x), images.val_y)
    optimizer = partial(SGD, lr=0.1, momentum=0.9, weight_decay=1e-4)
    return run(scheduled(net, optimizer, cosine), images, 4, 64, train, val)


class Probed(Classifier):
    def configure_optimizers(self) -> Any:
        return LBFGS(self.net[-1].parameters(), lr=0.5, max_iter=5, line_search_fn="strong_wolfe")

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        penalty = 0.05 * self.net[-1].weight.square().sum() if self.training else 0.0
        return F.cross_entropy(logits, y) + penalty

    def on_train_epoch_start(self) -> None:
        self.net[:-1].eval()


@CASES.healthy(
    "twenty-shots-by-lbfgs",
    story="Twenty images a class, a linear probe on frozen features by LBFGS, penalized.",
)
def twenty_shots(images: Images) -> Session:
    (x, y), _ = standard(images)
    shots = torch.arange(len(y)) % 400 < 20
    net = pretrained(plain_cnn(20, norm="batch"), x[~shots][::2], y[~shots][::2], 3)
    net[-1] = nn.Linear(640, NUM_CLASSES)
    net[:-1].requires_grad_(False)
    return run(Probed(net, Adam), images, 8, 200, train=(x[shots], y[shots]))


def frozen_norms(net: nn.Module) -> nn.Module:
    for name, child in net.named_children():
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features)
            frozen.load_state_dict({k: v for k, v in child.state_dict().items() if "tracked" not in k})
            setattr(net, name, frozen)
        else:
            frozen_norms(child)
    return net


@CASES.healthy(
    "norms-frozen-as-in-detection",
    story="A trained ResNet with FrozenBatchNorm2d, fine-tuned for five other classes.",
)
def norms_frozen(images: Images) -> Session:
    (x, y), (val_x, val_y) = standard(images)
    net = pretrained(narrow_resnet(10), x[y < 5], y[y < 5], 4)
    frozen_norms(net)
    net[-1] = nn.Linear(40, 5)
    train, val = (x[y >= 5], y[y >= 5] - 5), (val_x[val_y >= 5], val_y[val_y >= 5] - 5)
    return run(Classifier(net, partial(SGD, lr=0.02, momentum=0.9)), images, 5, 32, train, val)


@CASES.healthy(
    "deep-tanh-delta-orthogonal",
    story="Twelve convolutions with tanh and no norm, delta-orthogonal at the start.",
)
def deep_tanh(images: Images) -> Session:
    layers: list[nn.Module] = [nn.Conv2d(3, 24, 4, 4), nn.Tanh()]
    for _ in range(12):
        conv = nn.Conv2d(24, 24, 3, padding=1)
        nn.init.zeros_(conv.weight)
        nn.init.orthogonal_(conv.weight[:, :, 1, 1], gain=1.05)
        nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        layers += [conv, nn.Tanh()]
    net = nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(384, NUM_CLASSES))
    return run(scheduled(net, partial(SGD, lr=0.02, momentum=0.9), cosine), images, 4)


@CASES.healthy(
    "weights-parametrized",
    story="Weight norm, spectral norm and an orthogonal layer in one convnet, no BatchNorm.",
)
def weights_parametrized(images: Images) -> Session:
    net = nn.Sequential(
        weight_norm(nn.Conv2d(3, 24, 4, 2, 1)),
        nn.LeakyReLU(0.1),
        spectral_norm(nn.Conv2d(24, 48, 4, 2, 1)),
        nn.LeakyReLU(0.1),
        spectral_norm(nn.Conv2d(48, 48, 4, 2, 1)),
        nn.LeakyReLU(0.1),
        nn.Flatten(),
        spectral_norm(nn.Linear(768, 48)),
        nn.LeakyReLU(0.1),
        orthogonal(nn.Linear(48, 48)),
        nn.LeakyReLU(0.1),
        weight_norm(nn.Linear(48, NUM_CLASSES)),
    )
    return run(Classifier(net, partial(Adam, lr=2e-3)), images, 4)


@CASES.healthy(
    "one-block-three-times",
    story="A transformer whose one block is applied three times, as in ALBERT; AdamW.",
)
def one_block(images: Images) -> Session:
    return run(
        scheduled(Vision(64, 3, 8, None, shared=True), partial(AdamW, lr=1e-3), warm_cosine), images, 4
    )


class Experts(nn.Module):
    """Four experts, each image to the one that the router likes best; a loss for the balance."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.stem = nn.Sequential(*plain_cnn(16, norm="batch")[:-1], nn.Linear(512, width), nn.ReLU())
        self.router = nn.Linear(width, 4)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 64), nn.ReLU(), nn.Linear(64, 10)) for _ in range(4)
        )
        self.balance = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        features = self.stem(x)
        shares = self.router(features).softmax(1)
        best, chosen = shares.max(1)
        used = F.one_hot(chosen, 4).float().mean(0)
        self.balance = 4 * (used * shares.mean(0)).sum()
        out = torch.zeros(len(x), 10)
        for i, expert in enumerate(self.experts):
            rows = (chosen == i).nonzero().squeeze(1)
            if len(rows):
                out = out.index_copy(0, rows, expert(features[rows]) * best[rows].unsqueeze(1))
        return out


class Balanced(Classifier):
    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        return self.measure(batch, "train") + 0.02 * self.net.balance


@CASES.healthy(
    "four-experts", story="A mixture of four experts with top-1 routing and a balance loss, as in Switch."
)
def four_experts(images: Images) -> Session:
    return run(Balanced(Experts(), partial(Adam, lr=2e-3)), images, 4)


class Uncertain(L.LightningModule):
    """Class, animal or not, and mean brightness, weighted by learned uncertainties: the loss may "
    "go below zero."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(*plain_cnn(24, norm="batch")[:-1], nn.Linear(768, 96), nn.ReLU())
        self.heads = nn.ModuleDict(
            {"which": nn.Linear(96, 10), "alive": nn.Linear(96, 1), "bright": nn.Linear(96, 1)}
        )
        self.log_vars = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.backbone(x)
        return {name: head(features) for name, head in self.heads.items()}

    def shared_step(self, batch: Pair) -> tuple[Tensor, Tensor]:
        x, y = batch
        out = self(x)
        alive = ((y >= 2) & (y <= 7)).float()
        losses = torch.stack(
            [
                F.cross_entropy(out["which"], y),
                F.binary_cross_entropy_with_logits(out["alive"].squeeze(1), alive),
                F.mse_loss(out["bright"].squeeze(1), x.mean((1, 2, 3))),
            ]
        )
        total = ((-self.log_vars).exp() * losses + self.log_vars).sum()
        return total, (out["which"].argmax(1) == y).float().mean()

    def training_step(self, batch: Pair, batch_idx: int) -> dict[str, Tensor]:
        loss, accuracy = self.shared_step(batch)
        self.log("train/loss", loss, on_epoch=True)
        return {"loss": loss, "acc": accuracy}

    def validation_step(self, batch: Pair, batch_idx: int) -> None:
        loss, accuracy = self.shared_step(batch)
        self.log_dict({"val/loss": loss, "val/acc": accuracy})

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@CASES.healthy(
    "three-tasks-by-uncertainty", story="Three heads, weighted by learned uncertainties as in Kendall et al."
)
def three_tasks(images: Images) -> Session:
    return run(Uncertain(), images, 4)  # type: ignore[arg-type]


class Incremental(Classifier):
    """Five classes first, all ten later; logits of classes not yet seen are masked, validation too."""

    data: Any

    def known(self) -> int:
        return 5 if self.current_epoch < 2 else 10

    def train_dataloader(self) -> Any:
        x, y = self.data
        seen = y < self.known()
        return DataLoader(TensorDataset(x[seen], y[seen]), 64, shuffle=True)

    def measure(self, batch: Pair, stage: str) -> Tensor:
        x, y = batch
        seen = y < self.known()
        logits = self(x[seen])[:, : self.known()]
        loss = F.cross_entropy(logits, y[seen])
        values = {f"{stage}/loss": loss, f"{stage}/acc": (logits.argmax(1) == y[seen]).float().mean()}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=int(seen.sum()))
        return loss


@CASES.healthy(
    "classes-that-come-later", story="Class-incremental with all that was seen kept: five classes, then ten."
)
def classes_later(images: Images) -> Session:
    module = Incremental(plain_cnn(24, norm="batch"), partial(SGD, lr=0.03, momentum=0.9))
    module.data = standard(images)[0]
    session = run(module, images, 5)
    session.trainer_kwargs["reload_dataloaders_every_n_epochs"] = 1
    session.train_loader = None  # type: ignore[assignment]
    return session


class Trades(Classifier):
    """Cross-entropy of clean images and the divergence to images that were pushed towards it for "
    "two steps."""

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        x, y = batch
        self.net.eval()
        clean = self(x).softmax(1).detach()
        pushed = x + 0.001 * torch.randn_like(x)
        for _ in range(2):
            pushed.requires_grad_()
            kl = F.kl_div(F.log_softmax(self(pushed), 1), clean, reduction="sum")
            (grad,) = torch.autograd.grad(kl, pushed)
            pushed = (x + (pushed.detach() + 0.06 * grad.sign() - x).clamp(-0.1, 0.1)).detach()
        self.net.train()
        logits = self(x)
        natural = F.cross_entropy(logits, y)
        robust = F.kl_div(F.log_softmax(self(pushed), 1), logits.softmax(1), reduction="batchmean")
        self.log_dict({"train/loss": natural, "train/robust": robust}, on_step=False, on_epoch=True)
        return natural + 4.0 * robust


@CASES.healthy(
    "trades", story="Adversarial training by TRADES: eval mode while the attack is made, then training mode."
)
def trades(images: Images) -> Session:
    return run(Trades(plain_cnn(20, norm="batch"), partial(SGD, lr=0.05, momentum=0.9)), images, 4)


class MonteCarlo(Classifier):
    """Validates the mean shares of six passes with dropout on."""

    def validation_step(self, batch: Pair, batch_idx: int) -> None:
        x, y = batch
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.train()
        shares = torch.stack([self(x).softmax(1) for _ in range(6)]).mean(0)
        loss = F.nll_loss(shares.clamp(min=1e-8).log(), y)
        self.log_dict({"val/loss": loss, "val/acc": (shares.argmax(1) == y).float().mean()})
        self.eval()


@CASES.healthy("six-passes-with-dropout", story="MC dropout: validation averages six passes with dropout on.")
def six_passes(images: Images) -> Session:
    net = plain_cnn(24, norm="group")
    net[-1] = nn.Sequential(
        nn.Dropout(0.3), nn.Linear(768, 128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10)
    )
    return run(MonteCarlo(net, partial(Adam, lr=1e-3)), images, 5)


class Stream(IterableDataset):
    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __iter__(self) -> Iterator[Any]:
        while True:
            for i in torch.randperm(len(self.y)):
                yield {"image": self.x[i], "label": self.y[i], "key": f"{int(i):06d}"}


class OfDicts(Scheduled):
    def measure(self, batch: Any, stage: str) -> Tensor:
        return super().measure((batch["image"], batch["label"]), stage)


@CASES.healthy(
    "endless-stream-of-dicts", story="An endless stream of dicts, max_steps alone, validated each 60 steps."
)
def endless_stream(images: Images) -> Session:
    (x, y), (val_x, val_y) = standard(images)
    module = scheduled(plain_cnn(24, norm="batch"), partial(AdamW, lr=3e-3), warm_cosine, OfDicts)
    val = [{"image": a, "label": b, "key": str(i)} for i, (a, b) in enumerate(zip(val_x, val_y, strict=True))]
    kwargs = {"max_steps": 240, "max_epochs": -1, "val_check_interval": 60}
    return Session(module, DataLoader(Stream(x, y), 64), DataLoader(val, 200), kwargs)  # type: ignore[arg-type]


class ByHand(Classifier):
    """channels_last, autocast in the step, and a few gradients accumulated by hand at no fixed number."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.automatic_optimization = False
        self.count = 0

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.net(x.contiguous(memory_format=torch.channels_last)).float()

    def training_step(self, batch: Pair, batch_idx: int) -> None:  # type: ignore[override]
        opt: Any = self.optimizers()
        last = batch_idx % 4 == 3 or self.trainer.is_last_batch
        loss = self.measure(batch, "train")
        self.count += 1
        self.manual_backward(loss)
        if last:
            for p in self.parameters():
                if p.grad is not None:
                    p.grad /= self.count
            self.clip_gradients(opt, 1.0, "norm")
            opt.step()
            opt.zero_grad()
            self.count = 0


@CASES.healthy(
    "autocast-and-four-parts",
    story="bf16 autocast in forward, channels_last, the mean of four batches a step.",
)
def autocast_four(images: Images) -> Session:
    net = plain_cnn(24, norm="batch").to(memory_format=torch.channels_last)
    return run(ByHand(net, partial(SGD, lr=0.1, momentum=0.9)), images, 5, 25)


@CASES.healthy("thirty-steps", story="A first try of thirty steps: Adam at 1e-3, a convnet with BatchNorm.")
def thirty_steps(images: Images) -> Session:
    return run(Classifier(plain_cnn(24, norm="batch"), partial(Adam, lr=1e-3)), images, 1, 64, max_steps=30)


class Patient(Classifier):
    def configure_callbacks(self) -> list[Callback]:
        return [EarlyStopping("val/loss", patience=3)]


@CASES.healthy(
    "stopped-in-time",
    story="A small regularized net for up to 30 epochs, stopped early when validation stands.",
)
def stopped_in_time(images: Images) -> Session:
    (x, y), _ = standard(images)
    net = plain_cnn(12, norm="batch")
    net[-1] = nn.Sequential(nn.Dropout(0.4), net[-1])
    module = Patient(net, partial(AdamW, lr=2e-3, weight_decay=0.3))
    return run(module, images, 30, 64, train=(x, y))


class Resumed(Classifier):
    """Starts from the weights and the optimizer's state of an earlier run, amid its schedule."""

    state: dict[str, Any]

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())
        optimizer.load_state_dict(self.state)
        return [optimizer], [CosineAnnealingLR(optimizer, 4)]


@CASES.healthy(
    "goes-on-from-a-checkpoint", story="Weights and state of Adam from two epochs before, then four more."
)
def from_a_checkpoint(images: Images) -> Session:
    (x, y), _ = standard(images)
    net, optimizer = plain_cnn(24, norm="batch"), partial(AdamW, lr=1e-3, weight_decay=0.05)
    module = Resumed(net, optimizer)
    before = optimizer(module.parameters())
    for part in torch.randperm(len(y)).split(64):
        before.zero_grad()
        F.cross_entropy(net(x[part]), y[part]).backward()
        before.step()
    module.state = before.state_dict()
    return run(module, images, 4)


class Rotations(Classifier):
    """RotNet: the label is by how much the image was turned."""

    def measure(self, batch: Pair, stage: str) -> Tensor:
        x, _ = batch
        turned = torch.cat([torch.rot90(x, k, (2, 3)) for k in range(4)])
        labels = torch.arange(4).repeat_interleave(len(x))
        return super().measure((turned, labels), stage)


@CASES.healthy(
    "which-way-is-up",
    story="Self-supervised: by how many quarters an image was turned, labels made in the step.",
)
def which_way_is_up(images: Images) -> Session:
    net = plain_cnn(20, norm="batch")
    net[-1] = nn.Linear(640, 4)
    return run(Rotations(net, partial(SGD, lr=0.05, momentum=0.9)), images, 3, 32)


class ProbedOnline(L.LightningModule):
    """Supervised contrastive features; a linear head learns beside them, behind a detach."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*plain_cnn(24, norm="batch")[:-1], nn.Linear(768, 64))
        self.projector = nn.Sequential(nn.ReLU(), nn.Linear(64, 32))
        self.online = nn.Linear(64, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.online(self.encoder(x))

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        x, y = batch
        features = self.encoder(torch.cat([shifted(x), x]))
        z = F.normalize(self.projector(features))
        y = y.repeat(2)
        same = (y[:, None] == y[None]) & ~torch.eye(len(y), dtype=torch.bool)
        scores = (z @ z.T / 0.2).masked_fill(torch.eye(len(y), dtype=torch.bool), -1e9)
        contrast = -(F.log_softmax(scores, 1) * same).sum(1).div(same.sum(1).clamp(min=1)).mean()
        probe = F.cross_entropy(self.online(features.detach()), y)
        self.log_dict({"train/contrast": contrast, "train/probe": probe})
        return contrast + probe

    def validation_step(self, batch: Pair, batch_idx: int) -> None:
        x, y = batch
        logits = self(x)
        self.log_dict(
            {"val/loss": F.cross_entropy(logits, y), "val/acc": (logits.argmax(1) == y).float().mean()}
        )

    def configure_optimizers(self) -> Any:
        return SGD(self.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)


@CASES.healthy("contrast-and-a-probe-beside", story="SupCon with an online probe behind a detach.")
def contrast_and_probe(images: Images) -> Session:
    return run(ProbedOnline(), images, 4)  # type: ignore[arg-type]


class Swapped(Classifier):
    """The average of the weights is swapped in for validation, and out again, in the hooks."""

    def on_fit_start(self) -> None:
        self.slow = [p.detach().clone() for p in self.net.parameters()]

    def swap(self) -> None:
        for p, slow in zip(self.net.parameters(), self.slow, strict=True):
            kept = p.data.clone()
            p.data.copy_(slow)
            slow.copy_(kept)

    def on_train_batch_end(self, *args: Any) -> None:
        with torch.no_grad():
            for p, slow in zip(self.net.parameters(), self.slow, strict=True):
                slow.lerp_(p, 0.05)

    def on_validation_epoch_start(self) -> None:
        self.swap()

    def on_validation_epoch_end(self) -> None:
        self.swap()


@CASES.healthy(
    "average-swapped-in-for-validation", story="An EMA of the weights, swapped in and out around validation."
)
def average_swapped(images: Images) -> Session:
    return run(Swapped(plain_cnn(24, norm="group"), partial(Adam, lr=2e-3)), images, 5)


class Episodes(IterableDataset):
    """Five classes of the given ones, five images each to learn from and ten to ask about, all in "
    "one tensor."""

    def __init__(self, x: Tensor, y: Tensor, count: int) -> None:
        self.by_class = [x[y == c] for c in range(10)]
        self.count = count

    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(self.count):
            classes = torch.randperm(10)[:5].tolist()
            yield torch.stack([self.by_class[c][torch.randperm(len(self.by_class[c]))[:15]] for c in classes])


class Prototypes(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(*plain_cnn(24, norm="batch")[:-1])

    def ask(self, episode: Tensor, stage: str) -> Tensor:
        features = self.embed(episode.flatten(0, 1)).view(5, 15, -1)
        prototypes, asked = features[:, :5].mean(1), features[:, 5:].flatten(0, 1)
        logits = -torch.cdist(asked, prototypes).square() / 64
        target = torch.arange(5).repeat_interleave(10)
        loss = F.cross_entropy(logits, target)
        self.log(f"{stage}/loss", loss, on_step=False, on_epoch=True, batch_size=50)
        self.log(
            f"{stage}/acc",
            (logits.argmax(1) == target).float().mean(),
            on_step=False,
            on_epoch=True,
            batch_size=50,
        )
        return loss

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return self.ask(batch, "train")

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.ask(batch, "val")

    def configure_optimizers(self) -> Any:
        return Adam(self.parameters(), lr=1e-3)


@CASES.healthy(
    "prototypes-in-episodes",
    story="Prototypical networks: episodes of five classes by five shots, batch_size=None.",
)
def prototypes(images: Images) -> Session:
    (x, y), (val_x, val_y) = standard(images)
    train = DataLoader(Episodes(x, y, 60), batch_size=None)
    return Session(
        Prototypes(), train, DataLoader(Episodes(val_x, val_y, 20), batch_size=None), {"max_epochs": 4}
    )


# ------------------------------------------------------------------------------- no images, or no classes


class Coupling(nn.Module):
    def __init__(self, flip: bool) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 2))
        nn.init.zeros_(self.net[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.net[-1].bias)  # type: ignore[arg-type]
        self.flip = flip

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = x.flip(1).chunk(2, 1) if self.flip else x.chunk(2, 1)
        scale, shift = self.net(a).chunk(2, 1)
        out = torch.cat([a, b * scale.tanh().exp() + shift], 1)
        return (out.flip(1) if self.flip else out), scale.tanh().sum(1)


class Flow(Task):
    """RealNVP: nats per dimension of points, which go below zero."""

    def loss(self, batch: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        (x,) = batch
        total = torch.zeros(len(x))
        for layer in self.net:
            x, logdet = layer(x)
            total = total + logdet
        return (0.5 * x.square().sum(1) + math.log(2 * math.pi) - total).mean() / 2, {}


@CASES.healthy(
    "points-by-a-flow",
    story="RealNVP on two narrow moons: identity at the start, densities, a loss below zero.",
)
def points_by_a_flow(images: Images) -> Session:
    angle = torch.rand(3000) * math.pi
    upper = torch.arange(3000) % 2 == 0
    x = torch.where(upper, angle.cos(), 1 - angle.cos()) - 0.5
    y = torch.where(upper, angle.sin(), 0.5 - angle.sin()) - 0.25
    points = torch.stack([x, y], 1) + 0.02 * torch.randn(3000, 2)
    net = nn.ModuleList(Coupling(i % 2 == 1) for i in range(6))
    return fitting(Flow(net, partial(Adam, lr=2e-3)), *halves(points), epochs=12, gradient_clip_val=5.0)


class FourierFeatures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("b", 4 * torch.randn(2, 48))
        self.net = nn.Sequential(
            nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 3), nn.Sigmoid()
        )

    def forward(self, xy: Tensor) -> Tensor:
        angle = 2 * math.pi * xy @ self.b  # type: ignore[operator]
        return self.net(torch.cat([angle.sin(), angle.cos()], 1))


class Pixels(Task):
    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        xy, colour = batch
        error = F.mse_loss(self(xy), colour)
        return error, {"psnr": -10 * error.log10()}


@CASES.healthy(
    "one-image-by-fourier-features",
    story="Coordinates to colours, every other pixel for training, a sigmoid at the end.",
)
def one_image(images: Images) -> Session:
    grid = torch.stack(
        torch.meshgrid(torch.linspace(0, 1, 32), torch.linspace(0, 1, 32), indexing="ij"), -1
    ).view(-1, 2)
    colours = F.avg_pool2d(images.train_x[5].float() / 255, 3, 1, 1).permute(1, 2, 0).reshape(-1, 3)
    train, val = TensorDataset(grid[::2], colours[::2]), TensorDataset(grid[1::2], colours[1::2])
    return fitting(Pixels(FourierFeatures(), partial(Adam, lr=1e-3)), train, val, epochs=150, batch=512)


class DeepFM(nn.Module):
    def __init__(self, fields: int = 6, size: int = 30, width: int = 8) -> None:
        super().__init__()
        self.offsets = torch.arange(fields) * size
        self.first, self.second = nn.Embedding(fields * size, 1), nn.Embedding(fields * size, width)
        nn.init.normal_(self.first.weight, std=0.01)
        nn.init.normal_(self.second.weight, std=0.01)
        self.deep = nn.Sequential(nn.Linear(fields * width, 48), nn.ReLU(), nn.Dropout(0.2), nn.Linear(48, 1))
        self.bias = nn.Parameter(torch.tensor(-2.4))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.offsets
        v = self.second(x)
        pairs = 0.5 * (v.sum(1).square() - v.square().sum(1)).sum(1)
        return self.bias + self.first(x).sum((1, 2)) + pairs + self.deep(v.flatten(1)).squeeze(1)


class Clicks(Task):
    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        logits = self(x)
        ranks = (logits[y > 0.5][:, None] > logits[y < 0.5][None]).float().mean()
        return F.binary_cross_entropy_with_logits(logits, y), {"auc": ranks}


@CASES.healthy(
    "clicks-by-a-factorization-machine",
    story="DeepFM on six fields; one in ten clicks; small embeddings at the start.",
)
def clicks(images: Images) -> Session:
    draw = torch.Generator().manual_seed(3)
    x = torch.randint(30, (8000, 6), generator=draw)
    taste = torch.randn(6, 30, generator=draw)
    twos = torch.randn(6, 30, 3, generator=draw)
    score = sum(taste[f][x[:, f]] for f in range(6)) + (twos[0][x[:, 0]] * twos[1][x[:, 1]]).sum(1)
    y = (torch.rand(8000, generator=draw) < torch.sigmoid(score - 4.5)).float()
    return fitting(
        Clicks(DeepFM(), partial(Adam, lr=5e-3, weight_decay=1e-5)), *halves(x, y), epochs=5, batch=128
    )


class Transcribed(Task):
    """CTC: frames to a shorter string of letters, between blanks."""

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        frames, letters, lengths = batch
        hidden, _ = self.net["rnn"](frames)
        logs = self.net["out"](hidden).log_softmax(2).transpose(0, 1)
        every = torch.full((len(frames),), frames.shape[1])
        return F.ctc_loss(logs, letters, every, lengths, zero_infinity=True), {}


@CASES.healthy(
    "letters-from-frames-by-ctc", story="A bidirectional GRU with the CTC loss, on strings of 3 to 5 letters."
)
def letters_by_ctc(images: Images) -> Session:
    count, times = 1200, 20
    lengths = torch.randint(3, 6, (count,))
    letters = torch.randint(1, 6, (count, 5))
    looks = torch.randn(6, 8)
    frames = 0.3 * torch.randn(count, times, 8)
    for i in range(count):
        for k in range(int(lengths[i])):
            frames[i, 4 * k : 4 * k + 3] += looks[letters[i, k]]
    net = nn.ModuleDict({"rnn": nn.GRU(8, 32, batch_first=True, bidirectional=True), "out": nn.Linear(64, 6)})
    module = Transcribed(net, partial(Adam, lr=5e-3))
    return fitting(module, *halves(frames, letters, lengths), epochs=8, batch=32, gradient_clip_val=1.0)


class SkipGram(Task):
    """Negative sampling: a logit for the neighbour and five for drawn words."""

    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        centre, context = batch
        drawn = torch.randint(60, (len(centre), 5))
        v = self.net["centre"](centre)
        right = (v * self.net["context"](context)).sum(1)
        wrong = (v.unsqueeze(1) * self.net["context"](drawn)).sum(2)
        return -(F.logsigmoid(right) + F.logsigmoid(-wrong).sum(1)).mean(), {}


@CASES.healthy(
    "neighbours-by-negative-sampling",
    story="word2vec: context vectors start at zero, the loss at six times ln 2.",
)
def neighbours(images: Images) -> Session:
    draw = torch.Generator().manual_seed(4)
    topic = torch.randint(6, (12000,), generator=draw)
    centre = topic * 10 + torch.randint(10, (12000,), generator=draw)
    context = topic * 10 + torch.randint(10, (12000,), generator=draw)
    net = nn.ModuleDict({"centre": nn.Embedding(60, 16), "context": nn.Embedding(60, 16)})
    nn.init.uniform_(net["centre"].weight, -0.5 / 16, 0.5 / 16)  # type: ignore[arg-type]
    nn.init.zeros_(net["context"].weight)  # type: ignore[arg-type]
    return fitting(SkipGram(net, partial(Adam, lr=1e-2)), *halves(centre, context), epochs=4, batch=128)


class DoubleResidual(nn.Module):
    """N-BEATS: each block takes its backcast out of the input and adds its forecast."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32))
            for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        forecast = torch.zeros(len(x), 8)
        for block in self.blocks:
            back, ahead = block(x).split([24, 8], 1)
            x, forecast = x - back, forecast + ahead
        return forecast


class Forecast(Task):
    """The symmetric relative error, in percent."""

    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        past, future = batch
        level = past.mean(1, keepdim=True)
        guess = self(past / level - 1) * level + level
        smape = 200 * ((guess - future).abs() / (guess.abs() + future.abs()).clamp(min=1e-3)).mean()
        return smape, {"mae": (guess - future).abs().mean()}


@CASES.healthy(
    "eight-months-ahead",
    story="N-BEATS with sMAPE on series of very different levels, scaled by their own mean.",
)
def eight_months(images: Images) -> Session:
    t = torch.arange(32.0)
    level = (6 * torch.rand(2500, 1)).exp()
    season = 0.3 * torch.sin(2 * math.pi * (t / 12 + torch.rand(2500, 1))) * torch.rand(2500, 1)
    series = level * (
        1 + season + 0.01 * (torch.rand(2500, 1) - 0.5) * t + 0.03 * torch.randn(2500, 32)
    ).clamp(min=0.05)
    module = Forecast(DoubleResidual(), partial(Adam, lr=1e-3))
    return fitting(module, *halves(series[:, :24], series[:, 24:]), epochs=10)


class Codes(Task):
    """VQ-VAE: the nearest of 32 codes, straight-through, codes moved by an average of what chose them."""

    codes: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self) -> None:
        super().__init__(nn.Identity(), partial(Adam, lr=2e-3))
        self.encoder = nn.Sequential(nn.Conv2d(1, 24, 4, 2, 1), nn.ReLU(), nn.Conv2d(24, 8, 4, 2, 1))
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(8, 24, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(24, 1, 4, 2, 1)
        )
        self.register_buffer("codes", torch.randn(32, 8))
        self.register_buffer("counts", torch.ones(32))
        self.register_buffer("sums", self.codes.clone())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x).permute(0, 2, 3, 1)
        flat = z.reshape(-1, 8)
        chosen = torch.cdist(flat.detach(), self.codes).argmin(1)
        nearest = self.codes[chosen].view_as(z)
        if self.training:
            with torch.no_grad():
                one = F.one_hot(chosen, 32).float()
                self.counts.lerp_(one.sum(0), 0.05)
                self.sums.lerp_(one.T @ flat, 0.05)
                self.codes.copy_(self.sums / self.counts.clamp(min=1e-2).unsqueeze(1))
        commitment = F.mse_loss(z, nearest.detach())
        return self.decoder((z + (nearest - z).detach()).permute(0, 3, 1, 2)), commitment

    def loss(self, batch: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        (x,) = batch
        out, commitment = self(x)
        error = F.mse_loss(out, x)
        return error + 0.25 * commitment, {"error": error}


@CASES.healthy(
    "codes-for-images", story="VQ-VAE with codes that are buffers, moved by an average, straight-through."
)
def codes_for_images(images: Images) -> Session:
    def greys(x: Tensor) -> Tensor:
        grey = F.avg_pool2d(x.float().mean(1, keepdim=True) / 255, 2)
        return (grey - 0.47) / 0.24

    return fitting(
        Codes(), TensorDataset(greys(images.train_x)), TensorDataset(greys(images.val_x)), epochs=4
    )


class Hazards(Task):
    """Cox's partial likelihood: each event against all at risk in its batch."""

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        x, time, event = batch
        order = time.argsort(descending=True)
        risk = self(x).squeeze(1)[order]
        at_risk = risk.logcumsumexp(0)
        seen = event[order]
        loss = -((risk - at_risk) * seen).sum() / seen.sum().clamp(min=1)
        pairs = (time[:, None] < time[None]) & (event[:, None] > 0)
        risk = self(x).squeeze(1)
        return loss, {"concordance": (risk[:, None] > risk[None])[pairs].float().mean()}


@CASES.healthy(
    "hazards-of-a-batch", story="DeepSurv: times, four in ten censored, a loss of the whole batch."
)
def hazards(images: Images) -> Session:
    x = torch.randn(2400, 10)
    hazard = (0.8 * x[:, 0] + 0.6 * x[:, 1] * x[:, 2]).exp()
    time = torch.distributions.Exponential(hazard).sample()
    limit = torch.distributions.Exponential(torch.tensor(0.6)).sample((2400,))
    event = (time <= limit).float()
    net = nn.Sequential(
        nn.Linear(10, 48), nn.SELU(), nn.AlphaDropout(0.1), nn.Linear(48, 48), nn.SELU(), nn.Linear(48, 1)
    )
    module = Hazards(net, partial(Adam, lr=1e-3, weight_decay=1e-4))
    return fitting(module, *halves(x, torch.minimum(time, limit), event), epochs=12, batch=128)


class Flowing(Task):
    """A neural ODE by sixteen Euler steps from a point to where it is later."""

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(16):
            x = x + self.net(x**3) / 16
        return x

    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        start, later = batch
        return (self(start) - later).abs().mean(), {}


@CASES.healthy(
    "where-a-spiral-goes",
    story="A neural ODE with Euler steps, RMSprop and the absolute error, as in torchdiffeq.",
)
def where_a_spiral_goes(images: Images) -> Session:
    matrix = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])
    start = torch.rand(2000, 2) * 3 - 1.5
    later = start
    for _ in range(160):
        later = later + 0.005 * (later**3 @ matrix)
    net = nn.Sequential(nn.Linear(2, 50), nn.Tanh(), nn.Linear(50, 2))
    for module in net:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.1)
            nn.init.zeros_(module.bias)
    return fitting(Flowing(net, partial(RMSprop, lr=2e-3)), *halves(start, later), epochs=10)


class Peaks(Task):
    """Heat maps with a narrow peak at each of two points; squared error, so a tiny loss."""

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        x, maps, places = batch
        out = self(x)
        at = out.flatten(2).argmax(2)
        found = torch.stack([at // 24, at % 24], 2)
        return F.mse_loss(out, maps), {"off_by": (found - places).abs().float().mean()}


@CASES.healthy(
    "peaks-in-heat-maps", story="Key points by heat maps: nearly all of the target is zero, the loss tiny."
)
def peaks(images: Images) -> Session:
    count = 800
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    places = torch.randint(3, 21, (count, 2, 2))
    far = (rows - places[..., :1, None]) ** 2 + (columns - places[..., 1:, None]) ** 2
    maps = torch.exp(-far / 4.5)
    x = 0.2 * torch.randn(count, 1, 24, 24)
    x += (far[:, :1] < 6).float() - (far[:, 1:] < 6).float()
    net = nn.Sequential(
        conv_unit(1, 16, norm="batch"), conv_unit(16, 16, norm="batch"), nn.Conv2d(16, 2, 3, padding=1)
    )
    return fitting(Peaks(net, partial(Adam, lr=3e-3)), *halves(x, maps, places), epochs=4, batch=16)


class Reversed(Task):
    """A transformer that writes digits backwards, taught with the right digits before."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), partial(Adam, lr=1e-3, betas=(0.9, 0.98)))
        self.embed = nn.Embedding(12, 48)
        self.places = nn.Parameter(0.1 * torch.randn(1, 9, 48))
        self.transformer = nn.Transformer(48, 4, 1, 1, 96, 0.1, batch_first=True)
        self.out = nn.Linear(48, 12)

    def loss(self, batch: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        (source,) = batch
        target = torch.cat([torch.full((len(source), 1), 10), source.flip(1)], 1)
        past, following = target[:, :-1], target[:, 1:]
        mask = nn.Transformer.generate_square_subsequent_mask(past.shape[1])
        hidden = self.transformer(
            self.embed(source) + self.places[:, : source.shape[1]],
            self.embed(past) + self.places[:, : past.shape[1]],
            tgt_mask=mask,
        )
        logits = self.out(hidden)
        loss = F.cross_entropy(logits.flatten(0, 1), following.flatten(), label_smoothing=0.1)
        return loss, {"acc": (logits.argmax(2) == following).float().mean()}


@CASES.healthy(
    "digits-written-backwards", story="An encoder and decoder with teacher forcing and smoothed labels."
)
def digits_backwards(images: Images) -> Session:
    return fitting(Reversed(), *halves(torch.randint(10, (4000, 6))), epochs=8, batch=64)
