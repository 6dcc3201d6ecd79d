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
