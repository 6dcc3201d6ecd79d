"""The weights of a layer whose weights may be made of others, such as those of a spectral norm."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils.parametrize import is_parametrized


def as_kept(layer: nn.Module, name: str) -> Any:
    """The attribute `name` of `layer`, or what it is made of where it is parametrized; None where that is
    several tensors, or there is no such attribute.

    To ask a parametrized layer for its weight may change the layer: a spectral norm takes a step of its power
    iteration, others draw random numbers.
    """
    if is_parametrized(layer, name):
        return getattr(layer.parametrizations[name], "original", None)  # type: ignore[index]
    return getattr(layer, name, None)
