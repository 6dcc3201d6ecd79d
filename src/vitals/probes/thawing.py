"""Will layers that are frozen now train later?"""

import math
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning

from vitals.either_package import either


def thaws_later(trainer: L.Trainer) -> bool:
    """Whether a callback is going to unfreeze parameters and hand them to the optimizer before the training
    ends."""
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    last = trainer.max_epochs if trainer.max_epochs is not None and trainer.max_epochs >= 0 else math.inf
    return any(
        not (isinstance(each, either(BackboneFinetuning)) and each.unfreeze_backbone_at_epoch >= last)
        for each in callbacks
        if isinstance(each, either(BaseFinetuning))
    )
