"""From a Lightning training that is about to begin to what the checks look at."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from vitals.checks.subject import Subject
from vitals.errors import UserError
from vitals.probes.loaders import random_batches, successive_batches
from vitals.probes.random_states import isolated_rng
from vitals.probes.training_step import BatchPreparation, TrainingStep, mute, stand_in
from vitals.probes.trial import copies_of

LABELS = 512
"""Labels of successive batches from which their order is judged."""
VALIDATION_SAMPLES = 256

Batch = tuple[Tensor, Tensor]


def subject_of(trainer: L.Trainer, module: L.LightningModule, samples: int) -> Subject:
    """Network, loss, optimizers and samples of the training that `trainer` is about to begin.

    All are copies; the trainer, the module, the data loaders and all random states stay as they are. Inputs
    are taken just before they enter the network, and so are layers' modes.

    Args:
        trainer: with its loaders and optimizers set up, as in `on_train_start`.
        module: that trains.
        samples: training samples to take.

    Raises:
        UserError: if batches are not (inputs, class numbers), or step, module or loaders cannot be looked at.
    """
    with isolated_rng(seed=0), torch.enable_grad():
        owner, optimizers = copies_of(module, trainer.optimizers)
        mute(owner)
        facts = stand_in(trainer, training=True)
        preparation = Preparation(trainer, owner, facts)
        loader = trainer.train_dataloader
        batches = taken((preparation(batch) for batch in successive_batches(loader)), max(LABELS, 1))
        if not batches:
            raise UserError("The training loader gives no batch.")
        step = TrainingStep(owner, facts, batches[0])
        label_batches = tuple(labels for _, labels in batches)
        drawn = taken((preparation(batch) for batch in random_batches(loader, samples)), samples)
        inputs = [step.network_inputs(batch, owner.training_step) for batch in drawn]
        validation_inputs, training_mode = _validation(trainer, step)
        network_inputs = torch.cat(inputs)[:samples]
        targets = torch.cat([labels for _, labels in drawn])[:samples]
        steps = trainer.estimated_stepping_batches
        return Subject(
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
            _is_random(step, network_inputs[:8], targets[:8]),
        )


class Preparation(BatchPreparation):
    """What Lightning does to a batch between the loader and the step, for batches (inputs, class numbers)."""

    def __call__(self, batch: Any, dataloader_idx: int = 0) -> Batch:
        batch = super().__call__(batch, dataloader_idx)
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            raise UserError("The batches are not pairs (inputs, class numbers).")
        inputs, labels = batch
        if not isinstance(inputs, Tensor) or not isinstance(labels, Tensor):
            raise UserError("The batches are not pairs of tensors (inputs, class numbers).")
        if labels.ndim != 1 or labels.is_floating_point() or len(inputs) != len(labels):
            raise UserError(f"The labels are not one class number for each input: {tuple(labels.shape)}.")
        return inputs, labels


def taken(batches: Iterator[Batch], samples: int) -> list[Batch]:
    """Batches with `samples` samples in all, or as many as there are."""
    taken: list[Batch] = []
    count = 0
    for batch in batches:
        taken.append(batch)
        count += len(batch[1])
        if count >= samples:
            break
    return taken


def _validation(trainer: L.Trainer, step: TrainingStep) -> tuple[Tensor | None, bool | None]:
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
        preparation = Preparation(trainer, owner, step.trainer)
        for batch in taken(
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
