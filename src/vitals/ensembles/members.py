"""From checkpoints to the networks of an ensemble that have seen the same data."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vitals.ensembles.selection import Candidate
from vitals.errors import UserError, listed
from vitals.runs.callbacks.prediction_writer import class_numbers
from vitals.runs.evaluate import answering_for, config_to_rebuild, load
from vitals.runs.instantiate import plain
from vitals.runs.project import Project

Split = Literal["test", "val"]
IN_WORDS: dict[Split, str] = {"test": "test", "val": "validation"}
"""What the samples of each split are called; our data modules hold them under the same names."""


@dataclass(frozen=True)
class Member:
    """A trained network in evaluation mode, and the data that it was trained for, set up for both splits."""

    path: Path
    network: nn.Module
    data: Any

    def batches(self, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
        """The samples of `split` as the network takes them, with their class numbers; `UserError` where the
        batches have none."""
        loader = self.data.test_dataloader() if split == "test" else self.data.val_dataloader()
        for batch in loader:
            if class_numbers(batch) is None or not isinstance(batch[0], Tensor):
                raise UserError(
                    f"an ensemble puts class probabilities together, of batches (inputs, class numbers), and "
                    f"those of {type(self.data).__name__} are others: the mean of other outputs is yours to "
                    f"take."
                )
            yield batch


def load_members(
    candidates: list[Candidate], split: Split, data_root: str | None, project: Project, trust: Sequence[str]
) -> tuple[list[Member], list[str]]:
    """The members that belong together, and a sentence for each of `candidates` that is left out.

    Left out are damaged files, weights that do not fit the network of their run, weights that are there
    twice, and all whose classes or images of `split` are not those of most. `data_root` is where the images
    are now, if they have moved; `trust` what the runs may name beside what is allowed, see
    `vitals.runs.allowed_targets`.
    """
    members: list[Member] = []
    left_out: list[str] = []
    read: dict[str, Any] = {}
    for candidate in candidates:
        try:
            member = _load(candidate, data_root, read, project, trust)
            for other in members:
                if _same_weights(member.network, other.network):
                    raise UserError(f"{candidate.path} holds the same weights as {other.path}.")
        except UserError as error:
            left_out.append(f"Left out: {error}")
        else:
            members.append(member)
    of_data = {id(member.data): member for member in members}
    digests = {key: _digest(member, split) for key, member in of_data.items()}
    most = Counter(digests[id(member.data)] for member in members).most_common(1)
    together = [member for member in members if digests[id(member.data)] == most[0][0]]
    for member in members:
        if member not in together:
            left_out.append(f"Left out: {_difference(member, together[0], split)}")
    return together, left_out


def _load(
    candidate: Candidate, data_root: str | None, read: dict[str, Any], project: Project, trust: Sequence[str]
) -> Member:
    with answering_for(candidate.run):
        config = config_to_rebuild(candidate.run, data_root, trust)
        config.compile = False
        config.seed = 0  # of the order of the training batches, which are not used
        project.prepare(config)
        module, data = project.build(config)
    load(module, data, candidate.path)
    data.prepare_data()
    for stage in ("validate", "test"):
        data.setup(stage)
    key = json.dumps([plain(config.data), data.state_dict()])
    data = read.setdefault(key, data)  # once in memory for all members
    network = getattr(module, "network", module)
    return Member(candidate.path, network.eval(), data)


def _same_weights(one: nn.Module, other: nn.Module) -> bool:
    mine, its = one.state_dict(), other.state_dict()
    return mine.keys() == its.keys() and all(
        mine[name].shape == its[name].shape and torch.equal(mine[name], its[name]) for name in mine
    )


def _digest(member: Member, split: Split) -> str:
    """Equal for the same classes and samples, in the same order."""
    data = member.data
    kept: Any = getattr(data, IN_WORDS[split], None)
    # Of our images the bytes, without the work of making batches of them.
    samples = [(kept.images, kept.labels)] if hasattr(kept, "images") else member.batches(split)
    digest = hashlib.sha256(json.dumps(classes_of(data)).encode())
    for inputs, labels in samples:
        digest.update(str(tuple(inputs.shape)).encode())
        digest.update(labels.contiguous().numpy().tobytes())
        digest.update(inputs.contiguous().numpy().tobytes())
    return digest.hexdigest()


def classes_of(data: Any) -> list[str]:
    """The names of the classes, where the data say them."""
    return [str(name) for name in getattr(data, "classes", [])]


def _difference(member: Member, other: Member, split: Split) -> str:
    mine, its = classes_of(member.data), classes_of(other.data)
    if mine != its:
        names = f"{listed(mine, 5)} instead of {listed(its, 5)}"
        return f"{member.path} knows other classes than {other.path}: {names}."
    return f"{member.path} was trained for other {IN_WORDS[split]} samples than {other.path}."
