"""Does a training step hand over what belongs together: labels to the outputs of their samples, to losses
what they take, to networks what they use?"""

from typing import Any

import torch
from torch import Tensor

from vitals.findings import Finding
from vitals.probes.loss_arguments import LossArguments
from vitals.probes.random_states import seed_torch
from vitals.probes.training_step import Path, TrainingStep
from vitals.probes.trial import trial

APART = 0.7
"""Share of the samples looked at whose labels go to the outputs of others; copies in another order leave the
first and the last their own."""
PUSHED = 0.1
"""Standard deviation of what is added to all weights, so that none of them is zero."""


def handed_over(step: TrainingStep) -> list[Finding]:
    """What goes to the wrong place in `step`, the most important first; empty where nothing does."""
    shapes = step.every_output_with_every_target()
    paired = [_paired(*shapes)] if shapes else []
    return [*paired, *_apart(step), *_misgiven(step.loss_arguments)]


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
                other = [moved if each == place else row for each, row in enumerate(rows)]
                alike = torch.equal(moved, rows[place])  # as masks of texts of one length
                if not alike and torch.equal(outputs(list(rows)), outputs(other)):
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


def _paired(outputs: tuple[int, ...], targets: tuple[int, ...]) -> Finding:
    seen = (
        f"The loss compares each output with the targets of all samples, and stays the same when these are "
        f"exchanged: outputs have the shape {outputs} and targets {targets}, which are broadcast to each "
        f"other."
    )
    remedy = "Give both the same shape, as outputs.squeeze(1) or targets.unsqueeze(1) does."
    return Finding("labels-random", "fail", seen, remedy, "outputs", exact=True)


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
        apart, known = step.labels_apart()
    except Exception:  # steps of which samples or labels cannot be exchanged
        return []
    if not known or apart < APART * known:
        return []
    seen = (
        f"The class number of {apart} of {known} samples looked at goes to the outputs of other samples, and "
        f"not to the rows that the network gets for the sample itself."
    )
    remedy = (
        "Bring labels and outputs into one order: y.repeat(k) behind cat of k views, y.repeat_interleave(k) "
        "where those of a sample lie together; sort and shuffle both alike."
    )
    return [Finding("labels-random", "fail", seen, remedy, "labels", apart / known, APART, exact=True)]
