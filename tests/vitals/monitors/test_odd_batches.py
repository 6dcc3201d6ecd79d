"""Batches that are lists of samples, or objects of somebody's own; parameters of rare kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from foreign import Foreign, alarms, digits, fit, mlp, quick
from lightning.pytorch.callbacks import LambdaCallback
from monitoring import monitors, same
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from vitals.diagnosis.callback import Diagnosis
from vitals.probes.rows import Rows, first_samples, in_halves, samples_in, together

Z = torch.zeros


class Table(MutableMapping[str, Any]):
    """Has a number of rows, as a TensorDict has, and takes no column of another."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self.count, self.columns = len(next(iter(columns.values()))), columns

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.columns[key]
        return Table({name: column[key] for name, column in self.columns.items()})

    def __setitem__(self, key: str, value: Any) -> None:
        if len(value) != self.count:
            raise RuntimeError(f"{len(value)} rows, and {self.count} are wanted")
        self.columns[key] = value

    def __delitem__(self, key: str) -> None:
        del self.columns[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __len__(self) -> int:
        return self.count


BATCHES: dict[str, tuple[Any, int]] = {
    "images and boxes": (
        (
            [Z(3, 20 + k, 30) for k in range(6)],
            [{"boxes": Z(k, 4), "labels": Z(k)} for k in range(6)],
        ),
        6,
    ),
    "images of one size, and boxes": (
        (tuple(Z(3, 8, 8) for _ in range(3)), tuple({"boxes": Z(3, 4)} for _ in range(3))),
        3,
    ),
    "sequences and labels": (([Z(3 + k, 8) for k in range(8)], Z(8).long()), 8),
    "sequences alone": ([Z(3 + k, 8) for k in range(8)], 8),
    "dicts": ([{"ids": Z(5 + k), "mask": Z(5 + k)} for k in range(16)], 16),
    "pairs": ([(Z(64), k) for k in range(16)], 16),
    "a pair": ([Z(32, 64), Z(32).long()], 32),
    "batches of loaders": ([(Z(32, 64), Z(32, 1)), (Z(64, 64), Z(64, 1))], 32),
    "dicts of loaders": ([{"x": Z(32, 64), "y": Z(32)}, {"x": Z(64, 64), "y": Z(64)}], 32),
    "views": (([Z(32, 64), Z(32, 64)], Z(32)), 32),
    "two views of two": (([Z(2, 64), Z(2, 64)], Z(2)), 2),
    "a table of so many rows": (Table({"image": Z(16, 64), "label": Z(16).long()}), 16),
    "tables in a table": (Table({"label": Z(16), "views": Table({"one": Z(16, 8), "two": Z(16, 8)})}), 16),
    "two texts": ((Z(2, 64).long(), Z(2)), 2),
    "packed sequences": (
        (nn.utils.rnn.pack_sequence([Z(3 + k % 4, 8) for k in range(16)], enforce_sorted=False), Z(16)),
        16,
    ),
    "arrays": ({"x": np.zeros((16, 64)), "y": np.arange(16), "path": ["a"] * 16}, 16),
    "arrays of different lengths, and labels": ([(np.zeros(3 + k), np.int64(k)) for k in range(16)], 16),
    "a graph": ((Z(64, 8), Z(2, 100).long(), Z(64).long(), Z(8)), 0),
}


@pytest.mark.parametrize("kind", BATCHES)
def test_samples_are_counted_and_cut_as_their_batch_is_made(kind: str) -> None:
    batch, size = BATCHES[kind]
    assert samples_in(batch) == Rows(batch).size == size
    assert type(first_samples(batch, 1)) is type(batch)
    if size > 10:
        assert samples_in(together(*in_halves(batch))) == size
    rows = Rows(batch)
    assert same(rows.batch(rows.of(batch)), batch)


class Graph:
    """A batch that can be moved, and not cut."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def to(self, *place: Any, **options: Any) -> Graph:
        return self


class OfGraphs(Foreign):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self.net(batch.x), batch.y)


@pytest.mark.parametrize("local", [False, True])
def test_a_batch_of_ones_own_stays_out_of_checkpoints_and_resuming_goes_on(
    local: bool, tmp_path: Path
) -> None:
    class Local(Graph):  # which cannot even be pickled
        pass

    made = Local if local else Graph

    def collate(samples: list[Any]) -> Any:
        return made(torch.stack([x for x, _ in samples]), torch.stack([y for _, y in samples]))

    def train(*callbacks: Any, **options: Any) -> list[Tensor]:
        module = OfGraphs(mlp())
        loader = DataLoader(TensorDataset(*digits(64)), 16, collate_fn=collate)
        quiet = {"train": loader, "limit_val_batches": 0, "max_epochs": 2, **options}
        fit(module, tmp_path, *monitors(), *callbacks, **quiet)
        return [parameter.detach() for parameter in module.parameters()]

    def save(trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.current_epoch == 0:
            trainer.save_checkpoint(tmp_path / "first.ckpt")

    whole = train(LambdaCallback(on_train_epoch_end=save))
    torch.load(tmp_path / "first.ckpt", weights_only=True)
    assert same(train(ckpt_path=tmp_path / "first.ckpt"), whole)


class OfLists(Foreign):
    """Takes images and targets as torchvision's detectors do, and has a loss in training mode alone."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        images, targets = batch
        outputs = self.net(torch.stack(images))
        return F.cross_entropy(outputs, torch.stack([target["label"] for target in targets]))


class OfSequences(Foreign):
    def __init__(self) -> None:
        super().__init__(nn.GRU(8, 16, batch_first=True))
        self.head = nn.Linear(16, 10)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        packed = nn.utils.rnn.pack_sequence(batch[0], enforce_sorted=False)
        return F.cross_entropy(self.head(self.net(packed)[1][0]), batch[1])


class OfPacked(OfSequences):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self.head(self.net(batch[0])[1][0]), batch[1])


class OfPadded(Foreign):
    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10)))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        padded, _ = nn.utils.rnn.pad_packed_sequence(batch[0], batch_first=True)
        return F.cross_entropy(self.net(padded), batch[1])


class OfNested(OfSequences):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(8, 16)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        means = torch.stack([each.relu().mean(0) for each in self.net(batch[0]).unbind()])
        return F.cross_entropy(self.head(means), batch[1])


class OfCounts(Foreign):
    """Gets how often each word is there, as a sparse matrix."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.ReLU(), nn.Linear(16, 10)))
        self.w = nn.Parameter(torch.randn(64, 16) * 0.1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self.net(torch.sparse.mm(batch[0], self.w)), batch[1])


class Sparse(Foreign):
    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.EmbeddingBag(17, 16, sparse=True), nn.Linear(16, 10)))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self.net((batch[0].flatten(1) * 4 + 4).long().clamp(0, 16)), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class Complex(Foreign):
    def __init__(self) -> None:
        super().__init__(mlp())
        self.w = nn.Parameter(torch.randn(64, 64, dtype=torch.cfloat) * 0.05)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return F.cross_entropy(self.net((batch[0].flatten(1).cfloat() @ self.w).abs()), batch[1])


def as_lists(samples: list[Any]) -> Any:
    return tuple(x for x, _ in samples), tuple({"label": y} for _, y in samples)


def as_sequences(samples: list[Any]) -> Any:
    return [x[0, : 5 + int(y) % 3] for x, y in samples], torch.stack([y for _, y in samples])


def as_packed(samples: list[Any]) -> Any:
    sequences, labels = as_sequences(samples)
    return nn.utils.rnn.pack_sequence(sequences, enforce_sorted=False), labels


def as_nested(samples: list[Any]) -> Any:
    sequences, labels = as_sequences(samples)
    return torch.nested.nested_tensor(sequences, layout=torch.jagged), labels


def as_counts(samples: list[Any]) -> Any:
    images, labels = map(torch.stack, zip(*samples, strict=True))
    return images.flatten(1).relu().to_sparse(), labels


RARE: dict[str, tuple[Callable[[], Any], Any]] = {
    "lists of images and targets": (lambda: OfLists(mlp()), as_lists),
    "sequences": (OfSequences, as_sequences),
    "packed sequences": (OfPacked, as_packed),
    "nested tensors": (OfNested, as_nested),
    "sparse inputs": (OfCounts, as_counts),
    "sparse gradients": (Sparse, None),
    "complex parameters": (Complex, None),
    "torch.jit": (lambda: Foreign(torch.jit.script(mlp())), None),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", RARE)
def test_the_rare_is_looked_at_or_has_a_reason_in_plain_words(kind: str, tmp_path: Path) -> None:
    make, collate = RARE[kind]
    made = partial(DataLoader, TensorDataset(*digits(64)), 16, collate_fn=collate)
    which = ["wiring", *["gradients"] * (kind == "sparse inputs"), "tiny_subset"]
    checks = quick(checks=which, tiny_subset_steps=20)

    def weights(*callbacks: Any) -> list[Tensor]:
        torch.manual_seed(0)
        module = make()
        fit(module, tmp_path, *callbacks, train=made(), limit_val_batches=0)
        return [parameter.detach() for parameter in module.parameters()]

    watching = monitors()
    assert same(weights(), weights(checks, *watching))
    said = [each.message for callback in (checks, *watching) for each in callback.findings]
    assert not [message for message in said if "Error" in message or "StopIteration" in message], said
    assert not [message for message in said if "fault of ours" in message], said
    made_ones = [row.name for row in checks.rows if row.verdict != "skipped"]
    assert made_ones == ([] if kind == "torch.jit" else which)
    if kind == "torch.jit":
        assert "Checks: self.net is made by torch.jit, of which there is no copy to measure on." in said


@pytest.mark.parametrize(
    ("make", "shuffled", "verdict"),
    [(OfPacked, False, "ok"), (OfPacked, True, "note"), (OfPadded, True, "warn")],
)
def test_labels_of_lists_of_samples_are_called_random_once_they_are_known_by_heart(
    make: Any, shuffled: bool, verdict: str, tmp_path: Path
) -> None:
    def packed(samples: list[Any]) -> Any:
        rows, labels = zip(*samples, strict=True)
        return nn.utils.rnn.pack_sequence([row[0] for row in rows]), torch.stack(labels)

    images, labels = digits(512)
    images, labels = images + labels[:, None, None, None] % 3, labels % 3
    if shuffled:
        labels = labels[torch.randperm(512, generator=torch.Generator().manual_seed(1))]
    checks = quick(checks=["informative_inputs"], samples=512)
    train = DataLoader(TensorDataset(images, labels), 32, collate_fn=packed)
    fit(make(), tmp_path, checks, train=train, limit_val_batches=0)
    assert alarms(checks.findings) == ["labels-random"] * (verdict == "warn")
    assert [row.verdict for row in checks.rows] == [verdict]


class WritesToBatches(Foreign):
    """Adds noise to its images and counts its labels from zero where they lie, and minds how many it gets."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        images, labels = batch
        images.mul_(2).add_(0.01 * torch.randn_like(images))
        labels.sub_(1)
        return F.cross_entropy(self.net(images.view(16, 64)), labels)


class WritesToGraphs(Foreign):
    """Puts what its first layer gives in the place of what an object of somebody's own has."""

    def __init__(self) -> None:
        super().__init__(mlp())
        self.first = nn.Linear(64, 64)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        batch.x = self.first(batch.x.flatten(1)).relu()
        return F.cross_entropy(self.net(batch.x), batch.y)


def as_graph(samples: list[Any]) -> Graph:
    return Graph(*map(torch.stack, zip(*samples, strict=True)))


@pytest.mark.parametrize(
    ("make", "collate"), [(WritesToBatches, None), (WritesToGraphs, as_graph)], ids=["tensors", "an object"]
)
def test_what_a_step_writes_to_its_batch_stays_with_the_copy(make: Any, collate: Any, tmp_path: Path) -> None:
    def weights(*callbacks: Any) -> list[Tensor]:
        torch.manual_seed(0)
        module, (images, labels) = make(mlp()) if collate is None else make(), digits(64)
        data = DataLoader(TensorDataset(images, labels + (collate is None)), 16, collate_fn=collate)
        fit(module, tmp_path, *callbacks, train=data, validation=data, limit_val_batches=0)
        return [parameter.detach() for parameter in module.parameters()]

    checks, diagnosis = (
        quick(checks=["wiring", "tiny_subset"], tiny_subset_steps=100),
        Diagnosis(report=False),
    )
    assert same(weights(), weights(checks, *monitors(), diagnosis))
    assert [row.verdict for row in checks.rows if row.verdict == "skipped"] == []
    assert not [each for each in [*checks.findings, *diagnosis.findings] if "Error" in each.message]


class Labelled(Tensor):
    """Knows what its columns are called, which no copy of it does."""

    labels: str


def test_a_step_that_takes_no_plain_tensors_is_not_blamed(tmp_path: Path) -> None:
    class Asks(Foreign):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            assert batch[0].labels == "pixels"
            return F.cross_entropy(self.net(batch[0].as_subclass(Tensor)), batch[1])

    def collate(samples: list[Any]) -> tuple[Labelled, Tensor]:
        images = torch.stack([x for x, _ in samples]).as_subclass(Labelled)
        images.labels = "pixels"
        return images, torch.stack([y for _, y in samples])

    checks = quick()
    train = DataLoader(TensorDataset(*digits(64)), 32, collate_fn=collate)
    fit(Asks(mlp()), tmp_path, checks, train=train, limit_val_batches=0)
    assert checks.findings[0].message.startswith(
        "Checks: your batches have tensors of the class Labelled, and your training_step does not take plain"
    )
