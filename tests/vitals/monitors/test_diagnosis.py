"""The diagnosis in somebody's trainer: what it says, when, and that it leaves the training alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from foreign import Foreign, NeverClears, fit, loader, mlp
from lightning.pytorch.loggers import TensorBoardLogger
from monitoring import train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_small, shufflenet_v2_x0_5
from torchvision.models.resnet import BasicBlock, ResNet

from vitals import diagnostics
from vitals.diagnosis.callback import Diagnosis
from vitals.diagnosis.run import Run
from vitals.errors import UserError
from vitals.findings import Finding, read_findings
from vitals.history import History
from vitals.monitors.learning_curves import LearningCurves
from vitals.monitors.non_finite import NonFinite
from vitals.probes.rate_probe import probe_rates


def watch(
    module: L.LightningModule, folder: Path, epochs: int = 6, callbacks: Any = None, **options: Any
) -> tuple[L.Trainer, list[Finding]]:
    """Train on 256 digits with all callbacks that watch, and return what they found."""
    torch.manual_seed(0)
    trainer = L.Trainer(
        default_root_dir=folder,
        callbacks=[*diagnostics()[:-1], Diagnosis(report=False)] if callbacks is None else callbacks,
        max_epochs=epochs,
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        **{"logger": False, **options},
    )
    trainer.fit(module, loader(), loader(shuffle=False))
    return trainer, read_findings(folder / "findings.json")


def alarms(findings: list[Finding]) -> list[str]:
    return list(dict.fromkeys(finding.cause for finding in findings if finding.alarming))


class SwitchesToEvaluation(Foreign):
    def on_train_epoch_start(self) -> None:
        if self.current_epoch > 0:
            self.eval()


class KeepsNormsInEvaluation(Foreign):
    """As when fine-tuning; `trained` says whether the layers have statistics to keep."""

    def __init__(self, net: nn.Module, trained: bool) -> None:
        super().__init__(net)
        if trained:
            for images, _ in loader():
                net(images)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        for part in self.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.eval()


class RisesLater(Foreign):
    """A scheduler that multiplies where it should divide."""

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 1.3)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def deep() -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(64, 32), nn.ReLU()]
    for _ in range(3):
        layers += [nn.Linear(32, 32), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(32, 10))


SICK: dict[str, tuple[str, Callable[[], L.LightningModule]]] = {
    "gradients": ("gradients-accumulate", lambda: NeverClears(mlp())),
    "mode": ("eval-mode-training", lambda: SwitchesToEvaluation(mlp(norm=True))),
    "norms": ("eval-mode-training", lambda: KeepsNormsInEvaluation(mlp(norm=True), trained=False)),
    "rate": ("learning-rate-too-high", lambda: RisesLater(deep())),
}


@pytest.mark.parametrize("name", SICK)
def test_a_fault_that_shows_only_while_training_is_named_alone(name: str, tmp_path: Path) -> None:
    cause, make = SICK[name]
    _, findings = watch(make(), tmp_path)
    assert alarms(findings) == [cause]
    [finding] = [finding for finding in findings if finding.cause == cause and finding.alarming]
    assert finding.step > 0
    assert finding.remedy


class Transformer(nn.Module):
    """Rows of the image as tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(8, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.place = nn.Parameter(torch.randn(1, 8, 32) * 0.1)
        self.head = nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(images[:, 0]) + self.place).mean(1))


class InColour(nn.Module):
    """A network of torchvision on enlarged digits."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        large = F.interpolate(images, scale_factor=2.0)
        return self.network(large.expand(-1, 3, -1, -1))


def seeded(make: Callable[..., nn.Module], **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return InColour(make(num_classes=10, **options))


class WithAdam(Foreign):
    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 2e-3)


HEALTHY: dict[str, Callable[[], L.LightningModule]] = {
    "mlp": lambda: Foreign(mlp()),
    "norms at rest": lambda: KeepsNormsInEvaluation(mlp(norm=True), trained=True),
    "transformer": lambda: WithAdam(Transformer()),
    "resnet": lambda: WithAdam(seeded(ResNet, block=BasicBlock, layers=[1, 1, 1, 1])),
    "mobilenet": lambda: WithAdam(seeded(mobilenet_v3_small, width_mult=0.5)),
    "shufflenet": lambda: WithAdam(seeded(shufflenet_v2_x0_5)),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_other_peoples_modules_are_watched_and_left_in_peace(name: str, tmp_path: Path) -> None:
    checked = name in ("mlp", "transformer")  # what the checks make of the others is tested with them
    watchers = [*diagnostics()[0 if checked else 1 : -1], Diagnosis(report=False)]
    epochs = 3 if checked else 2  # the others are large
    _, findings = watch(HEALTHY[name](), tmp_path, epochs, watchers)
    assert alarms(findings) == []
    history = History.read(tmp_path / "history.jsonl")
    assert history.tags("update_ratio/")
    assert history.tags("activation_variance/")
    assert len(history.series("loss/train_step")) == 8 * epochs


def test_a_hopeless_run_is_ended_at_the_end_of_the_epoch_in_which_that_is_certain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callbacks = [*diagnostics()[1:-1], Diagnosis(stop_on="fail", report=False)]
    trainer, _ = watch(NeverClears(mlp()), tmp_path, callbacks=callbacks)
    assert trainer.current_epoch < 6
    assert callbacks[-1].stopped_by.cause == "gradients-accumulate"
    assert "zero_grad" in capsys.readouterr().out


def in_the_first_epoch(run: Run) -> Iterator[Finding]:
    if run.steps <= 8:
        yield Finding("class-imbalance", "fail", "Most are of one class.", step=8)


def test_findings_are_a_text_card_in_tensorboard_and_a_file_with_its_schema(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callbacks = [*diagnostics()[:-1], Diagnosis(report=False, rules=[in_the_first_epoch])]
    watch(
        NeverClears(mlp()),
        tmp_path,
        callbacks=callbacks,
        logger=TensorBoardLogger(tmp_path, name="", version=""),
    )
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("Most are of one class.") == 1
    assert "ok step 16: class-imbalance, which was said before, has passed" in said
    events = EventAccumulator(str(tmp_path)).Reload()
    [*_, card] = events.Tensors("findings/text_summary")
    assert b"gradients-accumulate" in card.tensor_proto.string_val[0]
    entries = json.loads((tmp_path / "findings.json").read_text())
    for entry in entries:
        assert set(entry) == set(Finding.__dataclass_fields__)
    levels = [("ok", "note", "warn", "fail").index(entry["level"]) for entry in entries]
    assert levels == sorted(levels, reverse=True)


class Probes(L.Callback):
    """Probes the rate after every epoch."""

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.losses = probe_rates(trainer, pl_module)
        with pytest.raises(UserError, match="too long"):
            probe_rates(trainer, pl_module, seconds=0)


def test_a_probe_of_the_rate_leaves_everything_as_it_was(tmp_path: Path) -> None:
    probes = Probes()
    bare, probed = (train(Foreign(deep()), tmp_path, each, max_epochs=3) for each in ([], [probes]))
    assert all(torch.equal(bare[name], probed[name]) for name in bare)
    assert set(probes.losses) == {0.1, 1.0, 3.0, 10.0}
    assert probes.losses[10.0] > probes.losses[0.1]


def test_a_wrong_stop_on_is_refused() -> None:
    with pytest.raises(UserError, match="fail"):
        Diagnosis(stop_on="warn")  # type: ignore[arg-type]


class FailsInTest(Foreign):
    def test_step(self, batch: Any, batch_idx: int) -> None:
        raise ValueError("no such file")


def test_a_test_that_fails_later_says_nothing_of_the_training(tmp_path: Path, capsys: Any) -> None:
    module = FailsInTest(mlp())
    trainer = fit(module, tmp_path, Diagnosis(probe=False))
    [file] = tmp_path.rglob("findings.json")
    before = file.read_text()
    with pytest.raises(ValueError, match="no such file"):
        trainer.test(module, loader(), verbose=False)
    assert capsys.readouterr().out.count("findings:") == 1
    assert file.read_text() == before


def test_the_weights_of_the_start_are_kept_no_longer_than_the_training_lasts(tmp_path: Path) -> None:
    """Not where it ends by an error, after which nothing is torn down."""

    class Fails(Foreign):
        def on_train_batch_end(self, *_: Any) -> None:
            files.append(diagnosis.start)
            raise ValueError("theirs")

    files: list[Any] = []
    diagnosis = Diagnosis(report=False)
    with pytest.raises(ValueError, match="theirs"):
        fit(Fails(mlp()), tmp_path, diagnosis)
    assert [file.closed for file in files] == [True]


def test_a_second_fit_that_comes_to_the_same_says_nothing_again(tmp_path: Path, capsys: Any) -> None:
    module = Foreign(mlp())
    trainer = fit(module, tmp_path, Diagnosis(probe=False, report=False))
    trainer.fit_loop.max_epochs = trainer.current_epoch + 1
    trainer.fit(module, loader(), loader())
    assert trainer.current_epoch == trainer.fit_loop.max_epochs
    assert capsys.readouterr().out.count("report:") == 1


def test_of_many_short_epochs_the_record_is_whole_and_is_judged_more_and_more_seldom(tmp_path: Path) -> None:
    judged: list[int] = []

    def counting(run: Run) -> Iterator[Finding]:
        judged.append(run.steps)
        yield from ()

    watching = [NonFinite(), LearningCurves(subset_samples=0)]
    diagnosis = Diagnosis(probe=False, report=False, rules=[counting])
    watch(Foreign(mlp()), tmp_path, 100, [*watching, diagnosis], limit_train_batches=1, limit_val_batches=0)
    assert {*range(1, 21), 100} <= {*judged}
    assert len({*judged}) < 45
    for tag in ("gradient_norm", "loss/train_step"):
        assert History.read(tmp_path / "history.jsonl").series(tag).steps == list(range(1, 101))
