"""Does a training step make its data itself, as the episodes of a game?"""

from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from vitals.errors import UserError
from vitals.probes.put_back import buffers_kept
from vitals.probes.random_states import isolated_rng
from vitals.probes.rows import leaves_of
from vitals.probes.step_losses import only_loss, step_losses
from vitals.probes.training_step import TrainingStep

SURE = 0.98
"""A share, and so a logit above the others, that leaves little to chance and has a finite logarithm."""


def plays(step: TrainingStep) -> bool:
    """Whether the step makes its data itself, as the episodes of a game do: it looks at nothing in the
    batch, and what the network is shown depends on what it has said, beside any gradient."""

    def other(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf + 1 if leaf.is_floating_point() else (leaf == 0).to(leaf.dtype)

    def run(batch: Any, answer: int | None = None) -> tuple[list[Tensor], Tensor]:
        shown: list[Tensor] = []

        def say(module: nn.Module, arguments: Any, outputs: Any) -> Any:
            shown.extend(each for each in leaves_of(arguments) if isinstance(each, Tensor))
            return outputs if answer is None else tree_map(partial(_sure_of, answer), outputs)

        with ExitStack() as stack, buffers_kept(step.owner), isolated_rng(seed=0):
            for part in {call.module for call in step.calls}:
                stack.enter_context(part.register_forward_hook(say))
            loss = only_loss(step_losses(step.owner, step.trainer, batch))
        return [each for each in shown if not each.requires_grad], loss.detach()

    example = step.rows.example
    if step.network is not None or len(step.calls) < 2:
        return False
    with suppress(UserError), torch.enable_grad():
        if not torch.equal(run(example)[1], run(tree_map(other, example))[1]):
            return False
        (first, _), (second, _) = run(example, 0), run(example, -1)
        return len(first) != len(second) or not all(map(torch.equal, first, second))
    return False


def _sure_of(place: int, leaf: Any) -> Any:
    """Outputs that speak for one place alone, be they shares or logits, and keep their graph."""
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or not leaf.ndim:
        return leaf
    sure = torch.full_like(leaf, 1 - SURE)
    sure[..., place] = SURE if place == 0 or leaf.shape[-1] > 1 else 1 - SURE
    return leaf * 0 + sure
