"""The recorder in somebody's trainer: with the diagnosis or without, and its one copy of the module."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch.nn.functional as F
from foreign import Foreign, NeverClears, convnet, fit, loader, mlp
from monitoring import monitors, some

from vitals.diagnosis.callback import Diagnosis
from vitals.findings import read_findings
from vitals.history import History
from vitals.monitors.learning_curves import LearningCurves
from vitals.monitors.stale_gradients import StaleGradients
from vitals.recorder import Recorder


def test_it_records_without_a_diagnosis(tmp_path: Path) -> None:
    fit(Foreign(mlp()), tmp_path, *monitors(), Recorder(), train=some())
    history = History.read(tmp_path / "history.jsonl")
    assert len(history.series("loss/train_step")) == 4
    assert history.last("facts/batch_size") == 16
    assert history.tags("update_ratio/")
    assert not (tmp_path / "findings.json").exists()


class TwoEpsilons(Foreign):
    """As CAME, whose eps are two."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        optimizer.param_groups[0] |= {"eps": (1e-30, 1e-16), "betas": (0.9, 0.999)}
        return optimizer


def test_rates_are_known_whatever_else_an_optimizer_has() -> None:
    recorder = Recorder()
    fit(TwoEpsilons(mlp()), None, recorder, train=some())
    assert recorder.history.last("facts/lr") > 0


@pytest.mark.parametrize("first", [True, False])
def test_a_diagnosis_judges_what_is_recorded_and_records_where_nobody_else_does(
    first: bool, tmp_path: Path
) -> None:
    recorder, diagnosis = Recorder(), Diagnosis(report=False)
    fit(Foreign(mlp()), tmp_path / "1", *monitors(), *([recorder] if first else []), diagnosis, train=some())
    assert (diagnosis.recorder is recorder) is first
    history = History.read(tmp_path / "1" / "history.jsonl")
    assert len(history.series("loss/train_step")) == 4
    assert read_findings(tmp_path / "1" / "findings.json") == diagnosis.findings + diagnosis.looks


def test_monitors_alone_write_no_history(tmp_path: Path) -> None:
    watching = monitors()
    fit(Foreign(mlp()), tmp_path, *watching, train=some())
    assert [finding for monitor in watching for finding in monitor.findings] == []
    assert not (tmp_path / "history.jsonl").exists()


def test_a_second_training_in_the_same_folder_begins_anew(tmp_path: Path) -> None:
    for _ in range(2):
        fit(Foreign(mlp()), tmp_path, *monitors(), Recorder(), train=some())
    assert len(History.read(tmp_path / "history.jsonl").series("loss/train_step")) == 4


def test_a_record_that_begins_amid_a_training_says_so_and_one_that_goes_on_does_not(tmp_path: Path) -> None:
    trainer = fit(Foreign(mlp()), tmp_path / "1", Recorder(), train=some())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    for place, before in (("1", 0), ("2", 4)):
        go_on = {"max_epochs": 2, "ckpt_path": tmp_path / "last.ckpt"}
        fit(Foreign(mlp()), tmp_path / place, LearningCurves(1), Recorder(), train=some(), **go_on)
        history = History.read(tmp_path / place / "history.jsonl")
        assert history.last("facts/steps_before") == before


def test_all_monitors_share_one_copy_and_leave_it_as_they_found_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[Any] = []
    deepcopy = copy.deepcopy

    def counted(thing: Any, memo: Any = None) -> Any:
        copies.append(thing)
        return deepcopy(thing, memo)

    hooks = []

    class Looks(L.Callback):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            parts = recorder.twin(trainer, pl_module).module.modules()
            hooks.extend(hook for part in parts for hook in [*part._forward_hooks, *part._forward_pre_hooks])

    recorder = Recorder()
    monkeypatch.setattr(copy, "deepcopy", counted)
    watching = [*monitors(), StaleGradients()]
    fit(Foreign(convnet()), tmp_path, *watching, recorder, Looks(), train=some(12), max_epochs=2)
    assert [finding for monitor in watching for finding in monitor.findings] == []
    modules = [thing for thing in copies if isinstance(thing, L.LightningModule)]
    assert len(modules) == 2  # the copy, and that of its rehearsal
    assert hooks == []
    assert recorder._twin is None  # given back


class Anneals(Foreign):
    """Weighs its loss by an attribute that the training changes."""

    weight = 1.0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.weight * super().training_step(batch, batch_idx)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.weight = 0.5**self.trainer.global_step


def test_the_copy_follows_plain_attributes(tmp_path: Path) -> None:
    stale = StaleGradients()
    recorder = Recorder()
    fit(Anneals(mlp()), tmp_path, stale, recorder, train=some(12))
    shares = History.read(tmp_path / "history.jsonl").series("old_gradient").values
    assert shares == pytest.approx([0.0, 0.0], abs=1e-4)


@pytest.mark.parametrize("clip", [None, 0.05])
def test_what_a_step_leaves_of_its_gradient_is_found_whole_in_the_next_also_clipped(
    clip: float | None, tmp_path: Path
) -> None:
    callbacks = StaleGradients(), Recorder()
    fit(NeverClears(mlp()), tmp_path, *callbacks, train=some(12), gradient_clip_val=clip)
    shares = History.read(tmp_path / "history.jsonl").series("old_gradient").values
    assert shares == pytest.approx([1.0, 1.0], abs=1e-3)


class StepsEveryFourth(Foreign):
    """Adds up the gradients of four batches by hand."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.manual_backward(loss)
        self.remember(batch[1], loss)
        if batch_idx % 4 == 3:
            optimizer: Any = self.optimizers()
            optimizer.step()
            optimizer.zero_grad()


def test_samples_are_counted_between_two_steps(tmp_path: Path) -> None:
    recorder, module = Recorder(), StepsEveryFourth()
    fit(module, tmp_path, recorder, train=loader())
    assert recorder.history.last("facts/batch_size") == 4 * 32
    assert recorder.history.last("facts/batches_per_step") == 4
    losses = [loss for _, loss in module.seen[:4]]
    assert recorder.history.last("facts/first_losses") == pytest.approx(sum(losses))


class StepsByHand(Foreign):
    """A step for each four batches; gradients are cleared once for each, or before every batch."""

    def __init__(self, each: bool, attacks: bool = False) -> None:
        super().__init__(mlp())
        self.automatic_optimization = False
        self.each, self.attacks = each, attacks

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        if self.attacks:
            self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))
        if self.each or batch_idx % 4 == 0 or self.attacks:
            optimizer.zero_grad()
        self.manual_backward(F.cross_entropy(self.net(batch[0]), batch[1]))
        if batch_idx % 4 == 3 or self.attacks:
            optimizer.step()


@pytest.mark.parametrize(
    ("module", "found"),
    [
        (lambda: StepsByHand(each=True), ["batch-too-small"]),
        (lambda: StepsByHand(each=False), []),
        (lambda: StepsByHand(each=True, attacks=True), []),  # for something else, in the batch itself
    ],
)
def test_gradients_that_are_cleared_before_their_step(module: Any, found: list[str]) -> None:
    monitor = StaleGradients()
    fit(module(), None, monitor, train=some(16))
    assert [finding.cause for finding in monitor.findings] == found
