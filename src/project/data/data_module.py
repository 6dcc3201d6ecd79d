"""The LightningDataModule of every `data=` choice: read, split, normalise, batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor

from project.data import sources
from project.data.batches import EvaluationBatches, Normalization, TrainingBatches
from project.schema import SourceName
from vitals.errors import UserError
from vitals.length import total_epochs

EVALUATION_BATCH_SIZE = 500
"""Images evaluated at once; as many as a batch of the training has, up to twice as many."""


@dataclass(eq=False)
class ImageData(L.LightningDataModule):
    """Images of one source as training, validation and test batches.

    The keys of `configs/data/*.yaml`, which say what each is, and

    Args:
        batch_size: training images per batch and process; None takes all of them as one batch.
        seed: of the order and the augmentation of the batches.
        channels_last: the memory format of the batches.
    """

    source: SourceName
    root: str | None = None
    image_size: int | None = None
    batch_size: int | None = 128
    validation_fraction: float = 0.1
    test_fraction: float = 0.2
    split_seed: int = 0
    limit: int | None = None
    crop_padding: int = 0
    flip: bool | Literal["alternating"] = False
    sizes: Sequence[int] | None = None
    seed: int = 0
    channels_last: bool = False
    skip_unreadable: bool = False
    mapped: bool | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def setup(self, stage: str | None = None) -> None:
        """Read and split the images and take the normalisation statistics from the training part; `UserError`
        if they cannot be read or split."""
        if hasattr(self, "mean"):
            return
        splits = sources.read(
            self.source, self.root, self.image_size, self.batch_size, self.skip_unreadable, self.mapped
        )
        train, validation, test = splits.train, splits.validation, splits.test
        self.note = splits.note
        try:
            if test is None:
                train, test = train.split(self.test_fraction, self.split_seed)
            if validation is None:
                train, validation = train.split(self.validation_fraction, self.split_seed)
        except ValueError as error:
            raise UserError(
                f"data={self.source} cannot be split: {error}; add images, or val/ and test/ beside train/."
            ) from None
        self.train = train if self.limit is None else train.limited(self.limit, self.split_seed)
        self.validation, self.test = validation, test
        if self.crop_padding >= (size := min(self.image_shape[1:])):
            raise UserError(f"data.crop_padding={self.crop_padding} must be below the images' {size} pixels.")
        self.mean, self.std = self.train.channel_statistics()

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of the labels."""
        return self.train.classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.train.stored.shape[1:]
        return channels, height, width

    def sample(self, count: int) -> Tensor:
        """At most `count` of the training images, always the same, normalised: float32, N×C×H×W."""
        chosen = self.train.limited(count, self.split_seed).images
        return Normalization(self.mean, self.std)(chosen)

    def train_dataloader(self) -> TrainingBatches:
        """Shuffled and augmented, but with `overfit_batches` always the same; see `TrainingBatches`."""
        settings = {key: getattr(self, key) for key in ("crop_padding", "flip", "sizes", "seed")}
        if trainer := self.trainer:
            settings["share_done"] = lambda epochs: epochs / total_epochs(trainer)
            settings["fixed"] = bool(getattr(trainer, "overfit_batches", 0))
        return TrainingBatches(self.train, self.batch_size or len(self.train), **settings, **self._settings())

    def val_dataloader(self) -> EvaluationBatches:
        """The validation images, un-augmented."""
        return EvaluationBatches(self.validation, self._evaluated(), **self._settings())

    def test_dataloader(self) -> EvaluationBatches:
        """The test images, un-augmented."""
        return EvaluationBatches(self.test, self._evaluated(), **self._settings())

    def state_dict(self) -> dict[str, Any]:
        """What the weights were trained on: class names and normalisation, in plain types."""
        return {"classes": self.classes, "mean": self.mean.tolist(), "std": self.std.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make sure that the images are those that the checkpoint was trained on; `UserError` if the classes
        or the statistics of the training images differ."""
        there = torch.tensor([state["mean"], state["std"]])
        same = torch.allclose(torch.stack([self.mean, self.std]), there, atol=1e-4)
        if state["classes"] != self.classes or not same:
            here, its = (
                f"{', '.join(of['classes'])} with channel means {[round(value, 4) for value in of['mean']]}"
                for of in (self.state_dict(), state)
            )
            raise UserError(f"the images are not those of the checkpoint: here {here}; there {its}.")

    def _evaluated(self) -> int:
        return min(max(EVALUATION_BATCH_SIZE, self.batch_size or 0), 2 * EVALUATION_BATCH_SIZE)

    def _settings(self) -> dict[str, Any]:
        """What all batches have in common; without a trainer they are for one process, on the CPU."""
        settings: dict[str, Any] = {"normalization": Normalization(self.mean, self.std, self.channels_last)}
        if trainer := self.trainer:
            settings |= {"rank": trainer.global_rank, "world_size": trainer.world_size}
            settings["device"] = trainer.strategy.root_device
        return settings
