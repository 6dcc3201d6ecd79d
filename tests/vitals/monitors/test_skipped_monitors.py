"""Modules and batches with which a monitor cannot work, and some that only look so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from foreign import Foreign, Manual, Stream, convnet, digits, fit, mlp
from monitoring import GAN, monitors, same, skipped, some, watched
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from vitals.diagnosis.callback import Diagnosis
from vitals.monitors.monitor import Monitor


class Dicts(Dataset):
    def __init__(self) -> None:
        self.images, self.labels = digits(64)

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": self.images[index], "y": self.labels[index], "name": str(index)}


class TakesDicts(Foreign):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"loss": F.cross_entropy(self.net(batch["x"]), batch["y"])}


class TakesIterator(Foreign):
    def training_step(self, dataloader_iter: Any) -> Any:
        (x, y), _, _ = next(dataloader_iter)
        return F.cross_entropy(self.net(x), y)


class Sequences(Foreign):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.mse_loss(self.net(batch[0].flatten(1)), batch[0].flatten(1)[:, :2])


class Backwards(Manual):
    """Goes backward behind Lightning's back."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        optimizer = self.optimizers()
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss


class Momentum(Foreign):
    """A teacher whose weights follow the student's within the step."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.teacher = mlp().requires_grad_(False)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.global_step == 0:  # which makes another error of a refusal
            self.teacher.load_state_dict(self.net.state_dict())
        with torch.no_grad():
            for mine, its in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                mine.data.mul_(0.9).add_(its.data, alpha=0.1)
        return F.mse_loss(self.net(batch[0]), self.teacher(batch[0])) + F.cross_entropy(
            self.net(batch[0]), batch[1]
        )


class Scheduled(Manual):
    def training_step(self, batch: Any, batch_idx: int) -> None:
        super().training_step(batch, batch_idx)
        self.lr_schedulers().step()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


class Inner(Foreign):
    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) * (1 + self.trainer.current_epoch)


class Nested(Foreign):
    """A LightningModule in a LightningModule, which asks its trainer."""

    def __init__(self) -> None:
        super().__init__(Inner(mlp()))


class FillsAMemory(Foreign):
    """Learns nothing: it keeps what a network of somebody else's makes of the training images."""

    def __init__(self) -> None:
        super().__init__(mlp().requires_grad_(False).eval())
        self.memory: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.memory.append(self.net(batch[0]))
        return torch.tensor(0.0, requires_grad=True)

    def configure_optimizers(self) -> None:
        return None


HOPELESS: dict[str, tuple[Callable[[], Any], Any, dict[str, str]]] = {
    "dict batches": (
        lambda: TakesDicts(convnet()),
        lambda: DataLoader(Dicts(), 16),
        {},
    ),
    "a stream": (lambda: Foreign(convnet()), lambda: DataLoader(Stream(), batch_size=32), {}),
    "two backward calls": (
        GAN,
        None,
        {"FirstLayerFilters": "does not work on images", "LearningCurves": "2 losses"},
    ),
    "an iterator": (
        lambda: TakesIterator(convnet()),
        None,
        dict.fromkeys(["Histograms", "FirstLayerFilters", "LearningCurves"], ""),
    ),
    "no images": (
        lambda: Sequences(nn.Sequential(nn.Linear(64, 2))),
        lambda: DataLoader(torch.utils.data.TensorDataset(torch.randn(64, 8, 8), torch.rand(64)), 16),
        {},
    ),
    "no layer": (
        lambda: Foreign(nn.Sequential(nn.Flatten(), nn.LayerNorm(64))),
        None,
        {"FirstLayerFilters": "no linear or convolutional layer"},
    ),
    "backward of its own": (
        lambda: Backwards(mlp()),
        None,
        dict.fromkeys(["Histograms", "FirstLayerFilters", "LearningCurves"], "calls backward itself"),
    ),
    "weights moved within the step": (Momentum, None, {}),
    "schedulers by hand": (lambda: Scheduled(mlp()), None, {}),
    "nested": (Nested, None, {}),
    "nothing to learn": (FillsAMemory, None, {"UpdateRatio": "no optimizer has a parameter"}),
}


@pytest.mark.parametrize("case", HOPELESS)
def test_what_cannot_be_measured_is_skipped_with_the_reason_and_the_training_goes_on(
    case: str, tmp_path: Path
) -> None:
    make, data, reasons = HOPELESS[case]

    def weights(folder: Path, *callbacks: L.Callback) -> tuple[Any, L.Trainer, Diagnosis]:
        torch.manual_seed(0)
        module = make()
        trainer, _, diagnosis = watched(module, folder, *callbacks, train=data() if data else some(4))
        return [p.detach() for p in module.parameters()], trainer, diagnosis

    bare, _, _ = weights(tmp_path / "bare")
    end, trainer, diagnosis = weights(tmp_path / "watched", *monitors())
    found = skipped(diagnosis, trainer)
    assert found.keys() == reasons.keys(), found
    for monitor, reason in reasons.items():
        assert reason in found[monitor]
    assert trainer.global_step >= 4
    assert same(bare, end)


class Failing(Monitor):
    """Fails in a hook without asking for anything to be guarded."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        raise ZeroDivisionError("by nothing")


def test_a_monitor_that_fails_in_any_hook_ends_itself_and_not_the_training(tmp_path: Path) -> None:
    monitor = Failing(every_n_steps=1)
    trainer = fit(Foreign(mlp()), tmp_path, monitor, max_epochs=2)
    assert trainer.current_epoch == 2
    [finding] = monitor.findings
    assert finding.message.startswith("Failing: your code fails with ZeroDivisionError at `raise Zero")


def test_a_stream_without_end_and_a_number_of_steps(tmp_path: Path) -> None:
    found = monitors()
    trainer = fit(
        Foreign(mlp()), tmp_path, *found, train=DataLoader(Stream(), 32), max_epochs=-1, max_steps=12
    )
    assert trainer.global_step == 12
    assert not [each.message for monitor in found for each in monitor.findings if "Error" in each.message]
