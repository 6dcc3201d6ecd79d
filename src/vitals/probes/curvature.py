"""How strongly the loss is curved along its steepest direction, and which rate its steps bear there."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import SGD, Adam, Optimizer

from vitals.measures.double import double
from vitals.own_time import own_time

ITERATIONS = 10
"""Products with the Hessian: 10 bring the largest eigenvalue to a few percent (measured)."""


@dataclass(frozen=True)
class Curvature:
    """Of the loss on one batch."""

    largest: float
    """Eigenvalue of the Hessian, for Adam of the Hessian over the scale of its steps; NaN where none is above
    0, or for want of time."""
    bearable: float
    """What it may be for steps that die down along its direction: 2 (1 + β) over the rate of the fastest
    group, where β is the momentum."""

    @property
    def over(self) -> float:
        """Times that the rate is as large as the steps bear. Healthy trainings hover about 1, where the
        curvature grows until they do (Cohen et al. 2021 and 2022, the edge of stability)."""
        return self.largest / self.bearable


def curvature(loss: Callable[[], Tensor], optimizer: Optimizer, end: float = math.inf) -> Curvature | None:
    """The largest curvature of `loss`, the same at each call and with its graph, in the parameters of
    `optimizer`, by power iterations, of two gradients each, none of which is begun after the `end` of
    `own_time`; None for optimizers but SGD and Adam, whose steps nobody has a rule for. Parameters and their
    gradients stay as they are."""
    groups = optimizer.param_groups
    fastest = max(groups, key=lambda group: float(group["lr"]))
    limit = _bearable(optimizer, fastest)
    if limit is None or not fastest["lr"] > 0:
        return None
    parameters = [p for group in groups for p in group["params"] if p.requires_grad]
    rates = [float(g["lr"]) / float(fastest["lr"]) for g in groups for p in g["params"] if p.requires_grad]
    scales = [
        (rate / size).sqrt() if isinstance(size := _size(optimizer, parameter), Tensor) else math.sqrt(rate)
        for parameter, rate in zip(parameters, rates, strict=True)
    ]
    anchor = torch.zeros((), requires_grad=True) * 1  # older than the graph
    with _nothing_left_waiting(anchor):
        gradients = torch.autograd.grad(loss(), parameters, create_graph=True, allow_unused=True)
    reached = [place for place, gradient in enumerate(gradients) if gradient is not None]
    found = [gradient for gradient in gradients if gradient is not None and gradient.requires_grad]
    if len(found) < len(reached) or not found:  # linear in some of them
        return None
    parameters, scales = [parameters[place] for place in reached], [scales[place] for place in reached]
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(p.shape, generator=generator).to(p) for p in parameters]
    value = math.nan
    for _ in range(ITERATIONS):
        length = _norm(direction)
        if not 0 < length < math.inf or own_time() > end:
            break
        direction = [part / length for part in direction]
        scaled = [scale * part for scale, part in zip(scales, direction, strict=True)]
        with _nothing_left_waiting(anchor):
            product = torch.autograd.grad(found, parameters, scaled, retain_graph=True, allow_unused=True)
        turned = [
            torch.zeros_like(part) if each is None else scale * each
            for part, each, scale in zip(direction, product, scales, strict=True)
        ]
        value = sum(float(double(a * b).sum()) for a, b in zip(direction, turned, strict=True))
        direction = turned
    return Curvature(value if value > 0 else math.nan, limit / float(fastest["lr"]))


@contextmanager
def _nothing_left_waiting(anchor: Tensor) -> Iterator[None]:
    """Where autograd gives up, as it does where an operation, such as fused attention, has no second
    derivative, what it has not come to stays in a queue of the thread, with all that the graph keeps, until
    something older has had its turn; hooks in it that are freed at the very end of a process crash it."""
    try:
        yield
    except BaseException:
        anchor.backward()
        raise


def _bearable(optimizer: Optimizer, group: dict[str, object]) -> float | None:
    """Rate times curvature up to which the steps of `optimizer` die down on a parabola."""
    if isinstance(optimizer, SGD):
        momentum = float(group["momentum"])  # type: ignore[arg-type]
        return 2 * (1 + momentum) / (1 + 2 * momentum if group["nesterov"] else 1)
    if isinstance(optimizer, Adam):
        momentum = float(group["betas"][0])  # type: ignore[index]
        return 2 * (1 + momentum) / (1 - momentum)
    return None


def _size(optimizer: Optimizer, parameter: Tensor) -> Tensor | None:
    """By what Adam divides its steps; None for SGD, and before the first."""
    state = optimizer.state.get(parameter, {})
    if not isinstance(optimizer, Adam) or "exp_avg_sq" not in state:
        return None
    group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    steps = float(state["step"])
    square: Tensor = state["exp_avg_sq"] / (1 - group["betas"][1] ** steps)
    return square.sqrt() + group["eps"]


def _norm(parts: Sequence[Tensor]) -> float:
    return math.sqrt(sum(float(double(part).square().sum()) for part in parts))
