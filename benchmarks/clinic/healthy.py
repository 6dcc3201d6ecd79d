"""Healthy runs of many kinds, as the frameworks' own examples do them: a tool is to keep silent on each.

Most are not image classification: their data are made in code, small enough for a few seconds on one core.

Validation accuracy, where there is one, and loss after the last epoch, one seed:

                                       acc    loss
    prices-from-a-table                       0.07
    quantiles-of-a-price                      0.06
    oscillator-from-its-equation              0.00
    discs-and-squares-segmented       0.96    0.13
    images-through-a-bottleneck               0.13
    variational-autoencoder                 166.78
    noise-of-a-diffusion                      0.43
    rings-by-adversaries                      0.15
    critic-with-gradient-penalty              0.17
    letters-by-a-recurrent-net        0.84    0.33
    letters-by-a-tied-transformer     0.84    0.38
    opinions-in-packed-sequences      0.97    0.08
    nodes-of-one-graph                0.99    0.03
    same-shape-or-not                 0.84    0.13
    triplets-of-a-batch               0.97    0.03
    two-views-of-each-image           0.75    2.99
    several-tags-an-image             0.83    0.36
    animal-or-vehicle                 0.88    0.35
    how-many-shapes                   0.63    0.30
    policy-by-its-rewards                    -0.13
    values-against-a-slow-copy                0.00
    a-start-for-few-points                    0.10
    thawed-after-two-epochs           0.43    1.57
    head-on-a-frozen-trunk            0.39    1.63
    cut-and-pasted                    0.41    1.67
    average-of-weights-and-buffers    0.49    1.44
    taught-by-a-larger-net            0.45    1.55
    one-cycle-and-smoothed-labels     0.48    1.64
    accumulated-by-the-trainer        0.45    1.58
    accumulated-and-averaged          0.37    1.76
    mixed-precision                   0.39    1.71
    a-second-head-halfway             0.46    1.54
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from clinic import NUM_CLASSES, CaseBook, Classifier, Images, Session
from lightning.pytorch.callbacks import BaseFinetuning, Callback
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from wild import Pair, conv_unit, plain_cnn, pretrained, residual_net, run, standard

CASES = CaseBook()

ADAM = partial(Adam, lr=2e-3)


class Task(L.LightningModule):
    """Trains what `loss` gives for a batch, and logs it; `loss` also gives what else is to be logged."""

    net: Any

    def __init__(self, net: nn.Module, optimizer: Callable[..., Optimizer] = ADAM) -> None:
        super().__init__()
        self.net = net
        self.make_optimizer = optimizer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.net(*args, **kwargs)

    def loss(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError

    def note(self, stage: str, values: dict[str, Tensor]) -> None:
        named = {f"{stage}/{name}": value for name, value in values.items()}
        self.log_dict(named, on_step=False, on_epoch=True, batch_size=1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss, others = self.loss(batch)
        self.note("train", {"loss": loss, **others})
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        loss, others = self.loss(batch)
        self.note("val", {"loss": loss, **others})

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.parameters())


def fitting(
    module: L.LightningModule,
    train: Dataset,
    val: Dataset,
    epochs: int,
    batch: int = 64,
    collate: Any = None,
    **trainer: Any,
) -> Session:
    return Session(
        module,
        DataLoader(train, batch, shuffle=True, collate_fn=collate),
        DataLoader(val, 200, collate_fn=collate),
        {"max_epochs": epochs, **trainer},
    )


def halves(*tensors: Tensor, train: float = 0.8) -> tuple[TensorDataset, TensorDataset]:
    """The first part for training and the rest for validation."""
    place = int(train * len(tensors[0]))
    return TensorDataset(*(t[:place] for t in tensors)), TensorDataset(*(t[place:] for t in tensors))


def correct(logits: Tensor, y: Tensor) -> Tensor:
    return (logits.argmax(1) == y).float().mean()


# --------------------------------------------------------------------------------------------- data


def shapes(count: int, size: int = 24, most: int = 3, seed: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Grey images [N, 1, S, S] of discs and squares on noise, their masks [N, S, S] (0, 1 disc, 2 square),
    and how many of each kind were drawn [N, 2]."""
    draw = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    image = 0.3 * torch.randn(count, size, size, generator=draw)
    mask = torch.zeros(count, size, size, dtype=torch.long)
    numbers = torch.zeros(count, 2)
    for _ in range(most):
        shown = torch.rand(count, generator=draw) < 0.6
        square = torch.rand(count, generator=draw) < 0.5
        centre = 4 + torch.rand(count, 2, generator=draw) * (size - 8)
        radius = (2.5 + 2 * torch.rand(count, generator=draw)).view(-1, 1, 1)
        down, across = (rows - centre[:, :1, None]).abs(), (columns - centre[:, 1:, None]).abs()
        inside = torch.where(
            square.view(-1, 1, 1), torch.maximum(down, across) < radius, down**2 + across**2 < radius**2
        )
        inside &= shown.view(-1, 1, 1)
        image = torch.where(inside, 0.5 + image / 2 + 0.8 * torch.rand(count, 1, 1, generator=draw), image)
        mask = torch.where(inside, 1 + square.long().view(-1, 1, 1), mask)
        numbers += F.one_hot(square.long(), 2) * shown.view(-1, 1)
    return image.unsqueeze(1), mask, numbers


def sentences(count: int, length: int, seed: int = 6) -> tuple[Tensor, int]:
    """Windows [N, length + 1] of characters from random sentences, and the size of the alphabet."""
    draw = torch.Generator().manual_seed(seed)

    def one(*words: str) -> str:
        return words[int(torch.randint(len(words), (1,), generator=draw))]

    text = ""
    while len(text) < 20_000:
        noun = partial(one, "cat", "dog", "bird", "old horse", "small mouse", "farmer")
        verb = one("sees", "follows", "hears", "waits for", "likes")
        text += f"{one('the', 'a', 'one')} {noun()} {verb} {one('the', 'a')} {noun()}. "
    alphabet = sorted(set(text))
    codes = torch.tensor([alphabet.index(letter) for letter in text])
    starts = torch.randint(len(codes) - length - 1, (count,), generator=draw)
    return torch.stack([codes[start : start + length + 1] for start in starts]), len(alphabet)


def greys(x: Tensor) -> Tensor:
    """Images as grey values in 0..1 on 16x16 pixels, [N, 1, 16, 16]."""
    return F.avg_pool2d(x.float().mean(1, keepdim=True) / 255, 2)


# --------------------------------------------------------------------------------------- regression


class Regression(Task):
    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        error = F.mse_loss(self(x).squeeze(1), y)
        return error, {"r2": 1 - error / y.var()}


def house_prices(count: int = 3000) -> Pair:
    """Eight standardized columns and a price in hundred thousands, mean near 2, as in a table of houses."""
    draw = torch.Generator().manual_seed(7)
    x = torch.randn(count, 8, generator=draw)
    y = 2 + 0.8 * x[:, 0] + 0.5 * torch.sin(2 * x[:, 1]) + 0.4 * x[:, 2] * x[:, 3] - 0.3 * x[:, 4].abs()
    return x, y + 0.2 * torch.randn(count, generator=draw)


@CASES.healthy("prices-from-a-table", story="An MLP for a price from eight columns, with a squared loss.")
def prices_from_a_table(images: Images) -> Session:
    net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
    return fitting(Regression(net, partial(Adam, lr=3e-3)), *halves(*house_prices()), epochs=10)


class Quantiles(Task):
    """The pinball loss at three levels."""

    levels = (0.1, 0.5, 0.9)

    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        gap = y.unsqueeze(1) - self(x)
        level = gap.new_tensor(self.levels)
        covered = ((gap[:, 0] > 0) & (gap[:, 2] < 0)).float().mean()
        return torch.maximum(level * gap, (level - 1) * gap).mean(), {"covered": covered}


@CASES.healthy("quantiles-of-a-price", story="Three quantiles of a price, with the pinball loss and AdamW.")
def quantiles_of_a_price(images: Images) -> Session:
    net = nn.Sequential(nn.Linear(8, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU(), nn.Linear(48, 3))
    return fitting(Quantiles(net, partial(AdamW, lr=3e-3)), *halves(*house_prices()), epochs=10)


class Oscillator(Task):
    """u'' + 4u = 0 with u(0) = 1, u'(0) = 0: the loss differentiates the network by its input."""

    def loss(self, batch: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.enable_grad():
            t = batch[0].clone().requires_grad_()
            u = self(t)
            (speed,) = torch.autograd.grad(u.sum(), t, create_graph=True)
            (pull,) = torch.autograd.grad(speed.sum(), t, create_graph=True)
            start = torch.zeros(1, 1, requires_grad=True)
            first = self(start)
            (first_speed,) = torch.autograd.grad(first.sum(), start, create_graph=True)
            loss = (pull + 4 * u).square().mean() + 10 * ((first - 1).square() + first_speed.square()).mean()
        return loss, {"error": (u - torch.cos(2 * t)).detach().abs().mean()}


@CASES.healthy(
    "oscillator-from-its-equation",
    story="A physics-informed network: the residual of an equation, no labels.",
)
def oscillator(images: Images) -> Session:
    net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    times = TensorDataset(torch.rand(1024, 1) * 2)
    return fitting(Oscillator(net, partial(Adam, lr=5e-3)), times, times, epochs=25)


# -------------------------------------------------------------------------------- dense predictions


class SmallUNet(nn.Module):
    def __init__(self, width: int = 12, classes: int = 3) -> None:
        super().__init__()
        self.down = conv_unit(1, width, norm="batch")
        self.deep = nn.Sequential(
            conv_unit(width, 2 * width, 2, "batch"), conv_unit(2 * width, 2 * width, norm="batch")
        )
        self.up = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.head = nn.Sequential(conv_unit(2 * width, width, norm="batch"), nn.Conv2d(width, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down(x)
        return self.head(torch.cat([fine, self.up(self.deep(fine))], 1))


class Segmentation(Task):
    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, mask = batch
        logits = self(x)
        guess = logits.argmax(1)
        both = ((guess == mask) & (mask > 0)).sum() / ((guess > 0) | (mask > 0)).sum().clamp(min=1)
        return F.cross_entropy(logits, mask), {"acc": (guess == mask).float().mean(), "iou": both}


@CASES.healthy("discs-and-squares-segmented", story="A small U-Net; nine in ten pixels are background.")
def shapes_segmented(images: Images) -> Session:
    x, mask, _ = shapes(600)
    return fitting(Segmentation(SmallUNet(), partial(Adam, lr=3e-3)), *halves(x, mask), epochs=4, batch=16)


class Reconstruction(Task):
    def loss(self, batch: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        (x,) = batch
        return F.mse_loss(self(x), x), {}


@CASES.healthy("images-through-a-bottleneck", story="A convolutional autoencoder with a squared loss.")
def autoencoder(images: Images) -> Session:
    net = nn.Sequential(
        conv_unit(3, 16, 2),
        conv_unit(16, 32, 2),
        nn.Conv2d(32, 12, 3, 2, 1),
        nn.ConvTranspose2d(12, 32, 2, 2),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 2, 2),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 3, 2, 2),
    )
    (x, _), (val_x, _) = standard(images)
    return fitting(
        Reconstruction(net, partial(Adam, lr=2e-3)),
        TensorDataset(x[::2]),
        TensorDataset(val_x),
        epochs=4,
        batch=32,
    )


class Variational(Task):
    """The evidence lower bound of grey images, with Bernoulli pixels and 12 normal latents."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), partial(Adam, lr=1e-3))
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 24))
        self.decoder = nn.Sequential(nn.Linear(12, 128), nn.ReLU(), nn.Linear(128, 256))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_var = self.encoder(x).chunk(2, dim=1)
        latent = mean + torch.randn_like(mean) * (0.5 * log_var).exp()
        return self.decoder(latent), mean, log_var

    def loss(self, batch: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        (x,) = batch
        logits, mean, log_var = self(x)
        pixels = F.binary_cross_entropy_with_logits(logits, x.flatten(1), reduction="sum") / len(x)
        divergence = 0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum(1).mean()
        return pixels + divergence, {"divergence": divergence}


@CASES.healthy(
    "variational-autoencoder", story="A VAE on grey values, loss summed over pixels as in the usual example."
)
def variational(images: Images) -> Session:
    train, val = TensorDataset(greys(images.train_x)), TensorDataset(greys(images.val_x))
    return fitting(Variational(), train, val, epochs=8)


class NoisePredictor(nn.Module):
    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.time = nn.Embedding(50, width)
        self.enter, self.middle = nn.Linear(2, width), nn.Linear(width, width)
        self.leave = nn.Linear(width, 2)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        hidden = F.silu(self.enter(x) + self.time(t))
        return self.leave(F.silu(self.middle(hidden)) + hidden)


class Diffusion(Task):
    """Predicts the noise that was mixed into points on a spiral."""

    def loss(self, batch: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        (x,) = batch
        t = torch.randint(50, (len(x),), device=x.device)
        kept = torch.cos(0.5 * torch.pi * (t + 1) / 51).square().unsqueeze(1)
        noise = torch.randn_like(x)
        return F.mse_loss(self(kept.sqrt() * x + (1 - kept).sqrt() * noise, t), noise), {}


@CASES.healthy(
    "noise-of-a-diffusion",
    story="A diffusion model of points: the loss stays high by its nature.",
)
def diffusion(images: Images) -> Session:
    angle = torch.rand(4000) * 9
    points = torch.stack([angle * angle.cos(), angle * angle.sin()], 1) / 5 + 0.03 * torch.randn(4000, 2)
    return fitting(Diffusion(NoisePredictor(), partial(Adam, lr=2e-3)), *halves(points), epochs=12)


# ------------------------------------------------------------------------------------- adversaries


def rings(count: int) -> Tensor:
    """Grey images [N, 1, 16, 16] in -1..1 of a ring of random radius."""
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    radius = (3 + 3 * torch.rand(count)).view(-1, 1, 1)
    far = ((rows - 7.5) ** 2 + (columns - 7.5) ** 2).sqrt()
    return (2 * torch.exp(-((far - radius) ** 2)) - 1).unsqueeze(1)


class Adversaries(Task):
    """Generator and discriminator in turn, by manual optimization; validated on pooled pixels."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())
        self.automatic_optimization = False
        self.generator = nn.Sequential(
            nn.Linear(16, 32 * 16),
            nn.Unflatten(1, (32, 4, 4)),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 16, 4, 2, 1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 1, 4, 2, 1),
            nn.Tanh(),
        )
        self.discriminator = nn.Sequential(
            nn.Conv2d(1, 16, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(16, 32, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
            nn.Linear(32 * 16, 1),
        )

    def forward(self, noise: Tensor) -> Tensor:
        return self.generator(noise)

    def drawn(self, like: Tensor) -> Tensor:
        return self(torch.randn(len(like), 16, device=like.device))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        (real,) = batch
        optimizers: Any = self.optimizers()
        first, second = optimizers
        ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)

        self.toggle_optimizer(first)
        believed = F.binary_cross_entropy_with_logits(self.discriminator(self.drawn(real)), ones)
        first.zero_grad()
        self.manual_backward(believed)
        first.step()
        self.untoggle_optimizer(first)

        self.toggle_optimizer(second)
        told = F.binary_cross_entropy_with_logits(self.discriminator(real), ones)
        told = told + F.binary_cross_entropy_with_logits(self.discriminator(self.drawn(real).detach()), zeros)
        second.zero_grad()
        self.manual_backward(told / 2)
        second.step()
        self.untoggle_optimizer(second)
        self.note("train", {"generator": believed, "discriminator": told / 2})

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        (real,) = batch
        self.note("val", {"loss": (self.drawn(real).mean(0) - real.mean(0)).abs().mean()})

    def configure_optimizers(self) -> Any:
        return [
            Adam(self.generator.parameters(), lr=1e-3, betas=(0.5, 0.999)),
            Adam(self.discriminator.parameters(), lr=1e-3, betas=(0.5, 0.999)),
        ]


@CASES.healthy("rings-by-adversaries", story="A convolutional GAN with two optimizers used in turn.")
def adversaries(images: Images) -> Session:
    return fitting(Adversaries(), *halves(rings(1600)), epochs=6, batch=32)


class Critic(Task):
    """WGAN with a gradient penalty on points around eight centres; three critic steps to one."""

    def __init__(self) -> None:
        super().__init__(nn.Identity())
        self.automatic_optimization = False
        self.generator = nn.Sequential(
            nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)
        )
        self.critic = nn.Sequential(
            nn.Linear(2, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1)
        )

    def drawn(self, like: Tensor) -> Tensor:
        return self.generator(torch.randn(len(like), 4, device=like.device))

    def slope_penalty(self, real: Tensor, made: Tensor) -> Tensor:
        share = torch.rand(len(real), 1)
        between = (share * real + (1 - share) * made).requires_grad_()
        (slope,) = torch.autograd.grad(self.critic(between).sum(), between, create_graph=True)
        return (slope.norm(dim=1) - 1).square().mean()

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        (real,) = batch
        optimizers: Any = self.optimizers()
        for_generator, for_critic = optimizers
        made = self.drawn(real).detach()
        loss = self.critic(made).mean() - self.critic(real).mean() + 2 * self.slope_penalty(real, made)
        for_critic.zero_grad()
        self.manual_backward(loss)
        for_critic.step()
        self.note("train", {"critic": loss})
        if batch_idx % 3 == 2:
            loss = -self.critic(self.drawn(real)).mean()
            for_generator.zero_grad()
            self.manual_backward(loss)
            for_generator.step()
            self.note("train", {"generator": loss})

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        (real,) = batch
        made = self.drawn(real)
        apart = 2 * torch.cdist(real, made).mean() - torch.cdist(real, real).mean()
        self.note("val", {"loss": apart - torch.cdist(made, made).mean()})

    def configure_optimizers(self) -> Any:
        settings: Any = {"lr": 2e-3, "betas": (0.5, 0.9)}
        return [Adam(self.generator.parameters(), **settings), Adam(self.critic.parameters(), **settings)]


@CASES.healthy("critic-with-gradient-penalty", story="WGAN-GP: the penalty differentiates by its inputs.")
def critic(images: Images) -> Session:
    angle = torch.randint(8, (3200,)) * torch.pi / 4
    points = 2 * torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(3200, 2)
    return fitting(Critic(), *halves(points), epochs=12)


# ------------------------------------------------------------------------------------------ sequences


class Recurrent(nn.Module):
    def __init__(self, letters: int, width: int = 96) -> None:
        super().__init__()
        self.embed = nn.Embedding(letters, 32)
        self.recur = nn.GRU(32, width, batch_first=True)
        self.head = nn.Linear(width, letters)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.recur(self.embed(tokens))[0])


class Causal(nn.Module):
    """A small GPT whose output layer is its embedding."""

    def __init__(self, letters: int, length: int, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding(letters, width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        nn.init.normal_(self.embed.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, 0.0, F.gelu, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, letters, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        length = tokens.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
        x = self.embed(tokens) + self.places[:length]
        return self.head(self.norm(self.blocks(x, mask=mask)))


class NextLetter(Task):
    def loss(self, batch: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        (tokens,) = batch
        logits = self(tokens[:, :-1]).flatten(0, 1)
        targets = tokens[:, 1:].flatten()
        return F.cross_entropy(logits, targets), {"acc": correct(logits, targets)}


@CASES.healthy(
    "letters-by-a-recurrent-net", story="A GRU for the next letter of sentences, gradients clipped at 1."
)
def letters_recurrent(images: Images) -> Session:
    windows, letters = sentences(1600, 40)
    module = NextLetter(Recurrent(letters), partial(Adam, lr=5e-3))
    return fitting(module, *halves(windows), epochs=3, batch=32, gradient_clip_val=1.0)


@CASES.healthy("letters-by-a-tied-transformer", story="A small GPT whose output weights are its embedding.")
def letters_tied(images: Images) -> Session:
    windows, letters = sentences(1600, 32)
    return fitting(
        NextLetter(Causal(letters, 32), partial(AdamW, lr=3e-3)), *halves(windows), epochs=4, batch=32
    )


class Packed(nn.Module):
    def __init__(self, symbols: int, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, 24, padding_idx=0)
        self.recur = nn.LSTM(24, width, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, 2)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(
            self.embed(tokens), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        _, (last, _) = self.recur(packed)
        return self.head(torch.cat([last[0], last[1]], 1))


class Sentiment(Task):
    def loss(self, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        tokens, lengths, y = batch
        logits = self(tokens, lengths)
        return F.cross_entropy(logits, y), {"acc": correct(logits, y)}


class Opinions(Dataset):
    """Token sequences of 4 to 20 of 40 symbols; those below 10 speak for class 1, those above 30 for 0."""

    def __init__(self, count: int, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        lengths = torch.randint(4, 21, (count,), generator=draw)
        self.rows = [torch.randint(1, 40, (int(n),), generator=draw) for n in lengths]
        self.y = torch.tensor([int((row < 10).sum() > (row > 30).sum()) for row in self.rows])

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, place: int) -> Pair:
        return self.rows[place], self.y[place]

    @staticmethod
    def collate(items: list[Pair]) -> tuple[Tensor, Tensor, Tensor]:
        rows = [row for row, _ in items]
        lengths = torch.tensor([len(row) for row in rows])
        return pad_sequence(rows, batch_first=True), lengths, torch.stack([y for _, y in items])


@CASES.healthy("opinions-in-packed-sequences", story="An LSTM over sequences of uneven length, packed.")
def opinions(images: Images) -> Session:
    return fitting(
        Sentiment(Packed(40), partial(Adam, lr=3e-3)),
        Opinions(1500, 1),
        Opinions(400, 2),
        epochs=5,
        batch=32,
        collate=Opinions.collate,
    )


# --------------------------------------------------------------------------------- graphs, embeddings


class GraphNet(nn.Module):
    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(inputs, 32), nn.Linear(32, classes)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        x = F.dropout(F.relu(adjacency @ self.first(x)), 0.5, self.training)
        return adjacency @ self.second(x)


class Nodes(Task):
    """Classes of a graph's nodes, from one batch that is the whole graph and the labels of some nodes."""

    def loss(self, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        x, adjacency, y, known = batch
        logits = self(x, adjacency)[known]
        return F.cross_entropy(logits, y[known]), {"acc": correct(logits, y[known])}


@CASES.healthy("nodes-of-one-graph", story="A two-layer graph convolution; the whole graph is the one batch.")
def nodes_of_one_graph(images: Images) -> Session:
    y = torch.arange(300) % 5
    linked = torch.rand(300, 300) < torch.where(y[:, None] == y[None], 0.08, 0.01)
    linked = (linked | linked.T | torch.eye(300, dtype=torch.bool)).float()
    degree = linked.sum(1).rsqrt()
    adjacency = degree[:, None] * linked * degree[None]
    x = torch.randn(300, 20) + 0.6 * torch.randn(5, 20)[y]
    order = torch.randperm(300)
    known, held = torch.zeros(300, dtype=torch.bool), torch.zeros(300, dtype=torch.bool)
    known[order[:80]], held[order[150:]] = True, True
    module = Nodes(GraphNet(20, 5), partial(Adam, lr=1e-2, weight_decay=5e-4))
    return Session(
        module,
        DataLoader([(x, adjacency, y, known)], batch_size=None),  # type: ignore[arg-type]
        DataLoader([(x, adjacency, y, held)], batch_size=None),  # type: ignore[arg-type]
        {"max_epochs": 60, "check_val_every_n_epoch": 5},
    )


def one_shape(count: int, seed: int) -> Pair:
    """Images of one shape each and which it is: a disc or a square."""
    x, _, numbers = shapes(4 * count, size=20, most=1, seed=seed)
    shown = numbers.sum(1) > 0
    return x[shown][:count], numbers[shown][:count, 1].long()


def embedder(width: int = 16) -> nn.Sequential:
    return nn.Sequential(
        conv_unit(1, 16, 2, "group"),
        conv_unit(16, 32, 1, "group"),
        conv_unit(32, 32, 1, "group"),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(32, width),
    )


class Pairs(Dataset):
    """An image, another drawn at random, and whether their shapes are the same, as a dictionary."""

    def __init__(self, count: int, seed: int) -> None:
        self.x, self.y = one_shape(count, seed)

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, place: int) -> dict[str, Tensor]:
        other = int(torch.randint(len(self), (1,)))
        same = (self.y[place] == self.y[other]).float()
        return {"left": self.x[place], "right": self.x[other], "same": same}


class Siamese(Task):
    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        apart = F.pairwise_distance(self(batch["left"]), self(batch["right"]))
        same = batch["same"]
        loss = (same * apart.square() + (1 - same) * F.relu(1 - apart).square()).mean()
        return loss, {"acc": ((apart < 0.5).float() == same).float().mean()}


@CASES.healthy("same-shape-or-not", story="A siamese network with the contrastive loss, batches as dicts.")
def same_shape(images: Images) -> Session:
    return fitting(
        Siamese(embedder(), partial(Adam, lr=3e-3)), Pairs(1500, 3), Pairs(400, 4), epochs=5, batch=16
    )


class Triplets(Task):
    """The mean over all triplets of a batch, most of which are soon apart by the margin."""

    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        features = F.normalize(self(x), dim=1)
        apart = torch.cdist(features, features)
        same = y[:, None] == y[None]
        anchors = same[:, :, None] & ~same[:, None, :] & ~torch.eye(len(y), dtype=torch.bool)[:, :, None]
        gaps = (apart[:, :, None] - apart[:, None, :])[anchors]
        return F.relu(gaps + 0.3).mean(), {"acc": (gaps < 0).float().mean()}


@CASES.healthy(
    "triplets-of-a-batch", story="A triplet loss over all triplets of a batch, which starts at its margin."
)
def triplets(images: Images) -> Session:
    x, y = one_shape(1500, 8)
    return fitting(Triplets(embedder(), partial(Adam, lr=1e-3)), *halves(x, y), epochs=6, batch=16)


class TwoViews(Task):
    """SimCLR's loss between two augmented views of each image."""

    def views(self, x: Tensor) -> Tensor:
        both = torch.cat([x, x])
        both = torch.where(torch.rand(len(both), 1, 1, 1) < 0.5, both, both.flip(-1))
        both = both * (0.6 + 0.8 * torch.rand(len(both), 1, 1, 1)) + 0.3 * torch.randn(len(both), 3, 1, 1)
        row, column = torch.randint(0, 8, (2,)).tolist()
        return both[:, :, row : row + 24, column : column + 24]

    def loss(self, batch: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        (x,) = batch
        features = F.normalize(self(self.views(x)), dim=1)
        alike = features @ features.T / 0.2
        alike.fill_diagonal_(-1e9)
        partner = torch.arange(len(features)).roll(len(x))
        return F.cross_entropy(alike, partner), {"acc": correct(alike, partner)}


@CASES.healthy(
    "two-views-of-each-image",
    story="Contrastive learning without labels; images of a batch meet.",
)
def two_views(images: Images) -> Session:
    net = nn.Sequential(
        conv_unit(3, 24, 2, "batch"),
        conv_unit(24, 48, 2, "batch"),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Linear(9 * 48, 64),
        nn.ReLU(),
        nn.Linear(64, 32),
    )
    (x, _), (val_x, _) = standard(images)
    return fitting(
        TwoViews(net, partial(Adam, lr=1e-3)), TensorDataset(x[::2]), TensorDataset(val_x[::5]), epochs=3
    )


# ------------------------------------------------------------------------ other targets than one class


class Tags(Task):
    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        logits = self(x)
        return F.binary_cross_entropy_with_logits(logits, y), {"acc": ((logits > 0) == y).float().mean()}


@CASES.healthy("several-tags-an-image", story="Four yes-or-no tags for each image, some of them rare.")
def several_tags(images: Images) -> Session:
    x, mask, numbers = shapes(3000)
    large = (mask > 0).float().mean((1, 2)) > 0.2
    tags = torch.stack([numbers[:, 0] > 0, numbers[:, 1] > 0, numbers.sum(1) > 2, large], 1).float()
    net = nn.Sequential(
        conv_unit(1, 16, 2, "batch"),
        conv_unit(16, 32, 2, "batch"),
        conv_unit(32, 32, 1, "batch"),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 32, 4),
    )
    return fitting(Tags(net, partial(Adam, lr=1e-3)), *halves(x, tags), epochs=6, batch=32)


class OneLogit(Classifier):
    """Animals against vehicles by one logit, positives weighted by their rarity."""

    def measure(self, batch: Pair, stage: str) -> Tensor:
        x, y = batch
        vehicle = ((y < 2) | (y > 7)).float()
        logit = self(x).squeeze(1)
        loss = F.binary_cross_entropy_with_logits(logit, vehicle, pos_weight=torch.tensor(1.5))
        accuracy = ((logit > 0) == vehicle).float().mean()
        values = {f"{stage}/loss": loss, f"{stage}/acc": accuracy}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(y))
        return loss


@CASES.healthy("animal-or-vehicle", story="Two classes by one logit, with a weight on the rarer one.")
def animal_or_vehicle(images: Images) -> Session:
    net = plain_cnn(20, norm="batch")
    net[-1] = nn.Linear(16 * 40, 1)
    return run(OneLogit(net, partial(SGD, lr=0.02, momentum=0.9)), images, 3)


class Ranks(nn.Module):
    """One score and as many ordered cuts as there are ranks above the first."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__()
        self.trunk = trunk
        self.cuts = nn.Parameter(torch.tensor([1.0, 0.0, -1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.trunk(x) + self.cuts


class Ordinal(Task):
    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        x, rank = batch
        above = (rank[:, None] > torch.arange(3)).float()
        logits = self(x)
        guess = (logits > 0).sum(1)
        loss = F.binary_cross_entropy_with_logits(logits, above)
        return loss, {"acc": (guess == rank).float().mean(), "off": (guess - rank).abs().float().mean()}


@CASES.healthy("how-many-shapes", story="Ordinal regression: a score against three learned cuts.")
def how_many_shapes(images: Images) -> Session:
    x, _, numbers = shapes(1600, seed=9)
    trunk = nn.Sequential(
        conv_unit(1, 16, 2, "group"),
        conv_unit(16, 32, 2, "group"),
        conv_unit(32, 32, 2, "group"),
        nn.Flatten(),
        nn.Linear(32 * 9, 1),
    )
    rank = numbers.sum(1).long()
    return fitting(Ordinal(Ranks(trunk), partial(Adam, lr=2e-3)), *halves(x, rank), epochs=6, batch=32)


# ------------------------------------------------------------------------------ reinforcement, few shots


class Bandit(Task):
    """REINFORCE with a running baseline: the loss's value says nothing, the reward does."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.register_buffer("baseline", torch.tensor(0.0))
        self.baseline: Tensor

    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        state, rewards = batch
        policy = torch.distributions.Categorical(logits=self(state))
        action = policy.sample()
        reward = rewards.gather(1, action[:, None]).squeeze(1)
        loss = -(policy.log_prob(action) * (reward - self.baseline)).mean() - 0.01 * policy.entropy().mean()
        if self.training:
            self.baseline.lerp_(reward.mean(), 0.05)
        return loss, {"reward": reward.mean()}


@CASES.healthy("policy-by-its-rewards", story="A policy gradient on contexts with six actions.")
def policy_by_rewards(images: Images) -> Session:
    state = torch.randn(4000, 10)
    best = (state @ torch.randn(10, 6)).argmax(1)
    rewards = F.one_hot(best, 6) + 0.1 * torch.randn(4000, 6)
    net = nn.Sequential(nn.Linear(10, 64), nn.Tanh(), nn.Linear(64, 6))
    return fitting(Bandit(net, partial(Adam, lr=5e-3)), *halves(state, rewards), epochs=10)


class TargetNetwork(Task):
    """Q-learning from stored transitions against a slow copy of the network, which nothing trains."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.target = copy.deepcopy(self.net).requires_grad_(False)

    def loss(self, batch: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        state, action, reward, following, done = batch
        value = self(state).gather(1, action[:, None]).squeeze(1)
        with torch.no_grad():
            ahead = reward + 0.9 * (1 - done) * self.target(following).amax(1)
        return F.smooth_l1_loss(value, ahead), {"value": value.mean()}

    def on_train_batch_end(self, *args: Any) -> None:
        if self.global_step % 50 == 0:
            self.target.load_state_dict(self.net.state_dict())

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.net.parameters())


@CASES.healthy(
    "values-against-a-slow-copy",
    story="DQN on a grid: the targets come from a copy of the network.",
)
def values_against_a_copy(images: Images) -> Session:
    place = torch.randint(6, (4000, 2))
    action = torch.randint(4, (4000,))
    step = torch.tensor([[0, 1], [0, -1], [1, 0], [-1, 0]])[action]
    after = (place + step).clamp(0, 5)
    done = (after == 5).all(1).float()
    state, following = ((each.float() - 2.5) / 1.7 for each in (place, after))
    net = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4))
    module = TargetNetwork(net, partial(Adam, lr=1e-3))
    return fitting(module, *halves(state, action, done - 0.05, following, done), epochs=15)


class InnerSteps(Task):
    """MAML on sine curves: a step on ten points of each curve, then the loss on ten others."""

    def loss(self, batch: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        x, y = batch
        losses, before = [], []
        with torch.enable_grad():
            for points, values in zip(x, y, strict=True):
                weights = dict(self.net.named_parameters())
                inner = F.mse_loss(self(points[:10]), values[:10])
                slopes = torch.autograd.grad(inner, list(weights.values()), create_graph=self.training)
                moved = {
                    name: weight - 0.1 * slope
                    for (name, weight), slope in zip(weights.items(), slopes, strict=True)
                }
                losses.append(F.mse_loss(functional_call(self.net, moved, (points[10:],)), values[10:]))
                before.append(F.mse_loss(self(points[10:]), values[10:]).detach())
        return torch.stack(losses).mean(), {"before": torch.stack(before).mean()}


@CASES.healthy("a-start-for-few-points", story="MAML: a gradient step inside the loss, by functional_call.")
def start_for_few_points(images: Images) -> Session:
    x = torch.rand(750, 20, 1) * 6 - 3
    height, shift = 0.5 + 2 * torch.rand(750, 1, 1), torch.pi * torch.rand(750, 1, 1)
    net = nn.Sequential(nn.Linear(1, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 1))
    return fitting(
        InnerSteps(net, partial(Adam, lr=3e-3)), *halves(x, height * torch.sin(x + shift)), epochs=5, batch=8
    )


# ------------------------------------------------------------------------------ images, in other ways


class Thawing(BaseFinetuning):
    """Trains the head alone at first, then the trunk's last stages with it at a tenth of the rate."""

    def freeze_before_training(self, pl_module: L.LightningModule) -> None:
        net: Any = pl_module.net
        self.freeze(net[:-1])

    def finetune_function(self, pl_module: L.LightningModule, epoch: int, optimizer: Optimizer) -> None:
        if epoch == 2:
            net: Any = pl_module.net
            self.unfreeze_and_add_param_group(net[1:-1], optimizer)


class FineTuned(Classifier):
    def configure_callbacks(self) -> list[Callback]:
        return [Thawing()]

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(filter(lambda parameter: parameter.requires_grad, self.parameters()))


def pretrained_trunk(images: Images) -> tuple[nn.Sequential, Pair]:
    """A network trained on one half of the images, with a new head, and the other half."""
    (x, y), _ = standard(images)
    net = pretrained(plain_cnn(20, norm="batch"), x[::2], y[::2], 3)
    net[-1] = nn.Linear(16 * 40, NUM_CLASSES)
    return net, (x[1::2], y[1::2])


@CASES.healthy(
    "thawed-after-two-epochs", story="Fine-tuning by BaseFinetuning: the head first, the trunk later."
)
def thawed(images: Images) -> Session:
    net, train = pretrained_trunk(images)
    return run(FineTuned(net, partial(Adam, lr=1e-3)), images, 4, train=train)


class HeadOnly(Classifier):
    def configure_optimizers(self) -> Any:
        return self.make_optimizer(filter(lambda parameter: parameter.requires_grad, self.parameters()))


@CASES.healthy(
    "head-on-a-frozen-trunk", story="requires_grad=False on a trained trunk, optimizer filtered, train mode."
)
def head_on_frozen_trunk(images: Images) -> Session:
    net, train = pretrained_trunk(images)
    for parameter in net[:-1].parameters():
        parameter.requires_grad = False
    return run(HeadOnly(net, partial(SGD, lr=0.01, momentum=0.9)), images, 3, train=train)


class CutAndPasted(Classifier):
    """CutMix: a rectangle of another image is pasted in, labels are mixed by area."""

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        x, y = batch
        other = torch.randperm(len(y))
        side = int(torch.randint(8, 24, (1,)))
        row, column = torch.randint(0, 33 - side, (2,)).tolist()
        x = x.clone()
        x[:, :, row : row + side, column : column + side] = x[
            other, :, row : row + side, column : column + side
        ]
        share = 1 - side * side / 1024
        logits = self(x)
        loss = share * F.cross_entropy(logits, y) + (1 - share) * F.cross_entropy(logits, y[other])
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss


@CASES.healthy("cut-and-pasted", story="CutMix throughout: training loss stays above validation loss.")
def cut_and_pasted(images: Images) -> Session:
    return run(CutAndPasted(residual_net(20), partial(AdamW, lr=3e-3)), images, 4)


class SlowCopy(Classifier):
    """Validates torch's AveragedModel, updated after each step."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.average = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(0.97), use_buffers=True)

    def on_train_batch_end(self, *args: Any) -> None:
        self.average.update_parameters(self.net)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) if self.training else self.average(x)

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.net.parameters())


@CASES.healthy(
    "average-of-weights-and-buffers",
    story="An AveragedModel inside the module, with its buffers.",
)
def average_of_weights(images: Images) -> Session:
    return run(SlowCopy(plain_cnn(24, norm="batch"), partial(SGD, lr=0.05, momentum=0.9)), images, 4)


class Distilled(Classifier):
    """Learns a frozen teacher's softened outputs and the labels."""

    def __init__(self, *args: Any, teacher: nn.Module) -> None:
        super().__init__(*args)
        self.teacher = teacher.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Distilled:
        super().train(mode)
        self.teacher.eval()
        return self

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self(x)
        with torch.no_grad():
            soft = F.softmax(self.teacher(x) / 3, dim=1)
        taught = 9 * F.kl_div(F.log_softmax(logits / 3, dim=1), soft, reduction="batchmean")
        loss = 0.7 * taught + 0.3 * F.cross_entropy(logits, y)
        values = {"train/loss": loss, "train/taught": taught}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(y))
        return loss


@CASES.healthy(
    "taught-by-a-larger-net",
    story="Distillation: a frozen teacher in eval mode gives soft targets.",
)
def taught(images: Images) -> Session:
    (x, y), _ = standard(images)
    teacher = pretrained(plain_cnn(32, norm="batch"), x, y, 3)
    return run(Distilled(plain_cnn(12), partial(Adam, lr=3e-3), teacher=teacher), images, 4)


class OneCycle(Classifier):
    """Label smoothing, and one cycle of the rate that starts at a twenty-fifth of its height."""

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, label_smoothing=0.1)

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedule = OneCycleLR(
            optimizer, max_lr=0.15, total_steps=int(self.trainer.estimated_stepping_batches)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@CASES.healthy("one-cycle-and-smoothed-labels", story="OneCycleLR each step, and label smoothing of 0.1.")
def one_cycle(images: Images) -> Session:
    module = OneCycle(residual_net(20), partial(SGD, lr=0.006, momentum=0.9, weight_decay=5e-4))
    return run(module, images, 4)


@CASES.healthy("accumulated-by-the-trainer", story="accumulate_grad_batches=4 on batches of 16.")
def accumulated(images: Images) -> Session:
    module = Classifier(plain_cnn(24, norm="group"), partial(AdamW, lr=2e-3))
    return run(module, images, 3, 16, accumulate_grad_batches=4)


class AveragedByHand(Classifier):
    """Manual optimization: four batches a step, their losses divided by four."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.automatic_optimization = False

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        optimizer: Any = self.optimizers()
        loss = self.measure(batch, "train")
        self.manual_backward(loss / 4)
        if (batch_idx + 1) % 4 == 0:
            self.clip_gradients(optimizer, gradient_clip_val=5.0, gradient_clip_algorithm="norm")
            optimizer.step()
            optimizer.zero_grad()
        return loss


@CASES.healthy("accumulated-and-averaged", story="Accumulation by hand, each loss divided by four, clipped.")
def averaged_by_hand(images: Images) -> Session:
    return run(AveragedByHand(plain_cnn(24), partial(SGD, lr=0.05, momentum=0.9)), images, 3, 16)


@CASES.healthy("mixed-precision", story='Trainer(precision="bf16-mixed").')
def mixed_precision(images: Images) -> Session:
    net = nn.Sequential(
        nn.Flatten(),
        nn.Linear(3072, 128),
        nn.LayerNorm(128),
        nn.GELU(),
        nn.Linear(128, 64),
        nn.GELU(),
        nn.Linear(64, NUM_CLASSES),
    )
    return run(Classifier(net, partial(AdamW, lr=5e-4)), images, 4, precision="bf16-mixed")


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Sequential(conv_unit(3, 24, 2, "group"), conv_unit(24, 40, 2, "group"))
        self.late = conv_unit(40, 48, 2, "group")
        self.side = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16 * 40, NUM_CLASSES))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(16 * 48, NUM_CLASSES))

    def forward(self, x: Tensor) -> Any:
        x = self.early(x)
        logits = self.head(self.late(x))
        return (logits, self.side(x)) if self.training else logits


class DeeplySupervised(Classifier):
    """A second head halfway, whose loss counts 0.3 and which is dropped in validation."""

    def training_step(self, batch: Pair, batch_idx: int) -> Tensor:
        x, y = batch
        logits, side = self(x)
        loss = F.cross_entropy(logits, y) + 0.3 * F.cross_entropy(side, y)
        values = {"train/loss": loss, "train/acc": correct(logits, y)}
        self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(y))
        return loss


@CASES.healthy(
    "a-second-head-halfway",
    story="An auxiliary head in training only: outputs are a tuple there.",
)
def second_head(images: Images) -> Session:
    return run(DeeplySupervised(TwoHeads(), partial(Adam, lr=2e-3)), images, 4)
