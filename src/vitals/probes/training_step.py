"""Take a LightningModule's training step apart into a network and a loss, whatever its author called them.

The network is the outermost module that the step calls; the loss is all the rest of the step. Nothing is
assumed about names, so that softmax, penalties and calls of `eval()` hidden in the step are seen. Where the
step calls several modules, or one in another way than with one tensor, it is looked at as a whole.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map

from vitals.errors import UserError, one_line
from vitals.probes.copies import NoOp, unchanged
from vitals.probes.rows import Rows


class BatchPreparation:
    """Calls the hooks around the transfer to the device, and converts to the precision.

    Args:
        trainer: whose data module and precision take part.
        owner: a copy of the module.
        facts: the stand-in for the trainer that the hooks may ask.
    """

    def __init__(self, trainer: L.Trainer, owner: L.LightningModule, facts: SimpleNamespace) -> None:
        self.owner, self.facts, self.device = owner, facts, trainer.strategy.root_device
        self.convert = trainer.precision_plugin.convert_input
        self.data: Any = copy.copy(getattr(trainer, "datamodule", None))

    def __call__(self, batch: Any, dataloader_idx: int = 0) -> Any:
        for name in ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"):
            owner: Any = self.owner
            if self.data is not None and is_overridden(name, self.data, L.LightningDataModule):
                owner = self.data
                owner.trainer = self.facts
            else:
                owner._trainer = self.facts
            arguments = (self.device, dataloader_idx) if name.startswith("transfer") else (dataloader_idx,)
            batch = getattr(owner, name)(batch, *arguments)
        return self.convert(batch)


class StandInOptimizer(NoOp):
    """Has the settings of an optimizer, moves nothing, and notes that it was to take a step."""

    def __init__(self, optimizer: Optimizer, number: int, events: list[Any]) -> None:
        self.param_groups = [{**group, "params": []} for group in optimizer.param_groups]
        self.number, self.events = number, events

    def step(self, closure: Callable[[], Any] | None = None, **options: Any) -> None:
        if closure is not None:
            with torch.enable_grad():
                closure()
        self.events.append(self.number)


class StandIn(SimpleNamespace):
    """What `stand_in` gives; a copy of a module shares it. All else that a step may ask for does nothing."""

    def __getattr__(self, name: str) -> NoOp:
        if name.startswith("__"):
            raise AttributeError(name)
        return NoOp()

    def __deepcopy__(self, memo: dict[int, Any]) -> StandIn:
        return self


def stand_in(trainer: L.Trainer, training: bool) -> SimpleNamespace:
    """What a module may ask of its trainer in a step, with nothing behind it that could be disturbed."""
    events: list[Any] = []
    optimizers = [StandInOptimizer(each, number, events) for number, each in enumerate(trainer.optimizers)]
    return StandIn(
        events=events,
        meets_zeros=False,
        current_epoch=trainer.current_epoch,
        global_step=trainer.global_step,
        max_epochs=trainer.max_epochs,
        max_steps=trainer.max_steps,
        num_training_batches=trainer.num_training_batches,
        accumulate_grad_batches=trainer.accumulate_grad_batches,
        estimated_stepping_batches=trainer.estimated_stepping_batches,
        world_size=1,
        global_rank=0,
        local_rank=0,
        is_global_zero=True,
        is_last_batch=False,
        training=training,
        validating=not training,
        testing=False,
        predicting=False,
        sanity_checking=False,
        logger=NoOp(),
        loggers=[],
        callbacks=[],
        log_dir=None,
        default_root_dir=trainer.default_root_dir,
        callback_metrics={},
        logged_metrics={},
        progress_bar_metrics={},
        datamodule=copy.copy(getattr(trainer, "datamodule", None)),
        optimizers=optimizers,
        lr_scheduler_configs=[SimpleNamespace(scheduler=NoOp()) for _ in trainer.lr_scheduler_configs],
        strategy=StandIn(_lightning_optimizers=optimizers[0] if len(optimizers) == 1 else optimizers),
    )


def mute(module: nn.Module) -> None:
    """Make `module`, a copy, and the LightningModules in it log and print nothing and leave optimizers
    alone."""
    for part in module.modules():
        if isinstance(part, L.LightningModule):
            for name in MUTED:
                part.__dict__[name] = NoOp()


MUTED = ("log", "log_dict", "print", "clip_gradients", "toggle_optimizer", "untoggle_optimizer")


EVERY_THIRD = 3
"""Numbers under which a batch is given to a step that does nothing in some of them."""


class NoLoss(UserError):
    """The training step gives no loss for this batch; it may for the next."""


@dataclass(frozen=True)
class StepLoss:
    """One loss of a training step."""

    value: Tensor
    """A scalar."""
    optimizers: tuple[int, ...]
    """Whose parameters it trains, by their number; in automatic optimisation all."""


def call_step(step: Callable[..., Any], batch: Any, number: int = 0) -> Any:
    """`step`, a training or validation step of a LightningModule, with `batch` as the one of this number.

    Raises:
        UserError: if it takes its batches itself, or fails.
    """
    if is_param_in_hook_signature(step, "dataloader_iter", explicit=True):
        raise UserError("your training_step takes its batches from the loader itself (dataloader_iter).")
    where = (number,) if is_param_in_hook_signature(step, "batch_idx", min_args=2) else ()
    try:
        return step(batch, *where)
    except UserError:
        raise
    except Exception as error:
        name = getattr(step, "__name__", "step")
        raise UserError(f"your {name} raised {type(error).__name__}: {one_line(error)}") from error


def step_losses(
    owner: L.LightningModule,
    facts: Any,
    batch: Any,
    first: int = 0,
    parts: Sequence[nn.Module] | None = None,
) -> list[StepLoss]:
    """What the training step of `owner`, a muted copy, is to minimise on `batch`.

    Under manual optimisation, losses between two steps belong to the optimizers of these steps; several that
    belong to the same optimizers are added up where one step follows them, and else the first ones count.

    Args:
        owner: is left as it was, but for what is written into its buffers.
        facts: from `stand_in`.
        batch: as the step gets it.
        first: number of the batch; where a step does nothing with it, the next ones are tried.
        parts: the modules of `owner` that take part in the step; all by default.

    Raises:
        NoLoss: if there is none for this batch.
        UserError: if the step fails, or gives no number.
    """
    events, graph = facts.events, torch.is_grad_enabled()
    parts = list(owner.modules()) if parts is None else parts
    for number in range(first, first + EVERY_THIRD):
        events.clear()
        with unchanged(parts):
            for part in parts:
                if isinstance(part, L.LightningModule):
                    part._trainer = facts
            owner.__dict__["manual_backward"] = lambda loss, *arguments, **options: events.append(loss)
            if owner.automatic_optimization:
                result = call_step(owner.training_step, batch, number)
            else:
                result = _step_by_hand(owner, facts, batch, number)
        loss = result.get("loss") if isinstance(result, dict) else result
        if loss is not None or events:
            break
    every = tuple(range(len(facts.optimizers)))
    if owner.automatic_optimization or not any(isinstance(event, Tensor) for event in events):
        if loss is None:
            raise NoLoss("your training_step returns no loss.")
        return [StepLoss(_scalar(loss), every)]
    groups: dict[tuple[int, ...], Tensor] = {}
    losses: list[Tensor] = []
    steps: list[int] = []
    for event in [*events, None]:
        if (event is None or isinstance(event, Tensor)) and steps:
            if losses:
                groups.setdefault(tuple(sorted(set(steps))), torch.stack(losses).sum())
            losses, steps = [], []
        if isinstance(event, Tensor):
            losses.append(_scalar(event))
        elif event is not None:
            steps.append(event)
    if losses and not groups:
        groups[every] = torch.stack(losses).sum()
    if len(groups) == 1 and len(given := [event for event in events if isinstance(event, Tensor)]) == 1:
        groups = dict.fromkeys(groups, _scalar(in_their_units(given[0], loss)))
    events.clear()
    return [StepLoss(value if graph else value.detach(), optimizers) for optimizers, value in groups.items()]


def _step_by_hand(owner: L.LightningModule, facts: Any, batch: Any, number: int) -> Any:
    """`call_step` for a step that may look at gradients and change them: it meets none, or zeros where it
    cannot do without, and the gradients of the training, whose parameters these may be, stay as they are."""
    kept = [(parameter, parameter.grad) for parameter in owner.parameters()]
    try:
        with torch.enable_grad():  # the graph tells by what the loss was multiplied
            for zeros in (False, True):
                for parameter, _ in kept:
                    parameter.grad = torch.zeros_like(parameter) if zeros or facts.meets_zeros else None
                try:
                    result = call_step(owner.training_step, batch, number)
                except UserError:
                    if zeros or facts.meets_zeros:
                        raise
                    facts.events.clear()
                    facts.meets_zeros = True
                    continue
                if any(parameter.grad is not None and bool(parameter.grad.any()) for parameter, _ in kept):
                    raise UserError("the training step calls backward itself, not manual_backward.")
                return result
    finally:
        for parameter, gradient in kept:
            parameter.grad = gradient


def in_their_units(given: Tensor, returned: Any) -> Tensor:
    """The loss that a step returns, where what it has given to `manual_backward` is that times a number, such
    as the scale of mixed precision or one over the batches that it adds up; else what it has given."""
    if not isinstance(returned, Tensor) or returned.numel() != 1 or returned.grad_fn is None:
        return given
    inputs = [node for node, _ in given.grad_fn.next_functions if node] if given.grad_fn else []
    scaled = type(given.grad_fn).__name__ in ("MulBackward0", "DivBackward0")
    return returned if scaled and inputs == [returned.grad_fn] and float(returned) else given


def only_loss(losses: Sequence[StepLoss]) -> Tensor:
    """The one loss; raises `UserError` where there are several."""
    if len(losses) != 1:
        raise UserError(f"{several(len(losses))}; one is needed here.")
    return losses[0].value


def several(count: int) -> str:
    """That a step has `count` losses."""
    return f"your training_step has {count} losses that different optimizers minimise"


def _scalar(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor):
        raise UserError("your training_step gives no loss that is a tensor.")
    if loss.numel() != 1:
        raise UserError(f"your training_step gives a loss of shape {tuple(loss.shape)}, not one number.")
    return loss.reshape(())


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
        if len(losses) == 1:
            with torch.no_grad():
                if self._calls_one_network():
                    self._find_targets()
                elif self._ends_in_outputs():
                    self._find_path()

    def called(self) -> str:
        """Which networks the step calls, in words of those who wrote it."""
        names = {id(part): name for name, part in self.owner.named_modules()}
        shown = [f"self.{name}(…)" if (name := names[id(call.module)]) else "self(…)" for call in self.calls]
        more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
        if len(shown) == 1:
            call = self.calls[0]
            tensors = [isinstance(each, Tensor) for each in (*call.arguments, call.outputs)]
            if tensors == [True, True] and not call.options:
                return f"your training_step calls {shown[0]} with other rows than one for each sample"
            return f"your training_step calls {shown[0]}, but not from one tensor to one tensor"
        return f"your training_step calls {', '.join(shown[:3]) or 'no network'}{more}"

    def _calls_one_network(self) -> bool:
        if len(self.calls) != 1:
            return False
        call = self.calls[0]
        if len(call.arguments) != 1 or call.options:
            return False
        [inputs], outputs, size = call.arguments, call.outputs, self.rows.size
        tensors = isinstance(inputs, Tensor) and isinstance(outputs, Tensor)
        return tensors and inputs.ndim > 1 and outputs.ndim > 0 and len(inputs) == len(outputs) == size > 0

    def _ends_in_outputs(self) -> bool:
        outputs = self.calls[-1].outputs if self.calls else None
        return isinstance(outputs, Tensor) and outputs.ndim == 2 and len(outputs) == self.rows.size > 0

    def _find_path(self) -> None:
        """Take several calls that lead from one tensor of the batch to the outputs for one network, where
        the loss takes class numbers and these outputs, and nothing else of what was called."""
        self._find_targets()
        rows = self.rows.of(self.rows.example)
        given = [
            place for place in range(len(rows)) if place not in self.target_rows and rows[place].ndim > 1
        ]
        if not self.class_numbers or len(given) != 1 or not self._needs_outputs_alone(rows):
            self.network = None
            self.class_numbers, self.target_rows = False, ()
            return
        path = Path(self, given[0])
        with buffers_kept(self.owner):
            torch.manual_seed(0)
            whole = path.outputs(rows)
            torch.manual_seed(0)
            alone = path(rows[given[0]])
        fits = isinstance(whole, Tensor) and torch.equal(whole, alone)  # nothing else enters
        self.network = path if fits else None
        if not fits:
            self.class_numbers, self.target_rows = False, ()

    def _needs_outputs_alone(self, rows: Sequence[Tensor]) -> bool:
        """Whether the loss stays as it is when what the other calls gave is another."""
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
        return self._value(outputs, [*rows[:place], renamed, *rows[place + 1 :]]) != value

    def _value(self, outputs: Tensor | None, rows: Sequence[Tensor], factor: float = 1.0) -> float:
        torch.manual_seed(0)
        assert outputs is not None
        return float(self._loss(outputs, rows, factor))

    def targets(self, batch: Any) -> Tensor | tuple[Tensor, ...]:
        """What the loss needs of `batch` beside the outputs: class numbers (N,) where they are, else the one
        tensor (N, ...), or all of them.

        Raises:
            UserError: if `batch` is not made as that of the training step.
        """
        rows, like = self.rows.of(batch), self.rows.of(self.rows.example)
        if [(row.ndim, row.dtype) for row in rows] != [(row.ndim, row.dtype) for row in like]:
            raise UserError("the batches of validation are not made as those of training.")
        found = tuple(rows[place] for place in self.target_rows)
        if self.class_numbers:
            return found[0].reshape(-1).long()
        return found[0] if len(found) == 1 else found

    def network_inputs(self, batch: Any, step: Callable[..., Any]) -> Tensor:
        """What the network gets in `step`, a step of the owner; (N, ...). Leaves the network in the modes
        in which it is then.

        Raises:
            UserError: if it is not called with one tensor.
        """
        assert self.network is not None
        if isinstance(self.network, Path):
            return self.rows.of(batch)[self.network.place]
        reached: list[Any] = []

        def stop(module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
            reached.append((arguments, options))
            raise Reached

        handle = self.network.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            for number in range(EVERY_THIRD):
                with suppress(Reached), unchanged_but_modes(self.owner), torch.no_grad():
                    self._attach()
                    call_step(step, batch, number)
                if reached:
                    break
        finally:
            handle.remove()
        arguments, options = reached[0] if reached else ((), {})
        if len(arguments) != 1 or options or not isinstance(arguments[0], Tensor) or arguments[0].ndim < 2:
            raise UserError("the network is not called with one tensor.")
        inputs: Tensor = arguments[0].detach()
        return inputs

    def loss(self, outputs: Tensor, targets: Any) -> Tensor:
        """What the training step makes of these outputs of the network and these targets."""
        count = len(outputs)
        rows = self.rows.repeated(self.rows.of(self.rows.example), count)
        for place, target in zip(
            self.target_rows, [targets] if isinstance(targets, Tensor) else targets, strict=True
        ):
            like = rows[place]
            if self.class_numbers:  # as they stand in the batch, which may be (N, 1) or of another type
                target = target.reshape(count, *like.shape[1:]).to(like.dtype)
            rows[place] = target
        return self._loss(outputs, rows)

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
            for module, given in answers.items():
                stack.enter_context(replaced(module, "forward", _Answers(given)))
            return only_loss(
                step_losses(self.owner, self.trainer, self.rows.batch(rows), parts=self._around())
            )

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

    def _attach(self) -> None:
        for part in self.owner.modules():
            if isinstance(part, L.LightningModule):
                part._trainer = self.trainer

    def _watched(self, batch: Any) -> tuple[list[Call], list[StepLoss]]:
        """The outermost calls of modules with parameters in one run of the step, and its losses."""
        calls: list[Call] = []
        depth = 0

        def enter(module: nn.Module, arguments: Any) -> None:
            nonlocal depth
            depth += 1

        def leave(module: nn.Module, arguments: Any, options: Any, outputs: Any) -> None:
            nonlocal depth
            depth -= 1
            if depth == 0:
                calls.append(Call(module, arguments, options, tree_map(_detached, outputs)))

        with ExitStack() as stack, buffers_kept(self.owner):
            for module in self.owner.modules():
                if next(module.parameters(), None) is not None:
                    for handle in (
                        module.register_forward_pre_hook(enter),
                        module.register_forward_hook(leave, with_kwargs=True),
                    ):
                        stack.callback(handle.remove)
            losses = step_losses(self.owner, self.trainer, batch)
        return calls, losses


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
        batch = self.rows.batch([row.clone() for row in rows])
        return step_losses(owner, self.facts, batch)[self.number].value

    def reached(self, batch: Any, number: int) -> list[nn.Parameter]:
        """The parameters on which some loss of this batch, the one of this number, depends."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        owner: Any = self.owner
        try:
            value = torch.stack([loss.value for loss in step_losses(owner, self.facts, batch, number)]).sum()
        except NoLoss:
            return []
        found = torch.autograd.grad(value, parameters, allow_unused=True) if value.requires_grad else ()
        return [each for each, gradient in zip(parameters, found, strict=False) if gradient is not None]


class Path(StepModel):
    """A training step up to what its last call gives, as a network of one tensor."""

    def __init__(self, step: TrainingStep, place: int) -> None:
        super().__init__(step)
        last = step.calls[-1].module
        self.place = place
        """Of the tensor among the rows of the batch."""
        self.last = next(name for name, part in step.owner.named_modules() if part is last)
        self.calls = sum(call.module is last for call in step.calls)

    def forward(self, inputs: Tensor) -> Tensor:  # type: ignore[override]
        """The outputs (N, C) for these inputs (N, ...), all else as in the first sample of the example."""
        rows = self.rows.repeated(self.rows.of(self.rows.example), len(inputs))
        rows[self.place] = inputs
        return self.outputs(rows)

    def outputs(self, rows: Sequence[Tensor]) -> Tensor:
        """The same for a whole batch with these rows."""
        owner: Any = self.owner
        owner.training = self.training
        reached: list[Tensor] = []

        def stop(module: nn.Module, arguments: Any, outputs: Tensor) -> None:
            reached.append(outputs)
            if len(reached) == self.calls:
                raise Reached

        handle = owner.get_submodule(self.last).register_forward_hook(stop)
        try:
            with suppress(Reached):
                step_losses(owner, self.facts, self.rows.batch(rows))
        finally:
            handle.remove()
        return reached[-1]


class _Answers:
    """Gives one thing after the other, and begins again."""

    def __init__(self, given: Sequence[Any]) -> None:
        self.given = itertools.cycle(given)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return next(self.given)


def _detached(leaf: Any) -> Any:
    return leaf.detach() if isinstance(leaf, Tensor) else leaf


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
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """Put the values of all buffers back as they were before the block."""
    buffers = {buffer: buffer.clone() for buffer in module.buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers.items():
                buffer.copy_(value)


@contextmanager
def unchanged_but_modes(module: nn.Module) -> Iterator[None]:
    """`unchanged`, with the modes left as the block leaves them."""
    with ExitStack() as stack:
        modes: list[tuple[nn.Module, bool]] = []
        stack.callback(lambda: _set_modes(modes))
        stack.enter_context(unchanged(list(module.modules())))
        try:
            yield
        finally:
            modes += [(part, part.training) for part in module.modules()]


def _set_modes(modes: Sequence[tuple[nn.Module, bool]]) -> None:
    for part, mode in modes:
        part.training = mode


class Reached(BaseException):
    """The network is about to be called; no step catches it by mistake."""


class Backward:
    """Takes the place of `manual_backward` and keeps what it is given."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []

    def __call__(self, loss: Tensor, *arguments: Any, **options: Any) -> None:
        self.losses.append(loss)
