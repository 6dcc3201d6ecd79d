"""A number that is not finite: the training stops, leaves the step out, or goes back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from foreign import Foreign, convnet, fit, mlp
from lightning.pytorch.plugins import MixedPrecision
from monitoring import Trained, same, some
from torch.optim.lr_scheduler import LambdaLR

from vitals.averaging.weight_average import WeightAverage
from vitals.diagnosis.callback import Diagnosis
from vitals.errors import Diverged, UserError
from vitals.measures.finite import first_non_finite
from vitals.monitors.non_finite import NonFinite
from vitals.on_nonfinite import OnNonFinite


def with_nan(batches: int, *bad: int, size: int = 16) -> Any:
    data = some(batches, size)
    for number in bad:
        data.dataset.tensors[0][number * size + 3, 0, 2, 2] = torch.nan
    return data


class Adam(Foreign):
    """Trained with a momentum, a weight decay and a schedule; remembers its state after every batch."""

    spoilt: tuple[int, ...] = ()
    how = "loss"

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), 0.01, weight_decay=0.1)
        schedule = LambdaLR(optimizer, lambda step: 1 / (1 + step))
        self.states: list[Any] = []
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self.net(batch[0])
        loss = F.cross_entropy(logits, batch[1])
        if batch_idx in self.spoilt:
            spoil = {"loss": math.nan, "gradient": (logits.sum() * 0).sqrt(), "constant": math.inf}
            loss = loss * spoil["loss"] if self.how == "loss" else loss + spoil[self.how]
        return loss

    def state(self) -> Any:
        weights = {name: value.clone() for name, value in self.state_dict().items()}
        return weights, [
            {name: value.clone() for name, value in state.items()}
            for state in self.trainer.optimizers[0].state.values()
        ]

    def on_train_batch_end(self, *arguments: Any) -> None:
        self.states.append(self.state())


@pytest.mark.parametrize(
    ("how", "watched"), [("input", True), ("loss", False), ("gradient", True), ("constant", False)]
)
def test_it_stops_before_the_step_and_leaves_everything_as_it_was(
    how: str, watched: bool, tmp_path: Path
) -> None:
    module = Adam(convnet())
    module.spoilt, module.how = (() if how == "input" else (2,)), how
    guard = OnNonFinite()
    callbacks = [*([NonFinite()] if watched else []), Diagnosis(report=False), guard]
    with pytest.raises(Diverged) as stop:
        fit(module, tmp_path, *callbacks, train=with_nan(4, 2) if how == "input" else some(4))
    assert stop.value.code == 4
    assert len(module.states) == 2
    assert same(module.state(), module.states[1])
    [finding] = guard.findings
    assert (finding.level, finding.step, finding.cause) == ("fail", 2, "non-finite-loss")
    assert "in step 3" in stop.value.reason
    assert "on_nonfinite=skip leaves such steps out" in stop.value.reason
    expected = {"input": "batch 3 of epoch 1", "gradient": "gradient of 'net.0.weight'"}
    assert expected.get(how, "every layer is finite, the loss itself is not") in stop.value.reason
    assert finding in callbacks[-2].findings  # type: ignore[attr-defined]


def test_a_step_that_is_left_out_leaves_nothing_behind_and_the_training_goes_on(tmp_path: Path) -> None:
    module, guard = Adam(convnet()), OnNonFinite("skip")
    trainer = fit(module, tmp_path, NonFinite(), guard, Diagnosis(report=False), train=with_nan(5, 2))
    assert same(module.states[2], module.states[1])
    assert not same(module.states[3], module.states[2])
    assert trainer.global_step == 5
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01 / 6)
    [finding] = guard.findings
    assert finding.level == "warn"
    assert "batch 3 of epoch 1. The step was left out (1 of at most 100)." in finding.message
    assert first_non_finite(module) is None


def test_too_many_in_a_row_end_it(tmp_path: Path) -> None:
    module, guard = Adam(mlp(norm=True)), OnNonFinite("skip")
    module.spoilt = tuple(range(2, 40))
    with pytest.raises(Diverged, match="Before that 10 steps were left out"):
        fit(module, tmp_path, guard, train=some(40))
    assert len(module.states) == 2 + 10
    assert same(module.states[-1], module.states[1])


def test_of_batches_that_accumulate_the_bad_one_is_named_and_spoils_one_step(tmp_path: Path) -> None:
    module, guard = Adam(convnet()), OnNonFinite("skip")
    options = {"accumulate_grad_batches": 3, "gradient_clip_val": 1.0}
    fit(module, tmp_path, guard, train=with_nan(9, 4), **options)
    assert "batch 5 of epoch 1" in guard.findings[0].message
    assert "in step 2" in guard.findings[0].message
    assert same(module.states[5], module.states[2])
    assert not same(module.states[8], module.states[5])


class Explodes(Adam):
    """With steps that are too large for single precision."""

    def configure_optimizers(self) -> Any:
        self.states = []
        return torch.optim.SGD(self.parameters(), 3e38)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) * 1e6


@pytest.mark.parametrize("batches", [1, 4])
def test_weights_that_a_step_makes_infinite_are_found_and_never_kept(batches: int, tmp_path: Path) -> None:
    """With a single batch no gradient comes after that step: the end of the epoch is the first to see."""
    average = WeightAverage(start=0, every=1)
    for action in ("stop", "skip"):
        with pytest.raises(Diverged) as stop:
            fit(Explodes(mlp()), tmp_path, average, OnNonFinite(action), train=some(batches))
        assert stop.value.code == 4
        assert average.average is not None
        assert average.average.count == 0
    fit(Explodes(mlp()), tmp_path, average, train=some(4))
    assert average.average is not None
    assert average.average.count == 0


def test_it_goes_back_to_a_good_state_at_a_lower_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitals.on_nonfinite.KEPT_EVERY", 10)
    module, guard = Adam(convnet()), OnNonFinite("rollback")
    spoilt = 25
    module.spoilt = (spoilt,)
    trainer = fit(module, tmp_path, guard, train=some(spoilt + 2, size=2), limit_val_batches=0)
    assert same(module.states[spoilt], module.states[9])
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01 / 2 / (spoilt + 3))
    [finding] = guard.findings
    assert finding.level == "warn"
    assert "its state after step 10, and goes on with 0.5 times" in finding.message


class SavesAfterAnEpoch(L.Callback):
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / "one.ckpt")


def test_a_resumed_training_goes_back_to_the_state_that_it_had_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitals.on_nonfinite.KEPT_EVERY", 5)

    class LaterSpoilt(Adam):
        def on_train_epoch_start(self) -> None:
            self.spoilt = (1,) if self.current_epoch else ()

    def trained(**options: Any) -> tuple[Any, OnNonFinite]:
        module, guard = LaterSpoilt(convnet()), OnNonFinite("rollback")
        further = {"limit_val_batches": 0, "max_epochs": 2, "train": some(8, size=2), **options}
        fit(module, tmp_path, guard, SavesAfterAnEpoch(), **further)
        return module.states[-7], guard  # after the spoilt step

    (straight, first), (resumed, second) = trained(), trained(ckpt_path=tmp_path / "one.ckpt")
    assert same(resumed, straight)
    assert (second.rollbacks, second.findings) == (1, first.findings)
    assert "its state after step 0" in first.findings[0].message


def test_a_rate_too_high_is_lowered_until_it_trains_or_often_enough(tmp_path: Path) -> None:
    high = Explodes(mlp())
    guard = OnNonFinite("rollback")
    with pytest.raises(Diverged, match="Before that the training went back 10 times"):
        fit(high, tmp_path, guard, train=some(40))
    assert first_non_finite(high) is None

    class Depends(Adam):
        def configure_optimizers(self) -> Any:
            self.states = []
            return torch.optim.Adam(self.parameters(), 0.01)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            too_high = self.trainer.optimizers[0].param_groups[0]["lr"] > 0.003
            return super().training_step(batch, batch_idx) * (math.inf if batch_idx > 3 and too_high else 1)

    module, guard = Depends(mlp(norm=True)), OnNonFinite("rollback")
    fit(module, tmp_path, guard, train=some(12))
    assert guard.rollbacks == 2


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_lbfgs_is_judged_by_where_its_search_ends(line_search: Any, tmp_path: Path) -> None:
    calls: list[int] = []

    class Falls(Trained):
        """Not finite from the third look of the second step on, and in the whole of the fourth."""

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            calls.append(batch_idx)
            bad = (batch_idx == 1 and calls.count(1) > 2) or batch_idx == 3
            return F.cross_entropy(self.net(batch[0]), batch[1]) * (math.nan if bad else 1.0)

        def on_train_batch_end(self, *arguments: Any) -> None:
            self.states.append([p.detach().clone() for p in self.parameters()])

    def optimizer(module: Any) -> Any:
        module.states = []
        return torch.optim.LBFGS(module.parameters(), max_iter=5, line_search_fn=line_search)

    module, guard = Falls(mlp(norm=True), optimizer), OnNonFinite("skip")
    trainer = fit(module, tmp_path, guard, train=some(5))
    assert guard.skipped == 2
    assert same(module.states[1], module.states[0])
    assert not same(module.states[2], module.states[1])
    assert same(module.states[3], module.states[2])
    assert first_non_finite(module) is None
    [state] = trainer.optimizers[0].state.values()
    assert bool(state["prev_flat_grad"].isfinite().all())


def test_a_gradient_scaler_leaves_steps_out_by_itself(tmp_path: Path) -> None:
    scaler = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=4.0))
    module, guard = Adam(convnet()), OnNonFinite()
    fit(module, tmp_path, guard, train=with_nan(4, 2), plugins=[scaler])
    assert guard.findings == []
    assert same(module.states[2], module.states[1])
    assert first_non_finite(module) is None
    module.spoilt = tuple(range(100))
    scaler = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    with pytest.raises(Diverged, match="in step 40"):
        fit(module, tmp_path, guard, train=some(50), plugins=[scaler])


def test_by_hand_only_the_optimizer_whose_gradients_are_bad_is_held_back(tmp_path: Path) -> None:
    class Two(Foreign):
        def __init__(self) -> None:
            super().__init__(mlp(norm=True))
            self.other = mlp()
            self.automatic_optimization, self.states = False, list[Any]()

        def training_step(self, batch: Any, batch_idx: int) -> None:
            for net, optimizer in zip((self.net, self.other), self.optimizers(), strict=True):
                optimizer.zero_grad()
                loss = F.cross_entropy(net(batch[0]), batch[1])
                self.manual_backward(loss * (math.nan if batch_idx == 2 and net is self.net else 1))
                optimizer.step()
            self.states.append([same_net(net) for net in (self.net, self.other)])

        def configure_optimizers(self) -> Any:
            return [torch.optim.Adam(net.parameters(), 0.01) for net in (self.net, self.other)]

    def same_net(net: Any) -> Any:
        return [p.detach().clone() for p in net.parameters()]

    module, guard = Two(), OnNonFinite("skip")
    fit(module, tmp_path, guard, train=some(4))
    assert guard.skipped == 1
    (held, went_on) = [same(module.states[2][net], module.states[1][net]) for net in (0, 1)]
    assert (held, went_on) == (True, False)


@pytest.mark.parametrize("action", ["stop", "skip", "rollback"])
def test_a_sound_training_is_the_same_to_the_bit(action: Any, tmp_path: Path) -> None:
    def weights(*callbacks: Any) -> Any:
        module = Adam(convnet())
        fit(module, tmp_path, *callbacks, accumulate_grad_batches=2, precision="bf16-mixed")
        return module.states

    expected = weights()
    assert same(weights(OnNonFinite(action)), expected)
    assert same(weights(NonFinite(), OnNonFinite(action)), expected)


def test_masks_may_be_infinite_and_the_running_variance_may_not() -> None:
    net = convnet()
    net.register_buffer("mask", torch.full((2, 2), -math.inf))
    assert first_non_finite(net) is None
    net[1].running_var[3] = math.inf  # type: ignore[index]
    assert first_non_finite(net) == "1.running_var"
    net[0].weight.data[0, 0, 1, 1] = math.nan  # type: ignore[union-attr]
    assert first_non_finite(net) == "0.weight"
    assert first_non_finite(torch.nn.ReLU()) is None


def test_another_action_is_refused() -> None:
    with pytest.raises(UserError, match="'halt' must be one of stop, skip, rollback"):
        OnNonFinite("halt")  # type: ignore[arg-type]
