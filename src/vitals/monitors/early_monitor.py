"""The first batches of a training and of each epoch."""

from typing import Any, ClassVar

import lightning as L
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor

from vitals.either_package import either
from vitals.findings import Finding, Level
from vitals.length import is_due
from vitals.measures.held_parameters import held_parameters
from vitals.monitors.monitor import Monitor, epoch_of

EARLY = 4
"""Batches of the training that are looked at, beside the first two of every epoch that `is_due`."""
FEW = 10
"""Parameters that are watched."""
SAMPLE = 1000
"""Elements by which a tensor is seen to have changed."""


class EarlyMonitor(Monitor):
    """Looks at what a training does with its parameters in its first batches, and in the first two of every
    epoch, after many of those that are due, and is silent after its first finding, as what holds in one step
    holds in the others.

    Not where parameters are spread over processes.
    """

    station = "updates"
    kept: ClassVar[tuple[str, ...]] = ("began",)

    def __init__(self) -> None:
        super().__init__(times_per_epoch=1)
        self.batches = self.began = 0  # in processes, too, where it never starts
        """Batches of this training so far, and of earlier trainings of this trainer."""
        self.early = False
        """Whether the present one is among those that are looked at."""

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.active = self.active and isinstance(trainer.strategy, either(SingleDeviceStrategy, DDPStrategy))
        self.batches, self.early = 0, False
        self.began = trainer.fit_loop.epoch_loop.batch_progress.total.ready

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.batches = trainer.fit_loop.epoch_loop.total_batch_idx + 1 - self.began
        self.early = self.batches <= EARLY or (batch_idx < 2 and is_due(trainer.current_epoch + 1))

    @property
    def wanted(self) -> bool:
        """Whether this batch is looked at."""
        return self.active and self.early

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
        found = Finding(cause, level, message, remedy, where, float(count), 0.0, step, epoch, exact=True)
        self.findings.append(found)


def moving_parameters(trainer: L.Trainer) -> list[Tensor]:
    """Some of the parameters that the optimizers may change now."""
    return [each for each in held_parameters(*trainer.optimizers) if each.requires_grad][:FEW]


def first_elements(leaf: Tensor) -> Tensor:
    """A copy of its first elements."""
    return leaf.detach().flatten()[:SAMPLE].clone()
