"""Can the outputs of the network be what the loss wants: bent, far enough, and the same twice?"""

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vitals.checks.chance import kind_of
from vitals.checks.check import Check, Options, Outcome
from vitals.checks.training_setup import TrainingSetup
from vitals.errors import UserError
from vitals.findings import Finding
from vitals.measures.double import double
from vitals.measures.graph_leaves import graph_leaves
from vitals.measures.layer_outputs import WEIGHTED
from vitals.probes.put_back import buffers_kept
from vitals.probes.random_states import seed_torch
from vitals.probes.step_model import StepModel
from vitals.probes.trial import Loss, Trial, check_rows, constant_guess, is_class_numbers, trial

SAMPLES = 64
FIRST, SECOND = 0.3, 0.7
"""Shares of two samples in a third one."""
AFFINE = 1e-4
"""Distance of the output of a mixture to the mixture of the outputs, over the spread of the outputs, that is
rounding: 1e-6 without a nonlinearity, 0.1 and more with one (measured)."""
RANDOM = 1e-3
"""The same of two passes over the same samples."""
DROPPED = 0.05
"""Share of the outputs that are exactly zero in training mode alone, as behind dropout."""
CUT_OFF = 0.05
"""Share of outputs that are exactly zero, where none is below."""
FURTHER = 8.0
"""Times the inputs at which outputs are beyond all numbers of double precision where exponentials stand one
behind the other."""
SMALL = 8
"""Rows and columns of an image that has enough cells of 2×2 pixels."""
LARGE, ENDS = 1000.0, 0.9
"""Times all parameters, and inputs that are no numbers of things, that take outputs to the ends of what they
can be, and how near to one they then come."""
OUT_OF_REACH = 0.1
"""Share of the loss of the best guess that is one for all, that is left to outputs that can go no further."""
AGREES = 1e-2
"""Share of the loss of the guess that outputs equal to the targets cost where they are what is to be hit."""


@dataclass(frozen=True)
class Outputs:
    """What the network gives before learning, over N samples and C outputs."""

    bend: float
    """Root mean square of f(0.3a + 0.7b) − 0.3f(a) − 0.7f(b), over the spread of the outputs, in evaluation
    mode; softmax or sigmoid at the end are undone first. NaN where that cannot be told."""
    layers: tuple[str, ...]
    """With weights that train."""
    noise: float
    """Root mean square of the difference of two passes over the same samples in evaluation mode, dropout
    layers left out, over the spread of the outputs; 0 where weights are drawn, and nothing of a sample, or
    where the spread of what is drawn is learned."""
    lowest: float
    zeros: float
    """Share of the outputs that are exactly zero."""
    ends: tuple[float, float] = (-math.inf, math.inf)
    """Between which all outputs lie, however large inputs and weights are: 0 and 1 behind a sigmoid."""
    floor: float = 0.0
    """The least loss that outputs within these ends can have."""
    guess: float = math.inf
    """The loss of the best guess that is one for all."""
    dropped: float = 0.0
    """Share of the outputs that are exactly zero in training mode, and not in evaluation mode."""
    grown: float = math.nan
    """Root mean square of f(2a) − 2f(a), over the spread of the outputs, of a network in which no parameter
    is a bias; NaN for others."""
    bursts: bool = False
    """Whether outputs overflow double precision at `FURTHER` times the inputs."""
    places: float = math.nan
    """Root mean square of what changes in the outputs when the pixels of all images, two by two, change
    places in one and the same way, over the spread of the outputs; NaN for other inputs."""

    @property
    def affine(self) -> bool:
        """Whether layers follow each other as if they were one."""
        return self.bend < AFFINE and len(self.layers) > 1

    def findings(self) -> list[Finding]:
        """What is wrong, the most important first; `wiring-correct` where nothing is."""
        found = []
        if self.places < AFFINE:
            seen = (
                "The outputs stay the same when the pixels of an image, two by two, change places: the "
                "network sees which colours are there, and not where."
            )
            remedy = (
                "Give the convolutions a kernel of 3, pool behind them, not before, and look for a mean over "
                "rows and columns."
            )
            found.append(Finding("underfitting", "warn", seen, remedy, "outputs", self.places, AFFINE))
        elif self.affine:
            seen = (
                f"The network is an affine function of its inputs: its {len(self.layers)} layers with "
                f"weights ({self.layers[0]} to {self.layers[-1]}) are worth one."
            )
            remedy = "Put a nonlinearity, such as ReLU, between the layers."
            found.append(Finding("underfitting", "warn", seen, remedy, self.layers[0], self.bend, AFFINE))
        if self.dropped > DROPPED and self.lowest < 0:
            seen = (
                f"While training, {self.dropped:.0%} of the outputs are exactly zero, and not in evaluation "
                f"mode: dropout stands behind the last layer."
            )
            remedy = "Put the dropout before the last layer: what it drops behind it is the answer itself."
            cause = "regularization-too-strong"
            found.append(Finding(cause, "warn", seen, remedy, "outputs", self.dropped, DROPPED, exact=True))
        if self.floor > OUT_OF_REACH * self.guess:
            low, high = self.ends
            end, cause = ("a ReLU", "dead-relu") if high == math.inf else ("a tanh", "saturated-activations")
            end = "a sigmoid" if high == 1 and low == 0 else end
            between = f"are never below {low:g}" if high == math.inf else f"lie between {low:g} and {high:g}"
            seen = (
                f"The outputs {between}, as behind {end}, and the loss wants them to go further: it cannot "
                f"fall below {self.floor:.3g}, where one guess for all has {self.guess:.3g}."
            )
            remedy = "Let the network end in its last linear layer, or scale the targets to what it can give."
            limit = OUT_OF_REACH * self.guess
            found.append(Finding(cause, "warn", seen, remedy, "outputs", self.floor, limit, exact=True))
        elif self.lowest >= 0 and CUT_OFF < self.zeros < 1:  # a last layer of zeros gives nothing else
            seen = (
                f"The outputs are never negative, and {self.zeros:.0%} of them are exactly zero: they end in "
                f"a ReLU, past which no gradient reaches what it has set to zero."
            )
            remedy = "Let the network end in its last linear layer, without an activation."
            found.append(Finding("dead-relu", "warn", seen, remedy, "outputs", self.zeros, CUT_OFF))
        if self.noise > RANDOM:
            seen = (
                f"In evaluation mode two passes over the same inputs give outputs that differ by "
                f"{self.noise:.1%} of their spread."
            )
            remedy = "Draw random numbers in the network only while self.training."
            found.append(
                Finding("train-mode-evaluation", "warn", seen, remedy, "outputs", self.noise, RANDOM)
            )
        if not found:
            seen = "Layers do not follow each other as if they were one, and outputs are free and repeatable."
            found.append(Finding("wiring-correct", "ok", seen, where="outputs", value=self.bend))
        return found


def check_outputs(model: nn.Module, inputs: Tensor, loss: Loss | None = None, targets: Any = None) -> Outputs:
    """Look at `model` as a function of `inputs` (N, ...), floats, N ≥ 4, in evaluation mode; with `loss`, and
    `targets` that are class numbers (N,) or what the outputs are to be, at what it can reach. `UserError`
    where the model does not give one tensor."""
    check_rows(inputs, torch.zeros(len(inputs)), minimum=4)
    half = len(inputs) // 2
    one, other = inputs[:half], inputs[half : 2 * half]
    with trial(model, dropout=False) as copies, torch.no_grad():
        copies.model.eval()
        with buffers_kept(copies.model):  # what observes ranges for quantization does so in this mode, too
            first = copies.outputs(one)
        seed_torch(1)
        again, second = copies.outputs(one), copies.outputs(other)
        bend = math.nan
        with torch.enable_grad():
            known = {id(parameter) for parameter in copies.model.parameters()}
            leaves = graph_leaves(copies.outputs(one[:2]).sum())
        # Layers that are made in the forward pass differ from pass to pass; that is no noise. Nor is what a
        # training step draws around its networks.
        anew = isinstance(model, StepModel) or any(
            isinstance(leaf, nn.Parameter) and id(leaf) not in known for leaf in leaves
        )
        if inputs.is_floating_point() and first.shape != one.shape:  # an autoencoder may be linear
            mixed = copies.outputs(FIRST * one + SECOND * other)
            straight = [_unsquashed(outputs) for outputs in (first, second, mixed)]
            bend = _share(straight[2] - FIRST * straight[0] - SECOND * straight[1], straight[0])
        places = math.nan
        if inputs.ndim == 4 and min(inputs.shape[2:]) > 1:
            places = _share(copies.outputs(_exchanged(one)) - first, first)
        grown = math.nan
        if inputs.is_floating_point() and all(each.ndim > 1 for each in copies.model.parameters()):
            grown = _share(copies.outputs(2 * one) - 2 * first, first)
        # Weights that are drawn for each pass, as in a Bayesian network, are the same for all samples of it.
        twins = copies.outputs(one[:1].expand(2, *one.shape[1:]).contiguous())
        of_weights = _share(twins[0] - twins[1], first) < RANDOM
        # Nor is a spread that is learned, as of what such weights give, switched off in evaluation.
        with torch.enable_grad(), _LearnedSpread() as spread:
            copies.outputs(one[:2])
        bursts = bool(inputs.is_floating_point() and first.isfinite().all()) and _bursts(copies, one)
    dropped = 0.0
    if loss is not None and isinstance(targets, Tensor) and not isinstance(model, StepModel):
        with trial(model, loss) as copies, torch.no_grad():
            dropped = float(((copies.outputs(one) == 0) & (first != 0)).float().mean())
            if dropped > DROPPED and not _are_answers(copies, first, targets[: len(first)]):
                dropped = 0.0  # features may be dropped, as of two views of a sample
    both = torch.cat([first, second])
    layers = tuple(
        name
        for name, module in model.named_modules()
        if isinstance(module, WEIGHTED) and module.weight.requires_grad
    )
    classes = loss is None or is_class_numbers(targets)  # other outputs may be drawn, and never negative
    zeros = float((both == 0).float().mean()) if classes else 0.0
    noise = _share(again - first, first) if classes and not anew else math.nan
    noise = 0.0 if noise > RANDOM and (of_weights or spread.found) else noise
    found: Any = {"places": places, "grown": grown, "dropped": dropped, "bursts": bursts}
    result = Outputs(bend, layers, noise, float(both.min()), zeros, **found)
    if loss is None or not isinstance(targets, Tensor):
        return result
    with trial(model, loss, dropout=False) as copies, torch.no_grad():
        copies.model.eval()
        with suppress(RuntimeError, ValueError):  # not every network takes such weights
            return _reach(result, copies, both, inputs, targets[: len(both)])
    return result


class _LearnedSpread(TorchFunctionMode):
    """Notes whether normal numbers that are drawn are multiplied by what depends on parameters."""

    draws, products = {"randn", "randn_like", "normal", "normal_"}, {"mul", "__mul__", "__rmul__", "multiply"}

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[Tensor] = []
        self.found = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result, name = func(*args, **(kwargs or {})), getattr(func, "__name__", "")
        if name in self.draws:
            self.drawn.append(result)
        elif name in self.products:
            noise = [any(each is drawn for drawn in self.drawn) for each in args]
            learned = [isinstance(each, Tensor) and each.requires_grad for each in args]
            self.found |= any(noise) and any(learned)
        return result


def _exchanged(images: Tensor) -> Tensor:
    """`images` (N, C, H, W) with their cells of 2×2 pixels, or single pixels of small ones, in another order,
    the same for all: what pools first, by two, or looks at one pixel at a time, sees no difference."""
    side = 2 if min(images.shape[2:]) >= SMALL and not any(size % 2 for size in images.shape[2:]) else 1
    cells = F.pixel_unshuffle(images, side)
    order = torch.randperm(cells[0, 0].numel(), device=images.device)
    return F.pixel_shuffle(cells.flatten(2)[:, :, order].view_as(cells), side)


def _bursts(copies: Trial, inputs: Tensor) -> bool:
    """Whether outputs for much larger inputs are no numbers, in double precision, too, to which the copy
    goes."""
    if bool(copies.outputs(FURTHER * inputs).isfinite().all()):
        return False
    with suppress(RuntimeError, UserError):  # not every network takes double precision
        copies.model.double()
        return not bool(copies.outputs(FURTHER * inputs.double()).isfinite().all())
    return False


def _are_answers(copies: Trial, outputs: Tensor, targets: Tensor) -> bool:
    """Whether it matters to the loss what classes are called, and not only which samples are of one."""
    if not is_class_numbers(targets):
        return True
    renamed = (targets + 1) % (int(targets.max()) + 1)
    return float(copies.loss_of(outputs, targets)) != float(copies.loss_of(outputs, renamed))


def _reach(result: Outputs, copies: Trial, outputs: Tensor, inputs: Tensor, targets: Tensor) -> Outputs:
    """The result with what the loss can come to, where outputs have ends."""
    ends = _ends(copies, inputs)
    if ends is None:
        return result
    low, high = ends
    if is_class_numbers(targets) and outputs.ndim == 2:
        if (low, high) != (-1, 1):  # probabilities, and logits behind a ReLU, are judged for themselves
            return result
        wanted = F.one_hot(targets, outputs.shape[1]).to(outputs.dtype) * 2 - 1
    elif targets.numel() == outputs.numel() and targets.is_floating_point():
        aims = targets.reshape(outputs.shape).to(outputs.dtype)
        wanted = aims.clamp(low, high)
    else:
        return result
    guess = constant_guess(copies.loss_of, outputs, targets)
    if not is_class_numbers(targets) and not float(copies.loss_of(aims, targets)) < AGREES * guess:
        return result  # it is not the targets themselves that the outputs are to be
    return replace(result, ends=ends, floor=float(copies.loss_of(wanted, targets)), guess=guess)


def _ends(copies: Trial, inputs: Tensor) -> tuple[float, float] | None:
    """Between which the outputs stay, whatever is done to inputs and parameters, which this changes."""
    found = []
    inputs = inputs[:SAMPLES] * LARGE if inputs.is_floating_point() else inputs[:SAMPLES]
    for factor in (LARGE, -1.0):  # outputs behind a ReLU may all be above 0 for one sign
        for parameter in copies.model.parameters():
            if parameter.is_floating_point():
                parameter.mul_(factor)
        found.append(copies.outputs(inputs).float())
    values = torch.cat(found)
    low, high = (float(value) for value in values.aminmax())
    if not math.isfinite(low) or not math.isfinite(high) or low == high:
        return None
    if low >= 0:
        zeros = float((values == 0).float().mean())
        return (0.0, 1.0) if ENDS < high <= 1 else (0.0, math.inf) if high > 1 and zeros > CUT_OFF else None
    return (-1.0, 1.0) if low < -ENDS and high > ENDS and low >= -1 and high <= 1 else None


def _unsquashed(outputs: Tensor) -> Tensor:
    """`outputs` before the softmax or sigmoids at the end, up to a constant for each sample."""
    values = double(outputs)
    if outputs.ndim == 2 and kind_of(outputs) != "logits":
        logs = values.log() if kind_of(outputs) == "probabilities" else values
        return logs - logs.mean(dim=1, keepdim=True)
    if bool(((values > 0) & (values < 1)).all()):
        return values.logit()
    return values


def _share(difference: Tensor, outputs: Tensor) -> float:
    """Size of `difference` over the spread of `outputs` over the samples; NaN where there is none."""
    spread = float(double(outputs).std(dim=0).square().mean().sqrt())
    size = float(double(difference).square().mean().sqrt())
    level = float(double(outputs).abs().max())
    return size / spread if spread > 1e-6 * level > 0 and math.isfinite(size) else math.nan


class OutputsCheck(Check):
    name = "outputs"
    needs = "network"
    fewest = 8

    def run(self, setup: TrainingSetup, options: Options) -> Outcome:
        targets = setup.targets[:SAMPLES] if isinstance(setup.targets, Tensor) else None
        result = check_outputs(setup.model, setup.inputs[:SAMPLES], setup.loss, targets)
        bent = f"bent by {result.bend:.2g} of their spread, " if math.isfinite(result.bend) else ""
        seen = f"{bent}lowest {result.lowest:.2g}"
        return Outcome(result.findings(), seen, "bent, signed, repeatable", result)

    def facts(self, outcome: Outcome) -> dict[str, float]:
        """`homogeneous`: 1 where twice the inputs give twice the outputs, as no layer has a bias; else 0; and
        `bursts`, 1 where outputs for larger inputs are no numbers."""
        result: Outputs = outcome.result
        homogeneous = result.grown < AFFINE and not result.affine
        return {"homogeneous": float(homogeneous), "bursts": float(result.bursts)}

    def seconds(self, size: int, setup: TrainingSetup, options: Options) -> float:
        pace = options.budget.pace
        return 2 * pace.copy + pace.passes(min(SAMPLES, setup.samples), count=3.5)
