"""Does validation run in evaluation mode, and dropout with it?

Dropout may not care for the mode of the network, such as `F.dropout(x, 0.5)` in a `forward`.
"""

from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode

from vitals.checks.check import Check, Options, Outcome
from vitals.checks.training_setup import TrainingSetup, cut
from vitals.errors import UserError
from vitals.findings import Finding
from vitals.probes.trial import Inputs, trial

DROPOUTS = {
    F.dropout: "dropout",
    F.dropout1d: "dropout1d",
    F.dropout2d: "dropout2d",
    F.dropout3d: "dropout3d",
    F.alpha_dropout: "alpha_dropout",
    F.feature_alpha_dropout: "feature_alpha_dropout",
}
AUGMENTED = 0.3
"""Root mean square by which images change at random, over their spread: less is noise to be borne."""
ATTENTION = F.scaled_dot_product_attention


def dropout_left_on(model: nn.Module, inputs: Inputs) -> list[str]:
    """Names of the functions that drop values of `inputs` (N, ...) while `model`, a copy, is in evaluation
    mode, to which this puts it. A module that derives from torch's dropout and always drops does so on
    purpose, as in Monte-Carlo estimates (Gal and Ghahramani 2016), and is left out."""
    model.eval()
    watch = _Watch()
    with ExitStack() as stack, torch.no_grad(), watch:
        for module in model.modules():
            if isinstance(module, _DropoutNd):
                stack.enter_context(module.register_forward_pre_hook(watch.enter))
                stack.enter_context(module.register_forward_hook(watch.leave))
        model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    return list(watch.seen)


class _Watch(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, None] = {}
        self.modules = 0
        """Dropout modules that are being called."""

    def enter(self, *arguments: Any) -> None:
        self.modules += 1

    def leave(self, *arguments: Any) -> None:
        self.modules -= 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.modules == 0:
            given = dict(zip(("input", "p", "training"), args, strict=False)) | kwargs
            if func in DROPOUTS and given.get("training", True) and given.get("p", 0.5) > 0:
                self.seen[DROPOUTS[func]] = None
            given = (
                dict(zip(("query", "key", "value", "attn_mask", "dropout_p"), args, strict=False)) | kwargs
            )
            if func is ATTENTION and given.get("dropout_p", 0.0) > 0:
                self.seen["scaled_dot_product_attention"] = None
        return func(*args, **kwargs)


@dataclass(frozen=True)
class ValidationMode:
    """In which mode the validation step calls the network."""

    training: bool
    dropout: tuple[str, ...]
    """Functions that drop values in evaluation mode too."""
    changed: tuple[float, float] = (0.0, 0.0)
    """By how much of their spread images of training, and of validation, differ from themselves when they are
    taken out once more."""

    def findings(self) -> list[Finding]:
        """What is wrong, the most important first; `wiring-correct` where nothing is."""
        if self.dropout and not self.training:
            seen = f"In evaluation mode F.{self.dropout[0]} goes on dropping values."
            remedy = "Give it training=self.training (a rate of 0 in attention), or use nn.Dropout."
            return [Finding("train-mode-evaluation", "warn", seen, remedy, f"F.{self.dropout[0]}")]
        if not self.training and self.changed[1] > AUGMENTED and self.changed[0] > AUGMENTED:
            seen = (
                f"Images for validation are changed at random, as those of training: taken out twice, one "
                f"differs from itself by {self.changed[1]:.0%} of the spread of pixels. What is measured is "
                f"how well mangled images are known, and another figure each time."
            )
            remedy = (
                "Give validation a data set of its own, without the random transforms: random_split leaves "
                "both parts with those of the whole."
            )
            return [
                Finding("train-val-mismatch", "warn", seen, remedy, "validation", self.changed[1], AUGMENTED)
            ]
        if not self.training:
            return [Finding("wiring-correct", "ok", "Validation runs in evaluation mode.")]
        seen = "Validation calls the network in training mode, with dropout and batch statistics on."
        remedy = "Take train() out of the validation step; Lightning sets the mode."
        return [Finding("train-mode-evaluation", "warn", seen, remedy, "validation step")]


def _difference(first: Tensor, second: Tensor) -> float:
    """Of two versions of images (N, C, H, W), over their spread; 0 of what are no images."""
    if first.ndim != 4 or first.shape != second.shape or not first.is_floating_point():
        return 0.0
    return float((first - second).square().mean().sqrt() / first.std().clamp_min(1e-12))


class ValidationModeCheck(Check):
    name = "validation_mode"
    needs = "losses"

    def run(self, setup: TrainingSetup, options: Options) -> Outcome:
        if setup.training_layers_in_validation is None:
            raise UserError(
                "there is no validation batch, or no validation_step that calls the training_step's network."
            )
        dropout: list[str] = []
        with (
            suppress(UserError),
            trial(setup.model) as copies,
        ):  # some steps have a loss in training mode alone
            dropout = dropout_left_on(copies.model, cut(setup.inputs, 4))
        changed = (0.0, 0.0)
        if setup.gives == "class numbers" and setup.twice is not None and setup.validation_twice is not None:
            with suppress(Exception):  # a data set may want other places than numbers
                if validation := _difference(*setup.validation_twice()):
                    changed = _difference(*setup.twice()), validation
        result = ValidationMode(setup.training_layers_in_validation, tuple(dropout), changed)
        seen = "training" if result.training else "evaluation"
        return Outcome(result.findings(), seen, "evaluation", result)

    def seconds(self, size: int, setup: TrainingSetup, options: Options) -> float:
        return options.budget.pace.copy + options.budget.pace.passes(4)
