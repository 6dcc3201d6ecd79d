"""What validation calls, against what trains."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foreign import Foreign, alarms, fit, mlp, quick
from torch import Tensor, nn

from vitals.diagnosis.callback import Diagnosis
from vitals.findings import read_findings
from vitals.monitors.modes import Modes
from vitals.recorder import Recorder


class Teacher(Foreign):
    """Validates an average of the weights, with or without BatchNorm's buffers."""

    def __init__(self, buffers: bool, norms_frozen: bool = False) -> None:
        super().__init__(mlp(norm=True))
        self.buffers_too, self.norms_frozen = buffers, norms_frozen
        self.teacher = copy.deepcopy(self.net).requires_grad_(False).eval()

    def on_train_epoch_start(self) -> None:
        self.teacher.eval()
        self.net[2].train(not self.norms_frozen)

    def forward(self, x: Tensor) -> Tensor:
        return self.teacher(x)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self(batch[0])

    @torch.no_grad()
    def on_train_batch_end(self, *args: Any) -> None:
        for slow, fast in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
            slow.lerp_(fast, 0.1)
        if self.buffers_too:
            self.teacher[2].load_state_dict(
                {**self.teacher[2].state_dict(), **dict(self.net[2].named_buffers())}
            )


class Aside(Teacher):
    """Keeps the average for later and validates the network itself."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (lambda: Teacher(buffers=False), True),
        (lambda: Teacher(buffers=True), False),
        (lambda: Teacher(buffers=False, norms_frozen=True), False),
        (lambda: Aside(buffers=False), False),
    ],
    ids=["left behind", "copied", "no statistics follow", "not validated"],
)
def test_a_copy_that_is_validated_needs_the_statistics_too(module: Any, said: bool) -> None:
    monitor = Modes()
    fit(module(), None, monitor, max_epochs=3)
    assert [finding.cause for finding in monitor.findings] == ["train-val-mismatch"] * said
    assert all("teacher.2" in finding.message for finding in monitor.findings)


class Dropping(Foreign):
    """Turns dropout on in validation, and takes the mean over some passes."""

    def __init__(self, passes: int, on: bool = True) -> None:
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Dropout(), nn.Linear(16, 10)))
        self.passes, self.on = passes, on

    def on_validation_start(self) -> None:
        self.net[2].train(self.on)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        torch.stack([self.net(batch[0]) for _ in range(self.passes)]).mean(0)


@pytest.mark.parametrize(("passes", "on", "said"), [(1, True, True), (8, True, False), (1, False, False)])
def test_dropout_may_be_on_in_validation_where_passes_are_averaged(passes: int, on: bool, said: bool) -> None:
    monitor = Modes()
    fit(Dropping(passes, on), None, monitor, max_epochs=3)
    assert [finding.cause for finding in monitor.findings] == ["train-mode-evaluation"] * said


class AtOnce(Dropping):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.net(batch[0].repeat(8, 1, 1, 1)).unflatten(0, (8, -1)).mean(0)


class Beside(Dropping):
    """Validates as one does, and looks besides at how much outputs change with what is dropped."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        noisy = self.net(batch[0])
        self.net.eval()
        noisy - self.net(batch[0])


@pytest.mark.parametrize("kind", [AtOnce, Beside])
def test_dropout_in_validation_that_is_meant(kind: type[Dropping]) -> None:
    monitor = Modes()
    fit(kind(1), None, monitor, max_epochs=3)
    assert monitor.findings == []


class Adapting(Foreign):
    """Validates in training mode; where it `learns`, it takes a step for each task first."""

    def __init__(self, learns: bool) -> None:
        super().__init__(mlp(norm=True))
        self.learns = learns

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        with torch.set_grad_enabled(self.learns):
            self.net.train()
            self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))


@pytest.mark.parametrize(("learns", "said"), [(True, []), (False, ["train-mode-evaluation"])])
def test_a_validation_that_learns_is_in_training_mode(learns: bool, said: list[str], tmp_path: Path) -> None:
    fit(Adapting(learns), tmp_path, Modes(), Recorder(), Diagnosis(report=False), inference_mode=False)
    [file] = tmp_path.rglob("findings.json")
    assert alarms(read_findings(file)) == said


class AdaptingTwice(Adapting):
    """Its step calls the network more than once."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) + self.net(batch[0] / 2).square().mean()


@pytest.mark.parametrize(("learns", "said"), [(True, []), (False, ["train-mode-evaluation"])])
def test_so_it_may_be_before_the_first_step(learns: bool, said: list[str], tmp_path: Path) -> None:
    checks = quick(checks=["validation_mode"])
    fit(AdaptingTwice(learns), tmp_path, checks, inference_mode=False, limit_train_batches=1)
    assert alarms(checks.findings) == said


class Fails(Teacher):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        if self.trainer.current_epoch:
            raise ValueError("of the user")


def test_no_hook_is_left_behind_by_a_validation_that_fails() -> None:
    module = Fails(buffers=False)
    with pytest.raises(ValueError, match="of the user"):
        fit(module, None, Modes(), max_epochs=3)
    assert not any(part._forward_pre_hooks for part in module.modules())


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_modes_are_seen_of_a_network_that_takes_no_hooks(tmp_path: Path) -> None:
    modes = Modes()
    fit(Foreign(torch.jit.script(mlp())), tmp_path, modes, max_epochs=2)
    assert [each.message for each in modes.findings if each.cause == "skipped"] == []
