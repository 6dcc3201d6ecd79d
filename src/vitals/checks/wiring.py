"""Is everything connected: parameters to the loss and the optimizer, each output to its own input, modes to
the task?"""

import math
import sys
from collections.abc import Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.optim import Optimizer

from vitals.checks.chance import (
    applies_softmax_twice,
    class_weights,
    double_softmax_floor,
    kind_of,
    sigmoid_floor,
    softmax_elsewhere,
)
from vitals.checks.check import Check, Options, Outcome, of_all_losses
from vitals.checks.depended_on import empty_layers, outputs_change_with, zero_at_an_even_scale
from vitals.checks.enlarged_errors import enlarged_errors
from vitals.checks.foreign_dependence import dependence_on_others, dependence_on_what_follows
from vitals.checks.frozen_fresh import frozen_fresh, frozen_table
from vitals.checks.gradient_flow import constant_weights, gradient_flow
from vitals.checks.handed_over import handed_over, left_alone
from vitals.checks.layer_variance import faults_of_signal
from vitals.checks.training_setup import TrainingSetup
from vitals.errors import UserError, listed
from vitals.findings import Finding, Level
from vitals.installed import is_installed
from vitals.measures.batch_norm import has_statistics
from vitals.measures.held_parameters import highest_rates
from vitals.probes.trial import Inputs, Loss, Trial, check_classes, check_rows, is_class_numbers, trial

LEAK = 1e-6
"""|d output_i / d input_j| over the largest |d output_i / d input_i| that is rounding."""
FOLLOWING = 0.9
"""Share of the places of a sequence, but the last, whose target is the next token of the inputs."""
UNHEARD = 0.1
"""Share of a batch below which it is not the hardest samples that a loss has picked."""
NAMES_SHOWN = 3


@dataclass(frozen=True)
class Wiring:
    """Parameters are given by name. What is meant to be frozen (`requires_grad=False`) is only noted."""

    frozen: tuple[str, ...]
    """`requires_grad=False`."""
    apart: tuple[str, ...]
    """Neither reached by the loss nor in an optimizer, two facts that agree: a teacher, a target network."""
    later: bool
    """Whether a callback is going to hand the optimizer further parameters."""
    frozen_fresh: tuple[str, ...]
    """Layers with frozen weights that look freshly drawn, where they are most of the network, as `mostly`
    says, or stand between layers that learn."""
    not_in_optimizer: tuple[str, ...]
    """They want a gradient, but no optimizer has them at a rate above 0."""
    foreign: int
    """Parameters of the optimizers that are not the model's."""
    unreached: tuple[str, ...]
    """The loss does not depend on them: `detach`, `no_grad`, or a layer that is not called."""
    zero_gradient: tuple[str, ...]
    """Reached, but their gradient is exactly zero for several steps."""
    non_finite: tuple[str, ...]
    """Their gradient is NaN or infinite."""
    dead: Finding | None
    """Why gradients are zero, if units are dead."""
    duplicates: tuple[str, ...]
    """Weights whose units start alike and get the same gradients, or that are one and the same number."""
    leak: float
    """Largest |d output_i / d input_j|, i ≠ j, over the largest |d output_i / d input_i|, in evaluation
    mode."""
    batch_statistics: tuple[str, ...]
    """Layers that use the statistics of the batch even in evaluation mode."""
    softmax_twice: bool
    classes: int
    eval_layers: tuple[str, ...]
    """BatchNorm and dropout layers in evaluation mode that nobody would freeze on purpose."""
    frozen_layers: tuple[str, ...]
    """Layers in evaluation mode that look frozen on purpose: their statistics or all their parameters are
    given."""
    left_out: tuple[str, ...] = ()
    """Parameters of whole networks that are none of the optimizer's business."""
    over_batch: bool = False
    """Whether the outputs are a softmax over the batch."""
    over_places: bool = False
    """Whether the loss applies softmax over places, such as the rows of an image, instead of the classes."""
    heard: float = 1.0
    """Share of the samples of a batch on whose outputs the loss depends."""
    binary_floor: float = 0.0
    """The least loss of outputs that went through a sigmoid, where the loss applies one, too; else 0."""
    matter: tuple[bool, bool] = (False, False)
    """Whether the outputs change with the weights of `unreached`; whether they do with those of
    `zero_gradient`, though their gradient is zero at other weights, too."""
    cut_off: bool = False
    """Whether the outputs do not change with the weights of `zero_gradient`, whatever these are."""
    one_share: bool = False
    """Whether there is one output, the same number for every sample."""
    left_out_share: float = 0.0
    """Share of the places of images that are of a class which the loss leaves out."""
    unused: tuple[str, ...] = ()
    """Not reached either, nor do outputs change with them: what a library's network has beside what is used
    of it, as a pooler, or the later stages of an encoder."""
    mostly: bool = False
    frozen_table: str = ""
    """A frozen embedding whose vectors look freshly drawn, on the way to the outputs."""
    empty: tuple[str, ...] = ()
    """Weights that get no gradient because what enters them is zero for every sample, and in the data, or in
    a library's network that has been given none of some data."""
    never_fed: tuple[str, ...] = ()
    """Weights that get zeros for every sample, whatever the inputs are, as somebody's own forward() says."""
    future: float = 0.0
    """Share of the places of sequences whose target is the token that follows, where their outputs change
    with that token; 0 where they do not."""

    def findings(self) -> list[Finding]:
        """What is wrong, the most important first; `wiring-correct` where nothing is."""
        found = [*self._softmax(), *self._modes(), *self._optimizer(), *self._gradients(), *self._leak()]
        if self.over_places:
            seen = (
                "The loss does not change when all outputs of a class are raised: its softmax runs over "
                "places or samples, not over the classes."
            )
            remedy = "Give softmax, or log_softmax, the dimension of the classes."
            found.append(Finding("wrong-initial-loss", "fail", seen, remedy, "loss", exact=True))
        if self.future > FOLLOWING:
            seen = (
                f"The target of {self.future:.0%} of the places looked at is the token that follows, and "
                f"outputs change with that token: the network sees what it is to predict."
            )
            remedy = "Give the attention a causal mask, or a network that reads both ways another task."
            found.append(
                Finding("data-leak", "fail", seen, remedy, "outputs", self.future, FOLLOWING, exact=True)
            )
        if self.heard < UNHEARD:
            seen = f"The loss depends on the outputs of {self.heard:.1%} of the samples of a batch alone."
            remedy = "Take the loss of the outputs of the whole batch, not of what a loop has left last."
            deaf = Finding("batch-too-small", "fail", seen, remedy, "loss", self.heard, UNHEARD, exact=True)
            found.append(deaf)
        if not found:
            seen = "Every parameter gets a gradient and a step"
            seen += "." if math.isnan(self.leak) else ", and no sample's output depends on the others."
            found.append(Finding("wiring-correct", "ok", seen))
        noted = [
            (self.frozen, "Frozen, as requires_grad=False says"),
            (self.apart, "Neither reached by the loss nor in an optimizer, as a teacher or a target network"),
            (
                self.not_in_optimizer if self.later else (),
                "In no optimizer yet, and a callback adds some later",
            ),
            (self.unused, "Parts of a library's network that are not used"),
            (
                self.empty,
                "What enters them is zero in all samples looked at, as of data that there are none of, so "
                "that they do not learn yet",
            ),
            (self.left_out, "Networks that the optimizer of this loss leaves alone as a whole"),
            (self.frozen_layers, "In evaluation mode, with given statistics or frozen parameters"),
        ]
        for names, what in noted:
            if names:
                found.append(Finding("wiring-correct", "note", f"{what}: {_listed(names)}.", where=names[0]))
        return found

    def _softmax(self) -> list[Finding]:
        if self.binary_floor:
            seen = (
                f"The network ends in a sigmoid, and the loss applies one itself: it cannot fall below "
                f"{self.binary_floor:.3f}."
            )
            remedy = "Remove the sigmoid at the end of the network, or take the loss of probabilities."
            return [Finding("double-softmax", "fail", seen, remedy, "outputs", self.binary_floor, 0.0)]
        if not self.softmax_twice:
            return []
        floor = double_softmax_floor(self.classes)
        seen = f"Probabilities go into a loss that applies softmax itself: it cannot fall below {floor:.3f}."
        remedy = "Remove the softmax or sigmoid at the end of the network; the loss applies it."
        if self.over_batch:
            seen = (
                "The network ends in a softmax over the samples of the batch (the outputs of each class sum "
                "to 1 over them), and the loss applies softmax itself, over the classes."
            )
            remedy = "Remove the softmax; with dim=1 it would be applied twice."
        return [Finding("double-softmax", "fail", seen, remedy, "outputs", floor, 0.0)]

    def _modes(self) -> list[Finding]:
        if not self.eval_layers:
            return []
        names = self.eval_layers
        seen = f"{len(names)} layer(s) are in evaluation mode during training: {_listed(names)}."
        remedy = "Call model.train() before training, and eval() nowhere but in validation."
        return [_fault("eval-mode-training", "fail", seen, remedy, names)]

    def _optimizer(self) -> list[Finding]:
        if names := self.frozen_fresh:
            where = "most of the network" if self.mostly else "between others that learn"
            seen = (
                f"{len(names)} layer(s), {where}, are frozen at weights that look freshly drawn, not "
                f"pretrained: {_listed(names)}."
            )
            remedy = (
                "Load the trained weights before they are frozen, or let them train: take "
                "requires_grad=False away, or thaw them in an epoch that the run has."
            )
            return [_fault("frozen-parameters", "warn", seen, remedy, names)]
        if self.frozen_table:
            seen = (
                f"The table of vectors '{self.frozen_table}' is frozen at numbers that look freshly drawn, "
                f"not pretrained."
            )
            remedy = "Give nn.Embedding.from_pretrained freeze=False, or look whether the vectors were found."
            return [Finding("frozen-parameters", "warn", seen, remedy, self.frozen_table)]
        names = self.not_in_optimizer
        if not names or self.later:
            return []
        seen = f"{len(names)} parameter(s) get no step from the optimizer: {_listed(names)}"
        seen += f"; it holds {self.foreign} of another model." if self.foreign else "."
        remedy = "Hand the optimizer all parameters, or set requires_grad=False on those that are to stay."
        return [_fault("frozen-parameters", "fail", seen, remedy, names)]

    def _gradients(self) -> list[Finding]:
        if names := self.non_finite:
            seen = f"The gradient of {len(names)} parameter(s) is not finite: {_listed(names)}."
            remedy = (
                "Look for a square root, logarithm, norm or division at zero; its slope is infinite there."
            )
            return [_fault("non-finite-loss", "fail", seen, remedy, names)]
        found = []
        if names := self.unreached:
            seen = f"The loss does not depend on {len(names)} parameter(s): {_listed(names)}."
            remedy = (
                "Look for a layer that forward() leaves out, or whose outputs the loss does not take; set "
                "requires_grad=False where that is meant."
            )
            if self.matter[0]:
                seen = (
                    f"{len(names)} parameter(s) change the outputs, but no gradient gets to them: "
                    f"{_listed(names)}."
                )
                remedy = (
                    "Look for detach(), no_grad(), .data, numpy() or argmax behind them, and for "
                    "checkpoint(use_reentrant=True), which passes none where its input needs none."
                )
            found.append(_fault("frozen-parameters", "warn", seen, remedy, names))
        if names := self.never_fed:
            seen = (
                f"What enters {len(names)} layer(s) is zero for every sample, whatever the inputs are, so "
                f"that their weights get no gradient: {_listed(names)}."
            )
            remedy = (
                "If forward() fills in zeros for data that it is not given, hand it the data or leave these "
                "layers out; else look at masks, and at factors that are 0, in front of them."
            )
            found.append(_fault("frozen-parameters", "warn", seen, remedy, names))
        if names := self.duplicates:
            seen = f"All units of a layer start with the same weights and so stay alike: {_listed(names)}."
            remedy = "Draw the weights at random, at He's or Xavier's scale."
            found.append(_fault("bad-initialization", "fail", seen, remedy, names))
        elif self.zero_gradient:
            found.append(self.dead or self._zero())
        return found

    def _zero(self) -> Finding:
        names = self.zero_gradient
        if self.matter[1]:
            seen = (
                f"The gradient of {len(names)} weight(s) is exactly zero for all samples, though the outputs "
                f"change with them: {_listed(names)}. A function with steps is behind them."
            )
            remedy = (
                "Look for sign, round, floor or a comparison; let the gradient pass it, as in "
                "x + (step(x) - x).detach()."
            )
            return _fault("vanishing-gradients", "fail", seen, remedy, names, exact=True)
        if self.cut_off and self.one_share:
            seen = (
                "The network has one output, and that is the same for every sample whatever the weights "
                "are, as behind a softmax over this single output."
            )
            remedy = "Put a sigmoid there, or give the softmax two outputs."
            return Finding("saturated-activations", "fail", seen, remedy, "outputs", 1, 1, exact=True)
        if self.cut_off:
            seen = (
                f"The outputs do not change with {len(names)} weight(s), though forward() uses them: "
                f"{_listed(names)}. What they give is masked, multiplied by zero, or left behind."
            )
            remedy = "Look at masks, at factors that are 0 and no parameters, and at what forward() returns."
            return _fault("frozen-parameters", "fail", seen, remedy, names, exact=True)
        seen = f"The gradient of {len(names)} weight(s) is exactly zero: {_listed(names)}."
        remedy = "Look for a layer behind them that passes no gradient: saturated, all zero, or rounding."
        return _fault("vanishing-gradients", "warn", seen, remedy, names)

    def _leak(self) -> list[Finding]:
        if not self.leak > LEAK or (self.over_batch and self.softmax_twice):
            return []
        seen = (
            "In evaluation mode a sample's output depends on the other samples, "
            f"{self.leak:.2g} times as much as on itself"
        )
        if self.batch_statistics:
            seen += f": {_listed(self.batch_statistics)} use the batch's statistics."
            remedy = (
                "Let BatchNorm track running statistics, or normalize within each sample; where train() is "
                "overridden, hand its mode on."
            )
            where = self.batch_statistics[0]
            return [Finding("train-mode-evaluation", "warn", seen, remedy, where, self.leak, LEAK)]
        remedy = (
            "Look for a reshape, softmax or mean that runs over the batch dimension instead of the features."
        )
        if self.over_batch:
            remedy = "Let the softmax at the end run over the classes, dim=1: it runs over the batch."
        # Outputs that belong to a mixture of images are compared with the label of one.
        return [Finding("labels-random", "fail", f"{seen}.", remedy, "outputs", self.leak, LEAK)]


def check_wiring(
    model: nn.Module,
    loss: Loss,
    inputs: Inputs,
    targets: Any,
    optimizers: Optimizer | Sequence[Optimizer] = (),
    later: bool = False,
    left_out: Container[str] = (),
    ranked: bool = False,
) -> Wiring:
    """Look at the connections of `model`, in the modes in which it trains, on `inputs` (N, ...), N ≥ 4,
    better 64, and `targets`: class numbers (N,), or what else the loss takes. `later` says that the
    `optimizers` are going to be given further parameters, `left_out` names those of networks that are none of
    their business, and `ranked` that whole numbers (N,) are none of classes. After Karpathy, A Recipe for
    Training Neural Networks, 2019 ("use backprop to chart dependencies"). `UserError` where inputs, targets
    and loss do not fit together."""
    check_rows(inputs, targets, minimum=4)
    optimizers = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
    parameters = dict(model.named_parameters())
    own = {id(parameter) for parameter in parameters.values()}
    held = highest_rates(*optimizers)
    wanting = [name for name, parameter in parameters.items() if parameter.requires_grad]
    missing = [name for name in wanting if held.get(id(parameters[name]), 0.0) <= 0] if held else []
    with trial(model, loss, dropout=False) as copies, torch.no_grad():
        outputs = copies.outputs(inputs)
        classes, twice, over_batch, over_places, floor, heard = 0, False, False, False, 0.0, 1.0
        left_out_share = 0.0
        if is_class_numbers(targets) and outputs.ndim == 2 and not ranked:
            classes = check_classes(outputs, targets)
            twice = applies_softmax_twice(copies, inputs, outputs, targets)
            floor = 0.0 if twice else sigmoid_floor(copies, inputs, outputs, targets)
            heard = _heard(copies, outputs, targets)
            over_batch = kind_of(outputs) == "logits" and kind_of(outputs.T) != "logits"
        elif isinstance(targets, Tensor) and outputs.ndim > 2 and not targets.is_floating_point():
            over_places = softmax_elsewhere(copies.loss_of, outputs, targets)
            if isinstance(inputs, Tensor) and inputs.is_floating_point():  # of tokens it is the padding
                left_out_share = _left_out_share(copies.loss_of, outputs, targets)
        elif isinstance(targets, Tensor) and targets.numel() == outputs.numel():
            floor = sigmoid_floor(copies, inputs, outputs, targets)
    with trial(model, loss, dropout=False) as copies:
        flow = gradient_flow(copies, inputs, targets)
    # Inputs that are all the same silence the first layers, and are the fault of the data.
    alike = isinstance(inputs, Tensor) and not bool((inputs != inputs[:1]).any())
    zero: Sequence[str] = [] if alike else flow.zero
    leak, future = math.nan, 0.0
    with trial(model, loss) as copies:
        copies.model.eval()
        batch_statistics = tuple(
            name
            for name, module in copies.model.named_modules()
            if isinstance(module, _BatchNorm) and (module.running_mean is None or module.training)
        )
        try:
            leak = dependence_on_others(copies, inputs)
        except UserError:  # in evaluation mode it gives something else
            pass
        except RuntimeError as error:
            if "checkpoint is incompatible" not in str(error):
                raise
        with suppress(UserError):
            future = dependence_on_what_follows(copies, inputs, targets)
    faults = faults_of_signal(model, inputs) if zero else []
    dead = next((fault for fault in faults if fault.cause == "dead-relu"), None)
    empty, made = empty_layers(model, inputs, zero) if zero and dead is None else ((), {})
    never_fed = tuple(name for name, part in made.items() if not _of_a_library(model, part))
    empty = (*empty, *_without(list(made), never_fed))
    zero = _without(zero, (*empty, *never_fed))
    apart = [name for name in missing if name in flow.unreached]
    eval_layers, frozen_layers = _eval_layers(model, {id(parameters[name]) for name in apart})
    unreached = _without(flow.unreached, apart)
    fresh, mostly = ([], False) if later else frozen_fresh(model, inputs, left_out)
    without = dead is None and bool(zero) and zero_at_an_even_scale(model, loss, inputs, targets, zero)
    matters = without and outputs_change_with(model, inputs, zero)
    return Wiring(
        frozen=_without(list(parameters), wanting),
        apart=tuple(apart),
        later=later,
        frozen_fresh=tuple(fresh),
        not_in_optimizer=_without(missing, apart),
        foreign=sum(identity not in own for identity in held),
        unreached=unreached,
        zero_gradient=tuple(zero),
        non_finite=tuple(flow.non_finite),
        dead=dead,
        duplicates=tuple(dict.fromkeys([*flow.duplicates, *constant_weights(model, inputs)])),
        leak=leak,
        batch_statistics=batch_statistics,
        softmax_twice=twice,
        classes=classes,
        eval_layers=tuple(eval_layers),
        frozen_layers=tuple(frozen_layers),
        over_batch=over_batch,
        over_places=over_places,
        heard=heard,
        binary_floor=floor,
        matter=(outputs_change_with(model, inputs, unreached), matters),
        cut_off=without and not matters,
        one_share=outputs.ndim == 2 and outputs.shape[1] == 1 and bool((outputs == outputs[0]).all()),
        left_out_share=left_out_share,
        future=future,
        empty=empty,
        never_fed=never_fed,
        mostly=mostly,
        frozen_table="" if later else frozen_table(model, inputs, left_out),
    )


def _left_out_share(loss: Loss, outputs: Tensor, targets: Tensor) -> float:
    if outputs.shape[:1] + outputs.shape[2:] != targets.shape:
        return 0.0
    silent = [number for number, weight in enumerate(class_weights(loss, outputs, targets)) if weight == 0]
    return float(torch.isin(targets, torch.tensor(silent, device=targets.device)).float().mean())


@torch.enable_grad()
def _heard(copies: Trial, outputs: Tensor, targets: Tensor) -> float:
    outputs = outputs.detach().requires_grad_()
    loss = copies.loss_of(outputs, targets)
    if not loss.requires_grad:
        return 1.0
    (gradient,) = torch.autograd.grad(loss, outputs, allow_unused=True)
    return 1.0 if gradient is None else float((gradient != 0).any(dim=1).float().mean())


def _eval_layers(model: nn.Module, apart: set[int]) -> tuple[list[str], list[str]]:
    """BatchNorm and dropout layers in evaluation mode: by mistake, and on purpose. Those among parameters
    that are `apart`, as of an average of the weights, are neither."""
    mistaken: list[str] = []
    purposeful: list[str] = []
    for name, module in model.named_modules():
        active = (isinstance(module, _DropoutNd) and module.p > 0) or (
            isinstance(module, _BatchNorm) and module.running_mean is not None
        )
        if not active or module.training:
            continue
        parent = model.get_submodule(name.rpartition(".")[0])
        around = list(parent.parameters())
        if around and all(id(parameter) in apart for parameter in around):
            continue
        given = isinstance(module, _BatchNorm) and has_statistics(module)
        frozen = bool(around) and not any(parameter.requires_grad for parameter in around)
        # A root in evaluation mode is no choice about single layers, whatever their statistics.
        on_purpose = model.training and (given or frozen)
        (purposeful if on_purpose else mistaken).append(name)
    return mistaken, purposeful


def _fault(
    cause: str, level: Level, seen: str, remedy: str, names: Sequence[str], exact: bool = False
) -> Finding:
    """What is said of so many layers or parameters, of which there should be none."""
    return Finding(cause, level, seen, remedy, names[0], len(names), 0, exact=exact)


def _listed(names: Sequence[str]) -> str:
    return listed((f"'{name}'" for name in names), NAMES_SHOWN)


class WiringCheck(Check):
    name = "wiring"
    needs = "losses"
    fewest = 4

    def run(self, setup: TrainingSetup, options: Options) -> Outcome:
        setups = list(setup.each_loss())
        results = [_of_loss(each, options.size or 64) for each in setups]
        learn = total = 0
        for result, names in results:
            cut = {
                *result.unreached,
                *result.unused,
                *result.zero_gradient,
                *result.never_fed,
                *result.not_in_optimizer,
                *result.apart,
            }
            learn, total = learn + len(names - cut), total + len(names)
        found = [finding for result, _ in results for finding in result.findings()]
        with suppress(UserError):
            found += [finding for each in setups for finding in enlarged_errors(each, options.size or 64)]
        if setup.step is not None:
            found += handed_over(setup.step)
            if not any(finding.cause == "frozen-parameters" for finding in found):  # that says more
                found += left_alone(setup.step)
        seen = f"{learn} of {total} parameters learn"
        return Outcome(of_all_losses(found), seen, "all of them", results[0][0])

    def facts(self, outcome: Outcome) -> dict[str, float]:
        """`left_out`: the share of the places of images that are of a class which the loss leaves out;
        `unused`: weights that outputs do not depend on, as the later stages of an encoder,
        or that nothing enters; `idle`: parameters that neither loss nor outputs depend on."""
        result: Wiring = outcome.result
        unreached = () if result.matter[0] else result.unreached
        unused = [*result.unused, *result.empty, *result.never_fed, *unreached]
        unused = [name for name in unused if not name.endswith("bias")]
        return {
            "left_out": result.left_out_share,
            "unused": float(len(unused)),
            "idle": float(len(unreached)),
        }

    def sizes(self, setup: TrainingSetup, options: Options) -> list[int]:
        return [min(size, max(setup.batch_size, self.fewest)) for size in (64, 16, 4)]

    def seconds(self, size: int, setup: TrainingSetup, options: Options) -> float:
        pace = options.budget.pace
        return 3 * pace.copy + pace.steps(size, count=3.5) + pace.passes(4, count=5)


def _unused_of_a_library(model: nn.Module, names: Sequence[str]) -> Iterator[str]:
    """Of the parameters called `names`, those in parts that a class of somebody's library has: whoever takes
    some of its outputs, or calls its first stages, knows that the loss does not depend on all."""
    wanting = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for name in names:
        above = name.rpartition(".")[0]
        while above and all(each in names for each in wanting if each.startswith(f"{above}.")):
            above = above.rpartition(".")[0]
        # Of a list of layers its owner is asked.
        while above and _package(model.get_submodule(above))[0] == "torch":
            above = above.rpartition(".")[0]
        if _of_a_library(model, above):
            yield name


def _of_a_library(model: nn.Module, part: str) -> bool:
    """Whether the class of this part, or of the module whose step it is, is that of somebody's library."""
    package, file = _package(model.get_submodule(part) if part else getattr(model, "owner", model))
    return is_installed(Path(file)) and package not in ("torch", "lightning", "pytorch_lightning", "vitals")


def _package(part: nn.Module) -> tuple[str, str]:
    """The package of the class of `part`, and the file that it is in."""
    module = type(part).__module__
    return module.partition(".")[0], str(getattr(sys.modules.get(module), "__file__", ""))


def _of_loss(setup: TrainingSetup, samples: int) -> tuple[Wiring, set[str]]:
    """The wiring of one loss, and the names of the parameters that are to learn by it."""
    batch = setup.batch(samples, WiringCheck.fewest)  # in the training itself one may be of a single sample
    ranked = setup.step is not None and setup.gives != "class numbers"
    left_out, owned = setup.left_out, setup.optimizers
    result = check_wiring(setup.model, setup.loss, *batch, owned, setup.later, left_out, ranked)
    unreached, unused = result.unreached, tuple[str, ...]()
    if unreached:
        unreached = _without(unreached, setup.reached_later())
    if unreached and not result.matter[0]:
        unused = tuple(_unused_of_a_library(setup.model, unreached))
        unreached = _without(unreached, unused)
    frozen = _without(result.frozen, setup.left_out)
    result = replace(result, unreached=unreached, unused=unused, frozen=frozen, left_out=setup.left_out)
    if ranked and setup.step is not None:  # what class numbers say, they say more surely
        found = setup.step.loss_arguments
        twice, floor = found.classes > 0, result.binary_floor or found.binary_floor
        result = replace(result, softmax_twice=twice, classes=found.classes, binary_floor=floor)
    return result, {name for name, each in setup.model.named_parameters() if each.requires_grad}


def _without(names: Sequence[str], others: Container[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name not in others)
