"""Norms of many tensors at once."""

from __future__ import annotations

import math

import pytest
import torch

from vitals.measures.norms import norms


@pytest.mark.parametrize("order", [2, math.inf])
def test_a_tensor_without_entries_has_a_norm_of_zero(order: float) -> None:
    assert norms([torch.full((3,), -2.0), torch.zeros(0)], order).tolist() == pytest.approx(
        [2.0 * (3.0**0.5 if order == 2 else 1.0), 0.0]
    )


def test_of_every_kind_of_tensor_the_norm_is_taken() -> None:
    complex_ones = torch.full((2,), 3 + 4j)
    half = torch.full((4,), 6e4, dtype=torch.half)  # whose squares overflow
    sparse, double = torch.eye(4).to_sparse(), torch.full((4,), 2.0, dtype=torch.float64)
    assert norms([complex_ones, half, sparse]).tolist() == pytest.approx([5 * 2**0.5, 1.2e5, 2.0])
    assert norms([half, double, sparse], math.inf).tolist() == pytest.approx([6e4, 2.0, 1.0])
