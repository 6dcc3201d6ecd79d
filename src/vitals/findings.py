"""Findings: what every check, monitor and rule says, in one record and one order of importance.

The cause codes of faults are a closed list, so that a tool that reads `findings.json` can rely on them. A
check that passed speaks under its own name at level `ok`; a check that could not run, under `skipped`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from vitals.errors import did_you_mean

_RATE = ("learning-rate-too-high", "learning-rate-too-low")
_SIGNAL = ("exploding-gradients", "vanishing-gradients", "dead-relu", "saturated-activations")
_LEARNING = ("underfitting", "labels-random", *_RATE)

CONSEQUENCES: dict[str, tuple[str, ...]] = {
    "input-constant": (
        *_SIGNAL,
        *_LEARNING,
        "input-not-normalized",
        "bad-initialization",
        "wrong-initial-loss",
    ),
    "input-not-normalized": (
        *_SIGNAL,
        *_LEARNING,
        "bad-initialization",
        "wrong-initial-loss",
        "non-finite-loss",
    ),
    "eval-mode-training": (*_SIGNAL, *_LEARNING, "bad-initialization", "wrong-initial-loss"),
    "bad-initialization": (*_SIGNAL, *_LEARNING, "wrong-initial-loss", "non-finite-loss"),
    "wrong-gradient": (*_LEARNING, "vanishing-gradients", "frozen-parameters"),
    "double-softmax": (*_LEARNING, "vanishing-gradients", "saturated-activations"),
    "frozen-parameters": _LEARNING,
    "dead-relu": (*_LEARNING, "vanishing-gradients"),
    "saturated-activations": (*_LEARNING, "vanishing-gradients", "wrong-initial-loss"),
    "vanishing-gradients": _LEARNING,
    "exploding-gradients": (*_LEARNING, "wrong-initial-loss", "non-finite-loss"),
    "non-finite-loss": (*_LEARNING, "wrong-initial-loss"),
    "wrong-initial-loss": _RATE,
    "regularization-too-strong": (*_RATE, *_SIGNAL, "underfitting"),
    "gradients-accumulate": (*_SIGNAL, *_LEARNING, "batch-too-small", "non-finite-loss"),
    "batch-too-small": (*_SIGNAL, *_LEARNING, "non-finite-loss"),
    "learning-rate-too-high": ("exploding-gradients", "underfitting", "labels-random"),
    "train-val-mismatch": ("overfitting",),
    "labels-random": ("overfitting",),
    "data-not-shuffled": ("labels-random", "class-imbalance"),
    "class-imbalance": ("labels-random",),
}
"""What each fault brings with it in a network that is otherwise right."""


def without_consequences(findings: Iterable[Finding]) -> list[Finding]:
    """The same findings in the same order, those that follow from another one lowered to notes.

    Of two causes that may each follow from the other none is lowered.
    """
    findings = list(findings)
    alarms = {finding.cause for finding in findings if finding.alarming}
    return [_lowered(finding, alarms) if finding.alarming else finding for finding in findings]


def _lowered(finding: Finding, alarms: set[str]) -> Finding:
    roots = [
        root
        for root, follows in CONSEQUENCES.items()
        if root in alarms and finding.cause in follows and root not in CONSEQUENCES.get(finding.cause, ())
    ]
    if not roots:
        return finding
    message = f"{finding.message} It follows from {roots[0]}."
    return replace(finding, level="note", message=message)


Level = Literal["ok", "note", "warn", "fail"]
LEVELS: tuple[Level, ...] = get_args(Level)

FAULTS: dict[str, str] = {
    "learning-rate-too-high": "steps are so large that the loss diverges, bounces or stays at chance",
    "learning-rate-too-low": "steps are so small that nothing is learned in the time given",
    "non-finite-loss": "the loss, a gradient or an input becomes NaN or infinite",
    "exploding-gradients": "gradients grow by orders of magnitude through the layers or over time",
    "vanishing-gradients": "gradients shrink to nothing before they reach the first layers",
    "dead-relu": "many units output zero for every input and cannot recover",
    "saturated-activations": "sigmoid, tanh or softmax units sit at their limits, where the slope is zero",
    "bad-initialization": "the starting weights or biases have a wrong scale, or are all the same",
    "frozen-parameters": "a parameter that should train never receives an update",
    "wrong-gradient": "a hand-written backward does not match its forward",
    "wrong-initial-loss": "the loss before training is far from that of a uniform guess",
    "double-softmax": "probabilities are fed to a loss that applies softmax itself",
    "gradients-accumulate": "gradients are not cleared between steps",
    "eval-mode-training": "training runs with layers in evaluation mode",
    "train-mode-evaluation": "validation runs with layers in training mode",
    "input-not-normalized": "inputs are on a scale the network was not made for",
    "input-constant": "the inputs carry no information: all the same, or zeroed",
    "labels-random": "labels do not belong to their images",
    "class-imbalance": "a few classes make up nearly all of the training set",
    "data-not-shuffled": "batches follow an order that goes with the label",
    "batch-too-small": "gradients from a tiny batch are mostly noise at this learning rate",
    "regularization-too-strong": "weight decay, dropout or the like leaves too little room to learn",
    "overfitting": "training loss keeps falling while validation loss rises",
    "underfitting": "the model is too weak to fit even the training set",
    "train-val-mismatch": "validation data are prepared differently from training data",
}
"""Cause code of every fault, with what it means."""

CHECKS: dict[str, str] = {
    "gradients-correct": "the analytic gradients agree with centred differences",
    "difference-step": "the step at which a centred difference is nearest to the gradient",
    "loss-at-chance": "the loss before training is that of a uniform guess",
    "regularization-raises-loss": "a stronger penalty gives a larger loss",
    "tiny-subset-fits": "twenty examples can be learned by heart",
    "inputs-informative": "real inputs teach more than zeroed ones, and what they teach generalizes",
    "wiring-correct": "every parameter learns, images do not leak into each other, modes are right",
    "inputs-prepared": "inputs, labels and batches are prepared as they should be",
    "step-size-sensible": "the first update lowers the loss by a fair share of what is possible",
    "variance-level": "the variance of the activations stays level through the network",
    "skipped": "a check that could not run, with the reason",
}
"""Code of every check that can pass, and `skipped`."""

CAUSES: dict[str, str] = FAULTS | CHECKS


@dataclass(frozen=True)
class Finding:
    """One thing that was seen, what it means and what to do about it."""

    cause: str
    """A code from `CAUSES`."""
    level: Level
    message: str
    """One sentence saying what was seen."""
    remedy: str = ""
    """One sentence saying what to do; empty where nothing is to be done."""
    where: str = ""
    """The layer, parameter or quantity concerned."""
    value: float | None = None
    threshold: float | None = None
    step: int = 0
    """Optimizer steps taken when it was seen."""
    epoch: float = 0.0
    """Epochs, with their fraction, when it was seen."""

    def __post_init__(self) -> None:
        if self.cause not in CAUSES:
            raise ValueError(f"unknown cause code '{self.cause}': {did_you_mean(self.cause, CAUSES)}")
        if self.level not in LEVELS:
            raise ValueError(f"unknown level '{self.level}': {did_you_mean(self.level, LEVELS)}")

    @property
    def alarming(self) -> bool:
        """Whether the finding says that something is wrong."""
        return self.level in ("warn", "fail")


def ranked(findings: Iterable[Finding]) -> list[Finding]:
    """Most important first: by level, and within a level in the order given."""
    return sorted(findings, key=lambda finding: -LEVELS.index(finding.level))


def worst_level(findings: Iterable[Finding]) -> Level:
    """The gravest level among `findings`; `ok` where there are none."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")


def write_findings(findings: Iterable[Finding], path: Path) -> None:
    """Write `findings` to `path` as a JSON list, most important first.

    JSON has no NaN or infinity, so such numbers are written as null; the message still says them.
    """
    entries = [{key: _plain(value) for key, value in asdict(finding).items()} for finding in ranked(findings)]
    text = json.dumps(entries, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def read_findings(path: Path) -> list[Finding]:
    """The findings in the JSON file at `path`, in the order of the file. Unknown keys are left out."""
    known = {field.name for field in fields(Finding)}
    entries: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return [Finding(**{key: value for key, value in entry.items() if key in known}) for entry in entries]


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
