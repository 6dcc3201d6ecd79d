"""Trainings as other people write them, on digits."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from vitals.checks.sanity_checks import SanityChecks
from vitals.findings import Finding
from vitals.monitors.gradient_hooks import GradientHooks
from vitals.monitors.loss_parameters import LossParameters
from vitals.monitors.weights_kept import WeightsKept
from vitals.recorder import Recorder

published = cache(load_digits)  # reading them takes longer than many a test


def digits(count: int = 256) -> tuple[Tensor, Tensor]:
    data = published()
    images = torch.tensor(data.images, dtype=torch.float32)[:count, None]
    return (images - images.mean()) / images.std(), torch.tensor(data.target)[:count]


class NoisyDigits(Dataset):
    """Augments with a random generator of its own, whose state is part of the training."""

    def __init__(self) -> None:
        self.images, self.labels = digits()
        self.random = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = torch.from_numpy(self.random.normal(size=(1, 8, 8))).float()
        return self.images[index] + 0.1 * noise + 0.1 * torch.randn(1, 8, 8), self.labels[index]


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(zip(*digits(), strict=True))


def loader(**options: Any) -> DataLoader:
    return DataLoader(TensorDataset(*digits()), batch_size=32, **{"shuffle": True, **options})


def mlp(norm: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), *([nn.BatchNorm1d(32)] if norm else []), nn.ReLU(), nn.Linear(32, 10)
    )


def convnet() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(0.3), nn.Linear(288, 10)
    )


class Residual(nn.Module):
    """A ResNet in small: stem, two blocks, pooling, head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)
            )
            for _ in range(2)
        )
        self.head = nn.Linear(8 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = F.relu(x + block(x))
        return self.head(F.avg_pool2d(x, 2).flatten(1))


class Attention(nn.Module):
    """A transformer that reads an image row by row."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(8, 16)
        self.place = nn.Parameter(0.02 * torch.randn(8, 16))
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(x.flatten(1, 2)) + self.place).mean(dim=1))


class Foreign(L.LightningModule):
    """An ordinary module; keeps the batches and losses that it has seen."""

    def __init__(self, net: nn.Module, lr: float = 0.05) -> None:
        super().__init__()
        self.net, self.lr = net, lr
        self.seen: list[tuple[list[int], float]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.log("loss", loss)
        return self.remember(y, loss)

    def remember(self, y: Tensor, loss: Tensor) -> Tensor:
        self.seen.append((y.tolist(), loss.item()))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("val_loss", F.cross_entropy(self.net(x), y))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=1e-4)


class EvalInside(Foreign):
    """The loss and a call of eval() are hidden in the step, and the step writes to its logger."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        self.net.eval()
        logits = self.net(x)
        self.logger.experiment.add_scalar("mine", 1.0, self.trainer.global_step)
        return {"loss": -F.log_softmax(logits, dim=1)[torch.arange(len(y)), y].mean()}


class SoftmaxInside(Foreign):
    """The softmax is applied to what the network gives, and again by the loss."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net.append(nn.Softmax(dim=1)))


class NeverClears(Foreign):
    """Leaves the gradients of every step where they are."""

    def optimizer_zero_grad(self, *arguments: Any, **options: Any) -> None:
        pass


class FrozenHead(Foreign):
    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.net[-1].parameters(), lr=1e-3)


class TrainsInValidation(Foreign):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.train()
        super().validation_step(batch, batch_idx)


class Manual(Foreign):
    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer = self.optimizers()
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()


class TwoOptimizers(Foreign):
    """Two networks, each with an optimizer of its own."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.other = mlp()
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        for net, optimizer in zip((self.net, self.other), self.optimizers(), strict=True):
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(net(x), y))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(net.parameters(), lr=0.1) for net in (self.net, self.other)]


class Regression(Foreign):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return F.mse_loss(self.net(x)[:, 0], y)


def quick(**options: Any) -> SanityChecks:
    """All checks, with less of everything, which never stop."""
    return SanityChecks(**{"on_fail": "warn", "samples": 256, "tiny_subset_steps": 100, **options})


def fit(
    module: L.LightningModule,
    folder: Any,
    *callbacks: L.Callback,
    train: Any = None,
    logger: Any = False,
    ckpt_path: Any = None,
    validation: Any = None,
    **options: Any,
) -> L.Trainer:
    """One epoch, or as `options` say."""
    torch.manual_seed(1)
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=logger,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 1, "log_every_n_steps": 1, **options},
    )
    data = loader() if train is None else train
    # From 2.6 on Lightning asks whether a checkpoint may hold more than tensors; before it, it may.
    asked = {"weights_only": False} if "weights_only" in inspect.signature(trainer.fit).parameters else {}
    validation = loader(shuffle=False) if validation is None else validation
    trainer.fit(module, data, validation, ckpt_path=ckpt_path, **asked)
    return trainer


def alarms(findings: list[Finding]) -> list[str]:
    return list(dict.fromkeys(finding.cause for finding in findings if finding.alarming))


class ByHand(Foreign):
    """Does what is given with optimizer and loss, under manual optimisation."""

    def __init__(self, act: Any) -> None:
        super().__init__(mlp())
        self.automatic_optimization, self.act = False, act

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.act(self, self.optimizers(), F.cross_entropy(self.net(batch[0]), batch[1]), batch_idx)


def look(module: L.LightningModule, **options: Any) -> list[Finding]:
    """The alarms of all monitors of early steps, in two epochs, or as `options` say."""
    monitors = [LossParameters(), WeightsKept(), GradientHooks()]
    fit(module, None, Recorder(), *monitors, **{"max_epochs": 2, **options})
    return [finding for monitor in monitors for finding in monitor.findings if finding.alarming]
