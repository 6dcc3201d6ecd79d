"""All checks before learning, one after the other: what was seen, what was expected, findings."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from vitals.checks.dropout_left_on import dropout_left_on
from vitals.checks.gradients.check import check_gradients
from vitals.checks.gradients.step_study import step_size_study
from vitals.checks.informative_inputs import CHANCE_SCORE, check_informative_inputs
from vitals.checks.inputs import check_inputs
from vitals.checks.layer_variance import STEEP, check_layer_variance
from vitals.checks.loss_at_chance import NEAR, check_loss_at_chance
from vitals.checks.regularization import STRONGER, check_regularization
from vitals.checks.step_size import check_step_size
from vitals.checks.subject import Subject
from vitals.checks.tiny_subset import ZERO, check_tiny_subset
from vitals.checks.wiring import check_wiring
from vitals.errors import UserError
from vitals.findings import Finding, Level, without_consequences, worst_level
from vitals.probes.trial import trial


@dataclass(frozen=True)
class Options:
    """How thorough the checks are."""

    elements: int = 1
    """Elements of every parameter whose gradient is compared, besides the largest."""
    burn_in_steps: int = 0
    """Steps of training on a copy before a second check of the gradient; 0 for none."""
    tiny_subset_steps: int = 300
    """Steps in which twenty examples must be learned."""
    samples: int = 1024
    """Training samples to look at."""


class Result(Protocol):
    """What every check returns."""

    def findings(self) -> list[Finding]: ...


@dataclass(frozen=True)
class Row:
    """One check, made or skipped."""

    check: str
    seen: str
    expected: str
    findings: tuple[Finding, ...]
    result: Any
    """What the check returned; None where it was skipped."""
    seconds: float

    @property
    def level(self) -> Level:
        """The gravest of its findings."""
        return worst_level(self.findings)

    @property
    def verdict(self) -> str:
        """Its level, or `skipped`."""
        return "skipped" if all(finding.cause == "skipped" for finding in self.findings) else self.level


Look = tuple[Result, str, str]
"""A check's result, what was seen and what was expected."""


def _inputs(subject: Subject, options: Options) -> Look:
    model, inputs, targets = subject.model, subject.inputs[:512], subject.targets[:512]
    with trial(model) as copies:
        classes = copies.outputs(inputs[:4]).shape[-1]
    result = check_inputs(
        inputs,
        targets,
        classes,
        label_batches=subject.label_batches,
        validation_inputs=subject.validation_inputs,
        model=model,
    )
    mean, sd = (
        ", ".join(f"{value:.2f}" for value in values[:3]) for values in (result.train.mean, result.train.sd)
    )
    return result, f"mean {mean}; sd {sd}", "mean 0, sd 1, shuffled labels"


def _wiring(subject: Subject, options: Options) -> Look:
    result = check_wiring(subject.model, subject.loss, *subject.batch(64), subject.optimizers)
    names = [name for name, parameter in subject.model.named_parameters() if parameter.requires_grad]
    cut = {*result.unreached, *result.zero_gradient, *result.not_in_optimizer}
    return result, f"{len(names) - len(cut)} of {len(names)} parameters learn", "all of them"


def _validation_mode(subject: Subject, options: Options) -> Look:
    if subject.training_layers_in_validation is None:
        raise UserError("There is no validation step to look at.")
    with trial(subject.model) as copies:
        result = _ValidationMode(
            subject.training_layers_in_validation, tuple(dropout_left_on(copies.model, subject.inputs[:4]))
        )
    return result, "training" if result.training else "evaluation", "evaluation"


@dataclass(frozen=True)
class _ValidationMode:
    training: bool
    dropout: tuple[str, ...]
    """Functions that drop values in evaluation mode too."""

    def findings(self) -> list[Finding]:
        if self.dropout and not self.training:
            seen = f"In evaluation mode F.{self.dropout[0]} goes on dropping values."
            remedy = "Give it training=self.training (a rate of 0 in attention), or use nn.Dropout."
            return [Finding("train-mode-evaluation", "warn", seen, remedy, f"F.{self.dropout[0]}")]
        if not self.training:
            return [Finding("wiring-correct", "ok", "Validation runs in evaluation mode.")]
        seen = "Validation calls the network in training mode, with dropout and batch statistics on."
        remedy = "Take train() out of the validation step; Lightning sets the mode."
        return [Finding("train-mode-evaluation", "warn", seen, remedy, "validation step")]


def _gradients(subject: Subject, options: Options, burn_in_steps: int = 0) -> Look:
    result = check_gradients(
        subject.model,
        subject.loss,
        *subject.batch(64),
        elements=options.elements,
        check_inputs=subject.inputs.is_floating_point(),
        burn_in_steps=burn_in_steps,
    )
    error = result.max_error
    seen = "nothing to compare" if error is None else f"relative error {error:.1e} at most"
    return result, seen, "up to 1e-4 (kinks), 1e-6 (none)"


def _gradients_after_burn_in(subject: Subject, options: Options) -> Look:
    return _gradients(subject, options, options.burn_in_steps)


def _difference_step(subject: Subject, options: Options) -> Look:
    result = step_size_study(subject.model, subject.loss, *subject.batch(64), elements=1)
    best = result.best_step
    return result, "kinks everywhere" if best is None else f"h = {best:.0e} is best", "between 1e-4 and 1e-6"


def _loss_at_chance(subject: Subject, options: Options) -> Look:
    inputs, targets = subject.inputs[:512], subject.targets[:512]
    result = check_loss_at_chance(subject.model, subject.loss, inputs, targets, subject.optimizer_or_none())
    return result, f"{result.loss:.4g}", f"{result.chance:.4g} ± {NEAR:.0%}"


def _layer_variance(subject: Subject, options: Options) -> Look:
    result = check_layer_variance(subject.model, subject.inputs[:128], subject.optimizer_or_none())
    return result, f"{result.slope:+.2f} decades a layer", f"within ±{STEEP}"


def _regularization(subject: Subject, options: Options) -> Look:
    result = check_regularization(subject.model, subject.loss, *subject.batch(128), subject.only_optimizer())
    losses = (result.data_loss, result.total_loss(), result.total_loss(STRONGER))
    return result, " → ".join(f"{loss:.4g}" for loss in losses), "rising with the weight decay"


def _tiny_subset(subject: Subject, options: Options) -> Look:
    _require_fixed_loss(subject)
    result = check_tiny_subset(
        subject.model,
        subject.loss,
        subject.inputs,
        subject.targets,
        subject.optimizer_or_none(),
        options.tiny_subset_steps,
    )
    final = result.final
    seen = f"loss {final.losses[-1]:.4g}, accuracy {final.accuracy:.0%} after {len(final.losses) - 1} steps"
    return result, seen, f"loss below {result.perfect + ZERO:.3g}, 100%"


def _step_size(subject: Subject, options: Options) -> Look:
    optimizer = subject.only_optimizer()
    batch = subject.batch(128)
    result = check_step_size(subject.model, subject.loss, *batch, optimizer, subject.total_steps)
    configured = result.losses[result.factors.index(1.0)]
    best = min(result.losses, key=lambda loss: loss if math.isfinite(loss) else math.inf)
    return (
        result,
        f"{result.start:.4g} → {configured:.4g}; {best:.4g} at best",
        "no rise, a share of the best",
    )


def _informative_inputs(subject: Subject, options: Options) -> Look:
    _require_fixed_loss(subject)
    result = check_informative_inputs(subject.model, subject.loss, subject.inputs, subject.targets)
    seen = f"held-out accuracy {result.held_out_accuracy:.0%}, {result.held_out_score:.1f} sd above chance"
    return result, seen, f"{CHANCE_SCORE:g} sd or more"


def _require_fixed_loss(subject: Subject) -> None:
    if subject.loss_is_random:
        raise UserError("The loss draws random numbers, so that it has no least value (mixup?).")


CHECKS: dict[str, Callable[[Subject, Options], Look]] = {
    "inputs": _inputs,
    "wiring": _wiring,
    "validation_mode": _validation_mode,
    "gradients": _gradients,
    "gradients_after_burn_in": _gradients_after_burn_in,
    "difference_step": _difference_step,
    "loss_at_chance": _loss_at_chance,
    "layer_variance": _layer_variance,
    "regularization": _regularization,
    "tiny_subset": _tiny_subset,
    "informative_inputs": _informative_inputs,
    "step_size": _step_size,
}
"""By name, in the order in which a fault of one explains those of later ones."""

STANDARD = tuple(name for name in CHECKS if name != "difference_step")
"""Those worth their time before every run."""


def run_checks(
    subject: Subject,
    options: Options,
    names: Sequence[str] = STANDARD,
    before: Callable[[str], None] = lambda name: None,
) -> list[Row]:
    """Make the checks of these `names` one after the other; none of them raises.

    What goes wrong inside a check becomes its finding `skipped`. `before` is called with the name of each
    check that begins.
    """
    rows = []
    for name, check in CHECKS.items():
        if name not in names or (name == "gradients_after_burn_in" and not options.burn_in_steps):
            continue
        before(name)
        start = time.perf_counter()
        try:
            result, seen, expected = check(subject, options)
            found = result.findings()
        except UserError as error:
            result, seen, expected, found = None, "–", "–", [skipped(name, str(error))]
        except Exception as error:  # a check must never end a training
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            result, seen, expected, found = None, "–", "–", [skipped(name, reason)]
        rows.append(Row(name, seen, expected, tuple(found), result, time.perf_counter() - start))
    return rows


def skipped(name: str, reason: str) -> Finding:
    """That the check called `name` could not be made, and why."""
    return Finding("skipped", "note", f"{name.replace('_', ' ').capitalize()}: {reason}", where=name)


def findings_of(rows: Sequence[Row]) -> list[Finding]:
    """The findings of all rows, consequences lowered to notes."""
    return without_consequences(finding for row in rows for finding in row.findings)
