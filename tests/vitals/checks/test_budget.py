"""A budget for the checks before learning: what is made in it, and what is said of the rest."""

from __future__ import annotations

import math
import os
import pty
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import vitals
from vitals.checks.budget import Budget, Pace, default_budget
from vitals.checks.check import Check, Outcome
from vitals.checks.registry import GROUPS
from vitals.checks.sanity_checks import SanityChecks
from vitals.errors import UserError
from vitals.findings import Finding, read_findings


class Slow(nn.Module):
    """Sleeps in every forward pass."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return x


class Module(L.LightningModule):
    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(8, 16), Slow(seconds), nn.ReLU(), nn.Linear(16, 2))

    def train_dataloader(self) -> Any:
        x = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=64, shuffle=True)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trained(checks: SanityChecks, folder: Path, module: Module | None = None) -> SanityChecks:
    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        callbacks=[checks],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_steps=1,
    )
    trainer.fit(module or Module())
    return checks


def test_a_slow_network_trains_within_the_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    checks = trained(SanityChecks(on_fail="warn", budget=3), tmp_path, Module(0.1))
    assert time.monotonic() - start < 3 + 5  # without a budget it takes more than a minute
    verdicts = {row.name: row.verdict for row in checks.rows}
    # In the order of the page, whatever is made first; what tells most in a second is made.
    assert list(verdicts) == [name for name in GROUPS["default"] if name in verdicts]
    assert verdicts["loss_at_chance"] != "skipped" != verdicts["wiring"]
    assert verdicts["gradients"] == verdicts["tiny_subset"] == verdicts["informative_inputs"] == "skipped"
    printed = " ".join(capsys.readouterr().out.split())
    seconds = re.search(r"tiny subset left out \(would take about ([\d.]+) s\)", printed)
    assert seconds
    assert 0 < float(seconds[1]) < 60  # 5 on a quiet machine; 1.6 was seen beside other processes
    budget = re.search(r"checks\.budget=(\d+), or diagnostics\(budget=\1\)", printed)
    assert budget
    assert int(budget[1]) > float(seconds[1])
    written = [finding.message for finding in read_findings(tmp_path / "findings.json")]
    assert any("Tiny subset: left out, it would have taken about" in message for message in written)


def test_a_check_that_runs_on_is_stopped_and_says_so(tmp_path: Path) -> None:
    class Endless(Check):
        name = "endless"
        needs = "loss"

        def run(self, setup: Any, options: Any) -> Outcome:
            while True:
                setup.model(setup.inputs[:2])

    checks = trained(SanityChecks([Endless()], on_fail="warn", budget=0.5), tmp_path, Module(0.01))
    (row,) = checks.rows
    assert row.verdict == "skipped"
    assert 0.2 < row.seconds < 2
    assert "left out, it would have taken more than" in row.findings[0].message


def test_a_check_that_nothing_was_left_for_is_not_said_to_take_no_time(tmp_path: Path) -> None:
    class Endless(Check):
        name = "endless"
        needs = "loss"

        def run(self, setup: Any, options: Any) -> Outcome:
            while True:
                setup.model(setup.inputs[:2])

    class Last(Endless):
        name = "last"

    checks = trained(SanityChecks([Endless(), Last()], on_fail="warn", budget=0.5), tmp_path, Module(0.01))
    said = "Last: left out, as what came before it took all of the budget of 0.5 s."
    assert checks.rows[1].findings[0].message == said


def test_nobody_is_told_that_a_step_of_theirs_failed_when_the_time_is_up(tmp_path: Path) -> None:
    class Twins(Module):
        """A step that is looked at as a whole, since it calls a network twice."""

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            try:
                outputs = self.net(batch[0]) + self.net(batch[0].flip(1))
            except Exception as error:
                raise ValueError("broken") from error
            return F.cross_entropy(outputs, batch[1])

    checks = trained(SanityChecks(on_fail="warn", budget=2), tmp_path, Twins(0.05))
    reasons = [row.findings[0].message for row in checks.rows if row.whole and row.outcome is None]
    assert reasons
    assert all("left out, " in reason for reason in reasons)
    assert not any("broken" in finding.message for finding in checks.findings)


def test_a_check_is_cut_to_the_size_that_there_is_time_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Sized(Check):
        name = "sized"
        needs = "loss"

        def sizes(self, setup: Any, options: Any) -> list[int]:
            return [1000, 10]

        def seconds(self, size: int, setup: Any, options: Any) -> float:
            return float(size)

        def run(self, setup: Any, options: Any) -> Outcome:
            return Outcome([Finding("wiring-correct", "ok", "")], str(options.size), "")

    (row,) = trained(SanityChecks([Sized()], on_fail="warn", budget=100), tmp_path).rows
    assert row.outcome is not None
    assert row.outcome.seen == "10"
    assert "sized 10 of 1000 samples (all about 1000 s)" in " ".join(capsys.readouterr().out.split())


def test_without_a_limit_nothing_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checks = trained(SanityChecks(on_fail="warn", budget=math.inf), tmp_path)
    assert not any(row.whole for row in checks.rows)
    assert len(checks.rows) == len(GROUPS["default"]) - 1
    assert "For want of time" not in capsys.readouterr().out


def test_a_compiled_module_that_is_stopped_is_no_reason_to_warn() -> None:
    compiled = torch.compile(nn.Linear(2, 2), backend="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Budget(60).stopping():
            compiled(torch.zeros(1, 2))


@pytest.mark.parametrize("budget", [0, -3.0, math.nan])
def test_no_budget_at_all_is_refused(budget: float) -> None:
    with pytest.raises(UserError, match="budget: seconds above 0 are needed, or inf for no limit"):
        vitals.diagnostics(budget=budget)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_epochs": 1}, 10),  # four steps
        ({"max_epochs": 40}, 16),  # a tenth of 160 steps of 1 s
        ({"max_epochs": -1}, 30),  # for ever
        ({"max_epochs": -1, "max_time": {"seconds": 200}}, 20),
    ],
)
def test_by_default_a_tenth_of_the_training(options: dict[str, Any], expected: float, tmp_path: Path) -> None:
    found: list[float] = []

    class Look(Check):
        name = "look"
        needs = "loss"

        def run(self, setup: Any, given: Any) -> Outcome:
            found.append(default_budget(trainer, setup, Pace(fixed=1 - 64 * 0.01, sample=0.01)))
            return Outcome([], "", "")

    trainer = L.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        callbacks=[SanityChecks([Look()], on_fail="warn"), Stop()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    trainer.fit(Module())
    assert found == [pytest.approx(expected, rel=0.05)]


class Stop(L.Callback):
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.should_stop = True


SCRIPT = """
import sys, time
from vitals.terminal import status_line
with status_line("checking wiring") as show:
    time.sleep(0.3)
    show("checking tiny subset")
    time.sleep(0.3)
print("done")
"""


def test_a_terminal_shows_what_is_checked_and_a_pipe_does_not() -> None:
    command = [sys.executable, "-c", SCRIPT]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80"}
    piped = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert (piped.stdout, piped.stderr) == ("done\n", "")
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        seen = b""
        try:
            while block := os.read(ours, 4096):
                seen += block
        except OSError:  # Linux says so that the other side is closed
            pass
        assert process.wait() == 0
    os.close(ours)
    assert b"checking wiring" in seen
    assert b"checking tiny subset" in seen
    assert b"done" in seen
