"""Dropout that does not care for the mode of the network, such as `F.dropout(x, 0.5)` in a `forward`."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

DROPOUTS = {
    F.dropout: "dropout",
    F.dropout1d: "dropout1d",
    F.dropout2d: "dropout2d",
    F.dropout3d: "dropout3d",
    F.alpha_dropout: "alpha_dropout",
    F.feature_alpha_dropout: "feature_alpha_dropout",
}
ATTENTION = F.scaled_dot_product_attention


def dropout_left_on(model: nn.Module, inputs: Tensor) -> list[str]:
    """Names of the functions that drop values of `inputs` (N, ...) while `model` is in evaluation mode.

    A module of one's own that derives from torch's dropout and always drops does so on purpose, as in
    Monte-Carlo estimates (Gal and Ghahramani 2016), and is left out. Give a copy: it is put in evaluation
    mode.
    """
    model.eval()
    watch = _Watch()
    handles = []
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            handles.append(module.register_forward_pre_hook(watch.enter))
            handles.append(module.register_forward_hook(watch.leave))
    try:
        with torch.no_grad(), watch:
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return list(watch.seen)


class _Watch(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, None] = {}
        self.modules = 0
        """Dropout modules that are being called."""

    def enter(self, *arguments: Any) -> None:
        self.modules += 1

    def leave(self, *arguments: Any) -> None:
        self.modules -= 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.modules == 0:
            given = dict(zip(("input", "p", "training"), args, strict=False)) | kwargs
            if func in DROPOUTS and given.get("training", True) and given.get("p", 0.5) > 0:
                self.seen[DROPOUTS[func]] = None
            given = (
                dict(zip(("query", "key", "value", "attn_mask", "dropout_p"), args, strict=False)) | kwargs
            )
            if func is ATTENTION and given.get("dropout_p", 0.0) > 0:
                self.seen["scaled_dot_product_attention"] = None
        return func(*args, **kwargs)
