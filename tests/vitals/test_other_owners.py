"""Projects of other kinds than image classification, as their owners write them: texts whose batches are
padded, data without labels, modules with names and optimizers of their own, and none that validates."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from blobs import WORDS
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from project.build import build, prepare
from project.schema import Experiment
from vitals.checks.sanity_checks import SanityChecks
from vitals.ensembles.members import Member
from vitals.ensembles.run import predict
from vitals.errors import UserError
from vitals.metric import Metric
from vitals.monitors.learning_curves import LearningCurves
from vitals.probes.loaders import successive_batches
from vitals.report.predictions import FILE, Predictions
from vitals.runs import terminal
from vitals.runs.callbacks.checkpoints import Checkpoints
from vitals.runs.callbacks.prediction_writer import PredictionWriter
from vitals.runs.callbacks.signals import StopAtSignal
from vitals.runs.config.validation import check_run
from vitals.runs.evaluate import require_split
from vitals.runs.run_folder import RunFolder

QUIET: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
QUIET |= {"enable_model_summary": False}


class Words(L.LightningModule):
    """A classifier of bags of words, given as dicts."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.EmbeddingBag(50, 16), nn.ReLU(), nn.Linear(16, 3))

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        return F.cross_entropy(self.network(batch["tokens"]), batch["labels"])

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        self.log("val/loss", self.training_step(batch, index))

    def test_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        return self.network(batch["tokens"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-3)


def sentences(seed: int) -> DataLoader:
    """Each batch is padded to its longest sentence, with the token 0."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 30, (96,), generator=random).tolist()
    words = [torch.randint(1, 50, (length,), generator=random) for length in lengths]

    def together(items: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
        tokens, labels = zip(*items, strict=True)
        padded = nn.utils.rnn.pad_sequence(list(tokens), batch_first=True)
        lengths = (padded > 0).sum(1)
        return {"tokens": padded, "lengths": lengths, "labels": torch.tensor(labels)}

    items: Any = [(each, int(each[0]) % 3) for each in words]
    return DataLoader(items, 16, shuffle=seed == 0, collate_fn=together)


def test_validation_batches_that_are_padded_to_different_lengths_are_looked_at(tmp_path: Path) -> None:
    checks = SanityChecks(checks=["wiring", "validation_mode"], on_fail="warn")
    flags = {"max_epochs": 1, "limit_train_batches": 1, "enable_checkpointing": False}
    trainer = L.Trainer(callbacks=checks, default_root_dir=tmp_path, **flags, **QUIET)
    trainer.fit(Words(), sentences(0), sentences(1))
    seen = {(finding.check, finding.cause) for finding in checks.findings}
    assert seen == {("wiring", "wiring-correct"), ("validation_mode", "wiring-correct")}


class Means(nn.Module):
    """Takes tokens and how many there are of them in each sentence."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 16, padding_idx=0), nn.Linear(16, 3)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        return self.head(self.embedding(tokens).sum(1) / lengths[:, None])


class TwoInputs(Words):
    def __init__(self) -> None:
        super().__init__()
        self.network = Means()  # type: ignore[assignment]

    def training_step(self, batch: dict[str, Tensor], index: int) -> Tensor:
        return F.cross_entropy(self.network(batch["tokens"], batch["lengths"]), batch["labels"])


def test_samples_of_a_network_of_tokens_and_lengths_are_looked_at_in_every_length(tmp_path: Path) -> None:
    curves = LearningCurves(subset_samples=32, subsets_per_run=2)
    flags = {"max_epochs": 2, "enable_checkpointing": False, "callbacks": curves}
    L.Trainer(default_root_dir=tmp_path, **flags, **QUIET).fit(TwoInputs(), sentences(0), sentences(1))
    with (tmp_path / "metrics.csv").open(newline="") as file:
        assert [bool(row["accuracy/train_eval"]) for row in csv.DictReader(file)] == [True, True]


@pytest.mark.parametrize("data", [torch.arange(12.0).view(6, 2), np.arange(12.0).reshape(6, 2)])
def test_a_table_of_numbers_is_a_data_set_and_no_stream(data: Any) -> None:
    assert torch.equal(next(successive_batches(DataLoader(data, 2))), torch.arange(4.0).view(2, 2))


def keeps(module: L.LightningModule, data: L.LightningDataModule, folder: Path) -> bool:
    """Whether predictions are kept of a test."""
    trainer = L.Trainer(callbacks=[PredictionWriter()], default_root_dir=folder, **QUIET)
    trainer.test(module, datamodule=data, verbose=False)
    return (folder / FILE).exists()


class Rows(L.LightningModule):
    def __init__(self, outputs: int = 3) -> None:
        super().__init__()
        self.network = nn.Linear(4, outputs)

    def test_step(self, batch: list[Tensor], index: int) -> Tensor:
        return self.network(batch[0])


class Tables(L.LightningDataModule):
    def __init__(self, targets: Tensor, **facts: Any) -> None:
        super().__init__()
        self.test = TensorDataset(torch.zeros(len(targets), 4), targets)
        vars(self).update(facts)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(self.test, 4)


NUMBERS = torch.tensor([0, 1, 2, 0, 1, 2])


def test_predictions_are_kept_of_any_classifier_and_of_nothing_else(tmp_path: Path) -> None:
    data = Tables(NUMBERS)
    assert not keeps(Rows(), data, tmp_path)  # nobody knows the classes
    assert not keeps(Rows(1), Tables(torch.rand(6, 1)), tmp_path)  # a regression
    assert not keeps(Rows(2), Tables(NUMBERS, classes=["a", "b"]), tmp_path)  # 2 is no place in them
    texts = Tables(NUMBERS)
    texts.test_dataloader = lambda: sentences(0)  # type: ignore[method-assign]
    assert not keeps(Words(), texts, tmp_path)
    assert keeps(Rows(), Tables(NUMBERS, classes=["a", "b", "c"]), tmp_path)
    kept = Predictions.load(tmp_path / FILE)
    assert (kept.classes, kept.labels.tolist(), len(kept.worst)) == (["a", "b", "c"], NUMBERS.tolist(), 0)


def test_an_ensemble_of_no_classifiers_is_refused_with_what_it_needs() -> None:
    texts = SimpleNamespace(test_dataloader=lambda: sentences(0))
    with pytest.raises(UserError, match=r"of batches \(inputs, class numbers\), and those of Simple"):
        next(Member(Path(), nn.Linear(4, 3), texts).batches("test"))
    one = Member(Path(), nn.Linear(4, 1), Tables(NUMBERS))
    with pytest.raises(UserError, match="and Linear gives no logits, N×classes, but for each sample 1"):
        predict(one, "test", torch.device("cpu"))


def test_what_a_module_calls_accuracy_judges_it_under_that_name(tmp_path: Path) -> None:
    """`metrics.csv` has `val_acc` as `accuracy/val`."""
    (tmp_path / "metrics.csv").write_text(
        "epoch,accuracy/val,loss/val,loss/val_eval\n1,0.5,2,2\n2,0.7,3,3\n3,0.6,1,1\n"
    )
    metric = Metric("val_acc", "max", "val_loss")
    folder = RunFolder(tmp_path)
    assert folder.score(metric, "best") == (0.7, 2)
    figures = terminal.final_metrics(folder, metric, {})
    assert figures == {
        "best/epoch": 2,
        "best/val_acc": 0.7,
        "best/val_loss": 3,
        "last/epoch": 3,
        "last/val_acc": 0.6,
        "last/val_loss": 1,
    }


def test_a_run_that_validates_nothing_ends_with_what_it_logged(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,loss/d,loss/g\n1,10,1.5,0.5\n2,20,1.4,0.6\n")
    folder, metric = RunFolder(tmp_path), Metric("loss/g", "min")
    figures = terminal.final_metrics(folder, metric, {})
    assert figures["best/loss_g"] == 0.5
    assert figures["last/loss_d"] == 1.4
    terminal.print_results(folder, metric, figures)
    said = capsys.readouterr().out
    assert re.search(r"last +│ training", said)
    assert "evaluate:" not in said  # on what?


@pytest.mark.parametrize(("name", "file"), [("loss/g", "loss_g0.5000"), ("val/f1", "f1_0.5000")])
def test_the_best_checkpoint_has_a_name_whatever_the_metric_is_called(
    name: str, file: str, tmp_path: Path
) -> None:
    class Logs(Rows):
        def training_step(self, batch: list[Tensor], index: int) -> Tensor:
            self.log(name, 0.5, on_step=False, on_epoch=True)
            return self.network(batch[0]).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    saves = Checkpoints(monitor=name, mode="min")
    trainer = L.Trainer(max_epochs=1, callbacks=[saves], default_root_dir=tmp_path, **QUIET)
    trainer.fit(Logs(), Tables(NUMBERS).test_dataloader())
    assert [path.name for path in tmp_path.rglob("best_*")] == [f"best_epoch001_{file}.ckpt"]


def test_there_is_nothing_to_evaluate_where_a_module_has_no_step_for_it() -> None:
    with pytest.raises(UserError, match="split=val, as Rows has no validation_step: take split=test"):
        require_split(Rows(), Tables(NUMBERS), "val")
    require_split(Rows(), Tables(NUMBERS), "test")


def test_data_that_fail_as_they_are_set_up_fail_by_their_own_error(tmp_path: Path) -> None:
    class Gone(Tables):
        def setup(self, stage: str) -> None:
            raise FileNotFoundError("no table here")

    trainer = L.Trainer(callbacks=[StopAtSignal()], default_root_dir=tmp_path, **QUIET)
    with pytest.raises(FileNotFoundError, match="no table here"):
        trainer.test(Rows(), datamodule=Gone(NUMBERS))


class Own(L.LightningModule):
    """Makes network and optimizer itself."""

    def __init__(self, hidden: int, lr: float = 0.1) -> None:
        super().__init__()
        self.net, self.lr = nn.Linear(4, hidden), lr


class Asks(L.LightningModule):
    def __init__(self, network: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.network, self.num_classes = network, num_classes


class Bag(nn.Module):
    def __init__(self, num_classes: int, image_size: int = 0) -> None:
        super().__init__()
        self.head = nn.Linear(4, num_classes)


NAME = __name__


def test_a_module_that_makes_its_own_parts_needs_no_groups_for_them(compose: Any, capsys: Any) -> None:
    groups = ["network", "optimizer", "schedule", "momentum_schedule"]
    config = compose(*WORDS)
    config.module = {"_target_": f"{NAME}.Own", "hidden": 3}
    terminal.print_start(config, *build(config), RunFolder(Path()))
    assert "Own asks for no network and no optimizer and no schedule: what is" in capsys.readouterr().out
    OmegaConf.set_struct(config, False)
    for group in groups:
        del config[group]
    check_run(Experiment, config)
    prepare(config)
    assert build(config)[0].net.out_features == 3
    config.module = {"_target_": f"{NAME}.Asks"}
    with pytest.raises(UserError, match="Asks asks for network, and no such group is chosen: add"):
        prepare(config)


def test_what_a_constructor_needs_and_nobody_gives_is_asked_for_before_anything_is_written(
    compose: Any,
) -> None:
    config = compose(*WORDS)
    config.module = {"_target_": f"{NAME}.Own"}
    with pytest.raises(UserError, match=r"module: .*\.Own needs hidden, which has no value: set module\.hid"):
        prepare(config)


def test_data_say_what_the_network_asks_of_them_and_no_more(compose: Any) -> None:
    config: DictConfig = compose(*WORDS)
    config.data = {"_target_": f"{NAME}.Labelled"}
    config.module = {"_target_": f"{NAME}.Asks"}
    config.network = {"_target_": f"{NAME}.Bag"}
    with pytest.raises(UserError, match=r"network asks for what Labelled does not say: let it have image_sh"):
        build(config)
    config.network = {"_target_": f"{NAME}.Bag", "image_size": 1}
    module, _ = build(config)
    assert module.network.head.out_features == module.num_classes == 3
    config.data = {"_target_": "lightning.LightningDataModule"}
    with pytest.raises(UserError, match="does not say: let it have classes, a list of names"):
        build(config)


class Labelled(L.LightningDataModule):
    """Knows classes, and of images nothing."""

    classes = ("bad", "middling", "good")


class LogsLater(Words):
    def on_validation_epoch_end(self) -> None:
        self.log("val/f1", 0.5)


class CallbackLogs(L.Callback):
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        pl_module.log("val/f1", 0.5)


@pytest.mark.parametrize(
    ("kind", "name", "further", "said"),
    [
        (Words, "val/los", [], "warning: metric.name=val/los was not logged .* did you mean val/loss?"),
        (Words, "val/loss", [], ""),
        (LogsLater, "val/f1", [], ""),
        (Words, "val/f1", [CallbackLogs()], ""),
    ],
)
def test_a_metric_that_no_step_logs_is_told_before_the_first_step(
    kind: type[Words], name: str, further: list[L.Callback], said: str, tmp_path: Path, capsys: Any
) -> None:
    heard: list[str] = []

    class Heard(L.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            heard.append(capsys.readouterr().out)

    callbacks = [*further, Heard(), SanityChecks(checks=["wiring"], on_fail="warn"), Checkpoints(name)]
    flags = {"max_epochs": 1, "limit_train_batches": 1, "callbacks": callbacks}
    L.Trainer(default_root_dir=tmp_path, **flags, **QUIET).fit(kind(), sentences(0), sentences(1))
    assert re.search(said, heard[0])
    assert "warning" in heard[0] or not said
    assert "warning" not in capsys.readouterr().out + (heard[0] if not said else "")
