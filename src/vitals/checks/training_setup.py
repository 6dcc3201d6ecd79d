"""The setup of a training that is about to begin, as the checks look at it: copies, and samples."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import lightning as L
import torch
from lightning.pytorch.callbacks import BaseFinetuning
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn
from torch.optim import Optimizer

from vitals.errors import UserError
from vitals.probes.loaders import first_batches, random_batches, successive_batches
from vitals.probes.random_states import isolated_rng
from vitals.probes.training_step import PairPreparation, TrainingStep, mute, stand_in
from vitals.probes.trial import Loss, copies_of

LABELS = 512
"""Labels of successive batches from which their order is judged."""
VALIDATION_SAMPLES = 256


@dataclass(frozen=True, eq=False)
class TrainingSetup:
    """Copies of what a training consists of, with samples as they enter the network."""

    model: nn.Module
    """In the modes in which it trains."""
    loss: Loss
    optimizers: tuple[Optimizer, ...]
    inputs: Tensor
    """(N, ...), as they enter the model; N is better 1024, drawn at random from the training set."""
    targets: Tensor
    """(N,), class numbers; or (N, ...) for checks that do not need such."""
    label_batches: tuple[Tensor, ...] = ()
    """Labels of successive training batches, in their order."""
    validation_inputs: Tensor | None = None
    """(M, ...), as they enter the model in validation."""
    training_layers_in_validation: bool | None = None
    """Whether validation calls the model in training mode; None where that is not known."""
    batch_size: int = 128
    total_steps: int = 1000
    """Length of the training in optimizer steps."""
    later: bool = False
    """Whether a callback is going to unfreeze parameters and hand them to the optimizer."""
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

    def require_fixed_loss(self) -> None:
        """Raises `UserError` where the loss draws random numbers."""
        if self.loss_is_random:
            raise UserError("The loss draws random numbers, so that it has no least value (mixup?).")

    def optimizer_or_none(self) -> Optimizer | None:
        """The optimizer where there is exactly one."""
        return self.optimizers[0] if len(self.optimizers) == 1 else None


def training_setup(
    trainer: L.Trainer, module: L.LightningModule, samples: int, class_numbers: bool = True
) -> TrainingSetup:
    """Network, loss, optimizers and samples of the training that `trainer` is about to begin.

    All are copies; the trainer, the module, the data loaders and all random states stay as they are. Inputs
    are taken just before they enter the network, and so are layers' modes.

    Args:
        trainer: with its loaders and optimizers set up, as in `on_train_start`.
        module: that trains.
        samples: training samples to take.
        class_numbers: whether the targets must be one class number for each input.

    Raises:
        UserError: if batches are not (inputs, targets), or step, module or loaders cannot be looked at.
    """
    with isolated_rng(seed=0), torch.enable_grad():
        owner, optimizers = copies_of(module, trainer.optimizers)
        mute(owner)
        facts = stand_in(trainer, training=True)
        preparation = PairPreparation(trainer, owner, facts, class_numbers)
        loader = trainer.train_dataloader
        batches = first_batches((preparation(batch) for batch in successive_batches(loader)), LABELS)
        if not batches:
            raise UserError("The training loader gives no batch.")
        step = TrainingStep(owner, facts, batches[0])
        label_batches = tuple(labels for _, labels in batches)
        drawn = first_batches((preparation(batch) for batch in random_batches(loader, samples)), samples)
        inputs = [step.network_inputs(batch, owner.training_step) for batch in drawn]
        validation_inputs, training_mode = _validation(trainer, step, class_numbers)
        network_inputs = torch.cat(inputs)[:samples]
        targets = torch.cat([labels for _, labels in drawn])[:samples]
        steps = trainer.estimated_stepping_batches
        return TrainingSetup(
            step.network,
            step.loss,
            optimizers,
            network_inputs,
            targets,
            label_batches,
            validation_inputs,
            training_mode,
            len(batches[0][1]),
            int(steps) if math.isfinite(steps) and steps > 0 else 1000,
            any(isinstance(callback, BaseFinetuning) for callback in trainer.callbacks),  # type: ignore[attr-defined]
            _is_random(step, network_inputs[:8], targets[:8]),
        )


def _validation(
    trainer: L.Trainer, step: TrainingStep, class_numbers: bool
) -> tuple[Tensor | None, bool | None]:
    """Inputs of the network in validation, and whether it is then in training mode; None where unknown."""
    owner = step.owner
    if not is_overridden("validation_step", owner, L.LightningModule):
        return None, None
    loaders = trainer.val_dataloaders
    loader = loaders[0] if isinstance(loaders, list | tuple) and len(loaders) == 1 else loaders
    modes = [(part, part.training) for part in owner.modules()]
    facts = step.trainer
    step.trainer = stand_in(trainer, training=False)
    inputs, training = [], False
    try:
        preparation = PairPreparation(trainer, owner, step.trainer, class_numbers)
        for batch in first_batches(
            (preparation(batch) for batch in random_batches(loader, VALIDATION_SAMPLES)), VALIDATION_SAMPLES
        ):
            owner.eval()
            inputs.append(step.network_inputs(batch, owner.validation_step))
            training = training or _whole_in_training(step.network)
    except Exception:  # validation that cannot be looked at is no reason to look at nothing
        return None, None
    finally:
        step.trainer = facts
        for part, mode in modes:
            part.training = mode
    return (torch.cat(inputs), training) if inputs else (None, None)


def _whole_in_training(network: nn.Module) -> bool:
    """Whether the network trains as a whole: dropout alone may be on for Monte-Carlo estimates."""
    return network.training


def _is_random(step: TrainingStep, inputs: Tensor, targets: Tensor) -> bool:
    """Whether the loss of the same outputs differs from call to call."""
    with torch.no_grad():
        outputs = torch.randn_like(copy.deepcopy(step.network)(inputs).float())
        first, second = (float(step.loss(outputs, targets)) for _ in range(2))
    return first != second and math.isfinite(first)
