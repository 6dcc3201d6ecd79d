"""Batches from somebody's data loader, taken so that the loader never notices."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler

from vitals.errors import UserError

LARGE = 1000
"""Entries from which a list in a data set is data, and shared rather than copied."""


def successive_batches(loader: Any) -> Iterator[Any]:
    """The batches that `loader` is about to give, in its order.

    Nothing of its state is used up: sampler and data set are copied (their arrays are shared), and no worker
    is started. Draws global random numbers, so call it with those isolated.

    Raises:
        UserError: if `loader` gives a stream, whose batches would be lost to the training.
    """
    if isinstance(loader, DataLoader):
        return iter(_own_loader(loader))
    return iter(_own_iterable(loader))


def random_batches(loader: Any, samples: int) -> Iterator[Any]:
    """Batches of up to `samples` samples drawn at random, though `loader` may give them in an order.

    For loaders that are not in the order of their data set, the same as `successive_batches`.
    """
    if not isinstance(loader, DataLoader) or not isinstance(loader.sampler, SequentialSampler):
        return successive_batches(loader)
    if loader.batch_sampler is not None and type(loader.batch_sampler) is not torch.utils.data.BatchSampler:
        return successive_batches(loader)
    dataset: Any = copy.deepcopy(loader.dataset, _arrays_in(loader.dataset))
    drawn = torch.randperm(len(dataset))[:samples].tolist()
    return iter(DataLoader(dataset, loader.batch_size, sampler=drawn, collate_fn=loader.collate_fn))


def first_batches(batches: Iterator[tuple[Tensor, Tensor]], samples: int) -> list[tuple[Tensor, Tensor]]:
    """The first of `batches` (inputs, targets), with `samples` samples in all, or as many as there are."""
    taken: list[tuple[Tensor, Tensor]] = []
    count = 0
    for batch in batches:
        taken.append(batch)
        count += len(batch[1])
        if count >= samples:
            break
    return taken


def _own_loader(loader: DataLoader) -> DataLoader:
    if isinstance(loader.dataset, IterableDataset):
        raise UserError("The training data are a stream, of which nothing can be looked at beforehand.")
    memo = _arrays_in(loader.dataset)
    dataset = copy.deepcopy(loader.dataset, memo)
    if loader.batch_sampler is None:
        sampler = copy.deepcopy(loader.sampler, memo)
        return DataLoader(dataset, batch_size=None, sampler=sampler, collate_fn=loader.collate_fn)
    sampler = copy.deepcopy(loader.batch_sampler, memo)
    return DataLoader(dataset, batch_sampler=sampler, collate_fn=loader.collate_fn)


def _own_iterable(loader: Any) -> Iterable[Any]:
    if isinstance(loader, dict | list | tuple) or not isinstance(loader, Iterable):
        raise UserError(f"The training data come from a {type(loader).__name__}, not from one data loader.")
    if isinstance(loader, Iterator):
        raise UserError("The training data are a stream, of which nothing can be looked at beforehand.")
    own: Iterable[Any] = copy.deepcopy(loader, _arrays_in(loader))
    return own


def _arrays_in(thing: Any) -> dict[int, Any]:
    """A memo for `deepcopy` with which the data inside `thing` are shared, and only the rest is copied."""
    memo: dict[int, Any] = {}
    waiting, seen = [thing], set()
    while waiting:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        large = isinstance(part, list | tuple | dict) and len(part) >= LARGE
        if large or isinstance(part, Tensor | np.ndarray | bytes):
            memo[id(part)] = part
        elif isinstance(part, list | tuple):
            waiting += part
        elif isinstance(part, dict):
            waiting += part.values()
        elif hasattr(part, "__dict__") and not isinstance(part, type):
            waiting += vars(part).values()
    return memo
