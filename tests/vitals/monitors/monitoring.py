"""Trainings under the eye of monitors, and what they wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from foreign import Foreign, digits, fit, loader
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from vitals.diagnosis.callback import Diagnosis
from vitals.findings import Finding
from vitals.monitors.first_layer_filters import FirstLayerFilters
from vitals.monitors.histograms import Histograms
from vitals.monitors.learning_curves import LearningCurves
from vitals.monitors.monitor import Monitor
from vitals.monitors.non_finite import NonFinite
from vitals.monitors.update_ratio import UpdateRatio


def monitors(every: int = 1) -> list[Monitor]:
    """Each kind of monitor, measuring everything every so many steps."""
    return [
        UpdateRatio(every, None),
        Histograms(every, None, histograms_every=1, samples=16),
        FirstLayerFilters(every, None),
        NonFinite(every),
        LearningCurves(every, subset_samples=32),
    ]


def some(batches: int = 4, size: int = 16, **options: Any) -> DataLoader:
    """A few batches of digits, always the same."""
    return DataLoader(TensorDataset(*digits(batches * size)), batch_size=size, **options)


class Events:
    """What a run has written for TensorBoard."""

    def __init__(self, folder: str | Path) -> None:
        everything = {"scalars": 0, "images": 0, "histograms": 0, "tensors": 0}
        self.read = EventAccumulator(str(folder), size_guidance=everything).Reload()

    def tags(self, kind: str = "scalars", prefix: str = "") -> list[str]:
        return [tag for tag in self.read.Tags()[kind] if tag.startswith(prefix)]

    def scalars(self, tag: str) -> dict[int, float]:
        """Values by step; two at one step are an error."""
        return self._by_step(self.read.Scalars(tag), "value")

    def histograms(self, tag: str) -> dict[int, Any]:
        return self._by_step(self.read.Histograms(tag), "histogram_value")

    def images(self, tag: str) -> dict[int, bytes]:
        return self._by_step(self.read.Images(tag), "encoded_image_string")

    @staticmethod
    def _by_step(events: Any, field: str) -> dict[int, Any]:
        found = {event.step: getattr(event, field) for event in events}
        assert len(found) == len(events)
        return found


def watched(
    module: L.LightningModule, folder: Path, *callbacks: L.Callback, **options: Any
) -> tuple[L.Trainer, Events, Diagnosis]:
    """Train with TensorBoard and a diagnosis, whose page would take as long as the training."""
    logger, diagnosis = TensorBoardLogger(folder), Diagnosis(report=False)
    options = {"train": some(), "limit_val_batches": 0, **options}
    trainer = fit(module, folder, *callbacks, diagnosis, logger=logger, **options)
    logger.experiment.flush()
    return trainer, Events(logger.log_dir), diagnosis


def skipped(diagnosis: Diagnosis, trainer: L.Trainer) -> dict[str, str]:
    """Reasons by monitor."""
    found: list[Finding] = diagnosis.findings
    return {finding.where: finding.message for finding in found if finding.cause == "skipped"}


class Trained(Foreign):
    """With an optimizer of one's choice."""

    def __init__(self, net: nn.Module, optimizer: Any) -> None:
        super().__init__(net)
        self.make = optimizer

    def configure_optimizers(self) -> Any:
        return self.make(self)


class GAN(Foreign):
    """Two networks against one another: two backward calls in a step."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 64))
        torch.manual_seed(0)
        self.critic = nn.Linear(64, 1)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        real = batch[0].flatten(1)
        makes, judges = self.optimizers()
        fake = self.net(torch.randn(len(real), 4))
        judges.zero_grad()
        self.manual_backward((self.critic(fake.detach()) - self.critic(real)).square().mean())
        judges.step()
        makes.zero_grad()
        self.manual_backward(F.softplus(-self.critic(fake)).mean())
        makes.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(net.parameters(), 0.01) for net in (self.net, self.critic)]


def train(
    module: L.LightningModule, folder: Path, callbacks: Sequence[L.Callback] = (), **options: object
) -> dict[str, Tensor]:
    """Train on 256 digits; the state of the module at the end, and that of the random numbers."""
    torch.manual_seed(0)
    trainer = L.Trainer(
        default_root_dir=folder,
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **{"max_epochs": 8, **options},
    )
    trainer.fit(module, loader(), loader(shuffle=False))
    return {**module.state_dict(), "random": torch.get_rng_state()}


def same(one: Any, other: Any) -> bool:
    """To the bit, whatever the nesting."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


class StepByStep(L.Callback):
    """Brute force: the double-precision copies of all parameters around every optimizer step."""

    def __init__(self) -> None:
        self.before: dict[str, Tensor] = {}
        self.norms: dict[int, dict[str, tuple[float, float]]] = {}
        """By step and parameter: ‖Δw‖ and ‖w‖."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for optimizer in trainer.optimizers:
            step = optimizer.step

            def watched_step(closure: Any = None, step: Any = step) -> Any:
                before = {name: p.detach().double().clone() for name, p in pl_module.named_parameters()}
                result = step(closure)
                number = trainer.global_step + 1
                self.norms[number] = {
                    name: (float((p.detach().double() - before[name]).norm()), float(before[name].norm()))
                    for name, p in pl_module.named_parameters()
                }
                return result

            optimizer.step = watched_step  # type: ignore[method-assign]
