"""What a module logs, under whatever names, is recorded and judged, and what is said at the end."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import vitals
from vitals.checks.sanity_checks import SanityChecks
from vitals.diagnosis.metrics import logged_metrics, lost_game
from vitals.diagnosis.run import Run
from vitals.findings import read_findings
from vitals.history import History
from vitals.measures.names import in_pairs, parted
from vitals.monitors.learning_curves import epoch_metrics


class Regression(L.LightningModule):
    """Logs `train_mse` of every step and `val_mse`."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 1))

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = F.mse_loss(self.net(batch[0]), batch[1])
        self.log("train_mse", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val_mse", F.mse_loss(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-2)


def noise(count: int, seed: int) -> DataLoader[Any]:
    """Targets that have nothing to do with the inputs: what is learned of them is learned by heart."""
    draw = torch.Generator().manual_seed(seed)
    data = TensorDataset(torch.randn(count, 8, generator=draw), torch.randn(count, 1, generator=draw))
    return DataLoader(data, 16, shuffle=seed == 0, generator=draw)


def fit(epochs: int = 2, **options: Any) -> L.Trainer:
    torch.manual_seed(0)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    callbacks = [callback for callback in vitals.diagnostics() if "Sanity" not in type(callback).__name__]
    options = {"callbacks": callbacks, **options}
    trainer = L.Trainer(max_epochs=epochs, accelerator="cpu", **quiet, **options)
    trainer.fit(Regression(), noise(64, 0), noise(64, 1))
    return trainer


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("val_mse", ("mse", "val")),
        ("Val/IoU", ("iou", "val")),
        ("training.f1_macro_epoch", ("f1_macro", "train")),
        ("val_loss/dataloader_idx_0", ("loss", "val")),
        ("g_loss", ("g_loss", "")),
        ("val", ("", "")),
    ],
)
def test_a_name_says_quantity_and_part(name: str, expected: tuple[str, str]) -> None:
    assert parted(name) == expected


def test_an_error_stands_for_the_loss_where_there_is_none() -> None:
    assert in_pairs({"val_mse": 2.0, "train_mse": 1.0}) == {
        "mse/val": 2.0,
        "mse/train": 1.0,
        "loss/train": 1.0,
        "loss/val": 2.0,
    }
    assert "loss/val" not in in_pairs({"loss/val": 3.0, "val_mse": 2.0})


UP = [0.2 + 0.06 * epoch + 0.01 * (epoch % 2) for epoch in range(10)]
TURNED = [*UP[:5], *reversed(UP[:5])]


@pytest.mark.parametrize(
    ("curves", "expected"),
    [
        ({"val_iou": TURNED, "train_iou": UP}, ["overfitting"]),
        ({"val/BinaryF1Score": TURNED, "train_loss": [1 - value for value in UP]}, ["overfitting"]),
        ({"val_perplexity": [9 - value for value in TURNED], "train_loss": [1 - u for u in UP]}, []),
        (
            {"val_perplexity": [2 - 2 * value for value in TURNED], "train_perplexity": UP[::-1]},
            ["overfitting"],
        ),
        ({"val_f1": [0.0] * 10, "train_f1": UP}, ["accuracy-constant"]),
        ({"val_auc": [0.5] * 3 + [math.nan] * 7}, ["non-finite-loss"]),
        ({"val_AUROC": [0.47, 0.52] * 5, "train_AUROC": UP}, ["labels-random"]),
        ({"val/c_index": [0.47, 0.52] * 5, "train/c_index": [0.48, 0.55] * 5}, []),
        ({"val_g_loss": TURNED, "val_d_loss": [1.4] * 10, "val_threshold": [0.5] * 10, "val_f1": UP}, []),
        ({"val_map": [0.3 - 0.1 * u + 0.1 * (e % 3) for e, u in enumerate(UP)], "train_loss": UP[::-1]}, []),
        ({"val_iou": [1.0] * 10, "val_bleu": TURNED[:5]}, []),
    ],
)
def test_a_metric_is_judged_by_its_name(curves: dict[str, list[float]], expected: list[str]) -> None:
    history = History()
    for epoch in range(1, 11):
        logged = {name: values[epoch - 1] for name, values in curves.items() if len(values) >= epoch}
        metrics = epoch_metrics(logged)
        history.add(9 * epoch, epoch, metrics | in_pairs(metrics))
    assert [finding.cause for finding in logged_metrics(Run(history))] == expected


@pytest.mark.parametrize(
    ("names", "ends", "expected"),
    [
        (("g_loss", "d_loss"), (9.0, 1e-3), ["vanishing-gradients"]),
        (("train/lossG", "train/lossD"), (3.0, 0.4), []),
        (("loss/generator", "loss/critic"), (9.0, -5.0), []),
        (("actor_loss", "critic_loss"), (9.0, 1e-3), []),
    ],
)
def test_a_discriminator_that_has_won_is_told_by_both_losses(
    names: tuple[str, str], ends: tuple[float, float], expected: list[str]
) -> None:
    history = History()
    for step in range(1, 13):
        share = min(1.0, step / 6)
        history.add(
            step, step / 6, {name: 0.7 + share * (end - 0.7) for name, end in zip(names, ends, strict=True)}
        )
    assert [finding.cause for finding in lost_game(Run(history))] == expected


def test_a_regression_that_learns_by_heart_is_called_overfitted(tmp_path: Path) -> None:
    trainer = fit(60, logger=CSVLogger(tmp_path))
    folder = Path(trainer.log_dir or "")
    history = History.read(folder / "history.jsonl")
    assert len(history.series("loss/train_step")) == 60 * 4
    assert len(history.series("mse/val")) == len(history.series("loss/val")) == 60
    alarms = [finding.cause for finding in read_findings(folder / "findings.json") if finding.alarming]
    assert alarms == ["overfitting"]


def test_what_was_not_looked_at_is_counted_and_named_in_the_files_of_a_root_that_was_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(logger=False, default_root_dir=tmp_path)
    entries = json.loads((tmp_path / "findings.json").read_text())
    [looks] = [entry for entry in entries if entry["cause"] == "looks"]
    assert 5 < looks["value"] < looks["threshold"]
    assert "validation at chance" in looks["message"]  # there are no class numbers
    said = capsys.readouterr().out
    missing = looks["threshold"] - looks["value"]
    assert f"nothing is wrong in {looks['value']:.0f} verdicts; {missing:.0f} could not be measured" in said
    assert "report.html" in said
    assert f"{looks['value']:.0f} verdicts were measured" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("place", ["memory://runs", "a file/runs"])
def test_where_nothing_can_be_written_the_training_goes_on_and_no_folder_is_made(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a file").touch()
    average = vitals.WeightAverage(start=0, monitor="val_loss")
    callbacks = [SanityChecks(["wiring"]), *vitals.diagnostics("none")[1:], average]
    trainer = fit(logger=False, default_root_dir=place, callbacks=callbacks)
    assert trainer.current_epoch == trainer.max_epochs
    assert [path.name for path in tmp_path.iterdir()] == ["a file"]
    assert "nothing was written" in capsys.readouterr().out


@pytest.mark.parametrize("options", [{"logger": False}, {"fast_dev_run": True}, {"fast_dev_run": 2}])
def test_without_a_logger_nothing_is_written_into_the_working_folder(
    options: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    fit(**options)
    assert list(tmp_path.iterdir()) == []
    assert "nothing was written" in capsys.readouterr().out
