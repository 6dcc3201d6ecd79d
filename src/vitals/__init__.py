"""Vitals: an experiment template that takes the vital signs of the training."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitals.callbacks.watching import diagnostics
    from vitals.callbacks.weight_average import WeightAverage
    from vitals.checks.gradient import check_gradients
    from vitals.findings import Finding

__all__ = ["Finding", "WeightAverage", "check_gradients", "diagnostics"]

_HOMES = {
    "Finding": "vitals.findings",
    "WeightAverage": "vitals.callbacks.weight_average",
    "check_gradients": "vitals.checks.gradient",
    "diagnostics": "vitals.callbacks.watching",
}


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import vitals` does without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'vitals' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
