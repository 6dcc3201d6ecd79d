"""Winners of max-like operations are seen in every way of writing them, and only a change of them counts."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitals.checks.gradients.kinks import WinnerRecorder

POINTS = torch.tensor([[-0.3, 0.21, 0.45, 0.9], [0.35, -0.7, 0.02, -0.11]], dtype=torch.float64)
"""Two rows: the largest are 0.9 and 0.35."""

CROSSED_AT_ZERO = {
    "nn.ReLU": nn.ReLU(),
    "nn.ReLU in place": nn.ReLU(inplace=True),
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "Tensor.relu_": Tensor.relu_,
    "leaky_relu": F.leaky_relu,
    "leaky_relu_": lambda x: F.leaky_relu(x, inplace=True),
    "prelu": lambda x: F.prelu(x, torch.full((1,), 0.2, dtype=x.dtype)),
    "rrelu": lambda x: F.rrelu(x, training=False),
    "selu": F.selu,
    "abs": torch.abs,
    "clamp(min)": lambda x: x.clamp(min=0),
    "clamp_min_": lambda x: x.clamp_min_(0),
    "clamp_max": lambda x: x.clamp_max(0),
    "clamp by tensor": lambda x: torch.clamp(x, min=torch.zeros(1, dtype=x.dtype)),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "torch.max of two": lambda x: torch.max(x, torch.zeros_like(x)),
    "fmin": lambda x: torch.fmin(x, torch.zeros_like(x)),
    "threshold": lambda x: F.threshold(x, 0.0, 0.0),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "mask": lambda x: x * (x > 0),
    "hinge": lambda x: F.hinge_embedding_loss(1 + x, -torch.ones_like(x)),
    "l1_loss": lambda x: F.l1_loss(x, torch.zeros_like(x)),
    "norm 1": lambda x: torch.linalg.vector_norm(x, 1),
    "sign": torch.sign,
    "floor": torch.floor,
}
"""All change where an element passes 0."""

CROSSED_ELSEWHERE: dict[str, tuple[Callable[[Tensor], object], float]] = {
    "relu6 at 6": (F.relu6, 6.0),
    "hardtanh at 1": (F.hardtanh, 1.0),
    "hardtanh at -1": (F.hardtanh, -1.0),
    "clamp at 0.05": (lambda x: x.clamp(0.05, 2), 0.05),
    "clamp at 2": (lambda x: x.clamp(0.05, 2), 2.0),
    "threshold at 0.5": (lambda x: F.threshold(x, 0.5, 0.0), 0.5),
    "hardswish at 3": (F.hardswish, 3.0),
    "hardsigmoid at -3": (F.hardsigmoid, -3.0),
    "softshrink at 0.5": (F.softshrink, 0.5),
}

CHOICES = {
    "max of a row": lambda x: x.max(dim=1),
    "max of all": lambda x: x.max(),
    "min of all": lambda x: (-x).min(),
    "amax": lambda x: x.amax(1),
    "amin": lambda x: (-x).amin(1),
    "aminmax": lambda x: x.aminmax(dim=1),
    "topk": lambda x: x.topk(1),
    "sort": lambda x: x.sort(dim=1),
    "cummax": lambda x: x.cummax(dim=1),
    "norm inf": lambda x: torch.linalg.vector_norm(x, float("inf"), dim=1),
    "max_pool1d": lambda x: F.max_pool1d(x[:, None], 4),
    "max_pool2d": lambda x: F.max_pool2d(x[:, None, None], (1, 4)),
    "max_pool3d": lambda x: F.max_pool3d(x[:, None, None, None], (1, 1, 4)),
    "adaptive_max_pool2d": lambda x: F.adaptive_max_pool2d(x[:, None, None], 1),
}
"""The largest of a row wins."""


def crossed(operation: Callable[[Tensor], object], before: Tensor, after: Tensor) -> bool:
    with WinnerRecorder() as reference:
        operation(before.clone())
    with WinnerRecorder(reference.winners) as comparison:
        operation(after.clone())
    return comparison.crossed


def moved(change: float, index: tuple[int, int]) -> Tensor:
    after = POINTS.clone()
    after[index] += change
    return after


@pytest.mark.parametrize("name", CROSSED_AT_ZERO)
def test_passing_zero_is_seen(name: str) -> None:
    operation = CROSSED_AT_ZERO[name]
    assert crossed(operation, POINTS, moved(0.04 - 0.11, (1, 2)))  # 0.02 becomes -0.05
    assert not crossed(operation, POINTS, moved(0.01, (1, 2)))


@pytest.mark.parametrize("name", CROSSED_ELSEWHERE)
def test_an_operation_has_its_own_kinks(name: str) -> None:
    operation, edge = CROSSED_ELSEWHERE[name]
    near = torch.tensor([edge - 1e-3], dtype=torch.float64)
    assert crossed(operation, near, near + 2e-3)
    assert not crossed(operation, near, near + 5e-4)


@pytest.mark.parametrize("name", CHOICES)
def test_another_winner_is_seen(name: str) -> None:
    operation = CHOICES[name]
    assert crossed(operation, POINTS, moved(0.5, (0, 2)))  # 0.95 beats 0.9
    assert not crossed(operation, POINTS, moved(0.01, (0, 3)))


def test_a_tie_broken_is_a_crossing() -> None:
    tied = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    assert crossed(lambda x: x.amax(1), tied, tied + torch.tensor([[0.1, 0.0]]))


def test_margins_of_the_svm_loss_are_kinks() -> None:
    def loss(scores: Tensor) -> Tensor:
        return F.multi_margin_loss(scores, torch.tensor([0]))

    scores = torch.tensor([[2.0, 0.99, -3.0]], dtype=torch.float64)
    assert crossed(loss, scores, scores + torch.tensor([[0.0, 0.02, 0.0]]))
    assert not crossed(loss, scores, scores + torch.tensor([[0.0, -0.02, 0.0]]))


def test_smooth_operations_have_no_winners() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.LayerNorm(4), nn.GELU(), nn.Softmax(-1))
    with WinnerRecorder() as recorder:
        net(POINTS.float())
    assert recorder.winners == []


def test_a_mask_changed_later_does_not_change_what_was_recorded() -> None:
    def operation(x: Tensor) -> Tensor:
        mask = x > 0
        chosen = x * mask
        mask.logical_not_()
        return chosen

    assert not crossed(operation, POINTS, POINTS)


def test_another_path_through_the_code_is_a_crossing() -> None:
    def operation(x: Tensor) -> Tensor:
        return torch.relu(x) if len(x) == 2 else x

    assert crossed(operation, POINTS, POINTS[:1])


def test_the_forward_inside_a_custom_function_is_seen() -> None:
    class Rectify(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clamp(min=0)

    assert crossed(Rectify.apply, POINTS, -POINTS)
