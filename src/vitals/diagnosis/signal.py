"""Do activations and gradients still pass through the network?"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from vitals.diagnosis.run import ENOUGH, Run, needs
from vitals.findings import Finding

MOSTLY_DEAD = 0.9
"""Share of channels that are zero for every sample: docs/course.md, "Activations and gradients by layer"."""
MOSTLY_SATURATED = 0.5
"""Share of values at their limits."""
LARGE_UPDATE = 0.1
"""Update:weight ratio of a step that throws a layer somewhere else."""
FROM_ZERO = 1e-6
"""Norm of a weight that starts at zero."""
COLLAPSED = 1e-6
"""Share of its largest signal variance below which a layer says the same for every sample."""
VANISHED = 1e-10
"""Share of the gradient variance of the last hidden layer that reaches the first: 1e-5 in size."""
EXPLODED = 1e3
"""Growth of the gradient's norm that no learning brings."""
NO_SLOPE, MOSTLY_RIGHT = 0.5, 0.9
"""Share of the steps, up to the last, whose gradient is exactly zero, from which nothing more is learned; and
accuracy from which that is the end of a loss with a margin, which has no more to ask for."""

FAR_APART = 20.0
"""Times the loss of outputs that are the same for all samples that those before the first step have."""


@dataclass(frozen=True)
class DeadLayer:
    """A hidden layer that lets nothing through."""

    layer: str
    step: int
    """Where it was first seen so."""
    later: bool
    """Whether it was alive at the first measurement."""
    dead: float
    """Share of channels that are zero for every sample."""

    @property
    def sentence(self) -> str:
        if self.dead > MOSTLY_DEAD:
            return f"'{self.layer}' is dead since step {self.step}: {self.dead:.0%} of its channels are zero"
        return f"'{self.layer}' gives the same for every sample since step {self.step}"


def death(run: Run) -> DeadLayer | None:
    """The first hidden layer to have died for good."""
    found: list[DeadLayer] = []
    for layer in run.hidden_layers:
        dead = run.history.series(f"dead_units/{layer}")
        signal = run.values(f"activation_variance/{layer}")
        largest, gone = 0.0, []
        for share, variance in zip(dead.values, signal, strict=True):
            gone.append(share > MOSTLY_DEAD or variance <= COLLAPSED * largest)
            largest = max(largest, variance) if math.isfinite(variance) else largest
        if gone and gone[-1]:
            first = len(gone) - next((i for i, state in enumerate(reversed(gone)) if not state), len(gone))
            found.append(DeadLayer(layer, dead.steps[first], first > 0, dead.values[-1]))
    return min(found, key=lambda one: one.step, default=None)


def largest_update(run: Run, until: int | None) -> float:
    """The largest update:weight ratio of a weight, in the steps up to `until`; one that starts at zero, as
    that of an adapter or a residual branch, grows by any share at first."""
    tags = ["update_ratio_summary/max"]
    from_zero = {name for name, norms in run.by_name("weight_norm").items() if norms and norms[0] < FROM_ZERO}
    if from_zero:
        weights = [tag for tag in run.history.tags("update_ratio/") if tag.endswith("weight")]
        tags = [tag for tag in weights if tag.removeprefix("update_ratio/") not in from_zero]
    found = [point for tag in tags for point in run.history.series(tag)]
    ratios = [ratio for step, _, ratio in found if until is None or step <= until]
    return max((ratio for ratio in ratios if math.isfinite(ratio)), default=0.0)


@needs("loss/train_step", "facts/guess_loss", verdict="spread of the first outputs")
def starts_far_apart(run: Run) -> Iterator[Finding]:
    """Outputs began so far from each other that the run has not come down to what one guess for all has."""
    above, guess = run.fact("start_over_level"), run.fact("guess_loss")
    if not above > FAR_APART or not run.finished or not run.long_enough:
        return
    if not guess < run.last_loss < run.first_loss:
        return
    message = (
        f"Before the first step the outputs for different samples were so far apart that the loss was "
        f"{above:.3g} times that of their mean for all of them; it has come from {run.first_loss:.3g} to "
        f"{run.last_loss:.3g}, where one guess for all has {guess:.3g}."
    )
    remedy = (
        "Draw the weights smaller, so that outputs start no further apart than the targets: nn.Embedding "
        "draws them with a deviation of 1."
    )
    yield Finding("bad-initialization", "fail", message, remedy, "outputs", above, FAR_APART)


@needs("loss/train_step", verdict="exponentials between layers")
def bursts(run: Run) -> Iterator[Finding]:
    """Outputs grow faster than any power of the inputs, and the training suffers from it."""
    if not run.fact("bursts", 0.0) or not (run.alarmed("learning-rate-too-high") or run.barely_learns):
        return
    message = (
        "For inputs eight times as large the outputs are beyond all numbers, in double precision, too: an "
        "exponential, or a power, stands between the layers, and its gradients grow as it does."
    )
    remedy = "Take an activation that grows no faster than its input: ReLU, GELU, ELU."
    yield Finding("exploding-gradients", "fail", message, remedy, "outputs", exact=True)


@needs("dead_units/")
def dead_layer(run: Run) -> Iterator[Finding]:
    """A layer without output, in a run that learns nothing."""
    died = death(run)
    if died is None or run.learns or not died.dead > MOSTLY_DEAD or run.steps < 10 or starved(run):
        return
    message = f"{died.sentence}, and no gradient passes it."
    remedy = "Lower the learning rate, start biases at zero, or use LeakyReLU."
    yield Finding("dead-relu", "fail", message, remedy, died.layer, died.dead, MOSTLY_DEAD, died.step)


@needs("saturated_units/")
def saturated_layer(run: Run) -> Iterator[Finding]:
    """tanh or sigmoid units at their limits, in a run that learns nothing."""
    if run.learns or not run.long_enough:
        return
    last = {layer: values[-1] for layer, values in run.by_name("saturated_units").items() if values}
    layer = max(last, key=lambda name: last[name], default=None)
    if layer is None or last[layer] <= MOSTLY_SATURATED:
        return
    message = (
        f"{last[layer]:.0%} of the values of '{layer}' sit at their limits, where the slope is zero, and "
        f"nothing is learned."
    )
    remedy = "Lower the learning rate, and draw the weights at Xavier's scale."
    yield Finding("saturated-activations", "fail", message, remedy, layer, last[layer], MOSTLY_SATURATED)


def starved(run: Run) -> bool:
    """Whether no gradient reached the first layers from the start: what dies or shrinks later, as by a decay
    that nothing holds against, follows from it."""
    died = death(run)
    return (died is None or died.later) and _arriving(run, at=0) <= VANISHED


def _trained_layers(run: Run) -> dict[str, list[float]]:
    """Variances of the gradients by layer, without layers that get none at all and that no optimizer has, as
    those of a teacher: that nothing arrives there is meant."""
    held = run.by_name("weight_norm")
    return {
        name: values
        for name, values in run.by_name("gradient_variance").items()
        if any(values) or any(each.startswith(f"{name.partition(':')[0]}.") for each in held)
    }


def _arriving(run: Run, at: int) -> float:
    """Share of the gradient variance of the last hidden layer that reaches the first, in the measurement
    `at`; NaN where that is not known."""
    variances = [values[at] for values in _trained_layers(run).values()][:-1]
    return variances[0] / variances[-1] if len(variances) > 2 and variances[-1] > 0 else math.nan


@needs("gradient_variance/", verdict="vanishing gradients")
def vanishing(run: Run) -> Iterator[Finding]:
    """Gradients that do not reach the first layers, in a run that learns nothing; or that are zero for good,
    long before most samples are right."""
    norms = run.values("gradient_norm")
    flat = next((i for i, norm in enumerate(reversed(norms)) if norm != 0), len(norms))
    wrong = run.share_right("train")[1] < MOSTLY_RIGHT and run.finished and run.one_loss
    if wrong and flat > NO_SLOPE * len(norms) and flat >= ENOUGH and not death(run):
        message = (
            f"The gradient has been exactly zero in each of the last {flat} of {len(norms)} steps, where the "
            f"loss is {run.last_loss:.3g} and {run.accuracy('train'):.0%} of the training samples are right: "
            f"the loss asks for nothing more."
        )
        remedy = (
            "Look at the targets that the loss is made for, as -1 and 1 for a hinge loss in place of 0 and "
            "1, and for a margin or a clamp that all outputs are beyond."
        )
        yield Finding("vanishing-gradients", "warn", message, remedy, "loss", flat / len(norms), NO_SLOPE)
        return
    left = _arriving(run, at=0 if starved(run) else -1)
    if run.learns or not run.long_enough or not left <= VANISHED or (death(run) and not starved(run)):
        return
    layer, share = next(iter(_trained_layers(run))), math.sqrt(left)
    message = (
        f"The gradient at '{layer}' is {share:.1e} of that at the last hidden layer, and nothing is learned."
    )
    remedy = "Use ReLU, normalization or residual connections, or weights at He's scale."
    yield Finding("vanishing-gradients", "fail", message, remedy, layer, share, math.sqrt(VANISHED))


@needs("loss/train_step", "gradient_norm", verdict="exploding gradients")
def exploding(run: Run) -> Iterator[Finding]:
    """Gradients that grow by orders of magnitude and take the loss with them."""
    norms = [norm for norm in run.values("gradient_norm") if math.isfinite(norm)]
    if len(norms) < 20 or run.last_loss < run.first_loss:
        return
    start = sorted(norms[:10])[5]
    end = sorted(norms[-max(10, len(norms) // 10) :])[-3]
    if start > 0 and end > EXPLODED * start:
        message = f"The norm of the gradient grew from {start:.2g} to {end:.2g}."
        remedy = "Clip the gradients (trainer.gradient_clip_val=1), normalize the layers, or lower the rate."
        yield Finding("exploding-gradients", "fail", message, remedy, "gradient_norm", end, EXPLODED * start)
