"""What every logger is given, read back from where it lies."""

from __future__ import annotations

import csv
import json
import re
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from foreign import Foreign, NeverClears, convnet, fit, loader
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from monitoring import Events

from vitals.checks.sanity_checks import SanityChecks
from vitals.diagnosis.callback import Diagnosis
from vitals.errors import UserError
from vitals.findings import read_findings
from vitals.monitors.first_layer_filters import FirstLayerFilters
from vitals.monitors.histograms import Histograms
from vitals.monitors.learning_curves import LearningCurves
from vitals.writers.registry import writer_of
from vitals.writers.trackio import TrackioLogger
from vitals.writers.writer import Writer

Curve = list[tuple[float, float]]
"""Values over their own axis, epochs or optimizer steps."""


@dataclass
class Content:
    """What a logger holds."""

    curves: dict[str, Curve] = field(default_factory=dict)
    images: set[str] = field(default_factory=set)
    histograms: set[str] = field(default_factory=set)
    texts: dict[str, str] = field(default_factory=dict)
    tables: set[str] = field(default_factory=set)
    alerts: list[str] = field(default_factory=list)

    def add(self, tag: str, x: Any, value: Any) -> None:
        self.curves.setdefault(tag, []).append((float(x), float(value)))


def of_tensorboard(folder: Path, logger: Any) -> Content:
    logger.experiment.flush()
    events = Events(logger.log_dir)
    [*_, card] = events.read.Tensors("findings/text_summary")
    return Content(
        {tag: [(event.step, event.value) for event in events.read.Scalars(tag)] for tag in events.tags()},
        set(events.tags("images")),
        set(events.tags("histograms")),
        {"findings": card.tensor_proto.string_val[0].decode()},
    )


def of_csv(folder: Path, logger: Any) -> Content:
    content = Content()
    with open(logger.experiment.metrics_file_path) as file:
        for row in csv.DictReader(file):
            for tag, value in row.items():
                if value:
                    content.add(tag, row["epoch"] or row["step"], value)
    return content


def of_wandb(folder: Path, logger: Any) -> Content:
    import wandb

    pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    wandb.finish()
    content, axes = Content(), {}
    [file] = folder.glob("wandb/offline-run-*/run-*.wandb")
    while not (found := [pb.Record.FromString(data) for data in records(file)])[-1].HasField("exit"):
        time.sleep(0.1)  # its process still writes
    for record in found:
        if record.HasField("metric") and record.metric.step_metric:
            axes[record.metric.name] = record.metric.step_metric
        if record.HasField("alert"):
            content.alerts.append(record.alert.title)
        row: dict[str, Any] = {}
        for item in record.history.item:
            first, *rest = item.nested_key or [item.key]
            value = json.loads(item.value_json)
            row[first] = row.get(first, {}) | {rest[0]: value} if rest else value
        for tag, value in row.items():
            kind = value.get("_type") if isinstance(value, dict) else None
            if kind is None:
                content.add(tag, row.get(axes.get(tag, "trainer/global_step"), 0), value)
            elif kind == "html-file":
                content.texts[tag] = (file.parent / "files" / value["path"]).read_text()
            else:
                kinds = {"image-file": content.images, "histogram": content.histograms}
                kinds.get(kind, content.tables).add(tag)
    return content


def records(file: Path, block: int = 2**15) -> Iterator[bytes]:
    """The records of a `.wandb` file: LevelDB's log, whose parts have checksum, length and kind in front."""
    data, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if block - place % block < 7:
            place += block - place % block
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def of_trackio(folder: Path, logger: Any) -> Content:
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    trackio.finish()
    content = Content()
    for row in SQLiteStorage.get_logs("project", "run"):
        for tag, value in row.items():
            kind = value.get("_type") if isinstance(value, dict) else None
            if kind == "trackio.markdown":
                content.texts[tag] = value["_value"]
            elif kind is not None:
                kinds = {"trackio.image": content.images, "trackio.histogram": content.histograms}
                kinds.get(kind, content.tables).add(tag)
            elif tag != "timestamp":
                content.add(tag, row.get("epoch", row["step"]), value)
    content.alerts = [alert["title"] for alert in SQLiteStorage.get_alerts("project")]
    return content


def of_mlflow(folder: Path, logger: Any) -> Content:
    from mlflow.tracking import MlflowClient

    client, run = MlflowClient(f"sqlite:///{folder}/mlflow.db"), logger.run_id

    def files(path: str = "") -> Iterator[str]:
        for entry in client.list_artifacts(run, path):
            yield from files(entry.path) if entry.is_dir else [entry.path]

    artifacts, data = list(files()), client.get_run(run).data
    return Content(
        {tag: [(m.step, m.value) for m in client.get_metric_history(run, tag)] for tag in data.metrics},
        {re.split("[%+]step", name[7:])[0].replace("~", "/") for name in artifacts if name[:7] == "images/"},
        {name.split("/", 1)[1].rpartition("/")[0] for name in artifacts if name.startswith("histograms/")},
        {"findings": Path(client.download_artifacts(run, "findings.md", folder)).read_text()},
        {name.removesuffix(".json") for name in artifacts if name.startswith("checks/")},
        [tag.removeprefix("alert.") for tag in data.tags if tag.startswith("alert.")],
    )


MADE = {
    "tensorboard": (lambda folder: TensorBoardLogger(folder), of_tensorboard),
    "csv": (lambda folder: CSVLogger(folder), of_csv),
    "wandb": (lambda folder: WandbLogger(save_dir=folder, offline=True), of_wandb),
    "trackio": (lambda folder: TrackioLogger("project", "run", auto_log_cpu=False), of_trackio),
    "mlflow": (
        lambda folder: MLFlowLogger(
            "name", tracking_uri=f"sqlite:///{folder}/mlflow.db", artifact_location=f"{folder}/files"
        ),
        of_mlflow,
    ),
}


@pytest.fixture(scope="module", params=MADE)
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, ...]]:
    """A sick training of two epochs with the logger: its name, what it holds, its folder."""
    if request.param not in ("tensorboard", "csv"):
        pytest.importorskip(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        make, read = MADE[request.param]
        if request.param == "trackio":
            import trackio.sqlite_storage

            for module in (trackio.utils, trackio.sqlite_storage):  # they look for TRACKIO_DIR on import
                patch.setattr(module, "TRACKIO_DIR", folder)
        callbacks = [
            SanityChecks(["layer_variance", "loss_at_chance"], on_fail="warn"),
            LearningCurves(2, None, subset_samples=32, table=False),
            Histograms(8, None, samples=16),
            FirstLayerFilters(8, None),
            Diagnosis(probe=False, report=False),
        ]
        logger = make(folder)
        # The rate is far too high, and every layer with a ReLU dies, or on an older torch the loss leaps.
        fit(NeverClears(convnet(), 1.0), folder, *callbacks, train=loader(), logger=logger, max_epochs=2)
        yield request.param, read(folder, logger), folder, logger


def test_every_value_arrives_over_its_own_axis(written: tuple[Any, ...]) -> None:
    _, content, *_ = written
    assert [x for x, _ in content.curves["accuracy/train_eval"]] == [1, 2]
    assert [x for x, _ in content.curves["lr/0"]] == [2, 4, 6, 8, 10, 12, 14, 16] or "epoch" in content.curves
    assert len(content.curves["lr/0"]) == 8
    assert [x for x, _ in content.curves["filters/dead"]] == [0, 1, 8, 16]
    assert len(content.curves["checks/loss_at_chance"]) == 1


def test_pictures_histograms_and_findings_arrive_wherever_they_can(written: tuple[Any, ...]) -> None:
    name, content, *_ = written
    if name == "csv":
        assert (content.images, content.histograms, content.texts) == (set(), set(), {})
        return
    assert {"checks/inputs", "checks/layer_variance", "filters/net.0"} <= content.images
    assert {"activations/net.0", "weights/net.5.bias"} <= content.histograms
    assert "**fail**" in content.texts["findings"]
    assert content.tables == (set() if name == "tensorboard" else {"checks/verdicts"})


def test_each_fault_is_one_alert_not_one_an_epoch(written: tuple[Any, ...]) -> None:
    name, content, folder, logger = written
    own = name in ("tensorboard", "csv")
    store = Path(folder if own else logger.save_dir or folder)
    where = Path(logger.log_dir) if own else store / str(logger.name) / str(logger.version)
    faults = {f.cause for f in read_findings(where / "findings.json") if f.level == "fail"}
    assert faults
    if name not in ("tensorboard", "csv"):
        assert sorted(content.alerts) == sorted(faults)


def test_it_says_how_to_see_it(written: tuple[Any, ...]) -> None:
    name, _, _, logger = written
    said = writer_of(logger).where()
    assert {"csv": "metrics.csv"}.get(name, name) in said
    assert (name == "tensorboard") == ("tensorboard" in said)


class Own(Logger):
    """Somebody's own logger, which keeps what it is given."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    name = version = "own"

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        self.kept.append((dict(metrics), step))

    def log_hyperparams(self, *arguments: Any, **options: Any) -> None:
        pass


class Derived(Own):
    pass


class OwnWriter(Writer):
    def text(self, tag: str, markdown: str, step: int) -> None:
        self.logger.kept.append((tag, markdown))


def test_an_unknown_logger_gets_numbers_and_a_registered_one_more(tmp_path: Path) -> None:
    writer_of.register(Derived, OwnWriter)
    plain, registered = Own(), Derived()
    fit(
        Foreign(convnet(), 0.01),
        tmp_path,
        LearningCurves(4, None, subset_samples=0, table=False),
        Diagnosis(probe=False, report=False),
        logger=[plain, registered],
    )
    own = [(metrics, step) for metrics, step in plain.kept if "lr/0" in metrics]
    assert [step for _, step in own] == [4, 8]
    assert [entry for entry in registered.kept if entry[0] == "findings"]
    assert not [entry for entry in plain.kept if entry[0] == "findings"]


class Strict(Own):
    """Takes its own names alone, and has a server that is out of reach."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.kept.append((metrics, step))
        if any("/" in name for name in metrics):
            raise ValueError("no such column")


class Unreachable(Writer):
    def text(self, tag: str, markdown: str, step: int) -> None:
        raise ConnectionError("the server is out of reach")


def test_a_logger_that_refuses_is_asked_once_and_nothing_ends_by_it(tmp_path: Path) -> None:
    writer_of.register(Strict, Unreachable)
    strict, diagnosis = Strict(), Diagnosis(probe=False, report=False)
    curves = LearningCurves(1, None, subset_samples=0, table=False)
    fit(Foreign(convnet(), 0.01), tmp_path, curves, diagnosis, logger=[strict])
    assert sum("lr/0" in metrics for metrics, _ in strict.kept) == 1
    assert len(diagnosis.recorder.history.series("lr/0")) == 8
    said = [finding.message for finding in diagnosis.findings if finding.where == "Strict"]
    assert len(said) == 1
    assert said[0] == "Strict is given no more scalars, as it failed (ValueError: no such column)."


def test_trackio_that_is_missing_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitals.writers.trackio.find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs the package trackio: pip install trackio"):
        TrackioLogger()
