"""Are layers in training mode when training, and in evaluation mode when validating?"""

from collections.abc import Iterator
from typing import Any

import lightning as L
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchmetrics import Metric

from vitals.measures.batch_norm import has_statistics
from vitals.monitors.monitor import Monitor
from vitals.recorder import recorder_of


class Modes(Monitor):
    """Looks at the modes of all modules after the first batch of every epoch, in training and validation.

    | tag | what |
    | --- | --- |
    | `modes/evaluating_in_training` | share of the modules in evaluation mode while training |
    | `modes/training_in_validation` | share of the modules in training mode while validating |
    | `modes/norms_without_statistics` | share of the BatchNorm layers, so while training, that saw no batch |

    Modules whose parameters are all frozen are left out with all that is in them, and so are losses and
    metrics. Single layers may be in another mode on purpose, such as frozen BatchNorm or Monte-Carlo dropout;
    a whole network is not.
    """

    station = "before"

    def __init__(self) -> None:
        super().__init__(times_per_epoch=1)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            self.guarded(self._look, trainer, pl_module, "modes/evaluating_in_training", False)
            self.guarded(self._look_at_norms, trainer, pl_module)

    def on_validation_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx == 0 and trainer.training is False and not trainer.sanity_checking:
            self.guarded(self._look, trainer, pl_module, "modes/training_in_validation", True)

    @staticmethod
    def _look(trainer: L.Trainer, module: L.LightningModule, tag: str, training: bool) -> None:
        watched = list(_trainable_parts(module))
        recorder = recorder_of(trainer)
        if watched and recorder:
            share = sum(part.training is training for part in watched) / len(watched)
            recorder.history.add(trainer.global_step, float(trainer.current_epoch), {tag: share})

    @staticmethod
    def _look_at_norms(trainer: L.Trainer, module: L.LightningModule) -> None:
        parts = _trainable_parts(module)
        norms = [part for part in parts if isinstance(part, _BatchNorm) and part.running_mean is not None]
        recorder = recorder_of(trainer)
        if norms and recorder:
            share = sum(not norm.training and not has_statistics(norm) for norm in norms) / len(norms)
            tag = "modes/norms_without_statistics"
            recorder.history.add(trainer.global_step, float(trainer.current_epoch), {tag: share})


def _trainable_parts(module: nn.Module) -> Iterator[nn.Module]:
    """The modules in `module` whose mode the training is about; dropout in a frozen backbone is not."""
    for part in module.children():
        parameters = list(part.parameters())
        frozen = parameters and not any(parameter.requires_grad for parameter in parameters)
        if not frozen and not isinstance(part, Metric) and "Loss" not in type(part).__name__:
            yield part
            yield from _trainable_parts(part)
