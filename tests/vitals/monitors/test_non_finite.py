"""The first NaN or infinity: at which step, in which layer, and that nothing else breaks."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foreign import Foreign, convnet, mlp
from lightning.pytorch.plugins import MixedPrecision
from monitoring import monitors, skipped, some, watched

from vitals.findings import read_findings
from vitals.monitors.monitor import Monitor
from vitals.monitors.non_finite import NonFinite


class Weight(Foreign):
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx == 2:
            with torch.no_grad():
                self.net[3].weight[0, 0] = torch.nan


class Root(Foreign):
    """The square root of the third batch is that of zero: its slope is infinite, and its value is 0."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self.net(batch[0])
        distance = logits.sum() * float(batch_idx != 2)
        return F.cross_entropy(logits, batch[1]) + 1e-3 * distance.square().sqrt()


class Loss(Foreign):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        return loss * (math.inf if batch_idx == 2 else 1.0)


def poisoned() -> Any:
    data = some(4)
    data.dataset.tensors[0][2 * 16 + 5, 0, 3, 3] = torch.nan
    return data


CASES: dict[str, tuple[Callable[[], Foreign], Any, str, str]] = {
    "weight": (lambda: Weight(mlp()), some, "net.3.weight", "weights of 'net.3.weight' are not finite"),
    "gradient": (lambda: Root(mlp()), some, "net.1.weight", "gradient of 'net.1.weight' and 3 more of 4"),
    "input": (lambda: Foreign(mlp()), poisoned, "input", "batch itself holds NaN"),
    "loss": (lambda: Loss(mlp()), some, "loss", "became NaN or infinite"),
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_named_with_its_step_and_place_and_everything_can_be_read(case: str, tmp_path: Path) -> None:
    make, data, where, message = CASES[case]
    trainer, events, diagnosis = watched(make(), tmp_path, *monitors(), train=data())
    assert trainer.global_step == 4
    found = diagnosis.findings
    assert [finding.cause for finding in found] == ["non-finite-loss"], found
    assert (found[0].step, found[0].level) == (2, "fail")
    assert message in found[0].message
    assert "in step 3" in found[0].message
    assert found[0].where == where
    assert read_findings(diagnosis.recorder.folder / "findings.json") == [*found, *diagnosis.looks]
    norms = events.scalars("gradients/norm")
    assert list(norms) == [1, 2, 3, 4]
    assert [math.isfinite(norm) for norm in norms.values()][:3] == [True, True, False]
    assert list(events.scalars("loss/train_step")) == [1, 2, 3, 4]
    assert events.tags("images")
    assert events.tags("histograms")


def test_the_layer_that_overflows_is_named(tmp_path: Path) -> None:
    class Explodes(Foreign):
        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            if batch_idx == 2:
                with torch.no_grad():
                    self.net[5].weight.fill_(3e38)

    _trainer, _, diagnosis = watched(Explodes(convnet()), tmp_path, NonFinite())
    [finding] = diagnosis.findings
    assert (finding.where, finding.step) == ("net.5", 2)
    assert "the output of 'net.5' overflows" in finding.message


@pytest.mark.parametrize("monitor", monitors(), ids=lambda monitor: type(monitor).__name__)
def test_a_network_of_nothing_but_nan_ends_no_monitor(monitor: Monitor, tmp_path: Path) -> None:
    class Nothing(Foreign):
        def on_train_start(self) -> None:
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.fill_(torch.nan)

    trainer, events, diagnosis = watched(Nothing(convnet()), tmp_path, monitor)
    assert trainer.global_step == 4
    assert skipped(diagnosis, trainer) == {}
    assert events.tags() != []


def test_a_loss_that_is_not_finite_is_told_under_a_gradient_scaler_too(tmp_path: Path) -> None:
    scaler = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=4.0))
    _trainer, _, diagnosis = watched(Loss(mlp()), tmp_path, NonFinite(), plugins=[scaler])
    [finding] = diagnosis.findings
    assert "The loss became NaN or infinite in step 3" in finding.message


class RootOfZero(Foreign):
    """A penalty whose value is 0 and whose slope is infinite, in the first `bad` steps."""

    bad = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        logits = self.net(batch[0])
        penalty = (logits.sum() * 0).sqrt() if self.global_step < self.bad else 0.0
        return F.cross_entropy(logits, batch[1]) + penalty


@pytest.mark.parametrize(("bad", "found"), [(20, []), (48, [40])])
def test_gradients_that_a_scaler_leaves_out_are_told_where_no_scale_would_help(
    bad: int, found: list[int], tmp_path: Path
) -> None:
    scaler = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    module = RootOfZero(mlp())
    module.bad = bad
    _trainer, _, diagnosis = watched(module, tmp_path, NonFinite(10), train=some(48), plugins=[scaler])
    assert [finding.step for finding in diagnosis.findings] == [step - 1 for step in found]
    assert all("scaler leaves all of them out" in finding.message for finding in diagnosis.findings)


def test_a_sound_training_has_norms_before_clipping_and_no_finding(tmp_path: Path) -> None:
    expected: list[float] = []

    class Notes(Foreign):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            norms = [p.grad.norm() for p in self.parameters() if p.grad is not None]
            expected.append(float(torch.stack(norms).norm()))

    watch = NonFinite(3)
    _, events, diagnosis = watched(Notes(mlp()), tmp_path, watch, train=some(7), gradient_clip_val=0.01)
    assert watch.findings == []
    found = events.scalars("gradients/norm")
    assert list(found) == [1, 3, 6, 7]
    assert [found[step] for step in found] == pytest.approx([expected[step - 1] for step in found], rel=1e-4)
    history = diagnosis.recorder.history.series("gradient_norm")
    assert history.steps == [1, 2, 3, 4, 5, 6, 7]
    assert history.values == pytest.approx(expected, rel=1e-4)
