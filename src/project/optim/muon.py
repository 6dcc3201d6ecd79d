"""Muon: steps made orthogonal for filters and matrices; SGD or AdamW for the rest, in one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.optim import SGD, AdamW, Optimizer

QUINTIC = 3.4445, -4.7750, 2.0315
"""Coefficients of a Newton–Schulz step by which singular values get near 1 fastest (Keller Jordan, 2024)."""
EPS = 1e-7
"""A gradient whose norm is below it stays small."""
REST: dict[str, Any] = {"adamw": AdamW, "sgd": SGD}


class Muon(Optimizer):
    """Orthogonalised momentum (Jordan et al., 2024), and an optimizer of torch's for groups with `rest`.

    The matrices of a step are made orthogonal together, where timm's Muon takes one after the other: on a GPU
    the host needs a quarter of the time.

    Args:
        params: parameter groups, with all arguments of their optimizers; see `muon`.
    """

    def __init__(self, params: Iterable[dict[str, Any]]) -> None:
        super().__init__(params, {})
        self._divide()

    def _divide(self) -> None:
        """Let torch's optimizers have their groups, and keep their state with ours."""
        self.others = []
        for kind, of in REST.items():
            if groups := [group for group in self.param_groups if group.get("rest") == kind]:
                self.others.append(of(groups))
                self.others[-1].state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._divide()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step, after `closure`, if there is one; returns its value."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if "rest" not in group:
                self._orthogonal_step(group)
        for other in self.others:
            other.step()
        return loss

    def _orthogonal_step(self, group: dict[str, Any]) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not parameters:
            return
        gradients: list[Any] = [parameter.grad for parameter in parameters]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        means = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(means, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, means, group["momentum"]) if group["nesterov"] else means
        directions = orthogonalized(updates, group["ns_steps"])
        if group["normalize"]:
            norms = torch._foreach_norm(parameters)
            scales = [len(each) ** 0.5 / norm for each, norm in zip(parameters, norms, strict=True)]
            torch._foreach_mul_(parameters, scales)
        elif group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, directions, alpha=-group["lr"])


def orthogonalized(updates: Sequence[Tensor], steps: int, together: bool | None = None) -> list[Tensor]:
    """For each of `updates`, D×…, as a matrix D×K the nearest one whose singular values are all about 1.

    Computed in bfloat16.

    Args:
        updates: on one device.
        steps: of Newton–Schulz.
        together: compute all at once, with zeros around the smaller ones, which change nothing; None does so
            on a GPU, where launching takes longer than computing.
    """
    matrices = [update.flatten(1) for update in updates]
    wide = [matrix.T if matrix.shape[0] > matrix.shape[1] else matrix for matrix in matrices]
    if updates[0].is_cuda if together is None else together:
        rows, columns = (max(sizes) for sizes in zip(*(matrix.shape for matrix in wide), strict=True))
        padded = [pad(each, (0, columns - each.shape[1], 0, rows - each.shape[0])) for each in wide]
        found: Sequence[Tensor] = _newton_schulz(torch.stack(padded).bfloat16(), steps).unbind()
    else:
        found = [_newton_schulz(matrix.bfloat16(), steps) for matrix in wide]
    made = []
    for update, matrix, its, direction in zip(updates, matrices, wide, found, strict=True):
        direction = direction[: its.shape[0], : its.shape[1]]
        direction = direction.T if matrix.shape != its.shape else direction
        made.append(direction.reshape(update.shape).to(update.dtype))
    return made


def _newton_schulz(x: Tensor, steps: int) -> Tensor:
    """B×D×K or D×K, D ≤ K, with the singular values of each taken to about 1."""
    a, b, c = QUINTIC
    multiplied = torch.baddbmm if x.ndim == 3 else torch.addmm
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=EPS)
    for _ in range(steps):
        gram = x @ x.mT
        x = multiplied(x, multiplied(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


def muon(
    network: nn.Module,
    lr: float,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_steps: int = 5,
    weight_decay: float = 0.0,
    normalize: bool = False,
    rest: Literal["adamw", "sgd"] = "adamw",
    rest_lr_scale: float = 1.0,
    rest_momentum: float = 0.0,
    rest_weight_decay: float = 0.0,
    betas: Sequence[float] = (0.9, 0.95),
    head_lr_scale: float | None = None,
    head_weight_decay: float = 0.0,
) -> Muon:
    """`Muon` for a network: its parameter groups are `filters`, `rest` and `head`.

    The head is the last matrix of the network (Keller Jordan, 2024), the rest are biases and norm scales.

    Args:
        network: whose parameters; frozen ones are left out.
        lr, momentum, nesterov, weight_decay: of the filters, all other matrices.
        ns_steps: of Newton–Schulz, to make a step orthogonal.
        normalize: give each filter a norm of 1 on average before every step, instead of the decay.
        rest: the optimizer of rest and head.
        rest_lr_scale, head_lr_scale: their rates, as shares of `lr`; None: the head's is that of the rest.
        rest_momentum: Nesterov's, where that is SGD.
        betas: of AdamW.
        rest_weight_decay, head_weight_decay: as that optimizer takes it.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    small = [parameter for parameter in parameters if parameter.ndim < 2]
    other: dict[str, Any] = {"rest": rest, "betas": tuple(betas)}
    if rest == "sgd":
        other = {"rest": rest, "momentum": rest_momentum, "nesterov": rest_momentum > 0}
    filters = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps, "normalize": normalize}
    of_filters = {"lr": lr, "weight_decay": weight_decay, **filters}
    of_rest = {"lr": lr * rest_lr_scale, "weight_decay": rest_weight_decay, **other}
    of_head = {"lr": lr * (head_lr_scale or rest_lr_scale), "weight_decay": head_weight_decay, **other}
    groups: list[dict[str, Any]] = [
        {"params": matrices[:-1], "name": "filters", **of_filters},
        {"params": small, "name": "rest", **of_rest},
        {"params": matrices[-1:], "name": "head", **of_head},
    ]
    return Muon([group for group in groups if group["params"]])
