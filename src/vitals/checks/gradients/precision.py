"""Computation in one precision, whatever the code inside asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from vitals.checks.gradients.kinks import tensors_in


class Precision(TorchDispatchMode):
    """Inside the block every computation runs in `dtype` or better.

    Constants that no module holds, such as class weights in a closure, are widened where they are used, and
    `x.float()`, with which many normalization layers guard half precision, does not lose half the digits.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = {} if kwargs is None else dict(kwargs)
        wanted = kwargs.get("dtype")
        if isinstance(wanted, torch.dtype) and wanted.is_floating_point:
            kwargs["dtype"] = torch.promote_types(wanted, self._dtype)
        in_place = func.overloadpacket.__name__.endswith("_")  # a copy of what it writes to would be lost
        if not in_place and any(self._is_narrow(tensor) for tensor in tensors_in((args, kwargs))):
            args, kwargs = tree_map(self._widened, (args, kwargs))
        return func(*args, **kwargs)

    def _is_narrow(self, leaf: Any) -> bool:
        if not isinstance(leaf, Tensor):
            return False
        dtype = leaf.dtype
        return dtype.is_floating_point and dtype.itemsize < self._dtype.itemsize

    def _widened(self, leaf: Any) -> Any:
        return leaf.to(self._dtype) if self._is_narrow(leaf) else leaf
