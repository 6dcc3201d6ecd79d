"""Is a layer trained to make an error larger, as where a loss has a minus too many?"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor
from torch.autograd.graph import Node

from vitals.checks.training_setup import TrainingSetup
from vitals.errors import listed
from vitals.findings import Finding
from vitals.measures.graph_leaves import graph_nodes
from vitals.measures.held_parameters import param_groups
from vitals.probes.trial import trial

ERRORS = {
    "MseLossBackward0": "a squared error",
    "SmoothL1LossBackward0": "an absolute error",
    "HuberLossBackward0": "an absolute error",
    "BinaryCrossEntropyBackward0": "a binary cross-entropy",
    "BinaryCrossEntropyWithLogitsBackward0": "a binary cross-entropy",
    "NllLossBackward0": "a negative log-likelihood",
    "NllLoss2DBackward0": "a negative log-likelihood",
    "CtcLossBackward0": "a negative log-likelihood",
}
"""What autograd calls the losses that grow with the distance between outputs and targets."""
LOGARITHMS = ("LogSoftmaxBackward0", "LogSigmoidBackward0")
"""What it calls logarithms of shares, which are errors with a minus."""
DISTANCES = {"PowBackward0": "a squared error", "AbsBackward0": "an absolute error"}
"""What it calls what is done by hand to a difference from a constant."""
SUMS = (
    *("Add", "Mean", "Sum", "Stack", "Cat", "Gather", "Clone", "MaskedFill"),
    *("View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "Expand"),
)
"""What keeps the sign of its terms."""
LAYERS = {"Addmm": 2, "Mm": 1, "Convolution": 1, "Bmm": 1}
"""What it calls the products of layers, and the place of their weights."""
FEWEST = 4
"""Samples of a batch, where there are so many: some losses take pairs."""


def enlarged_errors(setup: TrainingSetup, samples: int) -> Iterator[Finding]:
    """Errors that the loss takes with a minus, where the layer next to them is trained by that loss and has
    no part in the rest of it: what it learns is to be wrong. An adversary is trained by a loss of its own, a
    network that is to be misled by none, and a layer that other terms hold as well has two aims."""
    downhill = (group for group in param_groups(*setup.optimizers) if not group.get("maximize"))
    held = {id(parameter) for group in downhill for parameter in group["params"]}
    trained = {name for name, p in setup.model.named_parameters() if p.requires_grad and id(p) in held}
    with trial(setup.model, setup.loss) as copies:
        own = dict(copies.model.named_parameters())
        for parameter in own.values():  # what is frozen between is to be seen, too
            parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
        loss = copies.loss_at(*setup.batch(samples, FEWEST))
        names = {id(parameter): name for name, parameter in own.items() if parameter.requires_grad}
        if loss.grad_fn is None or len(names) < len(own) or not bool(loss.isfinite()):
            return  # the step itself freezes some; or a factor that is no number has no sign
        terms = list(_terms(loss.grad_fn))
        enlarged = [(node, what) for node, sign, what in terms if what and sign < 0]
        if not enlarged:
            return
        rest = graph_nodes(*(node for node, sign, what in terms if not what or sign >= 0))
        others = {id(node.variable) for node in rest if hasattr(node, "variable")}
        for node, what in enlarged:
            nearest = _nearest(node)
            layers = [names.get(leaf, "") for leaf in nearest if leaf not in others]
            if layers and trained.issuperset(layers):
                weights = listed(map(repr, layers))
                seen = (
                    f"The loss takes {what} with a minus: {weights} learns to enlarge it, and nothing else."
                )
                remedy = (
                    "Check the sign of the loss and of each of its terms: an optimizer makes it smaller, so "
                    "that a score takes a minus, and an error none."
                )
                yield Finding("wrong-initial-loss", "warn", seen, remedy, layers[0], exact=True)
                return


def _terms(start: Node) -> Iterator[tuple[Node, int, str]]:
    """The terms that a loss is a sum of, with their signs, and which error they are; empty for others."""
    waiting, seen = [(start, 1)], {(start, 1)}
    while waiting:
        node, sign = waiting.pop()
        name = type(node).__name__
        if what := ERRORS.get(name) or _distance(node):
            yield node, sign, what
        elif name in LOGARITHMS:
            yield node, -sign, "a cross-entropy"
        elif parts := list(_parts(node, name)):
            following = {(each, sign * turned) for each, turned in parts}
            waiting += following - seen
            seen |= following
        else:
            yield node, sign, ""


def _parts(node: Node, name: str) -> Iterator[tuple[Node, int]]:
    """What a node of this name is a sum of, or a product, each with the sign it has in it; 0 where that is
    not known."""
    following = [each for each, _ in node.next_functions]
    kind = name.partition("Backward")[0]
    for place, each in enumerate(following):
        if each is None:
            continue
        if kind in SUMS:
            yield each, 1
        elif kind in ("Sub", "Neg", "Rsub"):
            yield each, 1 if (place == 0) == (kind == "Sub") else -1
        elif kind == "Mul" or (kind == "Div" and place == 0):
            yield each, _sign(getattr(node, "_saved_self" if place else "_saved_other", None), kind == "Div")


def _sign(factor: Tensor | float | None, divides: bool) -> int:
    """Of a number that stands in the code, or of a tensor nowhere below zero that `divides`, as a variance or
    a count; 0 for other factors: those of each sample may be what an action has cost."""
    if not isinstance(factor, Tensor):
        return 0 if factor is None else 1 if factor >= 0 else -1
    written = factor.ndim == 0 and (not factor.is_floating_point() or factor.element_size() == 8)
    if not written and not divides:
        return 0
    lowest = float(factor.detach().min()) if factor.numel() else 0.0
    return 1 if lowest >= 0 else -1 if written else 0


def _distance(node: Node) -> str:
    """Which error a power of two, or an absolute value, is: of a difference from a constant."""
    what = DISTANCES.get(type(node).__name__, "")
    if not what or getattr(node, "_saved_exponent", 2) != 2:
        return ""
    before = node.next_functions[0][0]
    while before is not None and type(before).__name__ == "DivBackward0":
        before = before.next_functions[0][0]
    sides = [each for each, _ in before.next_functions] if before is not None else []
    return what if type(before).__name__ == "SubBackward0" and len(sides) == 2 and None in sides else ""


def _nearest(start: Node) -> list[int]:
    """The leaves that the fewest steps lead to from `start`; none where a layer whose weights are constant
    comes before: who is to be misled may be frozen, and in no module."""
    level, seen = [start], {start}
    while level:
        found = [id(node.variable) for node in level if hasattr(node, "variable")]
        if found or any(map(_is_constant_layer, level)):
            return found
        level = list(
            dict.fromkeys(
                n for node in level for n, _ in node.next_functions if n is not None and n not in seen
            )
        )
        seen.update(level)
    return []


def _is_constant_layer(node: Node) -> bool:
    place = LAYERS.get(type(node).__name__.partition("Backward")[0])
    return place is not None and node.next_functions[place][0] is None
