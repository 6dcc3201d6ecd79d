"""The instrument for anybody's trainer needs none of the libraries of the project and its runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TRAINS = '''
import sys

BLOCKED = {"hydra", "omegaconf", "pydantic", "sklearn", "optuna", "project"}


class WithoutThem:
    """A finder of modules that does not find the blocked ones, as where they are not installed."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in BLOCKED and not name.startswith("vitals.runs"):
            return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


sys.meta_path[:] = [WithoutThem(finder) for finder in sys.meta_path]

import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

out, sys.stdout = sys.stdout, None  # as without a terminal: pythonw on Windows, or a service
import vitals

sys.stdout = out


class Module(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


torch.manual_seed(0)
inputs = torch.randn(64, 8)
data = TensorDataset(inputs, inputs[:, :3].argmax(1))
average = vitals.WeightAverage(start=1, monitor="val_loss", mode="min")
trainer = L.Trainer(
    max_epochs=2,
    accelerator="cpu",
    logger=False,
    default_root_dir=sys.argv[1],
    callbacks=[average, *vitals.diagnostics()],
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(Module(), DataLoader(data, 16, shuffle=True), DataLoader(data, 16))
assert average.averaged is not None
assert not BLOCKED & {name.partition(".")[0] for name in sys.modules}
'''


def test_it_trains_where_they_cannot_be_imported(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRAINS, str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "could not be made" not in done.stderr
    for name in ("findings.json", "history.jsonl", "report.html", "checkpoints/average.ckpt"):
        assert (tmp_path / name).is_file(), name
