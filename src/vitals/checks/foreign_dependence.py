"""Do outputs depend on what they should not know: other samples, the token that they are to foretell?"""

from typing import Any

import torch
from torch import Tensor

from vitals.checks.training_setup import cut
from vitals.measures.graph_leaves import graph_leaves
from vitals.probes.trial import Inputs, Trial

ROUNDING = 1e-4
"""Share of the outputs by which other samples in the batch may change them through rounding."""
SEQUENCES, SHORTEST = 8, 4
"""Sequences of tokens that are looked at, and places below which they are none."""


def dependence_on_others(copies: Trial, inputs: Inputs) -> float:
    """How much output i depends on input j, over how much on itself: by derivatives, and where there are
    none, as of whole numbers, by putting other samples in their places."""
    if not isinstance(inputs, Tensor):
        return float("nan")
    x = inputs[:4].detach().clone()
    outputs = copies.outputs(x.requires_grad_() if x.is_floating_point() else x).reshape(len(x), -1)
    largest, largest_other = 0.0, 0.0
    if not x.requires_grad or id(x) not in map(id, graph_leaves(outputs)):  # or the step cuts it off
        some = x.detach()
        with torch.no_grad():
            for i in (0, len(some) - 1):
                mixed = some.roll(1, 0)
                mixed[i] = some[i]
                changes = (copies.outputs(mixed).reshape(len(x), -1) - outputs).abs().amax(dim=1)
                largest_other = max(largest_other, float(changes[i]))
                changes[i] = 0
                largest = max(largest, float(changes.max()))
            rounding = ROUNDING * float(outputs.abs().max())
        return largest_other / max(largest, rounding) if largest_other > rounding else 0.0
    # Random weights, since outputs that sum to 1 have no gradient in their sum.
    weights = torch.rand(outputs.shape[1], device=outputs.device).to(outputs.dtype)
    for i in range(len(x)):
        (gradient,) = torch.autograd.grad(outputs[i] @ weights, x, retain_graph=True, allow_unused=True)
        if gradient is None:
            continue
        sizes = gradient.flatten(1).abs().amax(dim=1)
        largest = max(largest, float(sizes[i]))
        sizes[i] = 0
        largest_other = max(largest_other, float(sizes.max()))
    return largest_other / largest if largest > 0 else float(largest_other > 0)


@torch.no_grad()
def dependence_on_what_follows(copies: Trial, inputs: Inputs, targets: Any) -> float:
    """Share of the places of sequences (N, T) of tokens whose target is the token that follows, where outputs
    (N, T, C) change with that; else 0. What the target of a place is, its gradient says: the loss wants more
    of that output alone."""
    if not isinstance(inputs, Tensor) or inputs.is_floating_point() or inputs.ndim != 2:
        return 0.0
    some, given = cut(inputs, SEQUENCES), cut(targets, SEQUENCES)
    if some.shape[1] < SHORTEST:
        return 0.0
    outputs = copies.outputs(some)
    if outputs.ndim != 3 or outputs.shape[:2] != some.shape:
        return 0.0
    with torch.enable_grad():
        asked = torch.zeros_like(outputs).requires_grad_()
        (pull,) = torch.autograd.grad(copies.loss_of(asked, given), asked, allow_unused=True)
    if pull is None or not bool(((pull < 0).sum(2) <= 1).all()):
        return 0.0
    following, told = some[:, 1:], (pull < 0).any(2)[:, :-1]
    if not bool(told.any()):
        return 0.0
    share = float((pull.argmin(2)[:, :-1] == following)[told].float().mean())
    place = some.shape[1] // 2
    other = some.clone()
    other[:, place] = other[:, place].roll(1)
    moved = other[:, place] != some[:, place]
    change = (copies.outputs(other) - outputs)[:, :place].abs().amax()
    sees = bool(moved.any()) and float(change) > ROUNDING * float(outputs.abs().max())
    return share if sees else 0.0
