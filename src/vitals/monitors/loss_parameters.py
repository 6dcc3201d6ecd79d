"""Do the module and its optimizers hold what the loss depends on?"""

import operator
from collections.abc import Iterator, Sequence
from itertools import combinations, islice
from typing import Any
from weakref import WeakSet

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._pytree import tree_leaves

from vitals.either_package import either, is_own
from vitals.errors import listed
from vitals.findings import Finding, Level
from vitals.measures.double import double
from vitals.measures.graph_leaves import graph_leaves
from vitals.measures.held_parameters import held_identities, held_parameters
from vitals.measures.norms import dense
from vitals.monitors.monitor import Monitor, epoch_of
from vitals.probes.thawing import thaws_later

EARLY = 4
"""Batches of the training that are looked at, beside the first two of every epoch."""
DEPTH = 4
"""Lists and objects within each other in which a tensor is looked for by name."""
PATIENCE = 50
"""Batches without a step after which it is not gradients that are being added up."""
FEW = 10
"""Parameters that are watched meanwhile."""
SAMPLE = 1000
"""Elements by which a tensor is seen to have changed."""
TAKEN_BACK, LOOKS = 0.05, 3
"""Share of a step that is left when the next batch begins, below which it was taken back; and steps in a row
of which that must be so."""
CLIPPED = 0.2
"""Share of weights of one and the same size, from which they are clipped at it. It is a fault where those of
the start were larger."""
UPHILL, ASIDE = 0.5, 0.2
"""Cosine of the angle between the gradient and what moves the parameters in a batch beside the optimizer's
step, from which that climbs; and its size over that of the step."""
ONE_SIDED = 0.1
"""Share of the elements of gradients below, or above, zero from which it is no chance that hooks of the
parameters leave none of them, and others: 0.44 to 0.52 of them in 24 healthy runs (measured)."""
LEFT_OVER, LEGS = 0.5, 2
"""Share of what the steps between two validations have changed that is left after the second, below which
validation has put other weights in their place; and validations in a row of which that must be so."""

MADE = 20
"""Optimizers that appear within `PATIENCE` batches and take one step each: a loop makes one for each step."""
AVERAGES = frozenset({"exp_avg_sq", "square_avg", "exp_inf", "sum"})
"""What optimizers keep that divide a gradient by its usual size."""


class LossParameters(Monitor):
    """Compares what the loss depends on, in early steps and at the beginning of every epoch, with what the
    module and the optimizers hold then.

    Modules change after `configure_optimizers`, and layers may lie where nobody looks for parameters: in a
    plain list, in another object, or made anew in every forward pass. The graph of the loss knows them all.
    What it finds are findings; it draws no curve. Not looked at where parameters are spread over processes,
    nor where no optimizer of Lightning's holds a parameter.
    """

    station = "updates"
    kept = ("first", "given", "empty", "made_anew", "at_start", "began")

    def __init__(self) -> None:
        super().__init__(times_per_epoch=1)
        self.batches = self.number = self.given = self.began = 0  # in processes, too, where it never starts
        self.batch: Any = None
        self.watched: list[Tensor] = []
        """Some parameters of the optimizers."""
        self.at_start: list[Tensor] = []
        """Some of their values at the beginning."""
        self.hook: Any = None
        """Sees the steps of all optimizers."""
        self.there: Any = None
        """The same in validation."""
        self.calls: Any = None
        """Sees the calls of all modules, for one batch, where no loss has come."""
        self.around: list[Any] = []
        """See what hooks of parameters are given, and what they make of it."""

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.active = self.active and isinstance(trainer.strategy, either(SingleDeviceStrategy, DDPStrategy))
        self.later = thaws_later(trainer)
        self.batches = self.number = 0
        self.strays: dict[int, tuple[Tensor, Tensor, int]] = {}
        """Of the look before: tensors that nobody holds, some of their values, and the step."""
        self.first = trainer.global_step
        self.given = 0
        """Losses given to `backward`."""
        self.empty = True
        """Whether no optimizer was ever given a gradient to step on, under manual optimisation."""
        self.began = trainer.fit_loop.epoch_loop.batch_progress.total.ready  # in an earlier training
        self.computes = False
        """Whether a module was called then to be trained; not so while a game fills its memory."""
        self.stepping: set[int] = set()
        """Numbers of the optimizers that have taken a step."""
        self.waiting = dict[int, list[str]]()
        """Parameters of those that have not, though the loss gave them a gradient."""
        self.watched = _moving(trainer)
        self.at_start = [_some(parameter) for parameter in self.watched]
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
            self._unhook()
            self.hook = register_optimizer_step_post_hook(self._step_of)
        self.moving: list[Tensor] = []
        """Some parameters that a step is to change; those of other optimizers may be frozen for its time."""
        self.stepped: list[Tensor] = []
        """Some of their values before the step, and after it."""
        self.present: list[Tensor] = []
        """The same parameters when the batch begins, if nothing is frozen in between."""
        self.origin = self.gradient = self.earlier = torch.zeros(0)
        """Some of the values of these, their gradient in front of the step, and their values there in the
        batch before."""
        self.looks_last = False
        """Whether nothing of the user's is called between the look in front of the step and the step."""
        self.undone = self.clipped = self.climbed = self.filtered = 0
        """Steps in a row that were taken back, after which weights were clipped, and beside which something
        else went uphill; and backward passes of which hooks have left gradients of one sign alone."""
        self.signs: list[tuple[Tensor, Tensor]] = []
        """How many elements below and above zero came to hooks of the parameters, then, in pairs, left
        them."""
        self.leg = [_values(_moving(trainer))]
        """Some values of the parameters after the validation before, in front of the present one, and, where
        an epoch begins, behind it."""
        self.stepped_there = 0
        """Optimizer steps of the present validation on what is trained."""
        self.trained: list[Tensor] = []
        """Some of that."""
        self.replaced = 0
        """Validations in a row that left other weights in place."""
        self.made_anew = 0
        """Looks in a row at which the loss depended on parameters that did not exist at the look before."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.batches, self.number = trainer.fit_loop.epoch_loop.total_batch_idx + 1 - self.began, batch_idx
        self.batch = batch if self._wanted() else None
        if len(self.stepped) == 2:
            self.guarded(self._taken_back, trainer, *self.stepped)
            self.earlier = self.stepped[0]
        self.stepped = []
        self.present = _moving(trainer) if self._wanted() else []
        self.origin = _values(self.present)
        if self.at_start and self.batches == PATIENCE and not self.given:
            self.calls = register_module_forward_hook(self._call)
        if len(self.leg) > 1:
            self.guarded(self._trained_there, trainer)
            self.guarded(self._put_back, trainer, *self.leg)
            self.leg = [_values(_moving(trainer))]

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.active and len(self.leg) == 2:
            self.leg.append(_values(_moving(trainer)))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.active and not trainer.sanity_checking:
            self.trained = _moving(trainer)
            self.leg = [*self.leg[:1], _values(self.trained)]
            self.stepped_there = 0
            self.there = register_optimizer_step_post_hook(self._step_there)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.there is not None:
            self.there.remove()
            self.there = None

    def _step_there(self, optimizer: Optimizer, *_: Any) -> None:
        self.stepped_there += not held_identities(optimizer).isdisjoint(map(id, self.trained))

    def _call(self, module: nn.Module, arguments: Any, outputs: Any) -> None:
        made = (leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor))
        self.computes = self.computes or any(tensor.requires_grad for tensor in made)

    def _wanted(self) -> bool:
        return self.active and (self.batches <= EARLY or self.number < 2)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        self.given += 1
        if self._wanted():
            self.guarded(self._look, trainer, pl_module, loss)
            self.guarded(self._look_around_hooks, trainer)

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.around:
            self._let_go()
            self.guarded(self._one_sided, trainer)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if self._wanted() and not pl_module.automatic_optimization:
            self.guarded(self._note_waiting, trainer, pl_module)
        if len(self.stepped) == 1:
            self.stepped.append(_values(self.moving))
        if self.at_start and self.batches == PATIENCE:
            if self.calls is not None:
                self.calls.remove()
                self.calls = None
            self.guarded(self._standing_still, trainer, pl_module)
            self.at_start = []
        if self.hook is not None and (self.batches >= PATIENCE or self.number_made >= MADE):
            self._unhook()
            self.guarded(self._made_anew, trainer)

    def on_before_optimizer_step(
        self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        if len(self.stepping) < len(trainer.optimizers):
            self.stepping.update(n for n, each in enumerate(trainer.optimizers) if each is optimizer)
        if self._wanted() and not self.stepped:
            self.moving = _moving(trainer)
            self.stepped = [_values(self.moving)] if self.moving else []
            self.gradient = _values([_some_gradient(parameter) for parameter in self.moving])
            self.looks_last = _looks_last(trainer, pl_module, optimizer)
        if self.at_start and not pl_module.automatic_optimization:
            given = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
            self.empty = self.empty and not any(bool(dense(gradient).any()) for gradient in given)

    def _step_of(self, optimizer: Optimizer, *_: Any) -> None:
        self.guarded(self._count, optimizer)

    def _count(self, optimizer: Optimizer) -> None:
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
        self._say(trainer, message + seen, remedy, "optimizer", self.number_made, cause)

    def _let_go(self) -> None:
        for hook in self.around:
            hook.remove()
        self.around = []

    def _unhook(self) -> None:
        self._let_go()
        for hook in filter(None, (self.hook, self.there, self.calls)):
            hook.remove()
        self.hook = self.there = self.calls = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self._unhook()  # after an error Lightning calls no teardown

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self._unhook()

    def _taken_back(self, trainer: L.Trainer, before: Tensor, after: Tensor) -> None:
        now = _values(self.moving)
        left = _left(before, after, now)
        clipped = self._clipped(trainer, before, after, now)
        self.undone = self.undone + 1 if left < TAKEN_BACK and not clipped else 0
        if self.undone == LOOKS:
            message = (
                f"Of what an optimizer step changes {max(left, 0.0):.1%} is left when the next batch begins: "
                f"something writes to the parameters in between."
            )
            remedy = "Look for what copies other weights back after each step, such as an average."
            self._say(trainer, message, remedy, "optimizer", self.undone)
        one = len(self.moving) == len(self.present) and all(map(operator.is_, self.moving, self.present))
        if one and self.looks_last and len(self.earlier) == len(now):
            # What is put where it was, as weights that are masked or clipped in each step, goes nowhere.
            ahead = torch.where(before == self.earlier, 0.0, before - self.origin)
            self._climbs(trainer, ahead, now - after, after - before)

    def _climbs(self, trainer: L.Trainer, ahead: Tensor, behind: Tensor, step: Tensor) -> None:
        """Say where what is moved `ahead` of the optimizer's `step` goes uphill, and is not moved back then
        or `behind` it."""
        aside = ahead + behind if float(ahead @ behind) < 0 else ahead
        share = float(aside.norm() / step.norm().clamp_min(1e-30))
        climb = float(aside @ self.gradient / (aside.norm() * self.gradient.norm()).clamp_min(1e-30))
        self.climbed = self.climbed + 1 if share > ASIDE and climb > UPHILL else 0
        if self.climbed == LOOKS:
            message = (
                f"Ahead of the optimizer's step something else moves the parameters in each batch, "
                f"{share:.2g} times as far, up along the gradient (cosine of the angle {climb:.2f}), and "
                f"never takes that back."
            )
            remedy = (
                "Subtract what was added to the parameters before optimizer.step() is called, as "
                "sharpness-aware minimization does behind its second backward pass; look at the sign of a "
                "step by hand."
            )
            self._say(trainer, message, remedy, "optimizer", self.climbed, "wrong-gradient")

    def _look_around_hooks(self, trainer: L.Trainer) -> None:
        """Look at the gradients of this pass in front of the hooks of parameters and behind them."""
        self._let_go()
        self.signs = []
        hooked = [each for each in held_parameters(*trainer.optimizers) if each._backward_hooks]
        for parameter in [each for each in hooked if each.requires_grad][:FEW]:
            own: Any = parameter._backward_hooks
            others = dict(own)
            own.clear()  # hooks are called in their order, and this one comes first
            self.around.append(parameter.register_hook(self._count_signs))
            own.update(others)
            self.around.append(parameter.register_hook(self._count_signs))

    @torch.no_grad()
    def _count_signs(self, gradient: Tensor) -> None:
        if gradient.layout == torch.strided and not gradient.is_complex():
            self.signs.append(((gradient < 0).sum(), (gradient > 0).sum()))

    def _one_sided(self, trainer: L.Trainer) -> None:
        """Say where hooks of parameters leave only those elements of gradients that have one sign."""
        if not self.signs:
            return
        given, left = (
            [sum(int(pair[sign]) for pair in self.signs[place::2]) for sign in (0, 1)] for place in (0, 1)
        )
        gone = [sign for sign in (0, 1) if left[sign] == 0 and given[sign] > ONE_SIDED * sum(given)]
        self.filtered = self.filtered + 1 if len(gone) == 1 and sum(left) > 0 else 0
        if self.filtered == LOOKS:
            lost, kept = ("below", "above") if gone == [0] else ("above", "below")
            message = (
                f"Hooks of the parameters (register_hook) let no element of a gradient through that is "
                f"{lost} zero: of {given[gone[0]]} none is left, of {given[1 - gone[0]]} {kept} zero "
                f"{left[1 - gone[0]]}. Every weight moves in one direction only."
            )
            remedy = (
                f"Bound gradients on both sides of zero, as clamp(-c, c) does: those {lost} zero are as "
                f"right as those {kept}."
            )
            self._say(trainer, message, remedy, "gradient", self.filtered, "wrong-gradient")

    def _clipped(self, trainer: L.Trainer, before: Tensor, after: Tensor, now: Tensor) -> bool:
        """Whether weights were clipped after a step; say so where it goes on."""
        sizes, bound = now.abs(), float(now.abs().max())
        clamped = float(after.abs().max()) > bound and torch.equal(now, after.clamp(-bound, bound))
        share = float((sizes == bound).float().mean()) if clamped else 0.0  # else it may be rounding to a few
        larger = self.clipped > 0 or float(before.abs().max()) > bound
        one = len(trainer.optimizers) == 1  # and no critic beside what it judges
        self.clipped = self.clipped + 1 if share > CLIPPED and larger and one else 0
        if self.clipped == LOOKS:
            message = (
                f"{share:.0%} of the weights looked at are {bound:.3g} or -{bound:.3g} exactly, and were not "
                f"when the optimizer had taken its step: something clips them."
            )
            remedy = (
                "Take the clamp_() of parameters out, or widen its bounds: the critic of a WGAN wants it. "
                "What is clipped elsewhere are gradients."
            )
            self._say(trainer, message, remedy, "optimizer", self.clipped, "regularization-too-strong")
        return share > CLIPPED

    def _trained_there(self, trainer: L.Trainer) -> None:
        if not self.stepped_there or len(self.leg) < 2 or torch.equal(self.leg[1], _values(self.trained)):
            return
        message = (
            f"In validation {self.stepped_there} optimizer steps were taken on the parameters that train, "
            f"and these have stayed changed: the network learns what it is to be judged by."
        )
        remedy = "Take backward() and step() in training alone: ask for the phase where one loop does both."
        self._say(trainer, message, remedy, "validation", self.stepped_there, "data-leak")

    def _put_back(
        self, trainer: L.Trainer, before: Tensor, after: Tensor, between: Tensor | None = None
    ) -> None:
        """Say that validation, or the beginning of an epoch, leaves other weights in place of those that were
        trained; `between` both they were so."""
        now = _values(_moving(trainer))
        if not len(now) == len(before) == len(after):
            return
        left = _left(before, after, now)
        # Back to where they were is what "take the best weights where it got no better" does.
        other = left < LEFT_OVER and not torch.equal(now, before)
        self.replaced = self.replaced + 1 if other else 0
        if self.replaced == LEGS:
            message = (
                f"Of what the steps between two validations changed {max(left, 0.0):.0%} is left after the "
                f"second: validation puts other weights in the place of those that train, and leaves them."
            )
            remedy = (
                "Put the weights back after validation (restore() after store() and copy_to(), or a second "
                "swap), in on_validation_end as in its beginning."
            )
            if between is not None and torch.equal(between, after):
                message = (
                    f"Of what the steps between two validations changed {max(left, 0.0):.0%} is left when "
                    f"the next epoch has begun: its beginning puts other weights in their place."
                )
                remedy = (
                    "Take what initializes or loads weights out of what every epoch does, such as "
                    "on_train_epoch_start or the function that trains one."
                )
            self._say(trainer, message, remedy, "validation", self.replaced)

    def _standing_still(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Say that nothing moves, as there is no loss; or that a step by hand moves nothing: it is not taken,
        or without a gradient."""
        before = zip(self.watched, self.at_start, strict=False)
        if any(not torch.equal(_some(parameter), values) for parameter, values in before):
            return
        if not self.given and not self.computes:
            return
        if module.automatic_optimization:
            message = f"training_step returned no loss for any of the first {self.batches} batches: none"
            remedy = "Return the loss at the end of training_step, the tensor or a dict with it as 'loss'."
            if not self.given:
                self._say(trainer, f"{message} is trained on.", remedy, "training_step", self.batches)
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
        self._say(trainer, f"{message}; {called}.", remedy, "optimizer", self.batches)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._unhook()
        super().on_train_end(trainer, pl_module)
        self.guarded(self._trained_there, trainer)
        if self.stepping and self.batches >= PATIENCE:
            self.guarded(self._left_waiting, trainer)

    def _note_waiting(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        given = {id(p): name for name, p in module.named_parameters() if p.grad is not None}
        for number in set(range(len(trainer.optimizers))) - self.stepping - set(self.waiting):
            groups = trainer.optimizers[number].param_groups
            named = [p for group in groups for p in group["params"] if id(p) in given]
            if names := [given[id(p)] for p in named if bool(dense(p.grad).any())]:
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
                self._say(trainer, message, remedy, names[0], self.batches, level="warn")
                return

    def _look(self, trainer: L.Trainer, module: L.LightningModule, loss: Tensor) -> None:
        groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
        held = {id(parameter): _rate(group) for group in groups for parameter in group["params"]}
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
        self._say(trainer, message, remedy, names[0], len(names))

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
            self._say(trainer, message, remedy, "forward", len(new))
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
            self._say(trainer, message, remedy, names[0], len(still))
        self.strays = {
            id(leaf): before[id(leaf)] if id(leaf) in before else (leaf, _some(leaf), step) for leaf in leaves
        }

    def _say(
        self,
        trainer: L.Trainer,
        message: str,
        remedy: str,
        where: str,
        count: int,
        cause: str = "frozen-parameters",
        level: Level = "fail",
    ) -> None:
        """Once, as what holds in one step holds in the others."""
        self.active, self.strays = False, {}
        step, epoch = trainer.global_step + 1, round(epoch_of(trainer), 4)
        fault = (cause, level, message, remedy, where, float(count), 0.0, step, epoch)
        self.findings.append(Finding(*fault, exact=True))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.batch = None


def _rate(group: dict[str, Any]) -> float:
    return max(float(group["lr"]), float(group.get("initial_lr", 0.0)))  # a warm-up may start from 0


def _moving(trainer: L.Trainer) -> list[Tensor]:
    """Some of the parameters that the optimizers may change now."""
    return [each for each in held_parameters(*trainer.optimizers) if each.requires_grad][:FEW]


def _values(parameters: Sequence[Tensor]) -> Tensor:
    """Some of each, in double precision."""
    some = [double(_some(parameter)) for parameter in parameters]
    return torch.cat([each.to(some[0].device) for each in some]) if some else torch.zeros(0)


def _left(before: Tensor, after: Tensor, now: Tensor) -> float:
    """The share of the way from `before` to `after` that is not taken back `now`."""
    way = after - before
    length = float(way @ way)
    return float((now - before) @ way) / length if length > 0 else 1.0


def _some_gradient(parameter: Tensor) -> Tensor:
    """Of the elements that `_some` takes, and of a few more; a sparse one, as of a large table, is not filled
    up for that."""
    gradient = parameter.grad
    if gradient is None:
        return torch.zeros_like(_some(parameter))
    if gradient.layout != torch.strided and gradient.dense_dim() and parameter[0].numel():
        count = min(len(parameter), -(-SAMPLE // parameter[0].numel()))
        gradient = gradient.index_select(0, torch.arange(count, device=gradient.device))
    return dense(gradient)


def _looks_last(trainer: L.Trainer, module: L.LightningModule, optimizer: Optimizer) -> bool:
    """Whether what stands in the parameters in `on_before_optimizer_step` of a monitor is what `optimizer`
    steps from: hooks of the module or of other callbacks that come after it may move them back, as may an
    optimizer that is none of torch's."""
    hook = "on_before_optimizer_step"
    callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
    others = [each for each in callbacks if not isinstance(each, Monitor)]
    if any(is_own(hook, each, L.Callback) for each in others):
        return False
    own = any(is_own(name, module, L.LightningModule) for name in (hook, "configure_gradient_clipping"))
    return not own and type(optimizer).__module__.startswith("torch.optim")


def _some(leaf: Tensor) -> Tensor:
    return leaf.detach().flatten()[:SAMPLE].clone()


def _same(leaf: Tensor, before: tuple[Tensor, Tensor, int], step: int) -> bool:
    """Whether `leaf` is as it was some optimizer step ago."""
    _, values, at = before
    return step > at and torch.equal(_some(leaf), values)


def _name(module: nn.Module, wanted: Tensor) -> str:
    """How the code of the module says `wanted`: `net.layers[0].weight`; empty where it is not found."""

    def inside(value: Any, name: str, depth: int) -> Iterator[str]:
        if value is wanted:
            yield name
        elif isinstance(value, nn.Module):
            for own, parameter in value.named_parameters():
                if parameter is wanted:
                    yield f"{name}.{own}"
        elif depth and isinstance(value, list | tuple):
            for place, entry in enumerate(value[:100]):
                yield from inside(entry, f"{name}[{place}]", depth - 1)
        elif depth and isinstance(value, dict):
            for key, entry in list(value.items())[:100]:
                yield from inside(entry, f"{name}[{key!r}]", depth - 1)
        elif depth and hasattr(value, "__dict__") and not isinstance(value, (type, *either(L.Trainer))):
            for key, entry in list(vars(value).items()):
                yield from inside(entry, f"{name}.{key}", depth - 1)

    tables = set(vars(nn.Module()))
    for prefix, part in module.named_modules():
        for name, value in vars(part).items():
            if name not in tables and not name.startswith("_"):
                for found in inside(value, f"{prefix}.{name}".lstrip("."), DEPTH):
                    return found
    return ""
