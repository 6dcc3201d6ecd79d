"""Update ratios in the event file against brute force, however the optimizer is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foreign import Foreign, Manual, TwoOptimizers, convnet, mlp
from lightning.pytorch.callbacks import BaseFinetuning, Callback
from lightning.pytorch.plugins import MixedPrecision
from monitoring import StepByStep, Trained, monitors, skipped, some, watched
from torch import nn

from vitals.monitors.learning_curves import LearningCurves
from vitals.monitors.update_ratio import UpdateRatio


def warm_up(module: nn.Module) -> Any:
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / 100)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def two_groups(module: Any) -> Any:
    return torch.optim.Adam(
        [
            {"params": module.net[0].parameters(), "name": "body"},
            {"params": module.net[5].parameters(), "lr": 0.1, "name": "head"},
        ],
        0.001,
    )


def momentum(module: nn.Module) -> Any:
    return torch.optim.SGD(module.parameters(), 0.05, 0.9, weight_decay=0.01)


WAYS: dict[str, tuple[Any, dict[str, Any]]] = {
    "accumulation, clipping, momentum, decay": (
        lambda: Trained(convnet(), momentum),
        {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1},
    ),
    "bf16-mixed": (lambda: Trained(convnet(), momentum), {"precision": "bf16-mixed"}),
    "64-true": (lambda: Trained(convnet(), momentum), {"precision": "64-true"}),
    "warm-up": (lambda: Trained(mlp(), warm_up), {}),
    "groups": (lambda: Trained(convnet(), two_groups), {}),
    "lbfgs": (lambda: Trained(mlp(), lambda m: torch.optim.LBFGS(m.parameters(), 0.5, max_iter=4)), {}),
    "manual": (lambda: Manual(mlp()), {}),
}


@pytest.mark.parametrize("way", WAYS)
def test_ratios_are_those_of_brute_force(way: str, tmp_path: Path) -> None:
    make, options = WAYS[way]
    brute, ratio = StepByStep(), UpdateRatio(every_n_steps=2, times_per_run=None)
    trainer, events, _ = watched(make(), tmp_path, brute, ratio, train=some(8), **options)
    assert ratio.findings == []
    last = trainer.global_step
    steps = [1, *range(2, last + 1, 2)]
    names = [name for name, (change, weight) in brute.norms[2].items() if weight > 1e-8 and change]
    assert len(names) >= 3
    for name in names:
        found = events.scalars(f"update_ratio/{name}")
        norms = events.scalars(f"weights/norm/{name}")
        assert list(norms) == steps
        for step, value in found.items():
            change, weight = brute.norms[step][name]
            assert value == pytest.approx(change / weight, rel=2e-4)
            assert norms[step] == pytest.approx(weight, rel=1e-5)
    weights = [name for name, p in trainer.lightning_module.named_parameters() if p.ndim > 1]
    of_weights = sorted(change / norm for change, norm in (brute.norms[2][name] for name in weights))
    for which, place in (("min", 0), ("median", (len(of_weights) - 1) // 2), ("max", -1)):
        summary = events.scalars(f"update_ratio/_{which}")
        assert summary[2] == pytest.approx(of_weights[place], rel=2e-4)
    assert events.scalars("update_ratio/_band_low")[2] == pytest.approx(1e-4)
    if way == "warm-up":
        values = list(events.scalars("update_ratio/_median").values())
        assert values[-1] > 3 * values[0]
    if way == "groups":
        for group, name in (("body", "net.0.weight"), ("head", "net.5.weight")):
            assert events.scalars(f"update_ratio/_{group}") == events.scalars(f"update_ratio/{name}")


@pytest.mark.parametrize("every", [1, 2, 3])
def test_two_optimizers_are_measured_together(every: int, tmp_path: Path) -> None:
    brute, ratio = StepByStep(), UpdateRatio(every, times_per_run=None)
    trainer, events, _ = watched(TwoOptimizers(), tmp_path, brute, ratio, train=some(6))
    assert trainer.global_step == 12
    one, other = (events.scalars(f"update_ratio/{name}.1.weight") for name in ("net", "other"))
    assert list(one) == list(other)
    assert len(one) == {1: 6, 2: 6, 3: 5}[every]  # 3: of batches with steps 1, 3, 6, 9 and 12
    for step in one:
        change, weight = brute.norms[step - 1]["net.1.weight"]
        assert one[step] == pytest.approx(change / weight, rel=1e-4)
        change, weight = brute.norms[step]["other.1.weight"]
        assert other[step] == pytest.approx(change / weight, rel=1e-4)


class InTurns(TwoOptimizers):
    """The second network learns by each third batch, at another rate."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for number, (net, optimizer) in enumerate(
            zip((self.net, self.other), self.optimizers(), strict=True)
        ):
            if number == 0 or batch_idx % 3 == 2:
                optimizer.zero_grad()
                self.manual_backward(F.cross_entropy(net(batch[0]), batch[1]))
                optimizer.step()

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(net.parameters(), lr) for net, lr in ((self.net, 0.1), (self.other, 0.01))]


def test_groups_of_several_optimizers_go_by_one_count(tmp_path: Path) -> None:
    monitors_of = UpdateRatio(1, times_per_run=None), LearningCurves(every_n_steps=1)
    _, events, _ = watched(InTurns(), tmp_path, *monitors_of, train=some(6))
    first, second = (events.scalars(f"update_ratio/_{group}") for group in (0, 1))
    assert (len(first), len(second)) == (6, 2)
    rates = [next(iter(events.scalars(f"lr/{group}").values())) for group in (0, 1)]
    assert rates == pytest.approx([0.1, 0.01])


class ManySteps(Manual):
    """Three steps with each batch."""

    def training_step(self, batch: Any, batch_idx: int) -> None:
        for _ in range(3):
            super().training_step(batch, batch_idx)


def test_of_several_steps_with_one_batch_a_single_one_is_measured(tmp_path: Path) -> None:
    brute, ratio = StepByStep(), UpdateRatio(9, times_per_run=None)
    _, events, _ = watched(ManySteps(mlp()), tmp_path, brute, ratio, train=some(4))
    found = events.scalars("update_ratio/net.1.weight")
    singles = {change / weight for change, weight in (each["net.1.weight"] for each in brute.norms.values())}
    assert len(found) == 3  # of the first batch, of that with step 9, and of the last one that was foreseen
    for value in found.values():
        assert min(abs(value / single - 1) for single in singles) < 1e-4


class Unfreeze(BaseFinetuning):
    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.net[0], train_bn=True)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net[0], optimizer)


def test_a_layer_unfrozen_later_is_measured_from_then_on(tmp_path: Path) -> None:
    module = Trained(
        convnet(), lambda m: torch.optim.SGD([p for p in m.parameters() if p.requires_grad], 0.1)
    )
    ratio = UpdateRatio(1, None)
    _, events, _ = watched(module, tmp_path, Unfreeze(), ratio, max_epochs=2)
    assert list(events.scalars("update_ratio/net.5.weight")) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert list(events.scalars("update_ratio/net.0.weight")) == [5, 6, 7, 8]


class Overflows(Callback):
    """The gradients of the second batch overflow."""

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if trainer.global_step == 1:
            pl_module.net[0].weight.grad.fill_(torch.inf)


def test_a_step_left_out_by_the_gradient_scaler_is_not_measured(tmp_path: Path) -> None:
    scaler = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=4.0))
    module = Foreign(convnet())
    _, events, diagnosis = watched(module, tmp_path, Overflows(), *monitors(), plugins=[scaler])
    assert list(events.scalars("update_ratio/net.0.weight")) == [1, 3, 4]
    assert diagnosis.findings == []
    assert skipped(diagnosis, module.trainer) == {}


def test_a_module_without_optimizer_is_skipped_with_the_reason(tmp_path: Path) -> None:
    class Idle(Foreign):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return None

    trainer, _, diagnosis = watched(Idle(mlp()), tmp_path, UpdateRatio())
    assert "no optimizer has a parameter" in skipped(diagnosis, trainer)["UpdateRatio"]
