"""A training step as a module: the whole of it, which gives its loss, or up to what its last call gives."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from vitals.probes.step_losses import NoLoss, step_losses
from vitals.probes.watched_step import Reached, WatchedStep, only_tensor


class StepModel(nn.Module):
    """A whole training step as a module that gives its loss; its parts have the names that the user gave
    them.

    Args:
        step: of which it is made.
        number: of the loss, where there are several.
    """

    def __init__(self, step: WatchedStep, number: int = 0) -> None:
        super().__init__()
        owner = step.owner
        for name in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            self.__dict__[name] = owner.__dict__[name]
        self.__dict__["owner"] = owner  # not a part of it, which would change the names
        self.training = owner.training
        self.facts, self.rows = step.trainer, step.rows
        self.first, self.number = step.places[number]

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, nn.Module | Tensor):
            super().__setattr__(name, value)
        else:  # what it knows itself: a part of the user's may have the same name, as `first` or `last`
            self.__dict__[name] = value

    def forward(self, *rows: Tensor) -> Tensor:
        """The loss for a batch with these rows; without any, for the batch that it was made with."""
        owner: Any = self.owner
        owner.training = self.training
        losses = [
            step_losses(owner, self.facts, self.rows.batch(part), self.first)
            for part in self.rows.filled(*rows)
        ]
        values = [each[self.number].value for each in losses]
        return values[0] if len(values) == 1 else torch.stack(values).mean()

    def reached(self, batch: Any, number: int) -> list[nn.Parameter]:
        """The parameters on which some loss of this batch, the one of this number, depends, after as many
        optimizer steps."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        owner: Any = self.owner
        self.facts.global_step += number
        try:
            value = torch.stack([loss.value for loss in step_losses(owner, self.facts, batch, number)]).sum()
        except NoLoss:
            return []
        finally:
            self.facts.global_step -= number
        found = torch.autograd.grad(value, parameters, allow_unused=True) if value.requires_grad else ()
        return [each for each, gradient in zip(parameters, found, strict=False) if gradient is not None]


class Path(StepModel):
    """A training step up to what its last call gives, as a network of one tensor."""

    def __init__(self, step: WatchedStep, places: Sequence[int]) -> None:
        super().__init__(step)
        self.places = places
        """Of what enters, among the rows of the batch."""
        self.last = step.last
        self.calls = sum(call.module is step.calls[-1].module for call in step.calls)

    def inputs(self, rows: Sequence[Tensor]) -> Tensor:
        """What `forward` takes of the rows of a batch: (N, ...), or all numbers of several (N, D); where some
        are floats and some are whole, as of categories, the floats as the bits that they are made of."""
        given = [rows[place] for place in self.places]
        if len(given) == 1:
            return given[0][:, None] if given[0].ndim == 1 else given[0]
        if len({each.is_floating_point() for each in given}) > 1:
            given = [
                each.float().view(torch.int32) if each.is_floating_point() else each.int() for each in given
            ]
        return torch.cat([each.reshape(len(each), -1) for each in given], dim=1)

    def numbers(self) -> Tensor:
        """Which columns of inputs (N, D) that are joined of floats and whole numbers are bits of floats."""
        rows = [self.rows.of(self.rows.example)[place] for place in self.places]
        return torch.cat([torch.full((row[0].numel(),), row.is_floating_point()) for row in rows])

    def forward(self, inputs: Tensor) -> Tensor:  # type: ignore[override]
        """The outputs (N, C) for these inputs (N, ...), all else as in the first sample of the example."""
        outputs: list[Tensor] = []
        for [part] in self.rows.filled(inputs):
            rows = self.rows.repeated(self.rows.of(self.rows.example), len(part))
            for place, each in zip(self.places, self._apart(part, rows), strict=True):
                rows[place] = each
            outputs.append(self.outputs(rows))
        return outputs[0] if len(inputs) == len(outputs[0]) else torch.cat(outputs)[: len(inputs)]

    def _apart(self, inputs: Tensor, rows: Sequence[Tensor]) -> list[Tensor]:
        """The rows that `inputs` are made of, in the types and shapes of `rows`, all of another length where
        those of one length are, such as tokens and their mask."""
        if len(self.places) == 1:
            return [inputs.reshape(len(inputs), *rows[self.places[0]].shape[1:])]
        like = [rows[place] for place in self.places]
        sizes = [each[0].numel() for each in like]
        if further := inputs.shape[1] - sum(sizes):  # of a batch that is padded to another length
            longest = max(len(each[0]) for each in like if each.ndim == 2)
            padded = [place for place, each in enumerate(like) if each.ndim == 2 and len(each[0]) == longest]
            for place in padded:
                sizes[place] += further // len(padded)
        parts = inputs.split(sizes, dim=1)
        whole = not inputs.is_floating_point()
        return [
            (part.contiguous().view(torch.float32) if whole and its.is_floating_point() else part)
            .to(its.dtype)
            .reshape(len(part), *(its.shape[1:] if its.ndim != 2 else [-1]))
            for part, its in zip(parts, like, strict=True)
        ]

    def outputs(self, rows: Sequence[Tensor]) -> Tensor:
        """The same for a whole batch with these rows."""
        owner: Any = self.owner
        owner.training = self.training
        reached: list[Tensor] = []

        def stop(module: nn.Module, arguments: Any, outputs: Any) -> None:
            reached.append(only_tensor(outputs))
            if len(reached) == self.calls:
                raise Reached

        with owner.get_submodule(self.last).register_forward_hook(stop), suppress(Reached):
            step_losses(owner, self.facts, self.rows.batch(rows))
        return reached[-1]
