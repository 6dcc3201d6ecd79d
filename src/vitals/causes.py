"""The causes that a finding can name: one row for each, with all that is known of it.

The codes are a closed list, so that a tool that reads `findings.json` can rely on them; a check or a rule of
one's own adds its own with `register`.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from vitals.errors import UserError, did_you_mean

StationKey = Literal[
    "gradients",
    "before",
    "loss",
    "accuracy",
    "updates",
    "first-layer",
    "optimizer",
    "decay",
    "search",
    "averages",
]
"""The stations of the course's summary, in its order."""


@dataclass(frozen=True)
class Cause:
    """What a finding can name as its cause: a fault, or, where `fault` is false, what a check says."""

    code: str
    """In lower case, with hyphens."""
    meaning: str
    station: StationKey | Literal[""]
    """The station of the course that it belongs to; empty where that depends on the finding."""
    brings: tuple[str, ...] = ()
    """Codes of what it brings with it in a network that is otherwise right."""
    symptom: bool = False
    """Whether a fault that was there before the first step may bring it about later."""
    of_divergence: bool = False
    """Whether steps that are too large leave it behind."""
    fault: bool = True
    """Whether it is something wrong."""


_RATE = ("learning-rate-too-high", "learning-rate-too-low")
_SIGNAL = ("exploding-gradients", "vanishing-gradients", "dead-relu", "saturated-activations")
_LEARNING = ("underfitting", "labels-random", *_RATE)
_START = ("bad-initialization", "wrong-initial-loss")

_FAULTS: dict[str, tuple[StationKey, str]] = {
    "input-constant": ("before", "the inputs carry no information: all the same, or zeroed"),
    "input-not-normalized": ("before", "inputs are on a scale the network was not made for"),
    "eval-mode-training": ("before", "training runs with layers in evaluation mode"),
    "bad-initialization": (
        "before",
        "the starting weights or biases have a wrong scale, or are all the same",
    ),
    "wrong-gradient": ("gradients", "a hand-written backward does not match its forward"),
    "double-softmax": ("before", "probabilities are fed to a loss that applies softmax itself"),
    "frozen-parameters": ("updates", "a parameter that should train never receives an update"),
    "dead-relu": ("updates", "many units output zero for every input and cannot recover"),
    "saturated-activations": (
        "updates",
        "sigmoid, tanh or softmax units sit at their limits, where the slope is zero",
    ),
    "vanishing-gradients": ("updates", "gradients shrink to nothing before they reach the first layers"),
    "exploding-gradients": (
        "updates",
        "gradients grow by orders of magnitude through the layers or over time",
    ),
    "non-finite-loss": ("loss", "the loss, a gradient or an input becomes NaN or infinite"),
    "wrong-initial-loss": ("before", "the loss before training is far from that of a uniform guess"),
    "regularization-too-strong": (
        "accuracy",
        "weight decay, dropout or the like leaves too little room to learn",
    ),
    "gradients-accumulate": ("loss", "gradients are not cleared between steps"),
    "batch-too-small": ("loss", "gradients from a tiny batch are mostly noise at this learning rate"),
    "learning-rate-too-high": (
        "loss",
        "steps are so large that the loss diverges, bounces or stays at chance",
    ),
    "learning-rate-too-low": ("loss", "steps are so small that nothing is learned in the time given"),
    "train-val-mismatch": ("accuracy", "validation data are prepared differently from training data"),
    "labels-random": ("before", "labels do not belong to their samples"),
    "data-not-shuffled": ("before", "batches follow an order that goes with the label"),
    "class-imbalance": ("before", "a few classes make up nearly all of the training set"),
    "data-leak": (
        "before",
        "inputs hold what is to be predicted, or validation holds samples of the training",
    ),
    "train-mode-evaluation": ("before", "validation runs with layers in training mode"),
    "overfitting": ("accuracy", "training loss keeps falling while validation loss rises"),
    "underfitting": ("accuracy", "the model is too weak to fit even the training set"),
}
"""Station and meaning of each; roots before what follows from them: of two that explain a third the first is
named."""
_BRINGS: dict[str, tuple[str, ...]] = {
    "input-constant": (*_SIGNAL, *_LEARNING, "input-not-normalized", *_START, "regularization-too-strong"),
    "input-not-normalized": (*_SIGNAL, *_LEARNING, *_START, "non-finite-loss"),
    "eval-mode-training": (*_SIGNAL, *_LEARNING, *_START),
    "bad-initialization": (*_SIGNAL, *_LEARNING, "wrong-initial-loss", "non-finite-loss"),
    "wrong-gradient": (*_LEARNING, "vanishing-gradients", "frozen-parameters"),
    "double-softmax": (*_LEARNING, "vanishing-gradients", "saturated-activations"),
    "frozen-parameters": (*_LEARNING, "vanishing-gradients"),
    "dead-relu": (*_LEARNING, "vanishing-gradients"),
    "saturated-activations": (*_LEARNING, "vanishing-gradients", "wrong-initial-loss"),
    "vanishing-gradients": _LEARNING,
    "exploding-gradients": (*_LEARNING, "wrong-initial-loss", "non-finite-loss"),
    "non-finite-loss": (*_LEARNING, "wrong-initial-loss"),
    "wrong-initial-loss": _RATE,
    "regularization-too-strong": (*_RATE, *_SIGNAL, "underfitting"),
    "gradients-accumulate": (*_SIGNAL, *_LEARNING, "batch-too-small", "non-finite-loss"),
    "batch-too-small": (*_SIGNAL, *_LEARNING, "non-finite-loss", "regularization-too-strong"),
    "learning-rate-too-high": (
        *("exploding-gradients", "underfitting", "labels-random", "learning-rate-too-low"),
    ),
    "learning-rate-too-low": ("underfitting",),
    "train-val-mismatch": ("overfitting",),
    "labels-random": ("overfitting", "underfitting"),
    "data-not-shuffled": ("labels-random", "class-imbalance", "train-val-mismatch"),
    "class-imbalance": ("labels-random",),
    "data-leak": ("overfitting", "wrong-initial-loss", "train-val-mismatch", "labels-random"),
}
_OF_DIVERGENCE = {*_SIGNAL, "non-finite-loss", "underfitting"}
_SYMPTOMS = _OF_DIVERGENCE | {
    *(*_RATE, "frozen-parameters", "regularization-too-strong", "batch-too-small"),
    *("train-val-mismatch", "labels-random", "overfitting"),
}

_VERDICTS: dict[str, tuple[StationKey | Literal[""], str]] = {
    "gradients-correct": ("gradients", "the analytic gradients agree with centred differences"),
    "difference-step": ("gradients", "the step at which a centred difference is nearest to the gradient"),
    "loss-at-chance": ("before", "the loss before training is that of a uniform guess"),
    "regularization-raises-loss": ("before", "a stronger penalty gives a larger loss"),
    "tiny-subset-fits": ("before", "twenty examples can be learned by heart"),
    "inputs-informative": (
        "before",
        "real inputs teach more than zeroed ones, and what they teach generalizes",
    ),
    "wiring-correct": (
        "before",
        "every parameter learns, samples keep apart, modes are right",
    ),
    "inputs-prepared": ("before", "inputs, labels and batches are prepared as they should be"),
    "step-size-sensible": ("before", "the first update lowers the loss by a fair share of what is possible"),
    "variance-level": ("before", "the variance of the activations stays level through the network"),
    "skipped": ("", "a check or monitor that could not run, with the reason"),
    "looks": ("", "how many verdicts were measured, and which could not be"),
}
"""What a check that passed says, at level `ok` or `note`; and `skipped`."""

CAUSES: dict[str, Cause] = {
    code: Cause(code, meaning, station, _BRINGS.get(code, ()), code in _SYMPTOMS, code in _OF_DIVERGENCE)
    for code, (station, meaning) in _FAULTS.items()
}
CAUSES |= {code: Cause(code, said, station, fault=False) for code, (station, said) in _VERDICTS.items()}
"""Every row by its code; see `register` for further ones."""


def register(cause: Cause) -> Cause:
    """Add the row of a check or a rule of one's own, and return it; the same row again changes nothing.
    `UserError` if the code has another meaning already, the station is none of the course's, or `brings`
    names an unknown code."""
    known = CAUSES.get(cause.code, cause)
    if known != cause:
        raise UserError(
            f"the cause '{cause.code}' stands for another row already ({known.meaning}): choose another code."
        )
    if cause.station not in get_args(StationKey):
        hint = did_you_mean(cause.station, get_args(StationKey))
        raise UserError(f"the cause '{cause.code}' has an unknown station '{cause.station}': {hint}")
    for code in cause.brings:
        if code not in CAUSES:
            raise UserError(
                f"the cause '{cause.code}' brings an unknown '{code}': {did_you_mean(code, CAUSES)}"
            )
    CAUSES[cause.code] = cause
    return cause
