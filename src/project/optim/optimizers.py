"""From the config groups `optimizer`, `schedule` and `momentum_schedule` to what trains the classifier."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import nn
from torch.optim import LBFGS, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LinearLR, LRScheduler, ReduceLROnPlateau

from project.optim import schedules
from project.optim.muon import muon
from vitals.runs.instantiate import bound, locate


def parameter_groups(
    network: nn.Module, weight_decay: float, decay_bias_and_norm: bool
) -> list[dict[str, Any]]:
    """Parameter groups for a torch optimizer: `decay`, and `no_decay` for biases and norm scales.

    A parameter of less than two dimensions is a bias or a scale. Frozen parameters are left out. A group
    without parameters, and the split where nothing decays, are left out too. `weight_decay`, 0 or more, is
    that of the group `decay`, into which `decay_bias_and_norm` puts every parameter.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if decay_bias_and_norm or not weight_decay:
        return [{"params": parameters, "weight_decay": weight_decay, "name": "all"}]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay, "name": "decay"},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0, "name": "no_decay"},
    ]
    return [group for group in groups if group["params"]]


OptimizerFactory = Callable[[nn.Module], Optimizer]
Length = float | Callable[[], float]


def optimizer_factory(config: Mapping[str, Any]) -> OptimizerFactory:
    """A function that makes the configured optimizer for a network; `config` has its `_target_`, the
    constructor's arguments, and `decay_bias_and_norm`."""
    arguments = dict(config)
    decay_bias_and_norm = arguments.pop("decay_bias_and_norm", False)
    return partial(_make_optimizer, bound("optimizer", arguments, []), decay_bias_and_norm)


def _make_optimizer(made: partial[Optimizer], decay_bias_and_norm: bool, network: nn.Module) -> Optimizer:
    if made.func is LBFGS:  # takes no parameter groups
        return made([parameter for parameter in network.parameters() if parameter.requires_grad])
    if made.func is muon:
        return made(network)
    arguments = dict(made.keywords)
    groups = parameter_groups(network, arguments.pop("weight_decay", 0.0), decay_bias_and_norm)
    return made.func(groups, **arguments)


@dataclass(frozen=True)
class Schedule:
    """The learning rate over a run: a shape with its arguments bound, after a linear warm-up.

    Attributes:
        shape: `(epoch, total) -> share of the base rate`, or a bound `ReduceLROnPlateau`.
        warmup_epochs: length of the warm-up; 0 for none.
        epochs: length that the shape is made for; None for the length of the run.
        late: the rate that takes over late in the run, the arguments of `schedules.late_rate`, where `start`
            is a share of the length or a whole number of epochs; None for none.
    """

    shape: partial[Any]
    warmup_epochs: float
    epochs: int | None
    late: Mapping[str, Any] | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Schedule:
        """The configured schedule: `_target_`, its arguments, `warmup_epochs`, `epochs` and `late`."""
        shape = dict(config)
        warmup_epochs, epochs, late = (shape.pop(key) for key in ("warmup_epochs", "epochs", "late"))
        plateau = locate("schedule", shape["_target_"]) is ReduceLROnPlateau
        made = bound("schedule", shape, *((None,) if plateau else (0.0, 1.0)))
        return cls(made, warmup_epochs, epochs, late if late["start"] is not None else None)

    def plateau(self, optimizer: Optimizer, mode: Literal["max", "min"]) -> ReduceLROnPlateau | None:
        """The scheduler to step once an epoch with the metric, whose largest or smallest value is best;
        None where the rate depends on time."""
        return self.shape(optimizer, mode=mode) if self.shape.func is ReduceLROnPlateau else None

    def every_step(
        self, optimizer: Optimizer, steps_per_epoch: float, run_epochs: Length
    ) -> LRScheduler | None:
        """The scheduler to step after every optimizer step; None where nothing changes with the steps.

        Step i, counted from 0, trains at `shape(i / steps_per_epoch)` of the base rate, times
        `(i + 1) / warm-up steps` while it warms up, which ends with the run at the latest, so that no step is
        taken at a rate of 0. A function says what `run_epochs` are by the pace so far.
        """
        length = run_epochs if callable(run_epochs) else lambda: run_epochs
        if self.shape.func is ReduceLROnPlateau:
            # LinearLR multiplies what it finds, and so leaves alone what the plateau has done.
            steps = round(min(self.warmup_epochs, self.epochs or length()) * steps_per_epoch)
            return LinearLR(optimizer, 1 / steps, total_iters=steps - 1) if steps > 1 else None

        def rate(step: int) -> float:
            epoch, total = step / steps_per_epoch, self.epochs or length()
            warmup = schedules.warmup((step + 1) / steps_per_epoch, min(self.warmup_epochs, total))
            if self.late:
                start = self.late["start"] * (total if isinstance(self.late["start"], float) else 1)
                if epoch > start - schedules.ROUNDING:
                    return warmup * schedules.late_rate(epoch, **{**self.late, "start": start})
            return warmup * float(self.shape(epoch, total))

        return LambdaLR(optimizer, rate)


def momentum_schedule(config: Mapping[str, Any]) -> Callable[..., float] | None:
    """The momentum after so many epochs of a `total`; None where it stays what the optimizer says."""
    return bound("momentum_schedule", config, 0.0) if config["_target_"] is not None else None


def set_momentum(optimizer: Optimizer, momentum: float) -> None:
    """Set the momentum of every parameter group; for Adam and its relatives that is β₁."""
    for group in optimizer.param_groups:
        if "momentum" in group:
            group["momentum"] = momentum
        else:
            group["betas"] = (momentum, *group["betas"][1:])
