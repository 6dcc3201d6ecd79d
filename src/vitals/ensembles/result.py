"""What an ensemble reaches."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from vitals.ensembles.members import Split
from vitals.ensembles.scores import Scores, Size


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
