"""In what order the training data come, and whether they repeat: read off the batches of the training."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from vitals.findings import Finding
from vitals.measures.class_order import FEWEST_LABELS, class_order, is_sorted, not_shuffled
from vitals.monitors.monitor import Monitor
from vitals.probes.eagerly import eagerly
from vitals.probes.random_states import isolated_rng
from vitals.probes.rows import Rows, first_samples
from vitals.probes.stand_in import stand_in
from vitals.probes.training_step import TrainingStep
from vitals.recorder import recorder_of, shared_twin

EPOCHS, MOST = 2, 2**16
"""Epochs that are looked at, and samples of each."""
VALUES = 64
"""Of a sample, by which it is told from others."""
MOST_CLASSES = 10_000
REPEATED = 0.1
"""Share of different samples below which it is said how few there are."""


class DataOrder(Monitor):
    """Looks at labels and samples of the first two epochs as the training step gets them.

    A loader may say nothing of itself: a stream, a sampler or a shuffle buffer of somebody's own. Kept are a
    number for each sample and its labels, on the device. What it finds are findings: batches of like labels,
    and as notes few samples that come again and again, or the same order in both epochs. It draws no curve;
    the history has `facts/samples_seen` and `facts/samples_different`, of the first epoch.
    """

    station = "before"
    kept = ("epochs", "samples", "batch", "labels", "prints", "before")

    def __init__(self) -> None:
        super().__init__(times_per_epoch=1)

    def start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        resumed = trainer.current_epoch or trainer.global_step
        self.active = self.active and (not resumed or self.loaded is not None)
        self.epochs = self.samples = 0
        self.batch: Any = None
        """A few samples of the first batch."""
        self.coming: tuple[dict[int, Tensor], list[Tensor], int] | None = None
        """Of the batch that is being trained on: a state saved as it begins does not have it yet."""
        self.labels: dict[int, list[Tensor]] = {}
        """What may be labels, by place among the rows of a batch, batch by batch."""
        self.prints: list[Tensor] = []
        """A number for each sample that hardly any other has."""
        self.before: Tensor | None = None
        """The same of the epoch before."""
        self.weights: Tensor | None = None
        """Of the values that make such a number."""

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.coming = None
        if self.active and self.samples < MOST:
            self.guarded(self._note, batch)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if self.coming is not None:
            labels, prints, count = self.coming
            for place, row in labels.items():
                self.labels.setdefault(place, []).append(row)
            self.prints += prints
            self.samples += count
            self.coming = None

    def _note(self, batch: Any) -> None:
        if self.batch is None:
            self.batch = first_samples(batch, 8)
        made = Rows(batch)
        rows, listed = made.of(batch), made.listed
        labels, prints = dict[int, Tensor](), list[Tensor]()
        for place, row in enumerate(rows):
            if place in listed:  # that has its labels within
                continue
            whole = not row.is_floating_point() and not row.is_complex() and row.dtype != torch.bool
            if whole and row.numel() == len(row):
                labels[place] = row.detach().flatten().clone()
        large = next((row for row in rows if row.numel() > len(row) and not row.is_complex()), None)
        if large is not None:
            values = large.detach().flatten(1)
            values = values[:, :: max(1, values.shape[1] // VALUES)][:, :VALUES].float()
            if self.weights is None or len(self.weights) != values.shape[1]:
                self.weights = torch.arange(1, values.shape[1] + 1, device=values.device).float().sqrt().cos()
            prints.append(values @ self.weights)
        self.coming = labels, prints, len(rows[0]) if rows else 0

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.active:
            self.guarded(self._judge, trainer, pl_module)
            self.epochs, self.samples, self.labels, self.prints = self.epochs + 1, 0, {}, []
            if self.epochs == EPOCHS:
                self.active, self.batch, self.before = False, None, None

    def _judge(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        prints = torch.cat(self.prints).cpu() if self.prints else torch.zeros(0)
        if self.epochs == 0:
            for place, batches in self.labels.items():
                classes = int(torch.stack([batch.max() for batch in batches]).max()) + 1
                alike = class_order(batches, classes) if classes <= MOST_CLASSES else (0.0, 0.0)
                if is_sorted(*alike) and self._is_label(trainer, module, place):
                    self.say(trainer, not_shuffled(alike[0]))
            self._count(trainer, prints)
        elif self.before is not None and len(prints) >= FEWEST_LABELS and torch.equal(prints, self.before):
            message = f"The first {len(prints)} samples come in the same order in both of the first epochs."
            remedy = "Give the training loader shuffle=True, or another seed for each epoch."
            self.say(trainer, Finding("data-not-shuffled", "note", message, remedy, "batches"))
        self.before = prints

    def _count(self, trainer: L.Trainer, prints: Tensor) -> None:
        seen, different = len(prints), len(prints.unique())
        if seen < FEWEST_LABELS:
            return
        if recorder := recorder_of(trainer):
            facts = {"samples_seen": float(seen), "samples_different": float(different)}
            recorder.add_facts(trainer, facts)
        if different < REPEATED * seen:
            message = f"Among the first {seen} samples of the training {different} are different."
            remedy = "See whether the loader is to draw from so few, over and over."
            share = different / seen
            self.say(trainer, Finding("overfitting", "note", message, remedy, "batches", share, REPEATED))

    def _is_label(self, trainer: L.Trainer, module: L.LightningModule, place: int) -> bool:
        """Whether this row of a batch is the class numbers that the loss takes, and no number of a task."""
        twin = shared_twin(trainer, module)
        twin.refresh()
        twin.rehearse(self.batch)
        with isolated_rng(seed=0), torch.enable_grad(), eagerly():
            step = TrainingStep(twin.module, stand_in(trainer, training=True), self.batch)
        return step.class_numbers and step.target_rows == (place,)
