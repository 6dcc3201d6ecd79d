"""The parameters that optimizers have."""

from torch import Tensor
from torch.optim import Optimizer


def held_parameters(*optimizers: Optimizer) -> list[Tensor]:
    """Those of all groups of `optimizers`, in their order."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return [parameter for group in groups for parameter in group["params"]]


def held_identities(*optimizers: Optimizer) -> set[int]:
    """The same, by identity: a parameter is equal to no other, but compared number by number."""
    return set(map(id, held_parameters(*optimizers)))
