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

_FAULTS = (
    Cause(
        "input-constant",
        "the inputs carry no information: all the same, or zeroed",
        "before",
        (
            *(*_SIGNAL, *_LEARNING, "input-not-normalized", "bad-initialization", "wrong-initial-loss"),
            "regularization-too-strong",
        ),
    ),
    Cause(
        "input-not-normalized",
        "inputs are on a scale the network was not made for",
        "before",
        (*_SIGNAL, *_LEARNING, "bad-initialization", "wrong-initial-loss", "non-finite-loss"),
    ),
    Cause(
        "eval-mode-training",
        "training runs with layers in evaluation mode",
        "before",
        (*_SIGNAL, *_LEARNING, "bad-initialization", "wrong-initial-loss"),
    ),
    Cause(
        "bad-initialization",
        "the starting weights or biases have a wrong scale, or are all the same",
        "before",
        (*_SIGNAL, *_LEARNING, "wrong-initial-loss", "non-finite-loss"),
    ),
    Cause(
        "wrong-gradient",
        "a hand-written backward does not match its forward",
        "gradients",
        (*_LEARNING, "vanishing-gradients", "frozen-parameters"),
    ),
    Cause(
        "double-softmax",
        "probabilities are fed to a loss that applies softmax itself",
        "before",
        (*_LEARNING, "vanishing-gradients", "saturated-activations"),
    ),
    Cause(
        "frozen-parameters",
        "a parameter that should train never receives an update",
        "updates",
        (*_LEARNING, "vanishing-gradients"),
        symptom=True,
    ),
    Cause(
        "dead-relu",
        "many units output zero for every input and cannot recover",
        "updates",
        (*_LEARNING, "vanishing-gradients"),
        symptom=True,
        of_divergence=True,
    ),
    Cause(
        "saturated-activations",
        "sigmoid, tanh or softmax units sit at their limits, where the slope is zero",
        "updates",
        (*_LEARNING, "vanishing-gradients", "wrong-initial-loss"),
        symptom=True,
        of_divergence=True,
    ),
    Cause(
        "vanishing-gradients",
        "gradients shrink to nothing before they reach the first layers",
        "updates",
        _LEARNING,
        symptom=True,
        of_divergence=True,
    ),
    Cause(
        "exploding-gradients",
        "gradients grow by orders of magnitude through the layers or over time",
        "updates",
        (*_LEARNING, "wrong-initial-loss", "non-finite-loss"),
        symptom=True,
        of_divergence=True,
    ),
    Cause(
        "non-finite-loss",
        "the loss, a gradient or an input becomes NaN or infinite",
        "loss",
        (*_LEARNING, "wrong-initial-loss"),
        symptom=True,
        of_divergence=True,
    ),
    Cause(
        "wrong-initial-loss", "the loss before training is far from that of a uniform guess", "before", _RATE
    ),
    Cause(
        "regularization-too-strong",
        "weight decay, dropout or the like leaves too little room to learn",
        "accuracy",
        (*_RATE, *_SIGNAL, "underfitting"),
        symptom=True,
    ),
    Cause(
        "gradients-accumulate",
        "gradients are not cleared between steps",
        "loss",
        (*_SIGNAL, *_LEARNING, "batch-too-small", "non-finite-loss"),
    ),
    Cause(
        "batch-too-small",
        "gradients from a tiny batch are mostly noise at this learning rate",
        "loss",
        (*_SIGNAL, *_LEARNING, "non-finite-loss", "regularization-too-strong"),
        symptom=True,
    ),
    Cause(
        "learning-rate-too-high",
        "steps are so large that the loss diverges, bounces or stays at chance",
        "loss",
        ("exploding-gradients", "underfitting", "labels-random", "learning-rate-too-low"),
        symptom=True,
    ),
    Cause(
        "learning-rate-too-low",
        "steps are so small that nothing is learned in the time given",
        "loss",
        ("underfitting",),
        symptom=True,
    ),
    Cause(
        "train-val-mismatch",
        "validation data are prepared differently from training data",
        "accuracy",
        ("overfitting",),
        symptom=True,
    ),
    Cause(
        "labels-random",
        "labels do not belong to their samples",
        "before",
        ("overfitting", "underfitting"),
        symptom=True,
    ),
    Cause(
        "data-not-shuffled",
        "batches follow an order that goes with the label",
        "before",
        ("labels-random", "class-imbalance", "train-val-mismatch"),
    ),
    Cause(
        "class-imbalance",
        "a few classes make up nearly all of the training set",
        "before",
        ("labels-random",),
    ),
    Cause(
        "data-leak",
        "inputs hold what is to be predicted, or validation holds samples of the training",
        "before",
        ("overfitting", "wrong-initial-loss", "train-val-mismatch", "labels-random"),
    ),
    Cause("train-mode-evaluation", "validation runs with layers in training mode", "before"),
    Cause("overfitting", "training loss keeps falling while validation loss rises", "accuracy", symptom=True),
    Cause(
        "underfitting",
        "the model is too weak to fit even the training set",
        "accuracy",
        symptom=True,
        of_divergence=True,
    ),
)
"""Roots before what follows from them: of two that explain a third the first is named."""


def _verdict(code: str, meaning: str, station: StationKey | Literal[""] = "before") -> Cause:
    return Cause(code, meaning, station, fault=False)


_VERDICTS = (
    _verdict("gradients-correct", "the analytic gradients agree with centred differences", "gradients"),
    _verdict(
        "difference-step", "the step at which a centred difference is nearest to the gradient", "gradients"
    ),
    _verdict("loss-at-chance", "the loss before training is that of a uniform guess"),
    _verdict("regularization-raises-loss", "a stronger penalty gives a larger loss"),
    _verdict("tiny-subset-fits", "twenty examples can be learned by heart"),
    _verdict(
        "inputs-informative", "real inputs teach more than zeroed ones, and what they teach generalizes"
    ),
    _verdict("wiring-correct", "every parameter learns, samples keep apart, modes are right"),
    _verdict("inputs-prepared", "inputs, labels and batches are prepared as they should be"),
    _verdict("step-size-sensible", "the first update lowers the loss by a fair share of what is possible"),
    _verdict("variance-level", "the variance of the activations stays level through the network"),
    _verdict("skipped", "a check or monitor that could not run, with the reason", ""),
    _verdict("looks", "how many verdicts were measured, and which could not be", ""),
)
"""What a check that passed says, at level `ok` or `note`; and `skipped`."""

CAUSES: dict[str, Cause] = {cause.code: cause for cause in (*_FAULTS, *_VERDICTS)}
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
