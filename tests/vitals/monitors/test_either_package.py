"""Trainings of `pytorch_lightning`, whose classes are others than those of `lightning`."""

from importlib import import_module
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from foreign import digits, loader, mlp
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import vitals
from vitals import either_package
from vitals.findings import read_findings


def trained(package: str, folder: Path, random: bool = False, callbacks: Any = None) -> dict[str, Tensor]:
    """The weights after two epochs of a module that asks its trainer for all that a step may ask for."""
    pl = import_module(package)

    class ByHand(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.automatic_optimization = mlp(), False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            optimizer = self.optimizers()
            self.toggle_optimizer(optimizer)
            loss = F.cross_entropy(self.net(batch[0]), batch[1])
            optimizer.zero_grad()
            self.manual_backward(loss)
            self.clip_gradients(optimizer, 100.0, "norm")
            optimizer.step()
            self.untoggle_optimizer(optimizer)
            self.log("train_loss", loss / self.trainer.accumulate_grad_batches)
            self.logger.experiment.add_scalar("mine", loss.item(), self.trainer.global_step)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", F.cross_entropy(self.net(batch[0]), batch[1]))

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=0.003)

    images, labels = digits(512)
    if random:
        labels = labels[torch.randperm(512, generator=torch.Generator().manual_seed(0))]
    torch.manual_seed(1)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        default_root_dir=folder,
        logger=import_module(f"{package}.loggers").TensorBoardLogger(folder, name="", version="run"),
        callbacks=vitals.diagnostics() if callbacks is None else callbacks,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = ByHand()
    trainer.fit(module, DataLoader(TensorDataset(images, labels), 32, shuffle=True), loader(shuffle=False))
    return module.state_dict()


@pytest.mark.parametrize("random", [False, True])
def test_what_is_seen_and_written_does_not_depend_on_the_package(
    random: bool, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    seen = []
    for package in ("lightning.pytorch", "pytorch_lightning"):
        trained(package, tmp_path / package, random)
        events = EventAccumulator(str(tmp_path / package / "run")).Reload().Tags()
        findings = read_findings(tmp_path / package / "run" / "findings.json")
        written = sorted(events["images"]), sorted(events["histograms"]), len(events["scalars"])
        seen.append((sorted((each.level, each.cause, each.where) for each in findings), written))
    assert seen[0] == seen[1]
    assert ("labels-random" in {cause for _, cause, _ in seen[0][0]}) == random
    assert seen[0][1][0]
    assert not [each for each in recwarn if "self.log()" in str(each.message)]


def test_a_training_of_the_other_package_is_the_same_to_the_bit(tmp_path: Path) -> None:
    with_us, without = (trained("pytorch_lightning", tmp_path, callbacks=each) for each in (None, []))
    assert with_us.keys() == without.keys()
    assert all(torch.equal(with_us[name], without[name]) for name in with_us)


def test_every_callback_is_one_of_the_other_package_which_may_turn_away_any_but_its_own() -> None:
    other = import_module("pytorch_lightning")
    afresh = module_from_spec(spec := either_package.__spec__)  # as where the other is imported first
    spec.loader.exec_module(afresh)
    assert issubclass(afresh.Callback, other.Callback)
    every = [*vitals.diagnostics("full", on_nonfinite="skip"), vitals.Diagnostics(), vitals.WeightAverage()]
    assert all(isinstance(each, either_package.Callback) for each in every)
