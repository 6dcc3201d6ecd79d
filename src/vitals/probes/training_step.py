"""Take a LightningModule's training step apart into a network and a loss, whatever its author called them.

The network is the outermost module that the step calls; the loss is all the rest of the step. Nothing is
assumed about names, so that softmax, penalties and calls of `eval()` hidden in the step are seen. Where the
step calls several modules, or one in another way than with one tensor, it is looked at as a whole.
"""

import itertools
import math
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from vitals.errors import UserError
from vitals.probes.copies import unchanged
from vitals.probes.loss_arguments import LossArguments
from vitals.probes.random_states import isolated_rng, seed_torch
from vitals.probes.rows import Rows, is_ragged, leaves_of
from vitals.probes.stand_in import attach
from vitals.probes.step_losses import (
    EVERY_THIRD,
    NoLoss,
    StepLoss,
    call_step,
    only_loss,
    step_losses,
)
from vitals.probes.untouched import ChangesParameters


@dataclass(frozen=True)
class Call:
    """A call of an outermost module with parameters in a training step."""

    module: nn.Module
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    outputs: Any


class TrainingStep:
    """The training step of `owner`, a muted copy of the module that trains, as a network and a loss.

    Args:
        owner: its modes are those in which the training begins.
        trainer: from `stand_in`.
        batch: as the step gets it.

    Raises:
        NoLoss: if there is no loss for this batch.
        UserError: if the step cannot be run on a copy.
    """

    def __init__(self, owner: L.LightningModule, trainer: Any, batch: Any) -> None:
        self.owner, self.trainer, self.rows = owner, trainer, Rows(batch)
        self.loss_arguments = LossArguments()
        self.calls, losses = self._watched(batch)
        self.optimizers = [loss.optimizers for loss in losses]
        """By loss, the numbers of the optimizers that minimise it."""
        self.parts: list[nn.Module] | None = None
        self.network: nn.Module | None = None
        """None where the step is to be looked at as a whole."""
        self.outputs: Tensor | None = None
        """Of the network, made up at random, on the scale of the real ones."""
        self.target_rows: tuple[int, ...] = ()
        """Which of the batch's rows the loss depends on, given the outputs."""
        self.class_numbers = False
        """Whether these are one class number for each sample."""
        self.rewards = False
        """Whether the loss takes whole numbers that it pushes the outputs away from in some samples, as a
        policy gradient does from actions that turned out badly."""
        self.beside = 0
        """The classes C of the last call's outputs (N, C), where the loss takes class numbers, these outputs,
        and more of what was called; else 0."""
        self.idle: dict[int, int] = {}
        """Places among the arguments of the only call of what its outputs do not change with, and among the
        rows of the batch."""
        with torch.no_grad():
            self.rows.exact = self._is_exact()
        if len(losses) == 1:
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
                self.calls, _ = self._watched(self.rows.example, through)
            if self._ends_in_outputs():
                self._find_path()
            self.calls = outermost if self.network is None else self.calls

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
        for exact in (False, True):
            self.rows.exact = exact
            with suppress(UserError), buffers_kept(self.owner), isolated_rng():
                model(*(row[: max(2, self.rows.size // 2)] for row in rows))
                return exact
        return False

    def plays(self) -> bool:
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

            with ExitStack() as stack, buffers_kept(self.owner), isolated_rng(seed=0):
                for part in {call.module for call in self.calls}:
                    stack.enter_context(part.register_forward_hook(say))
                loss = only_loss(step_losses(self.owner, self.trainer, batch))
            return [each for each in shown if not each.requires_grad], loss.detach()

        example = self.rows.example
        if self.network is not None or len(self.calls) < 2:
            return False
        with suppress(UserError), torch.enable_grad():
            if not torch.equal(run(example)[1], run(tree_map(other, example))[1]):
                return False
            (first, _), (second, _) = run(example, 0), run(example, -1)
            return len(first) != len(second) or not all(map(torch.equal, first, second))
        return False

    @property
    def last(self) -> str:
        """Name of the module that is called last."""
        return next(name for name, part in self.owner.named_modules() if part is self.calls[-1].module)

    def called(self) -> str:
        """Which networks the step calls, in words of those who wrote it."""
        names = {id(part): name for name, part in self.owner.named_modules()}
        shown = [f"self.{name}(…)" if (name := names[id(call.module)]) else "self(…)" for call in self.calls]
        more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
        if self.rows.size == 0:
            return f"your batches, of {type(self.rows.example).__name__}, cannot be cut into samples"
        if len(shown) == 1:
            if self.rows.listed:
                return f"your batches are lists of samples, and {shown[0]} gets what is made of these"
            outputs = self.calls[0].outputs
            if not isinstance(outputs, Tensor):
                return f"{shown[0]} gives a value of type {type(outputs).__name__}, not one tensor"
            if not outputs.ndim or len(outputs) != self.rows.size:
                return f"{shown[0]} gives other rows than one for each sample"
            return (
                f"{shown[0]} gets more of the batch than its inputs, such as labels, or the loss takes more "
                f"of it than its outputs"
            )
        takes = f"takes batches of {self.rows.size} samples alone, and " if self.rows.exact else ""
        return f"your training_step {takes}calls {', '.join(shown[:3]) or 'no network'}{more}"

    def _calls_one_network(self) -> bool:
        if len(self.calls) != 1:
            return False
        call = self.calls[0]
        if len(call.arguments) != 1 or call.options:
            return False
        [inputs], outputs, size = call.arguments, call.outputs, self.rows.size
        tensors = isinstance(inputs, Tensor) and isinstance(outputs, Tensor) and not is_ragged(inputs)
        return tensors and inputs.ndim > 1 and outputs.ndim > 0 and len(inputs) == len(outputs) == size > 0

    def _ends_in_outputs(self) -> bool:
        outputs = self.calls[-1].outputs if self.calls else None
        if not isinstance(outputs, Tensor) or not (outputs.ndim == 2 or len(self.calls) == 1):
            return False
        return outputs.ndim > 0 and len(outputs) == self.rows.size > 0

    def _find_path(self) -> None:
        """Take what leads from tensors of the batch to the outputs for one network: a single call with
        several of them, or several calls, where the loss takes class numbers and these outputs alone."""
        self._find_targets()
        rows = self.rows.of(self.rows.example)
        alone = self.class_numbers or (len(self.calls) == 1 and self.network is not None)
        alone = alone and self._needs_outputs_alone(rows)
        if self.class_numbers and not alone and self.outputs is not None:
            self.beside = self.outputs.shape[1]
        path = self._path(rows) if alone else None
        self.network = path
        if path is None:
            self.class_numbers, self.target_rows = False, ()

    def _path(self, rows: Sequence[Tensor]) -> "Path | None":
        """Up to the outputs, from the rows by whose exchange they change; None where something else enters,
        too."""

        def outputs(path: "Path", given: Sequence[Tensor]) -> Tensor:
            with buffers_kept(self.owner):
                seed_torch(0)
                return path.outputs(given)

        whole = outputs(Path(self, ()), rows)
        given = []
        for place in {*range(len(rows))}.difference(self.target_rows):
            other = [*rows[:place], rows[place].roll(1, 0), *rows[place + 1 :]]
            if not torch.equal(outputs(Path(self, ()), other), whole):
                given.append(place)
        if len(self.calls) == 1:
            self.idle = {
                number: places.pop()
                for number, argument in enumerate(self.calls[0].arguments)
                if (places := {place for place, row in enumerate(rows) if _is_row(argument, row)})
                and not places & {*given, *self.target_rows}
            }
        if not given or self.rows.listed & set(given) or (len(given) == 1 and rows[given[0]].ndim < 2):
            return None
        path = Path(self, given)
        with buffers_kept(self.owner):
            seed_torch(0)
            fits = torch.equal(path(path.inputs(rows)), whole)
        return path if fits and (len(given) == 1 or self._keeps_samples_apart(path, rows)) else None

    def _keeps_samples_apart(self, path: "Path", rows: Sequence[Tensor]) -> bool:
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
            return len({self._value(self.outputs, rows, factor) for factor in (1.0, 2.0)}) == 1
        except UserError:
            return False

    def _find_targets(self) -> None:
        """Which rows the loss depends on beside the outputs, by exchanging samples in each of them."""
        call, rows = self.calls[-1], self.rows.of(self.rows.example)
        self.network, self.outputs = call.module, _like(call.outputs)
        try:
            value = self._value(self.outputs, rows)
            found = [place for place in range(len(rows)) if self._matters(rows, place, value)]
        except UserError:  # the rest of the step wants more than the outputs
            self.network = None
            return
        if self.rows.listed & set(found):  # the loss reads from the samples what no row of numbers has
            self.network = None
            return
        labels = [place for place in found if self._are_class_numbers(rows, place, value)]
        self.class_numbers = len(labels) == 1
        self.target_rows = tuple(labels if self.class_numbers else found)

    def _matters(self, rows: Sequence[Tensor], place: int, value: float) -> bool:
        row = rows[place]
        if bool((row == row[:1]).all()):  # nothing to exchange
            return row.ndim == 1 or len(rows) == 2
        other = [*rows[:place], row.roll(1, 0), *rows[place + 1 :]]
        return self._value(self.outputs, other) != value

    def _are_class_numbers(self, rows: Sequence[Tensor], place: int, value: float) -> bool:
        row, outputs = rows[place], self.outputs
        assert outputs is not None
        if outputs.ndim != 2 or outputs.shape[1] < 2 or row.numel() != len(row):
            return False
        if row.is_floating_point() or row.dtype == torch.bool:
            return False
        classes, valid = outputs.shape[1], row[row != IGNORED]
        if not len(valid) or int(valid.min()) < 0 or int(valid.max()) >= classes:
            return False
        # Losses of embeddings mind which labels agree, but not what they are called.
        renamed = torch.where(row == IGNORED, row, (row + 1) % classes)
        other = [*rows[:place], renamed, *rows[place + 1 :]]
        return self._value(outputs, other) != value and self._are_told_apart(rows, row.reshape(-1))

    def _are_told_apart(self, rows: Sequence[Tensor], numbers: Tensor) -> bool:
        """Whether the loss moves the output of such a `number` against all others, as that of a class, and
        that of the same one alike in all samples: of ranks those below are moved together. What is pushed
        away in some samples alone is an action that turned out badly; a loss of the wrong sign pushes alike.
        """
        assert self.outputs is not None
        known = numbers != IGNORED
        try:
            with torch.enable_grad():
                mean = float(self.outputs.float().mean()) if self.outputs.aminmax()[0] >= 0 else 0.0
                alike = torch.full_like(self.outputs, mean).requires_grad_()
                seed_torch(0)
                (gradient,) = torch.autograd.grad(self._loss(alike, rows), alike, allow_unused=True)
        except (UserError, RuntimeError):  # there is none
            return True
        if gradient is None:
            return True
        classes, gradient = numbers[known].long(), gradient[known].float()
        own = gradient.gather(1, classes[:, None])[:, 0]
        others, least = gradient.sum(1) - own, PUSHED * float(own.abs().max())
        together = (own.abs() > least) & (others.abs() > least) & (own.sign() == others.sign())
        if bool(together.any()):
            return False
        even = (gradient - others[:, None] / (gradient.shape[1] - 1)).abs().scatter(1, classes[:, None], 0.0)
        pushed = (own > least) & (even.amax(1) < least)  # where another is pulled instead, labels are mixed
        spread = max((float(own[classes == one].std(correction=0)) for one in classes.unique()), default=0.0)
        self.rewards = self.rewards or (bool(pushed.any()) and spread > least)
        return not self.rewards

    def _value(self, outputs: Tensor | None, rows: Sequence[Tensor], factor: float = 1.0) -> float:
        seed_torch(0)
        assert outputs is not None
        return float(self._loss(outputs, rows, factor))

    def classes(self) -> int:
        """C where the loss is a cross-entropy of outputs (N, ..., C) or (N, C, ...): where all of them are
        zero, or one, it is ln C; else 0."""
        if self.network is None or self.outputs is None or self.outputs.ndim < 2:
            return 0
        rows = self.rows.of(self.rows.example)
        with torch.no_grad(), suppress(UserError):
            levels = [self._value(torch.full_like(self.outputs, at), rows) for at in (0.0, 1.0)]
            for count in {self.outputs.shape[1], self.outputs.shape[-1]} - {1}:
                if all(math.isclose(level, math.log(count), rel_tol=1e-4) for level in levels):
                    return count
        return 0

    def every_output_with_every_target(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """The shapes of the outputs and of a tensor of the batch, as (N, 1) and (N,), where broadcasting
        makes the loss compare all of one with all of the other, so that it stays the same when samples are
        exchanged in one of them, and no longer does where both have one shape; else None."""
        rows = self.rows.of(self.rows.example)
        if self.network is None or self.outputs is None or self.class_numbers:
            return None
        outputs, size = self.outputs, self.rows.size
        for place, row in enumerate(rows):
            if row.numel() != size or outputs.numel() != size or row.shape == outputs.shape:
                continue
            alike = [*rows[:place], row.reshape(outputs.shape), *rows[place + 1 :]]
            with torch.no_grad(), suppress(UserError):
                as_they_are, of_one_shape = (
                    [self._value(each, given) for each in (outputs, outputs.roll(1, 0))]
                    for given in (rows, alike)
                )
                if math.isclose(*as_they_are, rel_tol=1e-5) and not math.isclose(*of_one_shape, rel_tol=1e-3):
                    return tuple(outputs.shape), tuple(row.shape)
        return None

    def labels_apart(self, draws: int = 1) -> list[tuple[int, int]]:
        """Of how many samples the label has to do with the outputs of others alone, and of how many that is
        known: by which rows of the network's inputs change with a sample, and for which rows of its outputs
        the loss changes with the class number. The network may get several rows for each sample, as with two
        views of it. Once for each of `draws` of random numbers by which other inputs enter the network."""
        rows, size, calls = self.rows.of(self.rows.example), self.rows.size, self.calls
        given = [place for place, row in enumerate(rows) if row.is_floating_point() and row.ndim > 1]
        whole = [place for place, row in enumerate(rows) if not row.is_floating_point()]
        labels = [at for at in whole if rows[at].dtype != torch.bool and rows[at].numel() == size]
        one = len(calls) == 1 and len(calls[0].arguments) == 1 and not calls[0].options
        if not one or len(labels) != 1 or not given:
            return []
        call, place = calls[0], labels[0]
        many = {
            len(each) if isinstance(each, Tensor) and each.ndim > 1 else 0
            for each in (call.arguments[0], call.outputs)
        }
        if len(many) != 1 or many.pop() % size or size < APART_FEWEST:
            return []
        outputs = _like(call.outputs)

        def inputs(changed: Sequence[Tensor], seed: int) -> Tensor:
            seed_torch(seed)
            return self._inputs(call.module, self.rows.batch(changed), self.owner.training_step)

        def pull(changed: Sequence[Tensor], seed: int) -> Tensor:
            asked = outputs.detach().clone().requires_grad_()
            seed_torch(seed)
            (gradient,) = torch.autograd.grad(self._loss(asked, changed), asked)
            return gradient

        entering: list[Tensor] = []
        found: list[tuple[int, int]] = []
        with torch.enable_grad():
            for seed in range(draws):
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

    def handed(self) -> tuple[Tensor, Tensor] | None:
        """In one run of the step with the present random numbers: what the only network gets, and by how much
        the loss pulls at outputs of zero, which prefer no class; None where there are several calls, or no
        tensors."""
        seen: list[tuple[Any, Any]] = []

        def say_nothing(module: nn.Module, given: Any, outputs: Any) -> Any:
            if isinstance(outputs, Tensor):
                outputs = torch.zeros_like(outputs, requires_grad=True)
            seen.append((given, outputs))
            return outputs

        with torch.enable_grad(), buffers_kept(self.owner), ExitStack() as stack:
            if len(self.calls) == 1:
                stack.enter_context(self.calls[0].module.register_forward_hook(say_nothing))
            loss = only_loss(step_losses(self.owner, self.trainer, self.rows.example))
            if len(seen) != 1 or len(seen[0][0]) != 1 or not isinstance(seen[0][1], Tensor):
                return None
            (given,), outputs = seen[0]
            (pull,) = torch.autograd.grad(loss, outputs)
        return given.detach(), pull

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
            return found[0].reshape(-1).long()
        return found[0] if len(found) == 1 else found

    def _rows_like_those_of_training(self, batch: Any) -> tuple[Tensor, ...]:
        rows, like = self.rows.of(batch), self.rows.of(self.rows.example)
        if [(row.ndim, row.dtype) for row in rows] != [(row.ndim, row.dtype) for row in like]:
            raise UserError("the batches of validation are not made as those of training.")
        return rows

    def network_inputs(self, batch: Any, step: Callable[..., Any]) -> Tensor:
        """What the network gets in `step`, a step of the owner; (N, ...). Leaves the network in the modes in
        which it is then. `UserError` if it is not called with one tensor."""
        assert self.network is not None
        if isinstance(self.network, Path):
            return self.network.inputs(self._rows_like_those_of_training(batch))
        return self._inputs(self.network, batch, step)

    def _inputs(self, network: nn.Module, batch: Any, step: Callable[..., Any]) -> Tensor:
        reached: list[Any] = []

        def stop(module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
            reached.append((arguments, options))
            raise Reached

        with network.register_forward_pre_hook(stop, with_kwargs=True):
            for number in range(EVERY_THIRD):
                with suppress(Reached), unchanged(self.owner.modules(), but="training"), torch.no_grad():
                    attach(self.owner, self.trainer)
                    call_step(step, batch, number)
                if reached:
                    break
        arguments, options = reached[0] if reached else ((), {})
        if len(arguments) != 1 or options or not isinstance(arguments[0], Tensor) or arguments[0].ndim < 2:
            raise UserError("the network is not called with one tensor.")
        inputs: Tensor = arguments[0].detach()
        return inputs

    def loss(self, outputs: Tensor, targets: Any) -> Tensor:
        """What the training step makes of these outputs of the network and these targets."""
        count = len(outputs)
        rows = self.rows.repeated(self.rows.of(self.rows.example), count)
        given = [targets] if isinstance(targets, Tensor) else targets
        for place, target in zip(self.target_rows, given, strict=True):
            like = rows[place]
            if self.class_numbers:  # as they stand in the batch, which may be (N, 1) or of another type
                target = target.reshape(count, *like.shape[1:]).to(like.dtype)
            rows[place] = target
        parts = [self._loss(part, its) for part, *its in self.rows.filled(outputs, *rows)]
        return parts[0] if len(parts) == 1 else torch.stack(parts).mean()

    def _loss(self, outputs: Tensor, rows: Sequence[Tensor], factor: float = 1.0) -> Tensor:
        """The loss where the last call gives `outputs`, and calls before it what they gave for the first
        sample, times `factor`."""
        size, count = self.rows.size, len(outputs)

        def first(leaf: Any) -> Any:
            if isinstance(leaf, Tensor) and leaf.ndim and len(leaf) == size:
                return leaf[:1].expand(count, *leaf.shape[1:]) * factor
            return leaf

        if not self.owner.automatic_optimization and not outputs.requires_grad:
            outputs = outputs.detach().requires_grad_()  # see `in_their_units`
        answers: dict[nn.Module, list[Any]] = {}
        for call in self.calls[:-1]:
            answers.setdefault(call.module, []).append(tree_map(first, call.outputs))
        answers.setdefault(self.calls[-1].module, []).append(outputs)
        with ExitStack() as stack:
            for part in self._around():  # a queue in one of them would make it another loss each time
                stack.enter_context(buffers_kept(part, recurse=False))
            for module, given in answers.items():
                stack.enter_context(replaced(module, "forward", _Answers(given)))
            batch = self.rows.batch(rows)
            return only_loss(step_losses(self.owner, self.trainer, batch, parts=self._around()))

    def _around(self) -> list[nn.Module]:
        """The modules that take part where no call gets into what it calls: the loss is asked for often."""
        if self.parts is None:
            called = [call.module for call in self.calls]
            within = {id(part) for each in called if each is not self.owner for part in each.modules()}
            within -= set(map(id, called))
            self.parts = [part for part in self.owner.modules() if id(part) not in within]
            if any(each is self.owner for each in called):  # but for metrics and losses
                others = [part for part in self.owner.modules() if next(part.parameters(), None) is None]
                self.parts = [self.owner, *others]
        return self.parts

    def _watched(self, batch: Any, through: Container[nn.Module] = ()) -> tuple[list[Call], list[StepLoss]]:
        """The outermost calls of modules with parameters in one run of the step, or in `through`, and its
        losses; first the calls through which no gradient comes, such as a teacher's."""
        calls: list[Call] = []
        traced: list[bool] = []
        depth = 0

        def enter(module: nn.Module, arguments: Any) -> None:
            nonlocal depth
            depth += 1

        def leave(module: nn.Module, arguments: Any, options: Any, outputs: Any) -> None:
            nonlocal depth
            depth -= 1
            if depth == 0:
                traced.append(any(isinstance(x, Tensor) and x.requires_grad for x in leaves_of(outputs)))
                calls.append(Call(module, arguments, options, tree_map(_detached, outputs)))

        with ExitStack() as stack, buffers_kept(self.owner), self.loss_arguments:
            for module in self.owner.modules():
                if next(module.parameters(), None) is not None and module not in through:
                    stack.enter_context(module.register_forward_pre_hook(enter))
                    stack.enter_context(module.register_forward_hook(leave, with_kwargs=True))
            losses = step_losses(self.owner, self.trainer, batch)
        order = sorted(range(len(calls)), key=traced.__getitem__)
        return [calls[place] for place in order], losses


APART_TRIED, APART_FEWEST = 8, 8
"""Samples whose labels are followed to the outputs, and samples of a batch below which they are not."""
DEEP = 4
"""Networks within networks that are looked into for the one whose outputs the loss is made of."""
IGNORED = -100
"""torch's `ignore_index`."""


class StepModel(nn.Module):
    """A whole training step as a module that gives its loss; its parts have the names that the user gave
    them.

    Args:
        step: of which it is made.
        number: of the loss, where there are several.
    """

    def __init__(self, step: TrainingStep, number: int = 0) -> None:
        super().__init__()
        owner = step.owner
        for name in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
            self.__dict__[name] = owner.__dict__[name]
        self.__dict__["owner"] = owner  # not a part of it, which would change the names
        self.training = owner.training
        self.facts, self.rows, self.number = step.trainer, step.rows, number

    def forward(self, *rows: Tensor) -> Tensor:
        """The loss for a batch with these rows; without any, for the batch that it was made with."""
        owner: Any = self.owner
        owner.training = self.training
        losses = [
            step_losses(owner, self.facts, self.rows.batch([row.clone() for row in part]))[self.number].value
            for part in self.rows.filled(*rows)
        ]
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()

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

    def __init__(self, step: TrainingStep, places: Sequence[int]) -> None:
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
            return given[0]
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
        """The rows that `inputs` are made of, in the types and shapes of `rows`."""
        if len(self.places) == 1:
            return [inputs]
        like = [rows[place] for place in self.places]
        parts = inputs.split([each[0].numel() for each in like], dim=1)
        whole = not inputs.is_floating_point()
        return [
            (part.contiguous().view(torch.float32) if whole and its.is_floating_point() else part)
            .to(its.dtype)
            .reshape(len(part), *its.shape[1:])
            for part, its in zip(parts, like, strict=True)
        ]

    def outputs(self, rows: Sequence[Tensor]) -> Tensor:
        """The same for a whole batch with these rows."""
        owner: Any = self.owner
        owner.training = self.training
        reached: list[Tensor] = []

        def stop(module: nn.Module, arguments: Any, outputs: Tensor) -> None:
            reached.append(outputs)
            if len(reached) == self.calls:
                raise Reached

        with owner.get_submodule(self.last).register_forward_hook(stop), suppress(Reached):
            step_losses(owner, self.facts, self.rows.batch(rows))
        return reached[-1]


class _Answers:
    """Gives one thing after the other, and begins again."""

    def __init__(self, given: Sequence[Any]) -> None:
        self.given = itertools.cycle(given)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return next(self.given)


def _is_row(argument: Any, row: Tensor) -> bool:
    """Whether what a network is given is this row of the batch, and not the same for all samples."""
    same = isinstance(argument, Tensor) and argument.shape == row.shape and torch.equal(argument, row)
    return same and bool((row != row[:1]).any())


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


PUSHED = 0.25
"""Share of the largest gradient of the output of a sample's number that a push away from it, and its spread
over the samples with that number, has at least where these are actions: returns differ by more than their
mean, weights of samples pull all the same way, and mixed labels push by 1/C where they pull by 1 - 1/C. Of
ranks some move with the others by as much: a softmax moves one against the sum of the others, to rounding."""
SURE = 0.98
"""A share, and so a logit above the others, that leaves little to chance and has a finite logarithm."""


def _sure_of(place: int, leaf: Any) -> Any:
    """Outputs that speak for one place alone, be they shares or logits, and keep their graph."""
    if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or not leaf.ndim:
        return leaf
    sure = torch.full_like(leaf, 1 - SURE)
    sure[..., place] = SURE if place == 0 or leaf.shape[-1] > 1 else 1 - SURE
    return leaf * 0 + sure


def _like(outputs: Tensor) -> Tensor:
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


@contextmanager
def replaced(module: nn.Module, name: str, value: Any) -> Iterator[None]:
    """`module.name` is `value` inside the block."""
    missing = object()
    before = module.__dict__.get(name, missing)
    module.__dict__[name] = value
    try:
        yield
    finally:
        if before is missing:
            del module.__dict__[name]
        else:
            module.__dict__[name] = before


@contextmanager
def buffers_kept(module: nn.Module, recurse: bool = True) -> Iterator[None]:
    """Put the values of all buffers back as they were before the block; without `recurse` those of `module`
    itself alone. Graphs that were made in it stay as good as they were."""
    buffers = {buffer: buffer.clone() for buffer in module.buffers(recurse)}
    try:
        yield
    finally:
        for buffer, value in buffers.items():
            buffer.data.copy_(value)


@contextmanager
def modes_kept(module: nn.Module) -> Iterator[None]:
    """Put the modes of `module` and its parts back as they were before the block."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


class Reached(BaseException):
    """The network is about to be called; no step catches it by mistake."""
