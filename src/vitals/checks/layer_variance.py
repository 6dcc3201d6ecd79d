"""The layer-variance table: does the signal stay level on its way through the network as initialised?"""

import math
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from statistics import linear_regression
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode

from vitals.checks.check import CheckOfEachLoss, Options, Outcome
from vitals.checks.inputs import enters_unscaled
from vitals.checks.training_setup import TrainingSetup, cut
from vitals.errors import UserError
from vitals.findings import Finding, Level
from vitals.measures.fresh_draws import is_fresh
from vitals.measures.layer_outputs import WEIGHTED
from vitals.measures.layer_statistics import SATURATED
from vitals.probes.trial import Inputs, Trial, ignores_scale, switch_off_dropout, trial

STEEP, VERY_STEEP = 0.3, 0.8
"""Decades of signal variance per layer: docs/course.md, "Activations and gradients by layer"."""
COLLAPSED, GONE = 5.0, 8.0
"""Decades lost through the whole network: from here SGD stops learning, from there everything does."""
ADAPTIVE_ALLOWANCE = 3.0
"""Decades more that Adam and its kin bear, since they rescale each gradient."""
EXPLODED = 3.5
"""Decades gained on an input of unit variance or more, which no loss at chance survives."""
FEWEST_LAYERS = 4
"""A falling slope over fewer points says more about a single layer than about the network."""
DEAD_MANY, DEAD_ALL = 0.75, 0.9
"""Share of channels that are zero for every sample."""
MOSTLY_ZERO = 0.9
"""Share of zeros in what comes to each layer but the first: half behind ReLU, 0.75 with dropout of half."""
SQUASHING = {"tanh", "sigmoid", "hardtanh", "hardsigmoid", "softsign", "softmax", "clamp", "erf"}
"""Names of functions whose values can come to lie at their limits."""
SATURATED_MANY, SATURATED_MOST = 0.2, 0.5
"""Share of tanh or sigmoid values at their limits."""
HARD = {"hardtanh", "clamp", "hardsigmoid"}
"""Those of them whose slope is whole up to the limits, so that many values may lie there, as with ReLU."""
HARD_MANY = 0.75
"""The same for these, from where a layer counts: 0.32 behind a BatchNorm."""
HARD_LITTLE, HARD_LEAST = 2e-3, 1e-4
"""Share of the gradient that passes all such layers. One layer alone loses little however many of its values
lie there, and sums of many signs, as in binarized networks, lie there nearly all."""
WAVES = {"sin", "cos"}
"""Those whose slope comes back beyond their limits, as in the embedding of a time."""
LEAPING = {"argmin", "argmax", "gumbel_softmax"}
"""Names of functions behind which the signal begins anew, as that of the codes of a quantizer does."""
PEAKED, FEWEST_PLACES = 0.99, 4
"""Share of an attention's row that one of at least so many places gets where its slope is zero."""
SCALED_AWAY, THIN = 50.0, 0.02
"""Times that inputs spread further than what the first layer gets of them, and the spread of this from which
it is next to nothing."""
LARGE_INPUT = 10.0
"""Root mean square of inputs so large that what follows is their fault, not the weights'."""
SMALLEST = 1e-45
"""float32 knows no smaller number; stands for a variance of 0 in the logarithm."""


@dataclass(frozen=True)
class LayerSignal:
    """What enters one weighted layer: the result of everything since the one before, activation included."""

    name: str
    """The module that made it: the previous weighted layer, `input` for the first row."""
    variance: float
    """Over all units and samples; the figure of the course's table."""
    signal_variance: float
    """Mean over units of the variance over samples: biases do not hide a vanished signal."""
    dead: float
    """Share of channels that are 0 for every sample and position."""
    saturated: float
    """Share of values at the limits of a tanh or sigmoid; 0 where the values are not bounded so."""
    hard: bool = False
    """Whether the slope is whole up to these limits."""
    zeros: float = 0.0
    """Share of values that are exactly 0; 0 where that is meant: the others are all one, as those of spikes
    are, or as many in each sample, as of the k largest."""


@dataclass(frozen=True)
class LayerVariance:
    """The network's layers in order of execution, the input first; the outputs (logits) are left out."""

    layers: tuple[LayerSignal, ...]
    slope: float
    """Decades of signal variance gained (lost, if negative) per layer: least squares over the rows."""
    slope_at_he_scale: float
    """The same with every weight drawn anew at He's √(2/fan-in): tells the weights' fault from the
    network's."""
    silent: str
    """The first layer whose weights are all zero and let nothing pass; empty where there is none, or where
    its input is the same for every sample, as that of a learned position is."""
    input_scale: float
    """Root mean square of the inputs."""
    adaptive: bool
    """Whether the optimizer rescales gradients, as Adam does."""
    peaked: float = 0.0
    """Largest share of the rows of an attention that look at one place alone, in a network whose weights were
    drawn: those that are trained may do so on purpose."""
    attention: str = ""
    """The layer before that attention."""
    input_spread: float = 0.0
    """Standard deviation over all numbers of the inputs; 0 where they are not one tensor of numbers, or the
    network normalizes each sample."""
    drops_all: str = ""
    """A dropout layer that drops all that it is given, p=1; empty where there is none."""

    @property
    def total(self) -> float:
        """Decades of signal variance between input and last hidden layer, after the fitted slope."""
        return self.slope * (len(self.layers) - 1)

    @property
    def gained(self) -> float:
        """Decades by which the last hidden layer's signal exceeds that of the input, or 1 if that is less:
        normalization may well lift small inputs to 1."""
        first, last = self.layers[0].signal_variance, self.layers[-1].signal_variance
        return math.log10(max(last, SMALLEST)) - math.log10(max(first, 1.0))

    @property
    def whole(self) -> float:
        """Decades judged beside the slope: those gained where it rises, those lost where it falls."""
        return self.gained if self.slope > 0 else self.total

    @property
    def bearable(self) -> tuple[float, float]:
        """The least and the largest change in all that a training stands, in decades."""
        return -(COLLAPSED + self.adaptive * ADAPTIVE_ALLOWANCE), EXPLODED

    def table(self) -> str:
        """The course's table, "Layer i: Variance: ...", with the signal variance beside it."""
        return "\n".join(
            f"Layer {i}: Variance: {row.variance:.6e}  Signal variance: {row.signal_variance:.6e}  {row.name}"
            for i, row in enumerate(self.layers)
        )

    def findings(self) -> list[Finding]:
        """What is wrong, the most important first; `variance-level` where nothing is."""
        if self.layers[0].signal_variance == 0:
            message = "The inputs are all the same, so that there is no signal to follow."
            return [Finding("skipped", "note", message, where="layer variance")]
        alarms = self._thin() or self._dead() or self._seldom() or self._saturated()
        alarms = alarms or self._silent() or self._slope()
        message = (
            f"The variance of the signal changes by {self.slope:+.2f} decades per layer, {self.whole:+.1f} "
            f"in all over {len(self.layers) - 1} layers."
        )
        low, high = self.bearable
        level: Level = "ok" if abs(self.slope) <= STEEP or low <= self.whole <= high else "note"
        return alarms or [Finding("variance-level", level, message, value=self.slope, threshold=STEEP)]

    def _thin(self) -> list[Finding]:
        first = math.sqrt(self.layers[0].variance)
        if not (self.layers[0].name == "input" and first < THIN and self.input_spread > SCALED_AWAY * first):
            return []
        seen = (
            f"The inputs spread by {self.input_spread:.3g}, and what the first layer gets of them by "
            f"{first:.2g}: the network scales them down to next to nothing."
        )
        remedy = "Scale them once, in the data set or in forward()."
        return [Finding("input-not-normalized", "warn", seen, remedy, "inputs", first, THIN)]

    def _dead(self) -> list[Finding]:
        hidden = self.layers[1:]
        worst = max(hidden, key=lambda row: row.dead, default=None)
        # In a collapsed network units are dead because no signal reaches them: the slope names the cause.
        if worst is None or worst.dead <= DEAD_MANY or (self._collapsed() and worst.dead < 1):
            return []
        if worst.dead == 1 and self.drops_all:
            message = f"'{self.drops_all}' drops all that it is given (p=1): nothing passes it in training."
            remedy = "Give it the share that is to be dropped, up to 0.5; 0, or no layer, drops nothing."
            return [Finding("regularization-too-strong", "fail", message, remedy, self.drops_all, 1.0)]
        level: Level = "fail" if worst.dead > DEAD_ALL else "warn"
        message = f"After '{worst.name}' {worst.dead:.0%} of the channels are zero for every sample."
        remedy = "Start biases at zero and weights at He's scale, so that half of the inputs pass each ReLU."
        limit = DEAD_ALL if level == "fail" else DEAD_MANY
        return [Finding("dead-relu", level, message, remedy, worst.name, worst.dead, limit)]

    def _seldom(self) -> list[Finding]:
        hidden = self.layers[1:]
        least = min((row.zeros for row in hidden), default=0.0)
        if len(hidden) < 2 or least < MOSTLY_ZERO or self.layers[0].zeros > MOSTLY_ZERO or self._collapsed():
            return []
        seen = (
            f"What comes to each hidden layer is zero in {least:.0%} of the values and more: next to nothing "
            f"passes the activations between."
        )
        remedy = (
            "Start biases at zero, those of normalization layers, too, so that half of the inputs pass each "
            "ReLU."
        )
        return [Finding("dead-relu", "warn", seen, remedy, hidden[0].name, least, MOSTLY_ZERO)]

    def _saturated(self) -> list[Finding]:
        if self.peaked > SATURATED_MOST:
            seen = (
                f"Behind '{self.attention}' {self.peaked:.0%} of the rows of a softmax give one place more "
                f"than {PEAKED:.0%}, where the slope is zero."
            )
            cause, where = "saturated-activations", self.attention
            remedy = (
                "Divide the scores by the root of a head's width, and draw the weights at Xavier's scale."
            )
            return [Finding(cause, "warn", seen, remedy, where, self.peaked, SATURATED_MOST)]
        layers = self.layers[1:]
        worst = max((row for row in layers if not row.hard), key=attrgetter("saturated"), default=None)
        hard = [row for row in layers if row.hard and row.saturated > HARD_MANY]
        passes = math.prod(1 - row.saturated for row in hard)
        if worst is not None and worst.saturated > SATURATED_MANY:
            level: Level = "fail" if worst.saturated > SATURATED_MOST else "warn"
            value, threshold = worst.saturated, SATURATED_MOST if level == "fail" else SATURATED_MANY
        elif passes < HARD_LITTLE:
            worst = max(hard, key=attrgetter("saturated"))
            level = "fail" if passes < HARD_LEAST else "warn"
            value, threshold = passes, HARD_LEAST if level == "fail" else HARD_LITTLE
        else:
            return []
        seen = f"After '{worst.name}' {worst.saturated:.0%} of the activations sit at their limits"
        if self.input_scale > LARGE_INPUT:
            cause, seen = "input-not-normalized", f"{seen}, as inputs are {self.input_scale:.3g} large."
            remedy = "Subtract the training set's mean and divide by its standard deviation, per channel."
        else:
            seen += ", where the slope is zero"
            if worst.hard and len(hard) > 1:
                seen += f": {passes:.1g} of the gradient passes all {len(hard)} layers with such limits"
            cause, seen = "saturated-activations", f"{seen}."
            remedy = "Draw the weights at Xavier's scale √(1/fan-in)."
        return [Finding(cause, level, seen, remedy, worst.name, value, threshold)]

    def _silent(self) -> list[Finding]:
        if not self.silent:
            return []
        seen = f"The weights of '{self.silent}' are all zero, so that all samples are alike behind it."
        remedy = "Draw the weights at random, at He's or Xavier's scale."
        return [Finding("bad-initialization", "fail", seen, remedy, self.silent, 0.0, 0.0)]

    def _collapsed(self) -> bool:
        falls = self.slope < -STEEP and self.total < self.bearable[0]
        return (falls or self._wears_off()) and len(self.layers) >= FEWEST_LAYERS

    def _wears_off(self) -> bool:
        """Whether nothing is left of the signal behind many layers, each of which takes little of it."""
        return self.total < -(GONE + self.adaptive * ADAPTIVE_ALLOWANCE)

    def _slope(self) -> list[Finding]:
        exploded = self.slope > STEEP and self.gained > EXPLODED
        if not exploded and not self._collapsed():
            return []
        far = EXPLODED if exploded else GONE + self.adaptive * ADAPTIVE_ALLOWANCE
        whole = self.gained if exploded else -self.total
        level: Level = "fail" if abs(self.slope) > VERY_STEEP and whole > far else "warn"
        verb = "grows" if exploded else "shrinks"
        seen = (
            f"The variance of the signal {verb} by {abs(self.slope):.2f} decades per layer, "
            f"{whole:.1f} in all over {len(self.layers) - 1} layers"
        )
        if abs(self.slope_at_he_scale) < min(STEEP, abs(self.slope) / 2):
            cause = "bad-initialization"
            seen += f" (at He's scale it would be {self.slope_at_he_scale:+.2f})."
            remedy = "Draw the weights at He's scale √(2/fan-in), or put BatchNorm behind each layer."
        else:
            cause = "exploding-gradients" if exploded else "vanishing-gradients"
            seen += ", whatever the scale of the weights."
            if exploded:
                remedy = "Put normalization or a smaller gain on each residual branch."
            else:
                remedy = "Use ReLU instead of sigmoid or tanh, normalization, or residual connections."
        value, threshold = self.slope, VERY_STEEP if level == "fail" else STEEP
        if abs(value) <= STEEP:
            value, threshold = self.total, -far
        return [Finding(cause, level, seen, remedy, self.layers[-1].name, value, threshold)]


def faults_of_signal(model: nn.Module, inputs: Inputs) -> list[Finding]:
    """What `check_layer_variance` finds; nothing where there is no layer whose input could be measured."""
    try:
        return check_layer_variance(model, inputs).findings()
    except UserError:
        return []


def check_layer_variance(
    model: nn.Module,
    inputs: Inputs,
    optimizer: Optimizer | None = None,
    left_out: Collection[str] = (),
) -> LayerVariance:
    """Measure how the variance of the activations changes through the network as it is initialised, in
    training mode: `inputs` (N, ...), better 64 to 512. A row is what enters a linear or convolutional layer,
    so that functional activations, pooling and residual sums count as well. The slope is judged together with
    the whole change, and more mildly for an adaptive `optimizer` (He et al. 2015, eq. 10). Layers whose
    weights are among the parameters `left_out`, by their names, are no part of it. `UserError` for fewer than
    two samples or a model without such layers."""
    if isinstance(inputs, Tensor) and (inputs.ndim < 2 or len(inputs) < 2):
        raise UserError("inputs: one tensor (N, ...) of at least two samples is needed.")
    with trial(model) as copies, torch.no_grad():
        watch = _Squashing(any(isinstance(module, nn.RNNBase) for module in copies.model.modules()))
        weighted = _weighted(copies.model, left_out)
        layers = _signals(copies, weighted, inputs, watch)
        if any(row.dead == 1 for row in layers[1:]) and layers[0].signal_variance > 0:
            weighted = _that_take_inputs(model, weighted, inputs) or weighted
            layers = _signals(copies, weighted, inputs, watch)
        if not layers:
            raise UserError("model: it has no linear or convolutional layer whose input could be measured.")
        if any(row.dead > DEAD_MANY for row in layers):
            layers = _cut_off(copies, weighted, inputs, layers)
        if min((row.zeros for row in layers[1:]), default=0.0) >= MOSTLY_ZERO:
            switch_off_dropout(copies.model)  # its zeros are others for each batch
            rows = _signals(copies, weighted, inputs, _Squashing(watch.recurrent))
            layers = tuple(replace(row, zeros=other.zeros) for row, other in zip(layers, rows, strict=False))
        slope = _slope(layers)
        slope_at_he_scale, silent = slope, ""
        if abs(slope) > STEEP or abs(slope) * (len(layers) - 1) > GONE:  # else the second is not looked at
            zeroed = {name for name, part in weighted if not bool((part.weight != 0).any())}
            _draw_at_he_scale(part for _, part in weighted)
            at_he_scale = _signals(copies, weighted, inputs, _Squashing(watch.recurrent))
            slope_at_he_scale = _slope(at_he_scale)
            silenced = (
                row.name
                for row, drawn in zip(layers, at_he_scale, strict=False)
                if row.signal_variance == 0 < drawn.signal_variance and row.name in zeroed
            )
            silent = next(silenced, "")
        # What several inputs come to shows where the first layer gets them.
        scale, spread = math.sqrt(layers[0].variance), 0.0
        if isinstance(inputs, Tensor) and inputs.is_floating_point():
            scale = float(inputs.float().square().mean().sqrt())
            spread = float(inputs.float().std())
            # Where each sample is normalized, as counts are to shares, twice the inputs give the same.
            if math.sqrt(layers[0].variance) < THIN:
                twice = _signals(copies, weighted, 2 * inputs, _Squashing(watch.recurrent))[0].variance
                spread = spread if twice > 2 * layers[0].variance else 0.0
    adaptive = optimizer is not None and ignores_scale(optimizer)
    drawn = watch.peaked > SATURATED_MOST and is_fresh(model)
    peaked = (watch.peaked, watch.attention) if drawn else (0.0, "")
    dropouts = (name for name, part in model.named_modules() if isinstance(part, _DropoutNd) and part.p == 1)
    drops_all = next(dropouts, "")
    return LayerVariance(
        layers, slope, slope_at_he_scale, silent, scale, adaptive, *peaked, spread, drops_all
    )


Layers = Sequence[tuple[str, Any]]
"""With weights, by their names."""


def _weighted(model: nn.Module, left_out: Collection[str]) -> Layers:
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, WEIGHTED) and f"{name}.weight" not in left_out
    ]


def _that_take_inputs(model: nn.Module, weighted: Layers, inputs: Inputs) -> Layers:
    """`weighted`, without the layers that get the same for every sample because nothing that depends on the
    inputs or on a parameter enters them, as zeros for data that there are none of, and without those behind
    them alone."""
    alike: dict[str, bool] = {}

    def look(name: str, module: nn.Module, given: tuple[Any, ...]) -> None:
        values = given[0] if given and isinstance(given[0], Tensor) and not given[0].is_nested else None
        fixed = values is not None and not values.requires_grad and bool((values == values[:1]).all())
        alike[name] = alike.get(name, True) and fixed

    def give(name: str, module: nn.Module, given: Any, outputs: Tensor) -> Tensor:
        return outputs.detach().requires_grad_(not alike[name])

    rows = (inputs,) if isinstance(inputs, Tensor) else inputs
    rows = tuple(row.detach().clone().requires_grad_(row.is_floating_point()) for row in rows)
    with trial(model) as copies, torch.enable_grad(), suppress(UserError):
        for name, part in copies.model.named_modules():
            if isinstance(part, WEIGHTED):
                part.register_forward_pre_hook(partial(look, name))
                part.register_forward_hook(partial(give, name))
        copies.outputs(rows[0] if isinstance(inputs, Tensor) else rows)
    return [(name, part) for name, part in weighted if not alike.get(name)]


class _Squashing(TorchFunctionMode):
    """Notes which function with limits, such as tanh, was called last, and how peaked attention is."""

    def __init__(self, recurrent: bool) -> None:
        super().__init__()
        self.squashes = self.recurrent = recurrent
        self.latest = self.attention = self.function = ""
        self.peaked = 0.0
        self.waves = False
        """Whether a sine or cosine was called since the latest layer, and nothing squashing behind it."""
        self.leapt = False
        """Whether a function whose values are places, not numbers, has been called since the first layer."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result, name = func(*args, **(kwargs or {})), getattr(func, "__name__", "")
        self.squashes = self.squashes or name in SQUASHING
        self.function = name if name in SQUASHING else self.function
        self.waves = name not in SQUASHING and (self.waves or name in WAVES)
        self.leapt = self.leapt or (name in LEAPING and bool(self.latest))
        rows = result if name == "softmax" else None
        if func is F.scaled_dot_product_attention and args[0].ndim > 2:
            scale = (kwargs or {}).get("scale") or args[0].shape[-1] ** -0.5
            rows = (scale * args[0] @ args[1].transpose(-2, -1)).softmax(-1)
        if isinstance(rows, Tensor) and rows.ndim > 2 and rows.shape[-1] >= FEWEST_PLACES:
            share = float((rows.amax(-1) > PEAKED).float().mean())
            if share > self.peaked:
                self.peaked, self.attention = share, self.latest
        return result


def _signals(copies: Trial, weighted: Layers, inputs: Inputs, watch: _Squashing) -> tuple[LayerSignal, ...]:
    rows: list[LayerSignal] = []
    maker = "input"
    seen: set[str] = set()  # a network that is called twice is one network
    blank: dict[str, int] = {}
    """Rows of layers that got zeros alone so far, as from the state that a recurrence by hand begins with."""
    begin: list[int] = []
    """Where the inputs lie: what begins with them again, as a teacher, continues no layer before it."""

    def record(name: str, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        nonlocal maker
        if not arguments or not isinstance(arguments[0], Tensor) or watch.leapt:
            return
        if torch._C._functorch.is_functorch_wrapped_tensor(arguments[0]):  # has no numbers
            return
        if name in seen and name not in blank:
            return
        given = arguments[0].detach()
        if given.is_nested:  # of which there are no statistics: its sequences one after the other
            given = torch.cat(given.unbind())
        values, hard = given.float(), watch.function in HARD
        by = maker if name not in blank else rows[blank[name]].name
        row = _signal(by, values, isinstance(module, nn.Linear), watch.squashes, hard)
        row = replace(row, saturated=0.0) if watch.waves else row
        if name in blank:
            if values.any():
                rows[blank.pop(name)] = row
            return
        seen.add(name)
        place = given.data_ptr()
        if place not in begin:
            if not values.any():
                blank[name] = len(rows)
            rows.append(row)
        begin[:] = begin or [place]
        maker = watch.latest = name
        watch.waves = False

    with ExitStack() as stack:
        for name, module in weighted:
            stack.enter_context(module.register_forward_pre_hook(partial(record, name)))
        with watch:
            copies.outputs(inputs)
    return tuple(rows)


def _signal(name: str, values: Tensor, channels_last: bool, squashed: bool, hard: bool) -> LayerSignal:
    channel_dim = values.ndim - 1 if channels_last else 1
    others = [dim for dim in range(values.ndim) if dim != channel_dim]
    dead = (values == 0).amin(dim=others)
    low, high = values.aminmax()
    saturated = 0.0
    if not squashed and bool(((values == low) | (values == high) | (values == 0)).all()):
        pass  # a function with steps, such as sign, which is at its limits by its nature
    elif -1 <= low < -SATURATED and SATURATED < high <= 1:
        saturated = float((values.abs() > SATURATED).float().mean())
    elif 0 <= low < 1 - SATURATED and SATURATED < high <= 1:
        saturated = float((((values > 0) & (values < 1 - SATURATED)) | (values > SATURATED)).float().mean())
    of_all, of_samples = values.var(correction=0), values.var(dim=0, correction=0).mean()
    silent = float(dead.float().mean())
    nothing = values == 0
    fired = (~nothing).flatten(1).sum(dim=1)
    meant = bool((nothing | (values == high)).all() | (fired == fired[0]).all())
    zeros = 0.0 if meant else float(nothing.float().mean())
    return LayerSignal(name, float(of_all), float(of_samples), silent, saturated, hard, zeros)


def moved(inputs: Inputs) -> Inputs:
    """All numbers of `inputs` that are no whole ones larger by 1."""
    rows = (inputs,) if isinstance(inputs, Tensor) else inputs
    larger = tuple(row + 1 if row.is_floating_point() else row for row in rows)
    return larger[0] if isinstance(inputs, Tensor) else larger


def _cut_off(
    copies: Trial, weighted: Layers, inputs: Inputs, layers: tuple[LayerSignal, ...]
) -> tuple[LayerSignal, ...]:
    """`layers`, without those for dead whose zeros are in the inputs themselves, such as a feature without a
    value: they are gone where these are others and all layers give what they gave before."""
    given: dict[str, list[Any]] = {}

    def keep(name: str, module: nn.Module, arguments: Any, outputs: Any) -> None:
        given.setdefault(name, []).append(outputs)

    def give(name: str, module: nn.Module, arguments: Any, outputs: Any) -> Any:
        return given[name].pop(0) if given[name] else outputs

    seen: tuple[LayerSignal, ...] = ()
    for what, rows in ((keep, inputs), (give, moved(inputs))):
        with ExitStack() as stack, suppress(UserError):  # a step may refuse inputs that it has not seen
            for name, module in weighted:
                stack.enter_context(module.register_forward_hook(partial(what, name)))
            seen = _signals(copies, weighted, rows, _Squashing(False))
    alive = {row.name for row in seen if row.dead <= DEAD_MANY}
    return tuple(
        replace(row, dead=0.0) if row.dead > DEAD_MANY and row.name in alive else row for row in layers
    )


def _slope(layers: tuple[LayerSignal, ...]) -> float:
    """Least-squares slope of log10 signal variance against the layer's number; 0 for a single layer."""
    logs = [math.log10(max(row.signal_variance, SMALLEST)) for row in layers]
    return linear_regression(range(len(logs)), logs).slope if len(logs) > 1 else 0.0


def _draw_at_he_scale(layers: Iterable[Any]) -> None:
    """Draw each weight with standard deviation √(2/fan-in) and clear biases."""
    for layer in layers:
        layer.weight.normal_(std=math.sqrt(2 / layer.weight[0].numel()))
        if layer.bias is not None:
            layer.bias.zero_()


class LayerVarianceCheck(CheckOfEachLoss):
    name = "layer_variance"
    fewest = 2
    picture = "checks/layer_variance"

    def of_loss(self, setup: TrainingSetup, options: Options) -> Outcome:
        inputs = cut(setup.inputs, options.size or 128)
        left_out = setup.left_out if setup.of else ()
        result = check_layer_variance(setup.model, inputs, setup.optimizer_or_none(), left_out)
        seen = f"{result.slope:+z.2f} decades a layer, {result.whole:+z.1f} in all"
        low, high = result.bearable
        found = result.findings()
        if setup.gives == "loss":  # else the inputs have a check of their own
            found = [*enters_unscaled(setup.model, setup.loss, *setup.batch(options.size or 128)), *found]
        return Outcome(found, seen, f"within ±{STEEP}, or {low:+g} to {high:+g} in all", result)

    def facts(self, outcome: Outcome) -> dict[str, float]:
        """`signal_lost`: decades of variance that the signal loses on its way through the network."""
        return {"signal_lost": -outcome.result.total}

    def sizes(self, setup: TrainingSetup, options: Options) -> list[int]:
        return [128, 64]

    def seconds(self, size: int, setup: TrainingSetup, options: Options) -> float:
        return options.budget.pace.copy + options.budget.pace.passes(size, count=2)

    def draw(self, axes: Axes, result: LayerVariance) -> None:
        """Variance of the signal that enters each layer, on a logarithmic scale."""
        signals = [max(row.signal_variance, SMALLEST) for row in result.layers]
        axes.plot(range(len(signals)), signals, "o-")
        axes.set(yscale="log", xlabel="layer", ylabel="variance over samples")
        axes.set_xticks(range(len(signals)), [row.name for row in result.layers], rotation=60, fontsize=7)
        axes.axhline(signals[0], color="gray", linestyle=":")
