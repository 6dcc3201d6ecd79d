"""What a copy of a module may ask of its trainer, with nothing behind it that could be disturbed."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import RunningStage
from torch import nn
from torch.optim import Optimizer

from vitals.either_package import either, is_own
from vitals.probes.copies import NoOp
from vitals.probes.rows import own_class, plain
from vitals.probes.surroundings import closures_kept


class BatchPreparation:
    """Calls the hooks of `owner`, a copy of the module, and of the trainer's data module around the transfer
    to the device, and converts to the precision. The hooks may ask `facts`, the stand-in for the trainer."""

    def __init__(self, trainer: L.Trainer, owner: L.LightningModule, facts: SimpleNamespace) -> None:
        self.owner, self.facts, self.device = owner, facts, trainer.strategy.root_device
        self.convert = trainer.precision_plugin.convert_input
        self.data: Any = copy.copy(getattr(trainer, "datamodule", None))
        self.of_class = ""
        """Somebody's own one of tensors in the last batch, which plain ones stand for."""

    def __call__(self, batch: Any, dataloader_idx: int = 0) -> Any:
        for name in ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer"):
            owner: Any = self.owner
            if self.data is not None and is_own(name, self.data, L.LightningDataModule):
                owner = self.data
                owner.trainer = self.facts
            else:
                owner._trainer = self.facts
            arguments = (self.device, dataloader_idx) if name.startswith("transfer") else (dataloader_idx,)
            with closures_kept(owner):
                batch = getattr(owner, name)(batch, *arguments)
        converted = self.convert(batch)
        self.of_class = own_class(converted)
        return plain(converted)


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


class StandInOptimizers(list[StandInOptimizer]):
    """One for each optimizer of a trainer; an only one may be asked without its place, as what Lightning
    gives for `optimizers(use_pl_optimizer=False)`."""

    def __getattr__(self, name: str) -> Any:
        if len(self) != 1 or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self[0], name)


class StandIn(SimpleNamespace):
    """What `stand_in` gives; a copy of a module shares it. All else that a step may ask for does nothing."""

    def __getattr__(self, name: str) -> NoOp:
        if name.startswith("__"):
            raise AttributeError(name)
        return NoOp()

    def __deepcopy__(self, memo: dict[int, Any]) -> StandIn:
        return self


AS_THEY_ARE = (
    *("current_epoch", "global_step", "max_epochs", "max_steps", "default_root_dir"),
    *("num_training_batches", "num_val_batches", "accumulate_grad_batches", "estimated_stepping_batches"),
)
"""What the trainer says of itself."""
ASKED_OF_ALL = ("all_gather", "reduce", "broadcast", "barrier", "reduce_boolean_decision")
"""What its strategy does together with other processes; a copy does it `alone`."""
FALSE = (
    *("meets_zeros", "needs_graph", "rewrites"),
    *("is_last_batch", "testing", "predicting", "sanity_checking"),
)


def stand_in(trainer: L.Trainer, training: bool) -> SimpleNamespace:
    """What a module may ask of its trainer in a step, with nothing behind it that could be disturbed."""
    events: list[Any] = []
    optimizers = StandInOptimizers(
        StandInOptimizer(each, number, events) for number, each in enumerate(trainer.optimizers)
    )
    stage = RunningStage.TRAINING if training else RunningStage.VALIDATING
    return StandIn(
        **{name: getattr(trainer, name) for name in AS_THEY_ARE},
        **dict.fromkeys(FALSE, False),
        **{name: {} for name in ("callback_metrics", "logged_metrics", "progress_bar_metrics")},
        events=events,
        train_dataloader=loader_facts(trainer.train_dataloader),
        val_dataloaders=loader_facts(trainer.val_dataloaders),
        **dict.fromkeys(("world_size", "num_devices", "num_nodes"), 1),
        global_rank=0,
        local_rank=0,
        is_global_zero=True,
        state=dataclasses.replace(trainer.state, stage=stage),
        training=training,
        validating=not training,
        logger=NoOp(),
        loggers=[],
        callbacks=[],
        log_dir=None,
        datamodule=copy.copy(getattr(trainer, "datamodule", None)),
        optimizers=optimizers,
        lr_scheduler_configs=[SimpleNamespace(scheduler=NoOp()) for _ in trainer.lr_scheduler_configs],
        strategy=StandIn(
            _lightning_optimizers=optimizers[0] if len(optimizers) == 1 else optimizers,
            root_device=trainer.strategy.root_device,
            **{name: getattr(trainer.strategy, name) for name in ASKED_OF_ALL},
        ),
    )


class LoaderFacts:
    """What a step may ask of a loader: how long it is, its data set and its batch size; it gives no batch."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.dataset, self.batch_size = (getattr(loader, name, None) for name in ("dataset", "batch_size"))

    def __len__(self) -> int:
        return len(self.loader)


def loader_facts(loaders: Any) -> Any:
    """The same for one loader, a list or a dict of them."""
    if isinstance(loaders, list | tuple):
        return [LoaderFacts(loader) for loader in loaders]
    if isinstance(loaders, dict):
        return {name: LoaderFacts(loader) for name, loader in loaders.items()}
    return None if loaders is None else LoaderFacts(loaders)


def attach(module: nn.Module, trainer: Any) -> None:
    """Make `trainer`, from `stand_in`, the trainer of `module`, a copy, and of the modules in it."""
    for part in module.modules():
        if isinstance(part, either(L.LightningModule)):
            part._trainer = trainer


MUTED = ("log", "log_dict", "print", "clip_gradients", "toggle_optimizer", "untoggle_optimizer")


class Logged(NoOp):
    """Notes by which names a muted copy logs."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __call__(self, name: Any = "", *arguments: Any, **options: Any) -> Logged:
        for each in [name] if isinstance(name, str) else list(getattr(name, "keys", list)()):
            both = options.get("on_step") and options.get("on_epoch")
            self.names |= {f"{each}{end}" for end in (("", "_step", "_epoch") if both else ("",))}
        return self


def mute(module: nn.Module) -> set[str]:
    """Make `module`, a copy, and the LightningModules in it log and print nothing and leave optimizers
    alone; the names by which they would have logged, as they come."""
    logged = Logged()
    for part in module.modules():
        if isinstance(part, either(L.LightningModule)):
            for name in MUTED:
                part.__dict__[name] = logged if name.startswith("log") else NoOp()
    return logged.names
