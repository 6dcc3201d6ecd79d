"""How large the updates are beside the weights."""

import math
from typing import Any, ClassVar

import lightning as L
from torch import Tensor
from torch.optim import Optimizer

from vitals.errors import UserError
from vitals.measures.healthy import UPDATE_RATIO
from vitals.measures.held_parameters import held_parameters, names_by_identity, param_groups
from vitals.measures.norms import to_host
from vitals.measures.update_ratio import UpdateMeter, median_ratio, update_ratio
from vitals.monitors.monitor import Monitor, scales_gradients
from vitals.probes.trial import is_large
from vitals.writers.groups import Charts


class UpdateRatio(Monitor):
    """Logs the true update:weight ratio ‖Δw‖/‖w‖ of every parameter over one optimizer step.

    | tag | what |
    | --- | --- |
    | `update_ratio/<parameter>` | ‖Δw‖/‖w‖; none where ‖w‖ < 1e-8 |
    | `weight_norm/<parameter>` | ‖w‖ before the step |
    | `update_ratio_summary/{min,median,max}` | over weights, without biases and norm scales |
    | `update_ratio_summary/<group>` | the median of each parameter group, where there are several |
    | `update_ratio_band/{low,high}` | where the median should lie: 1e-4 to 3e-2 |

    A ratio far below the band means a learning rate too low, far above it one too high; under BatchNorm it
    levels off near 2e-2 however high the rate is. It is never a verdict alone: docs/course.md,
    "Update ratio".

    Works with accumulation, clipping, mixed precision, several groups and optimizers, and LBFGS. A step left
    out by the gradient scaler is not measured.

    Args:
        every_n_steps, times_per_run, times_per_epoch: see `Interval`.
    """

    station = "updates"

    charts: ClassVar[Charts] = {
        "update ratio": {
            "median, and the band it should lie in": [
                "Margin",
                ["update_ratio/_median", "update_ratio/_band_low", "update_ratio/_band_high"],
            ],
            "each parameter, smallest, median and largest": ["Multiline", ["update_ratio/"]],
            "norm of each parameter": ["Multiline", ["weights/norm/"]],
        }
    }

    def __init__(
        self,
        every_n_steps: int | None = 50,
        times_per_run: int | None = 20,
        times_per_epoch: int | None = None,
    ) -> None:
        super().__init__(every_n_steps, times_per_run, times_per_epoch)
        self.meters: dict[int, UpdateMeter] = {}
        self.begun: dict[int, int] = {}
        """By optimizer, the steps taken before the one that is measured."""
        self.ended: dict[int, Tensor] = {}
        self.wanted = False
        self.before = 0
        """Steps taken before the last batch."""

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.meters, self.begun, self.ended = {}, {}, {}
        self.before = trainer.global_step
        if not held_parameters(*trainer.optimizers):
            raise UserError("no optimizer has a parameter.")

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        # All optimizers that take a step with this batch are measured together; some take several.
        step = trainer.global_step
        self.wanted = self.due(step + max(len(trainer.optimizers), step - self.before, 1), step)
        self.before = step

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        if not (self.wanted or self.begun):
            return
        step, key = trainer.global_step, id(optimizer)
        if self.wanted and key not in self.begun:
            self.begun[key] = step
            self.guarded(self._before, pl_module, optimizer)
        elif key in self.begun and key not in self.ended and step > self.begun[key]:
            # A second step with the same batch. LBFGS comes here with every evaluation of one step.
            self.ended[key] = self.meters[key].after()

    def _before(self, module: L.LightningModule, optimizer: Optimizer) -> None:
        parameters = held_parameters(optimizer)
        meter = self.meters.get(id(optimizer))
        if meter is None or not meter.measures(parameters):  # some may have been unfrozen
            names = names_by_identity(module)
            named = [(names.get(id(p), f"parameter {i}"), p) for i, p in enumerate(parameters)]
            meter = UpdateMeter(named, often=self.period < 5 and not is_large(parameters))
            self.meters[id(optimizer)] = meter
        meter.before()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if self.begun and self.active:
            begun = [optimizer for optimizer in trainer.optimizers if id(optimizer) in self.begun]
            ended, self.begun, self.ended = self.ended, {}, {}
            self.guarded(self._after, trainer, begun, ended)

    def _after(self, trainer: L.Trainer, optimizers: list[Optimizer], ended: dict[int, Tensor]) -> None:
        optimizers = [optimizer for optimizer in optimizers if self.meters[id(optimizer)].names]
        meters = {id(optimizer): self.meters[id(optimizer)] for optimizer in optimizers}
        norms = to_host([ended[key] if key in ended else meter.after() for key, meter in meters.items()])
        ratios: dict[str, float] = {}
        scalars: dict[str, float] = {}
        changed = False
        weights: dict[int, str] = {}
        for meter, values in zip(meters.values(), norms, strict=True):
            count = len(meter.names)
            for name, parameter, change, norm in zip(
                meter.names, meter.parameters, values[:count], values[count:], strict=True
            ):
                changed = changed or change != 0
                scalars[f"weight_norm/{name}"] = norm
                ratio = update_ratio(change, norm)
                if ratio is not None:
                    scalars[f"update_ratio/{name}"] = ratio
                    if parameter.ndim >= 2:
                        ratios[name] = ratio
                        weights[parameter.data_ptr()] = name
        if not changed and scales_gradients(trainer):
            return  # the scaler left the step out: that says nothing about the rate
        if ratios:
            finite = [ratio for ratio in ratios.values() if math.isfinite(ratio)] or [math.inf]
            scalars["update_ratio_summary/min"] = min(finite)
            scalars["update_ratio_summary/median"] = median_ratio(ratios.values())
            scalars["update_ratio_summary/max"] = max(ratios.values())
            low, high = UPDATE_RATIO
            scalars |= {"update_ratio_band/low": low, "update_ratio_band/high": high}
            scalars |= self._of_groups(trainer.optimizers, weights, ratios)
        self.record(trainer, scalars)

    @staticmethod
    def _of_groups(
        optimizers: list[Optimizer], weights: dict[int, str], ratios: dict[str, float]
    ) -> dict[str, float]:
        """The median of each group that has taken a step and has weights, where there are several groups."""
        medians: dict[str, float] = {}
        groups = param_groups(*optimizers)
        for number, group in enumerate(groups):
            names = [weights[p.data_ptr()] for p in group["params"] if p.data_ptr() in weights]
            if names:
                medians[f"update_ratio_summary/{group.get('name', number)}"] = median_ratio(
                    ratios[name] for name in names
                )
        return medians if sum(any(p.ndim > 1 for p in group["params"]) for group in groups) > 1 else {}
