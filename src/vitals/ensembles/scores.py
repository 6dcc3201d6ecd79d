"""How good several classifiers are together: cs231n "Neural Networks Part 3", section "Model ensembles"."""

from dataclasses import dataclass
from itertools import combinations
from math import comb
from statistics import fmean

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from vitals.ensembles.members import Split

BINS = 15
"""Bins of the expected calibration error (Guo et al., 2017)."""
SUBSETS = 50
"""Choices of members of each number at most; where there are more they are drawn."""


@dataclass(frozen=True)
class Scores:
    """Of probabilities against the true classes; shares from 0 to 1, the likelihood in nats."""

    accuracy: float
    nll: float
    """Mean negative log-likelihood of the true class."""
    calibration_error: float
    """Expected difference of confidence and accuracy."""


@dataclass(frozen=True)
class Size:
    """What ensembles of so many members reach: over all choices of the members, or `SUBSETS` drawn ones."""

    members: int
    subsets: int
    accuracy: float
    """Of the mean probabilities; the mean over the subsets."""
    lowest: float
    highest: float
    vote_accuracy: float
    nll: float


def scores(probabilities: Tensor, labels: Tensor) -> Scores:
    """Of `probabilities` (N, C) against `labels` (int64, N)."""
    classes = probabilities.shape[1]
    error = multiclass_calibration_error(probabilities, labels, classes, n_bins=BINS, norm="l1")
    return Scores(_share_right(probabilities.argmax(1), labels), _nll(probabilities, labels), float(error))


def majority_vote(probabilities: Tensor) -> Tensor:
    """The class (N) that most members (M, N, C) hold most probable; among equals that of the largest mean."""
    classes = probabilities.shape[2]
    votes = torch.nn.functional.one_hot(probabilities.argmax(2), classes).sum(0)
    # Means are at most 1 and votes whole numbers: half a mean decides between equals alone.
    return (votes + probabilities.mean(0) / 2).argmax(1)


def vote_accuracy(probabilities: Tensor, labels: Tensor) -> float:
    """Share of the `labels` (N) that the majority of the members (M, N, C) votes for."""
    return _share_right(majority_vote(probabilities), labels)


def disagreement(probabilities: Tensor) -> Tensor:
    """Share of the images (M, M) of which two members (M, N, C) give different classes; 0 on the diagonal."""
    classes = probabilities.argmax(2)
    return (classes[:, None] != classes[None]).float().mean(2)


def by_size(probabilities: Tensor, labels: Tensor) -> list[Size]:
    """Accuracy of `probabilities` (M, N, C) against `labels` (int64, N) by the number of members, from 1 to
    M."""
    count = len(probabilities)
    generator = torch.Generator().manual_seed(0)
    sizes = []
    for size in range(1, count + 1):
        if comb(count, size) <= SUBSETS:
            chosen = [list(subset) for subset in combinations(range(count), size)]
        else:
            chosen = [torch.randperm(count, generator=generator)[:size].tolist() for _ in range(SUBSETS)]
        means = [probabilities[subset].mean(0) for subset in chosen]
        accuracies = [_share_right(mean.argmax(1), labels) for mean in means]
        votes = [vote_accuracy(probabilities[subset], labels) for subset in chosen]
        likelihoods = [_nll(mean, labels) for mean in means]
        figures = fmean(accuracies), min(accuracies), max(accuracies), fmean(votes), fmean(likelihoods)
        sizes.append(Size(size, len(chosen), *figures))
    return sizes


def _nll(probabilities: Tensor, labels: Tensor) -> float:
    likely = probabilities.gather(1, labels[:, None]).clamp_min(torch.finfo(probabilities.dtype).tiny)
    return float(-likely.log().mean())


def _share_right(classes: Tensor, labels: Tensor) -> float:
    return float((classes == labels).double().mean())


@dataclass(frozen=True)
class EnsembleResult:
    """What several networks reach together."""

    split: Split
    images: int
    checkpoints: list[str]
    """Of the members."""
    names: list[str]
    """What tells the checkpoints apart."""
    left_out: list[str]
    """A sentence for each checkpoint that is no member."""
    members: list[Scores]
    together: Scores
    """Of the mean of the members' probabilities."""
    vote_accuracy: float
    sizes: list[Size]
    disagreement: Tensor
    """Share of the images (M, M) on which two members differ."""
    images_per_second: float
    """Through all members, one after the other."""

    @property
    def best_member(self) -> int:
        """The place of the most accurate member."""
        return max(range(len(self.members)), key=lambda number: self.members[number].accuracy)

    @property
    def gain(self) -> float:
        """Accuracy above that of the best member."""
        return self.together.accuracy - self.members[self.best_member].accuracy

    @property
    def mean_disagreement(self) -> float:
        """Over all pairs of members."""
        count = len(self.members)
        return float(self.disagreement.sum()) / (count * (count - 1))

    @property
    def warning(self) -> str:
        """Why the ensemble is no use; empty where it is."""
        if self.gain >= 0:
            return ""
        return (
            f"The ensemble is worse than its best member, {self.names[self.best_member]}, by "
            f"{-self.gain:.2%}: leave weak members out, or use that one alone."
        )
