"""The LightningModule of an image classifier: network, cross-entropy, optimizer and schedule."""

from collections.abc import Callable
from functools import partial
from typing import Any

import lightning as L
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics.classification import MulticlassAccuracy

from project.optim.optimizers import OptimizerFactory, Schedule, set_momentum
from vitals.errors import UserError
from vitals.length import steps_per_epoch, total_epochs
from vitals.measures.batch_mean import BatchMean
from vitals.metric import Metric


class ImageClassifier(L.LightningModule):
    """Trains a network by cross-entropy, and measures loss and accuracy of every stage.

    Epoch metrics are `loss/<stage>` and `accuracy/<stage>` for the stages train, val and test; they are for
    callbacks to use, and `LearningCurves` writes them to the loggers. While training, the loss is that of the
    augmented batches, in training mode.

    Args:
        network: images, float N×C×H×W, to logits, N×`num_classes`.
        num_classes: classes.
        optimizer: makes the optimizer for the network.
        schedule: of the learning rate.
        metric: that a schedule on a plateau follows.
        momentum_schedule: the momentum after so many epochs of a `total`; None leaves it alone.
        label_smoothing: of the training loss, from 0 up to, but not including, 1.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        optimizer: OptimizerFactory,
        schedule: Schedule,
        metric: Metric,
        momentum_schedule: Callable[..., float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.network, self.metric, self.label_smoothing = network, metric, label_smoothing
        self.make_optimizer, self.schedule, self.momentum_schedule = optimizer, schedule, momentum_schedule
        self.metrics: Any = nn.ModuleDict()
        for stage in ("train", "val", "test"):
            self.metrics[f"loss_{stage}"] = BatchMean()  # without NaN: a monitor says where it began
            # Validating labels would bring them to the host in every step; the loss refuses bad ones.
            micro = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
            self.metrics[f"accuracy_{stage}"] = micro
        self.plateau: ReduceLROnPlateau | None = None
        self.plateau_state: dict[str, Any] | None = None

    def forward(self, images: Tensor) -> Tensor:
        """Images, float N×C×H×W, to logits, N×`num_classes`."""
        return self.network(images)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        self.metrics["loss_train"].update(loss.detach(), len(labels))
        self.metrics["accuracy_train"].update(logits.detach(), labels)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Measure, and return the logits, N×`num_classes`, for callbacks."""
        return self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        logits: Tensor = self(images)
        self.metrics[f"loss_{stage}"].update(cross_entropy(logits, labels), len(labels))
        self.metrics[f"accuracy_{stage}"].update(logits, labels)
        self._log(stage)
        return logits

    def _log(self, stage: str) -> None:
        for name in ("loss", "accuracy"):
            shown, metric = (name, stage) == ("accuracy", "val"), self.metrics[f"{name}_{stage}"]
            self.log(f"{name}/{stage}", metric, on_step=False, on_epoch=True, logger=False, prog_bar=shown)

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.network)
        self.plateau = self.schedule.plateau(optimizer, self.metric.mode)
        if self.plateau and self.plateau_state:
            self.plateau.load_state_dict(self.plateau_state)
        length = partial(total_epochs, self.trainer)
        scheduler = self.schedule.every_step(optimizer, steps_per_epoch(self.trainer), length)
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.momentum_schedule is not None:
            epoch = self.trainer.global_step / steps_per_epoch(self.trainer)
            total = self.schedule.epochs or total_epochs(self.trainer)
            set_momentum(self.trainer.optimizers[0], self.momentum_schedule(epoch, total=total))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        # Logging a metric with every batch costs more than updating it; once an epoch says the same.
        if self.trainer.is_last_batch or self.trainer.should_stop:
            self._log("train")

    def on_validation_end(self) -> None:
        # Lightning would step a plateau scheduler only after the checkpoint has been saved, and a resumed run
        # would miss that step.
        if self.plateau is not None and not self.trainer.sanity_checking:
            logged = self.trainer.callback_metrics
            if self.metric.name not in logged:
                raise UserError(f"schedule=plateau: {self.metric.missing_from(logged)}")
            self.plateau.step(logged[self.metric.name])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self.plateau is not None:
            checkpoint["plateau"] = self.plateau.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.plateau_state = checkpoint.get("plateau")
