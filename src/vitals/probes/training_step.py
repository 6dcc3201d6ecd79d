"""Take a LightningModule's training step apart into a network and a loss, whatever its author called them.

The network is the outermost module that the step calls; the loss is all the rest of the step. Nothing is
assumed about names, so that softmax, penalties and calls of `eval()` hidden in the step are seen.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor, nn

from vitals.errors import UserError


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


class PairPreparation(BatchPreparation):
    """The same for batches (inputs, targets).

    Args:
        trainer, owner, facts: see `BatchPreparation`.
        class_numbers: whether the targets must be one class number for each input.
    """

    def __init__(
        self,
        trainer: L.Trainer,
        owner: L.LightningModule,
        facts: SimpleNamespace,
        class_numbers: bool = True,
    ) -> None:
        super().__init__(trainer, owner, facts)
        self.class_numbers = class_numbers

    def __call__(self, batch: Any, dataloader_idx: int = 0) -> tuple[Tensor, Tensor]:
        batch = super().__call__(batch, dataloader_idx)
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            raise UserError("The batches are not pairs (inputs, class numbers).")
        inputs, labels = batch
        if not isinstance(inputs, Tensor) or not isinstance(labels, Tensor):
            raise UserError("The batches are not pairs of tensors (inputs, class numbers).")
        if not self.class_numbers:
            return inputs, labels
        if labels.ndim != 1 or labels.is_floating_point() or len(inputs) != len(labels):
            raise UserError(f"The labels are not one class number for each input: {tuple(labels.shape)}.")
        return inputs, labels


Step = Callable[[Any, int], Any]


class NoOp:
    """Stands for a logger, a strategy or an optimizer: takes every call and does nothing."""

    def __getattr__(self, name: str) -> NoOp:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *arguments: Any, **options: Any) -> NoOp:
        return self

    def __bool__(self) -> bool:
        return False

    def __iter__(self) -> Iterator[NoOp]:
        return iter(())


def stand_in(trainer: L.Trainer, training: bool) -> SimpleNamespace:
    """What a module may ask of its trainer in a step, with nothing behind it that could be disturbed."""
    optimizers = [NoOp() for _ in trainer.optimizers]
    return SimpleNamespace(
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
        log_dir=None,
        default_root_dir=trainer.default_root_dir,
        callback_metrics={},
        logged_metrics={},
        progress_bar_metrics={},
        datamodule=None,
        optimizers=optimizers,
        lr_scheduler_configs=[SimpleNamespace(scheduler=NoOp()) for _ in trainer.lr_scheduler_configs],
        strategy=SimpleNamespace(_lightning_optimizers=optimizers[0] if len(optimizers) == 1 else optimizers),
    )


def mute(module: L.LightningModule) -> None:
    """Make `module`, a copy, log and print nothing and leave optimizers alone."""
    for name in ("log", "log_dict", "print", "clip_gradients", "toggle_optimizer", "untoggle_optimizer"):
        module.__dict__[name] = NoOp()


class TrainingStep:
    """The training step of `owner`, a muted copy of the module that trains, as a network and a loss.

    Args:
        owner: its modes are those in which the training begins.
        trainer: from `stand_in`.
        batch: inputs and class numbers as the step gets them.

    Raises:
        UserError: if the step calls no module with parameters, or several.
    """

    def __init__(
        self, owner: L.LightningModule, trainer: SimpleNamespace, batch: tuple[Tensor, Tensor]
    ) -> None:
        self.owner, self.trainer = owner, trainer
        self.example = batch[0][:1]
        self.network: nn.Module = owner
        self.network = self._outermost(batch)

    def network_inputs(self, batch: tuple[Tensor, Tensor], step: Step) -> Tensor:
        """What the network gets in `step`, a step of the owner; (N, ...). Leaves the network in the modes
        in which it is then."""
        reached: list[Any] = []

        def stop(module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
            reached.append((arguments, options))
            raise _Reached

        handle = self.network.register_forward_pre_hook(stop, with_kwargs=True)
        self.owner._trainer = self.trainer  # type: ignore[assignment]
        try:
            with torch.no_grad():
                step(batch, 0)
        except _Reached:
            pass
        finally:
            handle.remove()
        arguments, options = reached[0] if reached else ((), {})
        if len(arguments) != 1 or options or not isinstance(arguments[0], Tensor):
            raise UserError("The network is not called with one tensor.")
        inputs = arguments[0].detach()
        if inputs.ndim < 2 or len(inputs) != len(batch[1]):
            raise UserError(
                f"The network's inputs {tuple(inputs.shape)} do not go with {len(batch[1])} labels."
            )
        return inputs

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What the training step makes of these outputs of the network and these class numbers."""
        owner, backward = self.owner, Backward()
        owner._trainer = self.trainer  # type: ignore[assignment]
        batch = self.example.repeat(len(targets), *[1] * (self.example.ndim - 1)), targets
        with (
            replaced(owner, "manual_backward", backward),
            replaced(self.network, "forward", lambda *arguments, **options: outputs),
        ):
            result = owner.training_step(batch, 0)
        loss = result["loss"] if isinstance(result, dict) else result
        if loss is None and len(backward.losses) == 1:
            loss = backward.losses[0]
        if not isinstance(loss, Tensor):
            raise UserError("The training step gives no loss.")
        return loss

    def _outermost(self, batch: tuple[Tensor, Tensor]) -> nn.Module:
        """The one module with parameters that the step calls."""
        called: list[nn.Module] = []
        depth = 0

        def enter(module: nn.Module, arguments: Any) -> None:
            nonlocal depth
            if depth == 0:
                called.append(module)
            depth += 1

        def leave(module: nn.Module, arguments: Any, outputs: Any) -> None:
            nonlocal depth
            depth -= 1

        handles = []
        for module in self.owner.modules():
            if next(module.parameters(), None) is not None:
                handles.append(module.register_forward_pre_hook(enter))
                handles.append(module.register_forward_hook(leave))
        self.owner._trainer = self.trainer  # type: ignore[assignment]
        buffers = {buffer: buffer.clone() for buffer in self.owner.buffers()}
        try:
            with replaced(self.owner, "manual_backward", Backward()):
                self.owner.training_step(batch, 0)
        finally:
            for handle in handles:
                handle.remove()
            for buffer, value in buffers.items():
                buffer.copy_(value)
        if len(called) != 1:
            names = {id(module): name for name, module in self.owner.named_modules()}
            which = ", ".join(f"'{names[id(module)]}'" for module in called[:4]) or "none"
            raise UserError(
                f"The training step must call one network once to be checked, and it calls {which}."
            )
        return called[0]


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


class _Reached(Exception):
    """The network is about to be called."""


class Backward:
    """Takes the place of `manual_backward` and keeps what it is given."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []

    def __call__(self, loss: Tensor, *arguments: Any, **options: Any) -> None:
        self.losses.append(loss)
