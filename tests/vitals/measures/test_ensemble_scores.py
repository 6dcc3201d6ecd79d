"""Figures of an ensemble against what can be worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from vitals.ensembles.scores import by_size, disagreement, majority_vote, scores, vote_accuracy

MEMBERS = torch.tensor(
    [
        [[0.9, 0.1, 0.0], [0.4, 0.6, 0.0], [0.2, 0.5, 0.3]],
        [[0.4, 0.6, 0.0], [0.3, 0.7, 0.0], [0.1, 0.2, 0.7]],
        [[0.4, 0.6, 0.0], [0.8, 0.2, 0.0], [0.5, 0.3, 0.2]],
    ],
    dtype=torch.float64,
)
LABELS = torch.tensor([0, 1, 2])


def test_the_mean_and_the_vote_can_differ() -> None:
    assert MEMBERS.mean(0).argmax(1).tolist() == [0, 0, 2]
    assert majority_vote(MEMBERS).tolist() == [1, 1, 2]  # the last is a tie, which the mean decides
    assert vote_accuracy(MEMBERS, LABELS) == pytest.approx(2 / 3)


def test_likelihood_and_calibration_are_those_of_their_definitions() -> None:
    found = scores(MEMBERS[0], LABELS)
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.nll == pytest.approx(-(math.log(0.9) + math.log(0.6) + math.log(0.3)) / 3)
    assert found.calibration_error == pytest.approx((0.1 + 0.4 + 0.5) / 3, abs=1e-6)


def test_disagreement_is_the_share_of_images_with_different_classes() -> None:
    third = 1 / 3
    expected = torch.tensor([[0, 2 * third, 3 * third], [2 * third, 0, 2 * third], [3 * third, 2 * third, 0]])
    expected[0, 1] = expected[1, 0] = 2 / 3
    classes = MEMBERS.argmax(2)
    assert classes.tolist() == [[0, 1, 1], [1, 1, 2], [1, 0, 0]]
    assert torch.allclose(disagreement(MEMBERS).float(), expected.float())


def test_sizes_run_over_all_choices_of_the_members() -> None:
    one, two, three = by_size(MEMBERS, LABELS)
    assert (one.subsets, two.subsets, three.subsets) == (3, 3, 1)
    single = [scores(member, LABELS).accuracy for member in MEMBERS]
    assert one.accuracy == pytest.approx(sum(single) / 3)
    assert (one.lowest, one.highest) == pytest.approx((min(single), max(single)))
    assert three.accuracy == pytest.approx(2 / 3)


def test_a_class_held_impossible_gives_a_finite_likelihood() -> None:
    assert math.isfinite(scores(torch.tensor([[1.0, 0.0]]), torch.tensor([1])).nll)
