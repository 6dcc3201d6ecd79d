"""Monitors change nothing, wait for the device once, and give way where they cannot work."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from foreign import Foreign, Manual, NoisyDigits, Stream, convnet, digits, fit, mlp
from monitoring import GAN, Trained, monitors, skipped, some, watched
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader, Dataset

from vitals.callbacks import histograms
from vitals.callbacks.diagnosis import Diagnosis
from vitals.callbacks.first_layer_filters import FirstLayerFilters
from vitals.callbacks.histograms import Histograms
from vitals.callbacks.learning_curves import LearningCurves
from vitals.callbacks.monitor import Monitor
from vitals.callbacks.update_ratio import UpdateRatio


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return bool(np.array_equal(one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


class Witness(L.Callback):
    """Everything that a training is made of, after every batch."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        numpy_state: Any = np.random.get_state()  # noqa: NPY002
        parts = [
            {name: value.clone() for name, value in pl_module.state_dict().items()},
            [_copied(optimizer.state_dict()) for optimizer in trainer.optimizers],
            [p.grad.clone() for p in pl_module.parameters() if p.grad is not None],
            [p.requires_grad for p in pl_module.parameters()],
            [part.training for part in pl_module.modules()],
            [values.clone() for values in batch],
            outputs["loss"].clone() if outputs else None,
            [torch.get_rng_state(), random.getstate(), numpy_state],
            {name: float(value) for name, value in trainer.callback_metrics.items()},
        ]
        self.seen.append(parts)


def _copied(thing: Any) -> Any:
    if isinstance(thing, Tensor):
        return thing.clone()
    if isinstance(thing, dict):
        return {key: _copied(value) for key, value in thing.items()}
    return [_copied(value) for value in thing] if isinstance(thing, list) else thing


class Moody(nn.Module):
    """Dropout, BatchNorm, random numbers from three sources, and a layer that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.net = convnet()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.net(x + 0.01 * random.random() + 0.01 * np.random.rand())  # noqa: NPY002


def foreign(folder: Path, *callbacks: L.Callback) -> list[Any]:
    witness, module = Witness(), Trained(Moody(), lambda m: torch.optim.Adam(m.parameters(), 0.01))
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    data = DataLoader(NoisyDigits(), batch_size=64, shuffle=True)
    fit(module, folder, *callbacks, witness, train=data, max_epochs=2, limit_val_batches=2)
    return [*witness.seen, module.seen, module.net.calls]


def manual(folder: Path, *callbacks: L.Callback) -> list[Any]:
    witness, module = Witness(), Manual(mlp(norm=True))
    fit(module, folder, *callbacks, witness, train=some(4, shuffle=True))
    return [*witness.seen, module.seen]


def breaks(*arguments: Any) -> Any:
    torch.manual_seed(99)
    random.seed(99)
    raise RuntimeError("out of ink")


@pytest.mark.parametrize("run", [foreign, manual])
def test_a_training_is_the_same_to_the_bit_with_all_monitors_each_alone_and_a_broken_one(
    run: Callable[..., list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = run(tmp_path)
    assert same(alone, run(tmp_path, *monitors(), Diagnosis()))
    for monitor in monitors() if run is foreign else []:
        assert same(alone, run(tmp_path, monitor)), type(monitor).__name__
    monkeypatch.setattr(histograms, "probe", breaks)
    broken = monitors()
    assert same(alone, run(tmp_path, *broken))
    [finding] = [finding for monitor in broken for finding in monitor.findings if "ink" in finding.message]
    assert (finding.cause, finding.level, finding.where) == ("skipped", "note", "Histograms")
    assert finding.message == "Histograms: RuntimeError: out of ink"


class Reads(TorchDispatchMode):
    """Counts what would make the host wait for a device."""

    WAITING = (
        torch.ops.aten._local_scalar_dense,
        torch.ops.aten.nonzero,
        torch.ops.aten.equal,
        torch.ops.aten.is_nonzero,
        torch.ops.aten.masked_select,
        torch.ops.aten._unique2,
    )

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket in self.WAITING
        return func(*args, **(kwargs or {}))


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """Also the reads that go past the dispatcher on a CPU."""
    direct = 0
    with monkeypatch.context() as patch, Reads() as reads:
        for name in ("tolist", "numpy", "cpu", "__array__"):

            def read(self: Tensor, *arguments: Any, name: str = name, **options: Any) -> Any:
                nonlocal direct
                direct += 1
                before = reads.count
                result = original[name](self, *arguments, **options)
                reads.count = before  # the elements of one list
                return result

            patch.setattr(Tensor, name, read)
        yield lambda: direct + reads.count


original = {name: getattr(Tensor, name) for name in ("tolist", "numpy", "cpu", "__array__")}

HOOKS = {
    UpdateRatio: ["on_train_batch_start", "on_before_optimizer_step", "on_train_batch_end"],
    Histograms: ["on_train_batch_start", "on_train_batch_end"],
    FirstLayerFilters: ["on_train_batch_start", "on_train_batch_end"],
    LearningCurves: ["on_train_batch_start", "on_train_batch_end"],
}


MEASUREMENTS = [(kind, {}) for kind in HOOKS if kind is not Histograms]
MEASUREMENTS += [(Histograms, {"histograms_every": every}) for every in (1, 100)]


@pytest.mark.parametrize(("kind", "options"), MEASUREMENTS)
def test_one_measurement_reads_the_device_once(
    kind: type[Monitor], options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = kind(2, None, **options)
    reads: dict[int, int] = {}
    batch_step = 0

    def watch(name: str) -> None:
        hook = getattr(monitor, name)

        def watched_hook(trainer: Any, *arguments: Any) -> None:
            nonlocal batch_step
            if name == "on_train_batch_start":
                batch_step = trainer.global_step + 1
            with counted(monkeypatch) as count:
                hook(trainer, *arguments)
                reads[batch_step] = reads.get(batch_step, 0) + count()

        setattr(monitor, name, watched_hook)

    for name in HOOKS[kind]:
        watch(name)

    class Quiet(Foreign):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.cross_entropy(self.net(batch[0]), batch[1])

    _, events, _ = watched(Quiet(convnet()), tmp_path, monitor, train=some(9))
    assert monitor.findings == []
    assert events.tags()
    later = {step: count for step, count in reads.items() if 1 < step < 9}
    assert later == {step: int(step % 2 == 0) for step in range(2, 9)}


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


HOPELESS: dict[str, tuple[Callable[[], Any], Any, dict[str, str]]] = {
    "dict batches": (
        lambda: TakesDicts(convnet()),
        lambda: DataLoader(Dicts(), 16),
        {"LearningCurves": "pairs"},
    ),
    "a stream": (
        lambda: Foreign(convnet()),
        lambda: DataLoader(Stream(), batch_size=32),
        {"LearningCurves": "a stream"},
    ),
    "two backward calls": (
        GAN,
        None,
        dict.fromkeys(["Histograms", "FirstLayerFilters", "LearningCurves"], "backward several times"),
    ),
    "an iterator": (
        lambda: TakesIterator(convnet()),
        None,
        dict.fromkeys(["Histograms", "FirstLayerFilters", "LearningCurves"], ""),
    ),
    "no images": (
        lambda: Sequences(nn.Sequential(nn.Linear(64, 2))),
        lambda: DataLoader(torch.utils.data.TensorDataset(torch.randn(64, 8, 8), torch.rand(64)), 16),
        {"FirstLayerFilters": "does not work on images", "LearningCurves": "pairs"},
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
    "weights moved within the step": (
        Momentum,
        None,
        dict.fromkeys(["Histograms", "FirstLayerFilters", "LearningCurves"], "changes parameters itself"),
    ),
    "schedulers by hand": (lambda: Scheduled(mlp()), None, {}),
    "nested": (Nested, None, {}),
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
