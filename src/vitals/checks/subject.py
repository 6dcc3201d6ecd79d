"""What the checks before learning look at: a network and its loss, with samples as they enter it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Optimizer

from vitals.errors import UserError
from vitals.probes.trial import Loss


@dataclass(frozen=True, eq=False)
class Subject:
    """Everything that the checks need to know of a training."""

    model: nn.Module
    """In the modes in which it trains."""
    loss: Loss
    optimizers: tuple[Optimizer, ...]
    inputs: Tensor
    """(N, ...), as they enter the model; N is better 1024, drawn at random from the training set."""
    targets: Tensor
    """(N,), class numbers."""
    label_batches: tuple[Tensor, ...] = ()
    """Labels of successive training batches, in their order."""
    validation_inputs: Tensor | None = None
    """(M, ...), as they enter the model in validation."""
    training_layers_in_validation: bool | None = None
    """Whether validation calls the model in training mode; None where that is not known."""
    batch_size: int = 128
    total_steps: int = 1000
    """Length of the training in optimizer steps."""
    loss_is_random: bool = False
    """Whether the loss draws random numbers, as with mixup; then it has no least value to compare with."""

    def batch(self, limit: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of one training batch, of at most `limit` samples."""
        size = min(self.batch_size, limit)
        return self.inputs[:size], self.targets[:size]

    def only_optimizer(self) -> Optimizer:
        """The optimizer; raises `UserError` where there is not exactly one."""
        if len(self.optimizers) != 1:
            raise UserError(
                f"The training has {len(self.optimizers)} optimizers; this check is made for one."
            )
        return self.optimizers[0]

    def optimizer_or_none(self) -> Optimizer | None:
        """The optimizer where there is exactly one."""
        return self.optimizers[0] if len(self.optimizers) == 1 else None
