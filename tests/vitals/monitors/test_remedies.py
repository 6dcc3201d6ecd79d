"""A remedy that names a value has tried it, and the run is better for it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from foreign import Foreign, loader, mlp
from monitoring import train

from vitals import diagnostics
from vitals.diagnosis.callback import Diagnosis
from vitals.findings import Finding, read_findings, without_consequences, write_findings
from vitals.probes.rate_search import LEAPS, STEPS, rate_helps, rate_remedy, working_rate
from vitals.probes.trial import leaps


def on_a_parabola(curvature: float) -> Callable[[float, float], float]:
    """The loss ½ x² after gradient descent from 1, which diverges above a rate of 2 / curvature."""
    return lambda rate, end: 0.5 * (1 - rate * curvature) ** (2 * STEPS)


@pytest.mark.parametrize("curvature", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("higher", [False, True], ids=["too high", "too low"])
def test_the_rate_that_is_found_lies_below_the_largest_that_trains(curvature: float, higher: bool) -> None:
    rate = (1e-5 if higher else 7e2) / curvature
    found, after = working_rate(on_a_parabola(curvature), 0.5, rate, higher)
    assert 0.1 < found * curvature < 1
    assert after == on_a_parabola(curvature)(found, math.inf)  # it was tried, and is not tried again


def test_the_best_rate_over_a_few_steps_is_named_where_an_optimizer_leaps_at_first() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    usual = (torch.optim.SGD([weight], 0.1), torch.optim.Adam([weight]), torch.optim.LBFGS([weight]))
    assert all(leaps(optimizer, STEPS) < LEAPS for optimizer in usual)
    early = leaps(torch.optim.RMSprop([weight], 1e-3), STEPS)
    assert early > LEAPS
    assert torch.equal(weight, torch.ones(3))
    found = [working_rate(on_a_parabola(1.0), 0.5, 7e2, False, leaps=times)[0] for times in (1.0, early)]
    assert found[1] > 2 * found[0]


class Large:
    """Stands for what an optimizer keeps of a hundred million weights."""

    def __deepcopy__(self, memo: object) -> None:
        raise MemoryError


def test_what_an_optimizer_keeps_is_not_copied_to_try_its_first_steps() -> None:
    weight = torch.nn.Parameter(torch.zeros(4, 4))
    optimizer = torch.optim.RMSprop([weight], 1e-3)
    optimizer.state[weight]["square_avg"] = Large()
    assert leaps(optimizer, STEPS) > LEAPS


@pytest.mark.parametrize("loss", [0.5, math.nan, math.inf, 0.498])
def test_no_rate_is_named_where_none_lowers_the_loss(loss: float) -> None:
    assert math.isnan(working_rate(lambda rate, end: loss, 0.5, 30.0, higher=False)[0])


def test_no_rate_is_named_that_there_was_no_time_to_try() -> None:
    assert math.isnan(working_rate(on_a_parabola(1.0), 0.5, 30.0, higher=False, seconds=0)[0])


def test_a_rate_too_low_is_not_raised_to_a_lower_one() -> None:
    """As where gradients are clipped before they are unscaled, which the steps of a trial are not."""
    assert rate_remedy(True, 0.05, 0.01).startswith("At 0.01 already 20 steps of a copy lower the loss")
    assert rate_remedy(True, 0.05, 0.3).startswith("Raise the learning rate from 0.05 to about 0.3")
    assert (
        rate_remedy(False, 0.05, 0.3)
        == "Lower the learning rate from 0.05 until the first steps lower the loss."
    )
    assert [rate_helps(True, 0.05, works) for works in (0.01, 0.3, math.nan)] == [False, True, False]


def right(module: Foreign) -> float:
    """Share of the training images."""
    images, labels = loader().dataset.tensors
    return float((module.net.eval()(images).argmax(1) == labels).float().mean())


def remedies(folder: Path) -> list[Finding]:
    return [finding for finding in read_findings(folder / "findings.json") if finding.setting]


class Together(Foreign):
    """An optimizer for the matrices and one for the biases, as for Muon and AdamW, at rates five apart."""

    automatic_optimization = False

    def training_step(self, batch: object, batch_idx: int) -> None:
        optimizers = self.optimizers()
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        for optimizer in optimizers:
            optimizer.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        parts = [[p for p in self.parameters() if (p.ndim > 1) is matrix] for matrix in (True, False)]
        rates = (self.lr, self.lr / 5)
        return [torch.optim.SGD(part, rate, momentum=0.9) for part, rate in zip(parts, rates, strict=True)]


@pytest.mark.parametrize("rate", [30.0, 1e-6])
@pytest.mark.parametrize("checks", [True, False], ids=["before learning", "while learning"])
@pytest.mark.parametrize("kind", [Foreign, Together], ids=["one optimizer", "two"])
def test_the_run_learns_at_the_rate_in_the_remedy(
    rate: float, checks: bool, kind: type[Foreign], tmp_path: Path
) -> None:
    watchers = [*diagnostics()[0 if checks else 1 : -1], Diagnosis(report=False)]
    sick = kind(mlp(), rate)
    watched = train(sick, tmp_path, watchers)
    named = remedies(tmp_path)
    assert named
    assert all(f"about {finding.setting['lr']:g}" in finding.remedy for finding in named if finding.setting)
    rates = {finding.setting["lr"] for finding in named if finding.setting}
    assert len(rates) == 1  # the same before and after
    cured = kind(mlp(), rates.pop())
    train(cured, tmp_path)
    assert right(cured) > max(0.9, right(sick))
    bare = train(kind(mlp(), rate), tmp_path)
    assert all(torch.equal(bare[name].nan_to_num(), watched[name].nan_to_num()) for name in bare)


class Rising(Foreign):
    """A schedule that goes far beyond the configured rate."""

    def configure_optimizers(self) -> object:
        optimizer = torch.optim.SGD(self.parameters(), 0.05, momentum=0.9)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 1.3)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def test_where_the_schedule_is_at_fault_no_configured_rate_is_said_to_help(tmp_path: Path) -> None:
    train(Rising(mlp()), tmp_path, [*diagnostics()[:-1], Diagnosis(report=False)])
    findings = read_findings(tmp_path / "findings.json")
    assert "learning-rate-too-high" in {finding.cause for finding in findings if finding.alarming}
    assert remedies(tmp_path) == []


@pytest.mark.parametrize("probe", [False, True], ids=["may not probe", "has no time"])
def test_a_diagnosis_without_trials_names_no_rate(
    probe: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TRIAL_SECONDS", "TRIAL_SHARE"):
        monkeypatch.setattr(f"vitals.diagnosis.callback.{name}", 0.0)
    train(Foreign(mlp(), 30.0), tmp_path, [*diagnostics()[1:-1], Diagnosis(probe=probe, report=False)])
    [finding] = [f for f in read_findings(tmp_path / "findings.json") if f.cause == "learning-rate-too-high"]
    assert finding.setting is None
    assert finding.remedy == "Lower the learning rate from 30 until the first steps lower the loss."


def test_findings_of_before_have_no_setting(tmp_path: Path) -> None:
    path = tmp_path / "findings.json"
    finding = Finding("learning-rate-too-high", "fail", "It rose.", "Lower it.", setting={"lr": 0.03})
    write_findings([finding], path)
    assert read_findings(path) == [finding]
    [entry] = json.loads(path.read_text())
    del entry["setting"]
    path.write_text(json.dumps([entry]))
    assert read_findings(path)[0].setting is None


@pytest.mark.parametrize(
    ("cause", "rate"),
    [
        ("input-not-normalized", "learning-rate-too-high"),
        ("learning-rate-too-high", "learning-rate-too-low"),  # what large steps have killed moves no more
    ],
)
def test_a_rate_that_another_cause_brings_with_it_is_no_remedy(cause: str, rate: str) -> None:
    root = Finding(cause, "fail", "It is seen.", "Mend it.")
    follows = Finding(rate, "warn", "It is seen, too.", "Take 0.03.", setting={"lr": 0.03})
    assert without_consequences([follows]) == [follows]
    first, second = without_consequences([root, follows])
    assert first == root
    assert (second.level, second.remedy, second.setting) == ("note", "", None)
