"""Norms of many tensors at once."""

from collections.abc import Sequence
from contextlib import suppress
from itertools import islice

import torch
from torch import Tensor

from vitals.measures.double import double


def to_host(parts: Sequence[Tensor]) -> list[list[float]]:
    """The values of each part, of any shape, as a flat list, in a single transfer; all on one device."""
    if not parts:
        return []
    values = iter(torch.cat([part.detach().reshape(-1).float() for part in parts]).tolist())
    return [list(islice(values, part.numel())) for part in parts]


def norms(tensors: Sequence[Tensor], order: float = 2) -> Tensor:
    """The norm of this `order` of each of `tensors`, of any precisions, complex or sparse; (n,), float32, on
    the device of the first. 2 is Euclid's, infinity the largest absolute value."""
    if not tensors:
        return torch.zeros(0)
    listed = list(tensors)
    for prepare in (None, _values):  # nearly all are real and dense, and this is done at each step
        with suppress(RuntimeError):
            listed = listed if prepare is None else list(map(prepare, listed))
            # Half precision would overflow in the sum of squares.
            return torch.stack(torch._foreach_norm(listed, order, torch.float32))
    # Double cannot be summed in single, and some may lie on other devices.
    found = torch._foreach_norm([double(tensor) for tensor in listed], order)
    return torch.stack([norm.to(found[0].device) for norm in found]).float()


def dense(gradient: Tensor) -> Tensor:
    """The same with all its zeros: that of an embedding may be sparse."""
    return gradient if gradient.layout == torch.strided else gradient.to_dense()


def real(values: Tensor) -> Tensor:
    """The same numbers, real and imaginary parts side by side where `values` are complex."""
    return torch.view_as_real(values.resolve_conj()) if values.is_complex() else values


def _values(tensor: Tensor) -> Tensor:
    """Real and dense values of the same norm, at least one."""
    values = real(tensor.coalesce().values() if tensor.is_sparse else dense(tensor))
    return values if values.numel() else values.new_zeros(1)
