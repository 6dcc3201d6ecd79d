"""Keep the parameters that a copy shares with a training from being written to by what is run on the copy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vitals.errors import UserError

CHANGES = "the training step changes parameters itself."


class _Refusing(TorchDispatchMode):
    """Lets through every operation but those that write into one of the storages."""

    def __init__(self, storages: set[int]) -> None:
        super().__init__()
        self.storages = storages

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            for place, argument in enumerate(func._schema.arguments):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    given = args[place] if place < len(args) else kwargs.get(argument.name)
                    if any(_storage(leaf) in self.storages for leaf in tree_leaves(given)):
                        raise UserError(CHANGES)
        return func(*args, **kwargs)


@contextmanager
def untouched(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Refuse to write to `tensors` inside the block, before it is done, and put back what takes their place.

    Raises:
        UserError: if it is tried.
    """
    before = [(tensor, tensor.data, _storage(tensor)) for tensor in tensors]
    with _Refusing({storage for _, _, storage in before if storage}):
        yield
    for tensor, _, storage in before:
        if _storage(tensor) != storage:
            for each, old, _ in before:
                each.data = old
            raise UserError(CHANGES)


def _storage(value: Any) -> int:
    """Where the numbers of a tensor lie; 0 for what has no such place."""
    try:
        return int(value.untyped_storage().data_ptr()) if isinstance(value, Tensor) else 0
    except (NotImplementedError, RuntimeError):  # sparse ones, and those of other kinds
        return 0
