"""Kinks: which side of every max-like operation won, so that a finite difference across a kink is known.

max(0, x), max-pooling, |x|, clamping and the like have no derivative where the winner changes. A centred
difference whose two ends lie on different sides mixes two slopes and says nothing about the backward. cs231n,
"Neural Networks Part 3", section "Gradient checks": keep track of the winners of all max(x, y); if one
changes between f(x+h) and f(x-h), a kink was crossed.

The winners are read below autograd, where `nn.ReLU`, `F.relu`, `torch.relu` and `x.relu_()` are one
operation.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Number = float | Tensor


def _above(x: Tensor, *edges: Number | None) -> Tensor:
    """Which of the `edges` each value lies above."""
    return torch.cat([(x > edge).flatten() for edge in edges if edge is not None])


def _larger(x: Tensor, y: Tensor, *_: Any) -> Tensor:
    return torch.sign(x - y)


def _extreme(extreme: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The places of the largest (`torch.amax`) or smallest values: all of them, where several are equal."""

    def winners(x: Tensor, dim: int | Sequence[int] = (), *_: Any, **__: Any) -> Tensor:
        return x == extreme(x, dim, keepdim=True)

    return winners


def _extremes(x: Tensor, *, dim: int | None = None, **_: Any) -> Tensor:
    along = () if dim is None else dim
    return (x == torch.amax(x, along, keepdim=True)) | (x == torch.amin(x, along, keepdim=True))


def _norm(x: Tensor, order: float | None = 2, dim: Any = None, *_: Any, **__: Any) -> Tensor | None:
    if order == 1:
        return _above(x, 0)
    if order is not None and math.isinf(order):
        return x.abs() == torch.amax(x.abs(), () if dim is None else dim, keepdim=True)
    return None


def _margins(x: Tensor, target: Tensor, p: float = 1, margin: float = 1, *_: Any, **__: Any) -> Tensor:
    """Every pair of scores against the margin, of which the loss uses those with the target."""
    return x.unsqueeze(-1) - x.unsqueeze(-2) > -margin


WINNERS: dict[str, Callable[..., Tensor | None]] = {
    **dict.fromkeys(
        ("relu", "leaky_relu", "_prelu_kernel", "rrelu_with_noise", "elu", "celu", "abs"),
        lambda x, *_, **__: _above(x, 0),
    ),
    "threshold": lambda x, edge, *_: _above(x, edge),
    "hardtanh": lambda x, low=-1, high=1: _above(x, low, high),
    "clamp": lambda x, min=None, max=None: _above(x, min, max),
    "clamp_min": _above,
    "clamp_max": _above,
    **dict.fromkeys(("hardsigmoid", "hardswish"), lambda x: _above(x, -3, 3)),
    **dict.fromkeys(("hardshrink", "softshrink"), lambda x, edge=0.5: _above(x, -edge, edge)),
    **dict.fromkeys(("maximum", "minimum", "fmax", "fmin"), _larger),
    **dict.fromkeys(("max", "amax"), _extreme(torch.amax)),
    **dict.fromkeys(("min", "amin"), _extreme(torch.amin)),
    "aminmax": _extremes,
    **dict.fromkeys(("linalg_vector_norm", "norm"), _norm),
    "multi_margin_loss": _margins,
    "multilabel_margin_loss_forward": lambda x, target, *_: _margins(x, target),
    # Steps: their derivative is zero, and the difference is too, unless a step was crossed.
    "sign": torch.sign,
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round": torch.round,
    "trunc": torch.trunc,
    "frac": torch.trunc,
}
"""Operation, without the underscore of its in-place form, to the winners at its arguments.

Not listed are operations that hand out their winners as integers or truth values: indices of max-pooling, max
along a dimension, sorting, top-k, and comparisons. Those are taken from their outputs.
"""

# uint8 outputs are scratch memory of cuDNN and oneDNN kernels, and what is in `empty` memory is chance.
_DECISIONS = (torch.bool, torch.int32, torch.int64)


class WinnerRecorder(TorchDispatchMode):
    """Inside the `with` block, records the winners of every max-like operation in `winners`; or with those of
    an earlier evaluation as `reference` compares them: `crossed` tells at the end of the block whether any
    differs, be it only because the code took another path."""

    def __init__(self, reference: Sequence[Tensor] | None = None) -> None:
        super().__init__()
        self.winners: list[Tensor] = []
        self.crossed = False
        self._reference = reference
        self._seen = 0

    def __exit__(self, *reason: Any) -> None:
        if self._reference is not None and self._seen != len(self._reference):
            self.crossed = True
        super().__exit__(*reason)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.crossed:
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__.rstrip("_")
        if name in WINNERS and args[0].is_floating_point():
            # Before the call, for an in-place operation overwrites what decides.
            named = {key: value for key, value in kwargs.items() if key != "out"}
            self._note(WINNERS[name](*args, **named))
        result = func(*args, **kwargs)
        decisions = [x for x in tensors_in(result) if x.dtype in _DECISIONS]
        if (
            decisions
            and "empty" not in name
            and any(x.is_floating_point() for x in tensors_in((args, kwargs)))
        ):
            for decision in decisions:
                self._note(decision)
        return result

    def _note(self, winners: Tensor | None) -> None:
        if winners is None:
            return
        if self._reference is None:
            self.winners.append(winners.detach().clone())
            return
        position, self._seen = self._seen, self._seen + 1
        if position >= len(self._reference) or not torch.equal(winners, self._reference[position]):
            self.crossed = True


def tensors_in(values: Any) -> list[Tensor]:
    """The tensors among the arguments or results of an operation, which nest in tuples, lists and dicts."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, (tuple, list)):
        return []
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list, dict)):
            found += tensors_in(value)
    return found
