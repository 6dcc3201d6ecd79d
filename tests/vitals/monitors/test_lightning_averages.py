"""Seven defects of Lightning 2.6.6's own averaging callbacks, reproduced, and ours free of them.

Where a newer Lightning mends one, the first half of its test fails, and can go.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from foreign import Foreign, convnet, fit, loader, mlp
from lightning.pytorch import callbacks
from lightning.pytorch.callbacks import StochasticWeightAveraging
from test_weight_average import (
    BreaksInValidation,
    Stop,
    Trajectory,
    Validated,
    averager,
    close,
    mean,
    weights,
)
from torch import Tensor
from torch.optim.swa_utils import update_bn
from torch.utils._python_dispatch import TorchDispatchMode

from vitals.averaging.weight_average import WeightAverage

pytest.importorskip("lightning", minversion="2.6", reason="Lightning has these callbacks from 2.6 on")
EMAWeightAveraging, WeightAveraging = callbacks.EMAWeightAveraging, callbacks.WeightAveraging


class ValidatedWith(L.Callback):
    """The weights that each validation saw."""

    def __init__(self) -> None:
        self.weights: list[list[Tensor]] = []

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, *arguments: Any) -> None:
        if arguments[1] == 0:
            self.weights.append(weights(pl_module))


def trained(folder: Path, module: Foreign, *callbacks: L.Callback, **options: Any) -> Trajectory:
    trajectory = Trajectory()
    fit(module, folder, *callbacks, trajectory, train=loader(shuffle=False), **options)
    return trajectory


def of_file(folder: Path) -> dict[str, Tensor]:
    content = torch.load(folder / "checkpoints" / "average.ckpt", weights_only=True)
    state: dict[str, Tensor] = content["state_dict"]
    return state


def test_1_a_late_start_validates_and_ends_with_the_initial_weights(tmp_path: Path) -> None:
    initial, seen, module = weights(mlp()), ValidatedWith(), Validated(mlp())
    trained(tmp_path, module, EMAWeightAveraging(update_starting_at_step=1000), seen, max_epochs=2)
    assert close(seen.weights[-1], initial)
    assert close(weights(module), initial)  # the training is thrown away

    seen, module = ValidatedWith(), Validated(mlp())
    trajectory = trained(tmp_path, module, averager(start=100), seen, max_epochs=2)
    assert [close(*pair) for pair in zip(seen.weights[-2:], trajectory.epochs, strict=True)] == [True, True]
    assert close(weights(module), trajectory.epochs[-1])
    assert not close(weights(module), initial)


def test_2_a_start_at_an_epoch_averages_from_step_0(tmp_path: Path) -> None:
    theirs = EMAWeightAveraging(update_starting_at_epoch=1)
    trajectory = trained(tmp_path, Validated(mlp()), theirs, max_epochs=2)
    assert theirs._average_model is not None
    assert theirs._average_model.n_averaged > len(trajectory.steps) / 2

    ours = averager(kind="ema", every=1, start=1)
    trained(tmp_path, Validated(mlp()), ours, max_epochs=2)
    assert ours.average is not None
    assert ours.average.count == len(trajectory.steps) / 2


def test_3_buffers_are_averaged_and_whole_numbers_truncated(tmp_path: Path) -> None:
    module = Validated(mlp(norm=True))
    trajectory = trained(tmp_path, module, EMAWeightAveraging(decay=0.9), max_epochs=2)
    assert module.net[2].num_batches_tracked < len(trajectory.steps)
    estimated = Validated(mlp(norm=True))
    estimated.load_state_dict(module.state_dict())
    update_bn(loader(shuffle=False), estimated.net)
    assert not torch.allclose(module.net[2].running_mean, estimated.net[2].running_mean, atol=0.01)

    trained(tmp_path, Validated(mlp(norm=True)), averager(kind="ema", every=1, decay=0.9), max_epochs=2)
    estimated.load_state_dict(of_file(tmp_path))
    update_bn(loader(shuffle=False), estimated.net)
    torch.testing.assert_close(dict(estimated.state_dict()), of_file(tmp_path), rtol=0, atol=1e-6)


def test_4_an_exception_in_validation_leaves_the_two_sets_exchanged(tmp_path: Path) -> None:
    def broken(callback: L.Callback) -> tuple[list[Tensor], list[Tensor]]:
        """The weights of the module after the exception, and the last that were trained."""
        module, trajectory = BreaksInValidation(mlp()), Trajectory()
        with pytest.raises(RuntimeError, match="out of ink"):
            fit(module, tmp_path, callback, trajectory, max_epochs=4)
        return weights(module), trajectory.steps[-1]

    assert not close(*broken(EMAWeightAveraging(decay=0.9)))
    assert close(*broken(averager(kind="ema", every=1, decay=0.9)))


class Calls(TorchDispatchMode):
    """Counts calls of torch's operators that write numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func not in (torch.ops.aten.detach.default, torch.ops.aten.alias.default)
        return func(*args, **(kwargs or {}))


def test_5_an_update_takes_several_operators_for_every_tensor(tmp_path: Path) -> None:
    def calls(update: Any) -> int:
        with Calls() as seen:
            update()
        return seen.count

    module, theirs, ours = Validated(convnet()), EMAWeightAveraging(decay=0.9), averager(kind="ema", every=1)
    fit(module, tmp_path, theirs, ours, max_epochs=1)
    average, mine = theirs._average_model, ours.average
    assert average is not None
    assert mine is not None
    assert calls(lambda: average.update_parameters(module)) > 3 * len(module.state_dict())
    assert calls(lambda: mine.update_parameters(module)) == 1


def test_6_swa_leaves_the_last_epoch_out_and_validates_the_raw_weights(tmp_path: Path) -> None:
    seen, module = ValidatedWith(), Validated(mlp())
    theirs = StochasticWeightAveraging(0.05, swa_epoch_start=2, annealing_epochs=1)
    trajectory = trained(tmp_path, module, theirs, seen, max_epochs=5)
    assert close(weights(module), mean(trajectory.epochs[:4]))
    assert [close(*pair) for pair in zip(seen.weights[-5:], trajectory.epochs, strict=True)] == [True] * 5

    ours = averager(start=2)
    trajectory = trained(tmp_path, Validated(mlp()), ours, max_epochs=5)
    averaged = mean(trajectory.epochs[2:])
    assert close(list(of_file(tmp_path).values()), averaged)
    judged = Validated(mlp())
    judged.load_state_dict(of_file(tmp_path))
    judge = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    [found] = judge.validate(judged, loader(shuffle=False), verbose=False)
    assert found["val_accuracy"] == pytest.approx(ours.averaged)


def test_7_an_early_stop_drops_the_average(tmp_path: Path) -> None:
    module = Validated(mlp())
    theirs = StochasticWeightAveraging(0.05, swa_epoch_start=1, annealing_epochs=1)
    trajectory = trained(tmp_path, module, Stop(), theirs, max_epochs=10)
    assert close(weights(module), trajectory.epochs[-1])
    assert list(tmp_path.rglob("*.ckpt")) == []

    trajectory = trained(tmp_path, Validated(mlp()), Stop(), averager(start=1), max_epochs=10)
    assert close(list(of_file(tmp_path).values()), mean(trajectory.epochs[1:]))


def test_lightning_has_no_other_callbacks_that_average() -> None:
    """So that a new one is looked at."""
    import lightning.pytorch.callbacks as callbacks

    assert {name for name in vars(callbacks) if "Averag" in name} == {
        "EMAWeightAveraging",
        "StochasticWeightAveraging",
        "WeightAveraging",
    }
    assert not issubclass(WeightAverage, WeightAveraging)
