"""The loss as a function of named tensors: a copy of the model in float64 that can be evaluated at will.

Nothing of the user's is touched: model, loss and data are copied, buffers are cloned for every evaluation,
and every evaluation starts from the same random seed.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Literal
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from vitals.checks.gradients.kinks import tensors_in
from vitals.errors import UserError, did_you_mean, reason_of
from vitals.measures.double import double, has_double
from vitals.measures.graph_leaves import graph_leaves, graph_nodes
from vitals.measures.layer_outputs import WEIGHTED
from vitals.probes.copies import copied as deep_copy
from vitals.probes.eagerly import eagerly
from vitals.probes.random_states import isolated_rng, seed_torch
from vitals.probes.untouched import untouched


def checked_samples(
    model: nn.Module,
    inputs: Any,
    samples: int | None,
    elements: int,
    steps: Sequence[float],
    dtype: torch.dtype,
) -> int:
    """How many examples to use: as asked, else 2, or 4 where a BatchNorm layer trains; `UserError` for the
    first argument that is out of range."""
    available = batch_size(inputs)
    if samples is None:
        trains = any(isinstance(part, _BatchNorm) and part.training for part in model.modules())
        samples = min(available, 4 if trains else 2)
    if not 1 <= samples <= available:
        raise UserError(f"samples must be between 1 and the {available} examples in inputs, not {samples}.")
    if elements < 1:
        raise UserError(f"elements must be at least 1, not {elements}.")
    if not steps or not all(math.isfinite(h) and h > 0 for h in steps):
        raise UserError(f"steps must be positive step sizes h, not {tuple(steps)}.")
    if dtype not in (torch.float64, torch.float32):
        raise UserError(f"dtype must be torch.float64 or torch.float32, not {dtype}.")
    for name, parameter in model.named_parameters():
        if not parameter.is_floating_point():
            kind = f"of type {parameter.dtype}; it must be floating-point"
            raise UserError(f"model has a parameter '{name}' {kind}.")
    if not any(parameter.requires_grad and parameter.numel() for parameter in model.parameters()):
        reason = "all are frozen (requires_grad=False), or there is none"
        raise UserError(f"model has no trainable parameter: {reason}.")
    return samples


def finite_value(function: FunctionalLoss, part: Part = "data") -> float:
    """The data loss or the penalty; UserError where it cannot be computed or is not finite."""
    name = "penalty" if part == "penalty" else "loss"
    try:
        value = function.value(part).item()
    except RuntimeError as error:
        raise UserError(f"model or {name} cannot be evaluated in {function.dtype}.") from error
    if not math.isfinite(value):
        raise UserError(f"{name} must be finite, but it is {value}.")
    return value


def loss_scale(gradients: dict[str, Tensor]) -> float:
    """Factor on the loss that makes its largest gradient about 1; a power of two, which rounds nothing."""
    finite = [gradient[gradient.isfinite()].abs() for gradient in gradients.values()]
    largest = max((values.max().item() for values in finite if values.numel()), default=0.0)
    return 2.0 ** -round(math.log2(largest)) if largest else 1.0


Loss = Callable[[Any, Any], Tensor]
Penalty = Callable[[nn.Module], Tensor] | Mapping[str, float] | float
Part = Literal["data", "penalty", "both"]

_LARGE = 2**20
"""Elements of a weight that is worth widening anew each time it is used."""
_LENGTHS = (1.0, 10.0, 100.0, 100.0)
"""Of the lines on which a leap is sought, in spreads of the tensor's elements."""
_HALVINGS, _SMOOTH, _ROUNDED = 30, 0.1, 1e-11
"""In search of a leap: the last ten halvings leave a thousandth of a smooth change, and all of a leap."""


class FunctionalLoss:
    """Data loss and penalty as functions of the trainable parameters and the inputs.

    Args:
        model: called as `model(inputs)`, `model(*inputs)` for a tuple or list, `model(**inputs)` for a
        mapping.
        loss: `loss(outputs, targets)` gives a scalar.
        penalty: `penalty(model)` gives a scalar; or weight decay λ, one for all parameters or by name, for
            Σ ½·λ·‖w‖².
        samples: use the first so many examples.
        dtype: torch.float64 or torch.float32; all parameters, buffers and data are converted to it.
        check_inputs: whether floating-point inputs are among the tensors to differentiate by.
        choose: names those of the tensors that `narrow` is going to leave. Large weights of layers that are
            none of them stay what and where they are, and are widened while they are used, one by one.

    Raises:
        UserError: the model cannot be copied.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        inputs: Any,
        targets: Any,
        *,
        samples: int,
        dtype: torch.dtype,
        seed: int,
        penalty: Penalty | None = None,
        check_inputs: bool = False,
        choose: Callable[[dict[str, Tensor]], list[str]] | None = None,
    ) -> None:
        self.dtype, self.seed = dtype, seed
        self.device = next(model.parameters()).device
        if dtype == torch.float64 and not has_double(self.device):
            self.device = torch.device("cpu")
        inputs = dict(inputs) if isinstance(inputs, Mapping) else inputs
        take = functools.partial(_example_data, samples=samples, total=batch_size(inputs))
        self.inputs = tree_map(lambda leaf: self._own(take(leaf)), inputs)
        self.targets = tree_map(lambda leaf: self._own(take(leaf)), targets)
        differentiable = dict(_named_inputs(self.inputs)) if check_inputs else {}
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.chosen = list(trained | differentiable) if choose is None else choose(trained | differentiable)
        kept = _left_in_place(model, {id(trained[name]) for name in self.chosen if name in trained})
        # One copy of all three, so that a loss that is a method of the model becomes a method of its copy.
        self._kept = list(kept.values())
        model, loss, penalty = copied(model, loss, penalty, memo=kept)
        self.model = _converted(_moved(model, self.device), dtype, self._kept)
        _without_what_is_meant(self.model)
        self.loss = _converted(_moved(loss, self.device), dtype) if isinstance(loss, nn.Module) else loss
        self.penalty = penalty
        self.parameters = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        for name in penalty if isinstance(penalty, Mapping) else ():
            if name not in self.parameters:
                known = did_you_mean(name, self.parameters)
                raise UserError(f"penalty names no trainable parameter '{name}': {known}")
        self.tensors: dict[str, Tensor] = dict(self.parameters)
        """What to differentiate by: parameters under their names, inputs as `input` or `input[key]`."""
        if check_inputs:
            self.tensors |= {name: leaf.requires_grad_() for name, leaf in differentiable.items()}

    def value(self, part: Part = "data", seed: int | None = None, stops: Stops | None = None) -> Tensor:
        """The scalar loss, with its graph, always from the same random seed unless another is given; with
        `stops`, what the code takes out of the graph is what it was at the first evaluation with them."""
        seed = self.seed if seed is None else seed
        _seed_everything(seed)
        value = torch.zeros((), dtype=self.dtype, device=self.device)
        guard = untouched(self._kept) if self._kept else nullcontext()
        in_loss, around = (stops, None) if stops and stops.of_loss_alone else (None, stops)
        with guard, _Precision(self.dtype), around or nullcontext():
            if part in ("data", "both"):
                value = value + _scalar(self._data_loss(in_loss), "loss")
            if part in ("penalty", "both"):
                value = value + _scalar(self._penalty(), "penalty")
        return value

    def value_and_gradients(
        self, part: Part = "data", seed: int | None = None
    ) -> tuple[float, dict[str, Tensor]]:
        """The loss and what the backward says, by name; zeros where no gradient arrives."""
        value = self.value(part, seed)
        gradients = {name: torch.zeros_like(tensor) for name, tensor in self.tensors.items()}
        if value.requires_grad:
            try:
                # Not `value.backward()`, which would add to gradients of the user's own tensors in a closure.
                with _Precision(self.dtype):
                    found = torch.autograd.grad(value, list(self.tensors.values()), allow_unused=True)
            except RuntimeError as error:
                raise UserError(f"loss has no gradient: {reason_of(error)}") from error
            gradients |= {
                n: g.detach().to_dense() for n, g in zip(gradients, found, strict=True) if g is not None
            }
        return value.item(), gradients

    def detached(self, part: Part = "data") -> set[str]:
        """Names of the tensors to which no backward leads from the loss: unused, or cut off by `detach()`."""
        reached = set(map(id, graph_leaves(self.value(part))))
        return {name for name, tensor in self.tensors.items() if id(tensor) not in reached}

    def order_of_use(self) -> dict[str, int]:
        """Position of the operation that first uses each tensor, by name; none for unused tensors."""
        with _FirstUse({tensor.data_ptr(): name for name, tensor in self.tensors.items()}) as uses:
            self.value()
        return uses.order

    def rescaled(self) -> set[str]:
        """Names of the tensors behind an autograd Function that gives what it gets and multiplies the
        gradient by a number, as a reversal does: on purpose, and no difference agrees with that."""
        loss = self.value()
        nodes = graph_nodes(loss.grad_fn) if loss.grad_fn is not None else []
        own = {node: type(node)._forward_cls for node in nodes if isinstance(node, BackwardCFunction)}  # type: ignore[attr-defined]
        if not own:
            return set()
        alike = _gives_what_it_gets(set(own.values()), self.value)
        leaves = {id(tensor): name for name, tensor in self.tensors.items()}
        found = set[str]()
        for node in (node for node, cls in own.items() if cls in alike and _multiplies(node)):
            found |= {leaves.get(id(getattr(each, "variable", None)), "") for each in graph_nodes(node)}
        return found

    def leaps(self, name: str) -> bool:
        """Whether the loss leaps somewhere on lines along which the tensor `name` moves, as behind sign(),
        round() or argmin()."""
        tensor = self.tensors[name].detach()
        before = tensor.clone()
        spread = float(before.std()) if before.numel() > 1 else 0.0
        generator = torch.Generator().manual_seed(self.seed)  # each evaluation starts the others anew

        def at(distance: float) -> float:
            tensor.copy_(before + distance * direction)
            return self.value().item()

        try:
            for length in _LENGTHS:
                drawn = torch.randn(tensor.shape, generator=generator).to(tensor)
                direction = drawn * length * (spread or 0.1)
                if _leaps(at):
                    return True
            return False
        finally:
            tensor.copy_(before)

    def narrow(self) -> None:
        """Differentiate by the chosen tensors alone, which spares the gradients of the others."""
        for name in self.tensors.keys() - self.chosen:
            self.tensors.pop(name).requires_grad_(False)

    def weight_decay(self) -> dict[str, float] | None:
        """λ by parameter name; None where the penalty is a function."""
        if isinstance(self.penalty, Mapping):
            return dict(self.penalty)
        if isinstance(self.penalty, (int, float)):
            return dict.fromkeys(self.parameters, float(self.penalty))
        return None

    def _data_loss(self, stops: Stops | None) -> Any:
        # Modules may work in place on what they are given, hence the clones.
        inputs, targets = tree_map(_cloned, self.inputs), tree_map(_cloned, self.targets)
        arguments: tuple[Any, ...] = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
        named = {}
        if isinstance(inputs, Mapping):
            arguments, named = (), dict(inputs)
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        outputs = torch.func.functional_call(self.model, buffers, arguments, named)
        with stops or nullcontext():
            return self.loss(outputs, targets)

    def _penalty(self) -> Any:
        decay = self.weight_decay()
        if decay is None:
            assert callable(self.penalty)
            return self.penalty(self.model)
        terms = [0.5 * rate * self.parameters[name].square().sum() for name, rate in decay.items()]
        return torch.stack(terms).sum()

    def _own(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        dtype = self.dtype if leaf.is_floating_point() else leaf.dtype
        return leaf.detach().clone().to(self.device, dtype)


def _leaps(at: Callable[[float], float]) -> bool:
    """Whether `at` leaps between 0 and 1, where the larger change of two halves is followed."""
    low, high = 0.0, 1.0
    below, above = at(low), at(high)
    changes: list[float] = []
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        value = at(middle)
        if abs(value - below) > abs(above - value):
            high, above = middle, value
        else:
            low, below = middle, value
        changes.append(abs(above - below))
    return changes[-1] > max(_SMOOTH * changes[-10], _ROUNDED * abs(below))


@contextmanager
def undisturbed(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Gradients on, autocast and compilation off, `dtype` for new tensors; all is put back at the end."""
    default = torch.get_default_dtype()
    with ExitStack() as stack:
        stack.enter_context(isolated_rng())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in {"cpu", device.type}:
            stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(eagerly())
        stack.callback(torch.set_default_dtype, default)
        torch.set_default_dtype(dtype)  # for what a forward creates, such as a recurrent net's first state
        yield


def _seed_everything(seed: int) -> None:
    seed_torch(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (the user's code may draw from it)


def copied(*things: Any, memo: dict[int, Any] | None = None) -> Any:
    """A deep copy of `things`, without the wrapper of `torch.compile`; `memo` as in `copy.deepcopy`."""
    return deep_copy(tuple(getattr(thing, "_orig_mod", thing) for thing in things), memo)


def _left_in_place(model: nn.Module, chosen: Container[int]) -> dict[int, nn.Parameter]:
    """By identity, what stands for the large weights of simple layers that are not `chosen`: parameters that
    lie where they do."""
    layers = (part for part in model.modules() if isinstance(part, (*WEIGHTED, nn.Embedding)))
    weights = (part._parameters.get("weight") for part in layers)
    return {
        id(each): nn.Parameter(each.data, each.requires_grad)
        for each in weights
        if type(each) is nn.Parameter and each.numel() > _LARGE and id(each) not in chosen
    }


def batch_size(inputs: Any) -> int:
    """The first dimension of the first tensor in `inputs`; 1 where there is none."""
    return next((len(leaf) for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.ndim), 1)


def _scalar(value: Any, name: str) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1 or value.is_complex():
        seen = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise UserError(f"{name} must return a scalar tensor, not {seen}.")
    return value.reshape(())


def _example_data(leaf: Any, samples: int, total: int) -> Any:
    per_example = isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == total
    return leaf[:samples] if per_example else leaf


def _named_inputs(inputs: Any) -> Iterable[tuple[str, Tensor]]:
    entries: Iterable[tuple[Any, Any]] = [("", inputs)]
    if isinstance(inputs, Mapping):
        entries = inputs.items()
    elif isinstance(inputs, (tuple, list)):
        entries = enumerate(inputs)
    for key, leaf in entries:
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel():
            yield "input" if key == "" else f"input[{key}]", leaf


def _moved(module: nn.Module, device: torch.device) -> nn.Module:
    """`module` on `device`. What its parts make on the way, as metrics do, is in single precision: the device
    that they leave may have no other."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        return module.to(device)
    finally:
        torch.set_default_dtype(default)


def _converted(module: nn.Module, dtype: torch.dtype, but: Sequence[Tensor] = ()) -> nn.Module:
    # As `.double()`, which leaves complex buffers alone, unlike `.to(dtype)`.
    kept = set(map(id, but))

    def widened(each: Tensor) -> Tensor:
        return each.to(dtype) if each.is_floating_point() and id(each) not in kept else each

    return module._apply(widened)


def _without_what_is_meant(model: nn.Module) -> None:
    """Embeddings leave the padding's gradient out, or divide by how often a row is used, and the backward of
    spectral norms takes singular vectors for constants, which are not to train: that is meant."""
    for module in model.modules():
        hooks = module._forward_pre_hooks.values()
        if isinstance(module, nn.Embedding):
            module.padding_idx, module.scale_grad_by_freq = None, False
        if isinstance(module, _SpectralNorm) or any(isinstance(hook, SpectralNorm) for hook in hooks):
            module.training = False


def _cloned(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf


class _Precision(TorchDispatchMode):
    """Inside the block every computation runs in `dtype` or better.

    Constants that no module holds, such as class weights in a closure, are widened where they are used, and
    `x.float()`, with which many normalization layers guard half precision, does not lose half the digits.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = {} if kwargs is None else dict(kwargs)
        wanted = kwargs.get("dtype")
        if isinstance(wanted, torch.dtype) and wanted.is_floating_point:
            kwargs["dtype"] = torch.promote_types(wanted, self._dtype)
        asked = kwargs.get("device")
        if asked is not None and self._dtype == torch.float64 and not has_double(asked):
            kwargs["device"] = torch.device("cpu")  # where the copy is, for such a device
        if any(map(self._is_narrow, tensors_in((*args, *kwargs.values())))):
            in_place = func.overloadpacket.__name__.endswith("_")  # a copy of what it writes to would be lost
            # A view is widened where it is used.
            if not in_place and not any(each.alias_info for each in func._schema.returns):
                args, kwargs = tree_map(self._widened, (args, kwargs))
        return func(*args, **kwargs)

    def _is_narrow(self, leaf: Any) -> bool:
        if not isinstance(leaf, Tensor) or leaf.dtype is self._dtype:
            return False
        return leaf.dtype.is_floating_point and leaf.dtype.itemsize < self._dtype.itemsize

    def _widened(self, leaf: Any) -> Any:
        if not self._is_narrow(leaf):
            return leaf
        return double(leaf) if self._dtype == torch.float64 else leaf.to(self._dtype)


def _gives_what_it_gets(functions: set[Any], evaluate: Callable[[], Any]) -> set[Any]:
    """Those of the autograd Functions whose results are, in every call, their first argument."""
    same: dict[Any, list[bool]] = {cls: [] for cls in functions}

    def watched(cls: Any, forward: Callable[..., Any]) -> Callable[..., Any]:
        def watching(*arguments: Any) -> Any:
            result = forward(*arguments)
            first = next((each for each in arguments if isinstance(each, Tensor)), None)
            same[cls].append(isinstance(result, Tensor) and first is not None and torch.equal(result, first))
            return result

        return watching

    with ExitStack() as patched:
        for cls in functions:
            patched.enter_context(patch.object(cls, "forward", staticmethod(watched(cls, cls.forward))))
        evaluate()
    return {cls for cls, calls in same.items() if calls and all(calls)}


def _multiplies(node: Any) -> bool:
    """Whether the backward of an autograd Function gives the gradient times a number other than 1; it is 0
    where a reversal is to begin slowly."""
    try:
        [metadata] = node._input_metadata
        gradient = torch.rand(metadata.shape, dtype=metadata.dtype, device=metadata.device) + 1
        given = node.apply(gradient)
        first = given if isinstance(given, Tensor) else given[0]
        ratio = first / gradient
    except Exception:  # it may want several gradients, or what a forward pass keeps
        return False
    low, high = ratio.aminmax()
    return bool((high - low).abs() <= 1e-6 * high.abs()) and float(low) != 1.0


class Stops(TorchFunctionMode):
    """Keeps what `detach`, `.data`, `no_grad` and `inference_mode` gave in the first evaluation inside it and
    gives it again in all later ones: what is stopped is a constant, as are targets, baselines and what a
    straight-through estimate adds. A tensor that is given its own `.data`, as where a module casts itself,
    stays as it is.

    What runs within an autograd Function of one's own is no such thing.

    Args:
        of_loss_alone: whether that is so in the loss only, not in the model.
    """

    def __init__(self, of_loss_alone: bool = False) -> None:
        super().__init__()
        self.of_loss_alone = of_loss_alone
        self._kept: list[Tensor] = []
        self._first = True
        self._place, self._no_grad = 0, False

    def __enter__(self) -> Any:
        self._place, self._no_grad = 0, False
        self._own: dict[int, tuple[Tensor, Any]] = {}
        """What `.data` gave, by identity, and of which tensor."""
        return super().__enter__()

    def __exit__(self, *reason: Any) -> None:
        self._first = False
        super().__exit__(*reason)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        inference = torch.is_inference_mode_enabled()
        if func is torch._C._set_grad_enabled and not inference:  # what is set in there ends with it, unseen
            self._no_grad = not args[0]
        if func == _GIVE_DATA and self._own.get(id(args[1]), (None, None))[1] is args[0]:
            return None
        result = func(*args, **(kwargs or {}))
        quiet = self._no_grad or inference
        stopped = func in _STOPPING or (quiet and not any(result is each for each in args))
        if not stopped or not isinstance(result, Tensor) or not result.is_floating_point():
            return result
        if self._first:
            self._kept.append(result.clone())
            return result  # not a copy: through `.data` an in-place step may move what it belongs to
        kept = self._kept[self._place] if self._place < len(self._kept) else result
        self._place += 1
        again = kept.clone() if kept.shape == result.shape else result
        if func == _DATA:
            self._own[id(again)] = again, args[0]
        return again


_DATA, _GIVE_DATA = Tensor.data.__get__, Tensor.data.__set__  # type: ignore[attr-defined]
_STOPPING = (Tensor.detach, _DATA)


class _FirstUse(TorchDispatchMode):
    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self.order: dict[str, int] = {}
        self._names = names

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = {} if kwargs is None else kwargs
        for leaf in tensors_in((args, kwargs)):
            # A sparse tensor has no memory of its own.
            if leaf.layout == torch.strided and leaf.numel() and leaf.data_ptr() in self._names:
                self.order.setdefault(self._names[leaf.data_ptr()], len(self.order))
        return func(*args, **kwargs)
