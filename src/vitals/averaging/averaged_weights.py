"""Averages of a network's weights over the later part of a training.

Three kinds: `swa`, the equal mean (Izmailov et al., 2018, "Averaging Weights Leads to Wider Optima"); `ema`,
an exponentially decaying mean (cs231n "Neural Networks Part 3", section "Model ensembles"); `last_k`, the
mean of the last few checkpoints (the same section).
"""

from collections import deque
from copy import deepcopy
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from vitals.errors import UserError, did_you_mean
from vitals.probes.copies import copied

Kind = Literal["swa", "ema", "last_k"]
KINDS: tuple[Kind, ...] = get_args(Kind)


def require(right: bool, setting: str, what: str) -> None:
    """Raise `UserError` unless `setting`, a `key=value` of the averaging, is `right`: it is to be `what`."""
    if not right:
        raise UserError(f"average.{setting} is not allowed: it must be {what}.")


def is_count(value: Any) -> bool:
    """Whether `value` is a whole number of 1 or more."""
    return type(value) is int and value >= 1


class AveragedWeights:
    """What torch's `AveragedModel` does, with one multi-tensor update and no wait for the device. Weights in
    16 bits are averaged in 32: a small step towards them would be rounded away.

    `decay` is that of `ema`, above 0 and below 1; the n-th update uses (1 + n)/(10 + n) if that is less, so
    that a short run forgets its first weights, too. `last` are the weights that `last_k` keeps, 1 or more.
    `UserError` if there is no such `kind`, or a value is out of range.
    """

    def __init__(self, model: nn.Module, kind: Kind = "swa", decay: float = 0.999, last: int = 5) -> None:
        if kind not in KINDS:
            raise UserError(f"average.kind={kind} does not exist: {did_you_mean(kind, KINDS)}")
        require(0 < decay < 1, f"decay={decay:g}", "between 0 and 1, both excluded")
        require(is_count(last), f"last={last}", "a whole number of 1 or more")
        jit = any(isinstance(part, torch.jit.ScriptModule) for part in model.modules())
        # The functions of any other, as hooks, would still act on the training.
        self.module: nn.Module = deepcopy(model) if jit else copied(model)
        """A copy of the model that becomes the average when `finish` is called, and not before."""
        self.kind, self.decay = kind, decay
        self.count = 0
        self.recent: deque[list[Tensor]] = deque(maxlen=last)
        halves = (torch.float16, torch.bfloat16)
        self.means = [p.detach().float() if p.dtype in halves else p for p in self.module.parameters()]
        self.layout = _layout(self.module)
        self.sources: tuple[nn.Module | None, list[Tensor]] = (None, [])
        """The model last averaged and its parameters: to look for them takes as long as to average them."""

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the present weights of `model` into the average; `UserError` if it has got other ones."""
        if self.sources[0] is not model:
            self._require_same(model)
            self.sources = model, [*model.parameters()]
        values = self.sources[1]
        if self.kind == "last_k":
            self.recent.append([value.detach().clone() for value in values])
        elif self.kind == "swa":
            _move(self.means, values, 1 / (self.count + 1))
        else:
            decay = min(self.decay, (1 + self.count) / (10 + self.count))
            _move(self.means, values, 1 - decay if self.count else 1.0)
        self.count += 1

    @torch.no_grad()
    def finish(self, model: nn.Module) -> nn.Module:
        """Make `module` the average, with the buffers of `model`, and return it; `UserError` as above.

        BatchNorm's buffers among them belong to other weights: see `vitals.measures.batch_norm`.
        """
        self._require_same(model)
        self.sources = None, []  # looked for anew, as something may have replaced them
        for number, values in enumerate(self.recent):
            _move(self.means, values, 1 / (number + 1))
        for parameter, mean in zip(self.module.parameters(), self.means, strict=True):
            if mean is not parameter:
                parameter.copy_(mean)
        for buffer, source in zip(self.module.buffers(), model.buffers(), strict=True):
            buffer.copy_(source)
        return self.module

    def _require_same(self, model: nn.Module) -> None:
        if _layout(model) != self.layout:
            raise UserError(
                "the module has got other weights since its training began, as where it is pruned."
            )

    def averaging_state(self) -> dict[str, Any]:
        """What `load_averaging_state` needs, in tensors and plain types; the tensors are not copied."""
        return {
            "kind": self.kind,
            "count": self.count,
            "means": [mean.detach() for mean in self.means] if self.kind != "last_k" else [],
            "recent": [list(values) for values in self.recent],
        }

    @torch.no_grad()
    def load_averaging_state(self, state: dict[str, Any]) -> None:
        """Go on from where `averaging_state` was taken; `UserError` if it was taken from another kind of
        average, or of another network."""
        if state["kind"] != self.kind:
            raise UserError(
                f"average.kind={self.kind} cannot continue an average of the kind {state['kind']}: leave "
                f"average.kind out, or start a new run."
            )
        for weights in [state["means"] or self.means, *state["recent"]]:
            if [weight.shape for weight in weights] != [mean.shape for mean in self.means]:
                raise UserError("the average in the checkpoint is that of another network.")
        self.count = state["count"]
        for mean, saved in zip(self.means, state["means"], strict=False):
            mean.copy_(saved)
        self.recent.clear()
        for values in state["recent"]:
            # As new tensors: those of the checkpoint may be used for something else.
            self.recent.append(
                [value.to(mean.device, copy=True) for value, mean in zip(values, self.means, strict=True)]
            )


def _layout(model: nn.Module) -> list[Any]:
    """Names of parameters and buffers, with their shapes where these are known already."""
    named = (*model.named_parameters(), *model.named_buffers())
    return [(name, None if is_lazy(value) else value.shape) for name, value in named]


def _move(means: list[Tensor], values: list[Tensor], share: float) -> None:
    """Move `means` towards `values` by `share` of the way; 1 copies, whatever stood there before."""
    if share == 1:
        torch._foreach_copy_(means, values)
        return
    if all(mean.dtype is value.dtype is torch.float32 for mean, value in zip(means, values, strict=True)):
        torch._foreach_lerp_(means, values, share)
        return
    groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for mean, value in zip(means, values, strict=True):
        if not (mean.is_floating_point() or mean.is_complex()):
            mean.copy_(value)
            continue
        group = groups.setdefault(mean.dtype, ([], []))
        group[0].append(mean)
        group[1].append(value.to(mean.dtype))
    for some_means, some_values in groups.values():
        torch._foreach_lerp_(some_means, some_values, share)
