"""What losses are given in any step: outputs that have gone through a softmax or sigmoid already, shares
where logarithms are wanted, targets that are none of the shares that they stand for."""

import math
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

AGAIN = {F.cross_entropy: "Softmax", F.binary_cross_entropy_with_logits: "Sigmoid"}
"""What made the numbers that these functions put through the same once more."""
MOVED = {"View", "UnsafeView", "ReshapeAlias", "Transpose", "Permute", "T", "Squeeze", "Unsqueeze", "Index"}
MOVED |= {"Slice", "Select", "Clone", "ToCopy"}
"""Operations that only choose or arrange numbers, by the names of their backward passes."""
BINARY = (F.binary_cross_entropy, F.binary_cross_entropy_with_logits)
BEYOND = 0.5
"""Distance to 0 and 1 from which the target of a binary cross-entropy is no share, nor a smoothed one."""
SUM = 1e-3
"""Distance to 1 of the sum of shares."""


class LossArguments(TorchFunctionMode):
    """Notes for each kind of loss that is called inside it whether its outputs have gone through what it
    applies itself, which the graph says, and whether numbers are what it takes them for."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = 0
        """Of a cross-entropy of probabilities; 0 where there is none."""
        self.binary_floor = 0.0
        """The least that a binary cross-entropy of probabilities can be; 0 where there is none."""
        self.shares = False
        """Whether a divergence got shares for the logarithms that it takes."""
        self.told: list[Tensor] = []
        """Shares of classes (N, C) that are targets."""
        self.ends: tuple[float, float] | None = None
        """Of targets of a binary cross-entropy that are no shares."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        outputs = args[0] if args else kwargs.get("input")
        targets = args[1] if len(args) > 1 else kwargs.get("target")
        if func in BINARY and isinstance(targets, Tensor) and targets.numel():
            low, high = (float(end) for end in targets.detach().aminmax())
            if low < -BEYOND or high > 1 + BEYOND:
                self.ends = (low, high)
        if (
            func in (F.kl_div, F.cross_entropy)
            and isinstance(targets, Tensor)
            and targets.is_floating_point()
        ):
            self.told += [targets.detach()] if targets.ndim == 2 and _are_shares(targets) else []
        if func is F.kl_div and isinstance(outputs, Tensor):
            self.shares = self.shares or _are_shares(outputs)
        if func in AGAIN and isinstance(outputs, Tensor) and _made_by(outputs) == AGAIN[func]:
            if func is F.cross_entropy:
                self.classes = outputs.shape[1 if outputs.ndim > 1 else 0]
            elif isinstance(targets, Tensor):
                ones = float(targets.float().mean())  # of which the loss is least at a probability of 1
                self.binary_floor = math.log(2) - ones * (math.log(2) - math.log1p(math.exp(-1)))
        return func(*args, **kwargs)


def _are_shares(values: Tensor) -> bool:
    """Whether `values` are from 0 to 1 and sum to 1 over the last dimension or that of classes."""
    values = values.detach().float()
    if values.ndim < 2 or not bool(((values >= 0) & (values <= 1)).all()):
        return False
    return any(bool(((values.sum(dim) - 1).abs() < SUM).all()) for dim in (1, -1))


def _made_by(tensor: Tensor) -> str:
    node = tensor.grad_fn
    while (name := type(node).__name__.partition("Backward")[0]) in MOVED and node is not None:
        node = node.next_functions[0][0]
    return name
