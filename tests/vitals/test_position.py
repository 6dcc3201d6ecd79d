"""A training of anybody's goes on amid an epoch, to the bit, whatever its loader and its optimisation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torchmetrics.classification import BinaryAccuracy

from vitals.runs.callbacks.checkpoints import Checkpoints

INPUTS = torch.linspace(-1, 1, 48).view(48, 1)


def sample(place: int) -> tuple[Tensor, Tensor]:
    """With noise from torch's own stream, as augmentation draws it."""
    return INPUTS[place] + 0.1 * torch.randn(1), (INPUTS[place] > 0).float()


class Samples(Dataset[tuple[Tensor, Tensor]]):
    def __len__(self) -> int:
        return len(INPUTS)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        return sample(place)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from map(sample, torch.randperm(len(INPUTS)).tolist())


class Module(L.LightningModule):
    def __init__(self, by_hand: bool) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))
        self.accuracy = BinaryAccuracy()
        self.automatic_optimization = not by_hand
        self.seen: list[float] = []
        self.known: list[dict[str, float]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.append(batch[0].sum().item())
        self.known.append({name: value.item() for name, value in self.trainer.callback_metrics.items()})
        outputs = self.net(batch[0])
        loss = nn.functional.binary_cross_entropy_with_logits(outputs, batch[1])
        self.accuracy(outputs, batch[1])
        self.log("loss/train", loss, on_step=True, on_epoch=True)
        self.log("loss/greatest", loss, reduce_fx="max", on_step=False, on_epoch=True)
        self.log("accuracy/train", self.accuracy, on_step=False, on_epoch=True)
        if not self.automatic_optimization:
            optimizer: Any = self.optimizers()
            self.manual_backward(loss)
            if batch_idx % 2:
                optimizer.step()
                optimizer.zero_grad()
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("loss/val", self.net(batch[0]).square().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class BreakOff(L.Callback):
    """Saves before batch number `at`, or the one after it, and ends the training."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_start(self, trainer: L.Trainer, *arguments: Any) -> None:
        [checkpoints] = trainer.checkpoint_callbacks
        if trainer.fit_loop.total_batch_idx >= self.at >= 0 and checkpoints.save_state(trainer):  # type: ignore[attr-defined]
            raise InterruptedError


def trained(folder: Path, kind: str, at: int = -1, resume: bool = False) -> tuple[Module, dict[str, float]]:
    torch.manual_seed(1 if resume else 0)
    module = Module(by_hand=kind == "by hand")
    further: dict[str, Any] = {"accumulate_grad_batches": 2} if kind == "accumulated" else {}
    further |= {"val_check_interval": 4} if kind == "validated within" else {}
    further |= {"limit_val_batches": 0} if kind == "epoch not saved" else {}
    of_kind: Any = Stream() if kind == "stream" else Samples()
    loader = DataLoader(of_kind, batch_size=8, shuffle=kind != "stream")
    trainer = L.Trainer(
        max_epochs=2,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[
            Checkpoints("loss/val", "min", every_n_epochs=None if kind == "epoch not saved" else 1),
            BreakOff(at),
        ],
        **further,
    )
    path = folder / "checkpoints" / "last.ckpt" if resume else None
    trainer.fit(module, loader, DataLoader(Samples(), batch_size=24), ckpt_path=path)
    return module, {name: value.item() for name, value in trainer.callback_metrics.items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind", ["shuffled", "stream", "by hand", "accumulated", "validated within", "epoch not saved"]
)
def test_a_training_goes_on_amid_an_epoch_to_the_bit(kind: str, tmp_path: Path) -> None:
    straight, metrics = trained(tmp_path / "straight", kind)
    for place, at in enumerate((3, 6, 10)):  # an epoch has six batches
        with pytest.raises(InterruptedError):
            trained(tmp_path / "broken", kind, at, resume=place > 0)
    continued, its_metrics = trained(tmp_path / "broken", kind, resume=True)
    assert continued.seen in (straight.seen[at:], straight.seen[at + 1 :])
    assert continued.known == straight.known[-len(continued.seen) :]
    assert its_metrics == metrics
    for mine, theirs in zip(continued.parameters(), straight.parameters(), strict=True):
        assert torch.equal(mine, theirs)
