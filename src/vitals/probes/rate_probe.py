"""An experiment: would another learning rate do better from here?"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch

from vitals.errors import UserError
from vitals.probes.loaders import successive_batches
from vitals.probes.random_states import isolated_rng
from vitals.probes.training_step import BatchPreparation, stand_in
from vitals.probes.trial import copies_of, restore_configured_rates
from vitals.probes.twin import Twin

STEPS, JUDGED = 20, 8
"""Steps that each rate gets, and batches after them on which it is judged."""
FACTORS = (0.1, 1.0, 3.0, 10.0)


def probe_rates(
    trainer: L.Trainer,
    module: L.LightningModule,
    factors: Sequence[float] = FACTORS,
    shared: Twin | None = None,
) -> dict[float, float]:
    """The loss after 20 steps at each multiple of the learning rate, on the same batches.

    The steps are taken on copies of module and optimizer, with batches from a copy of the loader, so that
    nothing has to be put back: the training is the same bit for bit as without the probe. The loss is the
    mean over 8 further batches, in training mode.

    Args:
        trainer: while or just after it trains.
        module: that trains, with one optimizer.
        factors: of the rate of every parameter group, as it was configured, before any schedule.
        shared: a copy of `module`, whose hooks prepare the batches; None makes one.

    Raises:
        UserError: if module, optimizer or loader cannot be copied.
    """
    if len(trainer.optimizers) != 1:
        raise UserError("the rate is probed for one optimizer alone.")
    losses: dict[float, float] = {}
    with isolated_rng(seed=0), torch.enable_grad():
        batches = _batches(trainer, shared or Twin(trainer, module))
        for factor in factors:  # each trains a copy of its own, parameters and all
            own, [optimizer] = copies_of(module, trainer.optimizers)
            restore_configured_rates(optimizer)
            for group in optimizer.param_groups:
                group["lr"] = group["lr"] * factor
            twin = Twin(trainer, own)
            twin.original = own
            torch.manual_seed(0)
            losses[factor] = _loss_after(twin, optimizer, batches)
    return losses


def timed_probe(
    trainer: L.Trainer, module: L.LightningModule, shared: Twin | None = None
) -> tuple[dict[float, float], float]:
    """`probe_rates`, and the seconds it took."""
    start = time.perf_counter()
    return probe_rates(trainer, module, shared=shared), time.perf_counter() - start


def _loss_after(twin: Twin, optimizer: Any, batches: list[Any]) -> float:
    def step(batch: Any) -> torch.Tensor:
        optimizer.zero_grad()
        loss = twin.training_loss(batch)
        loss.backward()
        return loss

    for batch in batches[:-JUDGED]:
        optimizer.step(lambda batch=batch: step(batch))
    with torch.no_grad():
        return float(torch.stack([twin.training_loss(batch).float() for batch in batches[-JUDGED:]]).mean())


def _batches(trainer: L.Trainer, twin: Twin) -> list[Any]:
    twin.refresh()
    owner = copy.copy(twin.module)
    preparation = BatchPreparation(trainer, owner, stand_in(trainer, training=True))
    taken: list[Any] = []
    while len(taken) < STEPS + JUDGED:  # an epoch may be shorter than that
        before = len(taken)
        for batch in successive_batches(trainer.train_dataloader):
            taken.append(preparation(batch))
            if len(taken) == STEPS + JUDGED:
                break
        if len(taken) == before:
            raise UserError("the training loader gives no batch.")
    return taken
