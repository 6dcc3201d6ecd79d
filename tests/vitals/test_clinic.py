"""Some of the clinic's cases, trained on scikit-learn's digits under `diagnostics()` without its checks.

The checks before the first step see most faults by themselves. Here the rules have only what the monitors
recorded, so that a tag which one side renames silences no rule unseen.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cases import CASES
from clinic import Images, Job, Session, Vitals, run_case
from lightning.pytorch.callbacks import Callback
from sklearn.datasets import load_digits

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
    expected = LOGGED_OTHERWISE | (set() if name in NORMED else OF_NORMS)
    # The rate is probed only where the record leaves a doubt, as in `rate-with-one-zero-too-many`, and other
    # preparations are tried only where validation is behind.
    seldom = ("rate_probe/", "curvature/", "validation/changed/")
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
