"""Take a LightningModule's training step apart into a network and a loss, whatever its author called them.

The network is the outermost module that the step calls; the loss is all the rest of the step. Nothing is
assumed about names, so that softmax, penalties and calls of `eval()` hidden in the step are seen. Where the
step calls several modules, or one in another way than with one tensor, it is looked at as a whole.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from vitals.errors import UserError
from vitals.probes.class_numbers import Code, kind_of_numbers
from vitals.probes.put_back import buffers_kept, modes_kept
from vitals.probes.random_states import isolated_rng, seed_torch
from vitals.probes.rows import Rows, is_ragged, with_row
from vitals.probes.step_model import Path, StepModel
from vitals.probes.untouched import ChangesParameters
from vitals.probes.watched_step import WatchedStep

TRIED = 20
"""Samples that a step is tried with, to see whether it takes any number: no divisor of usual batches, which a
queue or groups of samples take."""
DEEP = 4
"""Networks within networks that are looked into for the one whose outputs the loss is made of."""


class TrainingStep(WatchedStep):
    """A training step as a network and a loss; arguments and errors as of `WatchedStep`."""

    def __init__(self, owner: L.LightningModule, trainer: Any, batch: Any) -> None:
        super().__init__(owner, trainer, batch)
        self.network: nn.Module | None = None
        """None where the step is to be looked at as a whole."""
        self.outputs: Tensor | None = None
        """Of the network, made up at random, on the scale of the real ones."""
        self.target_rows: tuple[int, ...] = ()
        """Which of the batch's rows the loss depends on, given the outputs."""
        self.class_numbers = False
        """Whether these are one class number for each sample."""
        self.code: Code | None = None
        """Where the class numbers stand in the batch as rows of numbers."""
        self.told_more = False
        """Whether the loss depends on more rows than these."""
        self.rewards = False
        """Whether the loss takes whole numbers that it pushes the outputs away from in some samples, as a
        policy gradient does from actions that turned out badly."""
        self.beside = 0
        """The classes C of the last call's outputs (N, C), where the loss takes class numbers, these outputs,
        and more of what was called; else 0."""
        self.of_lists: tuple[Path, int] | None = None
        """What leads to the outputs of a loss that takes class numbers, where batches are lists of samples,
        and the place of these numbers: see `look_at`."""
        self.by_number = False
        """Whether what enters is that."""
        self.logged: set[str] = set()
        """Names by which the steps of training and validation log; none where a validation step cannot be
        made to its end."""
        self.idle: dict[int, int] = {}
        """Places among the arguments of the only call of what its outputs do not change with, and among the
        rows of the batch."""
        with torch.no_grad():
            self.rows.exact = self._is_exact()
        if len(self.optimizers) == 1:
            with torch.no_grad():
                try:
                    self._take_apart()
                except ChangesParameters:
                    raise
                except Exception:  # of what they call may come tensors that can neither be cut nor repeated
                    self.network, self.class_numbers, self.target_rows = None, False, ()

    def _take_apart(self) -> None:
        if self._calls_one_network() and not self.rows.exact:
            self._find_targets()
        elif self._ends_in_outputs():
            self._find_path()
        elif self._gives_several():
            outermost, through = self.calls, set[nn.Module]()
            while self._gives_several() and len(through) < DEEP:
                through.add(self.calls[-1].module)
                self.calls, _ = self.watched(self.rows.example, through)
            if self._ends_in_outputs():
                self._find_path()
            if self.network is None:  # then nobody asks for what was called within
                self.calls, self.beside = outermost, 0

    def _gives_several(self) -> bool:
        """Whether what is called last gives no single tensor of samples: a dict, or its loss among others."""
        outputs = self.calls[-1].outputs if self.calls else torch.empty(1)
        return not isinstance(outputs, Tensor) or outputs.ndim == 0

    def _is_exact(self) -> bool:
        """Whether the step takes as many samples as there are, and no others, as a queue or a kept state
        does."""
        model, rows = StepModel(self), self.rows.of(self.rows.example)
        if len(rows) < 1 or self.rows.size < 2:
            return False
        count = TRIED if self.rows.size > TRIED else max(2, self.rows.size // 2)
        for exact in (False, True):
            self.rows.exact = exact
            with suppress(UserError), buffers_kept(self.owner), isolated_rng():
                model(*(row[:count] for row in rows))
                return exact
        return False

    def _calls_one_network(self) -> bool:
        if len(self.calls) != 1:
            return False
        call = self.calls[0]
        if len(call.arguments) != 1 or call.options or call.within is not None:
            return False
        [inputs], outputs, size = call.arguments, call.outputs, self.rows.size
        tensors = isinstance(inputs, Tensor) and isinstance(outputs, Tensor) and not is_ragged(inputs)
        return tensors and inputs.ndim > 1 and outputs.ndim > 0 and len(inputs) == len(outputs) == size > 0

    def _ends_in_outputs(self) -> bool:
        outputs = self.calls[-1].outputs if self.calls else None
        return isinstance(outputs, Tensor) and outputs.ndim > 0 and len(outputs) == self.rows.size > 0

    def _ends_in_places(self) -> bool:
        """Whether a single call gives the outputs, or the last of several, a class for each place of a
        sample; what two networks give may be compared, which no exchange of the first samples shows."""
        assert self.outputs is not None
        return len(self.calls) == 1 or (self.outputs.ndim > 2 and self.classes() > 0)

    def _find_path(self) -> None:
        """Take what leads from tensors of the batch to the outputs for one network: a single call with
        several of them, or several calls, where the loss takes class numbers, of each sample or of each of
        its places, and these outputs alone."""
        self._find_targets()
        rows = self.rows.of(self.rows.example)
        alone = self.class_numbers or (self.network is not None and self._ends_in_places())
        alone = alone and self._needs_outputs_alone(rows)
        if self.class_numbers and not alone and self.outputs is not None:
            self.beside = self.outputs.shape[1]
        path = self._path(rows) if alone else None
        if path is not None and self.rows.listed & set(path.places):
            self.of_lists = (path, self.target_rows[0]) if self.class_numbers else None
            path = None
        self.network = path
        if path is None:
            self.class_numbers, self.target_rows = False, ()

    def look_at(self, batch: Any) -> None:
        """Take the samples in the lists of `batch` for inputs of the network, by their numbers, (N, 1)."""
        rows, [path, labels] = Rows(batch), self.of_lists or (None, 0)
        if path is None or self.rows.exact or rows.listed != self.rows.listed or self.outputs is None:
            return
        if len(rows.of(batch)) == len(self.rows.of(self.rows.example)):
            self.outputs = self.outputs[torch.arange(rows.size) % len(self.outputs)]
            self.rows, self.class_numbers, self.target_rows = rows, True, (labels,)
            self.network, self.by_number = Path(self, path.places), True

    def _path(self, rows: Sequence[Tensor]) -> Path | None:
        """Up to the outputs, from the rows by whose exchange they change; None where something else enters,
        too."""

        def outputs(path: Path, given: Sequence[Tensor]) -> Tensor:
            with buffers_kept(self.owner):
                seed_torch(0)
                return path.outputs(given)

        whole = outputs(Path(self, ()), rows)
        given = []
        for place in {*range(len(rows))}.difference(self.target_rows):
            other = with_row(rows, place, rows[place].roll(1, 0))
            if not torch.equal(outputs(Path(self, ()), other), whole):
                given.append(place)
        if len(self.calls) == 1:
            self.idle = {
                number: places.pop()
                for number, argument in enumerate(self.calls[0].arguments)
                if (places := {place for place, row in enumerate(rows) if _is_row(argument, row)})
                and not places & {*given, *self.target_rows}
            }
        flat = len(given) == 1 and rows[given[0]].ndim < 2
        if not given or (flat and given[0] not in self.rows.listed):
            return None
        path = Path(self, given)
        with buffers_kept(self.owner):
            seed_torch(0)
            fits = torch.equal(path(path.inputs(rows)), whole)
        return path if fits and (len(given) == 1 or self._keeps_samples_apart(path, rows)) else None

    def _keeps_samples_apart(self, path: Path, rows: Sequence[Tensor]) -> bool:
        """Whether half of the samples get the same outputs without the other half, in evaluation mode: a
        matrix of which samples are neighbours has a row for each, too."""
        inputs = path.inputs(rows)
        half = max(1, len(inputs) // 2)
        try:
            path.training = False
            with modes_kept(self.owner), buffers_kept(self.owner):
                self.owner.eval()
                seed_torch(0)
                alone, together = path(inputs[:half]), path(inputs)[:half]
        except UserError:  # which does not take fewer
            return False
        finally:
            path.training = self.owner.training
        return torch.allclose(alone.float(), together.float(), rtol=1e-3, atol=1e-5)

    def _needs_outputs_alone(self, rows: Sequence[Tensor]) -> bool:
        """Whether the loss stays as it is when what other calls gave is another."""
        assert self.outputs is not None
        try:
            return len({self.value(self.outputs, rows, factor) for factor in (1.0, 2.0)}) == 1
        except UserError:
            return False

    def _find_targets(self) -> None:
        """Which rows the loss depends on beside the outputs, by exchanging samples in each of them."""
        call, rows = self.calls[-1], self.rows.of(self.rows.example)
        outputs = random_like(call.outputs)
        self.network, self.outputs = call.module, outputs
        try:
            value = self.value(outputs, rows)
            found = [place for place in range(len(rows)) if self._matters(outputs, rows, place, value)]
        except UserError:  # the rest of the step wants more than the outputs
            self.network = None
            return
        if self.rows.listed & set(found):  # the loss reads from the samples what no row of numbers has
            self.network = None
            return
        labels = []
        for place in found:
            kind = kind_of_numbers(self, outputs, rows, place, value)
            self.rewards = self.rewards or kind == "actions"
            if kind == "classes" and not self.rewards:
                labels.append(place)
        self.class_numbers = len(labels) == 1
        self.told_more = self.class_numbers and len(found) > 1
        self.target_rows = tuple(labels if self.class_numbers else found)
        self.code = Code.of(rows[labels[0]]) if self.class_numbers else None

    def _matters(self, outputs: Tensor, rows: Sequence[Tensor], place: int, value: float) -> bool:
        row = rows[place]
        if bool((row == row[:1]).all()):  # nothing to exchange
            return row.ndim == 1 or len(rows) == 2
        return self.value(outputs, with_row(rows, place, row.roll(1, 0))) != value

    def classes(self) -> int:
        """C where the loss is a cross-entropy of outputs (N, ..., C) or (N, C, ...): where all of them are
        zero, or one, it is ln C; else 0."""
        if self.network is None or self.outputs is None or self.outputs.ndim < 2:
            return 0
        rows = self.rows.of(self.rows.example)
        with torch.no_grad(), suppress(UserError):
            levels = [self.value(torch.full_like(self.outputs, at), rows) for at in (0.0, 1.0)]
            for count in {self.outputs.shape[1], self.outputs.shape[-1]} - {1}:
                if all(math.isclose(level, math.log(count), rel_tol=1e-4) for level in levels):
                    return count
        return 0

    def loss_is_random(self, outputs: Tensor, targets: Any) -> bool:
        """Whether the loss of the same outputs differs from call to call."""
        with torch.no_grad():
            first, second = (float(self.loss(outputs, targets)) for _ in range(2))
        return first != second and math.isfinite(first)

    def targets(self, batch: Any) -> Tensor | tuple[Tensor, ...]:
        """What the loss needs of `batch` beside the outputs: class numbers (N,) where they are, else the one
        tensor (N, ...), or all of them; `UserError` if `batch` is not made as that of the training step."""
        rows = self._rows_like_those_of_training(batch)
        found = tuple(rows[place] for place in self.target_rows)
        if self.class_numbers:
            coded = self.code is not None and found[0].ndim == 2
            return found[0].argmax(1) if coded else found[0].reshape(-1).long()
        return found[0] if len(found) == 1 else found

    def _rows_like_those_of_training(self, batch: Any) -> tuple[Tensor, ...]:
        rows, like = self.rows.of(batch), list(self.rows.of(self.rows.example))
        if self.code is not None and len(rows) == len(like):  # validation may have the numbers themselves
            [place] = self.target_rows
            if rows[place].dtype == torch.long and rows[place].ndim == 1:
                like[place] = rows[place]
        if [(row.ndim, row.dtype) for row in rows] != [(row.ndim, row.dtype) for row in like]:
            raise UserError("the batches of validation are not made as those of training.")
        return rows

    def network_inputs(self, batch: Any, step: Callable[..., Any]) -> Tensor:
        """See `entering`."""
        assert self.network is not None
        if isinstance(self.network, Path):
            return self.network.inputs(self._rows_like_those_of_training(batch))
        return self.entering(self.network, batch, step)

    def loss(self, outputs: Tensor, targets: Any) -> Tensor:
        """What the training step makes of these outputs of the network and these targets."""
        count = len(outputs)
        rows = self.rows.repeated(self.rows.of(self.rows.example), count)
        given = [targets] if isinstance(targets, Tensor) else targets
        for place, target in zip(self.target_rows, given, strict=True):
            like = rows[place]
            if self.code is not None:
                target = self.code.rows(target, like)
            elif self.class_numbers:  # as they stand in the batch, which may be (N, 1) or of another type
                target = target.reshape(count, *like.shape[1:]).to(like.dtype)
            rows[place] = target
        parts = [self.loss_of(part, its) for part, *its in self.rows.filled(outputs, *rows)]
        return parts[0] if len(parts) == 1 else torch.stack(parts).mean()


def random_like(outputs: Tensor) -> Tensor:
    """Random outputs of the kind of `outputs`: probabilities, their logarithms, or any numbers."""
    values = outputs.detach().float()
    drawn = torch.randn(values.shape, generator=torch.Generator().manual_seed(0)).to(values)
    if values.ndim > 1 and bool((values >= 0).all()) and bool(((values.sum(1) - 1).abs() < 1e-3).all()):
        drawn = drawn.softmax(1)
    elif values.ndim > 1 and bool((values <= 0).all()) and bool((values.logsumexp(1).abs() < 1e-3).all()):
        drawn = drawn.log_softmax(1)
    elif bool(((values >= 0) & (values <= 1)).all()):
        drawn = drawn.sigmoid()
    return drawn.to(outputs.dtype)


def _is_row(argument: Any, row: Tensor) -> bool:
    """Whether what a network is given is this row of the batch, and not the same for all samples."""
    same = isinstance(argument, Tensor) and argument.shape == row.shape and torch.equal(argument, row)
    return same and bool((row != row[:1]).any())
