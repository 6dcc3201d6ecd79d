"""From checkpoints to the networks of an ensemble that have seen the same data."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from project.data.data_module import ImageData
from project.data.image_set import ImageSet
from project.data.locate import require_images
from vitals.ensembles.selection import Candidate
from vitals.errors import UserError
from vitals.runs.instantiate import build_classifier, build_data, load_checkpoint, plain, require_same_network

Split = Literal["test", "val"]


@dataclass(frozen=True)
class Member:
    """A trained network in evaluation mode, and the images that it was trained for."""

    path: Path
    network: nn.Module
    data: ImageData
    architecture: str
    """Equal for networks of the same configuration on equally prepared images."""

    def images(self, split: Split) -> ImageSet:
        """The images of `split`, as bytes."""
        return self.data.test if split == "test" else self.data.validation


def load_members(
    candidates: list[Candidate], split: Split, data_root: str | None
) -> tuple[list[Member], list[str]]:
    """The members that belong together, and a sentence for each candidate that is left out.

    Left out are damaged files, weights that do not fit the network of their run, weights that are there
    twice, and all whose classes or images of `split` are not those of most.

    Args:
        candidates: checkpoints.
        split: whose images must be the same.
        data_root: where the images are now, if they have moved.
    """
    members: list[Member] = []
    left_out: list[str] = []
    read: dict[str, ImageData] = {}
    for candidate in candidates:
        try:
            member = _load(candidate, data_root, read)
            for other in members:
                if _same_weights(member.network, other.network):
                    raise UserError(f"{candidate.path} holds the same weights as {other.path}.")
        except UserError as error:
            left_out.append(f"Left out: {error}")
        else:
            members.append(member)
    digests = {id(data): _digest(data, split) for data in read.values()}
    most = Counter(digests[id(member.data)] for member in members).most_common(1)
    together = [member for member in members if digests[id(member.data)] == most[0][0]]
    for member in members:
        if member not in together:
            left_out.append(f"Left out: {_difference(member, together[0], split)}")
    return together, left_out


def _load(candidate: Candidate, data_root: str | None, read: dict[str, ImageData]) -> Member:
    config = candidate.run.read_config()
    try:
        config.compile = False
        if data_root is not None:
            config.data.root = data_root
        require_images(config.data.name, config.data.root)
        checkpoint = load_checkpoint(candidate.path)
        config.seed = 0  # of the order of the training batches, which are not used
        layout = str(config.network.get("channels_last", False))
        key = json.dumps([plain(config.data), layout, config.optimizer._target_])
    except AttributeError as error:
        raise UserError(f"{candidate.run.config} is not the configuration of a run: {error}") from None
    data = read[key] if key in read else read.setdefault(key, build_data(config))
    classifier = build_classifier(config, data)
    require_same_network(classifier, checkpoint, candidate.path)
    classifier.load_state_dict(checkpoint["state_dict"])
    try:
        data.load_state_dict(checkpoint["ImageData"])
    except KeyError:
        raise UserError(f"{candidate.path} does not say which images it was trained on.") from None
    except UserError as error:
        raise UserError(f"{candidate.path}: {error}") from None
    architecture = json.dumps([plain(config.network), key])
    return Member(candidate.path, classifier.network.eval(), data, architecture)


def _same_weights(one: nn.Module, other: nn.Module) -> bool:
    mine, its = one.state_dict(), other.state_dict()
    return mine.keys() == its.keys() and all(
        mine[name].shape == its[name].shape and torch.equal(mine[name], its[name]) for name in mine
    )


def _digest(data: ImageData, split: Split) -> str:
    """Equal for the same classes and images, in the same order."""
    images = data.test if split == "test" else data.validation
    digest = hashlib.sha256(json.dumps(images.classes).encode())
    digest.update(str(tuple(images.images.shape)).encode())
    digest.update(images.labels.numpy().tobytes())
    digest.update(images.images.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _difference(member: Member, other: Member, split: Split) -> str:
    mine, its = member.data.classes, other.data.classes
    if mine != its:
        return (
            f"{member.path} knows other classes than {other.path}: {_listed(mine)} instead of {_listed(its)}."
        )
    kind = "test" if split == "test" else "validation"
    return f"{member.path} was trained for other {kind} images than {other.path}."


def _listed(classes: list[str], shown: int = 5) -> str:
    more = f" and {len(classes) - shown} more" if len(classes) > shown else ""
    return ", ".join(classes[:shown]) + more
