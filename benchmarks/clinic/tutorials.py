"""Programs that everybody copies, retold small with their own settings and habits, and mutants of them.

The programs are those of the official examples and tutorials of PyTorch and Lightning, of d2l.ai, fast.ai and
keras.io, of courses and much-copied repositories: what looks odd in them is what their authors recommend. The
faults are the classical mutation operators (DeepCrime, DeepMutation, muPyTorch), one in each program. Written
before any rule was looked at or changed for them.

Validation accuracy, where there is one, and loss after the last epoch, one seed; the loss of the pole on a
cart is how many steps it stood, with a minus:

                                             sick         twin or healthy
                                          acc    loss        acc    loss
    digits-at-a-rate-of-one                                   0.98    0.08
    labels-of-other-digits                 0.93    1.21       0.98    0.08
    settings-of-imagenet                                      0.31    1.80
    rate-of-ten-for-a-resnet               0.08    3.09       0.31    1.80
    words-at-a-rate-of-twenty                                 0.33    1.86
    adam-at-the-rate-of-twenty             0.12  208.61       0.33    1.86
    bound-summed-over-the-batch                                      19715
    digits-drawn-and-judged                                           0.17
    judge-in-both-optimizers                       0.80               0.17
    images-twice-as-fine                                              0.00
    orthogonal-with-a-gain-of-twelve              80344               0.00
    same-digit-by-its-cosine                                  0.98    0.06
    different-is-zero                      0.50    0.35       0.98    0.06
    pole-on-a-cart                                                  -96.80
    rate-of-thirty-millionths                    -19.00             -96.80
    layers-that-learn-by-themselves                           0.66
    wrong-labels-that-are-right            0.09               0.66
    papers-by-attention                                       0.91    1.42
    nearly-all-attention-dropped           0.14    1.95       0.91    1.42
    polynomial-without-an-optimizer                                   0.03
    polynomial-without-clearing                   45.06               0.03
    style-by-ten-billion                                           4122261
    sines-by-lbfgs                                                    0.00
    letters-as-nano-gpt-does                                  0.41    1.85
    decay-of-thirty-for-matrices           0.28    2.75       0.41    1.85
    names-by-their-last-letters                               0.52    1.49
    window-that-never-moves                0.20    2.91       0.52    1.49
    copied-by-the-annotated-transformer                       0.98    0.07
    hundredths-and-two-dropouts                               0.90    0.39
    weights-of-one                         0.09    2.31       0.90    0.39
    three-or-seven                                            1.00    0.00
    four-sevens-among-threes               0.61    0.39       1.00    0.00
    series-as-the-archive-has-them         0.50    0.70       0.73    0.51
    vgg-at-a-tenth                                            0.35    1.75
    vgg-without-its-norms                  0.26    2.06       0.35    1.75
    noise-of-three-on-training-images      0.17    2.08       0.35    1.75
    forty-reviews                          0.46    0.79       0.77    0.52
    critic-cut-to-a-hundredth                                         0.27
    one-epoch-of-thirty                    0.48    1.92       0.93    0.21
    code-cut-from-its-decoder                      0.04               0.02
    told-what-it-is-to-say                 0.13    8.21       0.83    0.82
    headlines-at-a-rate-of-five                               0.88    0.36
    offsets-never-summed                   0.41    1.32       0.88    0.36
    an-image-by-sines                                                 0.01
    rectifiers-in-place-of-sines                   0.04               0.01
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from clinic import NUM_CLASSES, CaseBook, Images, Session
from healthy import Task, correct, fitting, halves
from lightning.pytorch.callbacks import Callback, EarlyStopping
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adadelta, Adam, AdamW, RMSprop
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, ReduceLROnPlateau, StepLR
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from torchvision.transforms import v2
from wild import Pair, plain_cnn, pretrained

CASES = CaseBook()


class Program(Task):
    """A task whose optimizer may have a schedule, of each epoch or each step."""

    schedule: Callable[[Any], Any] | None = None
    interval = "epoch"
    monitor = "val/loss"

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())
        if self.schedule is None:
            return optimizer
        plan = {"scheduler": self.schedule(optimizer), "interval": self.interval, "monitor": self.monitor}
        return {"optimizer": optimizer, "lr_scheduler": plan}


class Classes(Program):
    criterion: Callable[[Tensor, Tensor], Tensor] = staticmethod(F.cross_entropy)

    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        outputs = self(x)
        return self.criterion(outputs, y), {"acc": correct(outputs, y)}


class Transformed(Dataset):
    """Images and their classes, each image through `transform` whenever it is asked for."""

    def __init__(self, x: Tensor, y: Tensor, transform: Callable[[Tensor], Tensor]) -> None:
        self.x, self.y, self.transform = x, y, transform

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, place: int) -> Pair:
        return self.transform(self.x[place]), self.y[place]


def scanned_digits(size: int = 16) -> Pair:
    """Grey images in 0..1 of handwritten digits and which they are, in random order."""
    read = load_digits()
    x = torch.tensor(read.images, dtype=torch.float).unsqueeze(1) / 16
    y = torch.tensor(read.target)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(51))
    return F.interpolate(x, size=(size, size), mode="bilinear")[order], y[order]


# --------------------------------------------------------------------------------- pytorch/examples


class DigitNet(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 32, 3),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.25),
            nn.Flatten(),
            nn.Linear(64 * 36, 128),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(128, 10),
            nn.LogSoftmax(dim=1),
        )


class LogShares(Classes):
    criterion = staticmethod(F.nll_loss)


def digits_by_adadelta(fault: bool = False) -> Session:
    x, y = scanned_digits()
    train, val = halves((x - 0.1307) / 0.3081, y)
    if fault:
        wrong = torch.arange(len(train)) % 5 < 3
        known = train.tensors[1]
        train = TensorDataset(train.tensors[0], torch.where(wrong, known[torch.randperm(len(known))], known))
    module = LogShares(DigitNet(), partial(Adadelta, lr=1.0))
    module.schedule = partial(StepLR, step_size=1, gamma=0.7)
    return fitting(module, train, val, epochs=6)


@CASES.healthy(
    "digits-at-a-rate-of-one",
    story="The basic MNIST example: Adadelta at 1.0, times 0.7 each epoch, log-softmax and NLL, "
    "two dropouts, the constants of MNIST on other digits.",
)
def digits_at_a_rate_of_one(images: Images) -> Session:
    return digits_by_adadelta()


@CASES.sick(
    "labels-of-other-digits",
    "labels-random",
    story="Changed labels: three in five digits of the basic MNIST example have those of others.",
)
def labels_of_other_digits(images: Images, fault: bool) -> Session:
    return digits_by_adadelta(fault)


class BasicBlock(nn.Module):
    """As in torchvision: the last norm of the branch starts at zero."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            self.shortcut.extend([nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)])
        for module in self.branch:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        last: Any = self.branch[-1]
        nn.init.zeros_(last.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.branch(x) + self.shortcut(x))


def small_resnet(classes: int = NUM_CLASSES) -> nn.Sequential:
    stem = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    blocks = [BasicBlock(16, 16), BasicBlock(16, 32, 2), BasicBlock(32, 64, 2)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


OF_IMAGENET = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def imagenet_script(images: Images, rate: float = 0.1) -> Session:
    cropped = v2.Compose([v2.RandomResizedCrop(32, antialias=True), v2.RandomHorizontalFlip(), OF_IMAGENET])
    module = Classes(small_resnet(), partial(SGD, lr=rate, momentum=0.9, weight_decay=1e-4))
    module.schedule = partial(StepLR, step_size=30, gamma=0.1)
    train = Transformed(images.train_x[::2].float() / 255, images.train_y[::2], cropped)
    val = TensorDataset(OF_IMAGENET(images.val_x[::2].float() / 255), images.val_y[::2])
    return fitting(module, train, val, epochs=5)


@CASES.healthy(
    "settings-of-imagenet",
    story="The ImageNet script: SGD at 0.1, RandomResizedCrop, norms that start at zero, "
    "ImageNet's constants on CIFAR-10, a StepLR whose step never comes.",
)
def settings_of_imagenet(images: Images) -> Session:
    return imagenet_script(images)


@CASES.sick(
    "rate-of-ten-for-a-resnet",
    "learning-rate-too-high",
    story="Changed the learning rate of the ImageNet script from 0.1 to 10.",
)
def rate_of_ten_for_a_resnet(images: Images, fault: bool) -> Session:
    return imagenet_script(images, 10.0 if fault else 0.1)


def words(count: int, seed: int) -> tuple[Tensor, int]:
    """A stream of words from random sentences, and how many words there are."""
    draw = torch.Generator().manual_seed(seed)
    kinds = [(0, 3), (3, 30), (30, 50), (0, 3), (50, 80), (80, 81)]
    follows = torch.Generator().manual_seed(52)
    partners = torch.stack([torch.randperm(30, generator=follows)[:3] for _ in range(20)]) + 50
    stream: list[int] = []
    while len(stream) < count:
        verb = 30
        for low, high in kinds:
            word = int(torch.randint(low, high, (1,), generator=draw))
            if low == 30:
                verb = word
            if low == 50:
                word = int(partners[verb - 30, int(torch.randint(3, (1,), generator=draw))])
            stream.append(word)
    return torch.tensor(stream[:count]), 81


def side_by_side(stream: Tensor, columns: int, length: int = 35) -> list[Pair]:
    rows = stream[: len(stream) // columns * columns].view(columns, -1).t()
    starts = range(0, len(rows) - 1, length)
    return [(rows[i : i + length][: len(rows) - 1 - i], rows[i + 1 : i + 1 + length]) for i in starts]


class WordNet(nn.Module):
    def __init__(self, vocabulary: int, width: int = 64) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.2)
        self.encoder = nn.Embedding(vocabulary, width)
        self.recur = nn.LSTM(width, width, 2, dropout=0.2)
        self.decoder = nn.Linear(width, vocabulary)
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)

    def forward(self, x: Tensor, hidden: Any = None) -> tuple[Tensor, Any]:
        output, hidden = self.recur(self.drop(self.encoder(x)), hidden)
        return self.decoder(self.drop(output)).flatten(0, 1), hidden


class CarriedOn(Program):
    """Each batch goes on where the one before ended: the state is kept, detached, from batch to batch."""

    hidden: Any = None

    def on_train_epoch_start(self) -> None:
        self.hidden = None

    def on_validation_epoch_start(self) -> None:
        self.hidden = None

    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        logits, hidden = self(x, self.hidden)
        self.hidden = tuple(state.detach() for state in hidden)
        return F.cross_entropy(logits, y.flatten()), {"acc": correct(logits, y.flatten())}


PLAIN_AT_TWENTY = partial(SGD, lr=20.0)


def word_model(optimizer: Any = PLAIN_AT_TWENTY) -> Session:
    (train, vocabulary), (val, _) = words(20000, 1), words(3000, 2)
    module = CarriedOn(WordNet(vocabulary), optimizer)
    module.schedule = partial(ReduceLROnPlateau, factor=0.25, patience=0)
    return Session(
        module,
        DataLoader(side_by_side(train, 20), batch_size=None),  # type: ignore[arg-type]
        DataLoader(side_by_side(val, 10), batch_size=None),  # type: ignore[arg-type]
        {"max_epochs": 8, "gradient_clip_val": 0.25},
    )


@CASES.healthy(
    "words-at-a-rate-of-twenty",
    story="The word language model: SGD at 20, clipped at 0.25, a quarter of it when validation stands "
    "still; the LSTM's state is carried from batch to batch.",
)
def words_at_a_rate_of_twenty(images: Images) -> Session:
    return word_model()


@CASES.sick(
    "adam-at-the-rate-of-twenty",
    "learning-rate-too-high",
    story="Changed the optimizer of the word language model to Adam and left its rate of 20.",
)
def adam_at_the_rate_of_twenty(images: Images, fault: bool) -> Session:
    return word_model(partial(Adam, lr=20.0) if fault else PLAIN_AT_TWENTY)


class SummedBound(Program):
    """Returns the bound summed over pixels and batch, as the example does, and prints it per image."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), partial(Adam, lr=1e-3))
        self.fc1, self.fc21, self.fc22 = nn.Linear(256, 400), nn.Linear(400, 20), nn.Linear(400, 20)
        self.fc3, self.fc4 = nn.Linear(20, 400), nn.Linear(400, 256)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = F.relu(self.fc1(x.flatten(1)))
        mean, log_var = self.fc21(hidden), self.fc22(hidden)
        latent = mean + torch.randn_like(mean) * torch.exp(0.5 * log_var)
        return torch.sigmoid(self.fc4(F.relu(self.fc3(latent)))), mean, log_var

    def loss(self, batch: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        (x,) = batch
        made, mean, log_var = self(x)
        pixels = F.binary_cross_entropy(made, x.flatten(1), reduction="sum")
        divergence = -0.5 * torch.sum(1 + log_var - mean.pow(2) - log_var.exp())
        return pixels + divergence, {"per_image": (pixels + divergence) / len(x)}


@CASES.healthy(
    "bound-summed-over-the-batch",
    story="The VAE example: binary cross-entropy and divergence, both summed over the batch, Adam at 0.001.",
)
def bound_summed_over_the_batch(images: Images) -> Session:
    return fitting(SummedBound(), *halves(scanned_digits()[0]), epochs=12, batch=128)


def as_dcgan(module: nn.Module) -> None:
    weight: Any = getattr(module, "weight", None)
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(weight, 0.0, 0.02)
    if isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def drawing_net(latent: int = 32, width: int = 16) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(latent, 4 * width, 4, 1, 0, bias=False),
        nn.BatchNorm2d(4 * width),
        nn.ReLU(True),
        nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.ReLU(True),
        nn.ConvTranspose2d(2 * width, 1, 4, 2, 1, bias=False),
        nn.Tanh(),
    )


def judging_net(width: int = 16) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, width, 4, 2, 1, bias=False),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),
        nn.BatchNorm2d(2 * width),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(2 * width, 1, 4, 1, 0, bias=False),
    )


class DrawnAndJudged(Program):
    """Backward on real and on drawn images apart, one step of the judge, then one of the other network."""

    mistaken = False

    def __init__(self) -> None:
        super().__init__(nn.Identity())
        self.automatic_optimization = False
        self.generator = drawing_net().apply(as_dcgan)
        self.discriminator = judging_net().append(nn.Sigmoid()).apply(as_dcgan)

    def forward(self, noise: Tensor) -> Tensor:
        return self.generator(noise)

    def judged(self, x: Tensor, label: float) -> Tensor:
        shares = self.discriminator(x).flatten()
        return F.binary_cross_entropy(shares, torch.full_like(shares, label))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        (real,) = batch
        optimizers: Any = self.optimizers()
        of_judge, of_generator = optimizers
        self.discriminator.zero_grad()
        on_real = self.judged(real, 1.0)
        self.manual_backward(on_real)
        made = self(torch.randn(len(real), 32, 1, 1))
        on_made = self.judged(made.detach(), 0.0)
        self.manual_backward(on_made)
        of_judge.step()
        self.generator.zero_grad()
        believed = self.judged(made, 1.0)
        self.manual_backward(believed)
        of_generator.step()
        self.note("train", {"errD": on_real + on_made, "errG": believed})

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        (real,) = batch
        made = self(torch.randn(len(real), 32, 1, 1))
        apart = (made.mean(0) - real.mean(0)).abs().mean() + (made.std(0) - real.std(0)).abs().mean()
        self.note("val", {"loss": apart})

    def configure_optimizers(self) -> Any:
        drawing = self.discriminator if self.mistaken else self.generator
        rate: Any = {"lr": 2e-4, "betas": (0.5, 0.999)}
        return [Adam(self.discriminator.parameters(), **rate), Adam(drawing.parameters(), **rate)]


def dcgan(mistaken: bool = False) -> Session:
    module = DrawnAndJudged()
    module.mistaken = mistaken
    return fitting(module, *halves(2 * scanned_digits()[0] - 1), epochs=15)


@CASES.healthy(
    "digits-drawn-and-judged",
    story="The DCGAN example: normal weights of 0.02, Adam at 2e-4 with betas of 0.5 and 0.999, BCELoss.",
)
def digits_drawn_and_judged(images: Images) -> Session:
    return dcgan()


@CASES.sick(
    "judge-in-both-optimizers",
    "frozen-parameters",
    story="Changed an optimizer's argument: that of the generator got the parameters of the discriminator.",
)
def judge_in_both_optimizers(images: Images, fault: bool) -> Session:
    return dcgan(mistaken=fault)


class Finer(Program):
    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        error = F.mse_loss(self(x), y)
        return error, {"psnr": 10 * torch.log10(1 / error.detach())}


def super_resolution(images: Images, gain: float = 1.0) -> Session:
    net = nn.Sequential(nn.Conv2d(1, 32, 5, 1, 2), nn.ReLU(), nn.Conv2d(32, 32, 3, 1, 1), nn.ReLU())
    net.extend([nn.Conv2d(32, 16, 3, 1, 1), nn.ReLU(), nn.Conv2d(16, 4, 3, 1, 1), nn.PixelShuffle(2)])
    for place in (0, 2, 4):
        weight: Any = net[place].weight
        nn.init.orthogonal_(weight, gain * nn.init.calculate_gain("relu"))
    last: Any = net[6].weight
    nn.init.orthogonal_(last, gain)
    luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)

    def both(x: Tensor) -> TensorDataset:
        fine = (x.float() / 255 * luma).sum(1, keepdim=True)
        return TensorDataset(F.interpolate(fine, scale_factor=0.5, mode="bicubic", antialias=True), fine)

    module = Finer(net, partial(Adam, lr=1e-3))
    return fitting(module, both(images.train_x[::8]), both(images.val_x[::5]), epochs=4, batch=4)


@CASES.healthy(
    "images-twice-as-fine",
    story="The super-resolution example: sub-pixel convolution, orthogonal weights, batches of 4.",
)
def images_twice_as_fine(images: Images) -> Session:
    return super_resolution(images)


@CASES.sick(
    "orthogonal-with-a-gain-of-twelve",
    "bad-initialization",
    "exploding-gradients",
    "wrong-initial-loss",
    story="Changed the weights' initialization of the super-resolution example: a gain of 12 in each layer.",
)
def orthogonal_with_a_gain_of_twelve(images: Images, fault: bool) -> Session:
    return super_resolution(images, 12.0 if fault else 1.0)


class SameDigit(Dataset):
    """Two digits, the same in every second pair, and 1 for the same or `other` for different ones."""

    def __init__(self, x: Tensor, y: Tensor, other: float = -1.0) -> None:
        self.x, self.y, self.other = x, y, other
        self.places = [torch.where(y == digit)[0] for digit in range(10)]

    def __len__(self) -> int:
        return len(self.y)

    def drawn(self, digit: int) -> Tensor:
        places = self.places[digit]
        return self.x[places[torch.randint(len(places), ())]]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        digit = int(torch.randint(10, ()))
        same = index % 2 == 0
        second = digit if same else (digit + int(torch.randint(1, 10, ()))) % 10
        return self.drawn(digit), self.drawn(second), torch.tensor(1.0 if same else self.other)


class Cosines(Program):
    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        first, second, target = batch
        left, right = self(first), self(second)
        alike = F.cosine_similarity(left, right) > 0.5
        loss = F.cosine_embedding_loss(left, right, target, margin=0.3)
        return loss, {"acc": (alike == (target > 0)).float().mean()}


def siamese(other: float = -1.0) -> Session:
    x, y = scanned_digits()
    net = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1))
    net.extend([nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(512, 128), nn.ReLU()])
    net.append(nn.Linear(128, 32))
    for module in net:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.constant_(module.bias, 0.01)
    program = Cosines(net, partial(Adadelta, lr=1.0))
    program.schedule = partial(StepLR, step_size=1, gamma=0.7)
    train, val = SameDigit(x[:1400], y[:1400], other), SameDigit(x[1400:], y[1400:])
    return fitting(program, train, val, epochs=8)


@CASES.healthy(
    "same-digit-by-its-cosine",
    story="The siamese example with CosineEmbeddingLoss: Adadelta at 1.0, times 0.7 each epoch; pairs are "
    "drawn anew whenever they are asked for.",
)
def same_digit_by_its_cosine(images: Images) -> Session:
    return siamese()


@CASES.sick(
    "different-is-zero",
    "labels-random",
    "underfitting",
    "class-imbalance",
    story="Changed the loss to CosineEmbeddingLoss and left the labels 0 and 1: it knows 1 and -1.",
)
def different_is_zero(images: Images, fault: bool) -> Session:
    return siamese(0.0 if fault else -1.0)


class Cart:
    """A pole on a cart, pushed to the left or to the right, as in the classical task."""

    def __init__(self) -> None:
        self.x, self.speed, self.angle, self.turn = (torch.rand(4) * 0.1 - 0.05).tolist()

    def seen(self) -> Tensor:
        return torch.tensor([self.x, self.speed, self.angle, self.turn])

    def push(self, action: int) -> bool:
        """Whether the pole still stands."""
        sine, cosine = math.sin(self.angle), math.cos(self.angle)
        force = ((10.0 if action else -10.0) + 0.05 * self.turn**2 * sine) / 1.1
        turned = (9.8 * sine - cosine * force) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
        moved = force - 0.05 * turned * cosine / 1.1
        self.x += 0.02 * self.speed
        self.speed += 0.02 * moved
        self.angle += 0.02 * self.turn
        self.turn += 0.02 * turned
        return abs(self.x) < 2.4 and abs(self.angle) < 0.2095


class ActorCritic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.affine = nn.Linear(4, 128)
        self.action, self.value = nn.Linear(128, 2), nn.Linear(128, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.affine(x))
        return F.softmax(self.action(x), dim=-1), self.value(x)


class Episodes(Program):
    """One episode a step; the data loader only counts them."""

    def play(self) -> tuple[list[Tensor], list[Tensor]]:
        cart = Cart()
        logs: list[Tensor] = []
        values: list[Tensor] = []
        stands = True
        while stands and len(logs) < 150:
            shares, value = self(cart.seen())
            drawn = torch.distributions.Categorical(shares)
            action = drawn.sample()
            logs.append(drawn.log_prob(action))
            values.append(value)
            stands = cart.push(int(action))
        return logs, values

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logs, values = self.play()
        gained = 0.0
        returns: list[float] = []
        for _ in logs:
            gained = 1.0 + 0.99 * gained
            returns.insert(0, gained)
        scaled = torch.tensor(returns)
        scaled = (scaled - scaled.mean()) / (scaled.std() + 1e-6)
        advantage = scaled - torch.cat(values).detach()
        loss = -(torch.stack(logs) * advantage).sum() + F.smooth_l1_loss(
            torch.cat(values), scaled, reduction="sum"
        )
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=1)
        self.log("episode", float(len(logs)), on_step=False, on_epoch=True, batch_size=1)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/loss", -float(len(self.play()[0])), batch_size=1)


def cart_pole(rate: float = 3e-2) -> Session:
    count, held = TensorDataset(torch.zeros(30)), TensorDataset(torch.zeros(5))
    session = fitting(Episodes(ActorCritic(), partial(Adam, lr=rate)), count, held, epochs=8, batch=1)
    session.val_loader = DataLoader(held, 1)
    return session


@CASES.healthy(
    "pole-on-a-cart",
    story="The actor-critic example: an episode a step, Adam at 0.03, losses summed over the episode, "
    "returns standardized; the data loader only counts.",
)
def pole_on_a_cart(images: Images) -> Session:
    return cart_pole()


@CASES.sick(
    "rate-of-thirty-millionths",
    "learning-rate-too-low",
    story="Changed the learning rate of the actor-critic example from 0.03 to 0.00003.",
)
def rate_of_thirty_millionths(images: Images, fault: bool) -> Session:
    return cart_pole(3e-5 if fault else 3e-2)


class LocalLayer(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x / (x.norm(2, 1, keepdim=True) + 1e-4)))


class ForwardForward(Program):
    """Each layer learns by itself to tell right from wrong labels, which stand in the first ten pixels."""

    mistaken = False

    def __init__(self) -> None:
        super().__init__(nn.ModuleList([LocalLayer(256, 250), LocalLayer(250, 250)]))
        self.automatic_optimization = False

    def written(self, x: Tensor, y: Tensor) -> Tensor:
        x = x.clone()
        x[:, :10] = 0
        x[torch.arange(len(x)), y] = x.max()
        return x

    def training_step(self, batch: Pair, batch_idx: int) -> None:
        x, y = batch
        other = y if self.mistaken else (y + torch.randint(1, 10, y.shape)) % 10
        right, wrong = self.written(x, y), self.written(x, other)
        optimizers: Any = self.optimizers()
        for place, (layer, optimizer) in enumerate(zip(self.net, optimizers, strict=True)):
            good, bad = layer(right).pow(2).mean(1), layer(wrong).pow(2).mean(1)
            loss = torch.log1p(torch.exp(torch.cat([2.0 - good, bad - 2.0]))).mean()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            right, wrong = layer(right).detach(), layer(wrong).detach()
            self.note("train", {f"loss_{place}": loss})

    def validation_step(self, batch: Pair, batch_idx: int) -> None:
        x, y = batch
        goodness = []
        for label in range(10):
            hidden = self.written(x, torch.full_like(y, label))
            total = torch.zeros(len(x))
            for layer in self.net:
                hidden = layer(hidden)
                total = total + hidden.pow(2).mean(1)
            goodness.append(total)
        self.note("val", {"acc": correct(torch.stack(goodness, 1), y)})

    def configure_optimizers(self) -> Any:
        return [Adam(layer.parameters(), lr=0.03) for layer in self.net]


def forward_forward(mistaken: bool = False) -> Session:
    x, y = scanned_digits()
    train, val = halves(((x - 0.1307) / 0.3081).flatten(1), y)
    module = ForwardForward()
    module.mistaken = mistaken
    whole: Any = [train.tensors] * 30
    return Session(module, DataLoader(whole, batch_size=None), DataLoader(val, 400), {"max_epochs": 6})


@CASES.healthy(
    "layers-that-learn-by-themselves",
    story="The forward-forward example: an optimizer and a loss for each layer, no gradient between them, "
    "Adam at 0.03 on the whole set.",
)
def layers_that_learn_by_themselves(images: Images) -> Session:
    return forward_forward()


@CASES.sick(
    "wrong-labels-that-are-right",
    "labels-random",
    "underfitting",
    story="Changed the data of the forward-forward example: the wrong labels are the right ones.",
)
def wrong_labels_that_are_right(images: Images, fault: bool) -> Session:
    return forward_forward(mistaken=fault)


class AttentionOverNeighbours(nn.Module):
    def __init__(self, inputs: int, outputs: int, heads: int, share: float) -> None:
        super().__init__()
        self.heads, self.outputs, self.share = heads, outputs, share
        self.W = nn.Parameter(torch.empty(inputs, outputs * heads))
        self.a = nn.Parameter(torch.empty(heads, 2 * outputs, 1))
        nn.init.xavier_normal_(self.W)
        nn.init.xavier_normal_(self.a)

    def forward(self, x: Tensor, linked: Tensor) -> Tensor:
        moved = F.dropout(x @ self.W, self.share, self.training)
        moved = moved.view(len(x), self.heads, self.outputs).permute(1, 0, 2)
        ahead, behind = moved @ self.a[:, : self.outputs], moved @ self.a[:, self.outputs :]
        scores = F.leaky_relu(ahead + behind.mT, 0.2)
        weights = torch.where(linked > 0, scores, scores.new_tensor(-9e16)).softmax(-1)
        return (F.dropout(weights, self.share, self.training) @ moved).mean(0)


class GraphAttention(nn.Module):
    def __init__(self, inputs: int, classes: int, share: float) -> None:
        super().__init__()
        self.first = AttentionOverNeighbours(inputs, 32, 8, share)
        self.second = AttentionOverNeighbours(32, classes, 1, share)

    def forward(self, x: Tensor, linked: Tensor) -> Tensor:
        return F.log_softmax(self.second(F.elu(self.first(x, linked)), linked), dim=1)


class SomeNodes(Program):
    def loss(self, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        x, linked, y, known = batch
        output = self(x, linked)[known]
        return F.nll_loss(output, y[known]), {"acc": correct(output, y[known])}


def papers() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Bags of words of 320 papers with rows that sum to 1, who cites whom, seven topics, a random order."""
    y = torch.arange(320) % 7
    often = torch.where(torch.rand(7, 80) < 0.25, 0.15, 0.03)
    x = (torch.rand(320, 80) < often[y]).float()
    linked = torch.rand(320, 320) < torch.where(y[:, None] == y[None], 0.05, 0.004)
    linked = (linked | linked.T | torch.eye(320, dtype=torch.bool)).float()
    return x / x.sum(1, keepdim=True).clamp(min=1), linked, y, torch.randperm(320)


def graph_attention(share: float = 0.6) -> Session:
    x, linked, y, order = papers()
    module = SomeNodes(GraphAttention(80, 7, share), partial(Adam, lr=5e-3, weight_decay=5e-4))
    parts: Any = [[(x, linked, y, order[200:])], [(x, linked, y, order[:200])]]
    train, val = (DataLoader(part, batch_size=None) for part in parts)
    return Session(module, train, val, {"max_epochs": 120, "check_val_every_n_epoch": 10})


@CASES.healthy(
    "papers-by-attention",
    story="The GAT example: the whole graph a batch, dropout of 0.6 on features and attention, NLLLoss.",
)
def papers_by_attention(images: Images) -> Session:
    return graph_attention()


@CASES.sick(
    "nearly-all-attention-dropped",
    "regularization-too-strong",
    "underfitting",
    story="Changed the dropout of the GAT example from 0.6 to 0.97.",
)
def nearly_all_attention_dropped(images: Images, fault: bool) -> Session:
    return graph_attention(0.97 if fault else 0.6)


WANTED = torch.tensor([[3.1], [-7.2], [2.4], [5.0]])


def powers(count: int) -> Pair:
    x = torch.randn(count)
    x = torch.stack([x**power for power in range(1, 5)], 1)
    return x, x @ WANTED + 4.3


class Drawn(IterableDataset):
    """Batches that are made up as they are asked for."""

    def __init__(self, make: Callable[[], Any], batches: int) -> None:
        self.make, self.batches = make, batches

    def __iter__(self) -> Iterator[Any]:
        return (self.make() for _ in range(self.batches))

    def __len__(self) -> int:
        return self.batches


class ByHand(Program):
    """No optimizer at all: a tenth of the gradient is taken from each parameter."""

    forgets = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.automatic_optimization = False

    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        return F.smooth_l1_loss(self(x), y), {}

    def training_step(self, batch: Any, batch_idx: int) -> None:
        if not self.forgets:
            self.zero_grad()
        loss, _ = self.loss(batch)
        self.manual_backward(loss)
        for parameter in self.parameters():
            assert parameter.grad is not None
            parameter.data.add_(-0.1 * parameter.grad)
        self.note("train", {"loss": loss})

    def configure_optimizers(self) -> None:
        return None


def polynomial(forgets: bool = False) -> Session:
    module = ByHand(nn.Linear(4, 1))
    module.forgets = forgets
    train = Drawn(partial(powers, 32), 120)
    return Session(
        module,
        DataLoader(train, batch_size=None),
        DataLoader(TensorDataset(*powers(500)), 250),
        {"max_epochs": 8},
    )


@CASES.healthy(
    "polynomial-without-an-optimizer",
    story="The regression example: batches made up as they are asked for, smooth L1, parameters changed "
    "by hand, no optimizer.",
)
def polynomial_without_an_optimizer(images: Images) -> Session:
    return polynomial()


@CASES.sick(
    "polynomial-without-clearing",
    "gradients-accumulate",
    story="Removed the call that clears the gradients from the regression example.",
)
def polynomial_without_clearing(images: Images, fault: bool) -> Session:
    return polynomial(forgets=fault)


def reflected(inputs: int, outputs: int, size: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.ReflectionPad2d(size // 2), nn.Conv2d(inputs, outputs, size, stride))


class StyleBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.norm1 = reflected(width, width, 3), nn.InstanceNorm2d(width, affine=True)
        self.second, self.norm2 = reflected(width, width, 3), nn.InstanceNorm2d(width, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm2(self.second(F.relu(self.norm1(self.first(x))))) + x


def style_net(width: int = 12) -> nn.Sequential:
    return nn.Sequential(
        reflected(3, width, 5),
        nn.InstanceNorm2d(width, affine=True),
        nn.ReLU(),
        reflected(width, 2 * width, 3, 2),
        nn.InstanceNorm2d(2 * width, affine=True),
        nn.ReLU(),
        StyleBlock(2 * width),
        nn.Upsample(scale_factor=2),
        reflected(2 * width, width, 3),
        nn.InstanceNorm2d(width, affine=True),
        nn.ReLU(),
        reflected(width, 3, 5),
    )


def gram(features: Tensor) -> Tensor:
    flat = features.flatten(2)
    return flat @ flat.mT / flat[0].numel()


class FastStyle(Program):
    """Bytes in, bytes out; a frozen network says how near content and style are."""

    def __init__(self, net: nn.Module, looks: nn.Sequential, style: Tensor) -> None:
        super().__init__(net, partial(Adam, lr=1e-3))
        self.looks = looks.requires_grad_(False)
        self.style = [gram(each) for each in self.features(style)]

    def features(self, x: Tensor) -> list[Tensor]:
        x = OF_IMAGENET(x / 255)
        first = self.looks[0](x)
        return [first, self.looks[1](first)]

    def loss(self, batch: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        (x,) = batch
        made, given = self.features(self(x)), self.features(x)
        content = 1e5 * F.mse_loss(made[1], given[1])
        style = sum(
            F.mse_loss(gram(each), wanted.expand(len(x), -1, -1))
            for each, wanted in zip(made, self.style, strict=True)
        )
        return content + 1e10 * style, {"content": content, "style": 1e10 * torch.as_tensor(style)}

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.net.parameters())


@CASES.healthy(
    "style-by-ten-billion",
    story="The fast neural style example: bytes as they are, InstanceNorm, a frozen network that judges, "
    "losses weighted by 1e5 and 1e10.",
)
def style_by_ten_billion(images: Images) -> Session:
    looks = pretrained(plain_cnn(12), OF_IMAGENET(images.train_x.float() / 255), images.train_y, 1)
    module = FastStyle(style_net(), looks[:2], images.val_x[5:6].float())
    train, val = TensorDataset(images.train_x[::7].float()), TensorDataset(images.val_x[::20].float())
    session = fitting(module, train, val, epochs=2, batch=4)
    session.train_loader = DataLoader(train, 4)
    return session


class SineNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm1, self.lstm2 = nn.LSTMCell(1, 51), nn.LSTMCell(51, 51)
        self.linear = nn.Linear(51, 1)

    def forward(self, series: Tensor) -> Tensor:
        first, second, outputs = None, None, []
        for value in series.split(1, dim=1):
            first = self.lstm1(value, first)
            second = self.lstm2(first[0], second)
            outputs.append(self.linear(second[0]))
        return torch.cat(outputs, dim=1)


class NextValues(Program):
    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        return F.mse_loss(self(x), y), {}


@CASES.healthy(
    "sines-by-lbfgs",
    story="The time sequence example: LSTM cells in double precision, LBFGS at 0.8, the whole set a batch.",
)
def sines_by_lbfgs(images: Images) -> Session:
    starts = torch.randint(-80, 80, (30, 1))
    waves = torch.sin((torch.arange(51) + starts).double() / 4)
    module = NextValues(SineNet(), partial(LBFGS, lr=0.8)).double()
    train, val = TensorDataset(waves[4:, :-1], waves[4:, 1:]), TensorDataset(waves[:4, :-1], waves[:4, 1:])
    return Session(module, DataLoader(train, 26), DataLoader(val, 4), {"max_epochs": 7})


# -------------------------------------------------- nanoGPT, makemore, the Annotated Transformer


class GPTBlock(nn.Module):
    def __init__(self, width: int, heads: int, share: float) -> None:
        super().__init__()
        self.heads, self.share = heads, share
        self.ln_1, self.ln_2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.c_attn, self.c_proj = (nn.Linear(width, n * width, bias=False) for n in (3, 1))
        self.c_fc, self.mlp_c_proj = (
            nn.Linear(width, 4 * width, bias=False),
            nn.Linear(4 * width, width, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            each.view(batch, length, self.heads, -1).transpose(1, 2)
            for each in self.c_attn(self.ln_1(x)).split(width, dim=2)
        )
        share = self.share if self.training else 0.0
        seen = F.scaled_dot_product_attention(q, k, v, dropout_p=share, is_causal=True)
        seen = self.c_proj(seen.transpose(1, 2).reshape(batch, length, width))
        x = x + F.dropout(seen, self.share, self.training)
        return x + F.dropout(self.mlp_c_proj(F.gelu(self.c_fc(self.ln_2(x)))), self.share, self.training)


class NanoGPT(nn.Module):
    def __init__(self, letters: int, block: int, width: int = 48, depth: int = 2, share: float = 0.2) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(letters, width), nn.Embedding(block, width)
        self.share = share
        self.h = nn.ModuleList([GPTBlock(width, 4, share) for _ in range(depth)])
        self.ln_f = nn.LayerNorm(width, bias=False)
        self.lm_head = nn.Linear(width, letters, bias=False)
        self.wte.weight = self.lm_head.weight
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                deep = name.endswith("c_proj.weight")
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * depth) if deep else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        x = F.dropout(x, self.share, self.training)
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


class Letters(Program):
    decay = 0.1

    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        logits = self(x).flatten(0, 1)
        return F.cross_entropy(logits, y.flatten()), {"acc": correct(logits, y.flatten())}

    def configure_optimizers(self) -> Any:
        matrices = [p for p in self.parameters() if p.dim() >= 2]
        others = [p for p in self.parameters() if p.dim() < 2]
        groups = [
            {"params": matrices, "weight_decay": self.decay},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = AdamW(groups, lr=1e-3, betas=(0.9, 0.95))

        def share(step: int) -> float:
            if step < 40:
                return (step + 1) / 41
            return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, (step - 40) / 440)))

        schedule = {"scheduler": LambdaLR(optimizer, share), "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": schedule}


def play_text(length: int, seed: int) -> tuple[Tensor, int]:
    """Letters of a text of made-up words, 60 of them, of which each has its favourite followers."""
    draw = torch.Generator().manual_seed(53)
    sizes = torch.randint(2, 7, (60,), generator=draw).tolist()
    lexicon = [torch.randint(1, 27, (size,), generator=draw).tolist() for size in sizes]
    after = torch.randint(60, (60, 4), generator=draw)
    draw.manual_seed(seed)
    text: list[int] = []
    word = 0
    while len(text) < length:
        text += [*lexicon[word], 0]
        word = int(after[word, int(torch.randint(4, (1,), generator=draw))])
    return torch.tensor(text[:length]), 27


def nano_gpt(decay: float = 0.1) -> Session:
    (train, letters), (val, _) = play_text(30000, 1), play_text(3000, 2)

    def windows(stream: Tensor, count: int) -> Pair:
        starts = torch.randint(len(stream) - 33, (count,))
        places = starts[:, None] + torch.arange(33)
        return stream[places[:, :-1]], stream[places[:, 1:]]

    module = Letters(NanoGPT(letters, 32))
    module.decay = decay
    return Session(
        module,
        DataLoader(Drawn(partial(windows, train, 24), 120), batch_size=None),
        DataLoader(Drawn(partial(windows, val, 60), 4), batch_size=None),
        {"max_epochs": 4, "gradient_clip_val": 1.0},
    )


@CASES.healthy(
    "letters-as-nano-gpt-does",
    story="nanoGPT on letters: no biases, tied weights, scaled projections, dropout of 0.2, AdamW with betas "
    "of 0.9 and 0.95, decay for matrices alone, warm-up and cosine, random windows.",
)
def letters_as_nano_gpt_does(images: Images) -> Session:
    return nano_gpt()


@CASES.sick(
    "decay-of-thirty-for-matrices",
    "regularization-too-strong",
    story="Changed an argument of nanoGPT's optimizer: a weight decay of 30 in place of 0.1.",
)
def decay_of_thirty_for_matrices(images: Images, fault: bool) -> Session:
    return nano_gpt(30.0 if fault else 0.1)


def names(count: int, seed: int, moves: bool = True) -> Pair:
    """Three letters [N, 3] of made-up names and the letter after them; 0 stands for begin and end."""
    draw = torch.Generator().manual_seed(54)
    syllables = torch.randint(1, 27, (40, 2), generator=draw)
    after = torch.randint(40, (40, 3), generator=draw)
    draw.manual_seed(seed)
    context: list[list[int]] = []
    following: list[int] = []
    while len(following) < count:
        syllable = int(torch.randint(40, (1,), generator=draw))
        letters = [0, 0, 0]
        for _ in range(int(torch.randint(1, 4, (1,), generator=draw))):
            letters += syllables[syllable].tolist()
            syllable = int(after[syllable, int(torch.randint(3, (1,), generator=draw))])
        letters.append(0)
        for place in range(len(letters) - 3):
            context.append(letters[place : place + 3] if moves else letters[:3])
            following.append(letters[place + 3])
    return torch.tensor(context[:count]), torch.tensor(following[:count])


def make_more(moves: bool = True) -> Session:
    net = nn.Sequential(nn.Embedding(27, 10), nn.Flatten(), nn.Linear(30, 200, bias=False))
    net.extend([nn.BatchNorm1d(200), nn.Tanh(), nn.Linear(200, 27)])
    first, last = [module for module in net if isinstance(module, nn.Linear)]
    nn.init.normal_(first.weight, std=5 / 3 / math.sqrt(30))
    nn.init.normal_(last.weight, std=0.01)
    nn.init.zeros_(last.bias)
    nn.init.normal_(net[0].weight)  # type: ignore[arg-type]
    module = Classes(net, partial(SGD, lr=0.1))
    module.schedule = partial(StepLR, step_size=7, gamma=0.1)
    return fitting(
        module,
        TensorDataset(*names(4000, 1, moves)),
        TensorDataset(*names(800, 2, moves)),
        epochs=10,
        batch=32,
    )


@CASES.healthy(
    "names-by-their-last-letters",
    story="makemore: unit-normal embeddings, a small last layer, BatchNorm before tanh, plain SGD at 0.1, "
    "a tenth of it at the end.",
)
def names_by_their_last_letters(images: Images) -> Session:
    return make_more()


@CASES.sick(
    "window-that-never-moves",
    "input-constant",
    "labels-random",
    story="Deleted the statement of makemore that moves the window: each letter comes after three dots.",
)
def window_that_never_moves(images: Images, fault: bool) -> Session:
    return make_more(moves=not fault)


class CopyNet(nn.Module):
    def __init__(self, symbols: int = 11, width: int = 48) -> None:
        super().__init__()
        self.width = width
        self.source, self.target = nn.Embedding(symbols, width), nn.Embedding(symbols, width)
        self.both = nn.Transformer(width, 4, 2, 2, 96, 0.1, batch_first=True)
        self.generator = nn.Linear(width, symbols)
        angles = torch.arange(20)[:, None] * 10000.0 ** (-torch.arange(0, width, 2) / width)
        self.register_buffer("places", torch.cat([angles.sin(), angles.cos()], 1))
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def embedded(self, table: nn.Module, tokens: Tensor) -> Tensor:
        places: Any = self.places
        x = table(tokens) * math.sqrt(self.width) + places[: tokens.shape[1]]
        return F.dropout(x, 0.1, self.training)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
        x, y = self.embedded(self.source, source), self.embedded(self.target, target)
        return F.log_softmax(self.generator(self.both(x, y, tgt_mask=mask)), dim=-1)


class Copied(Program):
    """Divergence from one-hot targets, summed and divided by how many tokens there are."""

    def loss(self, batch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        shares = self(batch, batch[:, :-1]).flatten(0, 1)
        wanted = batch[:, 1:].flatten()
        true = F.one_hot(wanted, shares.shape[1]).float()
        return F.kl_div(shares, true, reduction="sum") / len(wanted), {"acc": correct(shares, wanted)}


def sequences_to_copy(count: int) -> Tensor:
    tokens = torch.randint(1, 11, (count, 10))
    tokens[:, 0] = 1
    return tokens


@CASES.healthy(
    "copied-by-the-annotated-transformer",
    story="The Annotated Transformer's first example: KLDivLoss summed over tokens, Adam with a rate of 0.5 "
    "times Noam's factor, epsilon 1e-9, norms behind the branches.",
)
def copied_by_the_annotated_transformer(images: Images) -> Session:
    module = Copied(CopyNet(), partial(Adam, lr=0.5, betas=(0.9, 0.98), eps=1e-9))

    def factor(step: int) -> float:
        step = max(step, 1)
        return 48**-0.5 * min(step**-0.5, step * 400**-1.5)

    module.schedule = partial(LambdaLR, lr_lambda=factor)
    module.interval = "step"
    return Session(
        module,
        DataLoader(Drawn(partial(sequences_to_copy, 40), 20), batch_size=None),
        DataLoader(Drawn(partial(sequences_to_copy, 80), 5), batch_size=None),
        {"max_epochs": 20},
    )


# --------------------------------------------------------------------------- d2l.ai, fast.ai, keras.io


def d2l_dropout(ones: bool = False) -> Session:
    net = nn.Sequential(nn.Flatten(), nn.Linear(256, 256), nn.ReLU(), nn.Dropout(0.5))
    net.extend([nn.Linear(256, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 10)])
    for module in net:
        if isinstance(module, nn.Linear):
            (nn.init.ones_(module.weight) if ones else nn.init.normal_(module.weight, std=0.01))
    return fitting(Classes(net, partial(SGD, lr=0.5)), *halves(*scanned_digits()), epochs=15, batch=32)


@CASES.healthy(
    "hundredths-and-two-dropouts",
    story="d2l.ai's perceptron with dropout: normal weights of 0.01, two dropouts of 0.5, SGD at 0.5, pixels "
    "of 0 to 1.",
)
def hundredths_and_two_dropouts(images: Images) -> Session:
    return d2l_dropout()


@CASES.sick(
    "weights-of-one",
    "bad-initialization",
    "exploding-gradients",
    "non-finite-loss",
    story="Changed the weights' initialization of d2l.ai's perceptron to ones.",
)
def weights_of_one(images: Images, fault: bool) -> Session:
    return d2l_dropout(ones=fault)


class ThreeOrSeven(Program):
    """The lesson's loss: how far the share for the right answer is from one."""

    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        shares = self(x).sigmoid()
        accuracy = ((shares > 0.5) == y).float().mean()
        return torch.where(y == 1, 1 - shares, shares).mean(), {"acc": accuracy}


def threes_and_sevens(fault: bool = False) -> Session:
    x, y = scanned_digits()
    kept = (y == 3) | (y == 7)
    x, y = x[kept].flatten(1), (y[kept] == 3).long().unsqueeze(1)
    train, val = halves(x, y, train=0.7)
    if fault:
        seven = (train.tensors[1] == 0).flatten()
        keep = ~seven | (seven.cumsum(0) <= 4)
        train = TensorDataset(*(each[keep] for each in train.tensors))
    net = nn.Sequential(nn.Linear(256, 30), nn.ReLU(), nn.Linear(30, 1))
    return fitting(ThreeOrSeven(net, partial(SGD, lr=0.1)), train, val, epochs=40, batch=16)


@CASES.healthy(
    "three-or-seven",
    story="fast.ai's lesson from scratch: 1 minus the share for the right answer as the loss, SGD at 0.1.",
)
def three_or_seven(images: Images) -> Session:
    return threes_and_sevens()


@CASES.sick(
    "four-sevens-among-threes",
    "class-imbalance",
    "train-val-mismatch",
    story="Unbalanced the data of fast.ai's lesson: four sevens are left.",
)
def four_sevens_among_threes(images: Images, fault: bool) -> Session:
    return threes_and_sevens(fault)


class PlateauAndStop(Classes):
    def configure_callbacks(self) -> list[Callback]:
        return [EarlyStopping("val/loss", patience=50)]


def engine_noise(count: int, seed: int) -> Pair:
    """Series [N, 1, 96] of noise, in half of them with a short chirp somewhere."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.randint(2, (count,), generator=draw)
    x = torch.randn(count, 96, generator=draw)
    place = torch.randint(8, 72, (count, 1), generator=draw)
    far = torch.arange(96) - place
    chirp = torch.sin(far**2 / 18) * ((far >= 0) & (far < 16))
    x = x + 1.6 * y[:, None] * chirp
    return ((x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True)).unsqueeze(1), y


def series_by_convolutions(fault: bool = False) -> Session:
    net = nn.Sequential()
    for a, b in pairwise([1, 32, 32, 32]):
        net.extend([nn.Conv1d(a, b, 3, padding=1), nn.BatchNorm1d(b), nn.ReLU()])
    net.extend([nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(32, 2)])
    module = PlateauAndStop(net, partial(Adam, lr=1e-3))
    module.schedule = partial(ReduceLROnPlateau, factor=0.5, patience=20, min_lr=1e-4)
    x, y = engine_noise(1600, 1)
    session = fitting(module, TensorDataset(x, y), TensorDataset(*engine_noise(400, 2)), epochs=10, batch=32)
    if fault:
        order = y.argsort()
        session.train_loader = DataLoader(TensorDataset(x[order], y[order]), 32)
    return session


@CASES.sick(
    "series-as-the-archive-has-them",
    "data-not-shuffled",
    story="Removed the shuffling from keras.io's example of time series; the archive is in order of class.",
)
def series_as_the_archive_has_them(images: Images, fault: bool) -> Session:
    return series_by_convolutions(fault)


# --------------------------------------------------------------------------- much-copied repositories


def vgg(normalized: bool = True) -> nn.Sequential:
    net = nn.Sequential()
    for a, b in pairwise([3, 16, 32, 64, 64]):
        net.append(nn.Conv2d(a, b, 3, padding=1))
        if normalized:
            net.append(nn.BatchNorm2d(b))
        net.extend([nn.ReLU(inplace=True), nn.MaxPool2d(2)])
    return net.extend([nn.Flatten(), nn.Linear(256, NUM_CLASSES)])


OF_CIFAR = v2.Normalize([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])


def pytorch_cifar(images: Images, normalized: bool = True, noise: float = 0.0) -> Session:
    def noisy(x: Tensor) -> Tensor:
        return x + noise * torch.randn_like(x)

    moved = v2.Compose([v2.RandomCrop(32, padding=4), v2.RandomHorizontalFlip(), OF_CIFAR, noisy])
    module = Classes(vgg(normalized), partial(SGD, lr=0.1, momentum=0.9, weight_decay=5e-4))
    module.schedule = partial(CosineAnnealingLR, T_max=200)
    train = Transformed(images.train_x[::2].float() / 255, images.train_y[::2], moved)
    val = TensorDataset(OF_CIFAR(images.val_x[::2].float() / 255), images.val_y[::2])
    return fitting(module, train, val, epochs=4, batch=128)


@CASES.healthy(
    "vgg-at-a-tenth",
    story="pytorch-cifar: VGG with BatchNorm, SGD at 0.1 with a cosine over 200 epochs of which few are run, "
    "crops and flips, its constants.",
)
def vgg_at_a_tenth(images: Images) -> Session:
    return pytorch_cifar(images)


@CASES.sick(
    "vgg-without-its-norms",
    "learning-rate-too-high",
    "vanishing-gradients",
    "bad-initialization",
    story="Removed the BatchNorm layers from pytorch-cifar's VGG.",
)
def vgg_without_its_norms(images: Images, fault: bool) -> Session:
    return pytorch_cifar(images, normalized=not fault)


@CASES.sick(
    "noise-of-three-on-training-images",
    "train-val-mismatch",
    "regularization-too-strong",
    story="Added noise to the training data of pytorch-cifar, three times as large as the pixels' deviation.",
)
def noise_of_three(images: Images, fault: bool) -> Session:
    return pytorch_cifar(images, noise=3.0 if fault else 0.0)


class SentenceNet(nn.Module):
    """Filters of three, four and five words over vectors that were loaded, dropout of a half."""

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(vectors), vectors.shape[1], padding_idx=1)
        self.embedding.weight.data.copy_(vectors)
        self.embedding.weight.data[:2] = 0
        self.convs = nn.ModuleList([nn.Conv2d(1, 30, (size, vectors.shape[1])) for size in (3, 4, 5)])
        self.fc = nn.Linear(90, 1)

    def forward(self, text: Tensor) -> Tensor:
        x = self.embedding(text).unsqueeze(1)
        pooled = [F.relu(conv(x)).squeeze(3).amax(2) for conv in self.convs]
        return self.fc(F.dropout(torch.cat(pooled, 1), 0.5, self.training)).squeeze(1)


class GoodOrBad(Program):
    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        text, y = batch
        logits = self(text)
        accuracy = (torch.round(torch.sigmoid(logits)) == y).float().mean()
        return F.binary_cross_entropy_with_logits(logits, y), {"acc": accuracy}


def reviews(count: int, seed: int) -> Pair:
    """Texts [N, 40] of up to 40 of 400 words, 1 where padded, and whether more words praise than blame."""
    draw = torch.Generator().manual_seed(seed)
    text = torch.randint(2, 400, (count, 40), generator=draw)
    y = torch.randint(2, (count,), generator=draw)
    for _ in range(4):
        place = torch.randint(20, (count, 1), generator=draw)
        low = torch.where(torch.rand(count, generator=draw) < 0.85, y, 1 - y) * 30 + 2
        word = low[:, None] + torch.randint(30, (count, 1), generator=draw)
        text.scatter_(1, place, word)
    length = torch.randint(20, 41, (count, 1), generator=draw)
    return torch.where(torch.arange(40) < length, text, 1), y.float()


def sentiment(fault: bool = False) -> Session:
    text, y = reviews(1500, 1)
    module = GoodOrBad(SentenceNet(torch.randn(400, 50)), Adam)
    epochs, batch = (8, 32)
    if fault:
        text, y, epochs, batch = text[:40], y[:40], 60, 8
    return fitting(
        module, TensorDataset(text, y), TensorDataset(*reviews(400, 2)), epochs=epochs, batch=batch
    )


@CASES.sick(
    "forty-reviews",
    "overfitting",
    story="Deleted the training data of the sentiment tutorial but for forty reviews.",
)
def forty_reviews(images: Images, fault: bool) -> Session:
    return sentiment(fault)


class ClippedCritic(Program):
    """WGAN: five steps of the critic, whose weights are cut to a hundredth, for one of the generator."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())
        self.automatic_optimization = False
        self.gen, self.critic = drawing_net(width=8).apply(as_dcgan), judging_net(8).apply(as_dcgan)

    def forward(self, noise: Tensor) -> Tensor:
        return self.gen(noise)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        (real,) = batch
        optimizers: Any = self.optimizers()
        of_gen, of_critic = optimizers
        loss_critic = torch.zeros(())
        for _ in range(5):
            made = self(torch.randn(len(real), 32, 1, 1))
            loss_critic = -(self.critic(real).mean() - self.critic(made).mean())
            self.critic.zero_grad()
            self.manual_backward(loss_critic, retain_graph=True)
            of_critic.step()
            for parameter in self.critic.parameters():
                parameter.data.clamp_(-0.01, 0.01)
        made = self(torch.randn(len(real), 32, 1, 1))
        loss_gen = -self.critic(made).mean()
        self.gen.zero_grad()
        self.manual_backward(loss_gen)
        of_gen.step()
        self.note("train", {"loss_critic": loss_critic, "loss_gen": loss_gen})

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        (real,) = batch
        made = self(torch.randn(len(real), 32, 1, 1))
        self.note("val", {"loss": (made.mean(0) - real.mean(0)).abs().mean()})

    def configure_optimizers(self) -> Any:
        return [RMSprop(self.gen.parameters(), lr=5e-5), RMSprop(self.critic.parameters(), lr=5e-5)]


@CASES.healthy(
    "critic-cut-to-a-hundredth",
    story="The WGAN of a much-copied series: RMSprop at 5e-5, the critic's weights cut to 0.01 after each "
    "of its five steps.",
)
def critic_cut_to_a_hundredth(images: Images) -> Session:
    return fitting(ClippedCritic(), *halves(2 * scanned_digits()[0] - 1), epochs=12)


def digit_recognizer(epochs: int = 8) -> Session:
    x, y = scanned_digits()
    net = nn.Sequential()
    for a, b in [(1, 16), (16, 32)]:
        net.extend([nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.Conv2d(b, b, 3, padding=1), nn.ReLU()])
        net.extend([nn.MaxPool2d(2), nn.Dropout(0.25)])
    net.extend([nn.Flatten(), nn.Linear(512, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 10)])
    module = Classes(net, partial(RMSprop, lr=1e-3, alpha=0.9))
    module.schedule = partial(ReduceLROnPlateau, mode="max", factor=0.5, patience=3, min_lr=1e-5)
    module.monitor = "val/acc"
    moved = v2.RandomAffine(10, translate=(0.1, 0.1), scale=(0.9, 1.1))
    train, val = Transformed(x[:1600], y[:1600], moved), TensorDataset(x[1600:], y[1600:])
    return fitting(module, train, val, epochs=epochs, batch=86)


@CASES.sick(
    "one-epoch-of-thirty",
    "underfitting",
    "learning-rate-too-low",
    story="Changed the epochs of the digit recognizer, a much-copied notebook, to one.",
)
def one_epoch_of_thirty(images: Images, fault: bool) -> Session:
    return digit_recognizer(1 if fault else 8)


# ----------------------------------------------------- tutorials of PyTorch and Lightning


class LitAutoEncoder(Program):
    detached = False

    def __init__(self) -> None:
        super().__init__(nn.Identity(), partial(Adam, lr=1e-3))
        self.encoder = nn.Sequential(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 3))
        self.decoder = nn.Sequential(nn.Linear(3, 64), nn.ReLU(), nn.Linear(64, 256))

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, _ = batch
        x = x.view(x.size(0), -1)
        code = self.encoder(x).detach() if self.detached else self.encoder(x)
        return F.mse_loss(self.decoder(code), x), {}


def lit_autoencoder(detached: bool = False) -> Session:
    module = LitAutoEncoder()
    module.detached = detached
    return fitting(module, *halves(*scanned_digits()), epochs=15, batch=16)


@CASES.sick(
    "code-cut-from-its-decoder",
    "frozen-parameters",
    story="Added a detach to the autoencoder of Lightning's first page, before the decoder.",
)
def code_cut_from_its_decoder(images: Images, fault: bool) -> Session:
    return lit_autoencoder(detached=fault)


class Backwards(Program):
    """An encoder and a decoder, each with its optimizer; in validation the decoder hears only itself."""

    leaks = False

    def __init__(self, symbols: int = 12, width: int = 64) -> None:
        super().__init__(nn.Identity())
        self.automatic_optimization = False
        self.embed_in, self.encoder = nn.Embedding(symbols, width), nn.GRU(width, width, batch_first=True)
        self.embed_out, self.decoder = nn.Embedding(symbols, width), nn.GRU(width, width, batch_first=True)
        self.out = nn.Linear(width, symbols)

    def forward(self, source: Tensor, given: Tensor) -> Tensor:
        _, hidden = self.encoder(self.embed_in(source))
        output, _ = self.decoder(F.relu(self.embed_out(given)), hidden)
        return F.log_softmax(self.out(output), dim=-1)

    def training_step(self, batch: Pair, batch_idx: int) -> None:
        source, target = batch
        given = target if self.leaks else torch.cat([torch.zeros_like(target[:, :1]), target[:, :-1]], 1)
        loss = F.nll_loss(self(source, given).flatten(0, 1), target.flatten())
        optimizers: Any = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()
        self.note("train", {"loss": loss})

    def validation_step(self, batch: Pair, batch_idx: int) -> None:
        source, target = batch
        _, hidden = self.encoder(self.embed_in(source))
        said, loss, right = torch.zeros_like(target[:, :1]), torch.zeros(()), torch.zeros(())
        for place in range(target.shape[1]):
            output, hidden = self.decoder(F.relu(self.embed_out(said)), hidden)
            shares = F.log_softmax(self.out(output[:, 0]), dim=-1)
            loss = loss + F.nll_loss(shares, target[:, place]) / target.shape[1]
            right = right + correct(shares, target[:, place]) / target.shape[1]
            said = shares.argmax(1, keepdim=True)
        self.note("val", {"loss": loss, "acc": right})

    def configure_optimizers(self) -> Any:
        coding = [*self.embed_in.parameters(), *self.encoder.parameters()]
        decoding = [*self.embed_out.parameters(), *self.decoder.parameters(), *self.out.parameters()]
        return [Adam(coding, lr=3e-3), Adam(decoding, lr=3e-3)]


def sequence_to_sequence(leaks: bool = False) -> Session:
    module = Backwards()
    module.leaks = leaks
    source = torch.randint(2, 12, (3000, 6))
    return fitting(module, *halves(source, source.flip(1)), epochs=8, batch=32)


@CASES.sick(
    "told-what-it-is-to-say",
    "data-leak",
    "train-val-mismatch",
    story="Changed what the decoder of the translation tutorial is given in training: the word itself, not "
    "the one before.",
)
def told_what_it_is_to_say(images: Images, fault: bool) -> Session:
    return sequence_to_sequence(leaks=fault)


class News(Dataset):
    """Headlines of 6 to 14 of 300 words, and which of four topics they have."""

    def __init__(self, count: int, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.y = torch.randint(4, (count,), generator=draw)
        self.rows = []
        for topic in self.y.tolist():
            row = torch.randint(300, (int(torch.randint(6, 15, (1,), generator=draw)),), generator=draw)
            told = torch.rand(len(row), generator=draw) < 0.35
            word = 40 * topic + torch.randint(40, (len(row),), generator=draw)
            self.rows.append(torch.where(told, word, row))

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, place: int) -> Pair:
        return self.rows[place], self.y[place]


def in_one_row(items: list[Pair], summed: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    lengths = torch.tensor([0, *(len(row) for row, _ in items[:-1])])
    offsets = lengths.cumsum(0) if summed else torch.cummax(lengths, 0).values
    return torch.cat([row for row, _ in items]), offsets, torch.stack([y for _, y in items])


class NewsNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(300, 64, sparse=False)
        self.fc = nn.Linear(64, 4)
        nn.init.uniform_(self.embedding.weight, -0.5, 0.5)
        nn.init.uniform_(self.fc.weight, -0.5, 0.5)
        nn.init.zeros_(self.fc.bias)

    def forward(self, text: Tensor, offsets: Tensor) -> Tensor:
        return self.fc(self.embedding(text, offsets))


class Topics(Program):
    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        text, offsets, y = batch
        logits = self(text, offsets)
        return F.cross_entropy(logits, y), {"acc": correct(logits, y)}


def news(fault: bool = False) -> Session:
    module = Topics(NewsNet(), partial(SGD, lr=5.0))
    module.schedule = partial(ReduceLROnPlateau, mode="max", factor=0.1, patience=0)
    module.monitor = "val/acc"
    session = fitting(
        module,
        News(2500, 1),
        News(500, 2),
        epochs=6,
        batch=64,
        collate=in_one_row,
        gradient_clip_val=0.1,
    )
    if fault:
        session.train_loader = DataLoader(
            News(2500, 1), 64, shuffle=True, collate_fn=partial(in_one_row, summed=False)
        )
    return session


@CASES.healthy(
    "headlines-at-a-rate-of-five",
    story="The text classification tutorial: EmbeddingBag, SGD at 5 clipped at 0.1, a tenth of it when "
    "validation gets worse.",
)
def headlines_at_a_rate_of_five(images: Images) -> Session:
    return news()


@CASES.sick(
    "offsets-never-summed",
    "labels-random",
    story="Removed the cumulative sum from the tutorial's offsets: headlines are cut in wrong places.",
)
def offsets_never_summed(images: Images, fault: bool) -> Session:
    return news(fault)


class Sine(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * super().forward(x))


def pixels_by_place(images: Images, waves: bool = True) -> Session:
    sizes = [2, 96, 96, 96]
    net = nn.Sequential()
    for place, (a, b) in enumerate(pairwise(sizes)):
        if waves:
            layer = Sine(a, b)
            bound = 1 / a if place == 0 else math.sqrt(6 / a) / 30
            nn.init.uniform_(layer.weight, -bound, bound)
            net.append(layer)
        else:
            net.extend([nn.Linear(a, b), nn.ReLU()])
    last = nn.Linear(96, 1)
    nn.init.uniform_(last.weight, -math.sqrt(6 / 96) / 30, math.sqrt(6 / 96) / 30)
    net.append(last)
    grey = images.train_x[7].float().mean(0) / 127.5 - 1
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    x, y = torch.stack([rows, columns], -1).view(-1, 2), grey.view(-1, 1)
    held = torch.arange(1024) % 9 == 4
    train: Any = [(x[~held], y[~held])] * 100
    val: Any = [(x[held], y[held])]
    return Session(
        NextValues(net, partial(Adam, lr=1e-4)),
        DataLoader(train, batch_size=None),
        DataLoader(val, batch_size=None),
        {"max_epochs": 8},
    )


@CASES.healthy(
    "an-image-by-sines",
    story="SIREN: sine activations with their own initialization, Adam at 1e-4, all pixels of one image "
    "as the one batch.",
)
def an_image_by_sines(images: Images) -> Session:
    return pixels_by_place(images)


@CASES.sick(
    "rectifiers-in-place-of-sines",
    "underfitting",
    "learning-rate-too-low",
    story="Changed the activation of SIREN to ReLU.",
)
def rectifiers_in_place_of_sines(images: Images, fault: bool) -> Session:
    return pixels_by_place(images, waves=not fault)
