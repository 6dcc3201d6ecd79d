"""Faults and odd but healthy runs, nearly all of image classifiers, as another author might think of them:
each cause of the list at one place or two in the code where the other files do not have it, some of the
faults mild. Written before any rule was looked at. Of 37 faults that were written five did no harm (a
linear scaling rule for AdamW, an entropy bonus, RMSNorm by hand with its root taken for a constant, a
root of mean squares behind a ReLU, class weights beside a balanced sampler) and three, nearest to cases
of other files, were left out for want of time; three more, and two healthy runs, got another dose or
optimizer, because they did no harm or did not learn. All that was before the first run with a tool.

At first sight (28 November 2026, rules of 38559e7, one seed): 25 of the 29 faults detected, 24 named,
0.07 wrong causes a run; no false alarm on 10 healthy runs, no alarm on 29 twins. What is not named:
`highway-closed` (said to be too weak a network), `log-sigmoid-for-log-softmax`, `held-to-a-tenth`,
`place-in-the-list-as-a-channel`, `groups-that-never-mix`.

Named since, with their twins silent, as run again (28 November 2026, rules of 1d5a6ff): the first two of
these; and the wrong cause of `mode-not-handed-on`, labels-random, is no longer named.

Validation accuracy and loss after the last epoch, one seed:

                                           sick        twin or healthy
                                        acc    loss     acc    loss
    gamma-of-five                      0.10     nan     0.42    1.61
    head-at-a-hundredfold              0.10    2.54     0.47    1.52
    loader-without-a-batch-size        0.10    2.36     0.44    1.58
    two-at-a-time-but-sixteen-a-step   0.25    2.18     0.41    1.61
    multiplied-by-what-was-a-factor    0.30    1.95     0.46    1.46
    accumulator-starts-at-a-thousand   0.22    2.24     0.41    1.63
    weights-by-their-data              0.30    1.92     0.43    1.62
    weight-norm-after-the-optimizer    0.13    2.30     0.39    1.71
    hook-clears-at-times               0.10    2.42     0.45    1.56
    dirac-for-every-convolution        0.35    1.82     0.45    1.55
    highway-closed                     0.10    2.30     0.38    1.74
    summed-over-places-before-tanh     0.29    1.88     0.40    1.62
    log-sigmoid-for-log-softmax        0.11    0.00     0.40    1.64
    shares-of-two-nets-averaged        0.44    2.11     0.51    1.37
    root-of-products-of-maps           0.10     nan     0.42    1.59
    held-to-a-tenth                    0.34    1.84     0.48    1.49
    slopes-exchanged                   0.32    1.90     0.42    1.58
    mode-not-handed-on                 0.28    2.16     0.47    1.51
    mode-kept-too-late                 0.35    1.81     0.47    1.48
    means-of-caffe                     0.10     nan     0.43    1.61
    images-of-length-one               0.10    2.30     0.49    1.49
    from-the-bottom-up                 0.27    2.31     0.47    1.49
    another-image-under-the-label      0.38    1.80     0.46    1.61
    two-loaders-shuffled-each          0.10    2.31     0.47    1.51
    chunks-of-forty                    0.10    2.44     0.38    1.68
    missing-labels-are-zero            0.11    2.42     0.35    1.81
    place-in-the-list-as-a-channel     0.90    0.27     0.45    1.58
    generator-seeded-anew              0.34    4.59     0.46    1.53
    groups-that-never-mix              0.30    1.93     0.39    1.62
    loss-in-bits                                        0.50    2.03
    brightness-and-two-colours                          0.45    1.60
    random-features-on-purpose                          0.47    1.49
    animal-or-vehicle                                   0.89    0.27
    batches-that-grow                                   0.35    1.77
    three-that-vote                                     0.44    1.53
    leaky-by-hand                                       0.44    1.57
    shares-of-ten-people                                0.45    1.30
    logarithm-of-the-share                              0.36    1.81
    more-and-more-dropout                               0.39    1.68
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from clinic import NUM_CLASSES, PIXEL_MEAN, CaseBook, Classifier, Images, Session
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LambdaLR, MultiplicativeLR, StepLR
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler, TensorDataset
from variants import VisionTransformer, convnext, group_resnet, mobile, perceptron, squeezed, vgg
from wild import MakeOptimizer, Pair, conv_mixer, lenet, plain_cnn, residual_net, run, standard

CASES = CaseBook()


# -------------------------------------------------------------------------------------------- networks


def all_conv(width: int = 20, activation: Callable[[], nn.Module] = nn.ELU) -> nn.Sequential:
    """Convolutions alone, strided where others pool; the mean over places of ten maps is the output."""
    widths = [3, width, 2 * width, 2 * width, 3 * width]
    net = nn.Sequential()
    for place, (inputs, outputs) in enumerate(pairwise(widths)):
        net.extend([nn.Conv2d(inputs, outputs, 3, 1 + (place != 2), 1), activation()])
    return net.extend([nn.Conv2d(3 * width, NUM_CLASSES, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()])


class Inception(nn.Module):
    """Windows of one, three and five pixels side by side."""

    def __init__(self, inputs: int, each: int) -> None:
        super().__init__()
        self.ways = nn.ModuleList(nn.Conv2d(inputs, each, size, 2, size // 2) for size in (1, 3, 5))
        self.norm = nn.BatchNorm2d(3 * each)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(torch.cat([way(x) for way in self.ways], dim=1)))


def inception(each: int = 12) -> nn.Sequential:
    blocks = Inception(3, each), Inception(3 * each, each), Inception(3 * each, 2 * each)
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24 * each, NUM_CLASSES))


class Highway(nn.Module):
    """A dense layer beside the way past it; the sigmoid of `gate` is the share of the layer."""

    def __init__(self, width: int, bias: float) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.gate = nn.Linear(width, width)
        nn.init.constant_(self.gate.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        share = torch.sigmoid(self.gate(x))
        return share * torch.tanh(self.layer(x)) + (1 - share) * x


def he_conv(net: nn.Module) -> nn.Module:
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return net


class Scheduled(Classifier):
    """A classifier with a schedule, stepped each epoch or each batch."""

    def __init__(
        self, net: nn.Module, optimizer: MakeOptimizer, schedule: Callable[[Optimizer], Any], interval: str
    ) -> None:
        super().__init__(net, optimizer)
        self.schedule, self.interval = schedule, interval

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())
        entry = {"scheduler": self.schedule(optimizer), "interval": self.interval}
        return {"optimizer": optimizer, "lr_scheduler": entry}


# --------------------------------------------------------------------------------------- rates and batches


@CASES.sick(
    "gamma-of-five",
    "learning-rate-too-high",
    story="StepLR(step_size=1, gamma=5): took gamma for what the rate is divided by; it is multiplied.",
)
def gamma_of_five(images: Images, fault: bool) -> Session:
    schedule = partial(StepLR, step_size=1, gamma=5.0 if fault else 0.2 ** (1 / 2))
    module = Scheduled(vgg(12, 24, 32), partial(SGD, lr=0.02, momentum=0.9), schedule, "epoch")
    return run(module, images, 5)


@CASES.sick(
    "head-at-a-hundredfold",
    "learning-rate-too-high",
    story="A parameter group for the new head with a hundred times the rate of the trunk, as for "
    "fine-tuning; the trunk is new as well, and its rate was the right one for both.",
)
def head_at_a_hundredfold(images: Images, fault: bool) -> Session:
    net = plain_cnn(24, "batch")

    def groups(parameters: Iterable[nn.Parameter]) -> Optimizer:
        trunk: dict[str, Any] = {"params": net[:-1].parameters()}
        head: dict[str, Any] = {"params": net[-1].parameters(), "lr": 3.0 if fault else 0.03}
        return SGD([trunk, head], lr=0.03, momentum=0.9)

    return run(Classifier(net, groups), images)


@CASES.sick(
    "loader-without-a-batch-size",
    "batch-too-small",
    "learning-rate-too-high",
    story="DataLoader(dataset, shuffle=True): the batch size was forgotten, and its default is 1.",
)
def loader_without_a_batch_size(images: Images, fault: bool) -> Session:
    net = group_resnet(16, 1)
    module = Classifier(net, partial(SGD, lr=0.03, momentum=0.9))
    (x, y), _ = standard(images)
    if not fault:
        return run(module, images, 4)
    session = run(module, images, 1, limit_train_batches=1200)
    session.train_loader = DataLoader(TensorDataset(x, y), shuffle=True)
    return session


class NormedHead(nn.Module):
    """Pools over all places, and normalizes the features by the batch before the last layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.last = nn.Linear(width, NUM_CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.norm(x.mean(dim=(2, 3)))))


@CASES.sick(
    "two-at-a-time-but-sixteen-a-step",
    "batch-too-small",
    story="Batches of two, and accumulate_grad_batches=16 to make up for it: the steps are of 32 images, but "
    "BatchNorm behind the pooling sees two.",
)
def two_at_a_time(images: Images, fault: bool) -> Session:
    net = nn.Sequential(*group_resnet(24, 1)[:-3], NormedHead(24))
    module = Classifier(net, partial(Adam, lr=3e-3))
    if fault:
        return run(module, images, 3, 2, accumulate_grad_batches=16, limit_train_batches=1600)
    return run(module, images, 3, 32, limit_train_batches=100)


@CASES.sick(
    "multiplied-by-what-was-a-factor",
    "learning-rate-too-low",
    story="MultiplicativeLR given the function that LambdaLR had, 0.985 ** step: what was the factor on the "
    "first rate is now multiplied with the last one, step after step.",
)
def multiplied_by_what_was_a_factor(images: Images, fault: bool) -> Session:
    schedule = partial(MultiplicativeLR if fault else LambdaLR, lr_lambda=lambda step: 0.985**step)
    module = Scheduled(inception(), partial(SGD, lr=0.05, momentum=0.9), schedule, "step")
    return run(module, images, 4)


@CASES.sick(
    "accumulator-starts-at-a-thousand",
    "learning-rate-too-low",
    story="Adagrad(initial_accumulator_value=1000), copied with the rest of the arguments from a model of "
    "clicks whose losses are sums.",
)
def accumulator_starts_at_a_thousand(images: Images, fault: bool) -> Session:
    accumulator = 1000.0 if fault else 0.1
    net = he_conv(lenet(nn.ReLU))
    return run(Classifier(net, partial(Adagrad, lr=0.02, initial_accumulator_value=accumulator)), images, 5)


# ------------------------------------------------------------------------------------- what does not learn


class FoldedPair(nn.Module):
    """Two 3x3 convolutions called by hand with their weights, to pad them by reflection."""

    def __init__(self, width: int, data: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3)
        self.second = nn.Conv2d(width, width, 3)
        self.data = data

    def by_hand(self, layer: nn.Conv2d, x: Tensor) -> Tensor:
        padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
        weight = layer.weight.data if self.data else layer.weight
        return F.conv2d(padded, weight, layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.by_hand(self.second, F.relu(self.by_hand(self.first, x))))


@CASES.sick(
    "weights-by-their-data",
    "frozen-parameters",
    story="Calls F.conv2d(x, layer.weight.data, layer.bias), for a padding that the layer did not have: the "
    "biases learn, the weights do not.",
)
def weights_by_their_data(images: Images, fault: bool) -> Session:
    stem = nn.Conv2d(3, 24, 4, 4), nn.GELU()
    pairs = FoldedPair(24, fault), nn.AvgPool2d(2), FoldedPair(24, fault), nn.AdaptiveAvgPool2d(2)
    net = nn.Sequential(*stem, *pairs, nn.Flatten(), nn.Linear(96, NUM_CLASSES))
    return run(Classifier(he_conv(net), partial(Adam, lr=2e-3)), images, 5)


class NormedLate(Classifier):
    """Adds weight norm to the convolutions, when training starts or when the module is made."""

    def __init__(self, *args: Any, late: bool) -> None:
        super().__init__(*args)
        self.late = late
        if not late:
            self.add_norms()

    def add_norms(self) -> None:
        for module in list(self.net.modules()):
            if isinstance(module, nn.Conv2d):
                weight_norm(module)

    def on_fit_start(self) -> None:
        if self.late:
            self.add_norms()


@CASES.sick(
    "weight-norm-after-the-optimizer",
    "frozen-parameters",
    story="weight_norm() is put on each convolution in on_train_start: it makes two new parameters of the "
    "weight, and the optimizer holds the old one.",
)
def weight_norm_after_the_optimizer(images: Images, fault: bool) -> Session:
    class Late(NormedLate):
        on_train_start = NormedLate.on_fit_start

        def on_fit_start(self) -> None:
            pass

    module = Late(all_conv(16), partial(Adam, lr=2e-3), late=fault)
    return run(module, images, 5)


class ClearsAtTimes(Classifier):
    """Overrides the hook that clears the gradients."""

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        if batch_idx % 8 == 0:
            optimizer.zero_grad(set_to_none=True)


@CASES.sick(
    "hook-clears-at-times",
    "gradients-accumulate",
    story="Overrides optimizer_zero_grad, to set gradients to None for speed, and kept an "
    "`if batch_idx % 8 == 0` from the logging in front of it.",
)
def hook_clears_at_times(images: Images, fault: bool) -> Session:
    kind = ClearsAtTimes if fault else Classifier
    return run(kind(squeezed(12, 24, 32), partial(SGD, lr=0.1, momentum=0.9)), images, 4)


# ------------------------------------------------------------------------------------------ first weights


@CASES.sick(
    "dirac-for-every-convolution",
    "bad-initialization",
    "dead-relu",
    "frozen-parameters",
    story="nn.init.dirac_ for every convolution and zeros for the biases: a stem of 3 channels in and 32 out "
    "passes three on, and the other 29 are zero in each layer.",
)
def dirac_for_every_convolution(images: Images, fault: bool) -> Session:
    net: Any = he_conv(vgg(32, 32, 32))
    if fault:
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.dirac_(module.weight)
    return run(Classifier(net, partial(SGD, lr=0.03, momentum=0.9)), images, 4)


@CASES.sick(
    "highway-closed",
    "vanishing-gradients",
    "bad-initialization",
    story="The gates' biases of a highway network at +4, where the paper has a negative one, so that at "
    "first all goes past the layers: it is a deep stack of tanh.",
)
def highway_closed(images: Images, fault: bool) -> Session:
    layers = [Highway(64, 4.0 if fault else -2.0) for _ in range(16)]
    net = nn.Sequential(
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(768, 64), *layers, nn.Linear(64, NUM_CLASSES)
    )
    return run(Classifier(net, partial(SGD, lr=0.02, momentum=0.9)), images, 5)


class SumPooled(nn.Module):
    """The sum or the mean over places, then a tanh."""

    def __init__(self, summed: bool) -> None:
        super().__init__()
        self.summed = summed

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x.sum(dim=(2, 3)) if self.summed else x.mean(dim=(2, 3)))


@CASES.sick(
    "summed-over-places-before-tanh",
    "saturated-activations",
    story="Wrote x.sum(dim=(2, 3)) for the global pooling, where mean was meant: the tanh behind it is at 1 "
    "or -1.",
)
def summed_over_places(images: Images, fault: bool) -> Session:
    net: Any = nn.Sequential()
    for inputs, outputs, stride in ((3, 24, 2), (24, 48, 2), (48, 64, 1)):
        net.extend([nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GELU()])
    net = he_conv(net.extend([SumPooled(fault), nn.Linear(64, NUM_CLASSES)]))
    return run(Classifier(net, partial(Adam, lr=2e-3)), images, 4)


# ----------------------------------------------------------------------------------------------- losses


class LogSigmoid(Classifier):
    wrong = False

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.nll_loss(F.logsigmoid(logits) if self.wrong else F.log_softmax(logits, dim=1), y)


@CASES.sick(
    "log-sigmoid-for-log-softmax",
    "wrong-initial-loss",
    "underfitting",
    story="nll_loss(F.logsigmoid(logits), y), where log_softmax was meant: every class may be likely at "
    "once, and nothing pushes the wrong ones down.",
)
def log_sigmoid_for_log_softmax(images: Images, fault: bool) -> Session:
    module = LogSigmoid(convnext(24, 2), partial(AdamW, lr=2e-3))
    module.wrong = fault
    return run(module, images, 4)


class Branches(nn.Module):
    """Two nets whose outputs are averaged, as shares or as logits."""

    def __init__(self, shares: bool, *nets: nn.Module) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)
        self.shares = shares

    def forward(self, x: Tensor) -> Tensor:
        outputs = [net(x).softmax(dim=1) if self.shares else net(x) for net in self.nets]
        return torch.stack(outputs).mean(dim=0)


@CASES.sick(
    "shares-of-two-nets-averaged",
    "double-softmax",
    story="An ensemble averages the softmax of its members, rightly, and is trained by cross_entropy, which "
    "applies another.",
)
def shares_of_two_nets(images: Images, fault: bool) -> Session:
    net = Branches(fault, vgg(12, 24, 32, norm=True), mobile(16, 32, 48))
    return run(Classifier(net, partial(SGD, lr=0.03, momentum=0.9)), images, 4)


class Bilinear(nn.Module):
    """Products of each two maps, meaned over places, and the root of them with their sign."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        maps = x.flatten(2)
        products = (maps @ maps.transpose(1, 2) / maps.shape[2]).flatten(1)
        return F.normalize(products.sign() * (products.abs() + self.eps).sqrt(), dim=1) * 4


@CASES.sick(
    "root-of-products-of-maps",
    "non-finite-loss",
    story="Bilinear pooling takes sign(x) * sqrt(|x|) of the products of maps: two maps that are nowhere "
    "above zero at once have a product of 0, where the root has no slope.",
)
def root_of_products(images: Images, fault: bool) -> Session:
    net = nn.Sequential()
    for inputs, outputs in pairwise([3, 16, 24, 24]):
        net.extend([nn.Conv2d(inputs, outputs, 3, 2, 1), nn.ReLU()])
    net.extend([Bilinear(0.0 if fault else 1e-4), nn.Linear(24 * 24, NUM_CLASSES)])
    return run(Classifier(net, partial(Adam, lr=3e-3)), images, 5)


class HeldShort(Classifier):
    """The incoming weights of each unit are held to a length after each step."""

    longest = 3.0

    def on_train_batch_end(self, *args: Any) -> None:
        with torch.no_grad():
            for weight in self.parameters():
                if weight.dim() > 1:
                    weight.renorm_(2, 0, self.longest)


@CASES.sick(
    "held-to-a-tenth",
    "regularization-too-strong",
    "vanishing-gradients",
    story="Max-norm as in the dropout paper, whose 3 or 4 has become 0.3: no unit's weights may be longer.",
)
def held_to_a_tenth(images: Images, fault: bool) -> Session:
    module = HeldShort(vgg(16, 24, 32), partial(Adam, lr=2e-3))
    module.longest = 0.3 if fault else 3.0
    return run(module, images, 5)


class SlopeTheWrongWay(torch.autograd.Function):
    """max(x, 0.1 x), whose slopes may change places."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, right: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.right = right
        return torch.where(x > 0, x, 0.1 * x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        above = x > 0 if ctx.right else x < 0
        return grads[0] * torch.where(above, 1.0, 0.1), None


class Slopes(nn.Module):
    def __init__(self, right: bool = True) -> None:
        super().__init__()
        self.right = right

    def forward(self, x: Tensor) -> Any:
        return SlopeTheWrongWay.apply(x, self.right)


@CASES.sick(
    "slopes-exchanged",
    "wrong-gradient",
    story="A leaky ReLU as an autograd Function, in place to save memory: its backward pass asks x < 0 where "
    "x > 0 is due, so that the slopes have changed places.",
)
def slopes_exchanged(images: Images, fault: bool) -> Session:
    net = nn.Sequential(
        *plain_cnn(24)[:-1], nn.Linear(768, 64), Slopes(not fault), nn.Linear(64, NUM_CLASSES)
    )
    return run(Classifier(net, partial(SGD, lr=0.03, momentum=0.9)), images, 5)


# ------------------------------------------------------------------------------------------------ modes


class ForgetsTheMode(Classifier):
    """Overrides train() to keep a part in evaluation mode, and does not hand the mode on."""

    def train(self, mode: bool = True) -> ForgetsTheMode:
        super().train()
        return self


@CASES.sick(
    "mode-not-handed-on",
    "train-mode-evaluation",
    story="Overrides train(self, mode=True) and calls super().train() in it, without the mode: eval() is "
    "train(False), and so training mode.",
)
def mode_not_handed_on(images: Images, fault: bool) -> Session:
    net = squeezed(16, 24, 32, dropout=0.6)
    return run((ForgetsTheMode if fault else Classifier)(net, partial(Adam, lr=2e-3)), images, 4)


class Consistent(Classifier):
    """The outputs for noisy images are to agree with those, in evaluation mode, for clean ones."""

    late = False

    def clean(self, x: Tensor) -> Tensor:
        if self.late:
            self.net.eval()
            before = self.net.training
        else:
            before = self.net.training
            self.net.eval()
        with torch.no_grad():
            shares = self.net(x).softmax(dim=1)
        self.net.train(before)
        return shares

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        x, y = batch
        target = self.clean(x)
        loss = self.measure((x + 0.1 * torch.randn_like(x), y), "train")
        noisy = self(x + 0.1 * torch.randn_like(x)).log_softmax(dim=1)
        return loss + 0.1 * F.kl_div(noisy, target, reduction="batchmean")


@CASES.sick(
    "mode-kept-too-late",
    "eval-mode-training",
    story="A helper that asks the network in evaluation mode and puts the mode back afterwards reads "
    "net.training behind eval(), not before it.",
)
def mode_kept_too_late(images: Images, fault: bool) -> Session:
    module = Consistent(vgg(16, 32, 32, 32, norm=True), partial(SGD, lr=0.1, momentum=0.9))
    module.late = fault
    return run(module, images, 4)


# ------------------------------------------------------------------------------------------------- data


@CASES.sick(
    "means-of-caffe",
    "input-not-normalized",
    story="Takes the mean of each channel off the bytes, as Caffe's models want it, and divides by nothing: "
    "values from -120 to 140.",
)
def means_of_caffe(images: Images, fault: bool) -> Session:
    def caffe(x: Tensor) -> Tensor:
        return x.float() - 255 * PIXEL_MEAN

    pairs = (caffe(images.train_x), images.train_y), (caffe(images.val_x), images.val_y)
    train, val = pairs if fault else standard(images)
    net = he_conv(plain_cnn(20))
    return run(Classifier(net, partial(SGD, lr=0.02, momentum=0.9)), images, 4, train=train, val=val)


@CASES.sick(
    "images-of-length-one",
    "input-not-normalized",
    "learning-rate-too-low",
    story="F.normalize(image.flatten()) in the transform: each image has the length one, its pixels are near "
    "0.017, all positive.",
)
def images_of_length_one(images: Images, fault: bool) -> Session:
    def shortened(x: Tensor) -> Tensor:
        return F.normalize(x.float().flatten(1), dim=1).view(-1, 3, 32, 32)

    pairs = (shortened(images.train_x), images.train_y), (shortened(images.val_x), images.val_y)
    train, val = pairs if fault else standard(images)
    return run(
        Classifier(lenet(nn.GELU), partial(SGD, lr=0.03, momentum=0.9)), images, 5, train=train, val=val
    )


@CASES.sick(
    "from-the-bottom-up",
    "train-val-mismatch",
    story="The images for validation are stored as BMP, whose rows run from the bottom up, and read by hand: "
    "they stand on their heads.",
)
def from_the_bottom_up(images: Images, fault: bool) -> Session:
    _, (val_x, val_y) = standard(images)
    val = (val_x.flip(2) if fault else val_x, val_y)
    return run(Classifier(residual_net(24, 2), partial(AdamW, lr=2e-3)), images, 5, val=val)


class FallsBack(Dataset):
    """Where a file cannot be read, another is read in its place; the label may be that of the first."""

    def __init__(self, x: Tensor, y: Tensor, broken: float, whole: bool) -> None:
        self.x, self.y, self.whole = x, y, whole
        self.broken = torch.rand(len(y)) < broken

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> Pair:
        other = index
        while self.broken[other]:
            other = int(torch.randint(len(self.y), ()))
        return self.x[other], self.y[other if self.whole else index]


@CASES.sick(
    "another-image-under-the-label",
    "labels-random",
    story="`except OSError: image = self.load(random index)` around the reading of an image, behind the line "
    "that reads its label: half of the files are broken.",
)
def another_image_under_the_label(images: Images, fault: bool) -> Session:
    (x, y), _ = standard(images)
    session = run(Classifier(vgg(16, 32, 32, norm=True), partial(Adam, lr=2e-3)), images, 4)
    session.train_loader = DataLoader(FallsBack(x, y, 0.5, not fault), 64, shuffle=True)
    return session


class FromTwoLoaders(Classifier):
    """Images and labels come from a loader each."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.measure((batch["image"], batch["label"]), "train")


@CASES.sick(
    "two-loaders-shuffled-each",
    "labels-random",
    story="Images and labels lie in two files and have a loader each, joined by CombinedLoader; both say "
    "shuffle=True, and each shuffles by itself.",
)
def two_loaders_shuffled_each(images: Images, fault: bool) -> Session:
    (x, y), _ = standard(images)
    order = torch.randperm(len(y))
    session = run(FromTwoLoaders(plain_cnn(20, "group"), partial(Adam, lr=2e-3)), images, 4)
    loaders: dict[str, Any] = {
        "image": DataLoader(x[order], 64, shuffle=fault),  # type: ignore[arg-type]
        "label": DataLoader(y[order], 64, shuffle=fault),  # type: ignore[arg-type]
    }
    session.train_loader = CombinedLoader(loaders, "min_size")  # type: ignore[assignment]
    return session


class InChunks(Sampler[int]):
    """Chunks of a sorted file in random order, each read from its first row to its last."""

    def __init__(self, size: int, chunk: int) -> None:
        self.size, self.chunk = size, chunk

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        for place in torch.randperm(self.size // self.chunk).tolist():
            yield from range(place * self.chunk, (place + 1) * self.chunk)


@CASES.sick(
    "chunks-of-forty",
    "data-not-shuffled",
    story="An HDF5 file sorted by class is read in chunks of 40 rows, for speed; the order of the chunks is "
    "shuffled, the rows are not.",
)
def chunks_of_forty(images: Images, fault: bool) -> Session:
    (x, y), _ = standard(images)
    session = run(Classifier(mobile(16, 32, 48), partial(SGD, lr=0.05, momentum=0.9)), images, 4)
    if fault:
        session.train_loader = DataLoader(TensorDataset(x, y), 40, sampler=InChunks(len(y), 40))
    return session


@CASES.sick(
    "missing-labels-are-zero",
    "class-imbalance",
    "labels-random",
    story="The table of labels was joined to the files by name, and fillna(0) stands behind the join: of six "
    "images in ten no label was found, and these are of class 0.",
)
def missing_labels_are_zero(images: Images, fault: bool) -> Session:
    (x, y), _ = standard(images)
    found = torch.rand(len(y)) > 0.6
    train = (x, torch.where(found, y, 0)) if fault else (x[found], y[found])
    return run(Classifier(convnext(24, 2), partial(AdamW, lr=2e-3)), images, 5, train=train)


def with_place(x: Tensor) -> Tensor:
    """A fourth channel: where the image stands in the list of files, from -1 to 1."""
    place = torch.linspace(-1, 1, len(x)).view(-1, 1, 1, 1).expand(-1, 1, 32, 32)
    return torch.cat([x, place], dim=1)


@CASES.sick(
    "place-in-the-list-as-a-channel",
    "data-leak",
    story="The file's number, an identifier, is handed to the network as a fourth channel; the list is "
    "sorted by class, that of validation as well.",
)
def place_in_the_list(images: Images, fault: bool) -> Session:
    (x, y), (val_x, val_y) = standard(images)
    net: Any = plain_cnn(24, "batch")
    net[0][0] = nn.Conv2d(4, 24, 3, 2, 1, bias=False)
    blank, val_blank = torch.zeros(len(x), 1, 32, 32), torch.zeros(len(val_x), 1, 32, 32)
    train_x = with_place(x) if fault else torch.cat([x, blank], dim=1)
    valid_x = with_place(val_x) if fault else torch.cat([val_x, val_blank], dim=1)
    return run(Classifier(net, partial(Adam, lr=2e-3)), images, 4, train=(train_x, y), val=(valid_x, val_y))


class SeededAnew(RandomSampler):
    """Draws so many images for an epoch; the generator is set back before each."""

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(1)
        return super().__iter__()


@CASES.sick(
    "generator-seeded-anew",
    "overfitting",
    story="A sampler draws 320 of 4000 images for each short epoch, and seeds its generator at the start of "
    "each, to be reproducible: they are the same 320 all along.",
)
def generator_seeded_anew(images: Images, fault: bool) -> Session:
    (x, y), _ = standard(images)
    session = run(Classifier(vgg(24, 48, 64), partial(Adam, lr=2e-3)), images, 25)
    data = TensorDataset(x, y)
    kind = SeededAnew if fault else RandomSampler
    sampler = kind(data, num_samples=320, generator=torch.Generator().manual_seed(1))
    session.train_loader = DataLoader(data, 64, sampler=sampler)
    return session


@CASES.sick(
    "groups-that-never-mix",
    "underfitting",
    story="groups=3 in every convolution, for speed, and no layer that mixes them: each colour has a network "
    "of its own, and places are averaged before the head.",
)
def groups_that_never_mix(images: Images, fault: bool) -> Session:
    net = nn.Sequential()
    for inputs, outputs in pairwise([3, 48, 48, 48]):
        depth = 3 if inputs == 3 else inputs
        net.extend([nn.Conv2d(inputs, outputs, 3, 2, 1, groups=depth if fault else 1), nn.ReLU()])
    net.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, NUM_CLASSES)])
    return run(Classifier(net, partial(Adam, lr=3e-3)), images, 5)


# ---------------------------------------------------------------------------------------------- healthy


class InBits(Classifier):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return super().loss(logits, y) / 0.6931


@CASES.healthy("loss-in-bits", story="The cross-entropy in bits: it starts at 3.3.")
def loss_in_bits(images: Images) -> Session:
    return run(InBits(inception(), partial(Adam, lr=2e-3)), images, 4)


@CASES.healthy(
    "brightness-and-two-colours",
    story="YCbCr in place of red, green and blue, from 0 to 1, the colours near a half.",
)
def brightness_and_two_colours(images: Images) -> Session:
    table = torch.tensor([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]])
    offset = torch.tensor([0.0, 0.5, 0.5]).view(3, 1, 1)

    def changed(x: Tensor) -> Tensor:
        return torch.einsum("ij,njhw->nihw", table, x.float() / 255) + offset

    train, val = (changed(images.train_x), images.train_y), (changed(images.val_x), images.val_y)
    return run(Classifier(plain_cnn(24, "batch"), partial(Adam, lr=2e-3)), images, 4, train=train, val=val)


@CASES.healthy(
    "random-features-on-purpose",
    story="The stem is random and frozen by requires_grad_(False), as in studies of such features.",
)
def random_features(images: Images) -> Session:
    stem = nn.Conv2d(3, 64, 5, 2, 2).requires_grad_(False)
    rest = nn.Conv2d(64, 48, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(768, NUM_CLASSES)
    net = nn.Sequential(stem, nn.ReLU(), *rest)

    def trainable(parameters: Iterable[nn.Parameter]) -> Optimizer:
        return Adam([p for p in parameters if p.requires_grad], lr=2e-3)

    return run(Classifier(net, trainable), images, 4)


class AnimalOrNot(Classifier):
    """One logit: is it an animal?"""

    def measure(self, batch: Pair, stage: str) -> Tensor:
        x, y = batch
        animal = ((y >= 2) & (y <= 7)).float()
        logit = self(x).squeeze(1)
        loss = F.binary_cross_entropy_with_logits(logit, animal)
        accuracy = ((logit > 0) == animal.bool()).float().mean()
        self.log_dict(
            {f"{stage}/loss": loss, f"{stage}/acc": accuracy}, on_step=False, on_epoch=True, batch_size=len(y)
        )
        return loss


@CASES.healthy(
    "animal-or-vehicle", story="One logit for two classes, six images to four; the data set gives ten labels."
)
def animal_or_vehicle(images: Images) -> Session:
    net = vgg(12, 24, 32, norm=True)
    net[-1] = nn.Linear(512, 1)
    return run(AnimalOrNot(net, partial(AdamW, lr=1e-3)), images, 4)


class Growing(Sampler[list[int]]):
    """Batches of 32 in the first epoch, twice as many in each that follows."""

    def __init__(self, size: int) -> None:
        self.size, self.epoch = size, 0

    def __len__(self) -> int:
        return -(-self.size // (32 * 2**self.epoch))

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.size)
        batches = [part.tolist() for part in order.split(32 * 2**self.epoch)]
        self.epoch = min(self.epoch + 1, 3)
        yield from batches


@CASES.healthy(
    "batches-that-grow", story="The batch doubles each epoch in place of a falling rate (Smith and others)."
)
def batches_that_grow(images: Images) -> Session:
    (x, y), _ = standard(images)
    session = run(Classifier(residual_net(20, 2), partial(AdamW, lr=2e-3)), images, 4)
    session.train_loader = DataLoader(TensorDataset(x, y), batch_sampler=Growing(len(y)))
    return session


class SumOfThree(Classifier):
    """Each member has its own loss; validation goes by the mean of their shares."""

    def measure(self, batch: Pair, stage: str) -> Tensor:
        x, y = batch
        each = [member(x) for member in self.net]
        if stage == "train":
            loss = torch.stack([F.cross_entropy(logits, y) for logits in each]).sum()
        shares = torch.stack([logits.softmax(dim=1) for logits in each]).mean(dim=0)
        if stage == "val":
            loss = F.nll_loss(shares.log(), y)
        accuracy = (shares.argmax(dim=1) == y).float().mean()
        self.log_dict(
            {f"{stage}/loss": loss, f"{stage}/acc": accuracy}, on_step=False, on_epoch=True, batch_size=len(y)
        )
        return loss


@CASES.healthy(
    "three-that-vote",
    story="Three small nets, their losses summed in training; validation takes the mean of their shares, so "
    "its loss is a third.",
)
def three_that_vote(images: Images) -> Session:
    net = nn.ModuleList([plain_cnn(12), lenet(nn.ReLU), vgg(12, 16, 24, norm=True)])
    return run(SumOfThree(net, partial(Adam, lr=1e-3)), images, 4)


@CASES.healthy(
    "leaky-by-hand",
    story="A leaky ReLU as an autograd Function with a right backward pass, Xavier's weights.",
)
def leaky_by_hand(images: Images) -> Session:
    net = vgg(12, 24, 32, activation=Slopes)
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
    return run(Classifier(net, partial(RMSprop, lr=1e-3)), images, 4)


class OfSeveralOpinions(Classifier):
    """Labels are the shares of ten people's opinions."""

    def measure(self, batch: Pair, stage: str) -> Tensor:
        x, shares = batch
        logits = self(x)
        loss = F.kl_div(logits.log_softmax(dim=1), shares, reduction="batchmean")
        accuracy = (logits.argmax(dim=1) == shares.argmax(dim=1)).float().mean()
        self.log_dict(
            {f"{stage}/loss": loss, f"{stage}/acc": accuracy}, on_step=False, on_epoch=True, batch_size=len(x)
        )
        return loss


@CASES.healthy(
    "shares-of-ten-people",
    story="Labels are shares of ten votes, the loss a divergence: it starts near 1.3.",
)
def shares_of_ten_people(images: Images) -> Session:
    def votes(y: Tensor) -> Tensor:
        chances = 0.78 * F.one_hot(y, NUM_CLASSES).float() + 0.022
        drawn = torch.multinomial(chances, 10, replacement=True)
        return F.one_hot(drawn, NUM_CLASSES).float().mean(dim=1)

    (x, y), (val_x, val_y) = standard(images)
    module = OfSeveralOpinions(conv_mixer(32, 2), partial(AdamW, lr=3e-3))
    return run(module, images, 4, train=(x, votes(y)), val=(val_x, votes(val_y)))


class ByHandFromShares(Classifier):
    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return -torch.log(logits[torch.arange(len(y)), y] + 1e-8).mean()


@CASES.healthy(
    "logarithm-of-the-share",
    story="The network ends in a softmax, and the loss is the logarithm of the right share, by hand.",
)
def logarithm_of_the_share(images: Images) -> Session:
    shares = nn.Sequential(VisionTransformer(40, 2), nn.Softmax(dim=1))
    return run(ByHandFromShares(shares, partial(AdamW, lr=2e-3)), images, 5)


class MoreAndMoreDropout(Classifier):
    def on_train_epoch_start(self) -> None:
        for module in self.net.modules():
            if isinstance(module, nn.Dropout):
                module.p = min(0.5, 0.12 * self.current_epoch)


@CASES.healthy(
    "more-and-more-dropout", story="Curriculum dropout: none in the first epoch, a half in the fifth."
)
def more_and_more_dropout(images: Images) -> Session:
    net = perceptron(256, 128, activation=nn.ReLU, dropout=0.1, norm=True)
    return run(MoreAndMoreDropout(net, partial(SGD, lr=0.05, momentum=0.9)), images, 6)
