"""Will BatchNorm know the training set by the time it is validated?"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from vitals.checks.check import Check, Options, Outcome
from vitals.checks.training_setup import TrainingSetup
from vitals.errors import listed
from vitals.findings import Finding
from vitals.measures.batch_norm import has_statistics, tracking_layers
from vitals.measures.fresh_draws import looks_drawn
from vitals.probes.trial import Inputs, trial

LEFT = 0.5
"""Share of the statistics at the end of the training that are still those of a new layer."""
TINY = 1e-12
PAIR = 2
"""Values of a channel of which nothing but their order is left."""
UNLIKE = 2.0
"""Ratio of the variances, for half of the channels, of what one layer is given in different places of the
network. A note: a block that is repeated may bear it."""
FOREIGN = 8.0
"""Ratio of the variances, for half of the channels, of what the first layer with given statistics gets and of
these, from which they were taken of inputs on another scale: 16 for pixels of 0 to 1 in place of normalized
ones, 5 for pixels of -1 to 1, 1.2 to 1.6 for the same images, one class of them, or grey ones (measured)."""
IN_COMMON = 2.0
"""Ratio of their quartiles over the channels up to which it is the scale of the inputs, which all channels
share: 1.1 to 1.4 for pixels of 0 to 1, of -1 to 1, and up to 255, 2.2 to 2.9 for images without edges
(measured)."""
FEWEST_VALUES = 16
"""Of a channel, below which their variance may be far off by chance."""
FEWEST_STEPS = 20
"""Batches below which it is the training that is short."""


@dataclass(frozen=True)
class RunningStatistics:
    """What BatchNorm's statistics will rest on; layers by their names."""

    stale: dict[str, float]
    """BatchNorm layers that start without statistics, and the share that will be left of their first ones at
    the end of the training: (1 − momentum)^batches."""
    batches: float
    """Of the training."""
    values: dict[str, int]
    """Of the layers that train: over how many values they take mean and variance of a channel."""
    normalizes: bool
    """Whether there are any that train."""
    unlike: dict[str, float]
    """Of the layers that train and are called several times in a pass: by how much the variances of what they
    are given differ, as a ratio."""
    foreign: tuple[str, float, float] = ("", 1.0, 1.0)
    """The first layer that keeps the statistics of an earlier training, by how much the variances of what it
    is given differ from them, as a ratio, and the quartiles of that over the channels, as a ratio; not known
    where layers ahead of it are new."""

    def findings(self) -> list[Finding]:
        """What is wrong, the most important first; `wiring-correct` where nothing is, `skipped` where there
        is nothing to look at."""
        where, ratio, apart = self.foreign
        if ratio > FOREIGN and apart < IN_COMMON:
            seen = (
                f"'{where}' is in evaluation mode, with the statistics of an earlier training, and gets "
                f"inputs whose variances differ from these by a factor of {ratio:.2g}, much the same in all "
                f"channels: it was trained on inputs of another scale."
            )
            remedy = "Prepare the inputs as those that the weights were trained on: scaling, mean, deviation."
            return [Finding("input-not-normalized", "warn", seen, remedy, where, ratio, FOREIGN)]
        if not self.normalizes:
            seen = "No BatchNorm takes statistics from the batches."
            return [Finding("skipped", "note", seen, where="running statistics")]
        pairs = [name for name, count in self.values.items() if count <= PAIR]
        if pairs:
            seen = (
                f"{len(pairs)} BatchNorm layer(s) take mean and variance of a channel over {PAIR} values, "
                f"which turns them into −1 and 1 whatever they were ({listed(pairs)})."
            )
            remedy = "Take larger batches, or GroupNorm or LayerNorm, which need no other samples."
            return [Finding("batch-too-small", "warn", seen, remedy, pairs[0], PAIR, PAIR)]
        unlike = {name: ratio for name, ratio in self.unlike.items() if ratio > UNLIKE}
        if unlike:
            where, ratio = max(unlike.items(), key=lambda item: item[1])
            seen = (
                f"{len(unlike)} BatchNorm layer(s) are called several times in a pass, with inputs whose "
                f"variances differ by a factor of {ratio:.2g} ({listed(unlike)}): the running statistics are "
                f"a mixture, and evaluation mode goes by them."
            )
            remedy = "Give each place a BatchNorm layer of its own; they may have one weight and bias."
            return [Finding("train-val-mismatch", "note", seen, remedy, where, ratio, UNLIKE)]
        late = {name: share for name, share in self.stale.items() if share > LEFT}
        if self.batches < FEWEST_STEPS or not late:
            seen = "The running statistics of BatchNorm follow the batches soon enough."
            return [Finding("wiring-correct", "ok", seen, where="running statistics")]
        share = max(late.values())
        seen = (
            f"In evaluation mode {len(late)} BatchNorm layer(s) will not know the training set: after all "
            f"{self.batches:.0f} batches {share:.0%} of their statistics are still those of a new layer "
            f"({listed(late)})."
        )
        remedy = (
            "Raise their momentum, torch's share of the new batch, to its default of 0.1 (another "
            "framework's 0.99 is 0.01 here)."
        )
        where = max(late, key=lambda name: late[name])
        return [Finding("train-val-mismatch", "warn", seen, remedy, where, share, LEFT)]


def check_running_statistics(
    model: nn.Module, batches: float, inputs: Inputs | None = None
) -> RunningStatistics:
    """How much of their first statistics the BatchNorm layers of `model` still have after so many batches,
    and over how many values they normalize in one with these `inputs` (N, ...)."""
    tracking = set(tracking_layers(model))
    stale = {
        name: (1 - layer.momentum) ** batches
        for name, layer in model.named_modules()
        if layer in tracking
        and isinstance(layer, _BatchNorm)
        and layer.momentum is not None
        and not has_statistics(layer)
    }
    normalizes = _normalizes(model)
    tracked = {name: layer in tracking for name, layer in model.named_modules()}
    keeps = _keeps(model)
    given = _given(model, inputs) if (normalizes or keeps) and inputs is not None else {}
    first = next((name for name in given if name in keeps), "")
    foreign = _foreign(model, first, *given.pop(first)[0]) if first else ("", 1.0, 1.0)
    given = {name: calls for name, calls in given.items() if name not in keeps}
    values = {name: calls[-1][0] for name, calls in given.items()}
    unlike = {}
    for name, calls in given.items():
        spreads = torch.stack([variances for _, variances in calls])
        if len(calls) > 1 and tracked[name]:
            unlike[name] = float((spreads.amax(0) / spreads.amin(0).clamp_min(TINY)).median())
    return RunningStatistics(stale, batches, values, normalizes, unlike, foreign)


def _keeps(model: nn.Module) -> dict[str, _BatchNorm]:
    """The layers in evaluation mode that have seen batches, by name."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and not layer.training and has_statistics(layer)
    }


def _foreign(model: nn.Module, name: str, values: int, variances: Tensor) -> tuple[str, float, float]:
    """See `RunningStatistics.foreign`: of the layer `name`, which has got so many `values` of each channel,
    with these `variances` (C,)."""
    layer: Any = model.get_submodule(name)
    known = layer.running_var.float() + layer.eps  # by which it divides
    ratios = ((variances + layer.eps) / known).log()
    low, middle, high = (float(ratios.quantile(share)) for share in (0.25, 0.5, 0.75))
    if values < FEWEST_VALUES:
        return name, 1.0, 1.0
    return name, math.exp(abs(middle)), math.exp(high - low)


def _normalizes(model: nn.Module) -> bool:
    return any(isinstance(layer, _BatchNorm) and layer.training for layer in model.modules())


def _given(model: nn.Module, inputs: Inputs) -> dict[str, list[tuple[int, Tensor]]]:
    """Of each call of a BatchNorm layer that trains, or keeps statistics and has no new layer ahead of it:
    values of a channel, and the channels' variances."""
    found: dict[str, list[tuple[int, Tensor]]] = {}
    new: list[nn.Module] = []

    def look_at_weights(part: nn.Module, arguments: Any) -> None:
        new.extend([part] if looks_drawn(part.weight) else [])  # type: ignore[arg-type]

    def look(name: str, part: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if part.training or not new:  # what a new layer gives says nothing of the inputs
            channels = arguments[0].detach().transpose(0, 1).flatten(1)
            found.setdefault(name, []).append((channels.shape[1], channels.float().var(1)))

    with trial(model) as copies, torch.no_grad():
        for name, layer in copies.model.named_modules():
            if isinstance(layer, nn.Linear | _ConvNd):
                layer.register_forward_pre_hook(look_at_weights)
            if isinstance(layer, _BatchNorm) and (layer.training or has_statistics(layer)):
                layer.register_forward_pre_hook(partial(look, name))
        copies.outputs(inputs)
    return found


class RunningStatisticsCheck(Check):
    name = "running_statistics"
    needs = "losses"

    def run(self, setup: TrainingSetup, options: Options) -> Outcome:
        looks = _normalizes(setup.model) or _keeps(setup.model)
        inputs = setup.batch(setup.batch_size)[0] if looks else None
        result = check_running_statistics(setup.model, setup.total_batches, inputs)
        seen = f"{max(result.stale.values(), default=0.0):.1%} of the first are left"
        return Outcome(result.findings(), seen, f"{LEFT:.0%} at most", result)

    def facts(self, outcome: Outcome) -> dict[str, float]:
        return {"norms_unlike": max(outcome.result.unlike.values(), default=1.0)}

    def seconds(self, size: int, setup: TrainingSetup, options: Options) -> float:
        return options.budget.pace.copy + options.budget.pace.passes(setup.batch_size)
