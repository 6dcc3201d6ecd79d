"""In what order the training data come, whether they repeat, and whether validation has some of them: read
off the batches of both."""

from collections.abc import Sequence, Sized
from typing import Any

import lightning as L
import torch
from torch import Tensor

from vitals.findings import Finding
from vitals.measures.class_order import (
    DRIFT_SCORE,
    DRIFTING,
    FEWEST_LABELS,
    class_drift,
    class_order,
    is_sorted,
    not_shuffled,
)
from vitals.measures.double import double
from vitals.measures.image_versions import ASKED, FAR, KIN, NEAR, sketches, versions
from vitals.monitors.monitor import Monitor
from vitals.probes.class_numbers import Code
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
GOLDEN = (5**0.5 - 1) / 2
"""Share of the whole by which the places of these follow each other."""
MOST_CLASSES = 10_000
REPEATED = 0.1
"""Share of different samples below which it is said how few there are."""
IN_ORDER = 0.98
"""Rank correlation of numbers to be predicted with the order in which they come: 1 of a sorted table."""
OVERLAP = 0.1
"""Share of the samples of validation that are training samples, too, number by number."""
VERSIONS = 0.5
"""Share of the images of validation looked at that are versions of one of the training."""
PLAIN = 8
"""One different number in so many of an image's values, from which it is told from others."""
UNLIKE = 0.9
"""Share of different values from which a column of a table is one of measured numbers."""


class DataOrder(Monitor):
    """Looks at labels and samples of the first two epochs as the training step gets them.

    A loader may say nothing of itself: a stream, a sampler or a shuffle buffer of somebody's own. Kept are a
    number for each sample and its labels, on the device, and of images a sketch. What it finds are findings:
    batches of like labels or in the order of what is to be predicted, samples of validation that are those of
    the training or versions of them, and as notes few samples that come again and again, or the same order in
    both epochs. It draws no curve; the history has `facts/samples_different`, of the first epoch.
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
        """What may be labels, or numbers to be predicted, by place among the rows of a batch, batch by
        batch."""
        self.prints: list[Tensor] = []
        """A number for each sample that hardly any other has."""
        self.before: Tensor | None = None
        """The same of the epoch before."""
        self.coded = set[int]()
        """Places of rows of the first batch that stand for class numbers."""
        self.place = 0
        """Of the row by which samples are told apart, among those of several numbers for each."""
        self.alike = True
        """Whether, in all of these rows, all samples of each batch are the same."""
        self.weights: Tensor | None = None
        """Of the values that make such a number."""
        self.measured = False
        """Whether samples that agree in these values are one and the same."""
        self.validated: list[Tensor] = []
        """The numbers of the samples of validation."""
        self.sketches: tuple[list[Tensor], list[Tensor]] = [], []
        """Of images of the training, and of validation."""

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
            if self.epochs:
                self.guarded(self._follow)

    def _follow(self) -> None:
        """Look no further once the second epoch has had another sample in a place than the first; asked after
        1, 2, 4, … batches, as a device has to be waited for."""
        if self.before is None:
            self._end()
        elif len(self.prints).bit_count() == 1:
            prints = torch.cat(self.prints).cpu()
            if not torch.equal(prints, self.before[: len(prints)]):
                self._end()

    def _note(self, batch: Any) -> None:
        if self.batch is None:
            self.batch = first_samples(batch, 8)
        made = Rows(batch)
        rows, listed = made.of(batch), made.listed
        labels, prints = dict[int, Tensor](), list[Tensor]()
        for place, row in enumerate(rows):
            if place in listed:  # that has its labels within
                continue
            if row.numel() == len(row) and not row.is_complex() and row.dtype != torch.bool:
                labels[place] = row.detach().flatten().clone()
            elif place in self.coded or (self.weights is None and Code.of(row) is not None):
                self.coded.add(place)
                labels[place] = row.argmax(1)
        several = _several(rows)
        self.alike = self.alike and all(bool((row == row[:1]).all()) for row in several)
        if self.weights is None:
            self.place = next((at for at, row in enumerate(several) if _are_measured(row, _some(row))), 0)
        if self.place < len(several):
            large = several[self.place]
            values = _some(large)
            if self.weights is None or len(self.weights) != values.shape[1]:
                self.weights = torch.arange(1, values.shape[1] + 1).to(values).sqrt().cos()
                self.measured = _are_measured(large, values)
            prints.append((values @ self.weights).float())
            if not self.epochs and self.measured and self.samples < KIN:
                self.sketches[0].extend(sketches(large))
        self.coming = labels, prints, len(rows[0]) if rows else 0

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, *_: Any
    ) -> None:
        if self.active and self.measured and not trainer.sanity_checking and not self.epochs:
            self.guarded(self._note_validation, trainer, batch)

    def _note_validation(self, trainer: L.Trainer, batch: Any) -> None:
        if not hasattr(trainer.val_dataloaders, "dataset") or sum(map(len, self.validated)) >= MOST:
            return  # several loaders, one of which may have training samples
        made = Rows(batch)
        several = _several([] if made.listed else made.of(batch))
        if self.place < len(several) and self.weights is not None:
            large = several[self.place]
            values = _some(large)
            if values.shape[1] == len(self.weights):
                plain = _are_plain(values) if large.ndim > 2 else torch.zeros(len(values)).bool()
                self.validated.append((values @ self.weights).float()[~plain.to(values.device)])
                if sum(map(len, self.sketches[1])) < ASKED:
                    self.sketches[1].extend(sketches(large))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.active:
            self.guarded(self._judge, trainer, pl_module)
            self.epochs, self.samples, self.labels, self.prints = self.epochs + 1, 0, {}, []
            if self.epochs == EPOCHS:
                self._end()

    def _end(self) -> None:
        self.active, self.batch, self.before = False, None, None
        self.labels, self.prints = {}, []

    def _judge(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        prints = torch.cat(self.prints).cpu() if self.prints else torch.zeros(0)
        if self.epochs == 0:
            for place, batches in self.labels.items():
                if batches[0].is_floating_point():
                    self._numbers(trainer, module, place, torch.cat(batches))
                else:
                    self._classes(trainer, module, place, batches)
            self._count(trainer, prints)
            self._compare(trainer, prints)
        elif (
            self.before is not None
            and len(prints) >= FEWEST_LABELS
            and torch.equal(prints, self.before)
            and len(prints.unique()) > len(self.prints[0])  # else each step takes all that there is
        ):
            message = f"The first {len(prints)} samples come in the same order in both of the first epochs."
            remedy = (
                "Give the training loader shuffle=True, or another seed for each epoch, unless each batch "
                "goes on where the one before ended, as in a text."
            )
            self.say(trainer, Finding("data-not-shuffled", "note", message, remedy, "batches"))
        self.before = prints

    def _count(self, trainer: L.Trainer, prints: Tensor) -> None:
        seen, different = len(prints), len(prints.unique())
        if seen < FEWEST_LABELS:
            return
        if recorder := recorder_of(trainer):
            recorder.add_facts(trainer, {"samples_different": float(different)})
        numbers = [torch.cat(batches) for batches in self.labels.values()]
        # Else they may be inputs, too, as the parameter of a function that is asked for on one grid.
        labels = numbers[0] if len(numbers) == 1 and not numbers[0].is_floating_point() else None
        if different == 1 and self.alike and labels is not None and bool((labels != labels[0]).any()):
            message = (
                f"The first {seen} samples of the training are the same, number by number, though they have "
                f"different labels: nothing can be learned from them."
            )
            remedy = (
                "Look at what the data set gives for two samples: scaling, casts, an index that stands still."
            )
            found = Finding(
                "input-constant", "fail", message, remedy, "batches", 1.0, float(seen), exact=True
            )
            self.say(trainer, found)
        elif different < REPEATED * seen:
            message = f"Among the first {seen} samples of the training {different} are different."
            remedy = "See whether the loader is to draw from so few, over and over."
            share = different / seen
            self.say(trainer, Finding("overfitting", "note", message, remedy, "batches", share, REPEATED))

    def _classes(
        self, trainer: L.Trainer, module: L.LightningModule, place: int, batches: Sequence[Tensor]
    ) -> None:
        classes = int(torch.stack([batch.max() for batch in batches]).max()) + 1
        if classes > MOST_CLASSES:
            return
        alike, score = class_order(batches, classes, alone=self.samples < MOST)
        drift, drift_score = class_drift(batches, classes)
        in_order = is_sorted(alike, score)
        drifts = drift > DRIFTING and drift_score > DRIFT_SCORE
        if (in_order or drifts) and self._is_label(trainer, module, place):
            self.say(trainer, not_shuffled(alike if in_order else drift, drift=not in_order))

    def _numbers(self, trainer: L.Trainer, module: L.LightningModule, place: int, values: Tensor) -> None:
        values = values.cpu().float()
        if len(values) < FEWEST_LABELS or len(values.unique()) < len(values) / 2:
            return
        ranks = values.argsort().argsort().float()
        order = abs(float(torch.corrcoef(torch.stack([ranks, torch.arange(len(ranks)).float()]))[0, 1]))
        if order > IN_ORDER and self._is_label(trainer, module, place, numbers=True):
            seen = f"The first {len(values)} samples come in the order of what is to be predicted"
            message = f"{seen}, {values[0]:.3g} to {values[-1]:.3g}: each batch is of one size."
            remedy = "Give the training loader shuffle=True, or shuffle the table before it is split."
            self.say(
                trainer, Finding("data-not-shuffled", "warn", message, remedy, "labels", order, IN_ORDER)
            )

    def _compare(self, trainer: L.Trainer, prints: Tensor) -> None:
        validated = torch.cat(self.validated).cpu() if self.validated else torch.zeros(0)
        near, asked = versions(*self.sketches)
        self.validated, self.sketches = [], ([], [])
        known = int(torch.isin(validated, prints).sum())
        sizes = [_size(loader) for loader in (trainer.val_dataloaders, trainer.train_dataloader)]
        whole = known == len(validated) and len(set(sizes)) == 1  # the set itself, as one tries things out
        if len(validated) < FEWEST_LABELS or whole:
            return
        if known < OVERLAP * len(validated):
            # Else it is the set itself, augmented or read otherwise; of a stream one does not know.
            other = None not in sizes and len(set(sizes)) == len(sizes)
            if other and asked >= FEWEST_LABELS and near > VERSIONS * asked:
                self._say_versions(trainer, near, asked)
            return
        message = (
            f"{known} of {len(validated)} samples of validation are samples of the training, too, number by "
            f"number: what is measured there is in part what was learned by heart."
        )
        remedy = "Split first, then repeat, crop or oversample; see that both sets do not read one file."
        share = known / len(validated)
        leak = Finding("data-leak", "warn", message, remedy, "validation", share, OVERLAP, exact=True)
        self.say(trainer, leak)

    def _say_versions(self, trainer: L.Trainer, near: int, asked: int) -> None:
        message = (
            f"{near} of {asked} images of validation looked at have a version of themselves in the training, "
            f"mirrored, turned or noisy: less than {NEAR:g} times as far away as the {FAR}th nearest."
        )
        remedy = "Split first, then augment the training part; keep the frames of one film in one part."
        self.say(trainer, Finding("data-leak", "warn", message, remedy, "validation", near / asked, VERSIONS))

    def _is_label(
        self, trainer: L.Trainer, module: L.LightningModule, place: int, numbers: bool = False
    ) -> bool:
        """Whether this row of a batch is the class numbers that the loss takes, or the `numbers`, and no
        weight."""
        twin = shared_twin(trainer, module)
        twin.refresh()
        twin.rehearse(self.batch)
        with isolated_rng(seed=0), torch.enable_grad(), eagerly():
            step = TrainingStep(twin.module, stand_in(trainer, training=True), self.batch)
        return step.class_numbers != numbers and step.target_rows == (place,)


def _size(loader: Any) -> int | None:
    """Samples of the data set of `loader`; None of a stream."""
    dataset = getattr(loader, "dataset", None)
    return len(dataset) if isinstance(dataset, Sized) else None


def _several(rows: Sequence[Tensor]) -> list[Tensor]:
    """The rows of a batch that have several numbers for each sample."""
    plain = (row for row in rows if not row.is_nested and row.layout == torch.strided)
    return [row for row in plain if row.numel() > len(row) and not row.is_complex()]


def _some(row: Tensor) -> Tensor:
    """`VALUES` of the numbers of each sample, in double precision: the same in batches of any size."""
    values = row.detach().flatten(1)
    if values.shape[1] > VALUES:  # at even distances they may all lie in one column of an image, its border
        places = (torch.arange(1, VALUES + 1).double() * GOLDEN % 1 * values.shape[1]).long().sort().values
        values = values[:, places.to(values.device)]
    return double(values)


def _are_plain(values: Tensor) -> Tensor:
    """Whether samples (N,) of `values` (N, K) have so few different ones that others may have the same."""
    different = 1 + (values.sort(dim=1).values.diff(dim=1) > 0).sum(dim=1)
    return different < values.shape[1] / PLAIN


def _are_measured(row: Tensor, values: Tensor) -> bool:
    """Whether samples that agree in all `values` (N, K) of a `row` are one: images and series are, and rows
    of a table with a column of numbers of which hardly any comes twice."""
    if not row.is_floating_point() or len(row) < 2:
        return False
    return row.ndim > 2 or max(len(column.unique()) for column in values.T) >= UNLIKE * len(values)
