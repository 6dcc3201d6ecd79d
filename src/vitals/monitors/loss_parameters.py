"""Do the module and its optimizers hold what the loss depends on?"""

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import combinations, islice
from typing import Any
from weakref import WeakSet

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._pytree import tree_leaves

from vitals.either_package import either
from vitals.errors import listed
from vitals.measures.fresh_draws import looks_drawn
from vitals.measures.graph_leaves import graph_leaves
from vitals.measures.held_parameters import held_identities, held_parameters, highest_rates
from vitals.measures.norms import dense
from vitals.monitors.early_monitor import EarlyMonitor, first_elements, moving_parameters
from vitals.probes.thawing import thaws_later

DEPTH = 4
"""Lists and objects within each other in which a tensor is looked for by name."""
PATIENCE = 50
"""Batches without a step after which it is not gradients that are being added up."""
MADE = 20
"""Optimizers that appear within `PATIENCE` batches and take one step each: a loop makes one for each step."""
AVERAGES = frozenset({"exp_avg_sq", "square_avg", "exp_inf", "sum"})
"""What optimizers keep that divide a gradient by its usual size."""


class LossParameters(EarlyMonitor):
    """Compares what the loss depends on, in early steps and at the beginning of every epoch, with what the
    module and the optimizers hold then.

    Modules change after `configure_optimizers`, and layers may lie where nobody looks for parameters: in a
    plain list, in another object, or made anew in every forward pass. The graph of the loss knows them all.
    What it finds are findings; it draws no curve. Not looked at where no optimizer of Lightning's holds a
    parameter. Hooks see the steps of all optimizers, under manual optimisation, and for one batch the calls
    of all modules, where no loss has come.
    """

    kept = (*EarlyMonitor.kept, "first", "given", "empty", "made_anew", "at_start")

    def __init__(self) -> None:
        super().__init__()
        self.given = 0  # in processes, too, where it never starts
        self.batch: Any = None
        self.watched: list[Tensor] = []
        """Some parameters of the optimizers."""
        self.at_start: list[Tensor] = []
        """Some of their values at the beginning."""

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        super().start(trainer, module)
        self.later = thaws_later(trainer)
        self.strays: dict[int, tuple[Tensor, Tensor, int]] = {}
        """Of the look before: tensors that nobody holds, some of their values, and the step."""
        self.first = trainer.global_step
        self.given = 0
        """Losses given to `backward`."""
        self.empty = True
        """Whether no optimizer was ever given a gradient to step on, under manual optimisation."""
        self.computes = False
        """Whether a module was called then to be trained; not so while a game fills its memory."""
        self.stepping: set[int] = set()
        """Numbers of the optimizers that have taken a step."""
        self.waiting = dict[int, list[str]]()
        """Parameters of those that have not, though the loss gave them a gradient."""
        self.watched = moving_parameters(trainer)
        self.at_start = [first_elements(parameter) for parameter in self.watched]
        self.wanting: dict[str, tuple[Tensor, Tensor]] = {}
        """What the optimizers hold and wanted a gradient when the first batch came, by name, with some of its
        values."""
        self.known: WeakSet[Optimizer] = WeakSet(trainer.optimizers)
        self.asked: WeakSet[Optimizer] = WeakSet()
        """Those of Lightning that have taken a step, asked by Lightning or past it."""
        self.made: WeakSet[Optimizer] = WeakSet()
        """Further optimizers that have moved parameters of the module."""
        self.moved_before = set[int]()
        """Parameters that these have moved."""
        self.number_made, self.again, self.keeps, self.maker = 0, False, set[str](), ""
        """How many come after another of the same parameters, whether one took two steps, what they keep, and
        how the last one is called."""
        self.moved = {id(parameter) for parameter in module.parameters()}
        if self.active and not module.automatic_optimization:
            self.unhook()
            self.hooks = [register_optimizer_step_post_hook(partial(self.guarded, self._count))]
        self.made_anew = 0
        """Looks in a row at which the loss depended on parameters that did not exist at the look before."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self.batch = batch if self.wanted else None
        if self.active and self.batches == 1:
            held = held_identities(*trainer.optimizers)
            named = ((name, p) for name, p in pl_module.named_parameters() if id(p) in held)
            self.wanting = {name: (p, first_elements(p)) for name, p in named if p.requires_grad}
        if self.at_start and self.batches == PATIENCE and not self.given:
            self.hooks.append(register_module_forward_hook(self._call))

    def _call(self, module: nn.Module, arguments: Any, outputs: Any) -> None:
        made = (leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor))
        self.computes = self.computes or any(tensor.requires_grad for tensor in made)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        self.given += 1
        if self.wanted:
            self.guarded(self._look, trainer, pl_module, loss)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if self.wanted and not pl_module.automatic_optimization:
            self.guarded(self._note_waiting, trainer, pl_module)
        if self.at_start and self.batches == PATIENCE:
            self.guarded(self._standing_still, trainer, pl_module)
            self.at_start = []
        if self.hooks and (self.batches >= PATIENCE or self.number_made >= MADE):
            self.unhook()
            self.guarded(self._made_anew, trainer)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        if len(self.stepping) < len(trainer.optimizers):
            self.stepping.update(n for n, each in enumerate(trainer.optimizers) if each is optimizer)
        if self.at_start and not pl_module.automatic_optimization:
            given = [each.grad for each in held_parameters(optimizer) if each.grad is not None]
            self.empty = self.empty and not any(bool(dense(gradient).any()) for gradient in given)

    def _count(self, optimizer: Optimizer, *_: Any) -> None:
        held = held_identities(optimizer)
        if optimizer in self.known:
            self.asked.add(optimizer)
        if optimizer in self.known or self.moved.isdisjoint(held):
            return
        self.again = self.again or optimizer in self.made
        self.made.add(optimizer)
        if self.moved_before.isdisjoint(held):  # as where each parameter has an optimizer of its own
            self.moved_before |= held
            return
        self.number_made += 1
        self.keeps = {key for state in islice(optimizer.state.values(), 1) for key in state}
        self.maker = f"{type(optimizer).__name__} at {max(group['lr'] for group in optimizer.param_groups):g}"

    def _made_anew(self, trainer: L.Trainer) -> None:
        if self.again or self.number_made < MADE or not self.keeps & {*AVERAGES, "momentum_buffer"}:
            return
        message = f"Each step is taken by a new optimizer ({self.maker}), and none by the one of Lightning"
        cause, seen = "learning-rate-too-low", ": its momentum begins again, and is that of one step."
        if self.keeps & AVERAGES:
            cause, seen = "learning-rate-too-high", ": its averages of gradients begin again, so that every"
            seen += " weight moves by the full rate whatever its gradient."
        remedy = "Make the optimizer once, in configure_optimizers, and take it from self.optimizers()."
        self.tell(trainer, message + seen, remedy, "optimizer", self.number_made, cause)

    def _standing_still(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Say that nothing moves, as there is no loss; or that a step by hand moves nothing: it is not taken,
        or without a gradient."""
        before = zip(self.watched, self.at_start, strict=False)
        if any(not torch.equal(first_elements(parameter), values) for parameter, values in before):
            return
        if not self.given and not self.computes:
            return
        if module.automatic_optimization:
            message = f"training_step returned no loss for any of the first {self.batches} batches: none"
            remedy = "Return the loss at the end of training_step, the tensor or a dict with it as 'loss'."
            if not self.given:
                self.tell(trainer, f"{message} is trained on.", remedy, "training_step", self.batches)
            return
        called = "no loss was given to manual_backward"
        remedy = "Call manual_backward(loss) in training_step, then optimizer.step()."
        if self.given:
            called = f"{self.given} losses were given to manual_backward"
            remedy = (
                "Call optimizer.step() in training_step, after manual_backward; and scaler.update() where a "
                "scaler decides on it, or a first scale that overflows skips every step."
            )
        message = f"After {self.batches} batches no optimizer has taken a step and no parameter has changed"
        if steps := trainer.global_step - self.first:
            if not self.empty:
                return
            message = f"In {steps} steps no parameter has changed, as the optimizer gets no gradient"
            remedy = "Call zero_grad() before manual_backward, not between it and optimizer.step()."
        self.tell(trainer, f"{message}; {called}.", remedy, "optimizer", self.batches)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        if self.stepping and self.batches >= PATIENCE:
            self.guarded(self._left_waiting, trainer)
            self.guarded(self._switched_off, trainer)

    def _note_waiting(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        given = {id(p): name for name, p in module.named_parameters() if p.grad is not None}
        for number in set(range(len(trainer.optimizers))) - self.stepping - set(self.waiting):
            held: list[Any] = held_parameters(trainer.optimizers[number])
            waiting = [each for each in held if id(each) in given and bool(dense(each.grad).any())]
            if names := [given[id(each)] for each in waiting]:
                self.waiting[number] = names

    def _left_waiting(self, trainer: L.Trainer) -> None:
        """Say which optimizer took no step in the whole training, though the loss gives its parameters a
        gradient."""
        for number in sorted(set(self.waiting) - self.stepping):
            names = self.waiting[number]
            optimizer = trainer.optimizers[number]
            if not optimizer.state and optimizer not in self.asked:  # else it was asked past Lightning
                message = (
                    f"Optimizer {number + 1} of {len(trainer.optimizers)} took no step in {self.batches} "
                    f"batches, though the loss gives its parameters a gradient: {listed(names)}."
                )
                remedy = (
                    "Call step() of each optimizer in training_step, after manual_backward; one that is to "
                    "start later needs a longer run."
                )
                self.tell(trainer, message, remedy, names[0], self.batches, level="warn")
                return

    def _switched_off(self, trainer: L.Trainer) -> None:
        """Say which parameters that the optimizers hold have wanted no gradient since the first batch and
        never moved from where they were drawn, while others did. What is frozen before that, as when an epoch
        starts, is meant, and so is what was trained before."""
        held = self.wanting.items()
        moved = {name: not torch.equal(first_elements(p), before) for name, (p, before) in held}
        names = [name for name, (p, _) in held if not p.requires_grad and not moved[name]]
        drawn = any(looks_drawn(self.wanting[name][0]) for name in names)
        if drawn and any(moved.values()) and not self.later:
            message = (
                f"{len(names)} parameter(s) that an optimizer holds wanted a gradient when the training "
                f"began, want none since, and are as they were drawn: {listed(names)}."
            )
            remedy = (
                "Call untoggle_optimizer() after each toggle_optimizer(), and look for what sets "
                "requires_grad=False in the training step or in validation, and never True again."
            )
            self.tell(trainer, message, remedy, names[0], len(names), level="warn")

    def _look(self, trainer: L.Trainer, module: L.LightningModule, loss: Tensor) -> None:
        held = highest_rates(*trainer.optimizers)
        if not held:  # whoever steps by hand has a way of their own
            self.active = False
            return
        own = {id(parameter): name for name, parameter in module.named_parameters()}
        leaves = graph_leaves(loss)
        reached = [own[id(leaf)] for leaf in leaves if id(leaf) in own]
        without = [own[id(leaf)] for leaf in leaves if id(leaf) in own and held.get(id(leaf), 0.0) <= 0]
        foreign = sum(identity not in own for identity in held)
        if without and not self.later:
            self._without_optimizer(trainer, module, without, foreign, held, len(without) == len(reached))
        given = {id(leaf) for leaf in tree_leaves(self.batch)}
        strays = [leaf for leaf in leaves if id(leaf) not in own and id(leaf) not in held]
        # A number among the buffers is what a sum of losses begins with.
        given |= {id(buffer) for buffer in module.buffers() if buffer.numel() == 1}
        strays = [leaf for leaf in strays if id(leaf) not in given]
        # Copies that a meta-learner trains by itself are a loss of their own; a layer is part of the network.
        self._strays(trainer, module, strays if len(reached) > len(without) else [])

    def _without_optimizer(
        self,
        trainer: L.Trainer,
        module: L.LightningModule,
        names: Sequence[str],
        foreign: int,
        held: dict[int, float],
        all_of_them: bool,
    ) -> None:
        """Say which parameters of the module no optimizer has; networks left out as a whole, such as a
        teacher, are meant, unless the loss depends on nothing else, or the optimizers hold what is no longer
        in the module, or two of them the same, as of an encoder alone and with its decoder."""
        twice = any(one == other for one, other in combinations(map(held_identities, trainer.optimizers), 2))
        if not foreign and not twice and not all_of_them:
            parts = dict(module.named_children())
            trained = {name for name, part in parts.items() if any(id(p) in held for p in part.parameters())}
            names = [name for name in names if name.partition(".")[0] not in set(parts) - trained]
        if not names:
            return
        message = f"{len(names)} parameter(s) of the network get no step from the optimizer: {listed(names)}"
        message += f"; it holds {foreign} that the network no longer has." if foreign else "."
        if twice:
            message = f"{message[:-1]}; others are in two optimizers."
        remedy = (
            "Change the layers before configure_optimizers is called, or build the optimizer from the "
            "parameters that the network has then."
            if foreign
            else "Hand the optimizer all parameters, or set requires_grad=False on those that are to stay."
        )
        self.tell(trainer, message, remedy, names[0], len(names))

    def _strays(self, trainer: L.Trainer, module: L.LightningModule, leaves: Sequence[Tensor]) -> None:
        """Say which tensors of the loss nobody holds, where they are always new ones or never change."""
        step, before = trainer.global_step, self.strays
        new = [leaf for leaf in leaves if isinstance(leaf, nn.Parameter) and id(leaf) not in before]
        self.made_anew = self.made_anew + 1 if new and before and not before.keys() & map(id, leaves) else 0
        if self.made_anew >= 2:
            shapes = listed(str(tuple(leaf.shape)) for leaf in new)
            message = (
                f"In every step the loss depends on {len(new)} new parameter(s) of shape {shapes}, made in "
                f"the forward pass, which neither the module nor an optimizer has: they stay random."
            )
            remedy = "Create the layer once, in __init__, as an attribute of the module."
            self.tell(trainer, message, remedy, "forward", len(new))
        still = [leaf for leaf in leaves if id(leaf) in before and _same(leaf, before[id(leaf)], step)]
        if still:
            names = [_name(module, leaf) or f"a tensor of shape {tuple(leaf.shape)}" for leaf in still]
            message = (
                f"The loss depends on {len(still)} tensor(s) that want a gradient and are in neither the "
                f"module's parameters nor an optimizer, and that never change: {listed(names)}."
            )
            remedy = (
                "Keep layers in nn.ModuleList or nn.ModuleDict and tensors in nn.Parameter, or set "
                "requires_grad=False on what is to stay."
            )
            self.tell(trainer, message, remedy, names[0], len(still))
        self.strays = {
            id(leaf): before[id(leaf)] if id(leaf) in before else (leaf, first_elements(leaf), step)
            for leaf in leaves
        }

    def tell(self, *arguments: Any, **options: Any) -> None:
        super().tell(*arguments, **options)
        self.strays = {}

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.batch = None


def _same(leaf: Tensor, before: tuple[Tensor, Tensor, int], step: int) -> bool:
    """Whether `leaf` is as it was some optimizer step ago."""
    _, values, at = before
    return step > at and torch.equal(first_elements(leaf), values)


def _name(module: nn.Module, wanted: Tensor) -> str:
    """How the code of the module says `wanted`: `net.layers[0].weight`; empty where it is not found."""
    tables = set(vars(nn.Module()))
    for prefix, part in module.named_modules():
        for name, value in vars(part).items():
            if name not in tables and not name.startswith("_"):
                path = _path_inside(value, wanted, DEPTH)
                if path is not None:
                    return f"{prefix}.{name}{path}".lstrip(".")
    return ""


def _path_inside(value: Any, wanted: Tensor, depth: int) -> str | None:
    """How code comes from `value` to `wanted`, `[0].weight`; None where it is not in it."""
    if value is wanted:
        return ""
    if isinstance(value, nn.Module):
        return next((f".{name}" for name, each in value.named_parameters() if each is wanted), None)
    if depth == 0:
        return None
    entries: Iterable[tuple[str, Any]] = ()
    if isinstance(value, list | tuple):
        entries = ((f"[{place}]", entry) for place, entry in enumerate(value[:100]))
    elif isinstance(value, dict):
        entries = ((f"[{key!r}]", entry) for key, entry in list(value.items())[:100])
    elif hasattr(value, "__dict__") and not isinstance(value, (type, *either(L.Trainer))):
        entries = ((f".{name}", entry) for name, entry in list(vars(value).items()))
    for name, entry in entries:
        path = _path_inside(entry, wanted, depth - 1)
        if path is not None:
            return name + path
    return None
