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
from blobs import WORDS
from commands import Started
from foreign import Foreign, Manual, NoisyDigits, convnet, fit, mlp
from monitoring import Events, Trained, monitors, same, some, watched
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from project.build import build_data, build_module
from vitals.diagnosis.callback import Diagnosis
from vitals.findings import read_findings
from vitals.monitors import histograms
from vitals.monitors.first_layer_filters import FirstLayerFilters
from vitals.monitors.histograms import Histograms
from vitals.monitors.learning_curves import LearningCurves
from vitals.monitors.monitor import Monitor
from vitals.monitors.non_finite import NonFinite
from vitals.monitors.update_ratio import UpdateRatio


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


def classifier(compose: Any, folder: Path, *callbacks: L.Callback) -> list[Any]:
    """A project's module and data, with dropout."""
    words = (*WORDS, "data.limit=100", "data.batch_size=32", "network.widths=[4,4]")
    config = compose(*words, "network.dropout=0.5", "checks=none", "trainer.max_epochs=2")
    L.seed_everything(0, verbose=False)
    data = build_data(config)
    witness, module = Witness(), build_module(config, data)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        log_every_n_steps=1,
        logger=False,
        callbacks=[*callbacks, witness],
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, datamodule=data)
    return witness.seen


def test_the_classifier_trains_the_same_to_the_bit_with_the_monitors(compose: Any, tmp_path: Path) -> None:
    watching = monitors()
    alone = classifier(compose, tmp_path)
    assert len(alone) == 6
    assert same(alone, classifier(compose, tmp_path, *watching, Diagnosis()))
    assert [finding for monitor in watching for finding in monitor.findings] == []


def breaks(*arguments: Any) -> Any:
    torch.manual_seed(99)
    random.seed(99)
    raise RuntimeError("out of ink")


@pytest.mark.parametrize("run", [foreign, manual])
def test_a_training_is_the_same_to_the_bit_with_all_monitors_each_alone_and_a_broken_one(
    run: Callable[..., list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = run(tmp_path)
    assert same(alone, run(tmp_path, *monitors(), Diagnosis(report=False)))
    for monitor in monitors() if run is foreign else []:
        assert same(alone, run(tmp_path, monitor)), type(monitor).__name__
    monkeypatch.setattr(histograms, "probe", breaks)
    broken = monitors()
    assert same(alone, run(tmp_path, *broken))
    [finding] = [finding for monitor in broken for finding in monitor.findings if "ink" in finding.message]
    assert (finding.cause, finding.level, finding.where) == ("skipped", "note", "Histograms")
    assert finding.message == (
        'Histograms: your code fails with RuntimeError at `raise RuntimeError("out of ink")` '
        f"(test_monitors.py, line {breaks.__code__.co_firstlineno + 3})."
    )


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
    # Beside these, it looks at every step on a CPU, where nothing waits.
    NonFinite: ["on_train_batch_start", "on_train_batch_end"],
}


MEASUREMENTS: list[tuple[type[Monitor], dict[str, Any]]] = [
    *((kind, {}) for kind in (UpdateRatio, FirstLayerFilters, NonFinite)),
    (LearningCurves, {"subset_samples": 0}),  # of the subsets an epoch's last steps are looked at, too
    *((Histograms, {"histograms_every": every}) for every in (1, 100)),
]


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


def test_two_processes_do_not_wait_for_one_another_and_the_first_alone_measures(tmp_path: Path) -> None:
    script = Path(__file__).parent / "two_processes.py"
    process = Started(script, str(tmp_path), folder=tmp_path)
    assert process.wait() == 0, process.output
    assert len(list(tmp_path.rglob("events*"))) == 1
    events = Events(tmp_path)
    for tag in ("update_ratio/net.0.weight", "activations/variance/net.0", "loss/train_step"):
        assert list(events.scalars(tag)) == list(range(1, 9))
    assert list(events.scalars("loss/train")) == [1, 2]
    assert list(events.scalars("accuracy/train_eval")) == [1, 2]
    *found, looks = read_findings(tmp_path / "findings.json")
    assert looks.cause == "looks"
    assert not [finding for finding in found if finding.alarming]
    assert {"wiring-correct", "gradients-correct", "loss-at-chance"} <= {each.cause for each in found}
