"""A few samples of every class."""

from __future__ import annotations

import torch
from torch import Tensor

from vitals.errors import UserError


def balanced_subset(inputs: Tensor, targets: Tensor, size: int) -> Tensor:
    """Where `size` samples (n,) of `inputs` (N, ...) stand, in their order, on the CPU.

    They are spread evenly over the first size / 2 of the classes in `targets` (N,); repeated samples are
    taken last.

    Raises:
        UserError: if there is one class only.
    """
    _, group = inputs.flatten(1).unique(dim=0, return_inverse=True)
    first_of_its_kind = torch.zeros(len(inputs), dtype=torch.bool)
    seen: set[int] = set()
    for position, number in enumerate(group.tolist()):
        first_of_its_kind[position] = number not in seen
        seen.add(number)
    labels = targets.cpu()
    present = labels.unique()[: size // 2]
    if len(present) < 2:
        raise UserError("targets: samples of at least two classes are needed.")
    queues = []
    for label in present:
        members = torch.where(labels == label)[0]
        order = torch.argsort(first_of_its_kind[members].int(), descending=True, stable=True)
        queues.append(members[order].tolist())
    chosen: list[int] = []
    while len(chosen) < size and any(queues):
        chosen += [queue.pop(0) for queue in queues if queue]
    return torch.tensor(sorted(chosen[:size]))
