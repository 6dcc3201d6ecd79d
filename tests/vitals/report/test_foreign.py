"""`scripts/report.py` on what another program recorded: the same page, and no more than the curves allow."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from omegaconf import OmegaConf
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.event_file_writer import EventFileWriter
from tensorboard.util import tensor_util
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.tensorboard import SummaryWriter

from vitals.errors import UserError
from vitals.report.record import RunRecord
from vitals.runs.report import record, report

EPOCHS = np.arange(20)
FALLING = 0.1 + 2.2 * np.exp(-EPOCHS / 4)


def noise(size: int = 20, scale: float = 0.01, seed: int = 0) -> np.ndarray[Any, Any]:
    return scale * np.random.default_rng(seed).standard_normal(size)


def write_csv(path: Path, separator: str = ",", encoding: str = "utf-8", **columns: Any) -> Path:
    rows = [separator.join(columns)]
    rows += [separator.join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    path.write_text("\n".join(rows) + "\n", encoding=encoding)
    return path


def alarms(run: RunRecord) -> list[str]:
    return [finding.cause for finding in run.findings if finding.alarming]


def made(path: Path, **options: Any) -> Path:
    return report(OmegaConf.create({"run": str(path), "runs": None, "out": None, **options}))


HEALTHY = {
    "epoch": EPOCHS,
    "loss": FALLING + noise(),
    "accuracy": 1 - FALLING / 2.4,
    "val_loss": FALLING + 0.05 + noise(seed=1),
    "val_accuracy": 0.95 - FALLING / 2.5,
}


class Classifier(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.save_hyperparameters({"lr": 0.1, "num_classes": 2})
        self.net = torch.nn.Linear(4, 2)

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        logits = self.net(batch[0])
        self.log("val_loss", torch.nn.functional.cross_entropy(logits, batch[1]))
        self.log("val_acc", (logits.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5)


@pytest.fixture(scope="module")
def lightning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tensorboard` and `csv`: what Lightning's loggers leave of a run of 8 epochs of 10 steps."""
    folder = tmp_path_factory.mktemp("lightning")
    torch.manual_seed(0)
    inputs = torch.randn(160, 4)
    loader = DataLoader(TensorDataset(inputs, (inputs[:, 0] > 0).long()), 16)
    loggers = [TensorBoardLogger(folder, "tensorboard"), CSVLogger(folder, "csv")]
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    callbacks = [L.pytorch.callbacks.LearningRateMonitor("step")]
    trainer = L.Trainer(
        max_epochs=8, accelerator="cpu", logger=loggers, log_every_n_steps=2, callbacks=callbacks, **quiet
    )
    trainer.fit(Classifier(), loader, loader)
    return folder


@pytest.mark.parametrize("kind", ["tensorboard", "csv", "csv/version_0/metrics.csv"])
def test_lightnings_loggers_give_the_curves_the_page_and_no_alarm(
    kind: str, lightning: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(lightning, tmp_path / "logs"))
    before = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}
    run = record(str(copy / kind), "run")
    assert alarms(run) == []
    for tag, count in {"loss/train": 8, "loss/train_step": 40, "loss/val": 8, "accuracy/val": 8}.items():
        assert len(run.curve(tag)) == count
        assert run.curve(tag).epochs[-1] == pytest.approx(8, abs=0.11)
    assert run.curve("loss/val").epochs.tolist() == pytest.approx(range(1, 9))
    assert run.curve("lr/0").last == 0.5
    assert run.config["num_classes"] == 2
    page = made(copy / kind)
    text = page.read_text()
    assert text.count("<svg") >= 3
    assert text.count("so not judged") == 1
    said = capsys.readouterr().out
    assert "the curves show no fault" in said
    assert "activations" in said
    assert "nothing is wrong" not in said
    assert {file: file.read_bytes() for file in before} == before


def events(folder: Path, **curves: Any) -> Path:
    with SummaryWriter(str(folder)) as writer:
        for name, values in curves.items():
            for step, value in enumerate(values):
                writer.add_scalar(name.replace("__", "/"), value, step)
    return folder


def test_several_files_of_a_resumed_run_are_one_and_the_later_holds(tmp_path: Path) -> None:
    for start, offset in ((0, 0.0), (12, 5.0)):
        with SummaryWriter(str(tmp_path)) as writer:
            for epoch in range(start, start + 16):
                writer.add_scalar("Loss/train", 3 + offset - epoch / 10, epoch, walltime=1e9 + start + epoch)
                writer.add_scalar("Loss/val", 3 - epoch / 10, epoch, walltime=1e9 + start + epoch)
        time.sleep(1.1)  # the name of a file has its second
    curve = record(str(tmp_path), "run").curve("loss/train")
    assert curve.epochs.tolist() == list(range(1, 29))
    assert curve.values[11] == pytest.approx(1.9)
    assert curve.values[12] == pytest.approx(6.8)


def test_a_file_cut_off_by_a_kill_is_read_as_far_as_it_is_whole(tmp_path: Path) -> None:
    events(tmp_path, loss__train=FALLING, loss__val=FALLING)
    (file,) = tmp_path.glob("events*")
    file.write_bytes(file.read_bytes()[:-30])
    assert 18 <= len(record(str(tmp_path), "run").curve("loss/val")) <= 19
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(bytes(content))
    assert 5 <= len(record(str(tmp_path), "run").curve("loss/train")) <= 20


def test_tensors_in_folders_of_train_and_validation_as_keras_writes_them(tmp_path: Path) -> None:
    for part, shift in (("train", 0.0), ("validation", 0.05)):
        writer = EventFileWriter(str(tmp_path / "logs" / part))
        for epoch, loss in enumerate(FALLING):
            metadata = summary_pb2.SummaryMetadata(
                plugin_data={"plugin_name": "scalars"}, data_class=summary_pb2.DATA_CLASS_SCALAR
            )
            tensor = tensor_util.make_tensor_proto(np.float32(loss + shift))
            value = summary_pb2.Summary.Value(tag="epoch_loss", tensor=tensor, metadata=metadata)
            summary = summary_pb2.Summary(value=[value])
            writer.add_event(event_pb2.Event(wall_time=1e9 + epoch, step=epoch, summary=summary))
        writer.close()
    run = record(str(tmp_path / "logs"), "run")
    assert run.curve("loss/train").values == pytest.approx(FALLING, rel=1e-5)
    assert run.curve("loss/val").last == pytest.approx(FALLING[-1] + 0.05, rel=1e-4)
    assert run.curve("loss/val").epochs[-1] == 20
    assert alarms(run) == []


def test_losses_over_steps_and_over_epochs_meet_on_one_axis(tmp_path: Path) -> None:
    with SummaryWriter(str(tmp_path)) as writer:
        for step in range(200):
            writer.add_scalar("train/loss", 2 - step / 200, step, walltime=1e9 + step)
            if step % 20 == 19:
                writer.add_scalar("val/loss", 2.1 - step / 200, step // 20, walltime=1e9 + step + 0.5)
        writer.add_hparams({"lr": 0.1}, {"hparam/loss": 1.0})
    run = record(str(tmp_path), "run")
    assert len(run.curve("loss/train_step")) == 200
    assert run.curve("loss/train_step").epochs[-1] == pytest.approx(10, abs=0.1)
    assert run.curve("loss/val").epochs.tolist() == list(range(1, 11))
    assert run.curve("loss/val").steps[-1] == 199


@pytest.mark.parametrize("name", ["training.log", "log.csv", "anything.csv"])
def test_a_plain_csv_is_read_whatever_it_is_called(name: str, tmp_path: Path) -> None:
    write_csv(tmp_path / name, **HEALTHY)
    for path in (tmp_path, tmp_path / name):
        run = record(str(path), "run")
        assert alarms(run) == []
        assert run.curve("accuracy/train").values == pytest.approx(HEALTHY["accuracy"])
        assert run.curve("loss/val").epochs.tolist() == list(range(1, 21))


def test_separators_marks_commas_percent_and_headers_with_spaces(tmp_path: Path) -> None:
    decimal = {name: [str(value).replace(".", ",") for value in values] for name, values in HEALTHY.items()}
    write_csv(tmp_path / "a.csv", ";", "utf-8-sig", **decimal)
    percent = HEALTHY | {"val_accuracy": 100 * HEALTHY["val_accuracy"]}
    write_csv(tmp_path / "b.csv", "\t", "utf-16", **percent)
    (tmp_path / "c.csv").write_text(
        "  epoch,  train/loss, metrics/accuracy_top1,  val/loss,   lr/pg0\n"
        + "".join(f"  {e + 1},  {FALLING[e]}, {0.9 - FALLING[e] / 3}, {FALLING[e]}, 0.01\n" for e in EPOCHS)
    )
    for name in "ab":
        run = record(str(tmp_path / f"{name}.csv"), "run")
        assert run.curve("accuracy/val").values == pytest.approx(HEALTHY["val_accuracy"])
        assert run.curve("loss/train").values == pytest.approx(HEALTHY["loss"])
    run = record(str(tmp_path / "c.csv"), "run")
    assert (run.curve("loss/val").epochs[-1], run.curve("lr/0").last) == (20, 0.01)
    assert alarms(run) == []


def turned(lowest: int) -> np.ndarray[Any, Any]:
    return np.where(lowest >= EPOCHS, FALLING, FALLING[lowest] + 0.1 * (EPOCHS - lowest))


SICK: dict[str, tuple[dict[str, Any], str, str]] = {
    "nan": ({"loss": np.where(EPOCHS < 7, FALLING, np.nan)}, "non-finite-loss", "epoch 8"),
    "diverges": ({"loss": 2.3 * 1.3**EPOCHS}, "learning-rate-too-high", "rose from 2.3"),
    "comes back up": ({"loss": turned(8) + noise()}, "learning-rate-too-high", "rose again"),
    "never falls": ({"loss": 2.303 + noise(scale=0.002)}, "loss-does-not-fall", "nothing was learned"),
    "overfits": ({"loss": FALLING, "val_loss": turned(6) + noise(scale=0.02)}, "overfitting", "rose from"),
    "by heart": ({"acc": 1 - FALLING / 3, "val_acc": 0.5 - FALLING / 6}, "overfitting", "96%"),
    "one class": ({"loss": FALLING, "val_acc": EPOCHS * 0 + 0.1}, "accuracy-constant", "10.00%"),
    "no rate": ({"loss": FALLING, "lr": EPOCHS * 0.0}, "learning-rate-too-low", "is 0"),
    "rate gone": ({"loss": FALLING, "lr": 0.1 * 0.1**EPOCHS}, "learning-rate-too-low", "thousandth"),
    "rate jumps": (
        {"loss": np.where(EPOCHS < 10, FALLING, 1.9), "lr": np.where(EPOCHS < 10, 0.01, 0.5)},
        "learning-rate-too-high",
        "from 0.01 to 0.5",
    ),
}


@pytest.mark.parametrize("name", SICK)
def test_what_curves_alone_can_say_is_said(name: str, tmp_path: Path) -> None:
    columns, cause, words = SICK[name]
    run = record(str(write_csv(tmp_path / "log.csv", epoch=EPOCHS, **columns)), "run")
    assert alarms(run)[:1] == [cause]
    assert words in next(finding.message for finding in run.findings if finding.cause == cause)


WELL: dict[str, dict[str, Any]] = {
    "converged": {"loss": 0.05 + noise(scale=0.01), "val_loss": 0.2 + noise(seed=1)},
    "noisy validation": {"loss": FALLING, "val_loss": FALLING + 0.3 + np.abs(noise(scale=0.1))},
    "a gap of a hundred classes": {"acc": 1 - FALLING / 3, "val_acc": 0.75 - FALLING / 4},
    "likelihood": {"loss": 1 - 4 * (1 - FALLING), "val_loss": 1.1 - 4 * (1 - FALLING)},
    "warm restarts": {
        "loss": FALLING[EPOCHS % 10] / (1 + EPOCHS // 10),
        "lr": 0.1 * (1 + np.cos(np.pi * (EPOCHS % 10) / 10)),
    },
    "one cycle": {"loss": FALLING + noise(), "lr": np.interp(EPOCHS, [0, 6, 19], [0.004, 0.1, 4e-7])},
    "steps down": {"loss": FALLING + noise(), "lr": 0.1 * 0.1 ** (EPOCHS // 7)},
    "slow but sure": {"loss": 2.3 - 0.01 * EPOCHS, "val_acc": 0.1 + 0.01 * EPOCHS},
}


@pytest.mark.parametrize("name", WELL)
def test_a_healthy_curve_gets_no_alarm(name: str, tmp_path: Path) -> None:
    run = record(str(write_csv(tmp_path / "log.csv", epoch=EPOCHS, **WELL[name])), "run")
    assert alarms(run) == []


def test_empty_cells_written_as_nan_are_no_fault(tmp_path: Path) -> None:
    rows = ["step,epoch,train_loss,val_loss"]
    for step in range(100):
        rows.append(f"{step},{step // 10},{2 - step / 100},nan")
        rows += [f"{step},{step // 10},nan,{2.1 - step / 100}"] if step % 10 == 9 else []
    (tmp_path / "metrics.csv").write_text("\n".join(rows))
    run = record(str(tmp_path), "run")
    assert alarms(run) == []
    assert (len(run.curve("loss/train_step")), len(run.curve("loss/val"))) == (100, 10)


def test_nothing_of_theirs_is_replaced_and_out_names_another_place(tmp_path: Path) -> None:
    write_csv(tmp_path / "log.csv", **HEALTHY)
    (tmp_path / "report.html").write_text("<p>theirs</p>")
    page = made(tmp_path)
    assert page == tmp_path / "vitals_report.html"
    assert made(tmp_path) == page  # ours is
    assert (tmp_path / "report.html").read_text() == "<p>theirs</p>"
    assert made(tmp_path / "log.csv") == tmp_path / "log_report.html"
    assert made(tmp_path, out=str(tmp_path / "x.html")) == tmp_path / "x.html"
    with pytest.raises(UserError, match="out=<page>"):
        made(tmp_path, out=str(tmp_path / "nowhere" / "x.html"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("metrics.csv", "", "is empty"),
        ("metrics.csv", "epoch,loss\n", "no whole row"),
        ("metrics.csv", "1,2.3\n2,2.2\n", "names no columns"),
        ("metrics.csv", "name,age\nx,3\n", "by its names"),
        ("events.out.tfevents.1.x", "", "it is empty"),
        ("events.out.tfevents.1.x", "no event file", "it is empty"),
        ("note.txt", "hello", "is not the folder of a run"),
    ],
)
def test_what_holds_no_curve_gets_one_sentence(name: str, content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as error:
        made(tmp_path)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.html"))


def test_of_several_runs_one_is_to_be_named(tmp_path: Path) -> None:
    for name in ("version_0", "version_1"):
        events(tmp_path / name, train_loss=FALLING)
    with pytest.raises(UserError, match="holds 2 runs: name one of them"):
        made(tmp_path)


def test_two_records_are_put_side_by_side(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        write_csv(tmp_path / name / "metrics.csv", **HEALTHY)
    page = report(OmegaConf.create({"run": None, "runs": [str(tmp_path / n) for n in "ab"], "out": None}))
    assert page == tmp_path / "a" / "comparison_with_b.html"
    assert "last validation loss" in page.read_text()
