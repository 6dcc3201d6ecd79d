"""Trainings on a device, in a process of their own: torch keeps the host's until the process ends.

`python trainings.py FOLDER DEVICE`, `hostdevice` or `cuda`, leaves FOLDER/seen.json, which `test_device.py`
reads.
"""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from device import NAME, counts, make_device, strategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from vitals import WeightAverage, diagnostics
from vitals.findings import read_findings
from vitals.measures.double import has_double
from vitals.monitors.non_finite import NonFinite
from vitals.on_nonfinite import OnNonFinite

SAMPLES, BATCH = 256, 16
LATE = 6
"""Batch at which a number is no longer finite; the monitor looks again after `LOOKS` steps."""
LOOKS = 10


def digits() -> TensorDataset:
    from sklearn.datasets import load_digits

    images = torch.tensor(load_digits().images, dtype=torch.float32)[:SAMPLES, None]
    return TensorDataset(
        (images - images.mean()) / images.std(), torch.tensor(load_digits().target)[:SAMPLES]
    )


class Classifier(L.LightningModule):
    def __init__(self, trouble: Callable[[Any, Any, int], Any] | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(1, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.Linear(288, 10),
        )
        self.trouble = trouble

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        factor = self.trouble(self, batch, batch_idx) if self.trouble else None
        images, labels = batch
        loss = F.cross_entropy(self.net(images), labels)
        self.log("train_loss", loss)
        return loss if factor is None else loss * factor

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.trouble is nan_image and batch_idx == LATE:
            batch[0][3, 0, 2, 2] = math.nan

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        images, labels = batch
        logits = self.net(images)
        self.log("val_loss", F.cross_entropy(logits, labels))
        self.log("val_acc", (logits.argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)


class Adversaries(Classifier):
    """Two networks, two optimizers, and steps by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.critic = nn.Linear(64, 1)
        self.net = nn.Sequential(nn.Linear(4, 64))  # type: ignore[assignment]
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        real = batch[0].flatten(1)
        makes, judges = self.optimizers()  # type: ignore[misc]
        made = self.net(torch.randn(len(real), 4, device=self.device))
        judges.zero_grad()
        self.manual_backward((self.critic(made.detach()) - self.critic(real)).square().mean())
        judges.step()
        makes.zero_grad()
        self.manual_backward(F.softplus(-self.critic(made)).mean())
        makes.step()

    def validation_step(self, batch: Any, batch_idx: int) -> None: ...

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(part.parameters(), 1e-3) for part in (self.net, self.critic)]


def nan_image(module: Any, batch: Any, batch_idx: int) -> None:
    """See `on_train_batch_start`: before that the batch is not yet on the device."""


def nan_weight(module: Any, batch: Any, batch_idx: int) -> None:
    if batch_idx == LATE:
        with torch.no_grad():
            module.net[5].weight[0, 0] = math.nan


def huge_weights(module: Any, batch: Any, batch_idx: int) -> None:
    if batch_idx == LATE:
        with torch.no_grad():
            module.net[5].weight.fill_(3e38)


def infinite_loss(module: Any, batch: Any, batch_idx: int) -> float | None:
    return math.inf if batch_idx == LATE else None


class Waits(L.Callback):
    """What each step made the host wait or carry, from before its batch is trained on until the next is."""

    def __init__(self) -> None:
        self.of_step: list[int] = []
        self.before: Any = None

    def on_train_batch_start(self, *_: Any) -> None:
        now = counts()
        if self.before is not None:
            self.of_step.append(sum(now) - sum(self.before))
        self.before = now

    def on_train_epoch_end(self, *_: Any) -> None:
        self.before = None


def fit(
    folder: Path, module: L.LightningModule, *callbacks: L.Callback, on: str, epochs: int = 2
) -> L.Trainer:
    torch.manual_seed(0)
    where: dict[str, Any] = {"strategy": strategy()} if on == NAME else {"accelerator": on, "devices": 1}
    trainer = L.Trainer(
        max_epochs=epochs,
        default_root_dir=folder,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        deterministic=on != "cpu",
        log_every_n_steps=LOOKS,
        **where,
    )
    data = digits()
    trainer.fit(module, DataLoader(data, BATCH, shuffle=True), DataLoader(data, 2 * BATCH))
    return trainer


def verdicts(folder: Path) -> list[list[str]]:
    [findings] = folder.rglob("findings.json")
    return sorted([each.level, each.cause, each.check, each.where] for each in read_findings(findings))


def weights(module: nn.Module) -> str:
    """All of them, to the bit."""
    return "".join(values.cpu().numpy().tobytes().hex() for values in module.state_dict().values())


def watched_and_not(folder: Path, device: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for on in ("cpu", device):
        for kind, make in (("classifier", Classifier), ("adversaries", Adversaries)):
            plain, watched, seen = make(), make(), folder / f"{on}-{kind}"
            fit(folder / "plain", plain, on=on)
            fit(seen, watched, *diagnostics(budget=math.inf), on=on)
            found[f"{on} {kind}"] = {
                "plain": weights(plain),
                "watched": weights(watched),
                "verdicts": verdicts(seen),
            }
    return found


def without_double(folder: Path, device: str) -> dict[str, Any]:
    """On a device that has no float64; from here on this one has none."""
    torch.ops.host_device.without_double()
    has_double.cache_clear()
    found = {}
    for kind, make in (("classifier", Classifier), ("adversaries", Adversaries)):
        module = make()
        fit(folder / kind, module, *diagnostics(budget=math.inf), on=device)
        found[kind] = {"watched": weights(module), "verdicts": verdicts(folder / kind)}
    return found


def averaged(folder: Path, device: str) -> dict[str, str]:
    found = {}
    for on in ("cpu", device):
        module = Classifier()
        fit(folder, module, WeightAverage(start=0.5), on=on)
        found[on] = weights(module)
    return found


def not_finite(folder: Path, device: str) -> dict[str, Any]:
    found = {}
    for trouble in (nan_image, nan_weight, huge_weights, infinite_loss):
        watch = NonFinite(LOOKS)
        fit(folder, Classifier(trouble), watch, on=device, epochs=1)
        found[trouble.__name__] = [
            [each.where, each.step, each.message, each.exact] for each in watch.findings
        ]
    module = Classifier(infinite_loss)
    fit(folder, module, NonFinite(LOOKS), OnNonFinite("skip"), on=device, epochs=1)
    found["skipped"] = [bool(values.isfinite().all()) for values in module.state_dict().values()]
    return found


def waits(folder: Path, device: str) -> dict[str, list[int]]:
    found = {}
    for name, callbacks in (("plain", []), ("watched", diagnostics(budget=0.5))):
        counted = Waits()
        fit(folder / "waits", Classifier(), *callbacks, counted, on=device, epochs=10)
        found[name] = counted.of_step
    return found


def main(folder: Path, device: str) -> None:
    parts: list[Callable[[Path, str], Any]] = [watched_and_not, averaged, not_finite]
    if device == NAME:
        make_device()
        parts += [waits, without_double]
    seen = {part.__name__: part(folder / part.__name__, device) for part in parts}
    (folder / "seen.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
