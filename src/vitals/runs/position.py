"""Where in an epoch a training stands, and all that is needed to go on from there to the bit."""

from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities import move_data_to_device
from lightning.fabric.utilities.data import _set_sampler_epoch
from lightning.fabric.utilities.types import _Stateful
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from torch import Tensor, nn
from torchmetrics import Metric

from vitals.probes.random_states import plain_states, raw_states, set_random_states


class Position:
    """Follows a training, and restores the place at which it was left, at any batch of an epoch.

    Lightning saves its counters amid an epoch, and neither the place in the data, nor the random states, nor
    the means of the epoch so far. A loader that has a `state_dict` is restored by it; with any other the
    batches that were trained on are drawn again and thrown away, from the random states with which the epoch
    began, so that it need not know of this. Its owner calls each method in the hook of the same name.
    """

    def __init__(self) -> None:
        self.before_loader: Any = None
        """Random states before the iterator of the epoch was made."""
        self.before_first: Any = None
        """Those before its first batch, where other code drew between; None where that followed at once."""
        self.before_next: Any = None
        """Those after the batch before was trained on."""
        self.before_that: Any = None
        """Those after the batch before that one; of a stream the coming batch was drawn then."""
        self.loaders: list[Any] = []
        """States, at that moment, of the loaders that have such."""
        self.begun = False
        """Whether the iterator of the coming epoch has been made."""
        self.loaded: dict[str, Any] | None = None
        self.stepped: int | None = None
        """Lightning's count of steps for loggers, until the first batch after a restart."""
        self.results: dict[str, dict[str, Tensor]] = {}
        """Sums of what was logged in the epoch so far, until its names are logged again."""

    def on_fit_start(self) -> None:
        self.before_loader = raw_states()

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.begun, self.results, self.stepped = True, {}, None
        if self.loaded is None:
            self.before_first = raw_states()
        else:  # only now: setting up may have drawn random numbers
            self._restore(trainer, module, self.loaded)
            self.loaded = None
        self.before_next = raw_states()

    def on_train_epoch_start(self) -> None:
        if not self.begun:
            self.before_loader, self.before_first = raw_states(), None

    def on_train_batch_start(self, trainer: L.Trainer) -> None:
        self.begun = False
        if self.stepped is not None:
            trainer.fit_loop.epoch_loop._batches_that_stepped = self.stepped
            self.stepped = None
        self._bring_results(trainer)

    def on_train_batch_end(self, trainer: L.Trainer, save_next: bool) -> None:
        """`save_next`: whether a state may be saved before the next batch; taking note of it for every batch
        would be felt in a small training."""
        self._bring_results(trainer)
        if save_next or _ahead(trainer):
            self.before_that = self.before_next
            self._note_states(trainer)
        else:
            self.before_next = None

    def on_validation_end(self, trainer: L.Trainer) -> None:
        self._note_states(trainer)

    def _note_states(self, trainer: L.Trainer) -> None:
        """Take note of the random states, and of the loaders', before the next batch."""
        self.before_next = raw_states()
        loaders = trainer.fit_loop._combined_loader
        if loaders is not None and any(isinstance(loader, _Stateful) for loader in loaders.flattened):
            self.loaders = loaders._state_dicts()

    def at_batch(self, trainer: L.Trainer, batches: int) -> dict[str, Any] | None:
        """The state in plain types and tensors after `batches` of the epoch, at the start of the next; asks
        all processes. None where nothing can go on from here: amid an accumulation in several processes, or
        where nobody asked for it in time."""
        stepped = not batches % trainer.accumulate_grad_batches
        if self.before_next is None or (not stepped and trainer.world_size > 1):
            return None
        module, loop = trainer.lightning_module, trainer.fit_loop.epoch_loop
        # Lightning counts a batch only after the hooks of its end.
        counted = loop.batch_progress.current.ready > batches
        own = {
            "before_loader": plain_states(self.before_loader),
            "before_first": plain_states(self.before_first) if self.before_first else None,
            "before_next": plain_states(self.before_next),
            "before_that": plain_states(self.before_that) if batches > 1 and _ahead(trainer) else None,
            "logged": _logged(trainer),
            "metrics": {name: {"updates": m._update_count, **m.metric_state} for name, m in _metrics(module)},
            "results": _sums(trainer) | self.results,
        }
        gradients = {}
        if not (stepped and module.automatic_optimization):
            gradients = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
        return {
            "batches": batches,
            "stepped": loop._batches_that_stepped + (stepped and not counted),
            "loaders": self.loaders,
            "gradients": gradients,
            "processes": of_all(trainer, own),
        }

    def at_epoch_end(self, trainer: L.Trainer) -> dict[str, Any]:
        """The state between two epochs; asks all processes."""
        own = {"before_next": plain_states(raw_states()), "logged": _logged(trainer)}
        return {"batches": 0, "processes": of_all(trainer, own)}

    def _restore(self, trainer: L.Trainer, module: L.LightningModule, state: Mapping[str, Any]) -> None:
        processes = state["processes"]
        own = processes[trainer.global_rank % len(processes)]
        loaders = trainer.fit_loop._combined_loader
        for loader in loaders.flattened if loaders is not None else ():
            _set_sampler_epoch(loader, trainer.current_epoch)
        trainer.callback_metrics.update(move_data_to_device(own.get("logged", {}), module.device))
        if state["batches"]:
            self._restore_amid_epoch(trainer, module, state, own)
        else:
            self._restore_between_epochs(trainer, own)

    def _restore_between_epochs(self, trainer: L.Trainer, own: Mapping[str, Any]) -> None:
        set_random_states(own["before_next"])
        self.before_loader, self.before_first = own["before_next"], None
        # A DataLoader draws its order when its iterator is made. Newer Lightnings make none as the first
        # epoch of a resumed run begins, and made theirs before the states were back.
        fetcher = trainer.fit_loop._data_fetcher
        if getattr(trainer.fit_loop, "is_resuming", False) and fetcher is not None:
            iter(fetcher)

    def _restore_amid_epoch(
        self, trainer: L.Trainer, module: L.LightningModule, state: Mapping[str, Any], own: Mapping[str, Any]
    ) -> None:
        if not hasattr(_TrainingEpochLoop, "update_restart_stage"):
            trainer.fit_loop.epoch_loop.__class__ = _ValidatedLoop
        self.before_loader, self.before_first = own["before_loader"], own["before_first"]
        if not state["loaders"]:
            self._draw_again(trainer, state["batches"], own["before_that"])
        set_random_states(own["before_next"])
        self.loaders = state["loaders"]
        self.stepped, self.results = state["stepped"], own["results"]
        _set_metric_states(module, own["metrics"])
        parameters = dict(module.named_parameters())
        for name, gradient in state["gradients"].items():
            parameters[name].grad = gradient.to(parameters[name].device)

    def _draw_again(self, trainer: L.Trainer, batches: int, before_last: Any) -> None:
        """Draw the batches of the epoch that were trained on, and throw them away; `before_last` are the
        random states before the last of them, where they matter."""
        fetcher = trainer.fit_loop._data_fetcher
        if fetcher is None:
            return
        set_random_states(self.before_loader)
        iter(fetcher)
        if self.before_first:
            set_random_states(self.before_first)
        for place in range(batches):
            if place == batches - 1 and before_last:
                set_random_states(before_last)
            next(fetcher)
        fetcher.fetched -= batches  # which Lightning adds itself

    def _bring_results(self, trainer: L.Trainer) -> None:
        """Add the sums from before the restart to those that have begun anew."""
        if not self.results:
            return
        for name, result in _tensor_results(trainer):
            both: Any = torch.add
            if result.meta.is_max_reduction:
                both = torch.maximum
            elif result.meta.is_min_reduction:
                both = torch.minimum
            for part, before in self.results.pop(name, {}).items():
                now = getattr(result, part)
                setattr(result, part, both(before.to(now.device), now))


class _ValidatedLoop(_TrainingEpochLoop):
    """Before 2.5, Lightning validates once more where it goes on right after a validation amid an epoch."""

    def on_run_start(self, data_fetcher: Any) -> None:
        super().on_run_start(data_fetcher)
        self.restarting = False


def _ahead(trainer: L.Trainer) -> bool:
    """Whether Lightning draws a batch ahead: of a stream, whose end it would not see otherwise."""
    fetcher = trainer.fit_loop._data_fetcher
    return fetcher is not None and fetcher.length is None


def of_all(trainer: L.Trainer, own: Any) -> list[Any]:
    """What each process has, by its rank."""
    if trainer.world_size == 1:
        return [own]
    found: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(found, own)
    return found


def _logged(trainer: L.Trainer) -> dict[str, Tensor]:
    """What was logged last, which callbacks may look up until it is logged again."""
    return {name: value.detach() for name, value in trainer.callback_metrics.items()}


def _metrics(module: nn.Module) -> Iterator[tuple[str, Metric]]:
    """What gathers values over an epoch."""
    for name, part in module.named_modules():
        if isinstance(part, Metric):
            yield name, part


def _set_metric_states(module: nn.Module, states: Mapping[str, Any]) -> None:
    for name, metric in _metrics(module):
        state = dict(states.get(name, {}))
        metric._update_count = state.pop("updates", 0)
        metric._computed = None
        for part, value in state.items():
            setattr(metric, part, move_data_to_device(value, metric.device))


def _tensor_results(trainer: L.Trainer) -> Iterator[tuple[str, Any]]:
    """What was logged as a tensor for the whole epoch; metrics keep their own state."""
    for name, result in trainer.fit_loop.epoch_loop._results.items():
        if result.is_tensor and result.meta.on_epoch:
            yield name, result


def _sums(trainer: L.Trainer) -> dict[str, dict[str, Tensor]]:
    parts = ("value", "cumulated_batch_size")
    return {
        name: {part: getattr(result, part).detach().clone() for part in parts if hasattr(result, part)}
        for name, result in _tensor_results(trainer)
    }
