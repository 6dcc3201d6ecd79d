"""Try things out on copies of model, loss and optimizer, and leave the originals bit for bit as they were."""

import math
import types
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import SGD, Adafactor, Adam, AdamW, Optimizer, SparseAdam

from vitals.errors import UserError
from vitals.measures.graph_leaves import graph_leaves, graph_nodes
from vitals.measures.held_parameters import configured_rate, held_identities, held_parameters
from vitals.measures.norms import dense
from vitals.probes.copies import copied
from vitals.probes.eagerly import eagerly
from vitals.probes.random_states import isolated_rng
from vitals.probes.untouched import GUARDED, Shared

Loss = Callable[[Any, Any], Tensor]
"""From outputs and targets to a scalar: tensors (N, ...) as a rule, targets a tuple where a loss needs
several."""
Inputs = Tensor | tuple[Tensor, ...]
"""(N, ...), or what a network of several arguments takes; none at all where it has its batch within."""

Look = Callable[[str, Tensor], None]
"""Sees the gradient of the parameter of this name."""

Clipping = Callable[[Optimizer], None]
"""Changes the gradients of an optimizer's parameters in place, as the training does before each step. The
copy of an optimizer has it as its attribute `clipping` where it stands for such a training."""


@dataclass(frozen=True)
class Trial:
    """Copies that belong together: the optimizer's parameters are those of the model."""

    model: nn.Module
    loss: Loss | None
    optimizer: Optimizer | None

    def outputs(self, inputs: Inputs) -> Tensor:
        """What the model makes of `inputs`; raises `UserError` if that is not one tensor, or does not have
        the N rows of one tensor (N, ...)."""
        outputs = self.model(*inputs) if isinstance(inputs, tuple) else self.model(inputs)
        if not isinstance(outputs, Tensor):
            raise UserError(f"model: it must return one tensor, not {type(outputs).__name__}.")
        if isinstance(inputs, tuple):
            return outputs
        if outputs.ndim == 0 or len(outputs) != len(inputs):
            raise UserError(
                f"model: its outputs {tuple(outputs.shape)} do not have one row for each of the "
                f"{len(inputs)} inputs."
            )
        return outputs

    def loss_of(self, outputs: Tensor, targets: Any) -> Tensor:
        """The loss as a scalar; raises `UserError` if it is not one."""
        assert self.loss is not None
        loss = self.loss(outputs, targets)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise UserError(f"loss: it must return one number, not {shape}; average it over the batch.")
        return loss.reshape(())

    def loss_at(self, inputs: Inputs, targets: Any) -> Tensor:
        """`loss_of` what the model makes of `inputs`."""
        return self.loss_of(self.outputs(inputs), targets)

    def gradients(self, inputs: Inputs, targets: Any) -> tuple[Tensor, dict[str, Tensor | None]]:
        """The loss, and its gradient by the name of each parameter that trains, dense; None for one that it
        does not reach."""
        parameters = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        loss = self.loss_at(inputs, targets)
        if not loss.requires_grad or not parameters:
            return loss.detach(), dict.fromkeys(parameters)
        # Not backward(): a loss that refers to the original model would leave gradients there.
        wanted, graph = list(parameters.values()), loss.grad_fn
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(loss, wanted, allow_unused=True)
        nodes = graph_nodes(graph) if graph and any(each is None for each in gradients) else ()
        if any("CheckpointFunction" in node.name() for node in nodes):
            gradients = _after_backward(self.loss_at(inputs, targets), wanted)
        found = zip(parameters, gradients, strict=True)
        return loss.detach(), {name: None if each is None else dense(each) for name, each in found}

    def step(self, inputs: Inputs, targets: Any, look: Look = lambda name, gradient: None) -> Tensor:
        """One optimizer step on the batch; the loss before it.

        `look` gets the name and the gradient, dense, of each parameter that the loss reaches. Of a large
        model each takes its step as soon as its gradient is there, which then goes: not all are in memory.
        """
        optimizer: Any = self.optimizer
        every = dict(self.model.named_parameters())
        trained = {name: each for name, each in every.items() if each.requires_grad}
        if steps_in_turn(trained.values(), optimizer):
            return step_in_turn(self.loss_at(inputs, targets), self.model, optimizer, look)
        losses: list[Tensor] = []
        made: list[tuple[Tensor | None, int]] = []
        """Gradients that are in place, and the versions of their parameters."""

        @torch.enable_grad()
        def closure() -> float:
            present = zip(trained.values(), made, strict=True)
            if any(p.grad is not gradient or p._version != version for p, (gradient, version) in present):
                evaluate()
            return float(losses[-1])

        def evaluate() -> None:
            made.clear()
            for parameter in every.values():
                parameter.grad = None  # room for the next ones
            loss, gradients = self.gradients(inputs, targets)
            for name, parameter in trained.items():
                gradient = gradients[name]
                if gradient is not None and not losses:
                    look(name, gradient)
                if gradient is not None and isinstance(optimizer, SparseAdam):  # which takes no other
                    gradient = gradient.to_sparse(1)
                parameter.grad = gradient
            clip(optimizer)
            losses.append(loss)
            made.extend((parameter.grad, parameter._version) for parameter in trained.values())

        evaluate()  # some, as of SAM, want gradients before they call the closure
        optimizer.step(closure)
        return losses[0]


def _after_backward(loss: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Gradients that `backward` alone gives, as of a reentrant checkpoint; those that were there are put
    back."""
    leaves = {id(leaf): leaf for leaf in (*graph_leaves(loss), *parameters)}.values()
    before = [(leaf, leaf.grad) for leaf in leaves]
    try:
        for leaf in leaves:
            leaf.grad = None
        torch.autograd.backward(loss)
        return tuple(parameter.grad for parameter in parameters)
    finally:
        for leaf, gradient in before:
            leaf.grad = gradient


def steps_in_turn(trained: Iterable[Tensor], optimizer: Optimizer) -> bool:
    """Whether `step_in_turn` does with these parameters what `optimizer.step` does, and is worth it for the
    memory it spares."""
    alone = type(optimizer) in EACH_BY_ITSELF and getattr(optimizer, "clipping", None) is None
    return alone and is_large(trained)


def step_in_turn(
    loss: Tensor, model: nn.Module, optimizer: Optimizer, look: Look = lambda name, gradient: None
) -> Tensor:
    """A step of each parameter of `model` as soon as its gradient is there, which then goes; the loss before.
    `look` gets its name and the gradient, dense, before it."""

    def take(name: str, parameter: Any) -> None:
        parameter.grad = dense(parameter.grad)
        look(name, parameter.grad)
        # A value kept for another gradient, as of a detached weight, is then one step ahead.
        with torch.autograd._unsafe_preserve_version_counter(parameter):
            optimizer.step()
        parameter.grad = None

    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    with ExitStack() as stack:
        for name, parameter in trained.items():
            parameter.grad = None
            stack.enter_context(parameter.register_post_accumulate_grad_hook(partial(take, name)))
        if loss.requires_grad:  # of these alone: a loss may refer to the original model
            torch.autograd.backward(loss, inputs=list(trained.values()))
    return loss.detach()


def clip(optimizer: Any) -> None:
    """Do to the gradients what the training does before it steps."""
    clipping: Clipping | None = getattr(optimizer, "clipping", None)
    if clipping is not None:
        clipping(optimizer)


@contextmanager
def trial(
    model: nn.Module,
    loss: Loss | None = None,
    optimizer: Optimizer | None = None,
    *,
    dropout: bool = True,
) -> Iterator[Trial]:
    """Copies of `model`, `loss` and `optimizer` to try things out on, with gradients on and random numbers
    apart.

    A model in training mode keeps the mode of each layer, so that layers frozen on purpose stay frozen; one
    in evaluation mode is switched to training as a whole. With `dropout=False`, dropout layers let everything
    through. A compiled model is copied as it was before compilation. Behind the block the copy's parameters
    are empty. Raises `UserError` where a copy fails.
    """
    with isolated_rng(0), torch.enable_grad(), eagerly():
        memo: dict[int, Any] = {}
        model_copy = copied(getattr(model, "_orig_mod", model), memo)
        # A plain function holds nothing of the model that a copy could replace.
        stateful = isinstance(loss, nn.Module | types.MethodType)
        loss_copy = copied(loss, memo) if stateful else loss
        optimizer_copy = None if optimizer is None else copied_optimizer(optimizer, memo)
        if not model_copy.training:
            model_copy.train()
        if not dropout:
            switch_off_dropout(model_copy)
        try:
            yield Trial(model_copy, loss_copy, optimizer_copy)
        finally:  # a name for it may outlive the block, and the next copy needs the room
            for parameter in model_copy.parameters():
                if type(parameter.data) is Tensor:
                    parameter.data, parameter.grad = parameter.data.new_empty(0), None


def copies_of(
    model: nn.Module, optimizers: Sequence[Optimizer], shared: bool = False
) -> tuple[Any, tuple[Optimizer, ...]]:
    """Copies of `model`, in its modes, and of its optimizers, whose parameters are those of the copy.

    With `shared` they take no memory for parameters: those of the copy lie where those of `model` do, and
    `call_step` refuses a step of the copy that writes to them. Raises `UserError` where a copy fails.
    """
    memo: dict[int, Any] = {}
    if shared:
        usual = [each for each in model.parameters() if type(each) is nn.Parameter]
        memo |= {id(each): nn.Parameter(each.data, each.requires_grad) for each in usual}
    mine = list(memo.values())
    model_copy = copied(model, memo)
    if mine:
        model_copy.__dict__[GUARDED] = Shared(mine)
    return model_copy, tuple(copied_optimizer(optimizer, memo) for optimizer in optimizers)


def switch_off_dropout(model: nn.Module) -> None:
    """Set the rate of every dropout layer in `model`, and of its attention layers, to 0, in place."""
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0


def check_batch(inputs: Tensor, targets: Tensor, minimum: int = 1) -> None:
    """`check_rows`, and that `targets` (N,) are whole numbers."""
    if not isinstance(targets, Tensor) or targets.ndim != 1 or targets.is_floating_point():
        raise UserError("targets: they must be class numbers in one tensor of shape (N,).")
    check_rows(inputs, targets, minimum)


def check_rows(inputs: Inputs, targets: Any, minimum: int = 1) -> None:
    """Raise `UserError` unless `inputs` (N, ...) and `targets` have as many rows, and N is enough; what a
    whole training step takes is left to it."""
    if isinstance(inputs, tuple):
        return
    if not isinstance(inputs, Tensor) or inputs.ndim < 2:
        raise UserError("inputs: they must be one tensor of shape (N, ...).")
    for target in targets if isinstance(targets, tuple) else (targets,):
        if not isinstance(target, Tensor) or target.ndim < 1 or len(target) != len(inputs):
            raise UserError(f"targets: there must be one for each of the {len(inputs)} inputs.")
    if len(inputs) < minimum:
        raise UserError(f"inputs: {len(inputs)} samples are too few, at least {minimum} are needed.")


def is_class_numbers(targets: Any) -> bool:
    """Whether `targets` can be one class number for each sample, (N,)."""
    whole = isinstance(targets, Tensor) and not targets.is_floating_point() and targets.dtype != torch.bool
    return whole and targets.ndim == 1


def check_classes(outputs: Tensor, targets: Tensor) -> int:
    """The number of classes C of `outputs` (N, C); raises `UserError` where that or `targets` do not fit."""
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        raise UserError(f"model: outputs of shape (N, classes) are needed, not {tuple(outputs.shape)}.")
    low, high, classes = int(targets.min()), int(targets.max()), outputs.shape[1]
    if low < 0 or high >= classes:
        raise UserError(
            f"targets: class numbers run from {low} to {high}, but the model has {classes} outputs."
        )
    return classes


LARGE = 2**24
"""Parameters from which a network is trained by an optimizer that keeps next to nothing for each of them."""
EACH_BY_ITSELF = (SGD, Adam, AdamW, Adafactor)
"""Optimizers whose step of one parameter minds no other."""


def is_large(parameters: Iterable[Tensor]) -> bool:
    """Whether memory matters more than time for a network with these."""
    return sum(parameter.numel() for parameter in parameters) > LARGE


SAME_WAY = 0.9
"""Cosine of two first steps from which they lead the same way: 1.00 for AdamW, Muon, LAMB and Adafactor, 0.1
at most for SGD, Adam and RMSprop (measured)."""
FALLBACK_RATE = 1e-3
"""Adam's own default: twenty samples take 39 to 114 steps, with and without BatchNorm (measured)."""


def quick_optimizer(model: nn.Module) -> Optimizer:
    """One that learns any network's first lesson at a rate that nobody has to choose: Adam. For a large one
    it is Adafactor at 3e-2, which took as many steps or fewer on five small networks (measured). `UserError`
    if the model has no parameter that trains."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not trained:
        raise UserError("model: it has no parameter that trains.")
    if is_large(trained):
        return Adafactor(trained, lr=0.03)
    # To the bit what one after the other gives. `fused` takes gradients for contiguous that are not.
    return Adam(trained, lr=FALLBACK_RATE, foreach=True)


def is_quick(optimizer: Optimizer, model: nn.Module) -> bool:
    """Whether `optimizer`, without weight decay, trains all of `model` as `quick_optimizer` would."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if type(optimizer) not in (Adam, AdamW) or is_large(trained) or getattr(optimizer, "clipping", None):
        return False
    usual = Adam(trained, lr=FALLBACK_RATE).defaults
    alike = all(
        configured_rate(group) == FALLBACK_RATE
        and all(group[name] == usual[name] for name in ("betas", "eps", "amsgrad", "maximize"))
        for group in optimizer.param_groups
    )
    return alike and {*map(id, trained)} <= held_identities(optimizer)


def constant_guess(loss: Loss, outputs: Tensor, targets: Any, classes: int = 0) -> float:
    """The loss of the best outputs that are the same for all samples, (N,) or (N, D), or for all places of
    all samples, (N, classes, ...) or (N, ..., classes); NaN for others, and where it does not depend on them
    smoothly."""
    dims = [0]
    if outputs.ndim > 2:
        kept = next((dim for dim in (1, outputs.ndim - 1) if outputs.shape[dim] == classes), None)
        if kept is None:
            return math.nan
        dims = [dim for dim in range(outputs.ndim) if dim != kept]
    mean = outputs.detach().mean(dim=dims, keepdim=True)

    def value(of: Tensor) -> Tensor:
        return loss(of.expand_as(outputs), targets)

    def closure() -> Tensor:
        present = value(guess)
        (guess.grad,) = torch.autograd.grad(present, guess)
        return present.detach()

    try:
        with torch.no_grad():  # from the nearer of the two, as outputs may be beyond all measure
            guess = min((mean, torch.zeros_like(mean)), key=lambda each: float(value(each)))
        search = torch.optim.LBFGS(
            [guess.requires_grad_()], max_iter=50, max_eval=100, line_search_fn="strong_wolfe"
        )
        with torch.enable_grad():
            search.step(closure)
        with torch.no_grad():
            return float(value(guess))
    except (IndexError, RuntimeError, UserError):  # the first, of torch, where it falls without end
        return math.nan


def restore_configured_rates(optimizer: Optimizer) -> None:
    """Set the learning rate of every group to what it was before a scheduler, such as a warm-up, changed
    it."""
    for group in optimizer.param_groups:
        group["lr"] = group.get("initial_lr", group["lr"])


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of the fastest group to `rate`, and the others as they were configured to it."""
    restore_configured_rates(optimizer)
    fastest = max(group["lr"] for group in optimizer.param_groups)
    for group in optimizer.param_groups:
        group["lr"] = rate * (group["lr"] / fastest)


def ignores_scale(optimizer: Optimizer) -> bool:
    """Whether the first step of `optimizer` is as long after gradients a hundred times as large. One that
    cannot step so, as LBFGS, does not."""
    try:
        short, long = (float(_first_steps(optimizer, scale)[0].norm()) for scale in (0.01, 1.0))
    except Exception:  # an optimizer of somebody's own may want anything
        return False
    return long < 10 * short


def decays_apart(optimizer: Optimizer) -> bool:
    """Whether the weight decay of `optimizer` is added to steps whose length does not depend on that of the
    gradients, as AdamW's: the first one leads the same way after gradients far smaller than the weights and
    after far larger ones, while a decay within the gradient takes over where these are small."""
    try:
        small, large = (_first_steps(optimizer, scale, decay=1.0)[0] for scale in (1e-3, 1e3))
    except Exception:
        return False
    return float(torch.cosine_similarity(small, large, dim=0)) > SAME_WAY


def leaps(optimizer: Optimizer, steps: int) -> float:
    """How many times as long the first `steps` steps of `optimizer` are, in the mean, as one five times as
    late, with the same gradients each time: about 1 of most, 3 of RMSprop in 20, whose average of squares
    starts at zero and is not corrected for that; 1 of one that cannot step so."""
    try:
        lengths = [float(step.norm()) for step in _first_steps(optimizer, 1.0, count=5 * steps)]
    except Exception:  # an optimizer of somebody's own may want anything
        return 1.0
    return sum(lengths[:steps]) / steps / lengths[-1] if lengths[-1] else 1.0


def lengthens(optimizer: Optimizer, steps: int) -> float:
    """How many times as long as its first step the last of `steps` steps of `optimizer` is, with the same
    gradients each time: up to 9 of SGD with a momentum of 0.9 in 20, 18 with 0.99, and hundreds of one that
    finds its rate by itself, as Prodigy, or warms up; 1 of one that cannot step so."""
    try:
        lengths = [float(step.norm()) for step in _first_steps(optimizer, 1.0, count=steps)]
    except Exception:  # an optimizer of somebody's own may want anything
        return 1.0
    return lengths[-1] / lengths[0] if lengths[0] else math.inf


def _first_steps(
    optimizer: Optimizer, scale: float, decay: float | None = None, count: int = 1
) -> list[Tensor]:
    """Where each of the first steps after random gradients of the size `scale`, the same for each, at the
    configured rate, takes copies of the corners of the parameters, of several steps one of each group; with
    another `decay`, of those that decay, drawn anew, as some start at zero."""
    parameters = held_parameters(optimizer)
    corners = [nn.Parameter(p.detach()[(slice(8),) * p.ndim].clone()) for p in parameters]
    with isolated_rng(0), torch.no_grad():
        memo: dict[int, Any] = dict(zip(map(id, parameters), corners, strict=True))
        kept = optimizer.state  # of whole parameters: not to be copied only to be forgotten
        memo[id(kept)] = defaultdict(dict)
        own = copied_optimizer(optimizer, memo)
        own.state.clear()
        restore_configured_rates(own)  # a warm-up may begin at 0, where nothing moves
        chosen = corners if count == 1 else [group["params"][0] for group in own.param_groups]
        if decay is not None:
            groups = [group for group in own.param_groups if group.get("weight_decay", 0.0) > 0]
            chosen = [corner.normal_() for group in groups for corner in group["params"]]
            for group in groups:
                group["weight_decay"] = decay
        for corner in chosen:
            corner.grad = scale * torch.randn_like(corner)
        steps: list[Tensor] = []
        for _ in range(count):
            before = [corner.clone() for corner in chosen]
            own.step()
            moved = [(corner - old).flatten() for corner, old in zip(chosen, before, strict=True)]
            steps.append(torch.cat(moved))
    return steps


def copied_optimizer(optimizer: Optimizer, memo: dict[int, Any]) -> Any:
    """A copy of `optimizer` with all that it holds; `memo` as of `copied`."""
    for value in vars(optimizer).values():
        if isinstance(value, Optimizer) and id(value) not in memo:
            copied_optimizer(value, memo)
    try:
        own = copied(optimizer, memo)
    except UserError:  # one around another, as Lookahead, asks that for its groups before it has it
        memo[id(optimizer)] = own = object.__new__(type(optimizer))
    # torch copies only state and groups of an optimizer; LBFGS and others need the rest too.
    for name, value in vars(optimizer).items():
        if name not in vars(own) and name != "step":  # a scheduler's wrapper of the original
            vars(own)[name] = OrderedDict() if name.endswith("_hooks") else copied(value, memo)
    return own
