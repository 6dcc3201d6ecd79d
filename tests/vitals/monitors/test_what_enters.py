"""What checks say of samples and labels as they enter the network: mixed, or changed where they are kept."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from foreign import Foreign, digits, fit, loader, mlp, quick
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)

from vitals.findings import Finding
from vitals.probes import loaders
from vitals.probes.loaders import is_even, random_batches, successive_batches, twice, wears_out


def alarms(module: Foreign) -> list[Finding]:
    look = quick(checks=["wiring"])
    fit(module, None, look, limit_train_batches=1)
    return [finding for finding in look.findings if finding.alarming]


class Mixes(Foreign):
    """Mixup, with labels of the same other images in the same shares, or not."""

    def __init__(self, order: bool = True, share: bool = True) -> None:
        super().__init__(mlp())
        self.order, self.share = order, share

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (x, y), share = batch, 0.7
        other = torch.randperm(len(y))
        theirs = other if self.order else torch.randperm(len(y))
        logits = self.net(share * x + (1 - share) * x[other])
        own = share if self.share else 1 - share
        return own * F.cross_entropy(logits, y) + (1 - own) * F.cross_entropy(logits, y[theirs])


@pytest.mark.parametrize("wrong", ["order", "share"])
def test_labels_that_are_not_mixed_as_their_images_are_told(wrong: str) -> None:
    [finding] = alarms(Mixes(**{wrong: False}))
    assert finding.cause == "labels-random"
    assert finding.exact
    assert "not mixed as they are" in finding.message


def test_mixup_as_it_should_be_is_not() -> None:
    assert alarms(Mixes()) == []


class MixesForTwo(Foreign):
    """Mixup under binary cross-entropy, on a network that is sure of itself, and often wrong."""

    def __init__(self) -> None:
        super().__init__(mlp())
        with torch.no_grad():
            for parameter in self.net.parameters():
                parameter *= 12

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (x, y), share = batch, 0.7
        other = torch.randperm(len(y))
        wanted = F.one_hot(y, 10).float()
        mixed = share * wanted + (1 - share) * wanted[other]
        return F.binary_cross_entropy_with_logits(self.net(share * x + (1 - share) * x[other]), mixed)


def test_labels_that_are_mixed_for_another_loss_are_not() -> None:
    assert alarms(MixesForTwo()) == []


class Erases(TensorDataset):
    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        image, label = super().__getitem__(place)
        return erased_in_a_copy(image), label


class Draws(Dataset):
    """Makes samples when they are asked for, as a simulation does."""

    def __len__(self) -> int:
        return 256

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        label = torch.randint(10, ())
        return F.one_hot(label, 64).view(1, 8, 8) + 0.3 * torch.randn(1, 8, 8), label


class Validated(Foreign):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.net(batch[0])


@pytest.mark.parametrize(
    ("data", "validation", "causes"),
    [
        (Erases(*digits()), Erases(*digits()), ["train-val-mismatch"]),
        (Erases(*digits()), TensorDataset(*digits()), []),
        (Draws(), Draws(), []),
    ],
)
def test_validation_images_that_are_augmented_are_told_from_new_ones(
    data: Any, validation: Any, causes: list[str]
) -> None:
    look = quick(checks=["validation_mode"])
    loaders = [DataLoader(each, 32) for each in (data, validation)]
    fit(Validated(mlp()), None, look, train=loaders[0], validation=loaders[1], limit_train_batches=1)
    assert [finding.cause for finding in look.findings if finding.alarming] == causes


class Kept(Dataset):
    """Images in memory, each of which `change` is given as it is taken out."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        self.images, self.labels = digits()
        self.change = change

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        return self.change(self.images[place]), self.labels[place]


def erased(image: Tensor) -> Tensor:
    row = int(torch.randint(6, ()))
    image[:, row : row + 3] = 0
    return image


def erased_in_a_copy(image: Tensor) -> Tensor:
    return erased(image.clone())


def test_a_data_set_that_changes_what_it_keeps_is_told_and_stays_as_it_was() -> None:
    data = DataLoader(Kept(erased), 32)
    before = data.dataset.images.clone()  # type: ignore[attr-defined]
    next(successive_batches(data))
    assert wears_out(data)
    assert torch.equal(data.dataset.images, before)  # type: ignore[attr-defined]
    assert not wears_out(DataLoader(Kept(erased_in_a_copy), 32))
    assert not wears_out(loader())


def test_one_that_keeps_too_much_to_be_copied_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loaders, "MOST_COPIED", 0)
    data = Kept(erased)
    before = data.images.clone()
    with pytest.raises(loaders.StreamOnly):
        next(successive_batches(DataLoader(data, 32)))
    assert torch.equal(data.images, before)


class FromNumpy(Kept):
    def __init__(self, change: Any) -> None:
        super().__init__(change)
        self.tables = self.images.numpy().copy()

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        return self.change(torch.from_numpy(self.tables[place])), self.labels[place]


def test_one_that_writes_to_arrays_through_torch_is_told_and_stays_as_it_was() -> None:
    data = FromNumpy(erased)
    before = data.tables.copy()
    next(successive_batches(DataLoader(data, 32)))
    assert wears_out(DataLoader(data, 32))
    assert np.array_equal(data.tables, before)


def test_looking_whether_one_writes_brings_no_warning() -> None:
    torch.set_warn_always(True)  # not once a process
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert not wears_out(DataLoader(FromNumpy(erased_in_a_copy), 32))
    torch.set_warn_always(False)
    assert not said


class Cached(Kept):
    """Fills its memory with what is asked for, and changes it at random by numbers of its own."""

    def __init__(self) -> None:
        super().__init__(lambda image: image)
        self.memory, self.generator = torch.zeros_like(self.images), torch.Generator().manual_seed(0)
        self.filled = [False] * len(self.labels)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        if not self.filled[place]:
            self.memory[place] = self.images[place]
            self.filled[place] = True
        noise = torch.randn(self.memory[place].shape, generator=self.generator)
        return self.memory[place] + 0.1 * noise, self.labels[place]


def test_one_that_fills_a_memory_is_not() -> None:
    assert not wears_out(DataLoader(Cached(), 32))


def test_one_that_normalizes_in_numpy_is_told_too() -> None:
    data = Kept(lambda image: image)
    data.images = data.images.numpy().copy()  # type: ignore[assignment]

    def halved(image: Any) -> Any:
        image /= 2
        return image

    data.change = halved
    assert wears_out(DataLoader(data, 32))


def test_batches_of_places_are_drawn_as_by_the_loader_itself() -> None:
    """A loader that is given a batch sampler says itself that it goes through the data in order."""
    data = TensorDataset(*digits(128))
    given = DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data), 32, drop_last=True))
    in_order = DataLoader(data, batch_sampler=BatchSampler(SequentialSampler(data), 32, drop_last=True))
    for each in (given, in_order):
        assert [len(labels) for _, labels in random_batches(each, 64)][:2] == [32, 32]
        assert [len(next(iter(one))[1]) for one in twice(each, 64)] == [32, 32]
        assert is_even(each)
    assert not torch.equal(next(random_batches(in_order, 64))[1], data.tensors[1][:32])


class Reader(Kept):
    """Opens its file when it is first asked for a sample."""

    def __init__(self, file: Path) -> None:
        super().__init__(lambda image: image)
        np.savez(file, images=self.images)
        self.file, self.opened = file, None

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        if self.opened is None:
            self.opened = np.load(self.file)
        return torch.from_numpy(self.opened["images"][place]), self.labels[place]


def test_a_data_set_with_an_open_file_is_left_alone(tmp_path: Path) -> None:
    data = Reader(tmp_path / "images.npz")
    data[0]
    with pytest.raises(loaders.StreamOnly, match="keeps an open file"):
        next(successive_batches(DataLoader(data, 32)))
