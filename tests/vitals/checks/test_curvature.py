"""The largest curvature of a loss, against what the steps of an optimizer bear."""

from __future__ import annotations

import gc
import weakref
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.optim import SGD, Adam, RMSprop

from vitals.probes.curvature import curvature

SHARP = 50.0


def parabola() -> tuple[nn.Parameter, torch.Tensor]:
    return nn.Parameter(torch.full((6,), 0.01)), torch.tensor([SHARP, 8.0, 4.0, 2.0, 1.0, -3.0])


@pytest.mark.parametrize(
    ("options", "limit"),
    [({}, 2.0), ({"momentum": 0.9}, 3.8), ({"momentum": 0.9, "nesterov": True}, 3.8 / 2.8)],
    ids=["plain", "momentum", "nesterov"],
)
@pytest.mark.parametrize("share", [0.9, 1.1])
def test_steps_die_down_up_to_what_is_bearable_and_not_beyond(options, limit, share) -> None:
    weights, curves = parabola()
    optimizer = SGD([weights], lr=share * limit / SHARP, **options)

    def loss() -> torch.Tensor:
        return 0.5 * (curves[:5] * weights[:5] ** 2).sum()

    found = curvature(loss, optimizer)
    assert found is not None
    assert found.largest == pytest.approx(SHARP, rel=1e-3)
    assert found.over == pytest.approx(share, rel=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert (float(weights.detach().abs()[0]) < 0.01) == (share < 1)


def test_for_adam_the_scale_of_its_steps_counts() -> None:
    weights, curves = parabola()
    optimizer = Adam([weights], lr=1e-4)

    def loss() -> torch.Tensor:
        return 0.5 * (curves[:5] * weights[:5] ** 2).sum()

    for _ in range(5):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    before = weights.detach().clone()
    found = curvature(loss, optimizer)
    sizes = optimizer.state[weights]["exp_avg_sq"] / (1 - 0.999**5)
    assert found is not None
    assert found.largest == pytest.approx(float((curves / sizes.sqrt())[:5].max()), rel=0.05)
    assert found.bearable == pytest.approx(38 / 1e-4)
    assert torch.equal(weights.detach(), before)


def test_nothing_is_said_of_other_optimizers_nor_of_a_loss_that_is_a_plane() -> None:
    weights, _ = parabola()
    assert curvature(lambda: (weights**2).sum(), RMSprop([weights], lr=0.1)) is None
    assert curvature(lambda: weights.sum(), SGD([weights], lr=0.1)) is None


def test_nothing_of_a_graph_without_second_derivative_stays_in_memory() -> None:
    class Kept:
        pass

    kept = Kept()
    alive = weakref.ref(kept)
    x, projection = torch.rand(2, 1, 4, 8), nn.Linear(8, 8)

    def loss(kept: Any) -> Tensor:
        with saved_tensors_hooks(lambda saved: (saved.detach(), kept), lambda packed: packed[0]):
            before, queries, after = projection(x).sin(), projection(x), projection(x).cos()
            mixed = F.scaled_dot_product_attention(queries, queries, queries)
            return (before * mixed * after).square().mean()

    said = ""
    try:
        curvature(partial(loss, kept), SGD(projection.parameters(), 0.1))
    except RuntimeError as error:  # `pytest.raises` would keep its frames, and with them the graph
        said = str(error)
    assert "not implemented" in said
    del kept, loss
    gc.collect()
    assert alive() is None
