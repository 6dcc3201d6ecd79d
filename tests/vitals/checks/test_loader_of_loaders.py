"""A data loader made of other loaders, as of samples with labels and without, which gives its own batches."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from vitals.checks.sanity_checks import SanityChecks
from vitals.probes.loaders import successive_batches


class BothLoaders(DataLoader):
    """Walks through the longer one, and begins the other anew as often as it takes."""

    def __init__(self, longer: DataLoader, shorter: DataLoader) -> None:
        self.longer, self.shorter = longer, shorter
        super().__init__(longer)

    def __len__(self) -> int:
        return len(self.longer)

    def __iter__(self) -> Iterator[list[Tensor]]:
        for some, others in zip(self.longer, cycle(self.shorter), strict=False):
            yield [torch.cat(parts) for parts in zip(some, others, strict=True)]


class Classifier(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        return F.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-3)


def test_batches_of_a_loader_that_is_made_of_loaders_are_looked_at(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(96, 8)
    data = TensorDataset(x, x[:, :3].argmax(1))
    loader = BothLoaders(DataLoader(data, 16, shuffle=True), DataLoader(TensorDataset(*data[:32]), 16))
    checks = SanityChecks(checks=["wiring", "inputs"], on_fail="warn")
    trainer = L.Trainer(
        max_epochs=1,
        callbacks=checks,
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(Classifier(), loader)
    assert "wiring-correct" in {finding.cause for finding in checks.findings}
    assert "skipped" not in {finding.cause for finding in checks.findings}


class FailsBeyondItsLength(BothLoaders):
    """As one that goes through its loaders by `zip(..., strict=True)`, where the other begins anew."""

    def __iter__(self) -> Iterator[list[Tensor]]:
        yield from super().__iter__()
        raise ValueError("zip() argument 2 is longer than argument 1")


def test_a_loader_is_asked_for_as_many_batches_as_the_training_asks_it_for() -> None:
    data = TensorDataset(torch.randn(96, 8))
    loader = FailsBeyondItsLength(DataLoader(data, 16), DataLoader(data, 32))
    assert len(list(successive_batches(loader))) == len(loader) == 6
