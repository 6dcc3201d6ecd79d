"""Dropout that goes on in evaluation mode, told from dropout that knows its mode and from what is meant."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitals.checks.validation_mode import dropout_left_on


class Function(nn.Module):
    def __init__(self, told: bool) -> None:
        super().__init__()
        self.told = told

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.3, training=self.training) if self.told else F.dropout(x, 0.3)


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x, None, 0.1)


class MonteCarlo(nn.Dropout):
    """Drops always, and says so in its name."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.p, True)


@pytest.mark.parametrize(
    ("module", "seen"),
    [
        (Function(told=False), ["dropout"]),
        (Function(told=True), []),
        (Attention(), ["scaled_dot_product_attention"]),
        (nn.Dropout(0.5), []),
        (nn.Sequential(MonteCarlo(0.5)), []),
        (nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1, batch_first=True), []),
        (nn.MultiheadAttention(4, 2, dropout=0.1, batch_first=True), []),
    ],
    ids=lambda value: type(value).__name__,
)
def test_only_functions_that_are_not_told_of_the_mode_are_seen(module: nn.Module, seen: list[str]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4)
    whole = module if not isinstance(module, nn.MultiheadAttention) else SelfAttention(module)
    assert dropout_left_on(whole, x) == seen


class SelfAttention(nn.Module):
    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]
