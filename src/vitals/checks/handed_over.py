"""Does a training step hand over what belongs together: labels to the outputs of their samples, to losses
what they take, to networks what they use?"""

import math
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitals.errors import UserError
from vitals.findings import Finding
from vitals.measures.counts import share_between
from vitals.measures.double import double
from vitals.probes.loss_arguments import LossArguments
from vitals.probes.put_back import buffers_kept
from vitals.probes.random_states import isolated_rng, seed_torch
from vitals.probes.rows import with_row
from vitals.probes.step_losses import only_loss, step_losses
from vitals.probes.step_model import Path
from vitals.probes.training_step import TrainingStep, random_like
from vitals.probes.trial import trial

APART = 0.7
"""Share of the samples looked at whose labels go to the outputs of others."""
DRAWS = 4
"""Times that a step is asked which labels go where, with other random numbers: one that turns over half of
its batches does so in none of them once in sixteen."""
APART_TRIED, APART_FEWEST = 8, 8
"""Samples whose labels are followed to the outputs, and samples of a batch below which they are not."""
SHARE, LEAST = 0.05, 1e-3
"""What shares of mixed images and of their labels may differ by, and the least share of a second image."""
MIXES, MIX_SAMPLES, MIX_VALUES = 8, 8, 512
"""Times that a step is asked how it mixes, images of each and numbers of an image that are looked at."""
ROUNDED = 1e-4
"""Share of the squared distance of two images by which a mixture may miss the line between them."""
FEWEST_MIXED, MIXED_WRONG = 8, 0.25
"""Mixed images whose labels do not go with them, and their share of all, from which it is said."""
SURE = 5.0
"""Standard errors by which shares of classes agree less often with labels than they say themselves."""
PUSHED = 0.1
"""Standard deviation of what is added to all weights, so that none of them is zero."""


def handed_over(step: TrainingStep) -> list[Finding]:
    """What goes to the wrong place in `step`, the most important first; empty where nothing does."""
    return [*_paired(step), *_apart(step), *_mixed(step), *_of_others(step), *_misgiven(step.loss_arguments)]


def left_alone(step: TrainingStep) -> list[Finding]:
    """What a network is given of the batch and makes nothing of, whatever its weights: a branch that starts
    at zero may come to it. Numbers of things, of which networks take several alike, are easily exchanged; of
    what else is left alone it is only noted."""
    rows = step.rows.of(step.rows.example)
    found: dict[str, Tensor] = {}
    if step.idle:
        with trial(Path(step, ())) as copies, torch.no_grad():
            path: Any = copies.model
            for parameter in filter(torch.is_floating_point, path.parameters()):
                parameter.add_(PUSHED * torch.randn_like(parameter))

            def outputs(given: list[Tensor]) -> Tensor:
                seed_torch(0)
                made: Tensor = path.outputs(given)
                return made

            for number, place in step.idle.items():
                moved = rows[place].roll(1, 0)
                alike = torch.equal(moved, rows[place])  # as masks of texts of one length
                if not alike and torch.equal(outputs(list(rows)), outputs(with_row(rows, place, moved))):
                    found[str(number + 1)] = moved
    if not found:
        return []
    seen = (
        f"The outputs of the network stay the same, to the last digit, when samples exchange what it is "
        f"given as argument {' and '.join(found)}: forward() makes nothing of it."
    )
    remedy = "Look for a name that stands where another was meant, as in a line that was copied."
    things = any(not row.is_floating_point() and int(row.max()) > 1 for row in found.values())
    return [Finding("input-constant", "warn" if things else "note", seen, remedy, "inputs", exact=True)]


def _paired(step: TrainingStep) -> list[Finding]:
    """Where broadcasting of outputs and a tensor of the batch, as (N, 1) and (N,), makes the loss compare all
    of one with all of the other, so that it stays the same when samples are exchanged in one of them, and no
    longer does where both have one shape."""
    rows, outputs, size = step.rows.of(step.rows.example), step.outputs, step.rows.size
    if step.network is None or outputs is None or step.class_numbers:
        return []
    for place, row in enumerate(rows):
        if row.numel() != size or outputs.numel() != size or row.shape == outputs.shape:
            continue
        alike = with_row(rows, place, row.reshape(outputs.shape))
        with torch.no_grad(), suppress(UserError):
            as_they_are, of_one_shape = (
                [step.value(each, given) for each in (outputs, outputs.roll(1, 0))] for given in (rows, alike)
            )
            if math.isclose(*as_they_are, rel_tol=1e-5) and not math.isclose(*of_one_shape, rel_tol=1e-3):
                seen = (
                    f"The loss compares each output with the targets of all samples, and stays the same when "
                    f"these are exchanged: outputs have the shape {tuple(outputs.shape)} and targets "
                    f"{tuple(row.shape)}, which are broadcast to each other."
                )
                remedy = "Give both the same shape, as outputs.squeeze(1) or targets.unsqueeze(1) does."
                return [Finding("labels-random", "fail", seen, remedy, "outputs", exact=True)]
    return []


def _of_others(step: TrainingStep) -> list[Finding]:
    """Shares of classes, as a teacher gives them, that stay where they are when the samples of the batch
    change places, and agree with the labels no more often than by chance, however sure they are."""
    rows, told = step.rows.of(step.rows.example), list(step.loss_arguments.told)
    if not step.class_numbers or not told or step.outputs is None:
        return []
    labels, shape = step.targets(step.rows.example), step.outputs.shape
    assert isinstance(labels, Tensor)
    for shares in told:
        count, classes = shares.shape
        # What is told of pairs, (N, N), as by a contrastive loss, is not of classes.
        pairs = count == classes and torch.equal(shares.argmax(1).cpu(), torch.arange(count))
        if shares.shape != shape or count != len(labels) or pairs or bool((shares == shares[:1]).all()):
            continue
        if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            continue
        agreeing, sure = int((shares.argmax(1) == labels).sum()), float(shares.amax(1).mean())
        by_chance = float(
            F.one_hot(labels, classes).float().mean(0) @ F.one_hot(shares.argmax(1), classes).float().mean(0)
        )
        apart = (sure - agreeing / count) / math.sqrt(sure * (1 - sure) / count + 1e-12)
        if apart < SURE or agreeing > share_between(by_chance * count, count)[1] * count:
            continue
        step.loss_arguments.told.clear()
        with suppress(UserError):
            step.watched(step.rows.batch([row.roll(1, 0) for row in rows]))
        if any(torch.equal(shares, other) for other in step.loss_arguments.told):
            seen = (
                f"What the loss is told of the classes of {count} samples, {sure:.0%} sure of one of them, "
                f"agrees with {agreeing} labels, as by chance, and stays as it is when the samples change "
                f"places: it is of others."
            )
            remedy = (
                "Take what was stored of each sample by its index, which the data set gives beside it: a "
                "loader that shuffles gives another order in each epoch."
            )
            share = agreeing / count
            return [Finding("labels-random", "fail", seen, remedy, "labels", share, sure, exact=True)]
    return []


def _misgiven(seen_by: LossArguments) -> list[Finding]:
    """Losses that take what they are given for something else."""
    found = []
    if seen_by.shares:
        seen = (
            "kl_div gets probabilities, which lie between 0 and 1 and sum to 1, where it takes their "
            "logarithms: it goes below zero, and what it is least for is no distribution like the target's."
        )
        remedy = "Give kl_div the outputs of log_softmax first, and the target's probabilities second."
        found.append(Finding("wrong-initial-loss", "fail", seen, remedy, "loss", exact=True))
    if seen_by.ends is not None:
        low, high = seen_by.ends
        seen = (
            f"The targets of a binary cross-entropy go from {low:.3g} to {high:.3g}, where it takes shares "
            f"from 0 to 1: beyond them it has no least value, and the outputs grow without end."
        )
        remedy = "Scale the targets to 0 to 1, as masks of 0 and 255, or take a loss for numbers."
        found.append(Finding("wrong-initial-loss", "fail", seen, remedy, "targets", high, 1.0, exact=True))
    return found


def _apart(step: TrainingStep) -> list[Finding]:
    try:
        looks = _labels_apart(step)
    except Exception:  # steps of which samples or labels cannot be exchanged
        return []
    wrong = [(apart, known) for apart, known in looks if known and apart >= APART * known]
    if not wrong:
        return []
    apart, known = wrong[0]
    seen = (
        f"The class number of {apart} of {known} samples looked at goes to the outputs of other samples, and "
        f"not to the rows that the network gets for the sample itself"
    )
    seen += ", in some steps and not in others." if len(wrong) < len(looks) else "."
    remedy = (
        "Bring labels and outputs into one order: y.repeat(k) behind cat of k views, y.repeat_interleave(k) "
        "where those of a sample lie together; sort and shuffle both alike, and flip along no dimension but "
        "those of the image."
    )
    return [Finding("labels-random", "fail", seen, remedy, "labels", apart / known, APART, exact=True)]


def _labels_apart(step: TrainingStep) -> list[tuple[int, int]]:
    """Of how many samples the label has to do with the outputs of others alone, and of how many that is
    known: by which rows of the network's inputs change with a sample, and for which rows of its outputs
    the loss changes with the class number. The network may get several rows for each sample, as with two
    views of it. Once for each of `DRAWS` of random numbers by which other inputs enter the network."""
    rows, size, calls = step.rows.of(step.rows.example), step.rows.size, step.calls
    given = [place for place, row in enumerate(rows) if row.is_floating_point() and row.ndim > 1]
    whole = [place for place, row in enumerate(rows) if not row.is_floating_point()]
    labels = [at for at in whole if rows[at].dtype != torch.bool and rows[at].numel() == size]
    one = len(calls) == 1 and len(calls[0].arguments) == 1 and not calls[0].options
    if not one or len(labels) != 1 or not given:
        return []
    call, place = calls[0], labels[0]
    entered, said = call.arguments[0], call.outputs
    if not (isinstance(entered, Tensor) and isinstance(said, Tensor) and entered.ndim > 1 and said.ndim > 1):
        return []
    if len(entered) != len(said) or len(said) % size or size < APART_FEWEST:
        return []
    outputs = random_like(said)

    def inputs(changed: Sequence[Tensor], seed: int) -> Tensor:
        seed_torch(seed)
        return step.entering(call.module, step.rows.batch(changed), step.owner.training_step)

    def pull(changed: Sequence[Tensor], seed: int) -> Tensor:
        made = outputs.detach().clone().requires_grad_()
        seed_torch(seed)
        (gradient,) = torch.autograd.grad(step.loss_of(made, changed), made)
        return gradient

    entering: list[Tensor] = []
    found: list[tuple[int, int]] = []
    with torch.enable_grad():
        for seed in range(DRAWS):
            before = inputs(rows, seed)
            if any(torch.equal(before, other) for other in entering):
                continue
            entering.append(before)
            pulled = pull(rows, seed)
            apart = known = 0
            for sample in torch.linspace(1, size - 2, APART_TRIED).long().unique().tolist():
                other = int((rows[place].reshape(-1) != rows[place].reshape(-1)[sample]).long().argmax())
                own, its = list(rows), list(rows)
                for each in given:
                    own[each] = rows[each].clone()
                    own[each][sample] = rows[each][other]
                its[place] = rows[place].clone()
                its[place][sample] = rows[place][other]
                fed = (inputs(own, seed) != before).flatten(1).any(dim=1)
                meant = (pull(its, seed) != pulled).flatten(1).any(dim=1)
                if bool(fed.any()) and bool(meant.any()):
                    known += 1
                    apart += not bool((fed & meant).any())
            found.append((apart, known))
    return found


@dataclass(frozen=True)
class Mixed:
    """An image that is made of two of the batch, and its label."""

    own: float
    """Share of the first image, and so of its class."""
    given: float
    """Share of the class of the first image in the label."""
    other: float
    """The same of the second."""
    third: float
    """The largest of a class that is in neither."""

    @property
    def exchanged(self) -> bool:
        """Whether each class has the share of the other image."""
        near = abs(self.given - (1 - self.own)) + abs(self.other - self.own) < 2 * SHARE
        return near and abs(2 * self.own - 1) > 4 * SHARE

    @property
    def strange(self) -> bool:
        """Whether one that is in no image has the share of the second; a teacher's doubts go to several."""
        absent = self.own < 1 - SHARE and self.other < SHARE / 2 and self.third > SHARE
        return absent and self.given + self.third > 1 - SHARE


def _mixed(step: TrainingStep) -> list[Finding]:
    """Images that are mixed with others of the batch, and labels that are not mixed as these are."""
    if step.network is None or not step.class_numbers or step.outputs is None:
        return []
    found: list[Mixed] = []
    with isolated_rng(seed=0):
        random = step.loss_is_random(step.outputs, step.targets(step.rows.example))
    for seed in range(MIXES if random else 0):  # as labels are, where they are mixed
        with isolated_rng(seed=seed):
            found += _mixed_once(step)
    exchanged, strange = (sum(getattr(each, name) for each in found) for name in ("exchanged", "strange"))
    if max(exchanged, strange) < max(FEWEST_MIXED, MIXED_WRONG * len(found)):
        return []
    which, count = ("exchanged", exchanged) if exchanged > strange else ("strange", strange)
    example = next(each for each in found if getattr(each, which))
    seen = (
        f"Images are mixed of two, and {count} of {len(found)} labels are not mixed as they are: one of "
        f"{example.own:.0%} of an image and {1 - example.own:.0%} of another has {example.given:.0%} of the "
        f"class of the first and {example.other:.0%} of that of the second."
    )
    remedy = "Mix images and labels by one permutation: x[order] goes with y[order]."
    if which == "exchanged":
        remedy = "Give each label the share of its own image: lam * loss(y) + (1 - lam) * loss(y[order])."
    share = count / len(found)
    return [Finding("labels-random", "fail", seen, remedy, "labels", share, MIXED_WRONG, exact=True)]


def _mixed_once(step: TrainingStep) -> list[Mixed]:
    rows, handed = step.rows.of(step.rows.example), _handed(step)
    labels = [row for row in rows if row.numel() == len(row) and not row.is_floating_point()]
    if handed is None or len(labels) != 1:
        return []
    given, pull = handed
    images = [row for row in rows if row.is_floating_point() and row.shape == given.shape]
    if len(images) != 1 or pull.ndim != 2 or torch.equal(given, images[0]):
        return []
    classes = labels[0].reshape(-1).long()
    # Outputs that prefer no class are pulled up by what the label has of each, be the cross-entropy one of
    # shares or one for each class, and down by what is the same for all; so is what label smoothing gives.
    target = -double(pull)
    target = target - target.amin(1, keepdim=True)
    target = target / target.sum(1, keepdim=True)
    made, own = double(given.flatten(1)), double(images[0].flatten(1))
    made, own = made[:, :: max(1, made.shape[1] // MIX_VALUES)], own[:, :: max(1, own.shape[1] // MIX_VALUES)]
    found = []
    for place in range(min(len(made), MIX_SAMPLES)):
        share, other = _parts(made[place], own, place)
        if other < 0 or classes[other] == classes[place] or share > 1 - LEAST:
            continue
        label, pair = target[place], torch.stack([classes[place], classes[other]])
        third = label.index_fill(0, pair, 0.0).max()
        found.append(Mixed(share, *map(float, (*label[pair], third))))
    return found


def _handed(step: TrainingStep) -> tuple[Tensor, Tensor] | None:
    """In one run of the step with the present random numbers: what the only network gets, and by how much
    the loss pulls at outputs of zero, which prefer no class; None where there are several calls, or no
    tensors."""
    seen: list[tuple[Any, Any]] = []

    def say_nothing(module: nn.Module, given: Any, outputs: Any) -> Any:
        if isinstance(outputs, Tensor):
            outputs = torch.zeros_like(outputs, requires_grad=True)
        seen.append((given, outputs))
        return outputs

    with torch.enable_grad(), buffers_kept(step.owner), ExitStack() as stack:
        if len(step.calls) == 1:
            stack.enter_context(step.calls[0].module.register_forward_hook(say_nothing))
        loss = only_loss(step_losses(step.owner, step.trainer, step.rows.example))
        if len(seen) != 1 or len(seen[0][0]) != 1 or not isinstance(seen[0][1], Tensor):
            return None
        (given,), outputs = seen[0]
        (pull,) = torch.autograd.grad(loss, outputs)
    return given.detach(), pull


def _parts(made: Tensor, images: Tensor, place: int) -> tuple[float, int]:
    """The share of image `place` in what was `made` of it and of another, and the place of that one; −1 where
    it was made in another way."""
    mine, others = images[place], images - images[place]
    # made = mine + t (other - mine), for the one other for which that is so.
    lengths = others.square().sum(1)
    shares = (others @ (made - mine)) / lengths.clamp_min(1e-12)
    left = (made - mine - shares[:, None] * others).square().sum(1)
    best = int(left.masked_fill(lengths < 1e-6, torch.inf).argmin())
    if float(left[best]) < ROUNDED * float(lengths[best]):
        return 1 - float(shares[best]), best
    kept = made == mine
    pasted = (images == made) & ~kept
    best = int(pasted.sum(1).argmax())
    if bool((kept | pasted[best]).all()):
        return float(kept.double().mean()), best
    return 1.0, -1
