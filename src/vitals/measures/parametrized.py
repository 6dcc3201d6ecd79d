"""The weights of a layer whose weights may be made of others, such as those of a spectral norm.

To ask such a layer for its weight may change the layer: a spectral norm takes a step of its power iteration,
others draw random numbers.
"""

import copy
from typing import Any

import torch
from torch import nn
from torch.nn.utils.parametrize import is_parametrized


def as_kept(layer: nn.Module, name: str) -> Any:
    """The attribute `name` of `layer`, or what it is made of where it is parametrized; None where that is
    several tensors, or there is no such attribute."""
    if is_parametrized(layer, name):
        return getattr(layer.parametrizations[name], "original", None)  # type: ignore[index]
    return getattr(layer, name, None)


def as_made(layer: nn.Module, name: str) -> Any:
    """The attribute `name` of `layer` as the layer uses it, of a copy where it is parametrized; None where
    there is none."""
    if not is_parametrized(layer, name):
        return getattr(layer, name, None)
    with torch.random.fork_rng(), torch.no_grad():
        return getattr(copy.deepcopy(layer), name)
