"""Does the backward match the forward? Analytic gradients against centred differences, tensor by tensor.

After cs231n, "Neural Networks Part 3: Learning and Evaluation", section "Gradient checks". Differences along
every element would take two forward passes per weight. A few elements of every tensor find most faults; a
random direction through all elements of the tensor at once finds the one that touches a single row.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vitals.checks.budget import BudgetSpent
from vitals.checks.check import Check, Options, Outcome, of_all_losses
from vitals.checks.gradients.difference import (
    Differences,
    Estimate,
    Line,
    Noise,
    measure_noise,
    random_direction,
)
from vitals.checks.gradients.functional_loss import (
    FunctionalLoss,
    Loss,
    Part,
    Penalty,
    Stops,
    batch_size,
    checked_samples,
    finite_value,
    loss_scale,
    undisturbed,
)
from vitals.checks.gradients.result import (
    ENOUGH,
    BurnIn,
    Comparison,
    GradientCheck,
    ParameterSummary,
    error_limit,
)
from vitals.checks.training_setup import TrainingSetup
from vitals.errors import UserError
from vitals.measures.histogram import Histogram, histogram
from vitals.probes.rows import leaves_of
from vitals.probes.trial import trial
from vitals.probes.untouched import ChangesParameters
from vitals.writers.writer import Writer

Meant = bool | Literal["in the loss"]

ENOUGH_FALL = 0.1
"""Share of the first loss by which it must fall for the burn-in to end early."""

FEWEST = 4
"""Tensors that a verdict needs, where the time runs out before all are compared."""

NOISE, EVALUATIONS = 30, 6
"""Steps on a few samples that it takes in time to measure the rounding errors, and one line: in float64, with
every operation recorded; 1.5 for a line of an MLP, 6 of a convnet with batch normalization (measured)."""
NUMBERS, FEWEST_NUMBERS, SHARE = 4_000_000, 1_000_000, 1 / 40
"""Elements of the tensors that are compared before a training with a budget: this share of all, but no more
and no fewer than these, for each takes as much memory as twenty parameters."""

_LEARNING_RATE = 1e-3

_ROUNDS = 4  # of drawing further elements, where kinks leave too few


def check_gradients(
    model: nn.Module,
    loss: Loss,
    inputs: Any,
    targets: Any,
    *,
    samples: int | None = None,
    elements: int = 8,
    steps: Sequence[float] = (1e-4, 1e-5, 1e-6),
    penalty: Penalty | None = None,
    burn_in_steps: int = 0,
    check_inputs: bool = True,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    tensors: int | None = None,
    numbers: int | None = None,
    stops_are_meant: Meant = False,
) -> GradientCheck:
    """Compare the gradients of `loss` with centred differences [f(x+h) − f(x−h)] / 2h, on a float64 copy.

    The model is checked in the modes it is in: BatchNorm uses the batch's statistics where it trains, and
    dropout stays on, with the same random seed in every evaluation. The model, its buffers, its gradients and
    all random states are left as they are.

    Args:
        model: any module. It is called as `model(inputs)`, `model(*inputs)` where `inputs` is a tuple or
            list, `model(**inputs)` where it is a mapping.
        loss: `loss(outputs, targets)` gives a scalar. Anything else it depends on counts as a constant, so a
            penalty on the weights belongs into `penalty`.
        inputs: tensors whose first dimension counts the examples.
        targets: the same for the loss; None where it needs none.
        samples: how many examples, the first ones, to use. Fewer have fewer kinks and are faster: 2, or 4
            where a BatchNorm layer trains, for with 2 its outputs are all about ±1.
        elements: elements drawn from every parameter, besides the one with the largest gradient; one less
            where a random direction through all of them says that the gradient is right.
        steps: step sizes h. The one whose difference is the most exact, by its own estimate, counts.
        penalty: `penalty(model)` gives a scalar; or weight decay λ ≥ 0, one for all or by parameter name, for
            Σ ½·λ·‖w‖². Data loss, penalty and both are then checked one after the other.
        burn_in_steps: train a copy on all of `inputs` for so many steps, or until the loss has fallen by 10%,
            and check that: a wrong gradient may not show at the initial weights. 0 checks the model as it is.
        check_inputs: check the gradients with respect to floating-point inputs too, which shows faults before
            the first parameter.
        dtype: torch.float64; torch.float32 for those who want to see what it does to the comparison.
        seed: of the elements drawn and of every evaluation.
        tensors: how many of the parameters and inputs to check, spread over the network; None for all, and
            with a penalty all are. Where the time of `vitals.checks.budget` runs out, those that are done by
            then count.
        numbers: in how many of their elements at most, for each takes 80 bytes; None for no limit.
        stops_are_meant: whether what `detach`, `.data` and `no_grad` give counts as constant, as a target or
            a baseline does, everywhere or in the loss alone; else a gradient that they keep from arriving is
            a fault.

    Returns:
        One row per element, a summary per parameter and the findings: `wrong-gradient` with the parameter
        that is nearest to the fault, or `gradients-correct`.

    Raises:
        UserError: an argument is out of range, the loss is no finite scalar, or the model has integer,
            complex or only frozen parameters.
    """
    samples = checked_samples(model, inputs, samples, elements, steps, dtype)
    if burn_in_steps < 0:
        raise UserError(f"burn_in_steps must be 0 or more, not {burn_in_steps}.")
    copy = partial(
        FunctionalLoss, loss=loss, inputs=inputs, targets=targets, penalty=penalty, dtype=dtype, seed=seed
    )
    with undisturbed(dtype, next(model.parameters()).device):
        burnt = None
        if burn_in_steps:
            trained = copy(model, samples=batch_size(inputs))
            before = finite_value(trained)
            burnt = _burn_in(trained, burn_in_steps)
            if not math.isfinite(burnt.loss_after):
                reason = f"the loss became {burnt.loss_after} after {burnt.steps} steps of burn-in"
                return GradientCheck((), before, 1.0, samples, skipped=reason)
            model, copy = trained.model, partial(copy, loss=trained.loss)
        choose = partial(_spread, most=tensors, numbers=numbers) if penalty is None else None
        function = copy(model, samples=samples, check_inputs=check_inputs, choose=choose)
        value = finite_value(function)
        # Other random numbers in between, so that what a module wrongly keeps from call to call shows.
        function.value(seed=seed + 1)
        spread = abs(function.value().item() - value)
        # Parallel sums on an accelerator differ in the last digits; that is noise, which is measured later.
        if spread > 1e4 * torch.finfo(dtype).eps * abs(value):
            if stops_are_meant:  # such as a baseline that the loss itself keeps
                reason = f"the loss differs by {spread:.2g} from call to call at the same point"
                return GradientCheck((), value, 1.0, samples, burnt, skipped=reason)
            return GradientCheck((), value, 1.0, samples, burnt, spread=spread)
        order = function.order_of_use()
        count = len(function.tensors)
        function.narrow()
        summaries, scale = _check_part(function, "data", order, elements, steps, stops_are_meant)
        ratios: tuple[tuple[str, float], ...] = ()
        if penalty is not None:
            finite_value(function, "penalty")
            summaries += _check_part(function, "penalty", order, elements, steps)[0]
            # The gradient of a sum is the sum of the gradients: a few elements show that both arrive.
            summaries += _check_part(function, "both", order, 1, steps)[0]
            ratios = _decay_ratios(function)
    return GradientCheck(tuple(summaries), value, scale, samples, burnt, decay_ratios=ratios, tensors=count)


def _spread(tensors: dict[str, Tensor], most: int | None, numbers: int | None) -> list[str]:
    """Names of up to `most` tensors with up to `numbers` elements in all: evenly spaced, from the last one
    on, and the smallest parameter in any case."""
    names, left = list(tensors), math.inf if numbers is None else numbers
    count = len(names) if most is None else min(max(most, 1), len(names))
    parameters = [name for name in names if isinstance(tensors[name], nn.Parameter)]
    chosen = [min(parameters, key=lambda name: tensors[name].numel())]
    for place in range(count):
        name = names[len(names) - 1 - place * len(names) // count]
        size = tensors[name].numel()
        if name not in chosen and len(chosen) < count and size <= left:
            left -= size
            chosen.append(name)
    return chosen


def _burn_in(function: FunctionalLoss, steps: int) -> BurnIn:
    """Train the model of `function` with Adam for up to `steps` steps, with random numbers of their own, or
    until its loss has fallen by 10% or is no number."""
    parameters = function.parameters
    optimizer = torch.optim.Adam(parameters.values(), lr=_LEARNING_RATE)
    first = last = function.value().item()
    step = 0
    while step < steps and math.isfinite(last) and last > first - ENOUGH_FALL * abs(first):
        step += 1
        _, gradients = function.value_and_gradients(seed=function.seed + step)
        for name, parameter in parameters.items():
            parameter.grad = gradients[name]
        optimizer.step()
        last = function.value().item()
    return BurnIn(step, first, last)


def _check_part(
    function: FunctionalLoss,
    part: Part,
    order: dict[str, int],
    elements: int,
    steps: Sequence[float],
    stops_are_meant: Meant = False,
) -> tuple[list[ParameterSummary], float]:
    """Summaries of all tensors, and the factor on the loss."""
    generator = torch.Generator().manual_seed(function.seed)
    gradients = function.value_and_gradients(part)[1]
    detached = function.detached(part)
    scale = loss_scale(gradients)
    gradients = {name: scale * gradient for name, gradient in gradients.items()}
    parameters = [p for name, p in function.parameters.items() if name in function.tensors]
    noise = measure_noise(partial(function.value_and_gradients, part), scale, parameters, generator)
    stops = Stops(of_loss_alone=stops_are_meant == "in the loss") if stops_are_meant else None
    differences = Differences(partial(function.value, part, stops=stops), scale, steps)
    depths = _depths(order)
    summaries: list[ParameterSummary] = []
    for name, gradient in gradients.items():
        if name not in function.parameters and (part == "penalty" or name in detached):
            continue  # inputs need no gradient: they may be prepared, or features taken, without one
        tensor = _TensorCheck(name, function.tensors[name], gradient, part, differences, noise, generator)
        try:
            rows = tuple(tensor.rows(elements))
        except BudgetSpent:
            if len(summaries) < FEWEST:
                raise
            break
        summaries.append(
            ParameterSummary(
                name,
                tuple(gradient.shape),
                depth=depths.get(name, 0),
                order=order.get(name, -1),
                largest_gradient=gradient.abs().max().item(),
                zero_below=10 * noise.gradients[name],
                limit=error_limit(differences.has_kinks),
                finite=bool(gradient.isfinite().all()),
                detached=name in detached,
                part=part,
                rows=rows,
            )
        )
    return _without_leaps(function, summaries) if part == "data" else summaries, scale


def _without_leaps(function: FunctionalLoss, summaries: list[ParameterSummary]) -> list[ParameterSummary]:
    """The summaries, those without a verdict whose tensor a function with steps stands behind, or one that
    multiplies the gradient: no difference says what a backward past it is meant to be. From the loss on
    backwards, up to the first that is wrong without one: the others inherit its error."""
    wrong = [s for s in summaries if s.finite and s.level in ("warn", "fail") and not s.detached]
    leaping = function.rescaled() if wrong else set()
    wrong = [summary for summary in wrong if summary.parameter not in leaping]
    for summary in sorted(wrong, key=lambda summary: -summary.order):
        try:
            if not function.leaps(summary.parameter):
                break
        except BudgetSpent:  # an accusation needs more than what was seen
            leaping |= {each.parameter for each in wrong}
            break
        leaping.add(summary.parameter)
    return [
        replace(s, rows=tuple(replace(row, kink=True) for row in s.rows)) if s.parameter in leaping else s
        for s in summaries
    ]


@dataclass
class _TensorCheck:
    name: str
    tensor: Tensor
    gradient: Tensor
    part: Part
    differences: Differences
    noise: Noise
    generator: torch.Generator

    def rows(self, elements: int) -> list[Comparison]:
        """The largest element, a random direction, `elements` others, of which that direction stands for one
        where it is right, and more where kinks leave too few."""
        count = self.tensor.numel()
        largest = int(self.gradient.abs().nan_to_num(nan=math.inf).argmax())
        seed = int(torch.randint(2**31, (), generator=self.generator))
        drawn = random.Random(seed).sample(range(count), min(count, _ROUNDS * elements + 1))
        others = [number for number in drawn if number != largest]
        limit = error_limit(self.differences.has_kinks)
        first = self._row(largest)
        along = self._row_along(0, count) if count > 1 + len(others[:elements]) else None
        right = along and not (along.kink or along.too_small or along.unexplained > limit)
        rows = [first, *(self._row(number) for number in others[bool(right) : elements])]
        for number in others[elements : _ROUNDS * elements]:
            # A smooth line through all elements says more than any of them.
            if (along and not along.kink) or sum(not row.kink for row in rows) >= ENOUGH:
                break
            rows.append(self._row(number))
        if along:
            known = max(row.unexplained for row in rows)
            rows.append(along)
            if along.unexplained > limit >= known:
                rows += self._find_wrong_element(count)
        return rows

    def _find_wrong_element(self, count: int) -> list[Comparison]:
        """Halve the range in which a random direction is wrong until one element is left; stop at kinks."""
        start, stop = 0, count
        while stop - start > 1:
            middle = (start + stop) // 2
            halves = [(start, middle), (middle, stop)]
            rows = [self._row_along(*half) for half in halves]
            if any(row.kink for row in rows):
                return []
            start, stop = max(zip(rows, halves, strict=True), key=lambda pair: _gap(pair[0]))[1]
        row = self._row(start)
        return [row] if row.unexplained else []

    def _row(self, number: int) -> Comparison:
        return self._compared(Line.along_element(self.tensor, number))

    def _row_along(self, start: int, stop: int) -> Comparison:
        direction = random_direction(self.tensor.shape, start, stop, self.generator).to(self.tensor)
        return self._compared(Line(self.tensor, direction=direction))

    def _compared(self, line: Line) -> Comparison:
        found: Estimate = self.differences.estimate(
            line, line.derivative(self.gradient), self.noise.loss, self.noise.gradients[self.name]
        )
        return Comparison(**vars(found), parameter=self.name, index=line.index, part=self.part)


def _gap(row: Comparison) -> float:
    return abs(row.analytic - row.numeric) - row.uncertainty


def _depths(order: dict[str, int]) -> dict[str, int]:
    """Layers with parameters from each tensor to the loss."""
    layers: list[str] = []
    depths = {}
    for name in sorted(order, key=order.__getitem__, reverse=True):
        layer = name.rpartition(".")[0]
        if layer not in layers and not name.startswith("input"):
            layers.append(layer)
        depths[name] = len(layers)
    return depths


def _decay_ratios(function: FunctionalLoss) -> tuple[tuple[str, float], ...]:
    """‖penalty's gradient‖ / ‖data gradient‖, by groups of equal weight decay, or of all parameters."""
    data, penalty = (function.value_and_gradients(part)[1] for part in ("data", "penalty"))
    rates = function.weight_decay()
    groups: dict[str, list[str]] = {}
    for name in function.parameters:
        if rates is None:
            groups.setdefault("all parameters", []).append(name)
        elif rates.get(name):
            groups.setdefault(f"the group with weight decay {rates[name]:g}", []).append(name)

    def norm(gradients: dict[str, Tensor], names: Sequence[str]) -> float:
        return math.sqrt(sum(gradients[name].square().sum().item() for name in names))

    ratios = ((group, norm(penalty, names), norm(data, names)) for group, names in groups.items())
    return tuple((group, pull / drive if drive else math.inf) for group, pull, drive in ratios if pull)


def _iterates(setup: TrainingSetup) -> bool:
    """Whether a layer is applied without a gradient and then once more with one, as where its fixed point is
    looked for: then the gradient of the last application alone is meant."""
    applied: dict[str, list[bool]] = {}

    def note(name: str, module: nn.Module, given: Any) -> None:
        applied.setdefault(name, []).append(torch.is_grad_enabled())

    inputs, _ = setup.batch(2)
    with trial(setup.model) as copies:
        for name, module in copies.model.named_modules():
            if next(module.parameters(recurse=False), None) is not None:
                module.register_forward_pre_hook(partial(note, name))
        copies.outputs(inputs)
    return any(not calls[0] and calls[-1] for calls in applied.values())


def _may_be_meant(setup: TrainingSetup) -> Iterator[Meant]:
    """Where what is stopped may be so on purpose, the least first: targets, baselines, the other of two
    views, but in a classifier at most what its loss stops, as weights of samples or a moving centre."""
    if setup.gives != "class numbers":
        yield True
        return
    yield False
    yield "in the loss"
    if _iterates(setup):
        yield True


class GradientsCheck(Check):
    """Logs the scalar `checks/gradient_error`, the largest relative error, and the histogram
    `checks/gradcheck/rel_error` of log10 of all of them; exact ones are at -17."""

    name = "gradients"
    needs = "losses"
    station = "gradients"

    def run(self, setup: TrainingSetup, options: Options) -> Outcome:
        return self._compared(setup, options, 0)

    unit = "tensors"

    def sizes(self, setup: TrainingSetup, options: Options) -> list[int]:
        count = sum(parameter.requires_grad for parameter in setup.model.parameters()) + 1
        return [count, *(size for size in (count // 2, count // 4) if size >= FEWEST)]

    def seconds(self, size: int, setup: TrainingSetup, options: Options) -> float:
        lines = size * (options.elements + 1)
        return options.budget.pace.copy + options.budget.pace.steps(4, count=NOISE + EVALUATIONS * lines)

    def _compared(self, setup: TrainingSetup, options: Options, burn_in_steps: int) -> Outcome:
        if setup.writes:  # a difference would be overwritten before the loss sees it
            raise ChangesParameters
        if setup.step is not None and any(
            isinstance(leaf, Tensor) and leaf.is_nested for leaf in leaves_of(setup.step.rows.example)
        ):
            raise UserError("the batches are nested tensors, of which torch takes no derivative in float64.")
        for meant in _may_be_meant(setup):
            try:
                results = self._results(setup, options, burn_in_steps, meant)
            except UserError as failure:
                if not isinstance(failure.__cause__, RuntimeError):
                    raise
                raise UserError(f"in float64, in which gradients are compared, {failure}") from failure
            if not any(finding.alarming for each in results for finding in each.findings()):
                break
        # Of several losses the one that is furthest off speaks for all.
        result = max(results, key=lambda each: -1.0 if each.max_error is None else each.max_error)
        error = result.max_error
        seen = "nothing to compare" if error is None else f"relative error {error:.1e} at most"
        if len(result.summaries) < result.tensors:
            seen += f", {len(result.summaries)} of {result.tensors} tensors"
        found = of_all_losses(finding for each in results for finding in each.findings())
        return Outcome(found, seen, "up to 1e-4 (kinks), 1e-6 (none)", result)

    @staticmethod
    def _results(
        setup: TrainingSetup, options: Options, burn_in_steps: int, meant: Meant
    ) -> list[GradientCheck]:
        count = sum(parameter.numel() for parameter in setup.model.parameters())
        numbers = min(NUMBERS, max(FEWEST_NUMBERS, int(SHARE * count)))
        return [
            check_gradients(
                each.model,
                each.loss,
                *each.batch(64),
                elements=options.elements,
                check_inputs=isinstance(each.inputs, Tensor) and each.inputs.is_floating_point(),
                burn_in_steps=burn_in_steps,
                tensors=options.size or None,
                numbers=None if math.isinf(options.budget.seconds) else numbers,
                stops_are_meant=meant,
            )
            for each in setup.each_loss()
        ]

    def log(self, writer: Writer, outcome: Outcome, setup: TrainingSetup) -> None:
        if outcome.result.max_error is None:
            return
        writer.scalars({"checks/gradient_error": outcome.result.max_error}, 0)
        errors = torch.tensor([error for error in outcome.result.relative_errors if math.isfinite(error)])
        if len(errors) and (found := Histogram.of(histogram(errors.clamp_min(1e-17).log10()).tolist())):
            writer.histogram("checks/gradcheck/rel_error", found, 0)


class GradientsAfterBurnInCheck(GradientsCheck):
    """The same on a copy that has been trained for some steps; logs nothing."""

    name = "gradients_after_burn_in"

    def wanted(self, options: Options) -> bool:
        return options.burn_in_steps > 0

    def run(self, setup: TrainingSetup, options: Options) -> Outcome:
        return self._compared(setup, options, options.burn_in_steps)

    def log(self, writer: Writer, outcome: Outcome, setup: TrainingSetup) -> None:
        pass
