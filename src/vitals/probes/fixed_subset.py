"""The same samples again and again, without augmentation and in evaluation mode."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vitals.errors import UserError
from vitals.probes.loaders import first_batches, random_batches
from vitals.probes.random_states import isolated_rng
from vitals.probes.training_step import PairPreparation, TrainingStep, stand_in
from vitals.probes.twin import Twin, first_samples

MOST_BYTES = 2**26
"""Inputs are kept on the device as they are: 64 MiB are 5,000 images of CIFAR and 100 of ImageNet."""
AT_ONCE = 250
"""Samples in one forward pass."""


class FixedSubsets:
    """Training samples, and validation samples, on which to see whether the network generalizes.

    Everything runs on a copy that shares the parameters: nothing is disturbed.

    Args:
        twin: of the module that trains, whose trainer has its loaders set up.
        batch: a training batch, (inputs, class numbers).
        samples: of each subset, at most.
        validation: whether a validation subset is wanted.

    Raises:
        UserError: if step, batches or loaders cannot be looked at.
    """

    def __init__(self, twin: Twin, batch: Any, samples: int, validation: bool) -> None:
        self.twin, trainer = twin, twin.trainer
        self.twin.refresh()
        self.twin.rehearse(first_samples(check_pairs(batch), 8))
        with isolated_rng(seed=0), torch.enable_grad(), torch.compiler.set_stance("force_eager"):
            self.evaluating = stand_in(trainer, training=False)
            self.twin.attach(self.evaluating)
            preparation = PairPreparation(trainer, self.twin.module, self.evaluating)
            self.step = TrainingStep(
                self.twin.module, stand_in(trainer, training=True), first_samples(check_pairs(batch), 8)
            )
            loader: Any = trainer.train_dataloader
            if hasattr(loader, "unaugmented"):
                loader = loader.unaugmented(samples)
            self.training = self._inputs(preparation, loader, samples, self.twin.module.training_step)
            self.validation: tuple[Tensor, Tensor] | None = None
            loaders = trainer.val_dataloaders
            loader = loaders[0] if isinstance(loaders, list | tuple) and len(loaders) == 1 else loaders
            if validation and loader is not None:
                step = self.twin.module.validation_step
                self.validation = self._inputs(preparation, loader, samples, step)

    def _inputs(
        self, preparation: PairPreparation, loader: Any, samples: int, step: Any
    ) -> tuple[Tensor, Tensor]:
        """Inputs as they enter the network, and labels."""
        inputs, labels = [], []
        before, self.step.trainer = self.step.trainer, self.evaluating
        count = samples
        for batch in first_batches(
            (preparation(batch) for batch in random_batches(loader, samples)), samples
        ):
            self.twin.module.eval()
            inputs.append(self.step.network_inputs(batch, step))
            labels.append(batch[1])
            bytes_each = inputs[0][0].numel() * inputs[0].element_size()
            count = min(samples, max(1, MOST_BYTES // bytes_each))
            if sum(map(len, labels)) >= count:
                break
        self.step.trainer = before
        if not inputs:
            raise UserError("a loader gives no batch.")
        return torch.cat(inputs)[:count], torch.cat(labels)[:count]

    def facts(self) -> dict[str, float]:
        """What guessing gives, `chance_loss` in nats and `chance_accuracy`; the sizes of the subsets."""
        labels = self.training[1]
        shares = torch.bincount(labels.clamp_min(0)).double() / len(labels)
        found = {
            "chance_loss": float(torch.special.entr(shares).sum()),
            "chance_accuracy": float(shares.max()),
            "train_subset": float(len(labels)),
        }
        return found | ({"val_subset": float(len(self.validation[1]))} if self.validation else {})

    def evaluate(self, inputs: Tensor, labels: Tensor) -> dict[str, float]:
        """Loss and accuracy, where there are logits, of the present weights in evaluation mode."""
        network = self.step.network
        self.twin.refresh()
        self.twin.attach(self.evaluating)
        network.eval()
        losses, hits = [], []
        with isolated_rng(seed=0), torch.no_grad(), self.twin.as_in_training():
            for some, their in zip(inputs.split(AT_ONCE), labels.split(AT_ONCE), strict=True):
                outputs = network(some)
                losses.append(self.step.loss(outputs, their).float() * len(their))
                hits.append((outputs.argmax(dim=1) == their).sum() if outputs.ndim == 2 else torch.zeros(()))
        loss, right = torch.stack([torch.stack(losses).sum(), torch.stack(hits).sum().float()]).tolist()
        found = {"loss": loss / len(labels)}
        return found | ({"accuracy": right / len(labels)} if outputs.ndim == 2 else {})


def check_pairs(batch: Any) -> tuple[Tensor, Tensor]:
    """`batch` as (inputs, class numbers); raises `UserError` where it is not that."""
    if isinstance(batch, list | tuple) and len(batch) == 2:
        inputs, labels = batch
        tensors = isinstance(inputs, Tensor) and isinstance(labels, Tensor)
        if tensors and labels.shape == inputs.shape[:1] and not labels.is_floating_point():
            return inputs, labels
    raise UserError("the batches are not pairs (inputs, class numbers).")
