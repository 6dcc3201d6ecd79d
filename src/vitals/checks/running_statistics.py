"""Will BatchNorm know the training set by the time it is validated?"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from vitals.checks.check import Check, Options, Outcome
from vitals.checks.training_setup import TrainingSetup
from vitals.errors import listed
from vitals.findings import Finding
from vitals.measures.batch_norm import has_statistics, tracking_layers

LEFT = 0.5
"""Share of the statistics at the end of the training that are still those of a new layer."""
FEWEST_STEPS = 20
"""Batches below which it is the training that is short: at torch's own momentum of 0.1 seven of them leave
half."""


@dataclass(frozen=True)
class RunningStatistics:
    stale: dict[str, float]
    """BatchNorm layers that start without statistics, and the share that will be left of their first ones at
    the end of the training: (1 − momentum)^batches."""
    batches: float
    """Of the training."""

    def findings(self) -> list[Finding]:
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


def check_running_statistics(model: nn.Module, batches: float) -> RunningStatistics:
    """How much of their first statistics the BatchNorm layers of `model` still have after so many batches."""
    tracking = set(tracking_layers(model))
    stale = {
        name: (1 - layer.momentum) ** batches
        for name, layer in model.named_modules()
        if layer in tracking
        and isinstance(layer, nn.modules.batchnorm._BatchNorm)
        and layer.momentum is not None
        and not has_statistics(layer)
    }
    return RunningStatistics(stale, batches)


class RunningStatisticsCheck(Check):
    name = "running_statistics"
    needs = "loss"

    def run(self, setup: TrainingSetup, options: Options) -> Outcome:
        result = check_running_statistics(setup.model, setup.total_batches)
        seen = f"{max(result.stale.values(), default=0.0):.1%} of the first are left"
        return Outcome(result.findings(), seen, f"{LEFT:.0%} at most", result)
