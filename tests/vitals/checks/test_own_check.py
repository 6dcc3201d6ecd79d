"""A check of one's own: one file of code, and one name."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from vitals.causes import CAUSES
from vitals.checks.check import Check, Outcome
from vitals.checks.registry import BUILT_IN, GROUPS, load_checks
from vitals.checks.sanity_checks import SanityChecks
from vitals.errors import UserError
from vitals.findings import Finding, read_findings

CODE = """
from vitals.causes import Cause, register
from vitals.checks.check import Check, Outcome
from vitals.findings import Finding

register(Cause("too-few-samples", "there are fewer samples than inputs", "accuracy", ("overfitting",)))


class Count(Check):
    name = "count"
    needs = "network"

    def run(self, setup, options):
        count = len(setup.inputs)
        found = Finding("too-few-samples", "warn", f"{count} samples are few.", "Get more.")
        return Outcome([found], f"{count} samples", "more")


class Tired(Check):
    name = "tired"
    station = "accuracy"

    def run(self, setup, options):
        raise RuntimeError("out of ink")


class Wiring(Count):
    name = "wiring"


check = Count()
"""


@pytest.fixture
def my_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "my_check.py").write_text(CODE)
    (tmp_path / "half_written.py").write_text("def f(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_check"
    sys.modules.pop("my_check", None)
    CAUSES.pop("too-few-samples", None)


class Module(L.LightningModule):
    def __init__(self, targets: Tensor) -> None:
        super().__init__()
        self.net, self.targets = nn.Linear(4, 2 if targets.ndim == 1 else 1), targets

    def train_dataloader(self) -> Any:
        inputs = torch.randn(96, 4, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(inputs, self.targets), batch_size=32)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        outputs = self.net(batch[0])
        return F.mse_loss(outputs, batch[1]) if self.targets.ndim == 2 else F.cross_entropy(outputs, batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


CLASSES = torch.arange(96) % 2
NUMBERS = torch.linspace(0, 1, 96)[:, None]


def checked(checks: SanityChecks, folder: Path | None, targets: Tensor = CLASSES) -> SanityChecks:
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        callbacks=[checks],
        max_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Module(targets))
    return checks


def test_it_shows_in_the_table_and_signs_its_findings(
    my_check: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{my_check}.check", "wiring", f"{my_check}.Tired"]
    checks = checked(SanityChecks(names, on_fail="warn", samples=64), tmp_path)
    assert [(row.name, row.verdict) for row in checks.rows] == [
        ("wiring", "ok"),
        ("count", "warn"),
        ("tired", "skipped"),
    ]
    printed = capsys.readouterr().out
    assert "64 samples" in printed
    assert "too-few-samples: 64 samples are few. Get more." in printed
    written = json.loads((tmp_path / "findings.json").read_text())
    assert [(entry["cause"], entry["check"], entry["station"]) for entry in written] == [
        ("too-few-samples", "count", "accuracy"),
        ("skipped", "tired", "accuracy"),
        ("wiring-correct", "wiring", "before"),
    ]
    line = 'Tired: your code fails with RuntimeError at `raise RuntimeError("out of ink")` ('
    assert written[1]["message"].startswith(line)
    del CAUSES["too-few-samples"]  # as in a process that does not import the check
    assert read_findings(tmp_path / "findings.json")[0].station == "accuracy"


def test_one_that_does_without_class_numbers_looks_at_a_regression(my_check: str, tmp_path: Path) -> None:
    checks = SanityChecks(["loss_at_chance", "informative_inputs", f"{my_check}.Count"], on_fail="warn")
    assert [row.name for row in checked(checks, tmp_path, NUMBERS).rows] == ["count"]
    found = read_findings(tmp_path / "findings.json")
    assert [(finding.cause, finding.check) for finding in found] == [
        ("too-few-samples", "count"),
        ("skipped", ""),
    ]
    assert "Loss at chance and informative inputs: your loss takes no class number" in found[1].message


def test_built_in_ones_come_first_and_in_their_order(my_check: str) -> None:
    loaded = load_checks([f"{my_check}.Tired", "step_size", "inputs", "inputs"])
    assert [check.name for check in loaded] == ["inputs", "step_size", "tired"]
    assert [check.name for check in load_checks(["full"])] == list(BUILT_IN)
    assert [check.name for check in load_checks(GROUPS["default"])] == list(GROUPS["default"])


REFUSED = {
    "there is no check 'wirin': did you mean wiring": "wirin",
    "'nowhere.Check' cannot be imported: No module named 'nowhere'": "nowhere.Check",
    "cannot be imported: .*'Cuont'": "my_check.Cuont",
    r"cannot be imported: .* \(half_written.py, line 1\)": "half_written.Check",
    "'my_check.Cause' is no check: give a class that derives": "my_check.Cause",
    "two checks are called 'wiring': give my_check.Wiring another name": "my_check.Wiring",
}


@pytest.mark.parametrize("said", REFUSED)
def test_a_name_that_leads_to_no_check_is_refused(said: str, my_check: str) -> None:
    with pytest.raises(UserError, match=said):
        SanityChecks([REFUSED[said]])


@pytest.mark.parametrize("written", [True, False])
def test_what_is_only_noted_is_said_where_nothing_is_written(
    written: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Notes(Check):
        name = "notes"
        needs = "network"

        def run(self, setup: Any, options: Any) -> Outcome:
            return Outcome([Finding("wiring-correct", "note", "It is odd.")], "something", "else")

    checked(SanityChecks([Notes()]), tmp_path if written else None)
    assert ("wiring-correct: It is odd." in capsys.readouterr().out) is not written
