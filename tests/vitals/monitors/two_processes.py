"""A training in two processes that meet in the network, in its step, at the end of an epoch, and in a metric.

python two_processes.py FOLDER
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Any

import lightning as L
import torch
import torch.distributed as dist
import torch.nn.functional as F
from foreign import Foreign, convnet
from lightning.pytorch.loggers import TensorBoardLogger
from monitoring import monitors, some
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vitals.checks.sanity_checks import SanityChecks
from vitals.diagnosis.callback import Diagnosis
from vitals.errors import Diverged
from vitals.measures.finite import first_non_finite
from vitals.monitors.non_finite import NonFinite
from vitals.on_nonfinite import OnNonFinite


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
        outputs = self.net(batch[0])
        everywhere = self.all_gather(outputs, sync_grads=True).flatten(0, 1)
        loss = F.cross_entropy(outputs, batch[1]) + 1e-3 * (outputs @ everywhere.T).square().mean()
        loss = loss + 1e-3 * outputs.mean(0) @ self._of_all_processes(outputs.detach().mean(0))
        self.log("loss/train", loss.detach(), on_step=False, on_epoch=True, sync_dist=True, logger=False)
        return loss

    def _of_all_processes(self, mean: Tensor) -> Tensor:
        """In each way in which steps ask for it: in place, into a list, as an object, and with a handle."""
        each = [torch.empty_like(mean) for _ in range(dist.get_world_size())]
        dist.all_gather(each, mean)
        stacked = torch.stack(each)
        handle = dist.all_reduce(mean, async_op=True)
        handle.wait()
        counts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(counts, 1)
        wide = mean.new_empty(dist.get_world_size() * len(mean))
        dist.all_gather_into_tensor(wide, mean)
        self.trainer.strategy.barrier()
        assert self.trainer.strategy.broadcast(7) == 7
        assert torch.equal(wide.view(-1, len(mean))[dist.get_rank()], mean)
        torch.testing.assert_close(stacked.sum(0), mean)
        return mean / sum(counts)

    def on_train_epoch_end(self) -> None:
        # Of another size than what a metric exchanges.
        assert self.all_gather(torch.full((7,), float(self.global_rank))).shape == (2, 7)


class SpoiltElsewhere(Foreign):
    """The second process has a loss of NaN with its third batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        bad = self.global_rank == 1 and batch_idx == 2
        return F.cross_entropy(self.net(batch[0]), batch[1]) * (float("nan") if bad else 1.0)


def acts_together(action: Any) -> None:
    """What one process sees, both do."""
    torch.manual_seed(0)
    module, guard = SpoiltElsewhere(convnet()), OnNonFinite(action)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=1,
        logger=False,
        callbacks=[NonFinite(), guard],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with suppress(Diverged):
        trainer.fit(module, some(8))
    assert trainer.global_step == (2 if action == "stop" else 4)  # batches of each process
    assert "The loss became NaN or infinite in step 3" in guard.findings[0].message
    assert "in process 1." in guard.findings[0].message
    assert guard.skipped == (action == "skip")
    assert guard.rollbacks == (action == "rollback")
    assert first_non_finite(module) is None
    for parameter in module.parameters():
        there = [torch.empty_like(parameter) for _ in range(2)]
        dist.all_gather(there, parameter.detach())
        assert torch.equal(*there)


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
        callbacks=[SanityChecks(), *monitors(), Diagnosis(report=False)],
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Together(net), some(8))
    same = [torch.equal(*trainer.strategy.all_gather(p.detach())) for p in net.parameters()]
    assert all(same)
    for action in ("skip", "rollback", "stop"):
        acts_together(action)
    dist.barrier()
    time.sleep(1)  # torch 2.6 may wait for ever where a thread of Gloo still lets go of the last exchange
    dist.destroy_process_group()  # else Gloo's threads may abort the process at its end


if __name__ == "__main__":
    main(sys.argv[1])
