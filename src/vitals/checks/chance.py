"""What a loss says about a uniform guess and about a perfect answer, asked of the loss itself.

Asking the loss rather than a formula keeps margin losses, label smoothing and class weights right.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vitals.errors import UserError
from vitals.measures.double import double
from vitals.probes.put_back import modes_kept
from vitals.probes.trial import Inputs, Loss, Trial, constant_guess, is_class_numbers

Kind = Literal["logits", "probabilities", "log-probabilities"]

ROW_SUM_TOLERANCE = 1e-3
"""How far a row of probabilities may be from 1 in sum: float16 carries three digits."""
SHIFT = 3.0
"""Added to all outputs: a loss that applies softmax itself does not notice (ln Σ exp is shifted alike)."""

COUNT_ALL = "Look at ignore_index and at the weights of the classes: numbers that are classes count."
"""What to do where a loss leaves a class out."""
SURE_LOGIT = 20.0
"""A logit past which a sigmoid is 0 or 1."""
DOUBTFUL_LOGIT = 1.5
"""A logit that makes an answer hardly likelier than others: 0.33 of ten classes."""
ALMOST_NONE, SOME = 0.05, 0.3
"""Shares of the loss of logits of zero that a sure and right answer costs, and that probabilities cost which
are taken for logits: 0.45 at least for binary cross-entropy."""
LARGE = 32.0
"""Times the inputs and parameters that take outputs without a sigmoid out of 0 to 1; a power of two."""


def kind_of(outputs: Tensor) -> Kind:
    """Whether `outputs` (N, C) are probabilities, their logarithms, or neither."""
    values = outputs.detach().float()
    if bool((values >= 0).all()) and bool(((values.sum(1) - 1).abs() < ROW_SUM_TOLERANCE).all()):
        return "probabilities"
    if bool((values <= 0).all()) and bool((values.logsumexp(1).abs() < ROW_SUM_TOLERANCE).all()):
        return "log-probabilities"
    return "logits"


def prior_entropy(targets: Tensor) -> float:
    """H(y) = −Σ p_c ln p_c over the classes of `targets` (N,), in nats: the best loss without looking at
    inputs."""
    shares = torch.bincount(targets.flatten().cpu()).double() / targets.numel()
    return float(torch.special.entr(shares).sum())


def _uniform(outputs: Tensor) -> Tensor:
    classes = outputs.shape[1]
    guess = {"logits": 0.0, "probabilities": 1 / classes, "log-probabilities": -math.log(classes)}
    return torch.full_like(outputs, guess[kind_of(outputs)])


def uniform_loss(loss: Loss, outputs: Tensor, targets: Tensor) -> float:
    """The loss of a uniform guess: ln C for cross-entropy, C−1 for Weston–Watkins at margin 1."""
    return float(loss(_uniform(outputs), targets))


@torch.enable_grad()
def class_weights(loss: Loss, outputs: Tensor, targets: Tensor) -> list[float]:
    """How hard `loss` pulls at a uniform guess (N, C, ...) for a sample of each class in `targets` (N, ...),
    over how hard for the mean one: 1 for all where no class is weighted. NaN for a class without samples;
    empty where the loss does not depend on the outputs."""
    guess = _uniform(outputs.detach()).requires_grad_()
    value = loss(guess, targets)
    if not value.requires_grad:
        return []
    (gradient,) = torch.autograd.grad(value, guess, allow_unused=True)
    if gradient is None or not bool(gradient.any()):
        return []
    classes, labels = outputs.shape[1], targets.flatten().cpu()
    pull = double(gradient.float().norm(dim=1)).flatten().cpu()
    known = (labels >= 0) & (labels < classes)
    pull, labels = pull[known], labels[known]
    sums = torch.zeros(classes, dtype=pull.dtype, device=pull.device).index_add(0, labels, pull)
    return (sums / torch.bincount(labels, minlength=classes) / pull.mean()).tolist()


def constant_loss(loss: Loss, outputs: Tensor, targets: Tensor) -> float:
    """The least loss that outputs (N, C) can have which are the same for every sample: H(y) for
    cross-entropy, less than the loss of a uniform guess for ten binary losses, whose classes are rare.

    Probabilities are sought by their logits, log-probabilities likewise; NaN as of `constant_guess`.
    """
    end = {"probabilities": torch.softmax, "log-probabilities": torch.log_softmax}.get(kind_of(outputs))

    def of_rows(rows: Tensor, targets: Tensor) -> Tensor:
        return loss((rows if end is None else end(rows, dim=1)).to(outputs.dtype), targets)

    return constant_guess(of_rows, torch.zeros_like(outputs, dtype=torch.float32), targets)


def perfect_loss(loss: Loss, outputs: Tensor, targets: Tensor) -> float:
    """The least loss that a right answer can have, sure and right where outputs are probabilities: 0.5003
    with label smoothing 0.1 and C=10. Of logits it is the least over the scale of a one-hot answer, and of
    one whose wrong classes are negative where the loss minds a constant added to all."""
    answer = F.one_hot(targets, outputs.shape[1]).to(outputs.dtype)
    kind = kind_of(outputs)
    if kind != "logits":
        sure = answer * (1 - 1e-6) + 1e-6 / outputs.shape[1]  # a logarithm of exactly 0 would not be finite
        return float(loss(sure if kind == "probabilities" else sure.log(), targets))
    answers = [answer] if _ignores_shift(loss, answer, targets) else [answer, answer - 0.5, answer - 1]
    return min(_least_over_scales(lambda outputs: loss(outputs, targets), each) for each in answers)


def _least_over_scales(loss: Callable[[Tensor], Tensor], answer: Tensor) -> float:
    """The least of `loss` over 61 multiples of `answer`, one every 8 first and then those around the best: a
    loss that is convex in the logits has one minimum along them."""
    scales = torch.logspace(-1, 2, 61).tolist()  # neighbours 12% apart are within 1e-3 of it under smoothing
    losses: dict[int, float] = {}
    for step in (8, 4, 2, 1):
        best = min(losses, key=losses.__getitem__, default=None)
        places = range(0, len(scales), step) if best is None else (best - step, best + step)
        near = [place for place in places if 0 <= place < len(scales)]
        losses |= {place: float(loss(answer * scales[place])) for place in near}
    return min(losses.values())


def wrong_loss(loss: Loss, outputs: Tensor, targets: Tensor) -> float:
    """The loss of sure answers that are all wrong: more than that of a guess, in a loss that teaches.
    Infinite where doubtful ones cost more than a guess, as in one that leaves out what it takes for
    hopeless."""
    classes, kind = outputs.shape[1], kind_of(outputs)
    answer = F.one_hot((targets + 1) % classes, classes).to(outputs.dtype)

    def of(logits: Tensor) -> float:
        given = logits if kind == "logits" else logits.log_softmax(1)
        return float(loss(given.exp() if kind == "probabilities" else given, targets))

    doubtful = of(DOUBTFUL_LOGIT * answer) > uniform_loss(loss, outputs, targets)
    return math.inf if doubtful else of(SURE_LOGIT * answer)


def every_class_loss(loss: Loss, outputs: Tensor, targets: Tensor) -> float:
    """The loss of logits that are sure of every class at once: that of a guess for a softmax, far more where
    each class is asked for by itself. Infinite where outputs (N, C) are no logits."""
    if kind_of(outputs) != "logits":
        return math.inf
    return float(loss(torch.full_like(outputs, SURE_LOGIT), targets))


def is_proportional(loss: Loss, outputs: Tensor, targets: Tensor) -> bool:
    """Whether `loss` is a sum of logits, each times a number: it has no least value, and they grow without
    end."""
    if kind_of(outputs) != "logits":
        return False
    given = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0)).to(outputs)
    once, twice, turned = (float(loss(factor * given, targets)) for factor in (1.0, 2.0, -1.0))
    return (
        once != 0
        and math.isclose(twice, 2 * once, rel_tol=1e-3)
        and math.isclose(turned, -once, rel_tol=1e-3)
    )


def without_log(loss: Loss, outputs: Tensor, targets: Tensor) -> str:
    """What `loss` is minus the mean of, for the right class: `probability` or `logit`, as where `nll_loss` is
    given something else than log-probabilities; else empty."""
    kind = kind_of(outputs)
    if kind == "log-probabilities":
        return ""
    generator = torch.Generator().manual_seed(0)  # outputs that start at 0 would be every loss's chance
    logits = torch.randn(outputs.shape, generator=generator).to(outputs)
    given = logits.softmax(1) if kind == "probabilities" else logits
    value = float(loss(given, targets))
    for name, values in (("probability", logits.softmax(1)), ("logit", given)):
        mean = -float(values.gather(1, targets[:, None]).mean())
        if abs(value - mean) < 1e-3 * abs(mean):
            return name
    return ""


def stays_a_share(copies: Trial, inputs: Inputs) -> bool:
    """Whether the outputs stay between 0 and 1 for inputs and parameters that are far larger; inputs alone
    say nothing where they are numbers of tokens, or behind a tanh or a recurrence, which bound them."""
    large = inputs * LARGE if isinstance(inputs, Tensor) and inputs.is_floating_point() else inputs
    wide = [each for each in copies.model.parameters() if each.dtype in (torch.float32, torch.float64)]
    for parameter in wide:
        parameter.mul_(LARGE)
    with modes_kept(copies.model):
        copies.model.eval()
        outputs = copies.outputs(large)
    for parameter in wide:
        parameter.div_(LARGE)
    return bool(((outputs >= 0) & (outputs <= 1)).all())


def double_softmax_floor(classes: int) -> float:
    """ln(1 + (C−1)/e): cross-entropy of a sure and right probability vector taken for logits, 1.461 for
    C=10."""
    return math.log(1 + (classes - 1) / math.e)


def applies_softmax_twice(copies: Trial, inputs: Inputs, outputs: Tensor, targets: Tensor) -> bool:
    """Whether probabilities, the `outputs` (N, C) for `inputs`, meet a loss that applies softmax itself, or
    the loss alone applies it twice. Certain by mechanism: rows sum to 1, or every value lies strictly between
    0 and 1 whatever the weights, the loss ignores a constant added to them, and even a perfect answer costs
    what it costs under softmax twice; or see `_of_shares`. Log-probabilities are harmless: softmax undoes the
    log."""
    floor, loss = double_softmax_floor(outputs.shape[1]), copies.loss_of
    kind = kind_of(outputs)
    squashed = bool(((outputs > 0) & (outputs < 1)).all()) and stays_a_share(copies, inputs)
    if kind == "probabilities" or squashed:
        answer = F.one_hot(targets, outputs.shape[1]).to(outputs.dtype)
        return _ignores_shift(loss, outputs, targets) and float(loss(answer, targets)) > 0.5 * floor
    return kind == "logits" and _of_shares(loss, outputs, targets)


def _of_shares(loss: Loss, outputs: Tensor, targets: Tensor) -> bool:
    """Whether `loss` takes the cross-entropy of shares for logits: that of a sure answer is ln(C−1+e) less
    what the target gives it, so that the mean over all answers is the same for any smoothing or weights, and
    no other bounded loss has it and ln C for a guess."""
    classes = outputs.shape[1]
    total, most = 0.0, math.log(classes - 1 + math.e)
    guess = uniform_loss(loss, outputs, targets)
    if not math.isclose(guess, math.log(classes), rel_tol=1e-3):
        # Shares and labels that have changed places: the loss goes straight from one answer to the other.
        straight = math.isclose(guess, most - 1 / classes, rel_tol=1e-3)
        if not straight or not math.isclose(perfect_loss(loss, outputs, targets), most - 1, rel_tol=1e-3):
            return False
    for place in range(classes):
        answer = torch.full_like(outputs, -SURE_LOGIT)
        answer[:, place] = SURE_LOGIT
        cost = float(loss(answer, targets))
        if not cost < 1.001 * most:  # as of any loss without bounds, which has not to be asked for each class
            return False
        total += cost
    return math.isclose(total / classes, most - 1 / classes, rel_tol=1e-3)


def sigmoid_floor(copies: Trial, inputs: Inputs, outputs: Tensor, targets: Tensor) -> float:
    """The least loss that probabilities can have, where the loss takes them for logits: 0.31 to 0.69 for
    binary cross-entropy, by how common ones are; 0 where it does not, or `outputs` are none. `targets` are as
    many ones and zeros, or class numbers of which the loss makes such. A loss of probabilities is near zero,
    or fails, where these are the targets themselves or far outside of 0 to 1; one of logits is the other way
    round."""
    binary = targets
    if is_class_numbers(targets) and outputs.ndim == 2 and targets.numel() == len(outputs) < outputs.numel():
        binary = F.one_hot(targets, outputs.shape[1])
    if not bool(((outputs > 0) & (outputs < 1)).all()) or not bool(((binary == 0) | (binary == 1)).all()):
        return 0.0
    if not stays_a_share(copies, inputs):
        return 0.0
    answer, loss = binary.reshape(outputs.shape).to(outputs.dtype), copies.loss_of
    try:
        sure = float(loss((2 * answer - 1) * SURE_LOGIT, targets))
        given, guess = (float(loss(each, targets)) for each in (answer, torch.zeros_like(answer)))
    except (RuntimeError, UserError):  # binary cross-entropy of numbers that are no probabilities
        return 0.0
    return given if sure < ALMOST_NONE * guess and given > SOME * guess else 0.0


def softmax_elsewhere(loss: Loss, outputs: Tensor, targets: Tensor) -> bool:
    """Whether the loss applies softmax over the samples of the batch, or over places, instead of the classes:
    it stays the same when the outputs of each class are raised by a number of its own, also where all class
    numbers are one and the same, since one that is linear in probabilities has the same mean over even
    classes."""
    fits = (outputs.shape[:dim] + outputs.shape[dim + 1 :] == targets.shape for dim in (1, outputs.ndim - 1))
    dims = {dim for dim, fit in zip((1, outputs.ndim - 1), fits, strict=True) if fit}
    if len(dims) != 1 or kind_of(outputs) != "logits":
        return False
    outputs = outputs / outputs.abs().max().clamp_min(1e-30)  # beside huge ones a shift is lost in rounding
    dim = dims.pop()
    shift = SHIFT * torch.arange(outputs.shape[dim], device=outputs.device).to(outputs.dtype)
    shifted_outputs = outputs + shift.reshape([-1 if each == dim else 1 for each in range(outputs.ndim)])
    for labels in (targets, torch.full_like(targets, int(targets.flatten().mode().values))):
        plain, shifted = float(loss(outputs, labels)), float(loss(shifted_outputs, labels))
        if not abs(shifted - plain) < 1e-3 * max(1.0, abs(plain)):
            return False
    return True


def _ignores_shift(loss: Loss, outputs: Tensor, targets: Tensor) -> bool:
    """Whether the loss stays the same when a constant is added to all outputs, as softmax has it."""
    plain, shifted = float(loss(outputs, targets)), float(loss(outputs + SHIFT, targets))
    return abs(shifted - plain) < 1e-3 * max(1.0, abs(plain))
