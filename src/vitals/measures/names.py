"""What a metric is, by the name that somebody gave it: people call one thing in many ways."""

import re
from collections.abc import Mapping

QUANTITIES = {"loss": "loss", "accuracy": "accuracy", "acc": "accuracy"}
PARTS = {"train": "train", "training": "train"} | dict.fromkeys(("val", "valid", "validation"), "val")
ERRORS = ("mse", "rmse", "mae", "nll", "bce", "ce", "error")
"""What is as good as a loss where a module logs none by that name: less is better."""


def canonical(name: str) -> str:
    """The tag of a metric that people call in many ways: `loss/val` for `val_loss`, `valid/loss` or
    `validation_loss_epoch`, `accuracy/train` for `train_acc`; any other name stays as it is."""
    quantity, part = parted(name)
    return f"{QUANTITIES[quantity]}/{part}" if part and quantity in QUANTITIES else name


def parted(name: str) -> tuple[str, str]:
    """The quantity that a metric is of, in lower case, and `train` or `val`: `iou` and `val` for `Val/IoU`.

    The part is empty where the name says none, or more than one.
    """
    plain = re.sub(r"/dataloader_idx_0$|[/_.-]epoch$", "", name)
    words = re.split(r"[/_.\-\s]+", plain.lower())
    parts = [PARTS[word] for word in words if word in PARTS]
    rest = [word for word in words if word not in PARTS]
    return "_".join(rest), parts[0] if len(parts) == 1 and rest else ""


def in_pairs(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics of an epoch that can be told apart by quantity and part, as `<quantity>/train` and
    `<quantity>/val`; where none is called a loss, the first error stands for it."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        quantity, part = parted(name)
        if part:
            found.setdefault(f"{QUANTITIES.get(quantity, quantity)}/{part}", value)
    of_loss = next((quantity for quantity in ERRORS if f"{quantity}/val" in found), None)
    if of_loss and "loss/val" not in found:
        for part in ("train", "val"):
            if f"{of_loss}/{part}" in found:
                found.setdefault(f"loss/{part}", found[f"{of_loss}/{part}"])
    return {tag: value for tag, value in found.items() if tag not in metrics}


_PARTS = PARTS | dict.fromkeys(("eval", "evaluation", "dev"), "val") | {"trn": "train", "test": "test"}
_GRAINS = {"epoch": "epoch"} | dict.fromkeys(("step", "batch", "iter", "iteration"), "step")
_FILLERS = {
    "loss": {"total", "mean", "avg", "average", "running", "cross", "entropy", "crossentropy", "ce", "nll"},
    "accuracy": {"mean", "avg", "average", "top", "1", "top1", "categorical", "sparse", "binary"},
    "lr": {"learning", "rate"},
    "gradient_norm": {"grad", "gradient", "norm", "total", "global", "2", "0", "l2"},
}
_EVERYWHERE = {"metrics", "metric", "scalars", "scalar", "logs", "model", "run"}


def tag_of_foreign(name: str) -> tuple[str, str, str] | None:
    """What a curve in the record of another program is: quantity, part and grain; None where it is nothing
    that can be judged by its name.

    Quantities are `loss`, `accuracy`, `lr`, `gradient_norm` and `epoch`; parts `train`, `val`, or empty where
    the name does not say; grains `step`, `epoch`, or empty. What is of a test is left out.
    """
    words = re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    singular = {"acc1": "acc", "losses": "loss", "epochs": "epoch", "gradients": "gradient"}
    words = [singular.get(word, word) for word in words if word]
    words = [word for word in words if word not in _EVERYWHERE]
    if [word for word in words if word not in _PARTS] == ["epoch"]:
        return "epoch", "", ""
    parts = {_PARTS[word] for word in words if word in _PARTS}
    grains = {_GRAINS[word] for word in words if word in _GRAINS}
    rest = [word for word in words if word not in _PARTS and word not in _GRAINS]
    if len(parts) > 1 or len(grains) > 1 or "test" in parts:
        return None
    part, grain = next(iter(parts), ""), next(iter(grains), "")
    if "lr" in rest or {"learning", "rate"} <= set(rest):
        return "lr", "", grain
    if "norm" in rest and {"grad", "gradient"} & set(rest) and set(rest) <= _FILLERS["gradient_norm"]:
        return "gradient_norm", "", grain
    for quantity in ("loss", "accuracy"):
        said = [word for word in rest if QUANTITIES.get(word) == quantity]
        said += ["top1"] if quantity == "accuracy" and "top1" in rest else []
        if said and set(rest) - set(said) <= _FILLERS[quantity]:
            return quantity, part, grain
    return None
