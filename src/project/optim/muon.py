"""Muon (Jordan et al., 2024): steps made orthogonal for filters and matrices, AdamW for the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice, repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

QUINTIC = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
"""Coefficients of each Newton–Schulz step, the last ones of all further steps too (F. L. Cesista, 2025)."""


class Muon(Optimizer):
    """Makes the matrices of a step orthogonal together on a GPU, which spares the host most of the launches;
    on a CPU the steps of filters are those of `timm.optim.Muon`, to the bit. `params` are groups with all
    their settings; see `muon`. AdamW trains those with `betas`."""

    adamw: AdamW | None = None  # made in the first step; copies make their own

    def __init__(self, params: Iterable[dict[str, Any]]) -> None:
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step, after `closure`, if there is one; returns its value."""
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            if "betas" in group:
                if self.adamw is None or self.adamw.param_groups[0] is not group:
                    self.adamw = AdamW([group], fused=group["params"][0].is_cuda or None)
                self.adamw.state = self.state
                self.adamw.step()
            else:
                self._orthogonal_step(group)
        return loss

    def _orthogonal_step(self, group: dict[str, Any]) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        gradients: list[Any] = [parameter.grad for parameter in parameters]
        if not parameters:
            return
        for parameter in parameters:
            self.state[parameter] = self.state[parameter] or {"momentum_buffer": torch.zeros_like(parameter)}
        means = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
        torch._foreach_lerp_(means, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, means, group["momentum"]) if group["nesterov"] else means
        together = [updates] if updates[0].is_cuda else [[update] for update in updates]
        directions = [each for part in together for each in orthogonalized(part, group["ns_steps"])]
        if group["normalize"]:
            torch._foreach_div_(parameters, torch._foreach_norm(parameters))
            torch._foreach_mul_(parameters, [len(each) ** 0.5 for each in parameters])
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, directions, alpha=-group["lr"])


def orthogonalized(updates: Sequence[Tensor], steps: int) -> list[Tensor]:
    """For each of `updates`, D×…, as a matrix D×K, the nearest one whose singular values are about 1, by
    Newton–Schulz in bfloat16; all together with zeros around the smaller ones, which change nothing."""
    matrices = [update.flatten(1) for update in updates]
    rows, columns = (max(pick(matrix.shape) for matrix in matrices) for pick in (min, max))
    x = matrices[0].new_zeros(len(matrices), rows, columns, dtype=torch.bfloat16)
    torch._foreach_copy_(_within(x, matrices), matrices)
    x, multiplied = (x, torch.baddbmm) if len(x) > 1 else (x[0], torch.addmm)  # which a CPU is faster at
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for a, b, c in islice(chain(QUINTIC, repeat(QUINTIC[-1])), steps):
        gram = x @ x.mT
        x = multiplied(x, multiplied(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    found = _within(x.view(-1, rows, columns), matrices)
    return [each.unflatten(1, of.shape[1:]) for each, of in zip(found, updates, strict=True)]


def _within(x: Tensor, matrices: Sequence[Tensor]) -> list[Tensor]:
    """The places of matrices D×K in `x`, laid on their side where D > K."""
    wide = [each[: min(of.shape), : max(of.shape)] for each, of in zip(x, matrices, strict=True)]
    return [each if len(each) == len(of) else each.T for each, of in zip(wide, matrices, strict=True)]


def muon(
    network: nn.Module,
    lr: float,
    momentum: float = 0.95,
    nesterov: bool = True,
    ns_steps: int = 5,
    weight_decay: float = 0.0,
    normalize: bool = False,
    rest_lr_scale: float = 1.0,
    betas: Sequence[float] = (0.9, 0.95),
) -> Muon:
    """`Muon` for the trainable parameters of a network: `filters`, and `rest`, which are biases, scales of
    norms and the head, the last matrix (Keller Jordan, 2024). What each argument is stands in its YAML."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.ndim >= 2]
    rest = [parameter for parameter in parameters if parameter.ndim < 2] + matrices[-1:]
    of_filters = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps, "normalize": normalize}
    of_filters |= {"lr": lr, "weight_decay": weight_decay}
    of_rest = {"lr": lr * rest_lr_scale, "weight_decay": 0.0, "betas": tuple(betas)}
    groups: list[dict[str, Any]] = [{"params": matrices[:-1], "name": "filters", **of_filters}]
    groups.append({"params": rest, "name": "rest", **of_rest})
    return Muon([group for group in groups if group["params"]])
