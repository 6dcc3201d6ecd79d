"""Whether batches follow an order that goes with the label."""

from __future__ import annotations

import pytest
import torch

from vitals.measures.class_order import class_order, is_sorted

DRAW = torch.Generator().manual_seed(0)
SORTED = torch.arange(10).repeat_interleave(200)
SHUFFLED = SORTED[torch.randperm(2000, generator=DRAW)]


def classes_by_images(classes: int, images: int) -> list[torch.Tensor]:
    chosen = [torch.randperm(10, generator=DRAW)[:classes] for _ in range(20)]
    return [each.repeat_interleave(images) for each in chosen]


ORDERS = {
    "shuffled": (SHUFFLED.split(64), False),
    "shuffled, one by one": (SHUFFLED.split(1), False),
    "sorted": (SORTED.split(64), True),
    "sorted, one by one": (SORTED.split(1), True),
    "one class a batch, in any order": (SORTED.split(50)[::3], True),
    "eight classes by eight images": (classes_by_images(8, 8), False),
    "four classes by sixteen images": (classes_by_images(4, 16), False),
    "each class in each batch, sorted within": ([torch.arange(10).repeat_interleave(6)] * 20, False),
    "two classes, one of them rare": ((torch.rand(2000, generator=DRAW) < 0.03).long().split(32), False),
    "a few labels": (SORTED[:50].split(10), False),
}


@pytest.mark.parametrize("name", ORDERS)
def test_batches_of_like_labels_are_sorted(name: str) -> None:
    batches, wrong = ORDERS[name]
    assert is_sorted(*class_order(batches, 10)) == wrong


def test_it_is_the_correlation_within_batches() -> None:
    assert class_order(SORTED.split(50), 10)[0] == pytest.approx(1)
    assert abs(class_order(SHUFFLED.split(50), 10)[0]) < 0.02
    assert class_order([torch.arange(10).repeat(5)] * 9, 10)[0] == pytest.approx(-1 / 49)


def test_one_class_is_an_order_unless_it_is_all_that_there_is() -> None:
    batches = [torch.zeros(50, dtype=torch.long)] * 9
    assert is_sorted(*class_order(batches, 10))
    assert class_order(batches, 10, alone=True) == (0.0, 0.0)
