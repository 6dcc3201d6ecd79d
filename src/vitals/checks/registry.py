"""The checks by name: which there are, and where each of them is. Importable without torch."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from vitals.errors import UserError, did_you_mean, failed_at, one_line, reason_of

if TYPE_CHECKING:
    from vitals.checks.check import Check

BUILT_IN = {
    "inputs": "vitals.checks.inputs.InputsCheck",
    "wiring": "vitals.checks.wiring.WiringCheck",
    "outputs": "vitals.checks.outputs.OutputsCheck",
    "running_statistics": "vitals.checks.running_statistics.RunningStatisticsCheck",
    "validation_mode": "vitals.checks.validation_mode.ValidationModeCheck",
    "gradients": "vitals.checks.gradients.check.GradientsCheck",
    "gradients_after_burn_in": "vitals.checks.gradients.check.GradientsAfterBurnInCheck",
    "difference_step": "vitals.checks.gradients.step_study.DifferenceStepCheck",
    "loss_at_chance": "vitals.checks.loss_at_chance.LossAtChanceCheck",
    "layer_variance": "vitals.checks.layer_variance.LayerVarianceCheck",
    "regularization": "vitals.checks.regularization.RegularizationCheck",
    "tiny_subset": "vitals.checks.tiny_subset.TinySubsetCheck",
    "informative_inputs": "vitals.checks.informative_inputs.InformativeInputsCheck",
    "step_size": "vitals.checks.step_size.StepSizeCheck",
}
"""By name, in the order in which a fault of one explains those of later ones."""

GROUPS = {
    "default": tuple(name for name in BUILT_IN if name != "difference_step"),
    "full": tuple(BUILT_IN),
}
"""Names that stand for several: `default` for those worth their time before every run."""


def require_name(name: str) -> str:
    """`name`, if it may name a check: a built-in one, a group of them, or the dotted path of anybody's own;
    `UserError` naming the nearest that there are. Nothing is imported, so that a path may still lead
    nowhere."""
    if "." not in name and name not in BUILT_IN | GROUPS:
        raise UserError(f"there is no check '{name}': {did_you_mean(name, BUILT_IN | GROUPS)}")
    return name


def load_checks(chosen: Iterable[str | Check]) -> list[Check]:
    """The checks that `chosen` names, each once: the built-in ones in their order, then the others in theirs.

    Args:
        chosen: names, as `require_name` takes them, and checks themselves. A dotted path leads to a class
            that derives from `Check` and needs no arguments, or to a check: `my_package.my_check.MyCheck`.

    Raises:
        UserError: if there is no check of a name, or two have the same one.
    """
    names: dict[str, None] = {}
    others: list[Check] = []
    for choice in chosen:
        if not isinstance(choice, str):
            others.append(choice)
        elif "." in require_name(choice):
            others.append(_load(choice))
        else:
            names |= dict.fromkeys(GROUPS.get(choice, (choice,)))
    checks = [_load(path) for name, path in BUILT_IN.items() if name in names] + others
    taken = set(BUILT_IN)
    for check in others:
        if check.name in taken:
            path = f"{type(check).__module__}.{type(check).__qualname__}"
            raise UserError(f"two checks are called '{check.name}': give {path} another name.")
        taken.add(check.name)
    return checks


def _load(path: str) -> Check:
    from vitals.checks.check import Check

    try:
        found: Any = pkgutil.resolve_name(path)
    except Exception as error:  # of a module of somebody's own, which is imported here
        said = reason_of(error) if failed_at(error) else f"{one_line(error)}."
        raise UserError(f"the check '{path}' cannot be imported: {said}") from error
    if isinstance(found, type) and issubclass(found, Check):
        found = found()
    if not isinstance(found, Check):
        raise UserError(f"'{path}' is no check: give a class that derives from vitals.checks.check.Check.")
    return found
