"""Which fault follows from which, so that a consequence is not reported beside its root."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from vitals.findings import Finding

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
