"""Whether batches follow an order that goes with the label."""

from __future__ import annotations

import pytest
import torch

from vitals.measures.class_order import DRIFT_SCORE, DRIFTING, class_drift, class_order, is_sorted

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


def buffered(size: int) -> tuple[torch.Tensor, ...]:
    """Sorted labels through a shuffle buffer, in batches."""
    waiting, drawn = SORTED[:size].tolist(), []
    for label in [*SORTED[size:].tolist(), *[-1] * size]:
        place = int(torch.randint(len(waiting), (1,), generator=DRAW))
        drawn.append(waiting[place])
        waiting[place] = label if label >= 0 else waiting[-1]
        del waiting[len(waiting) - (label < 0) :]
    return torch.tensor(drawn).split(64)


@pytest.mark.parametrize(
    ("batches", "drifts"),
    [
        (buffered(600), True),  # of three classes
        (buffered(2000), False),
        (SHUFFLED.split(64), False),
        (classes_by_images(4, 16), False),
        (SHUFFLED[:640].split(4), False),
    ],
)
def test_classes_that_come_and_go_in_the_course_of_an_epoch_drift(
    batches: tuple[torch.Tensor, ...], drifts: bool
) -> None:
    drift, score = class_drift(batches, 10)
    assert (drift > DRIFTING and score > DRIFT_SCORE) == drifts
    assert not is_sorted(*class_order(batches, 10))


def test_batches_of_a_few_recordings_drift_no_more_than_chance_has_it() -> None:
    def recordings() -> list[torch.Tensor]:
        return [torch.randint(2, (4,), generator=DRAW).repeat_interleave(8) for _ in range(10)]

    drifts = [class_drift(recordings(), 2) for _ in range(100)]
    assert any(drift > DRIFTING for drift, _ in drifts)
    assert not any(drift > DRIFTING and score > DRIFT_SCORE for drift, score in drifts)
