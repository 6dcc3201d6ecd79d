"""Take any batch apart into tensors with one row for each sample, and put it together again."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import sys
from collections.abc import Callable, Container, Iterator, Mapping, MutableMapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence, unpack_sequence

VALUES = (str, bytes, int, float, type(None))

FEW = 4
"""Entries up to which a list without anything beside it is taken for parts of a batch, such as two views of
it or the batches of several loaders, and not for its samples."""


class Rows:
    """How a batch is built: of nested tuples, dicts, named tuples and dataclasses, with anything in them.

    A list of its samples, such as sequences of different lengths or a dict for each image, has the numbers of
    these samples for a row, and one more for each whole number that all of them have, such as a label. The
    samples of the example `batch` are the entries of such a list, and without one the rows of the first
    tensor that is no scalar.
    """

    def __init__(self, batch: Any) -> None:
        self.example = batch
        self.lists = sample_lists(batch)
        """The identities of those lists in the example whose entries are its samples."""
        self.leaves = leaves_of(batch, 0, self.lists)
        self.size = _size(self.leaves, self.lists)
        """Samples in the example; 0 where there is no tensor, or none that could be cut, as in a graph."""
        self._lists: dict[int, tuple[Sequence[Any], dict[int, Tensor]]] = {}
        """Samples, and whole numbers that all of them have, by the identity of a leaf of the example."""
        self.exact = False
        """Whether the step accepts only batches of as many samples as the example has."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Rows:
        return self  # nothing in it is ever written to

    def of(self, batch: Any) -> tuple[Tensor, ...]:
        """The tensors of `batch` that have a row for each of its samples, in their order, and the numbers of
        its samples for each list of these."""
        made = self if batch is self.example else Rows(batch)
        rows: list[Tensor] = []
        for leaf in filter(made._has_rows, made.leaves):
            if is_array(leaf) and not is_ragged(leaf):
                # A copy, as torch takes no array that is read backwards, nor gladly one that is read-only.
                rows.append(leaf if isinstance(leaf, Tensor) else torch.from_numpy(np.array(leaf)))
            else:
                samples, whole = made._listed(leaf)
                numbers = torch.arange(len(samples), device=_device(samples))  # where their tensors are
                rows += [numbers, *whole.values()]
        return tuple(rows)

    def _listed(self, leaf: Any) -> tuple[Sequence[Any], dict[int, Tensor]]:
        if id(leaf) not in self._lists:
            samples = _samples(leaf)
            self._lists[id(leaf)] = samples, _whole_numbers(samples)
        return self._lists[id(leaf)]

    @property
    def listed(self) -> set[int]:
        """Which of the rows of the example are numbers of samples in a list."""
        places: set[int] = set()
        count = 0
        for leaf in filter(self._has_rows, self.leaves):
            if not is_array(leaf) or is_ragged(leaf):
                places.add(count)
                count += len(self._listed(leaf)[1])
            count += 1
        return places

    def batch(self, rows: Sequence[Tensor]) -> Any:
        """A batch of this make with these rows, as `of` gives them; lists of values that are no tensors, such
        as paths, are cut or repeated to their number, and all else is that of the example. Without rows, the
        whole example."""
        left = iter(rows)
        count = len(rows[0]) if rows else self.size

        def other(leaf: Any) -> Any:
            if rows and self._has_rows(leaf):
                row = next(left)
                if is_array(leaf) and not is_ragged(leaf):
                    return row if isinstance(leaf, Tensor) else row.detach().cpu().numpy()
                all_of_it, whole = self._listed(leaf)
                samples = [all_of_it[place] for place in row.tolist()]
                given = {place: next(left) for place in whole}
                for number, sample in enumerate(samples) if given else ():
                    samples[number] = _with(sample, {place: its[number] for place, its in given.items()})
                return _made_like(leaf, samples)
            if isinstance(leaf, list | tuple) and not is_ragged(leaf):
                return type(leaf)(leaf[place % self.size] for place in range(count))
            return _copied(leaf)

        return map_leaves(self.example, other, self.size, self.lists)

    def _has_rows(self, leaf: Any) -> bool:
        if is_ragged(leaf):
            return _count(leaf) == self.size
        return id(leaf) in self.lists or (is_array(leaf) and leaf.ndim > 0 and len(leaf) == self.size > 0)

    def counts(self, leaf: Any) -> bool:
        """Whether this leaf of the batch has a value for each sample."""
        listed = isinstance(leaf, list | tuple) and not is_ragged(leaf)
        return self._has_rows(leaf) or (listed and len(leaf) == self.size > 0)

    def filled(self, *rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """`rows` in parts of as many samples as the step takes, the last one filled up from the first on; all
        at once where it takes any number."""
        size, count = self.size, len(rows[0]) if rows else 0
        if not self.exact or count in (0, size):
            yield rows
            return
        for first in range(0, count, size):
            places = torch.arange(first, first + size, device=rows[0].device) % count
            yield tuple(row[places] for row in rows)

    def repeated(self, rows: Sequence[Tensor], count: int) -> list[Tensor]:
        """The first row of each of `rows`, repeated `count` times, in memory of its own: a step may write to
        its batch, as some do that mix samples."""
        return [row[:1].expand(count, *row.shape[1:]).clone() for row in rows]


def is_array(leaf: Any) -> bool:
    """Whether this is a tensor, or an array of NumPy that could be one."""
    if isinstance(leaf, np.ndarray):
        return leaf.dtype.kind in "biuf" and leaf.dtype.isnative and leaf.dtype.itemsize <= 8
    return isinstance(leaf, Tensor)


def _copied(leaf: Any) -> Any:
    return _own(leaf.detach() if isinstance(leaf, Tensor) else leaf)


def to_write_to(batch: Any) -> Any:
    """A copy of `batch` for whoever may write to it, through which gradients reach its tensors. Other things,
    such as a graph, are copied as they copy themselves, else with the attributes that they have; one that
    refuses is shared."""
    return map_leaves(batch, _own)


def _own(leaf: Any) -> Any:
    if isinstance(leaf, PackedSequence):
        return leaf._replace(data=leaf.data.clone())
    if isinstance(leaf, VALUES):
        return leaf
    with suppress(Exception):
        clone = getattr(leaf, "clone", None)
        return clone() if callable(clone) else copy.copy(leaf)
    return leaf


def is_ragged(leaf: Any) -> bool:
    """Whether this is one object that has sequences of different lengths: packed, or a nested tensor."""
    return isinstance(leaf, PackedSequence) or (isinstance(leaf, Tensor) and leaf.is_nested)


def _count(ragged: Any) -> int:
    return int(ragged.batch_sizes[0]) if isinstance(ragged, PackedSequence) else int(ragged.size(0))


def _samples(leaf: Any) -> Sequence[Any]:
    """The samples of a list of them, or of what `is_ragged`."""
    if isinstance(leaf, PackedSequence):
        return unpack_sequence(leaf)
    return leaf.unbind() if isinstance(leaf, Tensor) else leaf


def _made_like(leaf: Any, samples: list[Any]) -> Any:
    if isinstance(leaf, PackedSequence):
        return pack_sequence(samples, enforce_sorted=False)
    if isinstance(leaf, Tensor):
        return torch.nested.as_nested_tensor(samples, layout=leaf.layout)
    return type(leaf)(samples)


def joined(batches: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The rows of several batches one after the other; those of the first alone where they do not fit."""
    try:
        return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
    except (RuntimeError, ValueError):  # as with sequences of different lengths
        return batches[0]


def map_leaves(
    batch: Any, other: Callable[[Any], Any], size: int = 0, lists: Container[int] = frozenset()
) -> Any:
    """A copy of `batch` in which each leaf is replaced by `other(leaf)`. A leaf is a tensor, a value, a list
    of `size` values without tensors, or one of the `lists`, which are given by identity."""
    if isinstance(batch, Tensor | PackedSequence | str | bytes) or id(batch) in lists:
        return other(batch)
    if isinstance(batch, Mapping):
        entries = {key: map_leaves(value, other, size, lists) for key, value in batch.items()}
        if type(batch) is dict or not isinstance(batch, MutableMapping):
            return entries
        return _like(batch, entries)
    if isinstance(batch, list | tuple):
        if len(batch) == size > 0 and all(isinstance(entry, VALUES) for entry in batch):
            return other(batch)
        parts = [map_leaves(entry, other, size, lists) for entry in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        like: Any = copy.copy(batch)
        for field in dataclasses.fields(batch):
            if hasattr(batch, field.name):
                object.__setattr__(
                    like, field.name, map_leaves(getattr(batch, field.name), other, size, lists)
                )
        return like
    return other(batch)


def _like(batch: MutableMapping[Any, Any], entries: dict[Any, Any]) -> Any:
    """A mapping of the class of `batch` with these `entries`; a plain dict where a copy of `batch` would
    write to the container in which `batch` keeps its own entries."""
    before = dict(batch)
    table: Any = copy.copy(batch)
    for name, value in vars(table).items() if hasattr(table, "__dict__") else ():
        if isinstance(value, dict):
            vars(table)[name] = dict(value) if type(value) is dict else copy.copy(value)
    try:
        _fill(table, entries)
    except Exception:  # it minds how many samples it is said to have: its own rows are as many as are wanted
        rows = [len(leaf) for leaf in leaves_of(entries) if isinstance(leaf, Tensor) and leaf.ndim]
        with suppress(Exception):
            table = _fill(batch[torch.arange(rows[0]) % len(batch)], entries)
    if all(batch[key] is value for key, value in before.items()):
        return table
    batch.update(before)
    return entries


def _fill(table: Any, entries: dict[Any, Any]) -> Any:
    for key, value in entries.items():  # outputs of transformers refuse `update`
        table[key] = value
    return table


def leaves_of(batch: Any, size: int = 0, lists: Container[int] = frozenset()) -> list[Any]:
    """The leaves of `batch`, in the order of `map_leaves`."""
    found: list[Any] = []
    map_leaves(batch, found.append, size, lists)
    return found


def sample_lists(batch: Any) -> frozenset[int]:
    """The lists and tuples in `batch` whose entries are its samples, by identity: N tensors that are not the
    parts of a batch, N dicts or N pairs, as long as others of them or as the tensors (N, ...) beside them.

    A list (inputs, targets), views of the same images and batches of several loaders are none: there the
    entries are tensors of the same length, or made of such.
    """
    if isinstance(batch, Tensor) or _is_usual(batch):
        return frozenset()
    candidates: list[Any] = []
    beside: list[Any] = []
    _look(batch, candidates, beside)
    lengths = {len(leaf) for leaf in beside if isinstance(leaf, list) or leaf.ndim}
    by_length: dict[int, list[Any]] = {}
    for each in candidates:
        by_length.setdefault(len(each), []).append(each)
    for count, those in by_length.items():
        tables = [each for each in those if not is_array(each[0])]
        tensors = [each for each in those if is_array(each[0])]
        uneven = [each for each in tensors if _lengths(each) != {len(each[0]) if each[0].ndim else -1}]
        known = bool(tables and tensors) or (tables and (count in lengths or _alone(tables[0])))
        known = known or (bool(uneven) and (count > FEW or count in lengths))
        if known:
            return frozenset(map(id, those))
        if count in lengths and (others := [each for each in tensors if _lengths(each) != {count}]):
            return frozenset(map(id, others))
    return frozenset()


def _is_usual(batch: Any) -> bool:
    """Whether `batch` is a pair of tensors with as many rows, as nearly all are."""
    if not isinstance(batch, list | tuple) or len(batch) != 2:
        return False
    one, other = batch  # no loop over the two, as this is asked at each step
    if type(one) is not Tensor or type(other) is not Tensor or one.is_nested or other.is_nested:
        return False
    return one.ndim > 0 and other.ndim > 0 and one.shape[0] == other.shape[0]


def _look(batch: Any, candidates: list[Any], beside: list[Any]) -> None:
    """Collect what may be a list of samples, and the tensors and long lists of values outside of these."""
    if is_ragged(batch):
        return
    if is_array(batch):
        beside.append(batch)
    elif isinstance(batch, Mapping):
        for value in batch.values():
            _look(value, candidates, beside)
    elif isinstance(batch, list | tuple):
        if not hasattr(batch, "_fields") and _may_be_samples(batch):
            candidates.append(batch)
        elif len(batch) > FEW and all(isinstance(entry, VALUES) for entry in batch):
            beside.append(list(batch))
        else:
            for entry in batch:
                _look(entry, candidates, beside)
    elif dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        for field in dataclasses.fields(batch):
            _look(getattr(batch, field.name, None), candidates, beside)


def _may_be_samples(batch: Sequence[Any]) -> bool:
    if not batch:
        return False
    if all(map(is_array, batch)):
        if len({(entry.dtype, entry.ndim) for entry in batch}) > 1:
            return False
        return len(_lengths(batch)) == 1 or len({entry.shape[1:] for entry in batch}) == 1
    if all(isinstance(entry, Mapping) for entry in batch):
        return True
    # Pairs as a data set gives them have a scalar in them; those of loaders have none.
    pairs = all(isinstance(entry, list | tuple) and len(entry) > 1 for entry in batch)
    return pairs and len(set(map(_signature, batch))) == 1 and _alone(batch)


def _signature(entry: Sequence[Any]) -> tuple[Any, ...]:
    return tuple((each.dtype, each.ndim) if is_array(each) else type(each) for each in entry)


def _alone(tables: Sequence[Any]) -> bool:
    """Whether dicts or pairs are samples though nothing beside them says so: many, and not made of tensors of
    the same length like the batch of a loader."""
    entries = tables[0].values() if isinstance(tables[0], Mapping) else tables[0]
    tensors = [entry for entry in entries if is_array(entry)]
    like_batch = len(_lengths(tensors)) == 1 and all(each.ndim for each in tensors)
    like_batch = like_batch and any(each.ndim > 1 for each in tensors) and len(tensors) > 1
    scalars = any(isinstance(entry, int | float) for entry in entries)
    return len(tables) > FEW and bool(tensors) and (scalars or not like_batch)


def _lengths(tensors: Sequence[Any]) -> set[int]:
    return {len(each) if each.ndim else 0 for each in tensors}


def _size(leaves: Sequence[Any], lists: Container[int]) -> int:
    given = [len(leaf) for leaf in leaves if id(leaf) in lists]
    given += [_count(leaf) for leaf in leaves if is_ragged(leaf)]
    leaves = [leaf for leaf in leaves if not is_ragged(leaf)]
    given += [len(leaf) for leaf in leaves if is_array(leaf) and leaf.ndim]
    if not lists and any(map(_are_edges, leaves)) and set(given) != {2}:  # they would point beyond the rest
        return 0
    return given[0] if given else 0


def _are_edges(leaf: Any) -> bool:
    """Whether this is a graph: (2, E), two places for each edge, or an adjacency that is not dense."""
    if not isinstance(leaf, Tensor) or leaf.layout != torch.strided:
        return isinstance(leaf, Tensor)
    return leaf.dtype in (torch.int32, torch.int64) and leaf.ndim == 2 and len(leaf) == 2 < leaf.shape[1]


def _device(samples: Sequence[Any]) -> torch.device | None:
    return next((leaf.device for leaf in leaves_of(samples[0]) if isinstance(leaf, Tensor)), None)


def _whole_numbers(samples: Sequence[Any]) -> dict[int, Tensor]:
    """What stands in the same place of each of `samples`, dicts or pairs, as one whole number: by its place
    among the leaves, (N,)."""
    if is_array(samples[0]):
        return {}
    leaves = [leaves_of(sample) for sample in samples]
    if len(set(map(len, leaves))) > 1:
        return {}
    found: dict[int, Tensor] = {}
    for place, column in enumerate(zip(*leaves, strict=True)):
        if all(map(_is_whole_number, column)) and len({type(each) for each in column}) == 1:
            numbers = [torch.as_tensor(each, device=_device(samples)).reshape(()) for each in column]
            found[place] = torch.stack(numbers)
    return found if len(found) <= FEW else {}  # more are what the sample is made of


def _is_whole_number(leaf: Any) -> bool:
    if isinstance(leaf, Tensor):
        return leaf.numel() == 1 and leaf.dtype in (torch.uint8, torch.int16, torch.int32, torch.int64)
    return type(leaf) is int or isinstance(leaf, np.integer)


def _with(sample: Any, values: Mapping[int, Tensor]) -> Any:
    """`sample` with these whole numbers at these places of its leaves."""
    places = itertools.count()

    def other(leaf: Any) -> Any:
        value = values.get(next(places))
        if value is None:
            return leaf
        return value.reshape(leaf.shape).to(leaf) if isinstance(leaf, Tensor) else type(leaf)(int(value))

    return map_leaves(sample, other)


def with_row(rows: Sequence[Tensor], place: int, row: Tensor) -> list[Tensor]:
    """`rows` with `row` at this place."""
    return [*rows[:place], row, *rows[place + 1 :]]


def samples_in(batch: Any) -> int:
    """Samples in `batch`, whatever it is made of; 0 where they cannot be counted."""
    return len(batch[0]) if _is_usual(batch) else Rows(batch).size


def taken(batch: Any, first: int, count: int) -> Any:
    """`batch` with the samples from `first` on alone, `count` of them at most; tensors are shared."""
    rows = Rows(batch)

    def some(leaf: Any) -> Any:
        if is_ragged(leaf) and rows.counts(leaf):
            return _made_like(leaf, list(_samples(leaf)[first : first + count]))
        return leaf[first : first + count] if rows.counts(leaf) else leaf

    return map_leaves(batch, some, rows.size, rows.lists)


def first_samples(batch: Any, count: int = sys.maxsize) -> Any:
    """A copy of the first `count` samples of `batch`, by default of all."""
    rows = taken(plain(batch), 0, count)
    return map_leaves(rows, _copied)


def plain(batch: Any) -> Any:
    """`batch` with plain tensors where they are of a class of somebody's own: what such a tensor says of its
    samples, such as where they lie in a scan, need not agree with that of others that it is joined with."""
    if not any(map(_is_of_own_class, leaves_of(batch))):
        return batch
    return map_leaves(batch, lambda leaf: leaf.as_subclass(Tensor) if _is_of_own_class(leaf) else leaf)


def own_class(batch: Any) -> str:
    """The name of such a class in `batch`; empty where there is none."""
    return next((type(leaf).__name__ for leaf in leaves_of(batch) if _is_of_own_class(leaf)), "")


def _is_of_own_class(leaf: Any) -> bool:
    kind = type(leaf)
    if not isinstance(leaf, Tensor) or kind.__module__.partition(".")[0] == "torch":
        return False
    return kind.__torch_dispatch__ is Tensor.__torch_dispatch__  # else there may be no numbers in it


def in_halves(batch: Any) -> tuple[Any, Any]:
    """The first and the second half of the samples of `batch`, of the same size."""
    half = samples_in(batch) // 2
    return taken(batch, 0, half), taken(batch, half, half)


def together(one: Any, other: Any) -> Any:
    """The samples of two batches of the same making; `ValueError` or `RuntimeError` if they are not of the
    same."""
    mine, its = Rows(one), Rows(other)
    its_leaves = leaves_of(other, its.size, its.lists)
    left = iter(its_leaves)

    def join(leaf: Any) -> Any:
        beside: Any = next(left, None)
        if not (mine.counts(leaf) and its.counts(beside)):
            return leaf
        if is_array(leaf) and not is_ragged(leaf):
            return torch.cat([leaf, beside]) if isinstance(leaf, Tensor) else np.concatenate([leaf, beside])
        return _made_like(leaf, [*_samples(leaf), *_samples(beside)])

    if len(leaves_of(one, mine.size, mine.lists)) != len(its_leaves):
        raise ValueError("the batches are not made alike")
    return map_leaves(one, join, mine.size, mine.lists)
