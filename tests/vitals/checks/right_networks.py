"""Small networks whose gradients are right, over the operations that make a gradient check cry wolf."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitals.checks.gradients.result import GradientCheck

conv = partial(nn.Conv2d, kernel_size=3, padding=1)


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + super().forward(x))


class TiedEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.hidden = nn.Embedding(7, 6), nn.Linear(6, 6)
        self.output = nn.Linear(6, 7, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.output(torch.tanh(self.hidden(self.embedding(tokens)).mean(1)))


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x, x, x)[0]


class RMSNormInFloat32(nn.Module):
    """As large language models have it, computing in float32 whatever it is given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = x.float()
        return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)).type_as(x) * self.weight


class Maxout(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.maximum(*super().forward(x).chunk(2, -1))


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.cell, self.head = (
            nn.Embedding(7, 5),
            nn.LSTM(5, 6, batch_first=True),
            nn.Linear(6, 5),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        start = torch.zeros(1, len(tokens), 6), torch.zeros(1, len(tokens), 6)
        return self.head(self.cell(self.embedding(tokens), start)[0][:, -1])


def _mlp(*between: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), *between, nn.Linear(16, 5))


def _images(*body: nn.Module, features: int) -> nn.Module:
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(features, 5))


@dataclass(frozen=True)
class Right:
    """A network of 5 classes; `shape` is that of one input, None for a sentence of four of 7 words."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] | None = (6,)
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy

    def arguments(self, samples: int, seed: int) -> tuple[nn.Module, Any, Tensor, Tensor]:
        """Model, loss, inputs and targets."""
        torch.manual_seed(seed)
        model = self.build()
        inputs = (
            torch.randint(0, 7, (samples, 4)) if self.shape is None else torch.randn(samples, *self.shape)
        )
        return model, self.loss, inputs, torch.randint(0, 5, (samples,))


IMAGE = (3, 8, 8)
WORDS = (5, 8)

RIGHT: dict[str, Right] = {
    "relu": Right(lambda: _mlp(nn.ReLU(), nn.Linear(16, 16), nn.ReLU(inplace=True))),
    "tanh": Right(lambda: _mlp(nn.Tanh(), nn.Linear(16, 16), nn.Sigmoid())),
    "gelu-dropout": Right(lambda: _mlp(nn.GELU(), nn.Dropout(0.5), nn.Linear(16, 16), nn.SiLU())),
    "batch-norm-1d": Right(lambda: _mlp(nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2))),
    "layer-norm": Right(
        lambda: _mlp(nn.LayerNorm(16), nn.PReLU(), nn.Linear(16, 16), RMSNormInFloat32(16), nn.SELU())
    ),
    "max-pool": Right(
        lambda: _images(
            conv(3, 6),
            nn.ReLU(),
            nn.MaxPool2d(2),
            conv(6, 6),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(2),
            features=24,
        ),
        IMAGE,
    ),
    "batch-norm-2d": Right(
        lambda: _images(
            conv(3, 6),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.MaxPool2d(2),
            conv(6, 6),
            nn.BatchNorm2d(6),
            features=96,
        ),
        IMAGE,
    ),
    "residual": Right(
        lambda: _images(
            conv(3, 6, bias=False),
            nn.BatchNorm2d(6),
            Residual(conv(6, 6, bias=False), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 6)),
            nn.AdaptiveAvgPool2d(2),
            features=24,
        ),
        IMAGE,
    ),
    "depthwise": Right(
        lambda: _images(
            conv(3, 6),
            nn.ReLU6(),
            conv(6, 6, groups=6),
            nn.BatchNorm2d(6),
            nn.Conv2d(6, 4, 1),
            nn.AvgPool2d(4),
            features=16,
        ),
        IMAGE,
    ),
    "hardswish": Right(
        lambda: _images(
            conv(3, 6),
            nn.Hardswish(),
            SqueezeExcite(6),
            conv(6, 6),
            nn.Hardtanh(),
            nn.AvgPool2d(4),
            features=24,
        ),
        IMAGE,
    ),
    "group-norm": Right(
        lambda: _images(
            conv(3, 6), nn.GroupNorm(2, 6), nn.LeakyReLU(), conv(6, 6), nn.ELU(), nn.AvgPool2d(2), features=96
        ),
        IMAGE,
    ),
    "attention": Right(
        lambda: nn.Sequential(SelfAttention(), nn.LayerNorm(8), nn.Flatten(), nn.Linear(40, 5)), WORDS
    ),
    "transformer": Right(
        lambda: nn.Sequential(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Flatten(), nn.Linear(40, 5)
        ),
        WORDS,
    ),
    "transformer-eval": Right(
        lambda: nn.Sequential(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Flatten(), nn.Linear(40, 5)
        ).eval(),
        WORDS,
    ),
    "tied-embedding": Right(TiedEmbedding, None),
    "lstm": Right(Recurrent, None),
    "maxout": Right(lambda: nn.Sequential(Maxout(6, 16), nn.Dropout(0.3), Maxout(8, 8), nn.Linear(4, 5))),
    "support-vectors": Right(lambda: _mlp(nn.ReLU()), loss=F.multi_margin_loss),
    "absolute-error": Right(lambda: _mlp(nn.ReLU()), loss=lambda y, t: F.l1_loss(y, F.one_hot(t, 5).float())),
}


def small_net(operation: nn.Module | None = None) -> tuple[nn.Module, Tensor, Tensor]:
    """Two linear layers with `operation`, else tanh, between them; 8 inputs and targets."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), operation or nn.Tanh(), nn.Linear(8, 5))
    return net, torch.randn(8, 6), torch.randint(0, 5, (8,))


def causes(check: GradientCheck, *levels: str) -> list[str]:
    """Of the findings of one of `levels`."""
    return [finding.cause for finding in check.findings() if finding.level in levels]
