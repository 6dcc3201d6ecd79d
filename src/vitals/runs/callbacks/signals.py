"""A signal ends a training after the present optimizer step, with its state saved, or amid a validation."""

import math
import signal
from typing import Any

import lightning as L
import torch

from vitals.runs.signals import Interrupted, Signals


class StopAtSignal(L.Callback):
    """Within the epochs, a signal waits for the next batch: then `last.ckpt` is saved, and the training ends,
    or after SIGUSR1 goes on.

    What comes before the first epoch and after the last can be done again, and ends where the signal arrives.
    So does a validation, however long it takes, with what the end of its epoch asks of other callbacks: a run
    that goes on does the whole of it, from the state that was saved shortly before. Several processes end
    together, whichever of them the signal has reached, at a batch that all of them have. It comes after the
    monitors, so that they have written what belongs to the batches before.
    """

    def __init__(self) -> None:
        self.together = False
        """Whether all processes end, each by itself."""
        self.shared_batches: list[int] = []
        """Of each loader of a validation, the batches that every process has."""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.signals = Signals.current() or Signals()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.signals.install()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.signals.install()
        self.signals.check()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.signals.deferring = True

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.signals.deferring = True  # an epoch that is gone on with has no start
        number, save = self._asked(trainer)
        if number or save:
            able = [callback for callback in trainer.checkpoint_callbacks if hasattr(callback, "save_state")]
            saved = [callback.save_state(trainer) for callback in able]
            if not all(saved):
                return  # at the next batch they can
            self.signals.save = False
        if number:
            self.together = True
            raise Interrupted(number)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.world_size == 1:
            self.signals.deferring = False
            self.signals.check()
        else:
            counts = [-count if math.isfinite(count) else 0 for count in trainer.num_val_batches]
            fewest = torch.tensor(counts, device=trainer.strategy.root_device)
            self.shared_batches = (-trainer.strategy.reduce(fewest, reduce_op="max")).tolist()

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, number: int, loader: int = 0
    ) -> None:
        if trainer.world_size > 1 and number < self.shared_batches[loader]:
            number, _ = self._asked(trainer)
            if number:
                self.together = True
                raise Interrupted(number)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.signals.deferring = True  # until the checkpoint of the epoch is saved

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.signals.deferring = False
        self.signals.check()

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        if hasattr(self, "signals"):  # the data module is set up before, and may fail
            self.signals.deferring = False
        launcher: Any = trainer.strategy.launcher
        # Outside of the epochs the other processes know nothing of it, and would wait for this one for ever.
        if isinstance(exception, Interrupted) and not self.together and hasattr(launcher, "kill"):
            launcher.kill(getattr(signal, "SIGKILL", signal.SIGTERM))

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        del self.signals  # which cannot be pickled, as strategies that spawn processes do

    def _asked(self, trainer: L.Trainer) -> tuple[int, bool]:
        """The number of the signal that ends the training, or 0, and whether to save; asks all processes."""
        number, save = self.signals.number or 0, self.signals.save
        if trainer.world_size == 1:
            return number, save
        asked = torch.tensor(2 * number + save, device=trainer.strategy.root_device)
        found = int(trainer.strategy.reduce(asked, reduce_op="max"))
        return found // 2, bool(found % 2)
