"""A batch of whatever make as tensors with one row for each sample, and back."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

VALUES = (str, bytes, int, float, type(None))


class Rows:
    """The make of a batch: tuples, dicts, named tuples, dataclasses, nested, with anything else in them.

    Args:
        batch: an example, whose first tensor that is no scalar has a row for each sample.
    """

    def __init__(self, batch: Any) -> None:
        self.example = batch
        sizes: list[int] = []
        replaced(batch, lambda leaf: sizes.append(len(leaf)) if isinstance(leaf, Tensor) and leaf.ndim else 0)
        self.size = sizes[0] if sizes else 0
        """Samples in the example; 0 where there is no tensor."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Rows:
        return self  # nothing in it is ever written to

    def of(self, batch: Any) -> tuple[Tensor, ...]:
        """The tensors of `batch` that have a row for each of its samples, in their order."""
        size = self.size if batch is self.example else Rows(batch).size
        found: list[Tensor] = []
        replaced(batch, lambda leaf: found.append(leaf) if _has_rows(leaf, size) else None)
        return tuple(found)

    def batch(self, rows: Sequence[Tensor]) -> Any:
        """A batch of this make with these rows, as `of` gives them; lists of values that are no tensors, such
        as paths, are cut or repeated to their number, and all else is that of the example."""
        left = iter(rows)
        count = len(rows[0]) if rows else self.size

        def other(leaf: Any) -> Any:
            if _has_rows(leaf, self.size):
                return next(left)
            if isinstance(leaf, list | tuple):
                return type(leaf)(leaf[place % self.size] for place in range(count))
            return leaf.clone() if isinstance(leaf, Tensor) else leaf

        return replaced(self.example, other, self.size)

    def repeated(self, rows: Sequence[Tensor], count: int) -> list[Tensor]:
        """The first row of each of `rows`, `count` times."""
        return [row[:1].expand(count, *row.shape[1:]) for row in rows]


def joined(batches: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The rows of several batches one after the other; those of the first alone where they do not fit."""
    try:
        return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
    except (RuntimeError, ValueError):  # as with sequences of different lengths
        return batches[0]


def _has_rows(leaf: Any, size: int) -> bool:
    return isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == size > 0


def replaced(batch: Any, other: Callable[[Any], Any], size: int = 0) -> Any:
    """`batch` with `other(leaf)` for each leaf: a tensor, a value, or a list of `size` values without
    tensors."""
    if isinstance(batch, Tensor | PackedSequence | str | bytes):
        return other(batch)
    if isinstance(batch, Mapping):
        entries = {key: replaced(value, other, size) for key, value in batch.items()}
        if type(batch) is dict or not isinstance(batch, MutableMapping):
            return entries
        table: Any = copy.copy(batch)
        table.update(entries)
        return table
    if isinstance(batch, list | tuple):
        if len(batch) == size > 0 and all(isinstance(entry, VALUES) for entry in batch):
            return other(batch)
        parts = [replaced(entry, other, size) for entry in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        like: Any = copy.copy(batch)
        for field in dataclasses.fields(batch):
            if hasattr(batch, field.name):
                object.__setattr__(like, field.name, replaced(getattr(batch, field.name), other, size))
        return like
    return other(batch)
