"""Random crops and mirror images, against the same done image by image."""

import pytest
import torch
from torch.nn.functional import pad

from project.data.batches import RandomCropFlip


def random_images(count=6, height=8, width=8):
    shape = (count, 3, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def one_by_one(images, padding, indices, top, left, mirrored):
    height, width = images.shape[-2:]
    done = []
    for index, y, x, mirror in zip(indices, top, left, mirrored, strict=True):
        padded = pad(images[index].float(), (padding,) * 4, mode="reflect").to(torch.uint8)
        crop = padded[:, y : y + height, x : x + width]
        done.append(crop.flip(-1) if mirror else crop)
    return torch.stack(done)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("height", "width", "padding"),
    [(8, 8, 0), (8, 8, 2), (8, 8, 7), (5, 9, 4), (9, 5, 1), (32, 32, 4)],
)
def test_a_batch_equals_its_images_done_one_by_one(height, width, padding, flip, channels_last):
    images = random_images(height=height, width=width)
    augment = RandomCropFlip(images, padding, flip, channels_last)
    indices = torch.arange(60) % len(images)
    drawn = augment.draw(60, torch.Generator().manual_seed(1))
    batch = augment(indices, *drawn)
    assert batch.dtype == torch.uint8
    assert torch.equal(batch, one_by_one(images, padding, indices, *drawn))


def test_offsets_and_mirrorings_are_uniform_and_independent():
    padding, count = 2, 50_000
    augment = RandomCropFlip(random_images(), padding, flip=True)
    top, left, mirrored = augment.draw(count, torch.Generator().manual_seed(0))
    windows = 2 * padding + 1
    cells = (top * windows + left) * 2 + mirrored
    counts = torch.bincount(cells, minlength=2 * windows**2).double()
    assert len(counts) == 2 * windows**2
    expected = count / len(counts)
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    freedom = len(counts) - 1
    assert chi_squared < freedom + 5 * (2 * freedom) ** 0.5  # five standard deviations above its mean


def test_without_flip_nothing_is_mirrored():
    *_, mirrored = RandomCropFlip(random_images(), 2, flip=False).draw(100, torch.Generator())
    assert not mirrored.any()


def test_without_crop_and_flip_the_images_come_back():
    images = random_images()
    augment = RandomCropFlip(images, padding=0, flip=False)
    order = torch.tensor([3, 0, 5])
    assert torch.equal(augment(order, *augment.draw(3, torch.Generator())), images[order])


def test_every_image_of_a_batch_has_its_own_window():
    images = random_images(count=1).expand(200, -1, -1, -1)
    augment = RandomCropFlip(images, 2, flip=True)
    batch = augment(torch.arange(200), *augment.draw(200, torch.Generator().manual_seed(0)))
    assert len(batch.flatten(1).unique(dim=0)) > 45  # of 5 × 5 × 2
