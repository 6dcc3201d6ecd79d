"""What is run on a copy of the module, so that module, trainer and loaders never notice: the validation, and
training batches for BatchNorm's statistics."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, TypeVar

import lightning as L
import torch
from lightning.pytorch.utilities.data import extract_batch_size
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor
from torchmetrics import Metric

from vitals.either_package import is_own
from vitals.errors import UserError, reason_of
from vitals.measures.batch_norm import pooled, reestimate, tracking_layers
from vitals.probes.copies import NoOp
from vitals.probes.eagerly import eagerly
from vitals.probes.loaders import successive_batches, training_loader
from vitals.probes.stand_in import BatchPreparation, mute, stand_in

T = TypeVar("T")


class NotPossible(Exception):
    """Something failed in at least one process, and all of them know."""


def on_all_processes(trainer: L.Trainer, action: Callable[[], T]) -> T:
    """The result of `action`, which must not communicate with other processes. No process is left waiting for
    one in which it fails: `NotPossible` is raised in all of them, with the reason where it did."""
    problem: Exception | None = None
    try:
        result = action()
    except Exception as error:
        problem = error
    if trainer.strategy.reduce_boolean_decision(problem is None, all=True):
        return result
    if problem is None:
        raise NotPossible("it failed in another process")
    raise NotPossible(reason_of(problem)) from problem


def validate_copy(trainer: L.Trainer, owner: L.LightningModule) -> dict[str, float]:
    """What the validation logs for `owner`, a copy of the module that trains, by the names that it uses.

    Runs the module's validation hooks and steps over copies of the trainer's validation loaders, with their
    limits. Draws random numbers, so call it with those isolated. Every process must call it, each gets the
    figures of all of them together. `owner` is left in evaluation mode. `NotPossible` if there is no
    validation, or it cannot be run on a copy.
    """
    readings = on_all_processes(trainer, lambda: _readings(trainer, owner))
    return readings.values(trainer)


class _Readings:
    """Takes the place of the module's `log` and keeps what is logged until the end of the epoch."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.sums: dict[str, Tensor] = {}
        """Of each number: its sum over samples, and the samples."""
        self.metrics: dict[str, Metric] = {}
        self.batch: Any = None
        self.suffix = ""

    def log(self, name: str, value: Any, *arguments: Any, **options: Any) -> None:
        """As `LightningModule.log`; a number that is not to be averaged, or not one number, is left out."""
        if options.get("add_dataloader_idx", True):
            name += self.suffix
        if isinstance(value, Metric):
            self.metrics[name] = value
            return
        number = torch.as_tensor(value, dtype=torch.float32, device=self.device).detach()
        if options.get("reduce_fx", "mean") not in ("mean", torch.mean) or number.numel() != 1:
            return
        size = options.get("batch_size") or self._batch_size()
        added = torch.stack([number.reshape(()) * size, torch.tensor(float(size), device=self.device)])
        self.sums[name] = self.sums[name] + added if name in self.sums else added

    def log_dict(self, values: Any, *arguments: Any, **options: Any) -> None:
        """As `LightningModule.log_dict`."""
        for name, value in values.items():
            self.log(name, value, *arguments, **options)

    def values(self, trainer: L.Trainer) -> dict[str, float]:
        """The means over the samples of all processes."""
        found = {}
        for name, metric in self.metrics.items():  # a metric unites the processes itself
            value = metric.compute()
            if isinstance(value, Tensor) and value.numel() == 1:
                found[name] = value.item()
        for name, sums in self.sums.items():
            total, samples = trainer.strategy.reduce(sums, reduce_op="sum").tolist()
            found[name] = total / samples
        return found

    def _batch_size(self) -> int:
        if self.batch is None:
            return 1
        try:
            return extract_batch_size(self.batch)
        except MisconfigurationException:
            return 1


def _readings(trainer: L.Trainer, owner: L.LightningModule) -> _Readings:
    """What one process reads off its share of the validation samples."""
    loaders = trainer.val_dataloaders
    if loaders is None or not is_own("validation_step", owner, L.LightningModule):
        raise UserError("there is no validation.")
    several = isinstance(loaders, list | tuple) and len(loaders) > 1
    loaders = list(loaders) if isinstance(loaders, list | tuple) else [loaders]
    limits = trainer.num_val_batches
    limits = list(limits) if isinstance(limits, list) else [limits] * len(loaders)
    if not any(limits):
        raise UserError("there is no validation.")
    facts = stand_in(trainer, training=False)
    readings = _Readings(trainer.strategy.root_device)
    mute(owner)
    owner.__dict__.update(log=readings.log, log_dict=readings.log_dict)
    preparation = BatchPreparation(trainer, owner, facts)
    for part in owner.modules():
        if isinstance(part, Metric):
            part.reset()
    owner.eval()
    indexed = is_param_in_hook_signature(owner.validation_step, "batch_idx", min_args=2)
    precision, eager = trainer.precision_plugin.val_step_context(), eagerly()
    with torch.no_grad(), precision, eager:
        owner._trainer = facts  # type: ignore[assignment]
        owner.on_validation_epoch_start()
        for number, (loader, limit) in enumerate(zip(loaders, limits, strict=True)):
            further = (number,) if several else ()
            readings.suffix = f"/dataloader_idx_{number}" if several else ""
            batches: Iterator[Any] = successive_batches(loader)
            count = None if limit == float("inf") else int(limit)
            for index, batch in enumerate(islice(batches, count)):
                readings.batch = preparation(batch, number)
                where = (index, *further)
                owner.on_validation_batch_start(readings.batch, *where)
                outputs = owner.validation_step(readings.batch, *(where if indexed else ()))
                owner.on_validation_batch_end(outputs, readings.batch, *where)
        readings.batch, readings.suffix = None, ""
        owner.on_validation_epoch_end()
    owner._trainer = None
    return readings


def reestimate_statistics(trainer: L.Trainer, owner: L.LightningModule, batches: int) -> None:
    """Estimate BatchNorm's running statistics anew in `owner`, a copy of the module that trains, in place.

    They are those of the first so many `batches` of the training loader of each process, at most an epoch,
    from iterators of their own, through the hooks and the training step of `owner`, pooled over the
    processes. `NotPossible` if a process could not run the training step.
    """
    layers = tracking_layers(owner)
    if not layers:
        return
    number = int(min(batches, trainer.num_training_batches))
    seen = on_all_processes(trainer, lambda: _run_training_batches(trainer, owner, number))
    if seen and trainer.world_size > 1:
        pooled(layers, lambda statistics: trainer.strategy.reduce(statistics, reduce_op="mean"))


def _run_training_batches(trainer: L.Trainer, owner: Any, number: int) -> int:
    facts = stand_in(trainer, training=True)
    mute(owner)
    owner.__dict__["manual_backward"] = NoOp()
    where = (0,) if is_param_in_hook_signature(owner.training_step, "batch_idx", min_args=2) else ()
    preparation = BatchPreparation(trainer, owner, facts)

    def run(batch: Any) -> None:
        prepared = preparation(batch)
        with trainer.precision_plugin.train_step_context(), eagerly():
            owner._trainer = facts
            owner.training_step(prepared, *where)

    batches = islice(successive_batches(training_loader(trainer)), number)
    seen = reestimate(tracking_layers(owner), run, batches)
    owner._trainer = None
    return seen
