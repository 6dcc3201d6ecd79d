"""The first batches of a training and of each epoch."""

from typing import Any, ClassVar

import lightning as L
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor

from vitals.either_package import either
from vitals.findings import Finding, Level
from vitals.measures.held_parameters import held_parameters
from vitals.monitors.monitor import Monitor, epoch_of

EARLY = 4
"""Batches of the training that are looked at, beside the first two of every epoch."""
FEW = 10
"""Parameters that are watched."""
SAMPLE = 1000
"""Elements by which a tensor is seen to have changed."""


class EarlyMonitor(Monitor):
    """Looks at what a training does with its parameters in its first batches, and in the first two of every
    epoch, and is silent after its first finding, as what holds in one step holds in the others.

    Not where parameters are spread over processes.
    """

    station = "updates"
    kept: ClassVar[tuple[str, ...]] = ("began",)

    def __init__(self) -> None:
        super().__init__(times_per_epoch=1)
        self.batches = self.number = self.began = 0  # in processes, too, where it never starts
        """Batches of this training so far, the place of the present one in its epoch, and batches of earlier
        trainings of this trainer."""

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.active = self.active and isinstance(trainer.strategy, either(SingleDeviceStrategy, DDPStrategy))
        self.batches = self.number = 0
        self.began = trainer.fit_loop.epoch_loop.batch_progress.total.ready

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.batches, self.number = trainer.fit_loop.epoch_loop.total_batch_idx + 1 - self.began, batch_idx

    @property
    def wanted(self) -> bool:
        """Whether this batch is looked at."""
        return self.active and (self.batches <= EARLY or self.number < 2)

    def tell(
        self,
        trainer: L.Trainer,
        message: str,
        remedy: str,
        where: str,
        count: int,
        cause: str = "frozen-parameters",
        level: Level = "fail",
    ) -> None:
        """The finding, and nothing after it."""
        self.active = False
        step, epoch = trainer.global_step + 1, round(epoch_of(trainer), 4)
        fault = (cause, level, message, remedy, where, float(count), 0.0, step, epoch)
        self.findings.append(Finding(*fault, exact=True))


def moving_parameters(trainer: L.Trainer) -> list[Tensor]:
    """Some of the parameters that the optimizers may change now."""
    return [each for each in held_parameters(*trainer.optimizers) if each.requires_grad][:FEW]


def first_elements(leaf: Tensor) -> Tensor:
    """A copy of its first elements."""
    return leaf.detach().flatten()[:SAMPLE].clone()
