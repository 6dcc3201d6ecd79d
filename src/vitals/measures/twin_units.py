"""Units of a layer that start alike and so, getting the same gradient, stay alike."""

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

ALIKE = 1e-6
"""Largest difference between units, as a share of the largest weight, that is rounding."""


def rows_alike(weight: Tensor) -> bool:
    """Whether all output units of `weight` (units, ...) have the same weights; False for fewer than two
    units."""
    if weight.ndim < 2 or len(weight) < 2 or weight[0].numel() < 1:
        return False
    rows = weight.detach().flatten(1)
    return float((rows - rows[:1]).abs().max()) <= ALIKE * float(rows.abs().max())


def twin_weights(model: nn.Module) -> dict[str, Tensor]:
    """The trained weights of `model`, by name, whose units are all alike; a zeroed last layer is among
    them."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad and rows_alike(p)}


def constant_weights(model: nn.Module) -> list[str]:
    """Names of linear and convolutional weights that are all one number, though not 0.

    Random biases keep their units from being exact twins, but leave one direction of the input to all of
    them.
    """
    return [
        f"{name}.weight".lstrip(".")
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | _ConvNd)
        and rows_alike(module.weight)
        and module.weight[0].numel() > 1
        and bool((module.weight != 0).all() & (module.weight == module.weight.flatten()[0]).all())
    ]
