"""A training in two processes that meet in the network, at the end of an epoch, and in a metric.

python two_processes.py FOLDER
"""

from __future__ import annotations

import sys
import time
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
import torch.nn.functional as F
from foreign import Foreign
from lightning.pytorch.loggers import TensorBoardLogger
from monitoring import monitors, some
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vitals.diagnosis.callback import Diagnosis


class MeetingNorm(nn.SyncBatchNorm):
    """SyncBatchNorm refuses a CPU; like it, this one waits for the other processes."""

    process_group = None

    def forward(self, x: Tensor) -> Tensor:
        dist.all_reduce(torch.zeros(1))
        return _BatchNorm.forward(self, x)


class Together(Foreign):
    def on_fit_start(self) -> None:
        self.net[1].__class__ = MeetingNorm  # behind the back of DDP, which looks for SyncBatchNorm on a CPU

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("loss/train", loss.detach(), on_step=False, on_epoch=True, sync_dist=True, logger=False)
        return loss

    def on_train_epoch_end(self) -> None:
        # Of another size than what a metric exchanges.
        assert self.all_gather(torch.full((7,), float(self.global_rank))).shape == (2, 7)


def main(folder: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 5), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=2,
        log_every_n_steps=1,
        logger=TensorBoardLogger(folder, name="", version=""),
        callbacks=[*monitors(), Diagnosis()],
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Together(net), some(8))
    same = [torch.equal(*trainer.strategy.all_gather(p.detach())) for p in net.parameters()]
    assert all(same)
    dist.barrier()
    time.sleep(1)  # torch 2.6 may wait for ever where a thread of Gloo still lets go of the last exchange
    dist.destroy_process_group()  # else Gloo's threads may abort the process at its end


if __name__ == "__main__":
    main(sys.argv[1])
