"""What loggers show of a run: few groups of names, and TensorBoard's charts in the order of the course."""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

Charts = Mapping[str, Mapping[str, list[Any]]]
"""Curves that stand on one chart, as TensorBoard's custom scalars: category, chart, kind and tags."""

NAMES = {
    "loss_noise": "loss/noise",
    "update_ratio_summary/": "update_ratio/_",
    "update_ratio_band/": "update_ratio/_band_",
    "weight_norm/": "weights/norm/",
    "activation_mean/": "activations/mean/",
    "activation_std/": "activations/std/",
    "activation_variance/": "activations/variance/",
    "dead_units/": "activations/dead_units/",
    "saturated_units/": "activations/saturated_units/",
    "gradient_variance/": "gradients/variance/",
    "gradient_noise/": "gradients/noise/",
    "gradient_norm": "gradients/norm",
    "old_gradient": "gradients/old",
    "first_layer/": "filters/",
    "images_per_second": "run/images_per_second",
    "memory_gib": "run/memory_gib",
    **{f"{kind}/": f"run/{kind}/" for kind in ("best", "last", "average", "test")},
}
"""How the names of the history begin, and what loggers show instead; any other name is the same in both.

What stands before the first stroke is a group in TensorBoard and most others: with these they are twelve,
accuracy, activations, checks, filters, gradients, loss, lr, momentum, run, update_ratio, val_average and
weights.
"""

CATEGORIES = (
    *("before learning", "loss", "accuracy", "update ratio", "activations", "gradients", "first layer"),
    *("learning rate and momentum", "weight average", "speed"),
)
"""Of TensorBoard's custom scalars, in the order of the course; it shows all else by the alphabet."""


@cache
def in_groups(tag: str) -> str:
    """The name under which loggers show what the history calls `tag`."""
    for beginning, shown in NAMES.items():
        if tag == beginning or (beginning.endswith("/") and tag.startswith(beginning)):
            return shown + tag[len(beginning) :]
    return tag


def joined(charts: Iterable[Charts]) -> dict[str, dict[str, list[Any]]]:
    """All charts, in the order of the course; categories that it does not know come last."""
    found: dict[str, dict[str, list[Any]]] = {name: {} for name in CATEGORIES}
    for several in charts:
        for category, named in several.items():
            found.setdefault(category, {}).update(named)
    return {category: named for category, named in found.items() if named}
