"""Mutants of three small transformers, and odd but healthy ones: letters, image patches, marked sequences.

The operators are those that published benchmarks of transformer faults plant: scaling, masks, residuals,
normalization, queries and keys, embeddings, targets, padding, rates. Written before any rule was changed for
them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from clinic import NUM_CLASSES, CaseBook, Classifier, Images, Session
from healthy import Task, correct, fitting, halves, sentences
from torch import Tensor, nn
from torch.optim import Adam, AdamW
from torch.optim.lr_scheduler import LambdaLR
from wild import Pair, run

CASES = CaseBook()
ADAMW = partial(AdamW, lr=3e-3)
ADAM = partial(Adam, lr=2e-3)


class Attention(nn.Module):
    """Multi-head attention, N×L×D to N×L×D; `scale` is on the scores."""

    def __init__(self, width: int, heads: int = 4, causal: bool = False, scale: float | None = None) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.scale = scale if scale is not None else (width // heads) ** -0.5
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def weights(self, x: Tensor) -> Tensor:
        scores = self.scale * self.split(self.query(x)) @ self.split(self.key(x)).transpose(2, 3)
        if self.causal:
            length = x.shape[1]
            scores = scores.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), -math.inf)
        return scores.softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.weights(x) @ self.split(self.value(x))
        return self.out(mixed.transpose(1, 2).flatten(2))


CAUSAL = partial(Attention, causal=True)


class Block(nn.Module):
    """A block with its norms first."""

    def __init__(self, width: int, attention: nn.Module, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention, self.dropout = attention, nn.Dropout(dropout)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norms[0](x)))
        return x + self.dropout(self.mlp(self.norms[1](x)))


# ------------------------------------------------------------------------------------------ letters


class Letters(nn.Module):
    """A small GPT."""

    embed: nn.Module

    def __init__(self, letters: int, attention: Callable[[int], nn.Module], dropout: float = 0.0) -> None:
        super().__init__()
        width = 48
        self.embed = nn.Embedding(letters, width)
        self.places = nn.Parameter(0.02 * torch.randn(128, width))
        self.blocks = nn.Sequential(*(Block(width, attention(width), dropout) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, letters)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.places[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(x)))


class Next(Task):
    def pairs(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return tokens[:, :-1], tokens[:, 1:]

    def loss(self, batch: list[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        tokens, targets = self.pairs(batch[0])
        logits, targets = self(tokens).flatten(0, 1), targets.flatten()
        return F.cross_entropy(logits, targets), {"acc": correct(logits, targets)}


def letters(
    attention: Callable[[int], nn.Module] = CAUSAL,
    optimizer: Callable[..., Any] = ADAMW,
    task: type[Next] = Next,
    dropout: float = 0.0,
    padded: int = 0,
) -> Session:
    windows, count = sentences(1600, 32)
    if padded:
        windows = torch.cat([windows[:, :12], torch.full((len(windows), padded), count)], 1)
    net = Letters(count + 1, attention, dropout)
    return fitting(task(net, optimizer), *halves(windows), epochs=4, batch=32)


@CASES.sick(
    "scores-times-the-root",
    "saturated-activations",
    "bad-initialization",
    story="Multiplies the scores by the width where they are divided by the root of a head's.",
)
def scores_times_the_root(images: Images, fault: bool) -> Session:
    return letters(partial(Attention, causal=True, scale=48.0 if fault else None))


class Asks(Attention):
    """Queries and keys are made outside the graph."""

    def weights(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().weights(x)


@CASES.sick(
    "queries-without-gradients",
    "frozen-parameters",
    story="Put the scores under no_grad to save memory: queries and keys never learn.",
)
def queries_without_gradients(images: Images, fault: bool) -> Session:
    return letters(partial(Asks if fault else Attention, causal=True))


@CASES.sick(
    "rate-of-sgd-for-a-gpt",
    "learning-rate-too-high",
    story="AdamW at 0.1, the usual rate of SGD.",
)
def rate_of_sgd_for_a_gpt(images: Images, fault: bool) -> Session:
    return letters(optimizer=partial(AdamW, lr=0.1 if fault else 3e-3))


@CASES.sick(
    "keep-of-nine-tenths",
    "regularization-too-strong",
    story="Gave the blocks' dropout the share to keep, 0.95, and the embedding as well.",
)
def keep_of_nine_tenths(images: Images, fault: bool) -> Session:
    session = letters(dropout=0.95 if fault else 0.05)
    if fault:
        net: Any = session.module.net
        net.embed = nn.Sequential(net.embed, nn.Dropout(0.95))
    return session


class OfOthers(Next):
    """The targets are moved over the batch."""

    def pairs(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        return tokens[:, :-1], tokens.roll(-1, 0)[:, 1:]


@CASES.sick(
    "targets-rolled-over-the-batch",
    "labels-random",
    story="roll(-1, 0) where the next token is roll(-1, 1): the targets are those of another sentence.",
)
def targets_rolled_over_the_batch(images: Images, fault: bool) -> Session:
    return letters(task=OfOthers if fault else Next)


@CASES.sick(
    "padding-is-nine-in-ten",
    "class-imbalance",
    story="Sentences of 12 letters are padded to 112, and the loss counts the padding.",
)
def padding_is_nine_in_ten(images: Images, fault: bool) -> Session:
    return letters(padded=100 if fault else 2)


# ------------------------------------------------------------------------------------------- patches


class Patches(nn.Module):
    """A small ViT: a token for the class, and patches of 8×8 pixels."""

    def __init__(self, depth: int = 3, width: int = 64, block: Callable[..., nn.Module] = Block) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, width, 8, 8)
        self.of_class = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(0.02 * torch.randn(1, 17, width))
        self.blocks = nn.Sequential(*(block(width, self.attention(width)) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, NUM_CLASSES)

    def attention(self, width: int) -> nn.Module:
        return Attention(width)

    def tokens(self, x: Tensor) -> Tensor:
        return self.patch(x).flatten(2).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.of_class.expand(len(x), -1, -1), self.tokens(x)], 1) + self.places
        return self.head(self.norm(self.blocks(x))[:, 0])


def patches(images: Images, net: nn.Module, lr: float = 1e-3) -> Session:
    return run(Classifier(net, partial(AdamW, lr=lr)), images, epochs=6)


class Passing(Block):
    """Without residuals and norms."""

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.attention(x))


@CASES.sick(
    "six-blocks-without-residuals",
    "vanishing-gradients",
    "bad-initialization",
    story="Left out the residuals and norms of a ViT of six blocks.",
)
def six_blocks_without_residuals(images: Images, fault: bool) -> Session:
    return patches(images, Patches(6, block=Passing if fault else Block))


@CASES.sick(
    "unit-normal-in-a-vit",
    "bad-initialization",
    "saturated-activations",
    story="init.normal_ with its default deviation of 1 for every matrix.",
)
def unit_normal_in_a_vit(images: Images, fault: bool) -> Session:
    net = Patches()
    for parameter in net.parameters():
        if fault and parameter.ndim > 1:
            nn.init.normal_(parameter)
    return patches(images, net)


@CASES.sick(
    "rate-of-fine-tuning",
    "learning-rate-too-low",
    story="Trains from scratch at 2e-6, the rate of a recipe for fine-tuning.",
)
def rate_of_fine_tuning(images: Images, fault: bool) -> Session:
    return patches(images, Patches(), 2e-6 if fault else 1e-3)


class Alone(Attention):
    """The token of the class sees itself alone."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super().forward(x[:, :1]), super().forward(x[:, 1:])], 1)


class Blind(Patches):
    def attention(self, width: int) -> nn.Module:
        return Alone(width)


@CASES.sick(
    "class-token-sees-itself-alone",
    "input-constant",
    "underfitting",
    "frozen-parameters",
    story="The mask hides the patches from the class token: the logits know nothing of the image.",
)
def class_token_sees_itself_alone(images: Images, fault: bool) -> Session:
    return patches(images, Blind() if fault else Patches())


class Elsewhere(Patches):
    """The embedding of places is drawn anew in each pass."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.of_class.expand(len(x), -1, -1), self.tokens(x)], 1)
        return self.head(self.norm(self.blocks(x + 2 * torch.randn(1, 17, x.shape[2])))[:, 0])


@CASES.sick(
    "places-drawn-in-each-pass",
    "train-mode-evaluation",
    "regularization-too-strong",
    story="The embedding of places is made by randn in forward, in training and in validation.",
)
def places_drawn_in_each_pass(images: Images, fault: bool) -> Session:
    return patches(images, Elsewhere() if fault else Patches())


class ByView(Patches):
    def tokens(self, x: Tensor) -> Tensor:
        return self.patch(x.reshape(len(x), 3, 32, 32).transpose(2, 3)).flatten(2).transpose(1, 2)


@CASES.healthy(
    "patches-on-their-side", story="The images lie on their side, in training and validation alike."
)
def patches_on_their_side(images: Images) -> Session:
    return patches(images, ByView())


class ReZero(Block):
    """Residuals that begin at nothing, by a factor that learns."""

    def __init__(self, width: int, attention: nn.Module) -> None:
        super().__init__(width, attention)
        self.shares = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.shares[0] * self.attention(self.norms[0](x))
        return x + self.shares[1] * self.mlp(self.norms[1](x))


class Fixed(ReZero):
    """The same with factors that do not."""

    def __init__(self, width: int, attention: nn.Module) -> None:
        super().__init__(width, attention)
        del self.shares
        self.register_buffer("shares", torch.zeros(2))


class Pooled(Patches):
    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.of_class.expand(len(x), -1, -1), self.tokens(x)], 1) + self.places
        return self.head(self.norm(self.blocks(x)).mean(1))


@CASES.healthy(
    "residuals-from-nothing", story="ReZero: every block begins as the identity; its factors learn."
)
def residuals_from_nothing(images: Images) -> Session:
    return patches(images, Pooled(block=ReZero))


@CASES.sick(
    "residuals-of-nothing",
    "frozen-parameters",
    story="ReZero with its factors in a buffer: the blocks are the identity for ever.",
)
def residuals_of_nothing(images: Images, fault: bool) -> Session:
    return patches(images, Pooled(block=Fixed if fault else ReZero))


class WarmUp(L.LightningModule):
    """Takes the rate up over its first `steps`."""

    steps = 30
    make_optimizer: Callable[..., Any]

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameters())
        rate = LambdaLR(optimizer, lambda step: min((step + 1) / self.steps, 1.0))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}


class WarmedClassifier(WarmUp, Classifier):
    steps = 120


class After(Block):
    """Norms after the residuals, as in the first transformers."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norms[0](x + self.attention(x))
        return self.norms[1](x + self.mlp(x))


@CASES.healthy(
    "norms-after-and-warmed-up",
    story="Four blocks with their norms after the residuals, warmed up over a third of the steps.",
)
def norms_after_and_warmed_up(images: Images) -> Session:
    return run(WarmedClassifier(Patches(4, block=After), partial(AdamW, lr=1e-3)), images, epochs=6)


# -------------------------------------------------------------------------------- marked sequences


def marked(count: int = 3000, length: int = 16, symbols: int = 10, seed: int = 7) -> tuple[Tensor, Tensor]:
    """Sequences N×L of symbols, one of them marked by the symbol before it, and which it is."""
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(symbols, (count, length), generator=draw)
    places = torch.randint(8, length - 1, (count,), generator=draw)
    rows = torch.arange(count)
    tokens[rows, places] = symbols
    return tokens, tokens[rows, places + 1]


class Finder(nn.Module):
    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, width)
        self.places = nn.Parameter(0.1 * torch.randn(16, width))
        self.before = nn.Conv1d(width, width, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(width, Attention(width)) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.places[: tokens.shape[1]]
        x = x + self.before(x.transpose(1, 2)).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(1))


class Find(Task):
    def loss(self, batch: Pair) -> tuple[Tensor, dict[str, Tensor]]:
        tokens, y = batch
        logits = self(tokens)
        return F.cross_entropy(logits, y), {"acc": correct(logits, y)}


def finding(tokens: Tensor, y: Tensor, optimizer: Callable[..., Any] = ADAM) -> Session:
    return fitting(Find(Finder(), optimizer), *halves(tokens, y), epochs=6, batch=32)


@CASES.sick(
    "cut-before-what-matters",
    "labels-random",
    story="Truncates to the first 8 tokens, and what the label speaks of stands behind them.",
)
def cut_before_what_matters(images: Images, fault: bool) -> Session:
    tokens, y = marked()
    return finding(tokens[:, :8] if fault else tokens, y)


@CASES.sick(
    "vocabulary-of-another-corpus",
    "input-constant",
    story="None of the words is in the vocabulary: every token is that of an unknown word.",
)
def vocabulary_of_another_corpus(images: Images, fault: bool) -> Session:
    tokens, y = marked()
    return finding(torch.zeros_like(tokens) if fault else tokens, y)


class Warmed(WarmUp, Find):
    pass


class WarmedForLong(Warmed):
    steps = 400_000


@CASES.sick(
    "warmed-up-beyond-the-end",
    "learning-rate-too-low",
    story="The warm-up of a run of a million steps in a run of 450.",
)
def warmed_up_beyond_the_end(images: Images, fault: bool) -> Session:
    module = (WarmedForLong if fault else Warmed)(Finder(), ADAM)
    return fitting(module, *halves(*marked()), epochs=6, batch=32)


@CASES.healthy("a-few-places-and-dropout", story="The marked sequences as they are, with AdamW and decay.")
def a_few_places_and_dropout(images: Images) -> Session:
    return finding(*marked(), optimizer=partial(AdamW, lr=2e-3, weight_decay=0.1))
