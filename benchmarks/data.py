"""Images per second of our batches, beside a DataLoader with PIL transforms: `python -m benchmarks.data`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.compare import compare, synthetic_images
from project.data.batches import Normalization, TrainingBatches
from vitals.runs.image_set import ImageSet


class PilImages(Dataset[tuple[Tensor, int]]):
    """The usual way: one PIL image at a time through torchvision's transforms."""

    def __init__(self, data: ImageSet) -> None:
        self.images = [Image.fromarray(image) for image in data.images.permute(0, 2, 3, 1).numpy()]
        self.labels = data.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4, padding_mode="reflect"),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.images[index]), self.labels[index]


def images_per_second(batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Speed of going through `batches` once, from the second on: the first waits for the workers."""
    count, start = 0, 0.0
    for images, _ in batches:
        if start:
            count += len(images)
        else:
            start = time.perf_counter()
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    data = synthetic_images(arguments.images)
    normalization = Normalization(torch.full((3,), 0.5), torch.full((3,), 0.25), channels_last=True)
    ours = TrainingBatches(data, arguments.batch_size, normalization, crop_padding=4, flip=True)
    pil = PilImages(data)

    def usual(workers: int) -> DataLoader[tuple[Tensor, int]]:
        return DataLoader(
            pil,
            arguments.batch_size,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            drop_last=True,
        )

    slow, slow_2 = usual(0), usual(2)
    arms = {
        "vitals": lambda: images_per_second(ours),
        "DataLoader, 0 workers": lambda: images_per_second(slow),
        "DataLoader, 2 workers": lambda: images_per_second(slow_2),
    }
    compare(f"batches of {arguments.batch_size}, images per second", arms, arguments.rounds)


if __name__ == "__main__":
    main()
