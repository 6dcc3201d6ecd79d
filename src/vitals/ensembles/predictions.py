"""The probabilities that every member of an ensemble gives, in the faster of two ways."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from vitals.ensembles.members import Member, Split

TRIALS = 3
"""Times that each way is tried on the first batch, in turn; the fastest of them counts."""
TOLERANCE = 1e-3
"""By which the probabilities of both ways may differ."""

Predict = Callable[[Tensor], Tensor]
"""From images (N, C, H, W) to the logits of several members (M, N, classes)."""


@dataclass(frozen=True)
class Trial:
    """How fast so many members of one architecture are together, in images per second."""

    members: int
    one_by_one: float
    batched: float | None
    """In one pass; None where that is not possible."""
    reason: str = ""
    """Why it is not."""

    @property
    def takes_batched(self) -> bool:
        """Whether one pass is faster."""
        return self.batched is not None and self.batched > self.one_by_one


@dataclass(frozen=True)
class Predictions:
    """Softmax of every member (M, N, classes), the true classes (N), and what it cost."""

    probabilities: Tensor
    labels: Tensor
    images_per_second: float
    """Of the whole ensemble, over all images, in the chosen ways."""
    trials: list[Trial]
    """One for each architecture that several members have."""


@torch.no_grad()
def predict(members: list[Member], split: Split, device: torch.device) -> Predictions:
    """Run all members over the images of `split`, those of one architecture in one pass where it is faster.

    Args:
        members: whose images of `split` are the same.
        split: of the images.
        device: to compute on.
    """
    groups: dict[str, list[int]] = {}
    for number, member in enumerate(members):
        groups.setdefault(member.architecture, []).append(number)
    parts: list[Tensor] = [torch.empty(0)] * len(members)
    trials: list[Trial] = []
    seconds = 0.0
    labels = torch.cat([labels for _, labels in members[0].batches(split)]).cpu()
    for numbers in groups.values():
        networks = [members[number].network.to(device) for number in numbers]
        batches = members[numbers[0]].batches(split)
        run = one_by_one(networks)
        if len(numbers) > 1:
            images = next(iter(batches))[0].to(device)
            trial, run = choose(networks, images)
            trials.append(trial)
        logits = []
        _wait(device)
        start = time.perf_counter()
        for images, _ in batches:
            logits.append(run(images.to(device)))
        _wait(device)
        seconds += time.perf_counter() - start
        softmax = torch.cat(logits, dim=1).double().softmax(2).cpu()
        for place, number in enumerate(numbers):
            parts[number] = softmax[place]
            members[number].network.cpu()
    return Predictions(torch.stack(parts), labels, len(labels) / seconds, trials)


def one_by_one(networks: list[nn.Module]) -> Predict:
    """A pass through each of `networks`."""
    return lambda images: torch.stack([network(images) for network in networks])


def in_one_pass(networks: list[nn.Module]) -> Predict:
    """A single pass through all of `networks`, which are of one architecture, with their weights stacked."""
    parameters, buffers = stack_module_state(networks)
    skeleton = copy.deepcopy(networks[0]).to("meta")

    def run(parameters: Any, buffers: Any, images: Tensor) -> Tensor:
        logits: Tensor = functional_call(skeleton, (parameters, buffers), (images,))
        return logits

    stacked = vmap(run, in_dims=(0, 0, None))

    def predict(images: Tensor) -> Tensor:
        with warnings.catch_warnings():
            # Where torch has no batched kernel it says that it is slow; `choose` measures that.
            warnings.filterwarnings("ignore", message=".*performance drop.*")
            logits: Tensor = stacked(parameters, buffers, images)
        return logits

    return predict


def choose(networks: list[nn.Module], images: Tensor) -> tuple[Trial, Predict]:
    """Try both ways on `images` (N, C, H, W), and return the figures and the faster way."""
    apart = one_by_one(networks)
    count, device = len(networks), images.device
    expected = apart(images).softmax(2)
    try:
        together = in_one_pass(networks)
        difference = float((together(images).softmax(2) - expected).abs().max())
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        return Trial(count, len(images) / _seconds(apart, images, device), None, reason), apart
    if difference > TOLERANCE:
        reason = f"its probabilities differ by up to {difference:.2g}"
        return Trial(count, len(images) / _seconds(apart, images, device), None, reason), apart
    times = [(_seconds(apart, images, device), _seconds(together, images, device)) for _ in range(TRIALS)]
    fastest = [len(images) / min(figures) for figures in zip(*times, strict=True)]
    trial = Trial(count, *fastest)
    return trial, together if trial.takes_batched else apart


def _seconds(run: Predict, images: Tensor, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    run(images)
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
