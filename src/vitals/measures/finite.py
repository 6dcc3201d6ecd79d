"""Whether a network still holds numbers."""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vitals.measures.held_parameters import param_groups


def first_non_finite(module: nn.Module) -> str | None:
    """The name of the first weight, or running statistic of a normalization, with a NaN or an infinity in it.

    Other buffers may well hold infinities, such as the mask of an attention. None where all are finite; at
    the cost of one pass over the weights and one transfer to the host.
    """
    named = [(name, values.detach()) for name, values in _state(module) if values.is_floating_point()]
    if not named:
        return None
    values = [value.reshape(1) if value.ndim == 0 else value for _, value in named if value.numel()]
    largest = torch._foreach_norm(values, math.inf)  # of absolute values: no sum that could overflow
    sizes = torch.stack([size.float().to(largest[0].device) for size in largest]).tolist()
    if math.isfinite(sum(sizes)):
        return None
    names = [name for name, value in named if value.numel()]
    return next((name for name, size in zip(names, sizes, strict=True) if not math.isfinite(size)), None)


def of_lost_epsilon(optimizers: Iterable[Optimizer]) -> str:
    """What to do about an `eps` that is 0 in the type of the parameters, by which Adam then divides zero by
    zero: 1e-8 in float16; nothing where there is none."""
    for group in param_groups(*optimizers):
        eps = group.get("eps")
        for parameter in group["params"] if isinstance(eps, float) and eps else ():
            if not torch.tensor(eps, dtype=parameter.dtype):
                kind = str(parameter.dtype).removeprefix("torch.")
                return (
                    f"Raise the optimizer's eps: {eps:g} is 0 in {kind}, in which the parameters are; 1e-4 "
                    f"is not. Or keep them in float32, as precision=16-mixed does."
                )
    return ""


def _state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    for name, buffer in module.named_buffers():
        if name.rpartition(".")[2].startswith("running_"):
            yield name, buffer
