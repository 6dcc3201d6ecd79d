"""Faults and odd but healthy runs, nearly all of image classifiers, after published benchmarks of real
bugs: some retell one of TrainCheck's silent errors, others are of a kind in Defects4ML; of the rest,
after the categories of DeepFD, DeepLocalize, NeuraLint, Humbatova's taxonomy, gDefects4DL, DeepCrime
and DeepMutation, the story names the category, no single bug. Networks, data and numbers are new.
Written before any rule was looked at.

At first sight (28 November 2026, rules of 865ff53, one seed): 16 of the 24 faults detected, 15 named,
0.04 wrong causes a run; no false alarm on 9 healthy runs; alarms on 2 of the 24 twins, one of which
does overfit (`forty-images-sixty-times`: 1.73 against 0.20), while the other leaves norms that need
gradients without an optimizer (`norms-alone-are-left`). Four more runs were written and left out after
that run: three faults that did no harm, none of which was noticed, and one of whose twins had an alarm;
and a healthy run that did not learn, which had none.

Named since, 19 of 24: filters of one pixel, what is toggled off, a hinge loss on zeros and ones, and a
dropout of 1, which had been called dead units. These alone were run again; their twins were silent,
those of the second and the last under rules changed once more since. Not noticed are
`hooks-added-each-epoch`, `uncertainty-without-its-price`, `smallest-of-each-window`,
`dropout-before-each-norm` and `class-number-as-a-quantity`.

Validation accuracy and loss after the last epoch, one seed:

                                             sick        twin or healthy
                                        acc    loss     acc    loss
    norms-alone-are-left               0.13    2.43     0.50    1.40
    optimizer-of-the-state-dict        0.09    2.55     0.46    1.51
    updates-into-a-copy                0.34    1.81     0.42    1.62
    warm-up-for-the-first-group        0.16    2.26     0.47    1.49
    toggled-and-never-back             0.43    1.63     0.48    1.50
    each-block-from-the-stem           0.38    1.72     0.41    1.59
    state-made-anew-in-each-row        0.21    2.18     0.32    1.85
    dropout-of-one                     0.12    2.35     0.46    1.55
    gradients-of-thirty-steps-ago      0.10    2.52     0.47    1.48
    hooks-added-each-epoch             0.34    1.88     0.39    1.67
    divided-by-the-steps               0.10    2.30     0.37    1.69
    uncertainty-without-its-price      0.36    1.79     0.45    1.60
    recomputed-with-another-mask       0.34    1.76     0.36    1.74
    filters-change-places              0.39    1.71     0.47    1.51
    filters-of-one-pixel               0.25    2.00     0.39    1.65
    smallest-of-each-window            0.44    1.65     0.51    1.41
    sigmoid-on-the-shortcut            0.10    2.31     0.40    1.68
    dropout-before-each-norm           0.34    1.76     0.46    1.48
    attention-dropped-in-both-modes    0.32    1.81     0.36    1.78
    hinge-on-zeros-and-ones            0.15    0.90     0.40    0.22
    ones-and-twos                      0.60  -75.51     0.87    0.30
    class-number-as-a-quantity         0.11    7.35     0.47    1.48
    forty-images-sixty-times           0.35    2.15     0.46    1.73
    lost-on-the-way                    0.39    1.70     0.51    1.39
    initialized-three-times-over                          0.35    1.80
    spectral-norms                                        0.47    1.48
    channels-last                                         0.46    1.49
    a-fifth-of-the-gradient                               0.50    1.42
    hinge-of-ten-scores                                   0.31    0.20
    blurred-before-it-is-halved                           0.49    1.42
    each-image-thrice                                     0.37    1.65
    little-dropout-between-norms                          0.47    1.42
    two-groups-warmed-up                                  0.36    1.92
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from clinic import NUM_CLASSES, CaseBook, Classifier, Images, Session
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Sampler, TensorDataset
from variants import VisionTransformer, convnext, group_resnet, mobile, perceptron, vgg
from wild import Pair, conv_mixer, lenet, plain_cnn, pretrained, residual_net, run, standard

CASES = CaseBook()


def pooled(width: int) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, NUM_CLASSES)


class ByHand(Classifier):
    """Steps by hand; what is done between the backward pass and the step is `before_step`."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.automatic_optimization = False

    def before_step(self) -> None:
        pass

    def training_step(self, batch: Pair, batch_idx: int) -> None:  # type: ignore[override]
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.measure(batch, "train"))
        self.before_step()
        optimizer.step()


# --------------------------------------------------------------------------------------- what does not learn


@CASES.sick(
    "norms-alone-are-left",
    "frozen-parameters",
    story="A new head on a pretrained trunk, and an optimizer for the head; then all but the norms "
    "is frozen, and a line copied from above freezes the head as well: nothing that is "
    "stepped has a gradient (TrainCheck, pytorch-forum-84911).",
)
def norms_alone_are_left(images: Images, fault: bool) -> Session:
    (x, y), _ = standard(images)
    net = pretrained(vgg(12, 24, 48, norm=True), x[::2], y[::2], 4)
    old: Any = net[-1]
    head = net[-1] = nn.Linear(old.in_features, NUM_CLASSES)

    def of_the_head(parameters: Iterable[nn.Parameter]) -> Optimizer:
        return Adam(head.parameters(), lr=1e-3)

    for layer in net[:-1]:
        layer.requires_grad_(isinstance(layer, nn.BatchNorm2d))
    head.requires_grad_(not fault)
    return run(Classifier(net, of_the_head), images, 5, train=(x[1::2], y[1::2]))


@CASES.sick(
    "optimizer-of-the-state-dict",
    "frozen-parameters",
    story="SGD(net.state_dict().values()): the tensors of a state dictionary share their memory "
    "with the parameters, and never have a gradient (DeepFD's programs that learn nothing, at "
    "another place).",
)
def optimizer_of_the_state_dict(images: Images, fault: bool) -> Session:
    net = group_resnet()

    def of_the_state(parameters: Iterable[nn.Parameter]) -> Optimizer:
        return SGD(net.state_dict().values() if fault else parameters, lr=0.03, momentum=0.9)

    return run(Classifier(net, of_the_state), images, 4)


class Flat(Optimizer):
    """Descent with momentum that works on each parameter as one long row."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

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
                velocity = self.state[p].setdefault("velocity", torch.zeros(p.numel()))
                velocity.mul_(group["momentum"]).add_(p.grad.reshape(-1))
                row = p.data.reshape(-1)  # a view of the weights, or a copy where they do not lie in a row
                row.sub_(velocity, alpha=group["lr"])
        return loss


@CASES.sick(
    "updates-into-a-copy",
    "frozen-parameters",
    story="An optimizer of one's own updates p.data.reshape(-1) in place; behind "
    "to(memory_format=channels_last) that is a copy for each convolution (TrainCheck's "
    "success stories: updates that were written to a temporary).",
)
def updates_into_a_copy(images: Images, fault: bool) -> Session:
    net: Any = plain_cnn(24, "group")
    if fault:
        net = net.to(memory_format=torch.channels_last)
    return run(Classifier(net, partial(Flat, lr=0.02)), images, 4)


class TwoGroups(Classifier):
    """Decays matrices alone, and warms up by hand, for the first group or for all."""

    all_groups = True

    def configure_optimizers(self) -> Any:
        parameters = list(self.parameters())
        small = [p for p in parameters if p.dim() < 2]
        large = [p for p in parameters if p.dim() >= 2]
        groups: list[dict[str, Any]] = [{"params": small}, {"params": large, "weight_decay": 5e-4}]
        return SGD(groups, lr=0.0, momentum=0.9)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        groups = optimizer.param_groups
        for group in groups if self.all_groups else groups[:1]:
            group["lr"] = 0.05 * min(1.0, (self.global_step + 1) / 40)


@CASES.sick(
    "warm-up-for-the-first-group",
    "frozen-parameters",
    "learning-rate-too-low",
    story="A warm-up by hand writes optimizer.param_groups[0]['lr']; the weights are in the second "
    "group, whose rate stays at the 0 that the optimizer was made with (TrainCheck's "
    "invariants on what a step changes).",
)
def warm_up_for_the_first_group(images: Images, fault: bool) -> Session:
    module = TwoGroups(residual_net(16, 2), partial(SGD, lr=0.0))
    module.all_groups = not fault
    return run(module, images, 4)


class Toggling(Classifier):
    """One optimizer for the trunk and one for the head, by hand."""

    toggles = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        trunk, head = self.net[:-1], self.net[-1]
        return [self.make_optimizer(trunk.parameters()), self.make_optimizer(head.parameters())]

    def training_step(self, batch: Pair, batch_idx: int) -> None:  # type: ignore[override]
        optimizers: Any = self.optimizers()
        of_trunk, of_head = optimizers
        if self.toggles:
            self.toggle_optimizer(of_head)
        loss = self.measure(batch, "train")
        of_trunk.zero_grad()
        of_head.zero_grad()
        self.manual_backward(loss)
        of_trunk.step()
        of_head.step()


@CASES.sick(
    "toggled-and-never-back",
    "frozen-parameters",
    story="Left toggle_optimizer() from a training that took turns, and no untoggle_optimizer(): "
    "the parameters of the other optimizer need no gradient from then on (Defects4ML, wrong "
    "usage of an API).",
)
def toggled_and_never_back(images: Images, fault: bool) -> Session:
    module = Toggling(vgg(12, 24, 48, norm=True), partial(Adam, lr=2e-3))
    module.toggles = fault
    return run(module, images, 4)


class Chain(nn.Module):
    """Blocks one behind the other, or, by mistake, each from the stem."""

    def __init__(self, width: int, depth: int, mistaken: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 2, 2)
        blocks = [
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(4, width), nn.ReLU())
            for _ in range(depth)
        ]
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Sequential(*pooled(width))
        self.mistaken = mistaken

    def forward(self, x: Tensor) -> Tensor:
        stem = out = self.stem(x)
        for block in self.blocks:
            out = block(stem if self.mistaken else out)
        return self.head(out)


@CASES.sick(
    "each-block-from-the-stem",
    "frozen-parameters",
    story="`out = block(x)` in the loop over blocks, where `x = block(x)` was meant: all but the "
    "last are computed for nothing (Humbatova's taxonomy, wrong reference to an operation).",
)
def each_block_from_the_stem(images: Images, fault: bool) -> Session:
    return run(Classifier(Chain(24, 5, fault), partial(Adam, lr=2e-3)), images, 5)


class RowsByHand(nn.Module):
    """A GRU cell over the rows of an image; its state may be made anew with each."""

    def __init__(self, width: int, anew: bool) -> None:
        super().__init__()
        self.cell = nn.GRUCell(96, width)
        self.head = nn.Linear(width, NUM_CLASSES)
        self.anew = anew

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for row in x.permute(2, 0, 1, 3).flatten(2):
            state = self.cell(row, None if self.anew else state)
        return self.head(state)


@CASES.sick(
    "state-made-anew-in-each-row",
    "frozen-parameters",
    "underfitting",
    story="The state of a recurrent cell is set to nothing inside the loop over steps: the last row "
    "alone counts (DeepMutation++, state clear).",
)
def state_made_anew_in_each_row(images: Images, fault: bool) -> Session:
    return run(Classifier(RowsByHand(64, fault), partial(Adam, lr=3e-3)), images, 4)


@CASES.sick(
    "dropout-of-one",
    "regularization-too-strong",
    "frozen-parameters",
    story="nn.Dropout(1), which was to switch it off: all is dropped, and the head's bias alone "
    "learns (DeepCrime, change of the dropout rate).",
)
def dropout_of_one(images: Images, fault: bool) -> Session:
    net = conv_mixer(32, 2)
    net = nn.Sequential(*net[:-1], nn.Dropout(1 if fault else 0), net[-1])
    return run(Classifier(net, partial(AdamW, lr=2e-3)), images, 4)


# ------------------------------------------------------------------------------------ gradients and the loop


class Late(ByHand):
    """Each step is taken by the gradient of some steps ago, as with a worker that lags."""

    lag = 0

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.queue: deque[list[Tensor]] = deque()

    def before_step(self) -> None:
        parameters = [p for p in self.parameters() if p.grad is not None]
        self.queue.append([p.grad.clone() for p in parameters])  # type: ignore[union-attr]
        late = (
            self.queue.popleft() if len(self.queue) > self.lag else [torch.zeros_like(p) for p in parameters]
        )
        for p, gradient in zip(parameters, late, strict=True):
            p.grad = gradient


@CASES.sick(
    "gradients-of-thirty-steps-ago",
    "wrong-gradient",
    "learning-rate-too-high",
    story="Asynchronous workers, simulated: the gradient that is applied was taken thirty steps ago "
    "(TrainCheck's communication errors).",
)
def gradients_of_thirty_steps_ago(images: Images, fault: bool) -> Session:
    module = Late(vgg(12, 24, 48), partial(SGD, lr=0.02, momentum=0.9))
    module.lag = 30 if fault else 0
    return run(module, images, 4)


class HooksAnew(Classifier):
    """Takes a fifth of each gradient by a hook that is registered once, or at the start of each epoch."""

    each_epoch = False

    def on_train_epoch_start(self) -> None:
        if self.each_epoch or self.current_epoch == 0:
            for p in self.parameters():
                p.register_hook(lambda gradient: gradient / 5)


@CASES.sick(
    "hooks-added-each-epoch",
    "learning-rate-too-low",
    "vanishing-gradients",
    story="on_train_epoch_start registers hooks that scale the gradients down, anew in each epoch, "
    "and none is ever removed (Defects4ML, wrong usage of an API).",
)
def hooks_added_each_epoch(images: Images, fault: bool) -> Session:
    module = HooksAnew(convnext(24, 2), partial(SGD, lr=0.1, momentum=0.9))
    module.each_epoch = fault
    return run(module, images, 6)


class Decaying(Classifier):
    """The rate is divided by 1 + decay * steps, as by the `decay` of older optimizers."""

    decay = 0.0

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedule = LambdaLR(optimizer, lambda step: 1 / (1 + self.decay * step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@CASES.sick(
    "divided-by-the-steps",
    "learning-rate-too-low",
    story="Adam(lr=1e-3, decay=0.9), with `decay` taken for what a rate keeps: it is divided by 1 + "
    "0.9 times the steps (DeepFD's and DeepLocalize's programs from Stack Overflow).",
)
def divided_by_the_steps(images: Images, fault: bool) -> Session:
    module = Decaying(mobile(16, 32, 64), partial(Adam, lr=1e-3))
    module.decay = 0.9 if fault else 1e-3
    return run(module, images, 4)


class Uncertain(Classifier):
    """The loss over a learned variance, with or without the logarithm that keeps that in bounds."""

    def __init__(self, net: nn.Module, optimizer: Callable, priced: bool) -> None:
        super().__init__(net, optimizer)
        self.logarithm = nn.Parameter(torch.zeros(()))
        self.priced = priced

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        loss = self.measure(batch, "train") * (-self.logarithm).exp()
        return loss + self.logarithm if self.priced else loss


@CASES.sick(
    "uncertainty-without-its-price",
    "learning-rate-too-low",
    "vanishing-gradients",
    story="Divides the loss by a learned variance and forgets to add its logarithm: the variance "
    "grows, and the loss goes to nothing (Defects4ML, wrong calculation of the loss).",
)
def uncertainty_without_its_price(images: Images, fault: bool) -> Session:
    module = Uncertain(plain_cnn(16, "batch"), partial(SGD, lr=0.03, momentum=0.9), not fault)
    return run(module, images, 4)


class Recomputed(nn.Module):
    """Residual blocks with dropout whose activations are computed again in the backward pass."""

    def __init__(self, width: int, depth: int, same_mask: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 4, 4)
        blocks = [
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(4, width), nn.ReLU(), nn.Dropout(0.5)
            )
            for _ in range(depth)
        ]
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Sequential(*pooled(width))
        self.same_mask = same_mask

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=self.same_mask)
        return self.head(x)


@CASES.sick(
    "recomputed-with-another-mask",
    "wrong-gradient",
    story="checkpoint(..., preserve_rng_state=False), for speed: the backward pass draws other "
    "dropout masks than the forward pass had (TrainCheck's errors of frameworks and "
    "compilers).",
)
def recomputed_with_another_mask(images: Images, fault: bool) -> Session:
    return run(Classifier(Recomputed(24, 4, not fault), partial(Adam, lr=2e-3)), images, 5)


class Permuting(Classifier):
    """At each epoch the filters of each convolution change places; the layers behind are not told."""

    permutes = False

    def on_train_epoch_start(self) -> None:
        if self.permutes and self.current_epoch:
            for layer in self.net.modules():
                if isinstance(layer, nn.Conv2d):
                    order = torch.randperm(layer.out_channels)
                    layer.weight.data = layer.weight.data[order]


@CASES.sick(
    "filters-change-places",
    "bad-initialization",
    "frozen-parameters",
    "learning-rate-too-high",
    story="A search for filters to prune reorders those of each convolution at each epoch and "
    "forgets the layers behind (DeepMutation++, weight shuffling).",
)
def filters_change_places(images: Images, fault: bool) -> Session:
    module = Permuting(plain_cnn(24, "group"), partial(Adam, lr=1e-3))
    module.permutes = fault
    return run(module, images, 5)


# ----------------------------------------------------------------------------------------------- the network


@CASES.sick(
    "filters-of-one-pixel",
    "underfitting",
    story="kernel_size=1 in each convolution and a mean over all places at the end: what is seen is "
    "colour alone (Defects4ML, wrong filter size for a convolutional layer).",
)
def filters_of_one_pixel(images: Images, fault: bool) -> Session:
    size = 1 if fault else 3
    net = nn.Sequential(nn.AvgPool2d(2))
    for inputs, outputs in pairwise([3, 24, 48, 48]):
        net.extend([nn.Conv2d(inputs, outputs, size, padding=size // 2), nn.BatchNorm2d(outputs), nn.ReLU()])
    net.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, NUM_CLASSES)])
    return run(Classifier(net, partial(Adam, lr=3e-3)), images, 5)


class Smallest(nn.MaxPool2d):
    def forward(self, x: Tensor) -> Tensor:
        return -super().forward(-x)


@CASES.sick(
    "smallest-of-each-window",
    "dead-relu",
    "underfitting",
    "vanishing-gradients",
    story="A pooling that takes the smallest value of each window, behind ReLUs, whose smallest is "
    "nearly always 0 (Humbatova's taxonomy, wrong type of pooling).",
)
def smallest_of_each_window(images: Images, fault: bool) -> Session:
    pool = Smallest if fault else nn.MaxPool2d
    net = nn.Sequential()
    for inputs, outputs in pairwise([3, 16, 32, 48]):
        net.extend([nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), pool(2)])
    net.extend([nn.Flatten(), nn.Linear(16 * 48, NUM_CLASSES)])
    return run(Classifier(net, partial(SGD, lr=0.03, momentum=0.9)), images, 5)


class SigmoidSum(nn.Module):
    """A residual branch whose sum may go through a sigmoid."""

    def __init__(self, width: int, squashes: bool) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
        self.squashes = squashes

    def forward(self, x: Tensor) -> Tensor:
        out = x + 0.5 * self.branch(x)
        return out.sigmoid() if self.squashes else out


@CASES.sick(
    "sigmoid-on-the-shortcut",
    "vanishing-gradients",
    "saturated-activations",
    story="Each residual sum goes through a sigmoid, so that no path is left without one "
    "(DeepCrime, add an activation function, at a sum).",
)
def sigmoid_on_the_shortcut(images: Images, fault: bool) -> Session:
    blocks = [SigmoidSum(24, fault) for _ in range(6)]
    net = nn.Sequential(nn.Conv2d(3, 24, 4, 4), *blocks, *pooled(24))
    return run(Classifier(net, partial(SGD, lr=0.02, momentum=0.9)), images, 5)


@CASES.sick(
    "dropout-before-each-norm",
    "train-val-mismatch",
    "regularization-too-strong",
    story="Dropout in front of each BatchNorm: the variance that it keeps is that of dropped "
    "values, and evaluation's is smaller (NeuraLint, dropout before a norm).",
)
def dropout_before_each_norm(images: Images, fault: bool) -> Session:
    net = nn.Sequential()
    for inputs, outputs in pairwise([3, 24, 48, 64]):
        net.append(nn.Conv2d(inputs, outputs, 3, 2, 1))
        net.extend([nn.Dropout(0.6)] if fault else [])
        net.extend([nn.BatchNorm2d(outputs), nn.ReLU()])
    net.extend([nn.Flatten(), nn.Dropout(0.6 * (not fault)), nn.Linear(16 * 64, NUM_CLASSES)])
    return run(Classifier(net, partial(Adam, lr=1e-3)), images, 5)


class Attends(nn.Module):
    """Attention by the framework's function, whose dropout knows no mode."""

    def __init__(self, width: int, dropped: float, asks: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.to_three = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.hidden = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.dropped, self.asks = dropped, asks

    def forward(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.to_three(self.norm(x)).reshape(n, length, 3, 4, -1).permute(2, 0, 3, 1, 4)
        dropped = self.dropped if self.training or not self.asks else 0.0
        seen = F.scaled_dot_product_attention(q, k, v, dropout_p=dropped)
        x = x + self.out(seen.transpose(1, 2).reshape(n, length, width))
        return x + self.hidden(x)


class Transformer(nn.Module):
    def __init__(self, width: int, depth: int, dropped: float, asks: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.places = nn.Parameter(0.02 * torch.randn(1, 16, width))
        self.blocks = nn.Sequential(*[Attends(width, dropped, asks) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.blocks(self.patches(x).flatten(2).transpose(1, 2) + self.places)
        return self.head(self.norm(tokens).mean(dim=1))


@CASES.sick(
    "attention-dropped-in-both-modes",
    "train-mode-evaluation",
    story="scaled_dot_product_attention(dropout_p=0.7) does not ask for the mode: attention is "
    "dropped in evaluation as well (TrainCheck, transformers-33844).",
)
def attention_dropped_in_both_modes(images: Images, fault: bool) -> Session:
    net = Transformer(48, 3, 0.7, not fault)
    return run(Classifier(net, partial(AdamW, lr=2e-3)), images, 5)


# -------------------------------------------------------------------------------------- loss, labels, images


class Hinge(Classifier):
    """The hinge loss of a score for each class, whose targets are to be -1 and 1."""

    lower = -1.0

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        targets = self.lower + (1 - self.lower) * F.one_hot(y, NUM_CLASSES)
        return F.relu(1 - targets * logits).mean()


@CASES.sick(
    "hinge-on-zeros-and-ones",
    "underfitting",
    "vanishing-gradients",
    story="The hinge loss on labels of 0 and 1 where it wants -1 and 1: what is not the class has "
    "no gradient, and a large score for every class is the best answer (DeepFD, wrong loss).",
)
def hinge_on_zeros_and_ones(images: Images, fault: bool) -> Session:
    module = Hinge(vgg(12, 24, 48, norm=True), partial(Adam, lr=2e-3))
    module.lower = 0.0 if fault else -1.0
    return run(module, images, 4)


class YesOrNo(Classifier):
    """Animal or vehicle, one score; `first` is the label of the vehicles."""

    first = 0.0

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits.squeeze(1), y + self.first)

    def measure(self, batch: Pair, stage: str) -> Tensor:
        x, y = batch
        logits, animal = self(x), ((y >= 2) & (y <= 7)).float()
        loss = self.loss(logits, animal)
        accuracy = ((logits.squeeze(1) > 0) == (animal > 0)).float().mean()
        values = {f"{stage}/loss": loss, f"{stage}/acc": accuracy}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(y))
        return loss


@CASES.sick(
    "ones-and-twos",
    "wrong-initial-loss",
    "exploding-gradients",
    "learning-rate-too-high",
    story="Two classes are labelled 1 and 2, and the binary cross-entropy wants 0 and 1: the loss "
    "falls below zero without end, and all is of the second class (DeepLocalize's and "
    "DeepFD's programs from Stack Overflow).",
)
def ones_and_twos(images: Images, fault: bool) -> Session:
    net = plain_cnn(16, "group")
    net[-1] = nn.Linear(512, 1)
    module = YesOrNo(net, partial(Adam, lr=1e-3))
    module.first = 1.0 if fault else 0.0
    return run(module, images, 4)


class Numbered(Classifier):
    """One output that is to be the number of the class."""

    def measure(self, batch: Pair, stage: str) -> Tensor:
        x, y = batch
        guess = self(x).squeeze(1)
        loss = F.mse_loss(guess, y.float())
        values = {f"{stage}/loss": loss, f"{stage}/acc": (guess.round() == y).float().mean()}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(y))
        return loss


@CASES.sick(
    "class-number-as-a-quantity",
    "underfitting",
    story="One output and the squared error from the number of the class, as if the ninth were nine "
    "times the first (DeepLocalize's programs from Stack Overflow, wrong loss and last "
    "layer).",
)
def class_number_as_a_quantity(images: Images, fault: bool) -> Session:
    net = plain_cnn(24, "batch")
    if fault:
        net[-1] = nn.Linear(768, 1)
    return run((Numbered if fault else Classifier)(net, partial(Adam, lr=1e-3)), images, 5)


@CASES.sick(
    "forty-images-sixty-times",
    "overfitting",
    "class-imbalance",
    story="A loop that balanced the classes repeats the same forty images sixty times each beside "
    "six hundred others (DeepMutation, data repetition).",
)
def forty_images_sixty_times(images: Images, fault: bool) -> Session:
    x, y = standard(images)[0]
    order = torch.randperm(len(y))
    kept = torch.cat([order[:40].repeat(60), order[40:640]]) if fault else order[:3000]
    return run(
        Classifier(plain_cnn(32, "batch"), partial(Adam, lr=2e-3)), images, 8, train=(x[kept], y[kept])
    )


class LosesBatches(Classifier):
    """Images are lost on the way to the device: zeros arrive, with the right labels."""

    lost = 0.0

    def on_after_batch_transfer(self, batch: Pair, dataloader_idx: int) -> Pair:
        x, y = batch
        if self.training:
            x = x * (torch.rand(len(y), 1, 1, 1) >= self.lost)
        return x, y


@CASES.sick(
    "lost-on-the-way",
    "input-constant",
    "labels-random",
    "train-val-mismatch",
    story="A broken transfer to the device: of seven images in ten zeros arrive, with the right "
    "labels (TrainCheck, baichuan2-86, pytorch-84803).",
)
def lost_on_the_way(images: Images, fault: bool) -> Session:
    module = LosesBatches(vgg(12, 24, 48, norm=True), partial(SGD, lr=0.02, momentum=0.9))
    module.lost = 0.7 if fault else 0.0
    return run(module, images, 4)


# --------------------------------------------------------------------------------------------------- healthy


@CASES.healthy(
    "initialized-three-times-over",
    story="A transformer whose weights are drawn again by each part that holds them, before it "
    "trains (TrainCheck, transformers-17877, which costs time alone).",
)
def initialized_three_times_over(images: Images) -> Session:
    net = VisionTransformer()
    for _ in range(3):
        for layer in net.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.05)
                nn.init.zeros_(layer.bias)
    return run(Classifier(net, partial(AdamW, lr=1e-3)), images, 5)


@CASES.healthy(
    "spectral-norms",
    story="Each layer divided by its largest singular value, as a critic's or a robust net's, and a "
    "scale behind the last (TrainCheck, pytorch-51800, used rightly).",
)
def spectral_norms(images: Images) -> Session:
    net = lenet()
    for at, layer in enumerate(net):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            net[at] = spectral_norm(layer)
    return run(Classifier(net, partial(Adam, lr=3e-3)), images, 6)


@CASES.healthy("channels-last", story="Weights and images in the channels-last format, SGD, BatchNorm.")
def channels_last(images: Images) -> Session:
    (x, y), val = standard(images)
    net: Any = residual_net(16, 2).to(memory_format=torch.channels_last)
    train = (x.contiguous(memory_format=torch.channels_last), y)
    return run(Classifier(net, partial(SGD, lr=0.05, momentum=0.9)), images, 4, train=train, val=val)


@CASES.healthy(
    "a-fifth-of-the-gradient",
    story="Hooks that take a fifth of each gradient, at five times the rate.",
)
def a_fifth_of_the_gradient(images: Images) -> Session:
    return run(HooksAnew(group_resnet(), partial(SGD, lr=0.1, momentum=0.9)), images, 5)


@CASES.healthy(
    "hinge-of-ten-scores", story="The hinge loss of ten scores on labels of -1 and 1, SGD with momentum."
)
def hinge_of_ten_scores(images: Images) -> Session:
    return run(Hinge(plain_cnn(24, "group"), partial(SGD, lr=0.1, momentum=0.9)), images, 5)


class Blurred(nn.Module):
    """Anti-aliased pooling: a fixed filter of 1, 2, 1 and every second value."""

    def __init__(self, width: int) -> None:
        super().__init__()
        row = torch.tensor([0.25, 0.5, 0.25])
        self.register_buffer("filter", (row[:, None] * row).expand(width, 1, 3, 3).clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.filter, None, 2, 1, 1, x.shape[1])  # type: ignore[arg-type]


@CASES.healthy("blurred-before-it-is-halved", story="Pools by a fixed blur and every second value.")
def blurred_before_it_is_halved(images: Images) -> Session:
    net = nn.Sequential()
    for inputs, outputs in pairwise([3, 16, 32, 48]):
        net.extend(
            [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), Blurred(outputs)]
        )
    net.extend([nn.Flatten(), nn.Linear(16 * 48, NUM_CLASSES)])
    return run(Classifier(net, partial(Adam, lr=1e-3)), images, 4)


class EachThrice(Sampler[int]):
    """Each index three times in a row, in random order, a third of the indices an epoch."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size // 3 * 3

    def __iter__(self) -> Any:
        drawn = torch.randperm(self.size)[: self.size // 3]
        return iter(drawn.repeat_interleave(3).tolist())


@CASES.healthy(
    "each-image-thrice",
    story="A sampler gives each image three times in a row, to be augmented differently, a third of "
    "them an epoch.",
)
def each_image_thrice(images: Images) -> Session:
    x, y = standard(images)[0]
    session = run(Flipping(mobile(16, 32, 64), partial(AdamW, lr=3e-3)), images, 6)
    session.train_loader = DataLoader(TensorDataset(x, y), 96, sampler=EachThrice(len(y)))
    return session


class Flipping(Classifier):
    """Mirrors and shifts each image in the training step."""

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        x, y = batch
        x = torch.where(torch.rand(len(y), 1, 1, 1) < 0.5, x.flip(3), x)
        return self.measure((torch.roll(x, int(torch.randint(-2, 3, ())), 3), y), "train")


@CASES.healthy(
    "little-dropout-between-norms",
    story="Dropout of a twentieth in front of each BatchNorm, and of three tenths behind the last.",
)
def little_dropout_between_norms(images: Images) -> Session:
    net = nn.Sequential()
    for inputs, outputs in pairwise([3, 24, 48, 64]):
        net.extend(
            [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.Dropout(0.05), nn.BatchNorm2d(outputs), nn.ReLU()]
        )
    net.extend([nn.Flatten(), nn.Dropout(0.3), nn.Linear(16 * 64, NUM_CLASSES)])
    return run(Classifier(net, partial(Adam, lr=1e-3)), images, 5)


@CASES.healthy(
    "two-groups-warmed-up",
    story="Matrices that decay and vectors that do not, both warmed up by hand from a rate of 0.",
)
def two_groups_warmed_up(images: Images) -> Session:
    return run(TwoGroups(perceptron(128, 64, activation=nn.ReLU), partial(SGD, lr=0.0)), images, 6)
