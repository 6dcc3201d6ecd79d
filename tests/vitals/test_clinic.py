"""Some of the clinic's cases, trained on scikit-learn's digits under `diagnostics()` without its checks.

The checks before the first step see most faults by themselves. Here the rules have only what the monitors
recorded, so that a tag which one side renames silences no rule unseen.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import lightning as L
import pytest
import torch
from cases import CASES
from clinic import Finding, Images, Job, Outcome, Session, Vitals, load_forms, run_case
from lightning.pytorch.callbacks import Callback
from sklearn.datasets import load_digits
from table import confusion, read, scores
from tools import TOOLS, LossOfBatch, Said

from vitals import diagnostics
from vitals.diagnosis.callback import Diagnosis
from vitals.diagnosis.diagnose import RULES
from vitals.diagnosis.run import Run
from vitals.history import History, Series

CAUSE_OF = {
    "adam-rate-of-sgd": "learning-rate-too-high",
    "rate-with-one-zero-too-many": "learning-rate-too-low",
    "no-zero-grad": "gradients-accumulate",
    "deep-sigmoid-net": "vanishing-gradients",
    "bias-of-minus-three": "dead-relu",
    "root-of-zero": "non-finite-loss",
    "train-in-validation-step": "train-mode-evaluation",
}
"""Each by a rule of its own."""
HEALTHY = "plain-convnet"
LOGGED_OTHERWISE = {"loss/val", "loss/train", "accuracy/val", "accuracy/train"}
"""Names under which the clinic's modules log nothing; fixed subsets of the monitors stand in for them."""


NORMED = ("rate-with-one-zero-too-many", "no-zero-grad")
"""With BatchNorm, whose statistics have tags that other networks have no use for."""
OF_NORMS = {f"modes/{name}" for name in ("norms_without_statistics", "of_batches", "evaluated", "samples")}


NOT_HERE = {"facts/guess_loss", "facts/beside", "facts/even_share", "facts/left_out", "facts/homogeneous"}
NOT_HERE |= {
    "facts/unused",
    "facts/idle",
    "facts/answers",
    "facts/places",
    "facts/unlabelled",
    "facts/start_over_level",
    "facts/bursts",
    "facts/plays",
}
NOT_HERE |= {"facts/best_length", "facts/best_gain"}
NOT_HERE |= {"facts/norms_unlike", "facts/signal_lost", "facts/linear_accuracy", "facts/own_chance"}
NOT_HERE |= {"narrow/linear", "narrow/network", "narrow/score", "narrow_layer/"}
NOT_HERE |= {"guide/", "guides/even_share", "facts/decay_apart", "facts/decay_group"}
"""Of losses without class numbers, of narrow layers and teachers, and of the checks before learning, which
are left out here."""


class WithoutChecks(Vitals):
    def callbacks(self, session: Session) -> list[Callback]:
        return [*diagnostics()[1:-1], Diagnosis(report=False)]


@functools.cache
def digits(per_class: int = 80) -> Images:
    """Digits as images of CIFAR's size: 80 of each for training, 30 for validation."""
    raw = load_digits()
    pixels = torch.tensor(raw.images * 255 / 16).to(torch.uint8)
    pixels = pixels.repeat_interleave(4, 1).repeat_interleave(4, 2).unsqueeze(1).repeat(1, 3, 1, 1)
    labels = torch.tensor(raw.target)
    places = [torch.where(labels == label)[0] for label in range(10)]
    train = torch.cat([each[:per_class] for each in places])
    val = torch.cat([each[per_class : per_class + 30] for each in places])
    return Images(pixels[train], labels[train], pixels[val], labels[val])


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """As the clinic does in the processes that it starts, but undone."""
    loud = {logging.getLogger(name): logging.INFO for name in ("lightning.pytorch", "lightning.fabric")}
    for logger in loud:
        logger.setLevel(logging.ERROR)
    with torch.random.fork_rng():
        yield
    for logger, level in loud.items():
        logger.setLevel(level)


class Asked(History):
    """A history that notes which tags, or beginnings of tags, are asked for and are not there."""

    def __init__(self, path: Path | None = None) -> None:
        super().__init__(path)
        self.missing: set[str] = set()

    def tags(self, prefix: str = "") -> list[str]:
        if not (found := super().tags(prefix)):
            self.missing.add(prefix)
        return found

    def series(self, tag: str) -> Series:
        if not (found := super().series(tag)):
            self.missing.add(tag)
        return found


def missing_tags(name: str, folder: Path) -> set[str]:
    """What the rules ask for that no monitor wrote in the run of the case `name` in `folder`."""
    history = Asked.read(next(folder.rglob("history.jsonl")))
    assert isinstance(history, Asked)
    history.missing.clear()
    run = Run(history)
    for rule in RULES:
        list(rule(run))
    expected = LOGGED_OTHERWISE | NOT_HERE | (set() if name in NORMED else OF_NORMS)
    # The rate is probed only where the record leaves a doubt, as in `rate-with-one-zero-too-many`, other
    # preparations are tried, and images compared, only where validation is behind, rows are exchanged only of
    # steps that are looked at as a whole, and none of these begins with trained weights.
    seldom = ("rate_probe/", "curvature/", "validation/changed/", "start/", "facts/roughness")
    seldom += ("validation/exchanged",)
    return {tag for tag in history.missing if not tag.startswith(seldom)} - expected


@pytest.mark.parametrize("name", CAUSE_OF)
def test_the_rules_name_a_planted_fault_from_what_the_monitors_recorded(name: str, tmp_path: Path) -> None:
    [case] = [case for case in CASES if case.name == name]
    outcome = run_case(case, WithoutChecks(), digits(), Job("", case.name, "", None, ""), str(tmp_path))
    assert outcome.error is None
    assert outcome.alarms()[:1] == [CAUSE_OF[name]]
    assert missing_tags(name, tmp_path) == set()


def test_they_are_silent_on_a_healthy_run(tmp_path: Path) -> None:
    [case] = [case for case in CASES if case.name == HEALTHY]
    outcome = run_case(case, WithoutChecks(), digits(), Job("", case.name, "", None, ""), str(tmp_path))
    assert outcome.error is None
    assert outcome.alarms() == []
    assert missing_tags(HEALTHY, tmp_path) == set()


@pytest.mark.parametrize("name", TOOLS)
def test_other_tools_watch_a_training_to_its_end(name: str, tmp_path: Path) -> None:
    pytest.importorskip(name.replace("-", "_"))
    [case] = [case for case in CASES if case.name == "no-zero-grad"]
    job = Job("", case.name, "", None, "")
    outcome = run_case(case, TOOLS[name](), digits(), job, str(tmp_path))
    assert outcome.error is None
    assert outcome.metrics["train/loss"] > 0


class AsksForTheLoss(Callback):
    """An adapter that asks for the loss of a batch and of some of its rows, and finds nothing."""

    def callbacks(self, session: Session) -> list[Callback]:
        session.trainer_kwargs |= {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1}
        return [self]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        before = {name: value.clone() for name, value in pl_module.state_dict().items()}
        rows = LossOfBatch(trainer, pl_module, batch)
        self.whole = LossOfBatch(trainer, pl_module)(batch).item()
        self.rows, self.few = (rows(torch.arange(count)).item() for count in (64, 8))
        assert all(torch.equal(before[name], value) for name, value in pl_module.state_dict().items())

    def findings(self, trainer: L.Trainer) -> list[Finding]:
        return []


@functools.cache
def trained_in(form: str | None) -> torch.Tensor:
    """The weights of the healthy case after three steps."""
    L.seed_everything(0, verbose=False)
    session = next(case for case in CASES if case.name == HEALTHY).build(digits(), False)
    if form:
        load_forms()[form](session)
    few = {"limit_train_batches": 3, "limit_val_batches": 1, "max_epochs": 1}
    few |= {"logger": False, "accelerator": "cpu"}
    quietly = {f"enable_{what}": False for what in ("checkpointing", "progress_bar", "model_summary")}
    L.Trainer(**few, **quietly).fit(session.module, session.train_loader, session.val_loader)
    return torch.cat([parameter.detach().flatten() for parameter in session.module.parameters()])


@pytest.mark.parametrize("form", load_forms())
def test_a_case_in_another_form_is_the_same_training(form: str) -> None:
    mixed = form in ("mixup", "cutmix")
    assert torch.equal(trained_in(form), trained_in(None)) is not mixed
    assert trained_in(form).isfinite().all()


def test_other_tools_get_the_loss_of_a_batch_from_a_copy(tmp_path: Path) -> None:
    [case] = [case for case in CASES if case.name == HEALTHY]
    tool = AsksForTheLoss()
    outcome = run_case(case, tool, digits(), Job("", case.name, "", None, ""), str(tmp_path))
    assert outcome.error is None
    assert tool.rows == pytest.approx(tool.whole)
    assert tool.few != pytest.approx(tool.whole, rel=1e-3)


def test_what_a_tool_says_at_few_of_its_looks_is_a_note() -> None:
    said = Said()
    for step in range(20):
        often = [Finding("overfitting", "warn", "first" if step == 8 else "")] if step > 7 else []
        said.look("steps", [*often, Finding("dead-relu", "fail")] if step == 19 else often)
    said.look("once", [Finding("input-constant", "fail")])
    found = [(each.cause, each.level, each.message) for each in said.findings()]
    assert found == [
        ("input-constant", "fail", ""),
        ("overfitting", "warn", "first"),
        ("dead-relu", "note", ""),
    ]


def test_the_table_has_a_row_for_each_tool_and_shows_what_is_mistaken_for_what(tmp_path: Path) -> None:
    def found(*causes: str) -> list[Finding]:
        return [Finding(cause, "warn") for cause in causes]

    high = "learning-rate-too-high"
    named = Outcome("a", [high], found(high), overhead=2.0, twin=Outcome("a", []))
    mistaken = Outcome("b", ["dead-relu"], found(high, "overfitting"), overhead=4.0)
    healthy = Outcome("c", [], found("overfitting"))
    for number, (tool, outcomes) in enumerate(
        [("other", [mistaken]), ("vitals", [named]), ("vitals", [mistaken, healthy])]
    ):
        entry = {"tool": tool, "version": "1.0", "file": "cases.py", "measured": "a machine"}
        entry |= {"cases": [asdict(outcome) for outcome in outcomes]}
        (tmp_path / f"{number}.json").write_text(json.dumps(entry))
    results = read(sorted(tmp_path.glob("*.json")))
    _, _, first, second = scores(results).splitlines()
    assert first == "| vitals 1.0 | 2 of 2 | 1 of 2 | 1 of 2 | 1.00 | 1 of 1 | 0 of 1 | 3.0 |"
    assert second == "| other 1.0 | 1 of 1 | 0 of 1 | 0 of 1 | 2.00 |  |  | 4.0 |"
    assert confusion(results[1].outcomes).splitlines()[2:] == [
        f"| dead-relu | 1 | {high} 1 |",
        f"| {high} | 1 | **{high} 1** |",
        "| no fault | 2 | overfitting 1, **none 1** |",
    ]
