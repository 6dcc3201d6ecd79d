"""The data module: split, limited, normalised by the training part alone, batched as configured."""

import numpy as np
import pytest
import torch
from PIL import Image

from project.data.data_module import ImageData
from vitals.errors import UserError


def read(name="digits", **settings):
    data = ImageData(name, **settings)
    data.setup()
    return data


SPLIT = {"image_size": 8, "test_fraction": 0.2, "validation_fraction": 0.15}


@pytest.fixture(scope="module")
def digits():
    return read(**SPLIT)


def test_digits_are_split_into_three_parts_with_the_same_share_of_every_class(digits):
    parts = [digits.train, digits.validation, digits.test]
    assert sum(map(len, parts)) == 1797
    assert [len(part) / 1797 for part in parts] == pytest.approx([0.68, 0.12, 0.2], abs=2e-3)
    everything = sum(part.labels.bincount() for part in parts)
    for part in parts:
        # Each class gets its share, rounded up or down in either split.
        assert (part.labels.bincount() - everything * len(part) / 1797).abs().max() < 2


def test_the_split_depends_on_split_seed_and_not_on_the_seed_of_the_run():
    first, same, other = (
        read(image_size=8, seed=seed, split_seed=split_seed) for seed, split_seed in [(0, 1), (5, 1), (0, 2)]
    )
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(first, part).images, getattr(same, part).images)
        assert not torch.equal(getattr(first, part).images, getattr(other, part).images)


def test_the_run_seed_changes_the_batches():
    one, same, other = (next(iter(read(image_size=8, seed=seed).train_dataloader()))[0] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.fixture
def tree_of_greys(tmp_path):
    """Image number i is all of grey i, so that the part which it has come to can be told; test: grey 250."""
    for number in range(60):
        file = tmp_path / "train" / f"class {number % 3}" / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number,) * 3).save(file)
    for label in range(3):
        folder = tmp_path / "test" / f"class {label}"
        folder.mkdir(parents=True)
        Image.new("RGB", (8, 8), (250,) * 3).save(folder / "0.png")
    return tmp_path


def repaint(tree, numbers):
    for number in numbers:
        Image.new("RGB", (8, 8), (255, 0, 255)).save(tree / "train" / f"class {number % 3}" / f"{number}.png")


def greys(part):
    return part.images[:, 0, 0, 0].tolist()


def test_normalisation_comes_from_the_training_part_alone(tree_of_greys):
    before = read("image_folder", root=str(tree_of_greys))
    expected = torch.tensor(greys(before.train)).double().div(255)
    torch.testing.assert_close(before.mean.double(), expected.mean().expand(3), rtol=1e-6, atol=0)
    torch.testing.assert_close(before.std.double(), expected.std(correction=0).expand(3), rtol=1e-6, atol=0)

    repaint(tree_of_greys, greys(before.validation))
    for file in (tree_of_greys / "test").rglob("*.png"):
        Image.new("RGB", (8, 8), (0, 99, 0)).save(file)
    after = read("image_folder", root=str(tree_of_greys))
    assert not torch.equal(after.validation.images, before.validation.images)
    assert torch.equal(after.mean, before.mean)
    assert torch.equal(after.std, before.std)

    repaint(tree_of_greys, greys(before.train)[:1])
    assert not torch.equal(read("image_folder", root=str(tree_of_greys)).mean, before.mean)


def test_every_image_of_the_training_folder_is_in_one_part(tree_of_greys):
    data = read("image_folder", root=str(tree_of_greys))
    assert sorted(greys(data.train) + greys(data.validation)) == list(range(60))
    assert greys(data.test) == [250] * 3


def test_training_batches_have_mean_0_and_deviation_1(digits):
    [(images, labels)] = read(**SPLIT, batch_size=None, crop_padding=0).train_dataloader()
    assert len(labels) == len(digits.train)  # batch_size=None: all of them
    torch.testing.assert_close(images.mean((0, 2, 3)), torch.zeros(3), rtol=0, atol=1e-4)
    torch.testing.assert_close(images.std((0, 2, 3)), torch.ones(3), rtol=0, atol=1e-3)


@pytest.mark.parametrize("part", ["val", "test"])
def test_evaluation_images_are_not_augmented(part):
    data = read(image_size=8, crop_padding=3, flip=True)
    images = torch.cat([images for images, _ in getattr(data, f"{part}_dataloader")()])
    plain = (data.validation if part == "val" else data.test).images.float() / 255
    expected = (plain - data.mean.view(3, 1, 1)) / data.std.view(3, 1, 1)
    torch.testing.assert_close(images, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("limit", [10, 50, 85, 1000, 1215])
def test_a_limit_takes_exactly_so_many_training_images_and_keeps_the_shares_of_the_classes(digits, limit):
    limited = read(**SPLIT, limit=limit)
    assert len(limited.train) == limit
    shares = digits.train.labels.bincount() / len(digits.train)
    assert (limited.train.labels.bincount() - shares * limit).abs().max() < 1
    assert torch.equal(limited.validation.images, digits.validation.images)
    assert torch.equal(limited.test.images, digits.test.images)


def test_a_limit_above_the_training_images_takes_all_of_them(digits):
    assert torch.equal(read(**SPLIT, limit=5000).train.images, digits.train.images)


def test_classes_too_small_to_be_split_are_answered_by_a_sentence(tmp_path, write_tree):
    write_tree(tmp_path, train=1)
    with pytest.raises(UserError, match="data=image_folder cannot be split"):
        read("image_folder", root=str(tmp_path))


def test_padding_as_large_as_images_whose_size_was_found_is_refused(tmp_path, write_tree):
    write_tree(tmp_path, size=8)
    with pytest.raises(UserError, match=r"data\.crop_padding=8 must be below the images' 8 pixels"):
        read("image_folder", root=str(tmp_path), crop_padding=8, validation_fraction=0.5)


def test_the_state_is_plain_and_accepts_the_same_images_only(digits, tmp_path, write_tree):
    state = digits.state_dict()
    assert state["classes"] == [str(digit) for digit in range(10)]
    np.testing.assert_allclose(state["mean"], digits.mean)
    assert all(type(number) is float for number in state["mean"] + state["std"])
    digits.load_state_dict(state)
    write_tree(tmp_path)
    others = read("image_folder", root=str(tmp_path), validation_fraction=0.5)
    with pytest.raises(UserError, match="not those of the checkpoint"):
        others.load_state_dict(state)
