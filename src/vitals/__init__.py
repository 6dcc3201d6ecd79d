"""Vitals: an experiment template that takes the vital signs of the training."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitals.averaging.weight_average import WeightAverage
    from vitals.checks.gradients.check import check_gradients
    from vitals.findings import Finding
    from vitals.presets import Diagnostics, diagnostics

__all__ = ["Diagnostics", "Finding", "WeightAverage", "check_gradients", "diagnostics"]

_HOMES = {
    "Diagnostics": "vitals.presets",
    "Finding": "vitals.findings",
    "WeightAverage": "vitals.averaging.weight_average",
    "check_gradients": "vitals.checks.gradients.check",
    "diagnostics": "vitals.presets",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import vitals` does without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vitals' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
