"""The road of a run, walked in this process on a few of the digits."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from project import build as project
from project.module import ImageClassifier
from project.train import train
from vitals.ensembles.run import ensemble
from vitals.errors import Diverged, UserError
from vitals.findings import read_findings
from vitals.runs.evaluate import evaluate
from vitals.runs.run import prepare, run
from vitals.runs.run_folder import RunFolder
from vitals.writers.groups import CATEGORIES

CONFIGS = Path(__file__).parents[2] / "configs"
TINY = ["data=digits", "data.limit=100", "data.batch_size=32", "network.widths=[4,4]", "~callbacks.progress"]
TINY += ["checks=none", "diagnosis.report=false"]  # a page takes as long as the run
OPTIMIZERS = sorted(file.stem for file in (CONFIGS / "optimizer").glob("*.yaml"))
SCHEDULES = sorted(file.stem for file in (CONFIGS / "schedule").glob("*.yaml"))


def config(*words: str) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", [*TINY, "seed=0", "trainer.max_epochs=2", *words])


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        tag: sorted((event.step, event.value) for event in events.Scalars(tag))
        for tag in events.Tags()["scalars"]
    }


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The scalars without the final figures, which the first part of an interrupted run has of its own, and
    without speed and memory, which no two runs have alike."""
    found = scalars(folder)
    return {tag: found[tag] for tag in found if tag == "run/epoch" or not tag.startswith("run/")}


def measured(folder: Path) -> list[Any]:
    """The lines of the history, without speed and memory."""
    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    for line in lines:
        for tag in ("images_per_second", "memory_gib"):
            line["values"].pop(tag, None)
    return lines


def checkpoint(folder: Path, name: str = "last.ckpt") -> dict[str, Any]:
    content: dict[str, Any] = torch.load(folder / "checkpoints" / name, weights_only=True)
    return content


def resumed(folder: Path, *words: str) -> None:
    """Continue the run in `folder`, as `resume=<folder>` does."""
    settings = RunFolder(folder).read_config()
    settings.resume = str(folder)
    OmegaConf.update(settings, "trainer.max_epochs", 4)
    settings = OmegaConf.merge(settings, OmegaConf.from_dotlist(list(words)))
    prepare(settings, project)
    run(settings, RunFolder(folder), train)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A finished run of two epochs and its final metrics."""
    folder = tmp_path_factory.mktemp("run")
    return folder, run(
        config("trainer.log_every_n_steps=1", "diagnosis.report=true"), RunFolder(folder), train
    )


def assert_same(one: Any, other: Any) -> None:
    """The same to the bit, whatever the nesting."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for mine, theirs in zip(one, other, strict=True):
            assert_same(mine, theirs)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


END_OF_PART = (2, 4, 6)
"""Optimizer steps in two epochs: of LBFGS, where two batches make a step, and where each does."""
WATCHED = ("adam", "lbfgs", "muon")
"""Optimizers with which all is measured and averaged; elsewhere that would be half of the time."""
WAYS = [
    f"optimizer={optimizer} schedule={schedule}" + " callbacks=none average=none" * (optimizer not in WATCHED)
    for optimizer, schedule in zip(OPTIMIZERS, cycle(SCHEDULES), strict=False)
]
WAYS += [f"schedule={name} callbacks=none average=none" for name in SCHEDULES[len(OPTIMIZERS) :]]
WAYS += ["momentum_schedule=ramp momentum_schedule.epochs=3 trainer.accumulate_grad_batches=2"]
WAYS += ["schedule=plateau schedule.warmup_epochs=3 network.dropout=0.5"]
"""Each optimizer and each schedule at least once."""


@pytest.mark.parametrize("way", WAYS)
def test_two_epochs_and_two_more_after_a_resume_equal_four_at_once(way: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    words = way.split()
    run(config("trainer.max_epochs=4", *words), RunFolder(one), train)
    run(config("schedule.epochs=4", *words), RunFolder(two), train)
    resumed(two)
    parts = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks")
    ended, continued = checkpoint(one), checkpoint(two)
    for content in (ended, continued):  # the first part has measured its own last step
        content["callbacks"].pop("Recorder")
    for part in (*parts, *(["plateau"] if "plateau" in way else [])):
        assert_same(ended[part], continued[part])
    assert RunFolder(one).metrics.read_text() == RunFolder(two).metrics.read_text()
    at_once, in_parts = curves(one), curves(two)
    for tag, points in at_once.items():
        # The last step of a run is always measured, and the first part had one of its own.
        assert points == [point for point in in_parts[tag] if point in points or point[0] not in END_OF_PART]


WITHIN = [
    "trainer.log_every_n_steps=1 checks=default checks.which=[inputs,loss_at_chance] network.dropout=0.5",
    "trainer.accumulate_grad_batches=2 optimizer=adam schedule=plateau average.every=1 average.start=0.1 "
    "on_nonfinite=rollback",
    "+trainer.val_check_interval=2 optimizer=sgd momentum_schedule=ramp momentum_schedule.epochs=3",
]


@pytest.mark.parametrize("way", WITHIN)
def test_a_run_that_broke_off_amid_an_epoch_goes_on_as_if_it_had_not(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    words = ["trainer.max_epochs=4", "data.batch_size=16", "checkpoint.every_n_steps=1", *way.split()]
    run(config(*words), RunFolder(straight), train)

    def broken_off(at: int, go: Callable[[], Any]) -> None:
        """`go()`, until the batch with the number `at` comes."""

        begin = ImageClassifier.on_train_batch_start

        def look(self: Any, *arguments: Any) -> None:
            if isinstance(self.trainer, L.Trainer) and self.trainer.fit_loop.total_batch_idx + 1 == at:
                raise KeyboardInterrupt
            begin(self, *arguments)

        with monkeypatch.context() as patch:
            patch.setattr(ImageClassifier, "on_train_batch_start", look)
            with pytest.raises(SystemExit, match="130"):
                go()
        assert RunFolder(broken).read_status()["status"] == "interrupted"

    first = 4 if "accumulate" in way else 2  # after the first step
    broken_off(first, lambda: run(config(*words), RunFolder(broken), train))
    for place in (9, 10, 13):  # an epoch has six batches
        broken_off(place, lambda: resumed(broken))
    resumed(broken)
    assert curves(broken) == curves(straight)
    for file in ("metrics.csv", "findings.json"):
        assert (broken / file).read_text() == (straight / file).read_text()
    assert measured(broken) == measured(straight)
    ended, continued = checkpoint(straight), checkpoint(broken)
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks"):
        assert_same(ended[part], continued[part])


def test_a_moved_run_can_be_resumed_and_keeps_its_best(tmp_path: Path) -> None:
    run(config("schedule.epochs=4", "optimizer.lr=0.3"), RunFolder(tmp_path / "here"), train)
    shutil.move(tmp_path / "here", tmp_path / "there")
    before = checkpoint(tmp_path / "there")["callbacks"]["Checkpoints"]["best"]["accuracy/val"]
    resumed(tmp_path / "there")
    assert checkpoint(tmp_path / "there")["callbacks"]["Checkpoints"]["best"]["accuracy/val"] >= before
    assert len(list((tmp_path / "there" / "checkpoints").glob("best_*.ckpt"))) == 1

    for name in ("last.ckpt", "previous.ckpt"):
        content = checkpoint(tmp_path / "there", name)
        torch.save(content | {"loops": {}}, tmp_path / "there" / "checkpoints" / name)
    with pytest.raises(UserError, match="is damaged, or of another training"):
        resumed(tmp_path / "there", "trainer.max_epochs=5")
    for name in ("last.ckpt", "previous.ckpt"):
        content = checkpoint(tmp_path / "there", name)
        content["optimizer_states"][0]["param_groups"][0]["momentum"] = 1e30
        torch.save(content, tmp_path / "there" / "checkpoints" / name)
    with pytest.raises(UserError, match=r"its optimizer has momentum=1e\+30"):
        resumed(tmp_path / "there", "trainer.max_epochs=5")


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(tmp_path: Path) -> None:
    weights = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        run(config(f"seed={seed}", "network.dropout=0.5"), RunFolder(tmp_path / name), train)
        weights.append(checkpoint(tmp_path / name)["state_dict"]["network.stem.0.weight"])
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_other_intervals_monitors_and_stations_leave_the_weights_as_they_are(tmp_path: Path) -> None:
    every = [f"callbacks.{name}.every_n_steps=1" for name in ("update_ratio", "histograms", "filters")]
    for name, *words in (
        ("as_it_is", "callbacks=default"),
        ("often", "trainer.log_every_n_steps=1", "on_nonfinite=rollback", *every),
        ("more", "callbacks=full", "average.every=1", "+trainer.val_check_interval=0.5"),
        (
            "bare",
            "callbacks=none",
            "average=none",
            "logger=none",
            "on_nonfinite=null",
            "diagnosis.probe=false",
        ),
    ):
        run(config("trainer.max_epochs=1", "network.dropout=0.5", *words), RunFolder(tmp_path / name), train)
        for part in ("state_dict", "optimizer_states", "lr_schedulers"):
            assert_same(checkpoint(tmp_path / "as_it_is")[part], checkpoint(tmp_path / name)[part])


def test_as_many_threads_are_taken_as_are_asked_for(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        run(config("threads=3", "trainer.max_epochs=1", "callbacks=none"), RunFolder(tmp_path), train)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_rate_that_makes_the_weights_infinite_ends_the_run_and_leaves_its_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(self: Any, optimizer: Any) -> None:
        if self.trainer.global_step == 5:  # of 3 an epoch
            optimizer.param_groups[0]["lr"] = 1e10
            for parameter in self.network.parameters():
                parameter.grad.fill_(1e30)

    words = ["trainer.max_epochs=3", "callbacks=none", "average=none", "logger=none"]
    good, folder = tmp_path / "good", RunFolder(tmp_path / "bad")
    run(config(*words, "trainer.max_epochs=1", "schedule.epochs=3"), RunFolder(good), train)
    with monkeypatch.context() as patch:
        patch.setattr("project.module.ImageClassifier.on_before_optimizer_step", explode)
        with pytest.raises(Diverged) as stop:
            run(config(*words), folder, train)
        assert stop.value.code == 4
        for name in ("last.ckpt", "best.ckpt"):
            assert_same(checkpoint(folder.path, name)["state_dict"], checkpoint(good)["state_dict"])
        status = folder.read_status()
        assert status["status"] == "failed"
        assert "became NaN or infinite with step 6. Lower the learning rate" in status["error"]
        assert folder.diverged
        [finding] = [finding for finding in read_findings(folder.findings) if finding.level == "fail"]
        assert (finding.cause, finding.step) == ("non-finite-loss", 6)

        goes_on = RunFolder(tmp_path / "goes_on")
        run(config(*words, "on_nonfinite=null"), goes_on, train)
        assert checkpoint(goes_on.path)["epoch"] == 0
        run(config(*words, "on_nonfinite=rollback"), RunFolder(tmp_path / "back"), train)
    assert RunFolder(tmp_path / "back").read_status()["rollbacks"] == 1


def test_a_drawn_seed_is_recorded_and_reproduces_the_run(tmp_path: Path) -> None:
    run(config("seed=null"), RunFolder(tmp_path / "drawn"), train)
    assert RunFolder(tmp_path / "drawn").read_config().threads == torch.get_num_threads()
    seed = RunFolder(tmp_path / "drawn").read_config().seed
    run(config(f"seed={seed}"), RunFolder(tmp_path / "again"), train)
    assert_same(checkpoint(tmp_path / "drawn")["state_dict"], checkpoint(tmp_path / "again")["state_dict"])


def test_the_folder_tells_where_the_run_came_from(finished: tuple[Path, Any]) -> None:
    facts = OmegaConf.load(finished[0] / "config.yaml").provenance
    assert torch.__version__.startswith(facts.versions.torch)
    assert facts.machine.cpus >= 1
    assert facts.git.commit is None or len(facts.git.commit) == 40
    assert RunFolder(finished[0]).read_config().seed == 0


def test_the_status_ends_as_finished_with_the_metrics(finished: tuple[Path, dict[str, float]]) -> None:
    status = json.loads((finished[0] / "status.json").read_text())
    assert (status["status"], status["epoch"], status["error"]) == ("finished", 2, None)
    assert status["metrics"] == finished[1]


def test_the_report_of_a_run_shows_what_its_monitors_recorded(finished: tuple[Path, Any]) -> None:
    page = (finished[0] / "report.html").read_text(encoding="utf-8")
    assert "could not be drawn" not in page
    drawn = [part.partition("</figure>")[0] for part in page.split("<figure")[1:]]
    for chart in ("Update ratio", "Variance of the gradients", "Histograms of the"):
        assert [figure for figure in drawn if chart in figure], chart
    assert "Filters have turned by" in page


def test_metrics_csv_has_one_row_an_epoch(finished: tuple[Path, Any]) -> None:
    header, *rows = (finished[0] / "metrics.csv").read_text().splitlines()
    measured = "loss/train_eval,accuracy/train_eval,accuracy/gap"
    averaged = "val_average/accuracy,val_average/gain,val_average/loss"
    assert header == f"epoch,step,accuracy/train,accuracy/val,loss/train,loss/val,{measured},{averaged}"
    assert [row.split(",")[:2] for row in rows] == [["1", "3"], ["2", "6"]]


def test_tensorboard_has_the_tags_of_the_design_at_the_right_steps(finished: tuple[Path, Any]) -> None:
    steps = {tag: [step for step, _ in points] for tag, points in scalars(finished[0]).items()}
    for tag in ("loss/train", "loss/val", "accuracy/train", "accuracy/val"):
        assert steps[tag] == [1, 2], tag
    for tag in ("loss/train_step", "run/epoch", "lr/decay", "lr/no_decay", "momentum/decay"):
        assert steps[tag] == [1, 2, 3, 4, 5, 6], tag


def charts(events: EventAccumulator) -> dict[str, dict[str, list[str]]]:
    """TensorBoard's custom scalars: by category and chart, the patterns of the tags."""
    [event] = events.Tensors("custom_scalars__config__")
    layout = Layout.FromString(event.tensor_proto.string_val[0])
    return {
        category.title: {
            chart.title: [*chart.multiline.tag, *(series.value for series in chart.margin.series)]
            for chart in category.chart
        }
        for category in layout.category
    }


def test_tensorboard_has_twelve_groups_and_a_chart_for_each_quantity_in_the_order_of_the_course(
    finished: tuple[Path, Any],
) -> None:
    events = EventAccumulator(str(finished[0])).Reload()
    tags = events.Tags()
    assert (
        len({tag.partition("/")[0] for kind in ("scalars", "images", "histograms") for tag in tags[kind]})
        <= 12
    )
    shown = charts(events)
    assert list(shown) == [category for category in CATEGORIES if category != "before learning"]
    patterns = [pattern for named in shown.values() for tags in named.values() for pattern in tags]
    alone = {tag for tag in tags["scalars"] if not any(re.match(pattern, tag) for pattern in patterns)}
    assert {tag for tag in alone if not tag.startswith("run/")} == set()


def test_hparams_begin_with_optimizer_rate_schedule_and_the_metric_and_the_config_is_a_card(
    finished: tuple[Path, Any],
) -> None:
    events = EventAccumulator(str(finished[0])).Reload()
    content = events.summary_metadata
    assert {"_hparams_/session_start_info", "config/text_summary"} <= content.keys()
    found = HParamsPluginData.FromString(content["_hparams_/experiment"].plugin_data.content).experiment
    shown = sorted(found.hparam_infos, key=lambda column: (not column.differs, column.name))
    assert [column.name for column in shown[:3]] == ["optimizer", "optimizer.lr", "schedule"]
    assert [column.display_name for column in found.metric_infos[:2]] == [
        "best/accuracy_val",
        "last/accuracy_val",
    ]
    assert all(events.Scalars(column.name.tag) for column in found.metric_infos)
    assert events.Scalars("run/test/accuracy")[-1].value == pytest.approx(finished[1]["test/accuracy"])


def test_checkpoints_are_plain_and_the_best_has_its_score_in_its_name(
    finished: tuple[Path, dict[str, float]],
) -> None:
    folder, metrics = finished
    best = (folder / "checkpoints" / "best.ckpt").resolve().name
    assert best == f"best_epoch{metrics['best/epoch']:03.0f}_accuracy{metrics['best/accuracy_val']:.4f}.ckpt"
    assert checkpoint(folder, best)["epoch"] + 1 == metrics["best/epoch"]


def test_the_last_checkpoint_is_of_the_last_epoch_even_where_nothing_improved(tmp_path: Path) -> None:
    words = ["optimizer=sgd", "optimizer.lr=1e-12", "trainer.max_epochs=3", "metric.tie_breaker=null"]
    run(config(*words), RunFolder(tmp_path), train)
    assert checkpoint(tmp_path)["epoch"] == 2
    assert checkpoint(tmp_path, "best.ckpt")["epoch"] < 2


def test_a_metric_that_the_validation_does_not_log_is_told_after_the_first_epoch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["metric.name=accuracy_val", "trainer.max_epochs=2"]
    run(config(*words, "callbacks=[light,early_stopping]"), RunFolder(tmp_path), train)
    said = capsys.readouterr().out
    assert said.count("metric.name=accuracy_val was not logged by the validation") == 1
    assert "did you mean accuracy/val?" in said
    with pytest.raises(UserError, match=r"schedule=plateau: metric\.name=accuracy_val was not logged"):
        run(config(*words, "schedule=plateau"), RunFolder(tmp_path / "plateau"), train)


@pytest.mark.parametrize(("split", "metric"), [("test", "test/accuracy"), ("val", "best/accuracy_val")])
def test_evaluation_from_the_folder_alone_gives_the_figures_of_the_run(
    split: str, metric: str, finished: tuple[Path, dict[str, float]]
) -> None:
    options = OmegaConf.create(
        {"run": str(finished[0]), "checkpoint": "best", "split": split, "data_root": None}
    )
    assert evaluate(options, project)[f"accuracy/{split}"] == finished[1][metric]


def test_evaluation_by_several_views_is_that_of_the_mean_of_their_logits(
    finished: tuple[Path, dict[str, float]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With four batches, of which none has as many images in doubt as another."""
    monkeypatch.setattr("project.data.data_module.EVALUATION_BATCH_SIZE", 100)
    options = {"run": str(finished[0]), "checkpoint": "last", "split": "test", "data_root": None}
    module, data = project.build(RunFolder(finished[0]).read_config())
    module.load_state_dict(checkpoint(finished[0])["state_dict"])
    module.eval()
    images, labels = (torch.cat(part) for part in zip(*data.test_dataloader(), strict=True))
    wide = torch.nn.functional.pad(images, (1, 1, 1, 1), mode="reflect")
    views = [images, wide[:, :, 2:, 2:], wide[:, :, :-2, :-2]]
    with torch.no_grad():
        still, *moved = ((module(view) + module(view.flip(3))) / 2 for view in views)
    full = (still + sum(moved) / 2) / 2
    largest = still.sort(1).values
    unsure = (largest[:, -1] - largest[:, -2]).argsort()[: round(len(images) / 4)]
    mixed = still.index_copy(0, unsure, full[unsure])
    for tta, logits in {"flip": still, "full": full, "unsure": mixed}.items():
        metrics = evaluate(OmegaConf.create({**options, "tta": tta}), project)
        assert metrics["accuracy/test"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
        loss = torch.nn.functional.cross_entropy(logits, labels).item()
        assert metrics["loss/test"] == pytest.approx(loss, rel=1e-5)
        said = capsys.readouterr().out
        assert f"test, tta={tta}" in said
        assert "data.flip=false" in said  # the mirror of a digit is no digit


@pytest.mark.parametrize(
    ("key", "target", "value"),
    [
        ("data.root", "os.mkdir", "made"),
        ("network", "torch.nn.functional.torch.save", "made"),
        ("module", "project.module.ImageClassifier.load_from_checkpoint", "made"),
        ("callbacks.more", "pathlib.Path.mkdir", {"_target_": "pathlib.Path", "_args_": ["made"]}),
        ("optimizer.lr", "logging.FileHandler", "made"),
    ],
)
def test_nothing_runs_because_a_folder_names_it(
    key: str,
    target: str,
    value: Any,
    finished: tuple[Path, dict[str, float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(finished[0], tmp_path / "run", symlinks=True)
    settings = OmegaConf.load(folder / "config.yaml")
    OmegaConf.update(settings, key, {"_target_": target, "_args_": [value]}, merge=False, force_add=True)
    OmegaConf.save(settings, folder / "config.yaml")
    shutil.copy(folder / "checkpoints" / "last.ckpt", folder / "checkpoints" / "other.ckpt")
    options = {"run": str(folder), "checkpoint": "best", "split": "val", "data_root": None}
    with pytest.raises(UserError, match=rf"{key}\._target_ names {target}.*trust={target}"):
        evaluate(OmegaConf.create(options), project)
    with pytest.raises(UserError, match=rf"{key}\._target_ names {target}"):
        resumed(folder)
    together = {"runs": [], "sweep": None, "top": 10, "folder": str(tmp_path / "out")}
    with pytest.raises(UserError, match=rf"Left out: .*{key}\._target_ names {target}"):
        ensemble(OmegaConf.create({**options, **together}), project)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_lbfgs_takes_the_whole_training_set_as_one_batch(tmp_path: Path) -> None:
    run(config("optimizer=lbfgs"), RunFolder(tmp_path), train)
    assert checkpoint(tmp_path)["global_step"] == 2


def test_a_failure_is_recorded_with_its_error_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("out of ink")

    monkeypatch.setattr("project.module.ImageClassifier.validation_step", fail)
    with pytest.raises(RuntimeError, match="out of ink"):
        run(config(), RunFolder(tmp_path), train)
    status = RunFolder(tmp_path).read_status()
    assert (status["status"], status["error"]) == ("failed", "RuntimeError: out of ink")


def refusal(do: Callable[[], Any]) -> str:
    from vitals.errors import UserError

    with pytest.raises(UserError) as error:
        do()
    return str(error.value)


def test_a_checkpoint_of_another_network_is_refused(finished: tuple[Path, Any], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder, symlinks=True)
    said = refusal(lambda: resumed(folder, "network.activation=tanh", "network.norm=group"))
    assert "another network" in said
    assert "network.stem" in said


def test_of_a_damaged_checkpoint_the_one_before_is_taken_or_it_is_named(
    finished: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder, symlinks=True)
    last, before = folder / "checkpoints" / "last.ckpt", folder / "checkpoints" / "previous.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    kept = before.read_bytes()
    before.write_bytes(kept[:1000])
    assert str(last) in refusal(lambda: resumed(folder))
    before.write_bytes(kept)
    resumed(folder)
    assert "previous.ckpt" in capsys.readouterr().out
    assert checkpoint(folder)["epoch"] == 3


def test_a_run_without_epochs_left_says_so(finished: tuple[Path, Any]) -> None:
    assert "trainer.max_epochs=4" in refusal(lambda: resumed(finished[0], "trainer.max_epochs=2"))
