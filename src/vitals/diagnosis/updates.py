"""Does every parameter get the update that it should?"""

import math
import statistics
from collections.abc import Iterator

from vitals.diagnosis.learning_rate import too_high
from vitals.diagnosis.modes import evaluation_at_chance
from vitals.diagnosis.run import GUESSED, Run, needs
from vitals.diagnosis.signal import death
from vitals.findings import Finding

OLD_GRADIENT = 0.6
"""Share of the gradient of the step before that is still in this one's: 1 where nothing was cleared."""
FEW_BATCHES = 4
"""Batches below which it matters little whether their gradients are summed or averaged."""
SUMMED = (0.5, 3.0)
"""Loss of a batch of untrained networks, as a share of that of a guess: with He's weights in the last layer
too, up to 2."""
SAME_LOOKS, MOVED = 3, 1e-4
"""Looks at the same samples that give the same loss to the last of seven digits, and update:weight ratio from
which that is no rounding."""
HALF_AS_MUCH = 0.5
"""Share of what the network knows above chance below which a frozen part at fresh weights, asked for the same
classes, knows too little to teach it: at chance where its weights were never loaded."""
ROUNDED = 1e-5
"""Updates of a smaller share of a weight may be lost in rounding altogether."""


@needs("old_gradient")
def gradients_accumulate(run: Run) -> Iterator[Finding]:
    """The gradient of a step still holds that of the step before."""
    series = run.history.series("old_gradient")
    shares = [share for share in series.values if share >= OLD_GRADIENT]
    if len(shares) < 2:  # once may be chance; an epoch between two steps may clear what nothing else does
        return
    message = (
        f"In {len(shares)} of {len(series)} steps looked at, the gradient was that of the batch plus that of "
        f"the step before (share {shares[-1]:.2f})."
    )
    remedy = "Call optimizer.zero_grad() before each backward pass."
    yield Finding(
        "gradients-accumulate", "fail", message, remedy, "gradient", shares[-1], OLD_GRADIENT, series.steps[0]
    )


@needs("loss/train_step")
def gradients_summed(run: Run) -> Iterator[Finding]:
    """The gradients of several batches are added up for one step, and the training breaks down."""
    batches = run.fact("batches_per_step")
    if not batches >= FEW_BATCHES or not run.chance_loss > 0:
        return
    given = run.fact("first_losses")
    # Averaged over the batches, their losses make one loss of a guess; summed, as many as there are batches.
    if not SUMMED[0] < given / (batches * run.chance_loss) < SUMMED[1] or not any(too_high(run)):
        return
    message = (
        f"The gradients of {batches:.0f} batches are added up for one step, not averaged: their losses came "
        f"to {given:.3g}, where one of a guess is {run.chance_loss:.3g}. Steps are {batches:.0f} times as "
        f"large as the learning rate says."
    )
    remedy = f"Divide the loss by {batches:.0f} before manual_backward, or the learning rate."
    yield Finding("gradients-accumulate", "fail", message, remedy, "gradient", batches, 1.0, exact=True)


@needs("loss/train_eval", "update_ratio_summary/median", verdict="what is learned stays")
def put_back(run: Run) -> Iterator[Finding]:
    """Each step moves the weights, and at every look they are the same as before."""
    looks, at = run.values("loss/train_eval"), run.history.series("loss/train_eval").steps
    if len(looks) < SAME_LOOKS or len(set(looks[-SAME_LOOKS:])) > 1:
        return
    ratios = run.history.series("update_ratio_summary/median")
    moved = statistics.median([ratio for step, _, ratio in ratios if step > at[-SAME_LOOKS]] or [0.0])
    if not moved > MOVED:  # as where the rate has come to zero
        return
    if not 0 < run.last_loss < GUESSED * looks[-1]:  # where nothing is learned, nothing need be put back
        return
    message = (
        f"The same training samples cost {looks[-1]:.7g} at each of the last {SAME_LOOKS} looks, to the last "
        f"digit, though each step changed the weights by {moved:.1e} of their size: what "
        f"an epoch learns is thrown away, or what is evaluated is not what is trained."
    )
    remedy = (
        "Look for a callback that loads weights or a checkpoint again, as the best so far by a comparison "
        "the wrong way round, and for an average that is never moved."
    )
    if not any(evaluation_at_chance(run)):
        yield Finding(
            "frozen-parameters", "fail", message, remedy, "weights", looks[-1], looks[-1], exact=True
        )


@needs("update_ratio/")
def frozen_parameters(run: Run) -> Iterator[Finding]:
    """Parameters that are in the optimizer and never move, while others do."""
    ratios = run.by_name("update_ratio")
    if death(run) or len(ratios) < 2:
        return
    # A bias in front of a normalization gets no gradient but rounding, and no update at a small rate. What
    # the module does not have, or has no longer, as a head that was replaced, is called "parameter 6".
    still = [
        name
        for name, values in ratios.items()
        if len(values) >= 4 and not any(values) and not name.endswith("bias") and " " not in name
    ]
    # A small bias moves by a large share of its size, however small the steps are.
    moving = [values[-1] for name, values in ratios.items() if values and not name.endswith("bias")]
    largest = max(moving, default=0.0)
    if len(still) <= run.fact("unused"):  # layers that nobody calls, as the wiring has said
        return
    if still and largest > ROUNDED:
        message = f"'{still[0]}'" + (f" and {len(still) - 1} more" if still[1:] else "") + " never changed."
        remedy = (
            "Look for detach(), no_grad(), checkpoint(use_reentrant=True), a rate of 0, or outputs that are "
            "not used."
        )
        yield Finding("frozen-parameters", "fail", message, remedy, still[0], float(len(still)), 0.0)


@needs("guides/asked", "accuracy/train|accuracy/train_eval", verdict="frozen teachers")
def guided_by_guesses(run: Run) -> Iterator[Finding]:
    """The loss takes what a network says that was never trained, and knows less than the one it is to
    teach."""
    chance, samples = run.history.last("guides/even_share", math.nan), run.samples("train")
    limit = chance + HALF_AS_MUCH * (run.share_right("train")[0] - chance)
    for name, values in run.by_name("guide").items():
        if not run.finished or not limit > chance or not values[-1] < limit:
            continue
        message = (
            f"training_step asks '{name}', which is frozen at weights that look freshly drawn, not "
            f"pretrained: it has {values[-1]:.0%} of {samples:.0f} training samples right, the network that "
            f"is trained {run.accuracy('train'):.0%}."
        )
        remedy = (
            "Load the trained weights before they are frozen, and look at the names that load_state_dict "
            "leaves out with strict=False; a loss that takes its outputs for targets teaches guesses."
        )
        yield Finding("frozen-parameters", "warn", message, remedy, name, values[-1], limit)
