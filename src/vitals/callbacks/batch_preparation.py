"""What Lightning does to a batch between the data loader and the step, done for a copy of the module."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import lightning as L
from lightning.pytorch.utilities.model_helpers import is_overridden


class BatchPreparation:
    """Calls the hooks around the transfer to the device, and converts to the precision.

    Args:
        trainer: whose data module and precision take part.
        owner: a copy of the module.
        facts: the stand-in for the trainer that the hooks may ask.
    """

    def __init__(self, trainer: L.Trainer, owner: L.LightningModule, facts: SimpleNamespace) -> None:
        self.owner, self.facts, self.device = owner, facts, trainer.strategy.root_device
        self.convert = trainer.precision_plugin.convert_input
        self.data: Any = copy.copy(getattr(trainer, "datamodule", None))

    def __call__(self, batch: Any, dataloader_idx: int = 0) -> Any:
        for name in ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"):
            owner: Any = self.owner
            if self.data is not None and is_overridden(name, self.data, L.LightningDataModule):
                owner = self.data
                owner.trainer = self.facts
            else:
                owner._trainer = self.facts
            arguments = (self.device, dataloader_idx) if name.startswith("transfer") else (dataloader_idx,)
            batch = getattr(owner, name)(batch, *arguments)
        return self.convert(batch)
