"""BatchNorm's statistics for other weights than those that train."""

from itertools import islice
from typing import Any

import lightning as L
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature

from vitals.averaging.validation import on_all_processes
from vitals.measures.batch_norm import pooled, reestimate, tracking_layers
from vitals.probes.copies import NoOp
from vitals.probes.eagerly import eagerly
from vitals.probes.loaders import successive_batches, training_loader
from vitals.probes.stand_in import BatchPreparation, mute, stand_in


def reestimate_statistics(trainer: L.Trainer, owner: L.LightningModule, batches: int) -> None:
    """Estimate BatchNorm's running statistics anew in `owner`, a copy of the module that trains, in place.

    They are those of the first so many `batches` of the training loader of each process, at most an epoch,
    from iterators of their own, through the hooks and the training step of `owner`, pooled over the
    processes. `NotPossible` if a process could not run the training step.
    """
    layers = tracking_layers(owner)
    if not layers:
        return
    number = int(min(batches, trainer.num_training_batches))
    seen = on_all_processes(trainer, lambda: _run_training_batches(trainer, owner, number))
    if seen and trainer.world_size > 1:
        pooled(layers, lambda statistics: trainer.strategy.reduce(statistics, reduce_op="mean"))


def _run_training_batches(trainer: L.Trainer, owner: Any, number: int) -> int:
    facts = stand_in(trainer, training=True)
    mute(owner)
    owner.__dict__["manual_backward"] = NoOp()
    where = (0,) if is_param_in_hook_signature(owner.training_step, "batch_idx", min_args=2) else ()
    preparation = BatchPreparation(trainer, owner, facts)

    def run(batch: Any) -> None:
        prepared = preparation(batch)
        with trainer.precision_plugin.train_step_context(), eagerly():
            owner._trainer = facts
            owner.training_step(prepared, *where)

    batches = islice(successive_batches(training_loader(trainer)), number)
    seen = reestimate(tracking_layers(owner), run, batches)
    owner._trainer = None
    return seen
