"""Splits and statistics of an image set."""

import pytest
import torch

from vitals.runs.image_set import ImageSet


def numbered(labels):
    """An image set in which the only pixel of an image is its number."""
    labels = torch.as_tensor(labels)
    images = torch.arange(len(labels)).view(-1, 1, 1, 1)
    return ImageSet(images, labels, [str(label) for label in range(int(labels.max()) + 1)])


def numbers(part):
    return part.images.flatten().tolist()


@pytest.fixture(scope="module")
def cifar_sized():
    return numbered(torch.arange(50_000) % 10)


def test_50000_images_are_split_into_45000_and_5000_with_the_same_share_of_every_class(cifar_sized):
    rest, part = cifar_sized.split(0.1, seed=0)
    assert rest.labels.bincount().tolist() == [4500] * 10
    assert part.labels.bincount().tolist() == [500] * 10
    assert sorted(numbers(rest) + numbers(part)) == list(range(50_000))


def test_images_keep_their_labels_and_their_order():
    rest, part = (data := numbered([0, 1, 2] * 20)).split(0.2, seed=0)
    for side in (rest, part):
        assert side.labels.tolist() == data.labels[numbers(side)].tolist()
        assert numbers(side) == sorted(numbers(side))
        assert side.classes == data.classes


def test_uneven_classes_keep_their_shares():
    rest, part = numbered([0] * 600 + [1] * 300 + [2] * 100).split(0.1, seed=3)
    assert part.labels.bincount().tolist() == [60, 30, 10]
    assert rest.labels.bincount().tolist() == [540, 270, 90]


def test_a_split_depends_on_its_seed_alone():
    data = numbered([0, 1] * 50)
    torch.manual_seed(0)
    first = numbers(data.split(0.2, seed=5)[1])
    torch.manual_seed(1)
    assert numbers(data.split(0.2, seed=5)[1]) == first
    assert numbers(data.split(0.2, seed=6)[1]) != first


def test_channel_statistics_are_those_of_all_pixels():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (50, 3, 8, 8), dtype=torch.uint8, generator=generator)
    images[:, 1] //= 3
    images[:, 2] = 255
    mean, std = ImageSet(images, torch.zeros(50, dtype=torch.int64), ["a"]).channel_statistics()
    pixels = images.double().div(255).transpose(0, 1).flatten(1)
    torch.testing.assert_close(mean.double(), pixels.mean(1), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(std.double(), pixels.std(1, correction=0), rtol=1e-7, atol=1e-7)
