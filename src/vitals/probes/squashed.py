"""Outputs that go through a softmax or sigmoid before a loss that applies one itself, in any step."""

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


class Squashed(TorchFunctionMode):
    """Notes for each kind of loss that is called inside it whether its outputs have gone through what it
    applies itself, which the graph says."""

    def __init__(self) -> None:
        super().__init__()
        self.classes = 0
        """Of a cross-entropy of probabilities; 0 where there is none."""
        self.binary_floor = 0.0
        """The least that a binary cross-entropy of probabilities can be; 0 where there is none."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in AGAIN:
            outputs = args[0] if args else kwargs.get("input")
            targets = args[1] if len(args) > 1 else kwargs.get("target")
            if isinstance(outputs, Tensor) and _made_by(outputs) == AGAIN[func]:
                if func is F.cross_entropy:
                    self.classes = outputs.shape[1 if outputs.ndim > 1 else 0]
                elif isinstance(targets, Tensor):
                    ones = float(targets.float().mean())  # of which the loss is least at a probability of 1
                    self.binary_floor = math.log(2) - ones * (math.log(2) - math.log1p(math.exp(-1)))
        return func(*args, **kwargs)


def _made_by(tensor: Tensor) -> str:
    node = tensor.grad_fn
    while (name := type(node).__name__.partition("Backward")[0]) in MOVED and node is not None:
        node = node.next_functions[0][0]
    return name
