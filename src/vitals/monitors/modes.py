"""Are layers in training mode when training, and in evaluation mode when validating?"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torchmetrics import Metric, MetricCollection

from vitals.errors import listed
from vitals.findings import Finding
from vitals.length import is_due
from vitals.measures.batch_norm import has_statistics
from vitals.measures.held_parameters import held_identities
from vitals.monitors.monitor import Monitor
from vitals.probes.rows import samples_in
from vitals.recorder import recorder_of

LOOKS = 2
"""Validations in a row that call layers whose statistics are left behind, which may be copied at times, or
dropout that drops."""


class Modes(Monitor):
    """Looks at the modes of all modules after the first batch of every epoch, in training and validation.

    | tag | what |
    | --- | --- |
    | `modes/evaluating_in_training` | share of the modules in evaluation mode while training |
    | `modes/training_in_validation` | share of the modules in training mode while validating |
    | `modes/norms_without_statistics` | share of the BatchNorm layers, so while training, that saw no batch |
    | `modes/kept_evaluating/<part>` | 1 for a part, frozen as a whole, that is in evaluation mode then |

    Modules whose parameters are all frozen, or in no optimizer, are left out with all that is in them, and so
    are losses and metrics. Single layers may be in another mode on purpose, such as frozen BatchNorm or
    Monte-Carlo dropout; a whole network is not, unless its validation takes gradients, to adapt to a task.

    It also looks at what validation calls: a copy whose weights follow those that train, as an average does,
    while its BatchNorm statistics do not, is a finding, and so is dropout that drops there, where a sample
    goes through once: Monte-Carlo estimates take the mean of many passes.
    """

    station = "before"

    def __init__(self) -> None:
        super().__init__(times_per_epoch=1)
        self.norms: dict[str, tuple[_BatchNorm, Tensor, Tensor]] = {}
        """BatchNorm layers, with weight and running mean at the start."""
        self.called: set[str] = set()
        """Layers left behind that the present validation has called."""
        self.behind = 0
        """Validations in a row that called some."""
        self.passes: dict[str, list[tuple[bool, int]]] = {}
        """Of the first batch of the present validation through each dropout layer: whether it drops, and the
        rows that it gets."""
        self.dropping = 0
        """Validations in a row that dropped values of samples which pass once."""
        self.learns = False
        """Whether gradients are on in a pass of the present validation."""

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.behind, self.called = 0, set()
        self.dropping, self.passes = 0, {}
        self.norms = {
            name: (part, part.weight.detach().clone(), part.running_mean.clone())
            for name, part in module.named_modules()
            if isinstance(part, _BatchNorm) and part.running_mean is not None and part.affine
        }

    def _left_behind(self) -> list[str]:
        """Layers that no optimizer trains, whose weights have changed and whose running mean has not."""
        moved = {
            name: not torch.equal(norm.running_mean, mean)
            for name, (norm, _, mean) in self.norms.items()
            if norm.running_mean is not None
        }
        trains = {name for name, (norm, *_) in self.norms.items() if norm.weight.requires_grad}
        if not any(moved.get(name) for name in trains):
            return []
        return [
            name
            for name, (norm, weight, _) in self.norms.items()
            if name not in trains and moved.get(name) is False and not torch.equal(norm.weight, weight)
        ]

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, *places: Any
    ) -> None:
        if not any(places) and not trainer.sanity_checking:
            self.called, self.passes, self.learns = set(), {}, False
            self.guarded(self._watch, pl_module)

    def _watch(self, module: L.LightningModule) -> None:
        for name, part in module.named_modules():
            if isinstance(part, _DropoutNd) and part.p > 0:
                self.hooks.append(part.register_forward_pre_hook(partial(self._count, name)))
        for part in module.children():
            if isinstance(part, torch.jit.ScriptModule):  # takes no hooks
                continue
            self.hooks.append(part.register_forward_pre_hook(self._see_gradients))
        for name in self._left_behind():
            hook = self.norms[name][0].register_forward_pre_hook(
                lambda part, given, name=name: self.called.add(name)
            )
            self.hooks.append(hook)

    def _count(self, name: str, part: nn.Module, given: Any) -> None:
        rows = given[0].shape[:1] if given and isinstance(given[0], Tensor) else ()
        self.passes.setdefault(name, []).append((part.training, sum(rows)))

    def _see_gradients(self, part: nn.Module, given: Any) -> None:
        self.learns |= torch.is_grad_enabled()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0 and is_due(trainer.current_epoch + 1):
            self.guarded(self._look, trainer, pl_module, "modes/evaluating_in_training", False)
            self.guarded(self._look_at_norms, trainer, pl_module)
            self.guarded(self._look_at_frozen, trainer, pl_module)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *places: Any
    ) -> None:
        self.unhook()
        if places[0] == 0 and trainer.training is False and not trainer.sanity_checking:
            if not self.learns:
                self.guarded(self._look, trainer, pl_module, "modes/training_in_validation", True)
            if any(places):
                return
            self.behind = self.behind + 1 if self.called else 0
            if self.behind == LOOKS:
                self._say_left_behind(trainer)
            dropping = self._dropping(samples_in(batch))
            self.dropping = self.dropping + 1 if dropping else 0
            if self.dropping == LOOKS:
                self._say_dropping(trainer, dropping)

    def _dropping(self, samples: int) -> list[str]:
        """Layers that drop what passes once; none where samples also pass without, as beside an estimate of
        how sure that is, or all of these layers get each of the `samples` several times in one pass."""
        dropping = [name for name, passes in self.passes.items() if any(on for on, _ in passes)]
        passes = [self.passes[name] for name in dropping]
        if any(len(each) > 1 for each in passes):
            return []
        return dropping if any(each[0][1] < 2 * samples for each in passes) else []

    def _say_left_behind(self, trainer: L.Trainer) -> None:
        names = sorted(self.called)
        message = (
            f"Validation calls {len(names)} BatchNorm layer(s) whose weights follow those that train, while "
            f"their running statistics are still those of the start: {listed(names)}."
        )
        remedy = (
            "Copy the buffers with the parameters, as AveragedModel(use_buffers=True) does for an average, "
            "or estimate them anew before validation (update_bn)."
        )
        count = float(len(names))
        fault = Finding("train-val-mismatch", "fail", message, remedy, names[0], count, 0.0, exact=True)
        self.say(trainer, fault)

    def _say_dropping(self, trainer: L.Trainer, names: list[str]) -> None:
        message = (
            f"Dropout is on in validation, in {listed(names)}, and each sample goes through once: what is "
            f"measured is how well a part of the network does."
        )
        remedy = (
            "Leave the modes to Lightning, or take the mean over many passes, as Monte-Carlo dropout does."
        )
        count = float(len(names))
        fault = Finding("train-mode-evaluation", "warn", message, remedy, names[0], count, 0.0, exact=True)
        self.say(trainer, fault)

    def _look(self, trainer: L.Trainer, module: L.LightningModule, tag: str, training: bool) -> None:
        parts = _trained_parts(module, held_identities(*trainer.optimizers))
        self._share(trainer, tag, [part.training is training for part in parts])

    def _look_at_norms(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        parts = _trained_parts(module, held_identities(*trainer.optimizers))
        norms = [part for part in parts if isinstance(part, _BatchNorm) and part.running_mean is not None]
        without = [not norm.training and not has_statistics(norm) for norm in norms]
        self._share(trainer, "modes/norms_without_statistics", without)

    def _share(self, trainer: L.Trainer, tag: str, those: Sequence[bool]) -> None:
        if those:
            self.remember(trainer, {tag: sum(those) / len(those)}, trainer.current_epoch)

    def _look_at_frozen(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        recorder = recorder_of(trainer)
        kept = {
            f"modes/kept_evaluating/{name}": 1.0
            for name, part in module.named_modules()
            if _is_frozen(part) and not _is_frozen(module.get_submodule(name.rpartition(".")[0]))
            if not any(each.training for each in part.modules())
        }
        if recorder and any(not recorder.history.tags(tag) for tag in kept):  # once is enough
            self.remember(trainer, kept, trainer.current_epoch)


def _is_frozen(part: nn.Module) -> bool:
    parameters = list(part.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def _trained_parts(module: nn.Module, held: set[int]) -> Iterator[nn.Module]:
    """The modules in `module` whose mode the training is about; dropout in a frozen backbone is not, nor an
    average of the weights, which no optimizer has. None has any where steps are taken past Lightning."""
    for part in module.children():
        parameters = list(part.parameters())
        trains = any(p.requires_grad and (id(p) in held or not held) for p in parameters) or not parameters
        if trains and not isinstance(part, Metric | MetricCollection) and "Loss" not in type(part).__name__:
            yield part
            yield from _trained_parts(part, held)
