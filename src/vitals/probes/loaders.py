"""Batches from somebody's data loader, taken so that the loader never notices."""

import random
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any, TypeGuard

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from vitals.either_package import either
from vitals.errors import UserError
from vitals.probes.copies import LARGE, NoOp, Spent, copied
from vitals.probes.random_states import isolated_rng
from vitals.probes.untouched import ChangesParameters, untouched

MOST_COPIED = 2**30
"""Bytes, at most, that are copied for each look of what a data set keeps, where it writes to that."""


class StreamOnly(UserError):
    """The data come from a stream that cannot be copied, so that nothing can be seen before its first
    batch."""


def successive_batches(loader: Any, mode: str = "max_size_cycle") -> Iterator[Any]:
    """The batches that `loader` is about to give, in its order: a data loader or any other collection of
    batches, or a list or dict of such, which Lightning's `CombinedLoader` puts together in this `mode`.

    Nothing of its state is used up: sampler and data set are copied (their arrays are shared), and no worker
    is started. Draws global random numbers, so call it with those isolated. `StreamOnly` if a copy is not
    possible.
    """
    if isinstance(loader, either(CombinedLoader)):
        return successive_batches(loader.iterables, loader._mode)
    if isinstance(loader, dict | list | tuple):
        keys = list(loader) if isinstance(loader, dict) else list(range(len(loader)))
        own = {key: _own_loader(loader[key]) for key in keys}
        combined = CombinedLoader(own if isinstance(loader, dict) else list(own.values()), mode)  # type: ignore[arg-type]
        return (batch for batch, *_ in combined)
    length: int | None = None
    with suppress(Exception):  # a stream has none
        length = len(loader)
    return islice(_own_loader(loader), length)  # Lightning asks for no more: what comes next may be an error


def random_batches(loader: Any, samples: int) -> Iterator[Any]:
    """Batches of up to `samples` samples drawn at random, though `loader` may give them in an order; else
    those of `successive_batches`."""
    if not _reads(loader) or not isinstance(_sampler(loader), SequentialSampler):
        return successive_batches(loader)
    dataset: Any = _own(loader.dataset)
    drawn = torch.randperm(len(dataset))[:samples].tolist()
    return iter(DataLoader(dataset, _size(loader), sampler=drawn, collate_fn=loader.collate_fn))


def twice(loader: Any, count: int) -> list[DataLoader[Any]]:
    """Two loaders of the same `count` samples of `loader`, drawn at random, in the same order: what differs
    between them is random in the data set itself. `StreamOnly` if its samples have no places."""
    if not _reads(loader) or isinstance(loader.dataset, IterableDataset):
        raise StreamOnly("The training data are a stream, which gives each sample only once.")
    dataset: Any = _own(loader.dataset)
    places = torch.randperm(len(dataset))[:count].tolist()
    size = _size(loader) or count
    return [DataLoader(dataset, size, sampler=places, collate_fn=loader.collate_fn) for _ in range(2)]


def in_one_batch(loader: Any, count: int, at_random: bool) -> Any:
    """One batch of `count` samples of `loader`, which its `collate_fn` pads to one length where it pads each
    batch to its own; in the loader's order, or `at_random` where that is the order of the data set. None
    where its samples have no places, or do not fit into one batch."""
    try:
        places = drawn_places(loader, count)
        dataset: Any = _own(loader.dataset) if places else ()
        if at_random and isinstance(_sampler(loader), SequentialSampler):
            places = torch.randperm(len(dataset))[:count].tolist()
        whole = DataLoader(dataset, max(len(places), 1), sampler=places, collate_fn=loader.collate_fn)
        return next(iter(whole), None)
    except Exception:  # whatever a collate function of one's own makes of so many
        return None


def is_even(loader: Any) -> bool:
    """Whether `loader` gives all samples of its data set alike, in an order or at random."""
    plain = _reads(loader) and type(loader.batch_sampler) is BatchSampler
    return plain and isinstance(_sampler(loader), SequentialSampler | RandomSampler | DistributedSampler)


def is_shuffled(loader: Any) -> bool:
    """Whether what `loader` gives at the end of an epoch is as fair a sample of it as what comes first."""
    sampler = _sampler(loader) if _reads(loader) else None
    return isinstance(sampler, RandomSampler) or (isinstance(sampler, DistributedSampler) and sampler.shuffle)


def drawn_places(loader: Any, count: int) -> list[Any]:
    """The first `count` places in the data set that the sampler of `loader` is about to draw, at most as many
    as it has in an epoch; none where there is no sampler, as for a stream."""
    if not _reads(loader) or isinstance(loader.dataset, IterableDataset):
        return []
    sampler = _own(loader.sampler if loader.batch_sampler is None else loader.batch_sampler)
    drawn: list[Any] = []
    for some in sampler:
        drawn += some if isinstance(some, list | tuple) else [some]
        if len(drawn) >= count:
            break
    return drawn[:count]


def training_loader(trainer: L.Trainer) -> Any:
    """The training loader of `trainer`, or with the mode in which they are put together all where there are
    several."""
    loader, combined = trainer.train_dataloader, trainer.fit_loop._combined_loader
    several = isinstance(loader, dict | list | tuple) and combined is not None
    return combined if several else loader


def validation_loader(trainer: L.Trainer) -> Any:
    """The validation loader of `trainer`, the first of several that Lightning takes one after the other; None
    without one."""
    combined, loaders = trainer.fit_loop.epoch_loop.val_loop._combined_loader, trainer.val_dataloaders
    if combined is not None and combined._mode != "sequential":
        return combined
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    return next(iter(loaders), None) if isinstance(loaders, list | tuple) else loaders


def unaugmented(loader: Any, validation: Any, samples: int) -> Any:
    """`loader` without the random changes that its data set makes to samples, as far as that is known: where
    the loader says how (`unaugmented(samples)`), or where the validation data are of the same kind and have
    another `transform`, as torchvision's data sets have one. Else the loader itself.
    """
    if hasattr(loader, "unaugmented"):
        return loader.unaugmented(samples)
    if not _reads(loader) or not _reads(validation):
        return loader
    dataset, sampler = _own(loader.dataset), _sampler(loader)
    mine, its = _innermost(dataset), _innermost(validation.dataset)
    names = [name for name in ("transform", "transforms") if hasattr(mine, name) and hasattr(its, name)]
    if type(mine) is not type(its) or not names or isinstance(dataset, IterableDataset):
        return loader
    for name in names:
        setattr(mine, name, getattr(its, name))
    shuffle = not isinstance(sampler, SequentialSampler)
    return DataLoader(dataset, _size(loader) or 1, shuffle=shuffle, collate_fn=loader.collate_fn)


def _reads(loader: Any) -> TypeGuard[DataLoader[Any]]:
    """Whether `loader` takes samples out of a data set: one that is made of other loaders gives batches in a
    way of its own, as any collection of batches does."""
    return isinstance(loader, DataLoader) and hasattr(loader.dataset, "__getitem__")


def _sampler(loader: DataLoader[Any]) -> Any:
    """What draws the places of the samples; `sampler` of a loader that was given batches of places is
    none."""
    batches = loader.batch_sampler
    if batches is None:
        return loader.sampler
    return batches.sampler if type(batches) is BatchSampler else batches


def _size(loader: DataLoader[Any]) -> int | None:
    """Samples of a batch; None where that is not one number."""
    size = getattr(loader.batch_sampler, "batch_size", loader.batch_size)
    return size if isinstance(size, int) else None


def _innermost(dataset: Any) -> Any:
    while hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    return dataset


def _own_loader(loader: Any) -> Iterable[Any]:
    if isinstance(loader, (dict, list, tuple, *either(CombinedLoader))):
        raise UserError("loaders within lists of loaders cannot be looked at beforehand.")
    if not _reads(loader):
        if isinstance(loader, Iterator) or not isinstance(loader, Iterable):
            raise StreamOnly("The training data are an iterator, which gives each batch only once.")
        own: Iterable[Any] = _own(loader)
        return own
    dataset = _own(loader.dataset)
    if isinstance(dataset, IterableDataset):
        return DataLoader(
            dataset, loader.batch_size, collate_fn=loader.collate_fn, drop_last=loader.drop_last
        )
    if loader.batch_sampler is None:
        return DataLoader(
            dataset, batch_size=None, sampler=_own(loader.sampler), collate_fn=loader.collate_fn
        )
    return DataLoader(dataset, batch_sampler=_own(loader.batch_sampler), collate_fn=loader.collate_fn)


def _own(thing: Any) -> Any:
    memo = _arrays_in(thing)
    arrays = list(memo.values())
    own = copied(thing, memo)
    tables = list | tuple | dict | Tensor | np.ndarray  # which give each sample many times
    shared = own is thing and not isinstance(thing, tables)
    if shared or any(isinstance(part, Spent) for part in memo.values()):
        raise StreamOnly("The training data are a stream, which gives each batch only once.")
    if any(isinstance(part, NoOp) for part in memo.values()):
        raise StreamOnly(
            "The data set keeps an open file or a connection, from which no copy of it can read."
        )
    return _apart(thing, arrays) if _writes(own, arrays) else own


def _apart(thing: Any, arrays: Iterable[Any]) -> Any:
    if sum(each.nbytes for each in arrays if isinstance(each, Tensor | np.ndarray)) > MOST_COPIED:
        raise StreamOnly(
            "Taking samples out changes what the data set keeps, which is too large to be copied."
        )
    return copied(thing, {})


def wears_out(loader: Any) -> bool:
    """Whether samples of `loader` are other ones once they have been taken out, whatever is random in them:
    the data set changes the arrays that it keeps, such as images that it normalizes in place."""
    if not _reads(loader):
        return False
    memo = _arrays_in(loader.dataset)
    arrays = list(memo.values())
    if not _writes(copied(loader.dataset, memo), arrays):
        return False
    versions = []
    for before in (1, 0):  # another sample fills what is kept to be filled, and draws from numbers of its own
        own = _apart(loader.dataset, arrays)
        for seed, place in enumerate((before, 0)):
            with isolated_rng(seed=seed):
                np.random.seed(seed)  # noqa: NPY002 (others use it)
                random.seed(seed)
                sample = own[place]
        versions.append([each for each in tree_leaves(sample) if isinstance(each, Tensor | np.ndarray)])
    fresh, worn = versions
    return any(not np.array_equal(*pair) for pair in zip(fresh, worn, strict=True))


def _writes(dataset: Any, arrays: Iterable[Any]) -> bool:
    """Whether a data set writes to one of the `arrays` that it keeps where a sample is taken out; it may
    not."""
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        return False
    tables = [each for each in arrays if isinstance(each, np.ndarray) and each.flags.owndata]
    tables = [each for each in tables if each.flags.writeable]  # those that can be made so again
    ignored = warnings.catch_warnings()
    try:
        for table in tables:
            table.flags.writeable = False
        tensors = [each for each in arrays if isinstance(each, Tensor)]
        with isolated_rng(seed=0), untouched(tensors, tables), ignored:
            warnings.simplefilter("ignore")  # torch.from_numpy does not like what cannot be written to
            dataset[0]
    except ChangesParameters:
        return True
    except Exception as error:  # what samples are taken out by need be no numbers
        return "read-only" in str(error)
    finally:
        for table in tables:
            table.flags.writeable = True
    return False


def _arrays_in(thing: Any) -> dict[int, Any]:
    """A memo for `copied` with which the data inside `thing` are shared, and only the rest is copied."""
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
        elif isinstance(part, list | tuple | deque):
            waiting += part
        elif isinstance(part, dict):
            waiting += part.values()
        elif hasattr(part, "__dict__") and not isinstance(part, type):
            waiting += vars(part).values()
    return memo
