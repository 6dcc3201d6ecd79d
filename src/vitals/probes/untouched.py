"""Keep the parameters that a copy shares with a training from being written to by what is run on the copy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vitals.errors import UserError

GUARDED = "_parameters_of_the_training"
"""Name under which a copy that shares parameters with the training has what keeps them."""


class ChangesParameters(UserError):
    """What runs on a copy writes to parameters that it shares with the training."""

    def __init__(self) -> None:
        super().__init__("your training_step changes parameters itself.")


class Shared:
    """Parameters of a copy that lie where those of the training do. A copy of that copy guards those that it
    shares in its turn, and none where it has its own."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors = list(tensors)

    def __deepcopy__(self, memo: dict[int, Any]) -> Shared:
        pairs = [(each, memo[id(each)]) for each in self.tensors if id(each) in memo]
        return Shared(mine for its, mine in pairs if _storage(mine) == _storage(its))


class _Refusing(TorchDispatchMode):
    """Lets through every operation but those that write into one of the storages."""

    def __init__(self, storages: set[int], arrays: Iterable[np.ndarray]) -> None:
        super().__init__()
        self.storages = storages
        self.spans = [(array.ctypes.data, array.ctypes.data + array.nbytes) for array in arrays]
        self.refused = False

    def keeps(self, value: Any) -> bool:
        """Whether `value` lies where nothing is to be written."""
        place = _storage(value)
        # What torch makes of an array begins where its first element lies, which may be amid that array.
        return place in self.storages or any(first <= place < end for first, end in self.spans)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            for place, argument in enumerate(func._schema.arguments):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    given = args[place] if place < len(args) else kwargs.get(argument.name)
                    if any(map(self.keeps, tree_leaves(given))):
                        self.refused = True
                        raise ChangesParameters
        return func(*args, **kwargs)


@contextmanager
def untouched(tensors: Iterable[Tensor], arrays: Iterable[np.ndarray] = ()) -> Iterator[None]:
    """Refuse to write to `tensors` inside the block, before it is done, and put back what takes their place;
    `ChangesParameters` if it is tried, or torch writes to one of `arrays`, which own what they hold. Tensors
    want gradients as before, though a block that freezes them may be broken off."""
    before = [(tensor, tensor.data, _storage(tensor)) for tensor in tensors]
    wanting = [(tensor, tensor.requires_grad) for tensor, _, _ in before if tensor.is_leaf]
    refusing = _Refusing({storage for _, _, storage in before if storage}, arrays)
    try:
        with refusing:
            yield
    except Exception as error:  # `load_state_dict` makes another one of it
        if refusing.refused:
            raise ChangesParameters from error
        raise
    finally:
        for tensor, wants in wanting:
            tensor.requires_grad_(wants)
    for tensor, _, storage in before:
        if _storage(tensor) != storage:
            for each, old, _ in before:
                each.data = old
            raise ChangesParameters


def _storage(value: Any) -> int:
    """Where the numbers of a tensor lie; 0 for what has no such place."""
    try:
        return int(value.untyped_storage().data_ptr()) if isinstance(value, Tensor) else 0
    except (NotImplementedError, RuntimeError):  # sparse ones, and those of other kinds
        return 0
