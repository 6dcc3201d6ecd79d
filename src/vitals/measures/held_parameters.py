"""The parameters that optimizers have: which, under which names, and at which rates."""

from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer


def param_groups(*optimizers: Optimizer) -> list[dict[str, Any]]:
    """All parameter groups of `optimizers`, in their order."""
    return [group for optimizer in optimizers for group in optimizer.param_groups]


def held_parameters(*optimizers: Optimizer) -> list[Tensor]:
    """Those of all groups of `optimizers`, in their order."""
    return [parameter for group in param_groups(*optimizers) for parameter in group["params"]]


def held_identities(*optimizers: Optimizer) -> set[int]:
    """The same, by identity: a parameter is equal to no other, but compared number by number."""
    return set(map(id, held_parameters(*optimizers)))


def shown_name(name: str) -> str:
    """The name of a parameter or layer, without the wrappers of compilation and of DDP."""
    return name.replace("_orig_mod.", "").removeprefix("module.")


def names_by_identity(module: nn.Module) -> dict[int, str]:
    """The shown names of the parameters of `module`, by identity."""
    return {id(parameter): shown_name(name) for name, parameter in module.named_parameters()}


def configured_rate(group: dict[str, Any]) -> float:
    """The learning rate of a parameter group before any schedule has changed it."""
    return float(group.get("initial_lr", group["lr"]))


def highest_rates(*optimizers: Optimizer) -> dict[int, float]:
    """The learning rate of each parameter, by identity: the present or the configured one, whichever is
    larger, as a warm-up may start from 0."""
    return {
        id(parameter): max(float(group["lr"]), configured_rate(group))
        for group in param_groups(*optimizers)
        for parameter in group["params"]
    }
