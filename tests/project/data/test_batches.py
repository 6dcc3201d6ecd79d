"""Batches: every image its turn, the same whatever happens around them, shared out among processes."""

from itertools import chain

import pytest
import torch

from project.build import build_network
from project.data.batches import EvaluationBatches, Normalization, TrainingBatches
from vitals.errors import UserError
from vitals.runs.image_set import ImageSet


def as_bytes():
    """Leaves every pixel as the number it is."""
    return Normalization(torch.zeros(3), torch.full((3,), 1 / 255))


def numbered(count, size=4):
    """An image set whose images tell their own number, with labels from 0 to 6."""
    number = torch.arange(count)
    channels = torch.stack([number // 256, number % 256, number * 0], dim=1)
    images = channels.view(-1, 3, 1, 1).expand(-1, -1, size, size).to(torch.uint8)
    return ImageSet(images.contiguous(), number % 7, list("abcdefg"))


def numbers(images):
    return [round(256 * image[0, 0, 0].item() + image[1, 0, 0].item()) for image in images]


def walk(batches):
    """The numbers of all images, in the order in which the batches give them."""
    return list(chain.from_iterable(numbers(images) for images, _ in batches))


def training(data, batch_size=16, **settings):
    return TrainingBatches(data, batch_size, as_bytes(), **settings)


def epoch_of(batches, epoch):
    batches.set_epoch(epoch)
    return torch.cat([images for images, _ in batches])


def test_an_epoch_gives_each_image_once_in_an_order_of_its_own():
    batches = training(numbered(320))
    epochs = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        epochs.append(walk(batches))
        assert sorted(epochs[-1]) == list(range(320))
    assert len(set(map(tuple, epochs))) == 3
    assert list(range(320)) not in epochs


def test_images_keep_their_labels():
    for images, labels in training(numbered(320), crop_padding=1, flip=True):
        assert [number % 7 for number in numbers(images)] == labels.tolist()


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(320, 64, [64] * 5), (100, 64, [64]), (40, 64, [40]), (64, 64, [64]), (65, 1, [1] * 65)],
)
def test_the_last_smaller_batch_is_left_out_unless_it_is_the_only_one(count, batch_size, sizes):
    batches = training(numbered(count), batch_size)
    assert [len(labels) for _, labels in batches] == sizes
    assert len(batches) == len(sizes)


def noisy(pictures=64):
    """64 images of noise, in which crops and mirrorings show; with `pictures=1` all the same."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (pictures, 3, 8, 8), dtype=torch.uint8, generator=generator)
    return ImageSet(images.expand(64, -1, -1, -1), torch.arange(64) % 4, list("abcd"))


AUGMENTED = {"crop_padding": 2, "flip": True}


def test_the_same_seed_gives_the_same_batches_whoever_else_draws_random_numbers():
    one, other = training(noisy(), seed=3, **AUGMENTED), training(noisy(), seed=3, **AUGMENTED)
    torch.manual_seed(0)
    undisturbed = [images for images, _ in one]
    torch.manual_seed(1)
    for (images, _), expected in zip(other, undisturbed, strict=True):
        assert torch.equal(images, expected)
        torch.rand(5)


def test_batches_draw_nothing_from_the_global_generator():
    before = torch.get_rng_state()
    walk(training(noisy(), **AUGMENTED))
    assert torch.equal(torch.get_rng_state(), before)


def test_another_seed_gives_another_order_and_augmentation():
    plain = [walk(training(numbered(64), seed=seed)) for seed in (0, 1)]
    assert plain[0] != plain[1]
    augmented = [epoch_of(training(noisy(pictures=1), seed=seed, **AUGMENTED), 0) for seed in (0, 1)]
    assert not torch.equal(*augmented)


def test_an_epoch_chosen_at_once_equals_one_that_was_reached():
    walked = training(noisy(), **AUGMENTED)
    reached = [epoch_of(walked, epoch) for epoch in range(4)][3]
    assert torch.equal(epoch_of(training(noisy(), **AUGMENTED), 3), reached)


def test_each_epoch_augments_anew():
    batches = training(noisy(pictures=1), **AUGMENTED)
    assert not torch.equal(epoch_of(batches, 0), epoch_of(batches, 1))


def test_alternating_flips_show_both_sides_of_every_image_in_two_epochs():
    sides = torch.arange(2).repeat(2)  # 0 1 0 1 along a row; mirrored 1 0 1 0
    images = torch.stack([torch.full((64, 4, 4), 0), sides.expand(64, 4, 4), sides.expand(64, 4, 4)], dim=1)
    images[:, 0] = torch.arange(64).view(-1, 1, 1)
    data = ImageSet(images.to(torch.uint8), torch.arange(64) % 7, list("abcdefg"))
    batches = training(data, flip="alternating", seed=3)
    mirrored = []
    for epoch in range(3):
        seen = epoch_of(batches, epoch)
        order = seen[:, 0, 0, 0].round().long().argsort()
        mirrored.append(seen[order][:, 1, 0, 0].round().bool())
    assert 16 < mirrored[0].sum() < 48
    assert torch.equal(mirrored[1], ~mirrored[0])
    assert torch.equal(mirrored[2], mirrored[0])


def test_each_size_has_an_equal_share_of_the_run():
    batches = training(numbered(64, 8), sizes=[4, 6, 8, 8], share_done=lambda epochs: epochs / 2)
    assert len(batches) == 4
    sizes = []
    for epoch in range(2):
        batches.set_epoch(epoch)
        sizes += [tuple(images.shape[-2:]) for images, _ in batches]
    assert sizes == [(4, 4)] * 2 + [(6, 6)] * 2 + [(8, 8)] * 4
    batches.set_epoch(0)
    small, labels = next(iter(batches))
    large, same = next(iter(training(numbered(64, 8))))
    assert torch.equal(labels, same)
    torch.testing.assert_close(small, large[..., ::2, ::2], atol=0.01, rtol=0)  # of one colour


def test_a_network_that_needs_the_full_size_is_told_before_it_trains(compose):
    with pytest.raises(UserError, match=r"ThreeLayer .* 24×24 pixels .*: set data.sizes="):
        build_network(compose("network=three_layer", "data.sizes=[24,32]"), 10, (3, 32, 32))


@pytest.mark.parametrize("channels_last", [False, True])
def test_batches_are_normalised_floats_in_the_memory_format_asked_for(channels_last):
    data = noisy()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    mean, std = data.channel_statistics()
    training_batches = TrainingBatches(data, 64, Normalization(mean, std, channels_last), crop_padding=2)
    evaluation_batches = EvaluationBatches(data, 64, Normalization(mean, std, channels_last))
    for images, _ in [*training_batches, *evaluation_batches]:
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=layout)
    expected = (data.images.float() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    torch.testing.assert_close(images, expected, rtol=1e-5, atol=1e-5)


def test_a_constant_channel_is_only_centred():
    normalize = Normalization(torch.tensor([0.5, 0, 1]), torch.tensor([0.5, 1, 0]))
    white = normalize(torch.full((1, 3, 2, 2), 255, dtype=torch.uint8))
    assert white[0, 2].unique().tolist() == [0]


def test_one_normalization_serves_images_of_several_sizes():
    mean, std = torch.tensor([0.2, 0.4, 0.6]), torch.tensor([0.1, 0.2, 0.3])
    normalize = Normalization(mean, std)
    for size in (4, 8, 4):
        images = numbered(3, size).images
        expected = (images / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        torch.testing.assert_close(normalize(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("count", "world_size"), [(320, 2), (321, 2), (323, 3), (65, 4)])
def test_processes_train_on_disjoint_shares_of_the_same_number_of_batches(count, world_size):
    data = numbered(count)
    ranks = [training(data, 8, rank=rank, world_size=world_size) for rank in range(world_size)]
    shares = [walk(batches) for batches in ranks]
    assert len({len(batches) for batches in ranks}) == 1
    assert {len(share) for share in shares} == {count // world_size // 8 * 8}
    assert len(set(chain.from_iterable(shares))) == sum(map(len, shares))


def test_processes_get_other_shares_every_epoch_and_augment_apart():
    data = numbered(64)
    first, second = (training(data, rank=rank, world_size=2) for rank in range(2))
    assert set(numbers(epoch_of(first, 0))) != set(numbers(epoch_of(first, 1)))
    assert set(numbers(epoch_of(first, 1))) | set(numbers(epoch_of(second, 1))) == set(range(64))
    parts = [
        epoch_of(training(noisy(pictures=1), rank=rank, world_size=2, **AUGMENTED), 0) for rank in range(2)
    ]
    assert not torch.equal(*parts)


@pytest.mark.parametrize("batch_size", [1, 3, 8, 500])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 25, 65])
def test_evaluation_sees_each_image_once_in_as_many_batches_on_every_process(count, world_size, batch_size):
    data = numbered(count)
    ranks = [
        list(EvaluationBatches(data, batch_size, as_bytes(), rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert sorted(chain.from_iterable(map(walk, ranks))) == list(range(count))
    assert len({len(batches) for batches in ranks}) == 1
    for images, labels in chain.from_iterable(ranks):
        assert len(images) <= batch_size
        assert [number % 7 for number in numbers(images)] == labels.tolist()


@pytest.mark.parametrize(("count", "world_size"), [(1001, 2), (1000, 2), (1003, 3), (501, 1)])
def test_no_process_evaluates_an_empty_batch(count, world_size):
    """The mean over no images is no number."""
    for rank in range(world_size):
        batches = EvaluationBatches(numbered(count, 1), 500, as_bytes(), rank=rank, world_size=world_size)
        assert len(batches) == len(list(batches))
        assert all(len(labels) for _, labels in batches)
